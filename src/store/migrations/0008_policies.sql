-- What tenants and keys may ask for, as JSON: priorities, models, pools, limits. An empty object: everything.
ALTER TABLE tenants ADD COLUMN policy TEXT NOT NULL DEFAULT '{}';

ALTER TABLE api_keys ADD COLUMN policy TEXT NOT NULL DEFAULT '{}';
