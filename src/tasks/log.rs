//! The event log of a task: appended by whoever runs it, followed by any number of readers, sealed once.
//!
//! One plain mutex guards all of a log. It is held for a push or for the copy of a bounded batch (an event is at most 48
//! bytes and cloning it never allocates), so neither a slow reader nor many readers can hold up the engine's side. An
//! event's id is its place in the log, from 1.
//!
//! Appending and sealing take the same lock: once [`EventLog::seal`] has returned, no token is ever appended again.

use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use sluicegate_compat::native::Event;
use smallvec::SmallVec;
use tokio::time::Instant;

use super::progress::Progress;
use super::sync::Mutex;

/// How many events a reader takes under one hold of the lock.
const BATCH: usize = 64;

/// The events of one task, from the first to the last.
#[derive(Default)]
pub struct EventLog {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Events that were before these, and are gone.
    gone: u64,
    events: Vec<Event>,
    progress: Progress,
    /// Set by the one call of [`EventLog::seal`] that wins.
    sealed: bool,
    /// Sealed without a last event: the next process goes on with it.
    parked: bool,
    /// Readers that have seen everything, by their number.
    waiting: SmallVec<[(u64, Waker); 2]>,
    readers_made: u64,
}

/// The log takes no more events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the task has ended")]
pub struct Sealed;

impl EventLog {
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// The log of a task of an earlier process: `gone` events of it are not kept, but for what is known from them.
    pub fn kept(gone: u64, progress: Progress) -> Arc<Self> {
        Arc::new(Self { state: Mutex::new(State { gone, progress, ..State::default() }) })
    }

    /// Whether all events are here, or those from the beginning are kept no more.
    pub fn is_whole(&self) -> bool {
        self.lock().gone == 0
    }

    /// The id of the last event so far; 0 where there is none.
    pub fn last_id(&self) -> u64 {
        let state = self.lock();
        state.gone + state.events.len() as u64
    }

    /// Appends an event that is not the last.
    ///
    /// # Errors
    ///
    /// [`Sealed`] once somebody has won the seal: the event is not appended.
    pub fn append(&self, event: Event, now: Instant) -> Result<(), Sealed> {
        debug_assert!(!event.is_last(), "the last event needs the seal");
        let waiting = {
            let mut state = self.lock();
            if state.sealed {
                return Err(Sealed);
            }
            state.push(event, now)
        };
        wake(waiting);
        Ok(())
    }

    /// Notes that the engine goes on, where no event says so.
    pub fn touch(&self, now: Instant) {
        self.lock().progress.active = Some(now);
    }

    /// Closes the log for tokens. The first caller gets the [`Seal`], and with it the duty to write the last event.
    pub fn seal(self: &Arc<Self>) -> Option<Seal> {
        let mut state = self.lock();
        if state.sealed {
            return None;
        }
        state.sealed = true;
        Some(Seal { log: Arc::clone(self) })
    }

    /// Closes the log of a task that waits, without a last event: another process runs it. False where it has started, or
    /// has ended.
    pub fn park(&self) -> bool {
        let waiting = {
            let mut state = self.lock();
            if state.sealed || state.progress.started.is_some() {
                return false;
            }
            (state.sealed, state.parked) = (true, true);
            std::mem::take(&mut state.waiting)
        };
        wake(waiting);
        true
    }

    /// Returns once the last event has been written.
    pub async fn ended(self: &Arc<Self>) {
        let (mut reader, mut events) = (self.reader(u64::MAX), Vec::new());
        while reader.read(&mut events).await != Read::End {
            events.clear();
        }
    }

    /// Whether somebody has won the seal; the last event may be yet to come.
    pub fn is_sealed(&self) -> bool {
        self.lock().sealed
    }

    /// A reader of the events with ids above `after`.
    pub fn reader(self: &Arc<Self>, after: u64) -> Reader {
        let mut state = self.lock();
        state.readers_made += 1;
        let next = usize::try_from(after.saturating_sub(state.gone)).unwrap_or(usize::MAX).min(state.events.len());
        Reader { log: Arc::clone(self), number: state.readers_made, next }
    }

    /// What is known so far.
    pub fn progress(&self) -> Progress {
        self.lock().progress.clone()
    }

    /// Looks at all events so far, under the lock: for short folds only.
    pub fn inspect<T>(&self, look: impl FnOnce(&[Event]) -> T) -> T {
        look(&self.lock().events)
    }

    fn lock(&self) -> impl std::ops::DerefMut<Target = State> + '_ {
        // Nothing panics while it holds the lock; if it did, the events before that are still whole.
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl State {
    fn push(&mut self, event: Event, now: Instant) -> SmallVec<[(u64, Waker); 2]> {
        self.progress.apply(&event, now);
        self.events.push(event);
        std::mem::take(&mut self.waiting)
    }
}

/// Wakes readers outside the lock, because a waker may run any code.
fn wake(waiting: SmallVec<[(u64, Waker); 2]>) {
    for (_, waker) in waiting {
        waker.wake();
    }
}

/// The right, and the duty, to write a log's last event. There is one per log.
#[must_use = "the log waits for its last event"]
pub struct Seal {
    log: Arc<EventLog>,
}

impl Seal {
    /// What is known of the task; tokens cannot change any more.
    pub fn progress(&self) -> Progress {
        self.log.progress()
    }

    /// Writes the last event.
    pub fn end(self, event: Event, now: Instant) {
        debug_assert!(event.is_last(), "only `end` and `error` close a log");
        let waiting = self.log.lock().push(event, now);
        wake(waiting);
    }
}

/// A cursor into a log.
pub struct Reader {
    log: Arc<EventLog>,
    number: u64,
    next: usize,
}

/// What a poll of a [`Reader`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Read {
    /// Events were added to the buffer; the first of them has this id.
    Events { first_id: u64 },
    /// The last event was read before, or comes from another process.
    End,
}

impl Reader {
    /// Moves up to 64 events into `into` (which the caller has emptied), or waits for some.
    pub fn poll_read(&mut self, cx: &mut Context<'_>, into: &mut Vec<Event>) -> Poll<Read> {
        let mut state = self.log.lock();
        let fresh = &state.events[self.next..];
        if !fresh.is_empty() {
            let batch = &fresh[..fresh.len().min(BATCH)];
            into.extend_from_slice(batch);
            let first_id = state.gone + self.next as u64 + 1;
            self.next += batch.len();
            return Poll::Ready(Read::Events { first_id });
        }
        if state.parked || state.events.last().is_some_and(Event::is_last) {
            return Poll::Ready(Read::End);
        }
        match state.waiting.iter_mut().find(|(number, _)| *number == self.number) {
            Some((_, waker)) => waker.clone_from(cx.waker()),
            None => state.waiting.push((self.number, cx.waker().clone())),
        }
        Poll::Pending
    }

    /// [`Reader::poll_read`] as a future.
    pub async fn read(&mut self, into: &mut Vec<Event>) -> Read {
        std::future::poll_fn(|cx| self.poll_read(cx, into)).await
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.log.lock().waiting.retain(|(number, _)| *number != self.number);
    }
}
