//! Sessions.

use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};

use super::holds::SpentRow;
use super::sql::{self, Connection, from_row};
use super::{Store, StoreError};

/// A session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionRow {
    /// Never used twice.
    pub number: i64,
    pub tenant: String,
    pub id: String,
    pub ttl_ms: i64,
    pub expires_at_ms: i64,
    pub turns: i64,
    pub limit_tokens: Option<i64>,
    pub limit_time_ms: Option<i64>,
    pub limit_cost: Option<i64>,
    pub spent_tokens: i64,
    pub spent_time_ms: i64,
    pub spent_cost: i64,
}

from_row!(SessionRow {
    number,
    tenant,
    id,
    ttl_ms,
    expires_at_ms,
    turns,
    limit_tokens,
    limit_time_ms,
    limit_cost,
    spent_tokens,
    spent_time_ms,
    spent_cost
});

impl Store {
    /// Files a session as it is now; of one that is there already what it has used and its turns stay as they are filed. What
    /// is returned is ready once it is durable.
    pub fn put_session(&self, row: SessionRow) -> BoxFuture<'static, Result<(), StoreError>> {
        self.run(move |connection| {
            let row = row.clone();
            Box::pin(async move { put(connection, row).await.map(|_| ()) })
        })
    }

    /// Forgets sessions. What their tasks hold of other budgets stays. As [`put_session`](Self::put_session).
    pub fn forget_sessions(&self, numbers: Vec<i64>) -> BoxFuture<'static, Result<(), StoreError>> {
        self.run(move |connection| Box::pin(forget(connection, numbers.clone())))
    }

    /// All sessions, in the order in which they were made.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    pub async fn sessions(&self) -> Result<Vec<SessionRow>, StoreError> {
        let all = "SELECT number, tenant, id, ttl_ms, expires_at_ms, turns, limit_tokens, limit_time_ms, limit_cost, \
                   spent_tokens, spent_time_ms, spent_cost FROM sessions ORDER BY number";
        self.run(move |connection| Box::pin(sql::query(all).fetch_all(connection))).await
    }
}

/// Inside a savepoint of the caller's, or alone. False where another gateway has given its number to another session meanwhile.
pub(super) async fn put(connection: &mut Connection, row: SessionRow) -> sql::Result<bool> {
    let upsert = "INSERT INTO sessions (number, tenant, id, ttl_ms, expires_at_ms, turns, limit_tokens, limit_time_ms, \
                  limit_cost, spent_tokens, spent_time_ms, spent_cost) \
                  VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12) ON CONFLICT (number) DO UPDATE SET \
                  ttl_ms = excluded.ttl_ms, expires_at_ms = excluded.expires_at_ms, \
                  limit_tokens = excluded.limit_tokens, limit_time_ms = excluded.limit_time_ms, \
                  limit_cost = excluded.limit_cost \
                  WHERE sessions.tenant = excluded.tenant AND sessions.id = excluded.id";
    let query = sql::query(upsert).bind(row.number).bind(row.tenant).bind(row.id).bind(row.ttl_ms);
    let query = query.bind(row.expires_at_ms).bind(row.turns);
    let query = query.bind(row.limit_tokens).bind(row.limit_time_ms).bind(row.limit_cost);
    let query = query.bind(row.spent_tokens).bind(row.spent_time_ms).bind(row.spent_cost);
    Ok(query.execute(connection).await? > 0)
}

async fn forget(connection: &mut Connection, numbers: Vec<i64>) -> sql::Result<()> {
    let mut all_or_none = connection.begin().await?;
    for number in numbers {
        // What is reserved counts for a tenant and a key as well.
        for part in ["DELETE FROM sessions WHERE number = $1", "UPDATE holds SET session = NULL WHERE session = $1"] {
            sql::query(part).bind(number).execute(&mut all_or_none).await?;
        }
    }
    all_or_none.commit().await
}

/// A task of a session has ended, and has used so much. Inside a savepoint of the caller's.
pub(super) async fn charge(connection: &mut Connection, session: SessionRow, row: &SpentRow) -> sql::Result<()> {
    let update = "UPDATE sessions SET spent_tokens = $2, spent_time_ms = $3, spent_cost = $4, turns = $5, \
                  expires_at_ms = $6 WHERE number = $1";
    let query = sql::query(update).bind(session.number);
    let query = query.bind(session.spent_tokens.saturating_add(row.tokens));
    let query = query.bind(session.spent_time_ms.saturating_add(row.time_ms));
    let query = query.bind(session.spent_cost.saturating_add(row.cost));
    let query = query.bind(session.turns + i64::from(row.turn));
    let query = query.bind(row.ended_at_ms.saturating_add(session.ttl_ms).max(session.expires_at_ms));
    query.execute(connection).await.map(|_| ())
}
