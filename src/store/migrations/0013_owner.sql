-- Of a server that several gateways can reach: who has had the schema. One row.
CREATE TABLE owner (
    one BIGINT NOT NULL PRIMARY KEY,
    -- Made up by the first one that had it; empty until then.
    name TEXT NOT NULL,
    -- Counts those that have had it.
    number BIGINT NOT NULL,
    -- Counts the transactions of all of them, so that one can be told whether it was committed.
    last_batch BIGINT NOT NULL
);

INSERT INTO owner (one, name, number, last_batch) VALUES (1, '', 0, 0);
