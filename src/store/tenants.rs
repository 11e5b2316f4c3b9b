//! Tenants and their API keys. Changes are numbered, so that whoever knows what there was hears of what is new alone, also where
//! another process has changed it.

use std::sync::Arc;

use futures_util::future::BoxFuture;

use super::sql::{self, Connection, from_row};
use super::{Scrub, Store, StoreError, audit};
use crate::audit::Act;

/// Whose every request is while there are no keys, and whose the first key is.
pub const DEFAULT_TENANT: &str = "default";

/// A tenant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TenantRow {
    pub id: String,
    pub name: Option<String>,
    pub weight: i64,
    pub suspended: bool,
    pub created_ms: i64,
    pub deleted: bool,
    pub version: i64,
    /// What it may ask for, as JSON.
    pub policy: String,
}

from_row!(TenantRow { id, name, weight, suspended, created_ms, deleted, version, policy });

/// An API key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiKeyRow {
    pub id: String,
    pub tenant_id: String,
    pub name: Option<String>,
    pub digest: String,
    pub scopes: String,
    pub expires_ms: Option<i64>,
    pub created_ms: i64,
    pub last_used_ms: Option<i64>,
    pub deleted: bool,
    pub version: i64,
    /// What who has it may ask for, as JSON.
    pub policy: String,
}

from_row!(ApiKeyRow {
    id,
    tenant_id,
    name,
    digest,
    scopes,
    expires_ms,
    created_ms,
    last_used_ms,
    deleted,
    version,
    policy
});

/// A change, of which the store makes the number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TenantChange {
    Tenant(TenantRow),
    Key(ApiKeyRow, Home),
    /// The old key as it is to be, and the one in its place: both, or nothing.
    Rotation(Box<(ApiKeyRow, ApiKeyRow)>, Home),
}

/// Where the tenant of a key is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Home {
    /// Here; where it is not, there is no such key.
    Stored,
    /// In the configuration.
    Declared,
}

/// What a change came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Changed {
    /// Under this number.
    As(i64),
    /// What is to be changed is not, or is no longer, as it was thought to be.
    Meanwhile,
}

impl Store {
    /// Makes a change where what is there has the version that `change` has; 0 where nothing is there, or what was deleted.
    /// What is returned is ready once it is durable.
    pub fn change_tenants(&self, change: TenantChange) -> BoxFuture<'static, Result<Changed, StoreError>> {
        let act = self.act.clone();
        self.run(move |connection| Box::pin(put(connection, change.clone(), act.clone())))
    }

    /// Files when keys were used last.
    pub fn keys_used(&self, used: Vec<(String, i64)>) {
        self.enqueue(Scrub::No, move |connection| Box::pin(touch(connection, used.clone())), |_| ());
    }

    /// What has changed since change number `since`.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    pub async fn tenants_since(&self, since: i64) -> Result<(Vec<TenantRow>, Vec<ApiKeyRow>), StoreError> {
        self.look(move |connection| Box::pin(changed_since(connection, since))).await
    }
}

async fn changed_since(connection: &mut Connection, since: i64) -> sql::Result<(Vec<TenantRow>, Vec<ApiKeyRow>)> {
    let last: i64 = sql::query("SELECT number FROM tenant_changes").fetch_one(&mut *connection).await?;
    if last == since {
        return Ok((Vec::new(), Vec::new()));
    }
    let tenants = "SELECT id, name, weight, suspended <> 0 AS suspended, created_ms, deleted <> 0 AS deleted, version, \
                   policy FROM tenants WHERE version > $1 ORDER BY version";
    let keys = "SELECT id, tenant_id, name, digest, scopes, expires_ms, created_ms, last_used_ms, \
                deleted <> 0 AS deleted, version, policy FROM api_keys WHERE version > $1 ORDER BY version";
    let tenants = sql::query(tenants).bind(since).fetch_all(&mut *connection).await?;
    Ok((tenants, sql::query(keys).bind(since).fetch_all(connection).await?))
}

async fn put(connection: &mut Connection, change: TenantChange, act: Option<Arc<Act>>) -> sql::Result<Changed> {
    let mut all_or_none = connection.begin().await?;
    let next = "UPDATE tenant_changes SET number = number + 1 RETURNING number";
    let number: i64 = sql::query(next).fetch_one(&mut all_or_none).await?;
    let rows = match change {
        TenantChange::Tenant(row) => {
            if row.deleted {
                delete_keys_of(&mut all_or_none, &row.id, number).await?;
            }
            put_tenant(&mut all_or_none, row, number).await?
        }
        TenantChange::Key(row, home) => put_key(&mut all_or_none, row, home, number).await?,
        TenantChange::Rotation(keys, home) => {
            let (old, new) = *keys;
            let changed = put_key(&mut all_or_none, old, home, number).await?;
            if changed == 0 { 0 } else { put_key(&mut all_or_none, new, home, number).await? }
        }
    };
    if rows == 0 {
        all_or_none.rollback().await?;
        return Ok(Changed::Meanwhile);
    }
    if let Some(act) = act {
        audit::insert(&mut all_or_none, act.entry()).await?;
    }
    all_or_none.commit().await?;
    Ok(Changed::As(number))
}

async fn put_tenant(connection: &mut Connection, row: TenantRow, number: i64) -> sql::Result<u64> {
    let upsert = "INSERT INTO tenants (id, name, weight, suspended, created_ms, deleted, version, policy) \
                  SELECT $1, $2, $3, $4, $5, $6, $7, $10 WHERE $8 = 0 OR EXISTS (SELECT 1 FROM tenants WHERE id = $1) \
                  ON CONFLICT (id) DO UPDATE SET name = excluded.name, weight = excluded.weight, \
                  suspended = excluded.suspended, created_ms = excluded.created_ms, deleted = excluded.deleted, \
                  version = excluded.version, policy = excluded.policy \
                  WHERE tenants.version = $8 OR ($8 = 0 AND tenants.deleted <> 0 AND tenants.id = $9)";
    let query = sql::query(upsert).bind(row.id).bind(row.name).bind(row.weight).bind(i64::from(row.suspended));
    let query = query.bind(row.created_ms).bind(i64::from(row.deleted)).bind(number).bind(row.version);
    // What belonged to a deleted tenant is filed by its id, so that nobody else ever gets that.
    query.bind(DEFAULT_TENANT).bind(row.policy).execute(connection).await
}

async fn delete_keys_of(connection: &mut Connection, tenant: &str, number: i64) -> sql::Result<()> {
    let update = "UPDATE api_keys SET deleted = 1, version = $2 WHERE tenant_id = $1 AND deleted = 0";
    sql::query(update).bind(tenant).bind(number).execute(connection).await.map(|_| ())
}

async fn put_key(connection: &mut Connection, row: ApiKeyRow, home: Home, number: i64) -> sql::Result<u64> {
    let upsert = "INSERT INTO api_keys (id, tenant_id, name, digest, scopes, expires_ms, created_ms, deleted, version, \
                  policy) SELECT $1, $2, $3, $4, $5, $6, $7, $8, $9, $11 \
                  WHERE EXISTS (SELECT 1 FROM api_keys WHERE id = $1) \
                  OR ($10 = 0 AND ($12 <> 0 OR EXISTS (SELECT 1 FROM tenants WHERE id = $2 AND deleted = 0))) \
                  ON CONFLICT (id) DO UPDATE SET name = excluded.name, scopes = excluded.scopes, \
                  expires_ms = excluded.expires_ms, deleted = excluded.deleted, version = excluded.version, \
                  policy = excluded.policy WHERE api_keys.version = $10";
    let query = sql::query(upsert).bind(row.id).bind(row.tenant_id).bind(row.name).bind(row.digest);
    let query = query.bind(row.scopes).bind(row.expires_ms).bind(row.created_ms).bind(i64::from(row.deleted));
    let query = query.bind(number).bind(row.version).bind(row.policy);
    query.bind(i64::from(home == Home::Declared)).execute(connection).await
}

async fn touch(connection: &mut Connection, used: Vec<(String, i64)>) -> sql::Result<()> {
    let mut all_or_none = connection.begin().await?;
    for (id, at_ms) in used {
        let update =
            "UPDATE api_keys SET last_used_ms = $2 WHERE id = $1 AND (last_used_ms IS NULL OR last_used_ms < $2)";
        sql::query(update).bind(id).bind(at_ms).execute(&mut all_or_none).await?;
    }
    all_or_none.commit().await
}
