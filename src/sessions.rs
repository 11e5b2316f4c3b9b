//! Sessions: what tasks that belong together have in common.
//!
//! A session is made when it is first used and forgotten when nobody has used it for its time to live. It holds facts about
//! its tasks and never their texts: how many came to an end of their own, where the last of them ran, how much of its
//! prompt that engine still had. What they may use together is in an account of [`Budgets`].
//!
//! [`Book`] is the machine: plain data beside the accounts, with no clock and no I/O. [`Sessions`] is one mutex around it, and
//! [`Turn`] a value that a task holds while it has not ended.
//!
//! Sessions outlive the process, but for where their last task ran: what an engine had in its cache is gone with it. A
//! session is filed with the first task that was let in, or when a client sets it up, and what a task has used is added to
//! what is filed in the transaction that its end waits for. `earlier` is how they come back.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use tokio::time::Instant;

use crate::budgets::{AccountId, Budgets, Left};
use crate::ids::SessionId;
use crate::store::{SessionRow, Store, StoreError};
use crate::tasks::{Clock, Ended, Observer, Spending, Task};

mod book;
mod earlier;
mod metrics;

pub use book::{Book, Departed, Good, Key, Look, Settings};
pub use earlier::Holds;
pub use metrics::{Gone, SessionMetrics};

/// Ready once a change is durable.
pub type Filed = BoxFuture<'static, Result<(), StoreError>>;

/// All sessions. One mutex: every operation under it is a few look-ups. What is filed is handed to the store under it as
/// well, so that a session which has gone cannot come back with a task that was let in meanwhile.
pub struct Sessions {
    metrics: SessionMetrics,
    budgets: Budgets,
    store: Store,
    book: Mutex<Book>,
}

impl Sessions {
    /// Begins a turn in a session, which is made where there is none. The session lives at least as long as the turn.
    pub fn enter(self: &Arc<Self>, key: Key) -> Turn {
        let ((number, account), _gone) = self.change_book(|book, now| book.enter(&key, now));
        Turn { sessions: Arc::clone(self), key, number, account }
    }

    pub fn look(&self, key: &Key) -> Option<Look> {
        self.book().look(key, Instant::now())
    }

    /// Starts the time to live of a session anew; `None` where there is none.
    pub fn extend(&self, key: &Key) -> Option<Filed> {
        let (filed, _gone) = self.change_book(|book, now| {
            let number = book.extend(key, now)?;
            self.file(book, key, number)
        });
        filed
    }

    /// The accounts that a task of the session counts for; of one that is not there yet, what it will begin with.
    pub fn accounts(&self, key: &Key) -> (Vec<AccountId>, Left) {
        self.book().accounts(key, Instant::now())
    }

    /// Makes a session, or changes what is named: its time to live, which starts anew, and its budgets.
    pub fn put(&self, key: &Key, ttl: Option<Duration>, budget: Left) -> Filed {
        let (filed, _gone) = self.change_book(|book, now| {
            let number = book.put(key, ttl, budget, now);
            self.file(book, key, number)
        });
        // One that had no room has gone again.
        filed.unwrap_or_else(|| async { Ok(()) }.boxed())
    }

    /// Forgets a session; `None` where there was none. Its tasks go on, and belong to none.
    pub fn evict(&self, key: &Key) -> Option<Filed> {
        let (found, gone) = self.change_book(|book, now| book.evict(key, now));
        found.then_some(gone)
    }

    /// Forgets the sessions whose time is over. Called every second or so.
    pub fn sweep(&self) {
        let ((), _gone) = self.change_book(Book::sweep);
    }

    /// Has a task filed that was let in, with its session as it is now where it has one that has not gone meanwhile.
    pub fn filing<T>(&self, task: &Task, hand_over: impl FnOnce(Option<SessionRow>) -> T) -> T {
        let number = task.spending.as_ref().and_then(Spending::session);
        let Some((id, number)) = task.spec.session_id.zip(number) else { return hand_over(None) };
        let key = Key { tenant: task.spec.tenant_id.clone(), id: SessionId(id) };
        let mut book = self.book();
        hand_over(book.row(&key, number, Clock::now()))
    }

    fn file(&self, book: &mut Book, key: &Key, number: u64) -> Option<Filed> {
        book.row(key, number, Clock::now()).map(|row| self.store.put_session(row))
    }

    /// Also tells when the sessions that have gone with that are out of the store. Nobody has to wait for it.
    fn change_book<T>(&self, change: impl FnOnce(&mut Book, Instant) -> T) -> (T, Filed) {
        let mut book = self.book();
        let result = change(&mut book, Instant::now());
        let gone = book.take_gone();
        // Set under the lock, so that the last to change it is the last to write.
        self.metrics.changed(&gone, book.len());
        (result, self.forget(gone.iter().filter_map(|gone| gone.number).map(u64::cast_signed).collect()))
    }

    fn forget(&self, numbers: Vec<i64>) -> Filed {
        if numbers.is_empty() { async { Ok(()) }.boxed() } else { self.store.forget_sessions(numbers) }
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

    /// The number of the session.
    pub fn session(&self) -> u64 {
        self.number
    }
}

impl Observer for Turn {
    fn ended(&self, task: &Task, how: &Ended) {
        let Some((end, replica_id)) = how.by_itself().zip(task.replica_id()) else { return };
        let warmth = end.cached_tokens as f64 / end.tokens_in.max(1) as f64;
        let good = Good { pool_id: task.pool_id(), replica_id, warmth };
        self.sessions.book().good(&self.key, self.number, good);
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let ((), _gone) = self.sessions.change_book(|book, now| book.leave(&self.key, self.number, now));
    }
}
