//! Servers that have registered with a pool.

use futures_util::future::BoxFuture;
use sqlx::SqliteConnection;

use super::{Store, StoreError};

/// A server elsewhere.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct WorkerRow {
    pub id: String,
    pub pool: String,
    pub base_url: String,
    pub model: Option<String>,
    pub slots: Option<i64>,
    pub ttl_ms: i64,
}

impl Store {
    /// Files a server as it has registered. What is handed over later wins; what is returned is ready once it is durable.
    pub fn put_worker(&self, row: WorkerRow) -> BoxFuture<'static, Result<(), StoreError>> {
        self.run(move |connection| Box::pin(put(connection, row)))
    }

    /// Forgets a server. As [`put_worker`](Self::put_worker).
    pub fn forget_worker(&self, id: String) -> BoxFuture<'static, Result<(), StoreError>> {
        self.run(move |connection| Box::pin(forget(connection, id)))
    }

    /// All servers.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    pub async fn workers(&self) -> Result<Vec<WorkerRow>, StoreError> {
        let all = "SELECT id, pool, base_url, model, slots, ttl_ms FROM workers ORDER BY id";
        self.run(move |connection| Box::pin(sqlx::query_as(all).fetch_all(connection))).await
    }
}

async fn put(connection: &mut SqliteConnection, row: WorkerRow) -> sqlx::Result<()> {
    let upsert = "INSERT INTO workers (id, pool, base_url, model, slots, ttl_ms) VALUES ($1, $2, $3, $4, $5, $6) \
                  ON CONFLICT (id) DO UPDATE SET pool = excluded.pool, base_url = excluded.base_url, \
                  model = excluded.model, slots = excluded.slots, ttl_ms = excluded.ttl_ms";
    let query = sqlx::query(upsert).bind(row.id).bind(row.pool).bind(row.base_url).bind(row.model);
    query.bind(row.slots).bind(row.ttl_ms).execute(connection).await.map(|_| ())
}

async fn forget(connection: &mut SqliteConnection, id: String) -> sqlx::Result<()> {
    sqlx::query("DELETE FROM workers WHERE id = $1").bind(id).execute(connection).await.map(|_| ())
}
