//! Models of the catalog.

use futures_util::future::BoxFuture;
use sqlx::SqliteConnection;

use super::{Store, StoreError};

/// What is kept of a model.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct ModelRow {
    pub id: String,
    /// JSON; `None` for a model of the configuration.
    pub entry: Option<String>,
    pub state: String,
    /// Why it is not served, in words.
    pub distrust: Option<String>,
    pub created_at_ms: i64,
    pub updated_at_ms: i64,
}

impl Store {
    /// Files a model as it is now. What is handed over later wins; what is returned is ready once it is durable.
    pub fn put_model(&self, row: ModelRow) -> BoxFuture<'static, Result<(), StoreError>> {
        self.run(move |connection| Box::pin(put(connection, row)))
    }

    /// Forgets a model. As [`put_model`](Self::put_model).
    pub fn forget_model(&self, id: String) -> BoxFuture<'static, Result<(), StoreError>> {
        self.run(move |connection| Box::pin(forget(connection, id)))
    }

    /// All models, as they came.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    pub async fn models(&self) -> Result<Vec<ModelRow>, StoreError> {
        let all =
            "SELECT id, entry, state, distrust, created_at_ms, updated_at_ms FROM catalog_models ORDER BY position";
        self.run(move |connection| Box::pin(sqlx::query_as(all).fetch_all(connection))).await
    }
}

async fn put(connection: &mut SqliteConnection, row: ModelRow) -> sqlx::Result<()> {
    let upsert = "INSERT INTO catalog_models (id, position, entry, state, distrust, created_at_ms, updated_at_ms) \
                  SELECT $1, COALESCE(MAX(position), 0) + 1, $2, $3, $4, $5, $6 FROM catalog_models WHERE TRUE \
                  ON CONFLICT (id) DO UPDATE SET entry = excluded.entry, state = excluded.state, \
                  distrust = excluded.distrust, updated_at_ms = excluded.updated_at_ms";
    let query = sqlx::query(upsert).bind(row.id).bind(row.entry).bind(row.state).bind(row.distrust);
    query.bind(row.created_at_ms).bind(row.updated_at_ms).execute(connection).await.map(|_| ())
}

async fn forget(connection: &mut SqliteConnection, id: String) -> sqlx::Result<()> {
    sqlx::query("DELETE FROM catalog_models WHERE id = $1").bind(id).execute(connection).await.map(|_| ())
}
