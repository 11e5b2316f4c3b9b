//! Sessions: what tasks that belong together have in common.
//!
//! A session is made when it is first used and forgotten when nobody has used it for its time to live. It holds facts about
//! its tasks and never their texts: how many came to an end of their own, where the last of them ran, how much of its
//! prompt that engine still had. What they may use together is in an account of [`Budgets`].
//!
//! [`Book`] is the machine: plain data beside the accounts, with no clock and no I/O. [`Sessions`] is one mutex around it, and
//! [`Turn`] a value that a task holds while it has not ended.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sluicegate_compat::native::{Event, FinishReason};
use tokio::time::Instant;

use crate::budgets::{AccountId, Budgets, Left};
use crate::tasks::{Ended, Observer, Task};

mod book;
mod metrics;

pub use book::{Book, Good, Key, Look, Settings};
pub use metrics::{Gone, SessionMetrics};

/// All sessions. One mutex: every operation under it is a few look-ups.
pub struct Sessions {
    metrics: SessionMetrics,
    book: Mutex<Book>,
}

impl Sessions {
    pub fn new(settings: Settings, budgets: Budgets, metrics: SessionMetrics) -> Arc<Self> {
        Arc::new(Self { metrics, book: Mutex::new(Book::new(settings, budgets)) })
    }

    /// Begins a turn in a session, which is made where there is none. The session lives at least as long as the turn.
    pub fn enter(self: &Arc<Self>, key: Key) -> Turn {
        let (number, account) = self.change_book(|book, now| book.enter(&key, now));
        Turn { sessions: Arc::clone(self), key, number, account }
    }

    pub fn look(&self, key: &Key) -> Option<Look> {
        self.book().look(key, Instant::now())
    }

    /// Starts the time to live of a session anew; says whether there is one.
    pub fn extend(&self, key: &Key) -> bool {
        self.change_book(|book, now| book.extend(key, now))
    }

    /// What a task of the session could use of its budgets now.
    pub fn left(&self, key: &Key) -> Left {
        self.book().left(key, Instant::now())
    }

    /// Makes a session, or changes what is named: its time to live, which starts anew, and its budgets.
    pub fn put(&self, key: &Key, ttl: Option<Duration>, budget: Left) {
        self.change_book(|book, now| book.put(key, ttl, budget, now));
    }

    /// Forgets a session; says whether there was one. Its tasks go on, and belong to none.
    pub fn evict(&self, key: &Key) -> bool {
        self.change_book(|book, now| book.evict(key, now))
    }

    /// Forgets the sessions whose time is over. Called every second or so.
    pub fn sweep(&self) {
        self.change_book(Book::sweep);
    }

    fn change_book<T>(&self, change: impl FnOnce(&mut Book, Instant) -> T) -> T {
        let mut book = self.book();
        let result = change(&mut book, Instant::now());
        // Set under the lock, so that the last to change it is the last to write.
        self.metrics.changed(&mut book);
        result
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        // Nothing panics while it holds the lock; if it did, the sessions before that are still whole.
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One task of a session, until it has ended. Dropped without an end where the task was not let in.
pub struct Turn {
    sessions: Arc<Sessions>,
    key: Key,
    /// Of the session: one that was made anew meanwhile is another.
    number: u64,
    account: AccountId,
}

impl Turn {
    /// That the session's tasks count for.
    pub fn account(&self) -> AccountId {
        self.account
    }
}

impl Observer for Turn {
    fn ended(&self, task: &Task, how: &Ended) {
        let Event::End(end) = &how.last else { return };
        let by_itself =
            matches!(end.finish_reason, FinishReason::Stop | FinishReason::Length | FinishReason::ToolCalls);
        let Some(replica_id) = task.replica_id().filter(|_| by_itself) else { return };
        let warmth = end.cached_tokens as f64 / end.tokens_in.max(1) as f64;
        let good = Good { pool_id: task.pool_id(), replica_id, warmth };
        self.sessions.book().good(&self.key, self.number, good);
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.sessions.change_book(|book, now| book.leave(&self.key, self.number, now));
    }
}
