//! The line between the engine's thread, where tokens are chosen, and the task that waits for them.
//!
//! A [`Tap`] is read by the generation; its one [`Seat`] lives in the sequence's logits processor, inside the engine. The
//! engine holds the processor for as long as it holds the sequence, so the seat's drop is how one learns that the engine
//! has let go, in whatever way that came about.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// A token that was chosen. Under a grammar a position can come twice; the later record counts.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    /// Counts generated tokens from 0.
    pub position: u32,
    pub token: u32,
    /// Natural log-probability and likeliest alternatives, where asked for.
    pub logprobs: Option<Logprobs>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Logprobs {
    pub logprob: f32,
    pub top: Box<[(u32, f32)]>,
}

/// The reader's end.
#[derive(Debug, Default)]
pub struct Tap {
    /// A plain mutex: held for a push or a swap, by two threads at most. Grows to the tokens of one sequence at most.
    state: Mutex<State>,
    news: Notify,
    closing: AtomicBool,
}

#[derive(Debug, Default)]
struct State {
    records: Vec<Record>,
    released: bool,
    broken: bool,
}

/// How things stand on the engine's side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// The engine has dropped the sequence; no record will follow.
    pub released: bool,
    /// The processor could not read the logits.
    pub broken: bool,
}

/// The engine's end.
#[derive(Debug)]
pub struct Seat(Arc<Tap>);

impl Tap {
    pub fn new() -> (Arc<Self>, Seat) {
        let tap = Arc::new(Self::default());
        (tap.clone(), Seat(tap))
    }

    /// Waits until there may be something new.
    pub async fn news(&self) {
        self.news.notified().await;
    }

    /// Moves all records into the empty `records`, whose memory is used again.
    pub fn take(&self, records: &mut Vec<Record>) -> Standing {
        let mut state = self.lock();
        std::mem::swap(&mut state.records, records);
        Standing { released: state.released, broken: state.broken }
    }

    /// Asks the processor to bring the sequence to its end.
    pub fn close(&self) {
        self.closing.store(true, Ordering::Release);
    }

    /// Waits until the engine has dropped the sequence.
    pub async fn released(&self) {
        while !self.lock().released {
            self.news().await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.lock());
        self.news.notify_one();
    }
}

impl Seat {
    pub fn push(&self, record: Record) {
        self.0.tell(|state| state.records.push(record));
    }

    /// Says that no token can be chosen.
    pub fn fail(&self) {
        self.0.tell(|state| state.broken = true);
    }

    pub fn is_closing(&self) -> bool {
        self.0.closing.load(Ordering::Acquire)
    }

    /// Nothing after the present token will be wanted.
    pub fn close(&self) {
        self.0.close();
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.tell(|state| state.released = true);
    }
}
