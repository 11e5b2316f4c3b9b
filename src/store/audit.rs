//! What administrators did. What changes something in the store is filed with that, in one transaction.

use std::sync::Arc;

use futures_util::future::BoxFuture;

use super::sql::{self, Connection, from_row};
use super::{Scrub, Store, StoreError};
use crate::audit::{Act, Entry};

/// Which actions are looked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AuditQuery {
    pub from_ms: i64,
    /// Up to before it.
    pub to_ms: i64,
    /// The id of a key; or the word for who has acted without one.
    pub actor: Option<String>,
    pub action: Option<String>,
    pub target: Option<String>,
    /// Those before the one with this id.
    pub before: Option<String>,
    /// Actions at most.
    pub most: i64,
}

from_row!(Entry { id, at_ms, actor, api_key, tenant, action, kind, target, status, client, correlation, changes });

impl Store {
    /// The same store, for an action: a change that is made with it is filed together with that.
    #[must_use]
    pub fn acting(&self, act: &Arc<Act>) -> Self {
        Self { act: Some(Arc::clone(act)), ..self.clone() }
    }

    /// Files how an action has ended, also one that is filed already.
    pub fn acted(&self, entry: Entry) -> BoxFuture<'static, Result<(), StoreError>> {
        self.run(move |connection| Box::pin(insert(connection, entry.clone())))
    }

    /// The same, whenever the database is back.
    pub fn acted_later(&self, entry: Entry) {
        let done = |filed| {
            if let Err(error) = filed {
                tracing::error!(%error, "an action of an administrator could not be recorded");
            }
        };
        self.enqueue(Scrub::No, move |connection| Box::pin(insert(connection, entry.clone())), done);
    }

    /// Forgets what was done before.
    pub fn audit_forgotten(&self, before_ms: i64) {
        self.enqueue(Scrub::Yes, move |connection| Box::pin(delete(connection, before_ms)), |_| ());
    }

    /// What was done, the last first.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    pub async fn audit(&self, query: AuditQuery) -> Result<Vec<Entry>, StoreError> {
        self.read(move |connection| Box::pin(find(connection, query.clone()))).await
    }

    /// As [`run`](Self::run), with the action that this handle is for in the same transaction.
    pub(super) fn change<T: Send + 'static>(
        &self,
        work: impl for<'c> Fn(&'c mut Connection) -> BoxFuture<'c, sql::Result<T>> + Send + Sync + 'static,
    ) -> BoxFuture<'static, Result<T, StoreError>> {
        let Some(act) = self.act.clone() else { return self.run(work) };
        let work = Arc::new(work);
        self.run(move |connection| {
            let (act, work) = (Arc::clone(&act), Arc::clone(&work));
            Box::pin(async move {
                let mut both_or_none = connection.begin().await?;
                let made = work(&mut both_or_none).await?;
                insert(&mut both_or_none, act.entry()).await?;
                both_or_none.commit().await?;
                Ok(made)
            })
        })
    }
}

/// Also inside a savepoint of the caller's.
pub(super) async fn insert(connection: &mut Connection, entry: Entry) -> sql::Result<()> {
    let upsert = "INSERT INTO audit (id, at_ms, actor, api_key, tenant, action, kind, target, status, client, correlation, \
                  changes) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12) \
                  ON CONFLICT (id) DO UPDATE SET target = excluded.target, status = excluded.status, \
                  changes = excluded.changes";
    let query = sql::query(upsert).bind(entry.id).bind(entry.at_ms).bind(entry.actor).bind(entry.api_key);
    let query = query.bind(entry.tenant).bind(entry.action).bind(entry.kind).bind(entry.target).bind(entry.status);
    let query = query.bind(entry.client).bind(entry.correlation).bind(entry.changes);
    query.execute(connection).await.map(|_| ())
}

async fn delete(connection: &mut Connection, before_ms: i64) -> sql::Result<()> {
    sql::query("DELETE FROM audit WHERE at_ms < $1").bind(before_ms).execute(connection).await.map(|_| ())
}

async fn find(connection: &mut Connection, query: AuditQuery) -> sql::Result<Vec<Entry>> {
    // Ids are digits and the first letters in lower case, which every database has in one order.
    let select = "SELECT id, at_ms, actor, api_key, tenant, action, kind, target, status, client, correlation, changes \
                  FROM audit WHERE at_ms >= $1 AND at_ms < $2 \
                  AND ($3 IS NULL OR api_key = $3 OR (api_key = '' AND actor = $3)) \
                  AND ($4 IS NULL OR action = $4) AND ($5 IS NULL OR target = $5) AND ($6 IS NULL OR id < $6) \
                  ORDER BY id DESC LIMIT $7";
    let statement = sql::query(select).bind(query.from_ms).bind(query.to_ms).bind(query.actor);
    let statement = statement.bind(query.action).bind(query.target).bind(query.before).bind(query.most);
    statement.fetch_all(connection).await
}
