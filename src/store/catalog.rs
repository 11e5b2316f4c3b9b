//! Models of the catalog.

use futures_util::future::BoxFuture;

use super::sql::{self, Connection, from_row};
use super::{Store, StoreError, prices};

/// What is kept of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
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

from_row!(ModelRow { id, entry, state, distrust, created_at_ms, updated_at_ms });

impl Store {
    /// Files a model as it is now. What is handed over later wins; what is returned is ready once it is durable.
    pub fn put_model(&self, row: ModelRow) -> BoxFuture<'static, Result<(), StoreError>> {
        self.change(move |connection| Box::pin(put(connection, row.clone())))
    }

    /// Forgets a model, and the price that was set for it. As [`put_model`](Self::put_model).
    pub fn forget_model(&self, id: String) -> BoxFuture<'static, Result<(), StoreError>> {
        self.change(move |connection| Box::pin(forget(connection, id.clone())))
    }

    /// All models, as they came.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    pub async fn models(&self) -> Result<Vec<ModelRow>, StoreError> {
        let all =
            "SELECT id, entry, state, distrust, created_at_ms, updated_at_ms FROM catalog_models ORDER BY position";
        self.run(move |connection| Box::pin(sql::query(all).fetch_all(connection))).await
    }
}

async fn put(connection: &mut Connection, row: ModelRow) -> sql::Result<()> {
    let upsert = "INSERT INTO catalog_models (id, position, entry, state, distrust, created_at_ms, updated_at_ms) \
                  SELECT $1, COALESCE(MAX(position), 0) + 1, $2, $3, $4, $5, $6 FROM catalog_models WHERE TRUE \
                  ON CONFLICT (id) DO UPDATE SET entry = excluded.entry, state = excluded.state, \
                  distrust = excluded.distrust, updated_at_ms = excluded.updated_at_ms";
    let query = sql::query(upsert).bind(row.id).bind(row.entry).bind(row.state).bind(row.distrust);
    query.bind(row.created_at_ms).bind(row.updated_at_ms).execute(connection).await.map(|_| ())
}

async fn forget(connection: &mut Connection, id: String) -> sql::Result<()> {
    let mut all_or_none = connection.begin().await?;
    prices::forget(&mut all_or_none, &id).await?;
    sql::query("DELETE FROM catalog_models WHERE id = $1").bind(id).execute(&mut all_or_none).await?;
    all_or_none.commit().await
}
