-- Tasks that were answered with 202. `position` is the order in which they were admitted; times are Unix times in ms.
CREATE TABLE tasks (
    position BIGINT NOT NULL PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    -- What is known of the task beside its prompt and its output, as JSON.
    facts TEXT NOT NULL,
    -- What is needed to run it, as JSON; gone once it has ended.
    request TEXT,
    -- When an engine got it and what its `started` event said, as JSON.
    started TEXT,
    ended_at_ms BIGINT,
    -- The last event and the output, as JSON; there once it has ended.
    outcome TEXT
);

CREATE INDEX tasks_ended ON tasks (ended_at_ms);

-- What a request that is sent again with the same key gets.
CREATE TABLE idempotency_keys (
    tenant TEXT NOT NULL,
    name TEXT NOT NULL,
    fingerprint TEXT NOT NULL,
    task_id TEXT NOT NULL,
    -- The answer, as JSON; there once it was given.
    answer TEXT,
    created_at_ms BIGINT NOT NULL,
    PRIMARY KEY (tenant, name)
);

CREATE INDEX idempotency_keys_task ON idempotency_keys (task_id);
CREATE INDEX idempotency_keys_created ON idempotency_keys (created_at_ms);
