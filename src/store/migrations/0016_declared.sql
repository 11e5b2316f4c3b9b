-- Tenants and keys of the configuration, as they were recorded last: what an earlier process had is otherwise unknown.
CREATE TABLE declared (
    -- tenant or key.
    kind TEXT NOT NULL,
    id TEXT NOT NULL,
    -- A JSON object.
    facts TEXT NOT NULL,
    PRIMARY KEY (kind, id)
);
