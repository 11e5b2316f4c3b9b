//! Counts what the engine holds and how fast it samples.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::engine::EngineStats;

/// Tokens per second are those of the last so many seconds.
const WINDOW: usize = 5;

/// The counters of one engine.
#[derive(Debug)]
pub struct Meter {
    start: Instant,
    running: AtomicU32,
    tokens: AtomicU64,
    rate: Mutex<Rate>,
}

/// One sequence that the engine holds; stops counting when dropped.
#[derive(Debug)]
pub struct Running(Arc<Meter>);

impl Meter {
    pub fn new() -> Self {
        Self { start: Instant::now(), running: AtomicU32::new(0), tokens: AtomicU64::new(0), rate: Mutex::default() }
    }

    pub fn sequence(self: &Arc<Self>) -> Running {
        self.running.fetch_add(1, Ordering::Relaxed);
        Running(self.clone())
    }

    pub fn count(&self, tokens: u32) {
        self.tokens.fetch_add(u64::from(tokens), Ordering::Relaxed);
        self.rate.lock().unwrap_or_else(PoisonError::into_inner).count(self.start.elapsed(), tokens);
    }

    /// All but the slots, which it does not know.
    pub fn stats(&self) -> EngineStats {
        EngineStats {
            slots: 0,
            running: self.running.load(Ordering::Relaxed),
            tokens_total: self.tokens.load(Ordering::Relaxed),
            tokens_per_s: self.rate.lock().unwrap_or_else(PoisonError::into_inner).per_second(self.start.elapsed()),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Tokens by second, for the last seconds.
#[derive(Debug, Default)]
struct Rate {
    /// (the second, counted from the start, and its tokens), at the second modulo the window.
    seconds: [(u64, u64); WINDOW],
}

impl Rate {
    fn count(&mut self, now: Duration, tokens: u32) {
        let second = now.as_secs();
        let slot = &mut self.seconds[second as usize % WINDOW];
        if slot.0 != second {
            *slot = (second, 0);
        }
        slot.1 += u64::from(tokens);
    }

    fn per_second(&self, now: Duration) -> f64 {
        let oldest = (now.as_secs() + 1).saturating_sub(WINDOW as u64);
        let tokens: u64 = self.seconds.iter().filter(|(second, _)| *second >= oldest).map(|(_, tokens)| tokens).sum();
        tokens as f64 / (now.as_secs_f64() - oldest as f64).max(1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_that_of_the_last_seconds() {
        let mut rate = Rate::default();
        for second in 0..10 {
            rate.count(Duration::from_secs(second), 100);
        }
        assert_eq!(rate.per_second(Duration::from_secs(10)), 100.0, "6 to 9, and nothing yet in 10");
        assert_eq!(rate.per_second(Duration::from_secs(30)), 0.0);
    }
}
