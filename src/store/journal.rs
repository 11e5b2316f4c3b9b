//! Accepted tasks and what became of them, and the keys of requests.

use serde::{Deserialize, Serialize};

use super::holds::{self, HeldRows, SpentRow};
use super::ledger::LedgerRow;
use super::record::Record;
use super::sql::{self, Connection, from_row};
use super::{Scrub, Store, StoreError};

/// A task that was answered with 202.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskRow {
    /// Grows from task to task.
    pub position: i64,
    pub id: String,
    /// JSON without prompt and output.
    pub facts: String,
    /// JSON; `None` once the task has ended.
    pub request: Option<String>,
    /// JSON; there once an engine had it.
    pub started: Option<String>,
    pub ended_at_ms: Option<i64>,
    /// JSON with the last event and the output; there once the task has ended.
    pub outcome: Option<String>,
}

from_row!(TaskRow { position, id, facts, request, started, ended_at_ms, outcome });

/// How a task ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndedRow {
    pub id: String,
    pub ended_at_ms: i64,
    pub outcome: String,
}

/// A key that a request was sent with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyRow {
    pub tenant: String,
    pub name: String,
    pub fingerprint: String,
    pub task_id: String,
    /// JSON; `None` until it was given.
    pub answer: Option<String>,
    pub created_at_ms: i64,
}

from_row!(KeyRow { tenant, name, fingerprint, task_id, answer, created_at_ms });

impl Store {
    /// Files a task that has not started, with the key of its request, its session and what it has reserved there, and calls
    /// back once that is durable.
    pub fn task_accepted(
        &self,
        row: TaskRow,
        key: Option<KeyRow>,
        held: HeldRows,
        done: impl FnOnce(Result<(), StoreError>) + Send + 'static,
    ) {
        self.enqueue_or_refuse(
            move |connection| Box::pin(insert_task(connection, row.clone(), key.clone(), held.clone())),
            done,
        );
    }

    /// Files the answer that a task's request got, for its key.
    pub fn task_answered(&self, id: String, answer: String) {
        self.enqueue(Scrub::No, move |connection| Box::pin(set_answer(connection, id.clone(), answer.clone())), |_| ());
    }

    /// Forgets a task that was refused after it was filed, the key of its request, and what it has reserved.
    pub fn task_withdrawn(&self, id: String) {
        self.enqueue(Scrub::No, move |connection| Box::pin(withdraw(connection, id.clone())), |_| ());
    }

    /// Notes that an engine gets a task, and calls back once that is durable.
    pub fn task_started(
        &self,
        id: String,
        started: String,
        done: impl FnOnce(Result<(), StoreError>) + Send + 'static,
    ) {
        self.record(Record::TaskStarted { id, started }, done);
    }

    /// Notes the end of a task, deletes its request, charges its session, enters it into the ledger, and calls back once all
    /// that is durable. The first end stays.
    pub fn task_ended(
        &self,
        row: EndedRow,
        spent: Option<SpentRow>,
        entry: Option<LedgerRow>,
        done: impl FnOnce(Result<(), StoreError>) + Send + 'static,
    ) {
        self.record(Record::Task { row, spent, entry }, done);
    }

    /// Deletes tasks so that nothing of them can be read from the file any more.
    pub fn tasks_forgotten(&self, ids: Vec<String>, done: impl FnOnce(Result<(), StoreError>) + Send + 'static) {
        self.enqueue(Scrub::Yes, move |connection| Box::pin(delete_tasks(connection, ids.clone())), done);
    }

    /// Deletes keys that were used before `before_ms`.
    pub fn keys_forgotten(&self, before_ms: i64) {
        self.enqueue_or_refuse(move |connection| Box::pin(delete_keys(connection, before_ms)), |_| ());
    }

    /// All tasks, in the order in which they were accepted.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    pub async fn tasks(&self) -> Result<Vec<TaskRow>, StoreError> {
        let all = "SELECT position, id, facts, request, started, ended_at_ms, outcome FROM tasks ORDER BY position";
        self.run(move |connection| Box::pin(sql::query(all).fetch_all(connection))).await
    }

    /// All keys, the oldest first.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    pub async fn keys(&self) -> Result<Vec<KeyRow>, StoreError> {
        let all = "SELECT tenant, name, fingerprint, task_id, answer, created_at_ms FROM idempotency_keys \
                   ORDER BY created_at_ms";
        self.run(move |connection| Box::pin(sql::query(all).fetch_all(connection))).await
    }
}

async fn insert_task(
    connection: &mut Connection,
    row: TaskRow,
    key: Option<KeyRow>,
    held: HeldRows,
) -> sql::Result<()> {
    let mut all_or_none = connection.begin().await?;
    let insert = "INSERT INTO tasks (position, id, facts, request) VALUES ($1, $2, $3, $4)";
    let query = sql::query(insert).bind(row.position).bind(row.id).bind(row.facts).bind(row.request);
    query.execute(&mut all_or_none).await?;
    if let Some(key) = key {
        insert_key(&mut all_or_none, key).await?;
    }
    holds::insert(&mut all_or_none, held).await?;
    all_or_none.commit().await
}

async fn set_answer(connection: &mut Connection, id: String, answer: String) -> sql::Result<()> {
    let update = "UPDATE idempotency_keys SET answer = $2 WHERE task_id = $1";
    sql::query(update).bind(id).bind(answer).execute(connection).await.map(|_| ())
}

async fn withdraw(connection: &mut Connection, id: String) -> sql::Result<()> {
    let mut all_or_none = connection.begin().await?;
    for delete in [
        "DELETE FROM tasks WHERE id = $1",
        "DELETE FROM idempotency_keys WHERE task_id = $1",
        "DELETE FROM holds WHERE task_id = $1",
    ] {
        sql::query(delete).bind(&id).execute(&mut all_or_none).await?;
    }
    all_or_none.commit().await
}

async fn insert_key(connection: &mut Connection, row: KeyRow) -> sql::Result<()> {
    let insert = "INSERT INTO idempotency_keys (tenant, name, fingerprint, task_id, answer, created_at_ms) \
                  VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (tenant, name) DO UPDATE SET \
                  fingerprint = excluded.fingerprint, task_id = excluded.task_id, answer = excluded.answer, \
                  created_at_ms = excluded.created_at_ms";
    let query = sql::query(insert).bind(row.tenant).bind(row.name).bind(row.fingerprint);
    query.bind(row.task_id).bind(row.answer).bind(row.created_at_ms).execute(connection).await.map(|_| ())
}

pub(super) async fn set_started(connection: &mut Connection, id: &str, started: &str) -> sql::Result<()> {
    let update = "UPDATE tasks SET started = $2 WHERE id = $1 AND started IS NULL";
    sql::query(update).bind(id).bind(started).execute(connection).await.map(|_| ())
}

/// Inside a savepoint of the caller's. False where it had ended before, or is not there.
pub(super) async fn set_ended(connection: &mut Connection, row: &EndedRow) -> sql::Result<bool> {
    let update =
        "UPDATE tasks SET ended_at_ms = $2, outcome = $3, request = NULL WHERE id = $1 AND ended_at_ms IS NULL";
    let query = sql::query(update).bind(&row.id).bind(row.ended_at_ms).bind(&row.outcome);
    Ok(query.execute(connection).await? > 0)
}

async fn delete_tasks(connection: &mut Connection, ids: Vec<String>) -> sql::Result<()> {
    let mut all_or_none = connection.begin().await?;
    for id in ids {
        sql::query("DELETE FROM tasks WHERE id = $1").bind(id).execute(&mut all_or_none).await?;
    }
    all_or_none.commit().await
}

async fn delete_keys(connection: &mut Connection, before_ms: i64) -> sql::Result<()> {
    let delete = "DELETE FROM idempotency_keys WHERE created_at_ms < $1";
    sql::query(delete).bind(before_ms).execute(connection).await.map(|_| ())
}
