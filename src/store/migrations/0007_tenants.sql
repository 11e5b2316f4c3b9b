-- Tenants and their API keys. Times are Unix times in ms. What was deleted keeps its row, so that every gateway on this store hears
-- of it.
CREATE TABLE tenants (
    id TEXT NOT NULL PRIMARY KEY,
    name TEXT,
    weight BIGINT NOT NULL,
    suspended BIGINT NOT NULL,
    created_ms BIGINT NOT NULL,
    deleted BIGINT NOT NULL,
    -- The number of the last change of this row.
    version BIGINT NOT NULL
);

CREATE INDEX tenants_version ON tenants (version);

CREATE TABLE api_keys (
    id TEXT NOT NULL PRIMARY KEY,
    tenant_id TEXT NOT NULL,
    name TEXT,
    -- SHA-256 of the key, in hexadecimal digits. The key itself is nowhere.
    digest TEXT NOT NULL,
    -- Their names, with a space between.
    scopes TEXT NOT NULL,
    expires_ms BIGINT,
    created_ms BIGINT NOT NULL,
    last_used_ms BIGINT,
    deleted BIGINT NOT NULL,
    version BIGINT NOT NULL
);

CREATE INDEX api_keys_version ON api_keys (version);

-- Changes are numbered over both tables.
CREATE TABLE tenant_changes (
    number BIGINT NOT NULL
);

INSERT INTO tenant_changes (number) VALUES (0);
