//! The one connection, and the queue before it: what gathers while one batch is committed is the next batch.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};
use sqlx::{ConnectOptions as _, Connection as _, SqliteConnection};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::ownership::Ownership;
use super::sql::{self, Connection};
use super::{Location, Scrub, StoreError};
use crate::lifecycle::Lifecycle;

/// Operations of one batch at most: about 0.1 ms each (2,000 new tasks took 0.2 s on two cores), so that nobody waits much
/// longer than 50 ms for a batch that has begun.
const BATCH: usize = 512;

/// How long another program that looks into the file may hold it.
const BUSY: Duration = Duration::from_secs(5);

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

/// Opens the database and brings its tables up to date. `alone`: no other process has it.
pub(super) async fn connect(location: &Location, alone: bool) -> sql::Result<Connection> {
    let options = match location {
        Location::Memory => "sqlite::memory:".parse()?,
        Location::File(_) | Location::DataFolder(_) => SqliteConnectOptions::new()
            .filename(location.path())
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full),
    };
    let options = options.busy_timeout(BUSY).pragma("secure_delete", "ON").disable_statement_logging();
    let mut sqlite = SqliteConnection::connect_with(&options).await?;
    sqlx::migrate!("src/store/migrations").run_direct(&mut sqlite).await.map_err(sqlx::Error::from)?;
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
    let mut outcomes = Vec::with_capacity(batch.len());
    if let Err(error) = transact(connection, batch, &mut outcomes).await {
        tracing::error!(%error, operations = outcomes.len(), "the store cannot write");
        let failure = failed(&error);
        for (_, outcome) in &mut outcomes {
            *outcome = Err(failure.clone());
        }
    } else if must_scrub && let Err(error) = scrub(connection).await {
        tracing::warn!(%error, "the log of the store cannot be emptied now");
    }
    outcomes
}

async fn transact(connection: &mut Connection, batch: Vec<Operation>, outcomes: &mut Vec<Outcome>) -> sql::Result<()> {
    let mut batch = batch.into_iter();
    let begun = connection.begin_shared().await;
    let mut transaction = match begun {
        Ok(transaction) => transaction,
        Err(error) => {
            outcomes.extend(batch.map(|operation| (operation.done, Ok(()))));
            return Err(error);
        }
    };
    for operation in batch.by_ref() {
        let outcome = (operation.work)(&mut transaction).await;
        outcomes.push((operation.done, outcome.map_err(|error| failed(&error))));
    }
    transaction.commit().await
}

/// Moves the log into the database file and cuts it to nothing.
async fn scrub(connection: &mut Connection) -> sql::Result<()> {
    sql::query("PRAGMA wal_checkpoint(TRUNCATE)").execute(connection).await.map(|_| ())
}

fn failed(error: &sql::Error) -> StoreError {
    StoreError::Failed(error.to_string().into())
}
