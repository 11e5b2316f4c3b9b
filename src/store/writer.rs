//! The one connection that writes: what gathers while one batch is committed is the next batch.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use tokio::sync::OwnedMutexGuard;
use tokio::sync::mpsc::{Receiver, Sender, channel};

use super::outage::{self, Lost, Survival};
use super::ownership::Ownership;
use super::queue::{Done, Operation, Queue, Work};
use super::reader::{Held, Reader};
use super::sql::{self, Connection};
use super::sqlite::scrub;
use super::{Scrub, StoreError, ledger};
use crate::lifecycle::{Lifecycle, Panicked};

/// How long a server may take for a batch.
const ANSWER: Duration = Duration::from_secs(30);

/// Batches that are committed and nobody has heard of yet, at most.
const UNTOLD: usize = 4;

/// What writes.
pub(super) struct Writer {
    pub queue: Arc<Queue>,
    pub lifecycle: Lifecycle,
    pub reader: Reader,
    pub ownership: Option<Ownership>,
    /// `None`: the gateway ends with its connection.
    pub survival: Option<Survival>,
}

/// What has become of each operation of a batch.
type Told = Vec<(Done, Result<(), StoreError>)>;

/// However the writer ends, nobody waits for it any more.
struct Finish(Arc<Queue>);

impl Drop for Finish {
    fn drop(&mut self) {
        self.0.finish();
    }
}

/// What the writer does next.
enum Next {
    Batch(Vec<Operation>),
    /// It has the log for itself, and may empty it.
    Quiet(OwnedMutexGuard<Held>),
    /// The connection has ended.
    Lost,
    End,
}

impl Writer {
    /// Writes until the queue is closed and empty.
    pub async fn run(mut self, connection: Connection) {
        let finish = Finish(Arc::clone(&self.queue));
        let (tell, told) = channel(UNTOLD);
        // Whoever waits runs on the runtime's threads, and is woken from one of them for a fraction of the price.
        let (written, ()) = tokio::join!(self.write(connection, tell), tell_all(told));
        if written.is_ok() {
            drop((self.ownership, finish));
        } else {
            self.lifecycle.shutdown();
        }
    }

    async fn write(&mut self, mut connection: Connection, tell: Sender<Told>) -> Result<(), Panicked> {
        // Who has deleted something, and hears of it when it is in the log no more.
        let mut unscrubbed: Vec<Done> = Vec::new();
        let mut quiet: Option<BoxFuture<'static, OwnedMutexGuard<Held>>> = None;
        let mut ended = Some(connection.ended());
        loop {
            let next = tokio::select! {
                biased;
                alone = turn(&mut quiet) => Next::Quiet(alone),
                () = turn(&mut ended) => Next::Lost,
                batch = self.queue.next() => batch.map_or(Next::End, Next::Batch),
            };
            let lost = match next {
                Next::Quiet(alone) => {
                    quiet = None;
                    let work = move || {
                        let result = block_on(scrub(&mut connection));
                        drop(alone);
                        (connection, result)
                    };
                    let (back, result) = self.lifecycle.blocking("scrub", work).await?;
                    connection = back;
                    scrubbed(result, &mut unscrubbed);
                    None
                }
                Next::Batch(batch) => {
                    let (queue, survives, tell) = (Arc::clone(&self.queue), self.survival.is_some(), tell.clone());
                    let work = move || {
                        let committed = block_on(commit_all(&mut connection, batch, &queue, survives, &tell));
                        (connection, committed)
                    };
                    let (back, (deleted, lost)) = self.lifecycle.blocking("commit", work).await?;
                    connection = back;
                    unscrubbed.extend(deleted);
                    if !unscrubbed.is_empty() && quiet.is_none() {
                        quiet = Some(self.reader.alone().boxed());
                    }
                    lost
                }
                Next::Lost => Some(Lost::default()),
                Next::End => break,
            };
            if lost.is_some() || connection.is_lost() {
                ended = None;
                let Some(survival) = &mut self.survival else {
                    // Whether the schema is still ours is not known. The next process goes on where this one ends.
                    self.lifecycle.fail();
                    continue;
                };
                let Some((back, kept)) = survival.outlast(lost.unwrap_or_default(), &self.queue, &self.lifecycle).await
                else {
                    return Ok(());
                };
                connection = back;
                ended = Some(connection.ended());
                self.queue.put_back(kept);
            } else if let Some(survival) = &mut self.survival {
                survival.tidy(&self.lifecycle).await;
            }
        }
        // Its place among those who wait for the reader's turn goes with it.
        drop(quiet);
        let reader = self.reader.clone();
        let close = move || {
            block_on(async {
                if let Err(error) = reader.close().await {
                    tracing::warn!(%error, "the connection that reads did not close cleanly");
                }
                if !unscrubbed.is_empty() {
                    scrubbed(scrub(&mut connection).await, &mut unscrubbed);
                }
                connection.close().await
            })
        };
        if let Ok(Err(error)) = self.lifecycle.blocking("close the store", close).await {
            tracing::warn!(%error, "the store did not close cleanly");
        }
        Ok(())
    }
}

/// In the order in which it was committed.
async fn tell_all(mut told: Receiver<Told>) {
    while let Some(batch) = told.recv().await {
        batch.into_iter().for_each(|(done, result)| done(result));
    }
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

/// One batch, and those that have gathered meanwhile. Returns who waits until what he has deleted is in the log no more, and what
/// was under way where the connection was lost that somebody `survives`.
async fn commit_all(
    connection: &mut Connection,
    mut batch: Vec<Operation>,
    queue: &Queue,
    survives: bool,
    tell: &Sender<Told>,
) -> (Vec<Done>, Option<Lost>) {
    let mut unscrubbed = Vec::new();
    loop {
        let results = match commit(connection, &batch).await {
            Committed::Told(results) => results,
            Committed::Lost { doubt } if survives => return (unscrubbed, Some(Lost { batch, doubt })),
            Committed::Lost { .. } => {
                batch.iter().map(|_| Err(StoreError::Failed("the connection is lost".into()))).collect()
            }
        };
        let mut told = Vec::with_capacity(results.len());
        for (operation, result) in batch.into_iter().zip(results) {
            match operation.scrub {
                Scrub::Yes if result.is_ok() => unscrubbed.push(operation.done),
                Scrub::Yes | Scrub::No => told.push((operation.done, result)),
            }
        }
        // The writer listens for as long as it writes.
        _ = tell.send(told).await;
        if !unscrubbed.is_empty() || connection.is_lost() {
            return (unscrubbed, None);
        }
        (batch, _) = queue.waiting();
        if batch.is_empty() {
            return (unscrubbed, None);
        }
    }
}

/// What became of a batch.
enum Committed {
    Told(Vec<Result<(), StoreError>>),
    /// The connection is lost; with the number of the transaction and its results where it may have been committed.
    Lost {
        doubt: Option<(i64, Vec<Result<(), StoreError>>)>,
    },
}

/// One transaction. Where it fails as a whole, everybody's operation has failed.
async fn commit(connection: &mut Connection, batch: &[Operation]) -> Committed {
    let mut results = Vec::with_capacity(batch.len());
    let mut committed = answered(connection, batch, Each::Bare, &mut results).await;
    // Where one that fails takes the others with it, that is the exception: it is looked for when it is there.
    let look = match &committed {
        Ok(()) => connection.fails_together() && results.iter().any(Result::is_err),
        Err(error) => matches!(error, sql::Error::Entries(_)) && !connection.is_lost(),
    };
    if look {
        committed = answered(connection, batch, Each::Apart, &mut results).await;
    }
    let Err(error) = committed else { return Committed::Told(results) };
    tracing::error!(%error, operations = batch.len(), "the store cannot write");
    connection.look().await;
    if connection.is_lost() {
        return Committed::Lost { doubt: connection.doubt().map(|number| (number, results)) };
    }
    let failure = failed(&error);
    Committed::Told(batch.iter().map(|_| Err(failure.clone())).collect())
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
    results: &mut Vec<Result<(), StoreError>>,
) -> sql::Result<()> {
    results.clear();
    if !connection.fails_together() {
        return transact(connection, batch, each, results).await;
    }
    let in_time = tokio::time::timeout(ANSWER, transact(connection, batch, each, results)).await;
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
    results: &mut Vec<Result<(), StoreError>>,
) -> sql::Result<()> {
    connection.entries.singly = each == Each::Apart;
    let changes = batch.iter().any(|operation| !operation.work.is_reading());
    let mut transaction = connection.begin_shared(changes).await?;
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
            return transaction.rollback().await;
        }
    }
    if let Some(mark) = batch.iter().rev().find_map(|operation| operation.spooled.as_ref()) {
        outage::mark(&mut transaction, mark).await?;
    }
    ledger::flush(&mut transaction).await?;
    transaction.commit().await
}

async fn apart(connection: &mut Connection, work: &Work) -> sql::Result<()> {
    let mut savepoint = connection.begin().await?;
    work.run(&mut savepoint).await?;
    savepoint.commit().await
}

fn failed(error: &sql::Error) -> StoreError {
    StoreError::Failed(error.to_string().into())
}
