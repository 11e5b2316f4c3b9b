//! The one connection, and the queue before it: what gathers while one batch is committed is the next batch.

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use sqlx::migrate::Migrator;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};
use sqlx::{ConnectOptions as _, Connection as _, SqliteConnection};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::ownership::Ownership;
use super::sql::{self, Connection};
use super::{Scrub, StoreError};
use crate::lifecycle::Lifecycle;

/// Operations of one batch at most: about 0.1 ms each (2,000 new tasks took 0.2 s on two cores), so that nobody waits much
/// longer than 50 ms for a batch that has begun.
const BATCH: usize = 512;

/// How long another program that looks into the file may hold it.
const BUSY: Duration = Duration::from_secs(5);

/// How long a server may take for a batch.
const ANSWER: Duration = Duration::from_secs(30);

/// It may be called again, where a database was lost before its answer came.
pub(super) type Work = Box<dyn for<'c> Fn(&'c mut Connection) -> BoxFuture<'c, sql::Result<()>> + Send + Sync>;
type Done = Box<dyn FnOnce(Result<(), StoreError>) + Send>;

/// One thing to do inside a transaction, and who hears of it.
pub(super) struct Operation {
    pub work: Work,
    pub done: Done,
    pub scrub: Scrub,
}

/// What waits to be written. Its bound is that of what hands over: each accepted task has a few operations at most, each
/// request waits for its own.
#[derive(Default)]
pub(super) struct Queue {
    state: Mutex<State>,
    changed: Notify,
    /// The database is closed, or lost.
    finished: CancellationToken,
}

#[derive(Default)]
struct State {
    operations: Vec<Operation>,
    closing: bool,
}

impl Queue {
    pub(super) fn push(&self, operation: Operation) {
        let refused = {
            let mut state = self.lock();
            if state.closing {
                Some(operation)
            } else {
                state.operations.push(operation);
                None
            }
        };
        match refused {
            Some(operation) => (operation.done)(Err(StoreError::Closed)),
            None => self.changed.notify_one(),
        }
    }

    pub(super) async fn close(&self) {
        self.lock().closing = true;
        self.changed.notify_one();
        self.finished.cancelled().await;
    }

    /// The next operations; `None` once the queue is closed and empty.
    async fn next(&self) -> Option<Vec<Operation>> {
        loop {
            {
                let mut state = self.lock();
                let count = state.operations.len().min(BATCH);
                if count > 0 {
                    return Some(state.operations.drain(..count).collect());
                }
                if state.closing {
                    return None;
                }
            }
            self.changed.notified().await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// However the writer ends, nobody waits for it any more.
struct Finish(Arc<Queue>);

impl Drop for Finish {
    fn drop(&mut self) {
        let left = {
            let mut state = self.0.lock();
            state.closing = true;
            std::mem::take(&mut state.operations)
        };
        for operation in left {
            (operation.done)(Err(StoreError::Closed));
        }
        self.0.finished.cancel();
    }
}

/// The tables, as numbered SQL files; the same for each kind of database.
pub(super) fn migrations() -> Migrator {
    sqlx::migrate!("src/store/migrations")
}

/// Opens an SQLite database and brings its tables up to date. `alone`: no other process has it.
pub(super) async fn connect(path: Option<&Path>, alone: bool) -> sql::Result<Connection> {
    let options = match path {
        None => "sqlite::memory:".parse()?,
        Some(path) => SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full),
    };
    let options = options.busy_timeout(BUSY).pragma("secure_delete", "ON").disable_statement_logging();
    let mut sqlite = SqliteConnection::connect_with(&options).await?;
    migrations().run_direct(&mut sqlite).await.map_err(sqlx::Error::from)?;
    let mut connection = Connection::Sqlite(sqlite);
    if alone {
        // What was deleted before a crash may still be in the log.
        scrub(&mut connection).await?;
    }
    Ok(connection)
}

/// Writes until the queue is closed and empty.
pub(super) async fn run(
    queue: Arc<Queue>,
    lifecycle: Lifecycle,
    mut connection: Connection,
    ownership: Option<Ownership>,
) {
    let finish = Finish(queue);
    while let Some(batch) = finish.0.next().await {
        let work = move || {
            let outcomes = tokio::runtime::Handle::current().block_on(commit(&mut connection, batch));
            (connection, outcomes)
        };
        let Ok((back, outcomes)) = lifecycle.blocking("commit", work).await else { return lifecycle.shutdown() };
        connection = back;
        if connection.is_lost() {
            lifecycle.fail();
        }
        for (done, outcome) in outcomes {
            done(outcome);
        }
    }
    let close = move || tokio::runtime::Handle::current().block_on(connection.close());
    if let Ok(Err(error)) = lifecycle.blocking("close the store", close).await {
        tracing::warn!(%error, "the store did not close cleanly");
    }
    drop(ownership);
}

type Outcome = (Done, Result<(), StoreError>);

/// One transaction. Where it fails as a whole, everybody's operation has failed.
async fn commit(connection: &mut Connection, batch: Vec<Operation>) -> Vec<Outcome> {
    let must_scrub = batch.iter().any(|operation| operation.scrub == Scrub::Yes);
    // Where one that fails takes the others with it, that is the exception: it is looked for when it is there.
    let mut committed = answered(connection, &batch, Each::Bare).await;
    if connection.fails_together() && matches!(&committed, Ok(results) if results.iter().any(Result::is_err)) {
        committed = answered(connection, &batch, Each::InSavepoint).await;
    }
    let results = committed.unwrap_or_else(|error| {
        tracing::error!(%error, operations = batch.len(), "the store cannot write");
        let failure = failed(&error);
        batch.iter().map(|_| Err(failure.clone())).collect()
    });
    if must_scrub && let Err(error) = scrub(connection).await {
        tracing::warn!(%error, "the log of the store cannot be emptied now");
    }
    batch.into_iter().map(|operation| operation.done).zip(results).collect()
}

/// How an operation is parted from those before it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Each {
    Bare,
    InSavepoint,
}

/// The same, within a time where a server is asked.
async fn answered(
    connection: &mut Connection,
    batch: &[Operation],
    each: Each,
) -> sql::Result<Vec<Result<(), StoreError>>> {
    if !connection.fails_together() {
        return transact(connection, batch, each).await;
    }
    let in_time = tokio::time::timeout(ANSWER, transact(connection, batch, each)).await;
    in_time.unwrap_or_else(|_| {
        connection.give_up();
        Err(sql::Error::NoAnswer(ANSWER))
    })
}

/// What became of each operation. Nothing is committed where statements fail together and one has failed.
async fn transact(
    connection: &mut Connection,
    batch: &[Operation],
    each: Each,
) -> sql::Result<Vec<Result<(), StoreError>>> {
    let mut transaction = connection.begin_shared().await?;
    let mut results = Vec::with_capacity(batch.len());
    for operation in batch {
        let result = match each {
            Each::Bare => (operation.work)(&mut transaction).await,
            Each::InSavepoint => apart(&mut transaction, &operation.work).await,
        };
        let broken = each == Each::Bare && result.is_err() && transaction.fails_together();
        results.push(result.map_err(|error| failed(&error)));
        if broken {
            transaction.rollback().await?;
            return Ok(results);
        }
    }
    transaction.commit().await?;
    Ok(results)
}

async fn apart(connection: &mut Connection, work: &Work) -> sql::Result<()> {
    let mut savepoint = connection.begin().await?;
    work(&mut savepoint).await?;
    savepoint.commit().await
}

/// Moves the log into the database file and cuts it to nothing. What a server does with its log is its own affair.
async fn scrub(connection: &mut Connection) -> sql::Result<()> {
    if connection.fails_together() {
        return Ok(());
    }
    sql::query("PRAGMA wal_checkpoint(TRUNCATE)").execute(connection).await.map(|_| ())
}

fn failed(error: &sql::Error) -> StoreError {
    StoreError::Failed(error.to_string().into())
}
