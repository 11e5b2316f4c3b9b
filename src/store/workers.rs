//! Servers that have registered with a pool.

use futures_util::future::BoxFuture;

use super::sql::{self, Connection, from_row};
use super::{Store, StoreError};

/// A server elsewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkerRow {
    pub id: String,
    pub pool: String,
    pub base_url: String,
    pub model: Option<String>,
    pub slots: Option<i64>,
    pub ttl_ms: i64,
}

from_row!(WorkerRow { id, pool, base_url, model, slots, ttl_ms });

impl Store {
    /// Files a server as it has registered. What is handed over later wins; what is returned is ready once it is durable.
    pub fn put_worker(&self, row: WorkerRow) -> BoxFuture<'static, Result<(), StoreError>> {
        self.change(move |connection| Box::pin(put(connection, row.clone())))
    }

    /// Forgets a server. As [`put_worker`](Self::put_worker).
    pub fn forget_worker(&self, id: String) -> BoxFuture<'static, Result<(), StoreError>> {
        self.run(move |connection| Box::pin(forget(connection, id.clone())))
    }

    /// All servers.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    pub async fn workers(&self) -> Result<Vec<WorkerRow>, StoreError> {
        let all = "SELECT id, pool, base_url, model, slots, ttl_ms FROM workers";
        let mut workers: Vec<WorkerRow> =
            self.run(move |connection| Box::pin(sql::query(all).fetch_all(connection))).await?;
        workers.sort_by(|one, other| one.id.cmp(&other.id));
        Ok(workers)
    }
}

async fn put(connection: &mut Connection, row: WorkerRow) -> sql::Result<()> {
    let upsert = "INSERT INTO workers (id, pool, base_url, model, slots, ttl_ms) VALUES ($1, $2, $3, $4, $5, $6) \
                  ON CONFLICT (id) DO UPDATE SET pool = excluded.pool, base_url = excluded.base_url, \
                  model = excluded.model, slots = excluded.slots, ttl_ms = excluded.ttl_ms";
    let query = sql::query(upsert).bind(row.id).bind(row.pool).bind(row.base_url).bind(row.model);
    query.bind(row.slots).bind(row.ttl_ms).execute(connection).await.map(|_| ())
}

async fn forget(connection: &mut Connection, id: String) -> sql::Result<()> {
    sql::query("DELETE FROM workers WHERE id = $1").bind(id).execute(connection).await.map(|_| ())
}
