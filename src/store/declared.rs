//! What the configuration declares, as it was recorded last.

use futures_util::future::BoxFuture;

use super::sql::{self, Connection, from_row};
use super::{Store, StoreError, audit};
use crate::audit::Entry;

/// A tenant or a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeclaredRow {
    pub kind: String,
    pub id: String,
    /// A JSON object.
    pub facts: String,
}

from_row!(DeclaredRow { kind, id, facts });

impl Store {
    /// All of them.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    pub async fn declared(&self) -> Result<Vec<DeclaredRow>, StoreError> {
        let all = "SELECT kind, id, facts FROM declared";
        self.look(move |connection| Box::pin(sql::query(all).fetch_all(connection))).await
    }

    /// Files these in the place of those that there were, with what has changed by it.
    pub fn put_declared(
        &self,
        rows: Vec<DeclaredRow>,
        changes: Vec<Entry>,
    ) -> BoxFuture<'static, Result<(), StoreError>> {
        self.run(move |connection| Box::pin(put(connection, rows.clone(), changes.clone())))
    }
}

async fn put(connection: &mut Connection, rows: Vec<DeclaredRow>, changes: Vec<Entry>) -> sql::Result<()> {
    let mut all_or_none = connection.begin().await?;
    sql::query("DELETE FROM declared").execute(&mut all_or_none).await?;
    for DeclaredRow { kind, id, facts } in rows {
        let insert = "INSERT INTO declared (kind, id, facts) VALUES ($1, $2, $3)";
        sql::query(insert).bind(kind).bind(id).bind(facts).execute(&mut all_or_none).await?;
    }
    for entry in changes {
        audit::insert(&mut all_or_none, entry).await?;
    }
    all_or_none.commit().await
}
