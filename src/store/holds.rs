//! What tasks have reserved that have not ended, in sessions or otherwise, and when the process was last seen to live that they run in.

use serde::{Deserialize, Serialize};

use super::ledger::LedgerRow;
use super::record::Record;
use super::sessions::{self, SessionRow};
use super::sql::{self, Connection, from_row};
use super::{Store, StoreError};

/// What a task has reserved that has not ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HoldRow {
    pub task_id: String,
    /// The number of its session, where it has one.
    pub session: Option<i64>,
    /// JSON.
    pub held: String,
    /// Of a task that ends with the process.
    pub started_at_ms: Option<i64>,
}

from_row!(HoldRow { task_id, session, held, started_at_ms });

/// What is filed of budgets with a task: its session as it is, where it has one, and what it has reserved, where that is anything.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldRows {
    pub session: Option<SessionRow>,
    pub hold: Option<HoldRow>,
}

/// What a task has used of what it had reserved in the end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpentRow {
    pub task_id: String,
    pub tokens: i64,
    pub time_ms: i64,
    pub cost: i64,
    /// Whether the session has a turn more.
    pub turn: bool,
    pub ended_at_ms: i64,
}

impl Store {
    /// Files what a task has reserved that ends with the process, with its session where it has one.
    pub fn hold_taken(&self, session: Option<SessionRow>, hold: HoldRow) {
        let held = HeldRows { session, hold: Some(hold) };
        self.record(Record::Held(held), |_| ());
    }

    /// Notes that an engine gets such a task, and calls back once that is durable.
    pub fn hold_started(
        &self,
        task_id: String,
        at_ms: i64,
        done: impl FnOnce(Result<(), StoreError>) + Send + 'static,
    ) {
        self.record(Record::HoldStarted { task_id, at_ms }, done);
    }

    /// Adds what such a task has used to what its session has spent, enters it into the ledger, and calls back once that is
    /// durable.
    pub fn hold_settled(
        &self,
        row: SpentRow,
        entry: Option<LedgerRow>,
        done: impl FnOnce(Result<(), StoreError>) + Send + 'static,
    ) {
        self.record(Record::Hold { spent: row, entry }, done);
    }

    /// Notes that the gateway lives.
    pub fn alive(&self, at_ms: i64) {
        self.record(Record::Alive { at_ms }, |_| ());
    }

    /// When that was noted last; `None` where it never was.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    pub async fn seen_alive(&self) -> Result<Option<i64>, StoreError> {
        let last = "SELECT at_ms FROM alive WHERE at_ms > 0";
        self.run(move |connection| Box::pin(sql::query(last).fetch_optional(connection))).await
    }

    /// What all tasks have reserved.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    pub async fn holds(&self) -> Result<Vec<HoldRow>, StoreError> {
        let all = "SELECT task_id, session, held, started_at_ms FROM holds";
        self.run(move |connection| Box::pin(sql::query(all).fetch_all(connection))).await
    }
}

pub(super) async fn set_alive(connection: &mut Connection, at_ms: i64) -> sql::Result<()> {
    sql::query("UPDATE alive SET at_ms = $1 WHERE at_ms < $1").bind(at_ms).execute(connection).await.map(|_| ())
}

/// Inside a savepoint of the caller's.
pub(super) async fn insert(connection: &mut Connection, HeldRows { session, hold }: HeldRows) -> sql::Result<()> {
    let there = match session {
        Some(session) => sessions::put(connection, session).await?,
        None => true,
    };
    let Some(hold) = hold else { return Ok(()) };
    let hold = HoldRow { session: hold.session.filter(|_| there), ..hold };
    let insert = "INSERT INTO holds (task_id, session, held, started_at_ms) VALUES ($1, $2, $3, $4) \
                  ON CONFLICT (task_id) DO NOTHING";
    let query = sql::query(insert).bind(hold.task_id).bind(hold.session).bind(hold.held).bind(hold.started_at_ms);
    query.execute(connection).await.map(|_| ())
}

pub(super) async fn take(connection: &mut Connection, held: HeldRows) -> sql::Result<()> {
    let mut both_or_none = connection.begin().await?;
    insert(&mut both_or_none, held).await?;
    both_or_none.commit().await
}

pub(super) async fn start(connection: &mut Connection, task_id: &str, at_ms: i64) -> sql::Result<()> {
    let update = "UPDATE holds SET started_at_ms = $2 WHERE task_id = $1";
    sql::query(update).bind(task_id).bind(at_ms).execute(connection).await.map(|_| ())
}

/// Inside a savepoint of the caller's. What the task holds is what gives it the right to charge its session, so that it does so
/// once, and not at all where that has gone.
pub(super) async fn settle(connection: &mut Connection, row: SpentRow) -> sql::Result<()> {
    let session = "SELECT number, tenant, id, ttl_ms, expires_at_ms, turns, limit_tokens, limit_time_ms, limit_cost, \
                   spent_tokens, spent_time_ms, spent_cost FROM sessions \
                   WHERE number = (SELECT session FROM holds WHERE task_id = $1)";
    let session: Option<SessionRow> = sql::query(session).bind(&row.task_id).fetch_optional(&mut *connection).await?;
    if let Some(session) = session {
        sessions::charge(connection, session, &row).await?;
    }
    let delete = "DELETE FROM holds WHERE task_id = $1";
    sql::query(delete).bind(row.task_id).execute(connection).await.map(|_| ())
}
