-- Models that were added while the gateway ran, and what is kept of all models. `position` is the order in which they came;
-- times are Unix times in ms.
CREATE TABLE catalog_models (
    id TEXT NOT NULL PRIMARY KEY,
    position BIGINT NOT NULL,
    -- Source, aliases and digest, as JSON; NULL for a model of the configuration.
    entry TEXT,
    state TEXT NOT NULL,
    -- What the last verification found that makes the model unfit to be served, in words.
    distrust TEXT,
    created_at_ms BIGINT NOT NULL,
    updated_at_ms BIGINT NOT NULL
);
