-- Prices of models that were set while the gateway ran, in the place of those of the configuration. Times are Unix times in ms.
CREATE TABLE prices (
    model TEXT NOT NULL PRIMARY KEY,
    -- JSON; NULL where that of the configuration counts again.
    price TEXT,
    -- Counts the changes of this row.
    version BIGINT NOT NULL,
    changed_ms BIGINT NOT NULL
);
