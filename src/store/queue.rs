//! What waits to be written, and who hears of it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use futures_util::future::BoxFuture;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::record::{Entering, Record};
use super::spool::Mark;
use super::sql::{self, Connection};
use super::{Scrub, StoreError};

/// Operations of one batch at most: about 0.1 ms each (2,000 new tasks took 0.2 s on two cores), so that nobody waits much
/// longer than 50 ms for a batch that has begun.
const BATCH: usize = 512;

/// It may be called again, where others that failed took it with them, or where the database was away.
pub(super) type Statements = Box<dyn for<'c> Fn(&'c mut Connection) -> BoxFuture<'c, sql::Result<()>> + Send + Sync>;

/// What is done inside a transaction.
pub(super) enum Work {
    Statements(Statements, WhileAway),
    /// It is kept in a file while the database is away.
    Record(Box<Record>),
}

/// What becomes of statements while the database is away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WhileAway {
    /// They wait, in their order.
    Wait,
    /// Whoever wants them is told so at once.
    Refused,
    /// As those; and they change nothing.
    Reading,
}

impl Work {
    pub async fn run(&self, connection: &mut Connection) -> sql::Result<()> {
        match self {
            Self::Statements(statements, _) => statements(connection).await,
            Self::Record(record) => record.file(connection, &mut Entering::First).await,
        }
    }

    pub fn is_reading(&self) -> bool {
        matches!(self, Self::Statements(_, WhileAway::Reading))
    }

    pub fn waits(&self) -> bool {
        matches!(self, Self::Statements(_, WhileAway::Wait) | Self::Record(_))
    }
}

pub(super) type Done = Box<dyn FnOnce(Result<(), StoreError>) + Send>;

/// One thing to do inside a transaction, and who hears of it.
pub(super) struct Operation {
    pub work: Work,
    pub done: Done,
    pub scrub: Scrub,
    /// Its place in the spool, where it is there and whoever waited has heard of it.
    pub spooled: Option<Mark>,
}

/// What waits to be written. Its bound is that of what hands over: each accepted task has a few operations at most, each
/// request waits for its own.
#[derive(Default)]
pub(super) struct Queue {
    state: Mutex<State>,
    changed: Notify,
    away: AtomicBool,
    /// The database is closed, or lost.
    finished: CancellationToken,
}

#[derive(Default)]
struct State {
    operations: Vec<Operation>,
    closing: bool,
}

impl Queue {
    pub fn push(&self, operation: Operation) {
        if self.is_away() && !operation.work.waits() {
            return (operation.done)(Err(StoreError::Away));
        }
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

    /// Hands back what was taken and not done: it comes before all others.
    pub fn put_back(&self, operations: Vec<Operation>) {
        self.lock().operations.splice(0..0, operations);
        self.changed.notify_one();
    }

    pub fn is_away(&self) -> bool {
        self.away.load(Ordering::Acquire)
    }

    pub fn set_away(&self, away: bool) {
        self.away.store(away, Ordering::Release);
    }

    pub async fn close(&self) {
        self.lock().closing = true;
        self.changed.notify_one();
        self.finished.cancelled().await;
    }

    /// The next operations; `None` once the queue is closed and empty. Nothing is lost where it is not waited for.
    pub async fn next(&self) -> Option<Vec<Operation>> {
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
    pub fn waiting(&self) -> (Vec<Operation>, bool) {
        let mut state = self.lock();
        let count = state.operations.len().min(BATCH);
        (state.operations.drain(..count).collect(), state.closing)
    }

    /// Whoever waits hears that nothing is written any more.
    pub fn finish(&self) {
        let left = {
            let mut state = self.lock();
            state.closing = true;
            std::mem::take(&mut state.operations)
        };
        for operation in left {
            (operation.done)(Err(StoreError::Closed));
        }
        self.finished.cancel();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
