-- Servers that have registered with a pool. Those that have brought a key are not here: keys are kept in memory only.
CREATE TABLE workers (
    id TEXT NOT NULL PRIMARY KEY,
    pool TEXT NOT NULL,
    base_url TEXT NOT NULL,
    -- NULL: as on the first server of the pool.
    model TEXT,
    slots BIGINT,
    -- How long a registration holds.
    ttl_ms BIGINT NOT NULL
);
