-- One row for each task that has ended: whose it was, what it has used, how it ended. Times are Unix times in ms, money is in
-- micro-units.
CREATE TABLE ledger (
    -- Counts the rows.
    number BIGINT NOT NULL PRIMARY KEY,
    task_id TEXT NOT NULL,
    tenant TEXT NOT NULL,
    -- Empty where there were no keys.
    api_key TEXT NOT NULL,
    model TEXT NOT NULL,
    pool TEXT NOT NULL,
    tokens_in BIGINT NOT NULL,
    -- Of those, from the engine's cache.
    tokens_cached BIGINT NOT NULL,
    tokens_out BIGINT NOT NULL,
    queue_ms BIGINT NOT NULL,
    engine_ms BIGINT NOT NULL,
    cost BIGINT NOT NULL,
    outcome TEXT NOT NULL,
    ended_ms BIGINT NOT NULL
);

CREATE INDEX ledger_ended ON ledger (ended_ms);
