//! A server that is away for a while, and the gateway that goes on meanwhile.
//!
//! What came from clients and can be refused is refused at once. What becomes of tasks goes into a file, and counts as durable from then on.
//! Everything that is to be written once the server is back, those records too, waits in its order. Then it is looked what became
//! of the transaction that was under way (its number tells), whether another gateway has had the schema meanwhile (that ends this
//! one), and all of it is written. The file is removed once everything of it is in the database; a process that ends before
//! that leaves it to the next, which writes what is not there yet.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use tokio::time::{Instant, sleep, sleep_until};

use super::metrics::StoreMetrics;
use super::postgres::{DatabaseUrl, NotBack, Owner, Session};
use super::queue::{Operation, Queue, Work};
use super::record::{Entering, Record};
use super::spool::{Left, Mark, Spool};
use super::sql::{self, Connection};
use super::{StoreError, ledger, signed};
use crate::lifecycle::Lifecycle;

/// Before the server is asked again, after the first time that it could not be reached; each time it is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// How long it may take to be back, from the first word to the last.
const ATTEMPT: Duration = Duration::from_secs(20);

/// By how much the clocks of two gateways may differ.
const CLOCKS_DIFFER_MS: i64 = 60 * 60 * 1000;

/// Operations that wait at most. Those of one task are a few.
const MOST_KEPT: usize = 500_000;

/// How a gateway gets over the time for which its database is away.
#[derive(Clone)]
pub struct Outage {
    /// For how long it may be away.
    pub longest: Duration,
    /// Where what becomes of tasks is kept meanwhile.
    pub folder: PathBuf,
    pub metrics: StoreMetrics,
}

/// What was under way when the connection was lost.
#[derive(Default)]
pub(super) struct Lost {
    pub batch: Vec<Operation>,
    /// The transaction that it may have been committed in, and what its operations are told then.
    pub doubt: Option<(i64, Vec<Result<(), StoreError>>)>,
}

/// What gets the writer over an outage.
pub(super) struct Survival {
    outage: Outage,
    url: DatabaseUrl,
    owner: Owner,
    spool: Arc<Mutex<Spool>>,
    /// Records in the file that are not in the database yet.
    spooled: Arc<AtomicUsize>,
}

impl Survival {
    /// Writes what an earlier process has left. Blocking.
    ///
    /// # Errors
    ///
    /// In words.
    pub async fn begin(
        outage: Outage,
        url: DatabaseUrl,
        owner: Owner,
        connection: &mut Connection,
    ) -> Result<Self, String> {
        let mut spool = Spool::new(&outage.folder, &owner.name);
        let path = spool.path().display().to_string();
        let left = spool.read().map_err(|error| format!("what became of tasks, in {path}, cannot be read: {error}"))?;
        if let Some(left) = left {
            let failed = |error| format!("what became of tasks, in {path}, cannot be stored: {error}");
            let records = write_again(connection, &left).await.map_err(failed)?;
            spool.clear().map_err(|error| format!("{path} cannot be removed: {error}"))?;
            tracing::info!(records, "what waited in {path} is in the database");
        }
        let (spool, spooled) = (Arc::new(Mutex::new(spool)), Arc::default());
        outage.metrics.is_back();
        Ok(Self { outage, url, owner, spool, spooled })
    }

    /// Waits until the server is back, and goes on meanwhile. Returns a connection with what is to be written first; `None` once
    /// the queue is closed.
    pub async fn outlast(
        &mut self,
        lost: Lost,
        queue: &Queue,
        lifecycle: &Lifecycle,
    ) -> Option<(Connection, Vec<Operation>)> {
        let since = Instant::now();
        queue.set_away(true);
        self.outage.metrics.is_away();
        tracing::error!(
            longest_ms = self.outage.longest.as_millis(),
            "the {} is away: tasks that are to outlive the process are refused until it is back",
            self.url
        );
        let Lost { batch, doubt } = lost;
        let doubtful = doubt.as_ref().map_or(0, |_| batch.len());
        let mut kept = sort(batch, doubtful);
        self.keep(&mut kept, lifecycle).await;
        let number = doubt.as_ref().map(|(number, _)| *number);
        let mut pause = FIRST_PAUSE;
        let mut attempt = Some(self.attempt(pause, number, lifecycle));
        loop {
            let over = tokio::select! {
                biased;
                came = next_of(&mut attempt) => match came {
                    Ok((session, committed)) => {
                        // Before anybody hears of what was committed, and asks for more.
                        queue.set_away(false);
                        let kept = settle(kept, doubt.map(|(_, results)| results), committed);
                        self.outage.metrics.is_back();
                        tracing::info!(away_ms = since.elapsed().as_millis(), waiting = kept.len(), "the {} is back", self.url);
                        return Some((Connection::postgres(session), kept));
                    }
                    Err(NotBack::Later(why)) => {
                        tracing::debug!(why, "the {} is still away", self.url);
                        pause = (2 * pause).min(LONGEST_PAUSE);
                        attempt = Some(self.attempt(pause, number, lifecycle));
                        None
                    }
                    Err(NotBack::Taken) => Some("another gateway has had it meanwhile"),
                },
                batch = queue.next() => {
                    let Some(batch) = batch else { break };
                    kept.extend(sort(batch, 0));
                    self.keep(&mut kept, lifecycle).await;
                    (kept.len() > MOST_KEPT).then_some("more waits for it than there is room for")
                }
                () = sleep_until(since + self.outage.longest), if attempt.is_some() => Some("it was away for too long"),
            };
            if let Some(why) = over.filter(|_| attempt.is_some()) {
                tracing::error!("the {} is given up, and the gateway with it: {why}", self.url);
                attempt = None;
                lifecycle.fail();
            }
        }
        kept.into_iter().for_each(|operation| (operation.done)(Err(StoreError::Closed)));
        let records = self.spooled.load(Ordering::Acquire);
        if records > 0 {
            let path = lock(&self.spool).path().display().to_string();
            tracing::warn!(records, path, "what became of tasks waits in a file for the next start");
        }
        None
    }

    /// Removes the file once nothing of it is missing in the database.
    pub async fn tidy(&mut self, lifecycle: &Lifecycle) {
        let left = self.spooled.load(Ordering::Acquire);
        self.outage.metrics.spooled(left);
        if left > 0 || !self.has_file() {
            return;
        }
        let spool = Arc::clone(&self.spool);
        let cleared = lifecycle.blocking("remove the spool", move || lock(&spool).clear()).await;
        if let Ok(Err(error)) = cleared {
            tracing::warn!(%error, "the spool stays, though all of it is in the database");
        }
    }

    fn has_file(&self) -> bool {
        lock(&self.spool).is_open()
    }

    fn attempt(
        &self,
        pause: Duration,
        doubt: Option<i64>,
        lifecycle: &Lifecycle,
    ) -> BoxFuture<'static, Result<(Session, bool), NotBack>> {
        let (url, owner, lifecycle) = (self.url.clone(), self.owner.clone(), lifecycle.clone());
        async move {
            sleep(pause).await;
            let again = tokio::time::timeout(ATTEMPT, Session::open_again(&url, &owner, doubt, &lifecycle)).await;
            again.unwrap_or_else(|_| Err(NotBack::Later("it was reached, and did not answer".to_owned())))
        }
        .boxed()
    }

    /// Puts the records among these into the file, and tells who waits for them.
    async fn keep(&self, kept: &mut [Operation], lifecycle: &Lifecycle) {
        let (mut operations, mut records) = (Vec::new(), Vec::new());
        for operation in kept.iter_mut().filter(|operation| operation.spooled.is_none()) {
            if let Work::Record(record) = &operation.work {
                records.push(Record::clone(record));
                operations.push(operation);
            }
        }
        if records.is_empty() {
            return;
        }
        let spool = Arc::clone(&self.spool);
        let appended = lifecycle.blocking("spool", move || lock(&spool).append(&records)).await;
        let appended =
            appended.map_err(|panicked| panicked.to_string()).and_then(|io| io.map_err(|error| error.to_string()));
        for (at, operation) in operations.into_iter().enumerate() {
            let result = match &appended {
                Ok(places) => {
                    operation.spooled = places.get(at).cloned();
                    self.spooled.fetch_add(1, Ordering::AcqRel);
                    Ok(())
                }
                Err(error) => Err(StoreError::Failed(error.as_str().into())),
            };
            let spooled = operation.spooled.as_ref().map(|_| Arc::clone(&self.spooled));
            let stored = move |result: Result<(), StoreError>| match (result, spooled) {
                (Ok(()), Some(spooled)) => _ = spooled.fetch_sub(1, Ordering::AcqRel),
                // The file stays, for the next start.
                (Err(StoreError::Closed), Some(_)) => {}
                (Err(error), Some(_)) => tracing::error!(%error, "what is kept in a file could not be stored"),
                (_, None) => {}
            };
            std::mem::replace(&mut operation.done, Box::new(stored))(result);
        }
        self.outage.metrics.spooled(self.spooled.load(Ordering::Acquire));
    }
}

async fn next_of<T>(attempt: &mut Option<BoxFuture<'static, T>>) -> T {
    match attempt {
        Some(attempt) => attempt.await,
        None => std::future::pending().await,
    }
}

/// Refuses what can be, but for what came first and may have been done.
fn sort(batch: Vec<Operation>, doubtful: usize) -> Vec<Operation> {
    let keep = |(at, operation): (usize, Operation)| {
        if at < doubtful || operation.work.waits() {
            return Some(operation);
        }
        (operation.done)(Err(StoreError::Away));
        None
    };
    batch.into_iter().enumerate().filter_map(keep).collect()
}

/// What is left to be written, once it is known whether what was doubtful was committed. That comes first, and has results.
fn settle(kept: Vec<Operation>, results: Option<Vec<Result<(), StoreError>>>, committed: bool) -> Vec<Operation> {
    let Some(results) = results else { return kept };
    let doubtful = results.len();
    if !committed {
        return sort(kept, 0);
    }
    let mut kept = kept.into_iter();
    kept.by_ref().take(doubtful).zip(results).for_each(|(operation, result)| (operation.done)(result));
    kept.collect()
}

fn lock(spool: &Mutex<Spool>) -> std::sync::MutexGuard<'_, Spool> {
    spool.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Those that are not written yet, all or none; returns how many. A task that another gateway has charged meanwhile, because its
/// process seemed to have ended, is charged once: as that one did.
async fn write_again(connection: &mut Connection, left: &Left) -> sql::Result<usize> {
    let mut all_or_none = connection.begin_shared(true).await?;
    let last = "SELECT spool, spool_records FROM owner";
    let (spool, written): (String, i64) = sql::query(last).fetch_one(&mut all_or_none).await?;
    let written = if spool == left.id { usize::try_from(written).unwrap_or(usize::MAX) } else { 0 };
    let records = left.records.get(written..).unwrap_or_default();
    let first_ms = records.iter().filter_map(|record| Some(record.entry()?.ended_ms)).min();
    let mut there = match first_ms {
        Some(first_ms) => ledger::tasks_since(&mut all_or_none, first_ms.saturating_sub(CLOCKS_DIFFER_MS)).await?,
        None => HashSet::new(),
    };
    for record in records {
        record.file(&mut all_or_none, &mut Entering::Again(&mut there)).await?;
    }
    let all = Mark { spool: left.id.as_str().into(), records: signed(left.records.len() as u64) };
    mark(&mut all_or_none, &all).await?;
    all_or_none.commit().await?;
    Ok(records.len())
}

/// Notes how far a spool is written.
pub(super) async fn mark(connection: &mut Connection, Mark { spool, records }: &Mark) -> sql::Result<()> {
    let update = "UPDATE owner SET spool = $1, spool_records = $2";
    sql::query(update).bind(spool.as_ref()).bind(*records).execute(connection).await.map(|_| ())
}
