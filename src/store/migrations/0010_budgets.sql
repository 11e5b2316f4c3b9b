-- What tasks have reserved that have not ended, also those of no session.
CREATE TABLE holds (
    task_id TEXT NOT NULL PRIMARY KEY,
    -- The number of its session, where it has one.
    session BIGINT,
    -- JSON.
    held TEXT NOT NULL,
    -- A Unix time in ms; of a task that ends with the process, once an engine had it.
    started_at_ms BIGINT
);

INSERT INTO holds (task_id, session, held, started_at_ms)
SELECT task_id, session, held, started_at_ms FROM session_holds;

DROP TABLE session_holds;

CREATE INDEX holds_session ON holds (session);

-- Sums of the ledger: what the tasks of a tenant and a key have used that ended in a quarter of an hour. They outlive its rows.
CREATE TABLE ledger_sums (
    tenant TEXT NOT NULL,
    -- Empty where there were no keys.
    api_key TEXT NOT NULL,
    -- Quarters of an hour since 1970, in which days begin in every time zone; 0 for all that are long over.
    quarter BIGINT NOT NULL,
    tokens BIGINT NOT NULL,
    engine_ms BIGINT NOT NULL,
    cost BIGINT NOT NULL,
    PRIMARY KEY (tenant, api_key, quarter)
);

-- The last row of the ledger that is in the sums. One row.
CREATE TABLE ledger_summed (
    number BIGINT NOT NULL
);

INSERT INTO ledger_summed (number) VALUES (0);
