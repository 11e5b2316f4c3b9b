-- JSON documents, named by the SHA-256 of their canonical text. `position` is the order in which they came; times are Unix
-- times in ms.
CREATE TABLE artifacts (
    position BIGINT NOT NULL UNIQUE,
    tenant TEXT NOT NULL,
    id TEXT NOT NULL,
    document TEXT NOT NULL,
    created_at_ms BIGINT NOT NULL,
    updated_at_ms BIGINT NOT NULL,
    PRIMARY KEY (tenant, id)
);

CREATE TABLE artifact_tags (
    tenant TEXT NOT NULL,
    id TEXT NOT NULL,
    tag TEXT NOT NULL,
    PRIMARY KEY (tenant, id, tag)
);

-- What an artifact was made from: always older ones, so that there is no circle.
CREATE TABLE artifact_parents (
    tenant TEXT NOT NULL,
    id TEXT NOT NULL,
    parent TEXT NOT NULL,
    PRIMARY KEY (tenant, id, parent)
);

CREATE INDEX artifact_children ON artifact_parents (tenant, parent);
