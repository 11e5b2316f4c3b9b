-- What operators did to pools while the gateway ran. Times are Unix times in ms.
CREATE TABLE pools (
    id TEXT NOT NULL PRIMARY KEY,
    -- The model that the configuration had for it when it was reloaded, and the one that it was reloaded with; NULL where it
    -- has that of the configuration.
    configured TEXT,
    model TEXT,
    -- The deadline of its drain; NULL where it does not drain.
    draining_until_ms BIGINT
);
