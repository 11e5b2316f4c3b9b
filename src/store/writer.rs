//! The one connection, and the queue before it: what gathers while one batch is committed is the next batch.

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use sqlx::migrate::Migrator;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};
use sqlx::{ConnectOptions as _, Connection as _, SqliteConnection};
use tokio::sync::{Notify, OwnedMutexGuard};
use tokio_util::sync::CancellationToken;

use super::ledger::{self, LedgerRow};
use super::ownership::Ownership;
use super::reader::{Held, Reader};
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

/// It may be called again, where others that failed took it with them.
type Statements = Box<dyn for<'c> Fn(&'c mut Connection) -> BoxFuture<'c, sql::Result<()>> + Send + Sync>;

/// What is done inside a transaction.
pub(super) enum Work {
    Statements(Statements),
    /// A row for the ledger, which needs nothing else.
    Entry(LedgerRow),
}

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

    /// The next operations; `None` once the queue is closed and empty. Nothing is lost where it is not waited for.
    async fn next(&self) -> Option<Vec<Operation>> {
        loop {
            let (batch, closing) = self.waiting();
            if !batch.is_empty() {
                return Some(batch);
            }
            if closing {
                return None;
            }
            self.changed.notified().await;
        }
    }

    /// The operations that wait, a batch at most, and whether none come any more.
    fn waiting(&self) -> (Vec<Operation>, bool) {
        let mut state = self.lock();
        let count = state.operations.len().min(BATCH);
        (state.operations.drain(..count).collect(), state.closing)
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
    let mut connection = Connection::sqlite(sqlite);
    if alone {
        // What was deleted before a crash may still be in the log.
        scrub(&mut connection).await?;
    }
    Ok(connection)
}

/// A connection to an SQLite database that only reads.
pub(super) async fn connect_to_read(path: &Path) -> sql::Result<Connection> {
    let options =
        SqliteConnectOptions::new().filename(path).read_only(true).busy_timeout(BUSY).disable_statement_logging();
    Ok(Connection::sqlite(SqliteConnection::connect_with(&options).await?))
}

/// Writes until the queue is closed and empty.
pub(super) async fn run(
    queue: Arc<Queue>,
    lifecycle: Lifecycle,
    mut connection: Connection,
    reader: Reader,
    ownership: Option<Ownership>,
) {
    let finish = Finish(queue);
    // Who has deleted something, and hears of it when it is in the log no more.
    let mut unscrubbed: Vec<Done> = Vec::new();
    let mut quiet: Option<BoxFuture<'static, OwnedMutexGuard<Held>>> = None;
    loop {
        let next = tokio::select! {
            biased;
            quiet = turn(&mut quiet) => Next::Quiet(quiet),
            batch = finish.0.next() => batch.map_or(Next::End, Next::Batch),
        };
        match next {
            Next::Quiet(alone) => {
                let work = move || {
                    let result = block_on(scrub(&mut connection));
                    drop(alone);
                    (connection, result)
                };
                let Ok((back, result)) = lifecycle.blocking("scrub", work).await else { return lifecycle.shutdown() };
                connection = back;
                scrubbed(result, &mut unscrubbed);
                quiet = None;
            }
            Next::Batch(batch) => {
                let (queue, watched) = (Arc::clone(&finish.0), lifecycle.clone());
                let work = move || {
                    let deleted = block_on(commit_all(&mut connection, batch, &queue, &watched));
                    (connection, deleted)
                };
                let Ok((back, deleted)) = lifecycle.blocking("commit", work).await else { return lifecycle.shutdown() };
                connection = back;
                unscrubbed.extend(deleted);
                if !unscrubbed.is_empty() && quiet.is_none() {
                    quiet = Some(reader.alone().boxed());
                }
            }
            Next::End => break,
        }
    }
    let close = move || {
        block_on(async {
            reader.close().await?;
            if !unscrubbed.is_empty() {
                scrubbed(scrub(&mut connection).await, &mut unscrubbed);
            }
            connection.close().await
        })
    };
    if let Ok(Err(error)) = lifecycle.blocking("close the store", close).await {
        tracing::warn!(%error, "the store did not close cleanly");
    }
    drop(ownership);
}

/// What the writer does next.
enum Next {
    Batch(Vec<Operation>),
    /// It has the log for itself, and may empty it.
    Quiet(OwnedMutexGuard<Held>),
    End,
}

async fn turn<T>(waited_for: &mut Option<BoxFuture<'static, T>>) -> T {
    match waited_for {
        Some(future) => future.await,
        None => std::future::pending().await,
    }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Handle::current().block_on(future)
}

fn scrubbed(result: sql::Result<()>, unscrubbed: &mut Vec<Done>) {
    if let Err(error) = result {
        tracing::warn!(%error, "the log of the store cannot be emptied now");
    }
    unscrubbed.drain(..).for_each(|done| done(Ok(())));
}

/// One batch, and those that have gathered meanwhile. Returns who waits until what he has deleted is in the log no more.
async fn commit_all(
    connection: &mut Connection,
    mut batch: Vec<Operation>,
    queue: &Queue,
    lifecycle: &Lifecycle,
) -> Vec<Done> {
    let mut unscrubbed = Vec::new();
    loop {
        let results = commit(connection, &batch).await;
        if connection.is_lost() {
            lifecycle.fail();
        }
        for (operation, result) in batch.into_iter().zip(results) {
            match operation.scrub {
                Scrub::Yes if result.is_ok() => unscrubbed.push(operation.done),
                Scrub::Yes | Scrub::No => (operation.done)(result),
            }
        }
        if !unscrubbed.is_empty() {
            return unscrubbed;
        }
        (batch, _) = queue.waiting();
        if batch.is_empty() {
            return unscrubbed;
        }
    }
}

/// One transaction. Where it fails as a whole, everybody's operation has failed.
async fn commit(connection: &mut Connection, batch: &[Operation]) -> Vec<Result<(), StoreError>> {
    let mut committed = answered(connection, batch, Each::Bare).await;
    // Where one that fails takes the others with it, that is the exception: it is looked for when it is there.
    let look = match &committed {
        Ok(results) => connection.fails_together() && results.iter().any(Result::is_err),
        Err(error) => matches!(error, sql::Error::Entries(_)),
    };
    if look {
        committed = answered(connection, batch, Each::Apart).await;
    }
    committed.unwrap_or_else(|error| {
        tracing::error!(%error, operations = batch.len(), "the store cannot write");
        let failure = failed(&error);
        batch.iter().map(|_| Err(failure.clone())).collect()
    })
}

/// How an operation is parted from others.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Each {
    Bare,
    /// By a savepoint, and by statements of its own.
    Apart,
}

/// What became of each operation, within a time where a server is asked.
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
    connection.entries.singly = each == Each::Apart;
    if each == Each::Bare && !connection.fails_together() && is_one_statement(batch) {
        for operation in batch {
            operation.work.run(connection).await?;
        }
        ledger::flush(connection).await?;
        return Ok(batch.iter().map(|_| Ok(())).collect());
    }
    let mut transaction = connection.begin_shared().await?;
    let mut results = Vec::with_capacity(batch.len());
    for operation in batch {
        let result = match each {
            Each::Bare => operation.work.run(&mut transaction).await,
            Each::Apart => apart(&mut transaction, &operation.work).await,
        };
        if let Err(error @ sql::Error::Entries(_)) = result {
            return Err(error);
        }
        let broken = each == Each::Bare && result.is_err() && transaction.fails_together();
        results.push(result.map_err(|error| failed(&error)));
        if broken {
            transaction.rollback().await?;
            return Ok(results);
        }
    }
    ledger::flush(&mut transaction).await?;
    transaction.commit().await?;
    Ok(results)
}

/// Rows for the ledger and nothing else, and few enough.
fn is_one_statement(batch: &[Operation]) -> bool {
    ledger::is_one_statement(batch.len()) && batch.iter().all(|operation| matches!(operation.work, Work::Entry(_)))
}

async fn apart(connection: &mut Connection, work: &Work) -> sql::Result<()> {
    let mut savepoint = connection.begin().await?;
    work.run(&mut savepoint).await?;
    savepoint.commit().await
}

impl Work {
    async fn run(&self, connection: &mut Connection) -> sql::Result<()> {
        match self {
            Self::Statements(statements) => statements(connection).await,
            Self::Entry(row) => ledger::insert(connection, row.clone()).await,
        }
    }
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
