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
    /// Of all sequences.
    kv_tokens: AtomicU64,
    rate: Mutex<Rate>,
}

/// One sequence that the engine holds; stops counting when dropped.
#[derive(Debug)]
pub struct Running {
    meter: Arc<Meter>,
    kv_tokens: AtomicU64,
}

impl Meter {
    pub fn new() -> Self {
        Self {
            start: Instant::now(),
            running: AtomicU32::new(0),
            tokens: AtomicU64::new(0),
            kv_tokens: AtomicU64::new(0),
            rate: Mutex::default(),
        }
    }

    pub fn sequence(self: &Arc<Self>) -> Running {
        self.running.fetch_add(1, Ordering::Relaxed);
        Running { meter: self.clone(), kv_tokens: AtomicU64::new(0) }
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
            kv_tokens: self.kv_tokens.load(Ordering::Relaxed),
            gpu: None,
        }
    }
}

impl Running {
    /// Notes how many tokens the sequence holds in the engine's cache. One thread at a time.
    pub fn holds(&self, tokens: usize) {
        let before = self.kv_tokens.swap(tokens as u64, Ordering::Relaxed);
        // Wraps where it is less than before, and so does the sum.
        self.meter.kv_tokens.fetch_add((tokens as u64).wrapping_sub(before), Ordering::Relaxed);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.holds(0);
        self.meter.running.fetch_sub(1, Ordering::Relaxed);
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
    fn what_sequences_hold_is_given_back_with_them() {
        let meter = Arc::new(Meter::new());
        let (one, other) = (meter.sequence(), meter.sequence());
        one.holds(10);
        other.holds(5);
        one.holds(12);
        other.holds(3);
        assert_eq!((meter.stats().running, meter.stats().kv_tokens), (2, 15));
        drop(one);
        assert_eq!((meter.stats().running, meter.stats().kv_tokens), (1, 3));
    }

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
