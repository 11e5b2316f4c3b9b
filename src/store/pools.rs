//! What operators did to pools.

use futures_util::future::BoxFuture;

use super::sql::{self, Connection, from_row};
use super::{Store, StoreError};

/// What is kept of a pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolRow {
    pub id: String,
    /// The model of the configuration, where the pool was reloaded with another.
    pub configured: Option<String>,
    pub model: Option<String>,
    /// Where it drains.
    pub draining_until_ms: Option<i64>,
}

from_row!(PoolRow { id, configured, model, draining_until_ms });

impl Store {
    /// Files which model a pool was reloaded with, in the place of which other; or that it has that of the configuration.
    /// What is handed over later wins; what is returned is ready once it is durable.
    pub fn put_pool_model(
        &self,
        id: String,
        configured: String,
        model: Option<String>,
    ) -> BoxFuture<'static, Result<(), StoreError>> {
        self.change(move |connection| Box::pin(put_model(connection, id.clone(), configured.clone(), model.clone())))
    }

    /// Files until when a pool drains, or that it does not. As [`put_pool_model`](Self::put_pool_model).
    pub fn put_pool_drain(&self, id: String, until_ms: Option<i64>) -> BoxFuture<'static, Result<(), StoreError>> {
        self.change(move |connection| Box::pin(put_drain(connection, id.clone(), until_ms)))
    }

    /// Forgets a pool. As [`put_pool_model`](Self::put_pool_model).
    pub fn forget_pool(&self, id: String) -> BoxFuture<'static, Result<(), StoreError>> {
        self.run(move |connection| Box::pin(forget(connection, id.clone())))
    }

    /// All pools that something was done to.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    pub async fn pools(&self) -> Result<Vec<PoolRow>, StoreError> {
        let all = "SELECT id, configured, model, draining_until_ms FROM pools";
        let mut pools: Vec<PoolRow> =
            self.run(move |connection| Box::pin(sql::query(all).fetch_all(connection))).await?;
        pools.sort_by(|one, other| one.id.cmp(&other.id));
        Ok(pools)
    }
}

async fn put_model(
    connection: &mut Connection,
    id: String,
    configured: String,
    model: Option<String>,
) -> sql::Result<()> {
    let upsert = "INSERT INTO pools (id, configured, model) VALUES ($1, $2, $3) \
                  ON CONFLICT (id) DO UPDATE SET configured = excluded.configured, model = excluded.model";
    sql::query(upsert).bind(id).bind(configured).bind(model).execute(connection).await.map(|_| ())
}

async fn put_drain(connection: &mut Connection, id: String, until_ms: Option<i64>) -> sql::Result<()> {
    let upsert = "INSERT INTO pools (id, draining_until_ms) VALUES ($1, $2) \
                  ON CONFLICT (id) DO UPDATE SET draining_until_ms = excluded.draining_until_ms";
    sql::query(upsert).bind(id).bind(until_ms).execute(connection).await.map(|_| ())
}

async fn forget(connection: &mut Connection, id: String) -> sql::Result<()> {
    sql::query("DELETE FROM pools WHERE id = $1").bind(id).execute(connection).await.map(|_| ())
}
