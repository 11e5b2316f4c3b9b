//! What is known of a task from its events so far. Kept under the log's lock, so that it always agrees with the log.

use std::sync::Arc;

use sluicegate_compat::native::{Event, Started};
use tokio::time::Instant;

/// A fold over a task's events.
#[derive(Debug, Clone, Default)]
pub struct Progress {
    /// The `started` event and when it came.
    pub started: Option<(Instant, Arc<Started>)>,
    pub first_token: Option<Instant>,
    /// When the engine last showed that it goes on.
    pub active: Option<Instant>,
    /// Token events so far, over all choices.
    pub tokens: u64,
    /// Estimated memory of the log, in bytes.
    pub bytes: usize,
    /// The last event and when it came.
    pub ended: Option<(Instant, Event)>,
}

impl Progress {
    /// Takes one more event into account.
    pub fn apply(&mut self, event: &Event, now: Instant) {
        self.bytes += size_of::<Event>();
        match event {
            Event::Started(started) => self.started = Some((now, Arc::clone(started))),
            Event::Token(token) => {
                self.first_token.get_or_insert(now);
                self.active = Some(now);
                self.tokens += 1;
                self.bytes += if token.text.is_heap_allocated() { token.text.len() } else { 0 };
                self.bytes += token.tool.as_ref().map_or(0, |tool| 128 + tool.arguments.len());
                self.bytes += token.logprobs.as_ref().map_or(0, |logprobs| 64 + 48 * logprobs.top.len());
            }
            Event::Result(result) => {
                self.active = Some(now);
                self.bytes += 64 + result.bytes();
            }
            Event::Metrics(_) => self.bytes += 64,
            Event::End(_) | Event::Error(_) => {
                self.bytes += 256;
                self.ended = Some((now, event.clone()));
            }
        }
    }
}
