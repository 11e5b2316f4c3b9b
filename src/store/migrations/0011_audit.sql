-- What administrators did: one row for each action, written with what it has changed. Times are Unix times in ms.
CREATE TABLE audit (
    -- A UUID of version 7, so that ids are in the order of time.
    id TEXT NOT NULL PRIMARY KEY,
    at_ms BIGINT NOT NULL,
    -- Who: `key`, or without one where from.
    actor TEXT NOT NULL,
    -- The id of the key and its tenant; empty without one.
    api_key TEXT NOT NULL,
    tenant TEXT NOT NULL,
    action TEXT NOT NULL,
    -- To what.
    kind TEXT NOT NULL,
    target TEXT NOT NULL,
    -- How it was answered, as a status of HTTP.
    status BIGINT NOT NULL,
    -- The address that it came from, where it came through a socket; else empty.
    client TEXT NOT NULL,
    correlation TEXT NOT NULL,
    -- What has changed, as a JSON object.
    changes TEXT NOT NULL
);

CREATE INDEX audit_at ON audit (at_ms);
