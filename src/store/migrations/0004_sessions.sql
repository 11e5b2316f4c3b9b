-- Sessions, with what their tasks may use and have used. `number` tells a session from one of the same id that came before it;
-- times are Unix times in ms.
CREATE TABLE sessions (
    number BIGINT NOT NULL PRIMARY KEY,
    tenant TEXT NOT NULL,
    id TEXT NOT NULL,
    ttl_ms BIGINT NOT NULL,
    expires_at_ms BIGINT NOT NULL,
    turns BIGINT NOT NULL,
    -- NULL: without limit.
    limit_tokens BIGINT,
    limit_time_ms BIGINT,
    limit_cost BIGINT,
    spent_tokens BIGINT NOT NULL,
    spent_time_ms BIGINT NOT NULL,
    spent_cost BIGINT NOT NULL
);

-- What a task that has not ended has reserved of its session's budgets. It goes in the transaction that adds to what is spent.
CREATE TABLE session_holds (
    task_id TEXT NOT NULL PRIMARY KEY,
    session BIGINT NOT NULL,
    -- The amounts and the terms, as JSON.
    held TEXT NOT NULL,
    -- Of a task that ends with the process; there once an engine had it.
    started_at_ms BIGINT
);

CREATE INDEX session_holds_session ON session_holds (session);
