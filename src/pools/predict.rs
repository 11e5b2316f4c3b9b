//! When a task will start, from what runs, what waits before it, and the measured rates. Pure.

use super::queue::Work;
use super::rates::Rates;

/// A sequence that holds a slot.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Running {
    /// Prompt tokens not yet known to be prefilled.
    pub prefill_tokens: u32,
    /// Output tokens expected to be still to come.
    pub decode_tokens: u32,
}

/// Where a task stands, in ms from now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Prediction {
    pub start_ms: u64,
    pub end_ms: u64,
}

/// Predicts the start and end of a task with `ahead` of it in the queue, when `running` hold some of `slots`.
///
/// A slot that is free starts the next in line now. Otherwise the work of the running sequences and of the queue ahead is
/// spread over all slots; but the task cannot start before the first slot is free.
pub fn predict(rates: &Rates, slots: u32, running: &[Running], ahead: Work, own: Work) -> Prediction {
    let slots = f64::from(slots.max(1));
    let remaining = running
        .iter()
        .map(|sequence| rates.duration_ms(f64::from(sequence.prefill_tokens), f64::from(sequence.decode_tokens)));
    let first_free = remaining.clone().fold(f64::INFINITY, f64::min);
    let free = slots - running.len() as f64;
    let start = if (ahead.tasks as f64) < free {
        0.0
    } else {
        let queued = rates.duration_ms(ahead.prefill_tokens as f64, ahead.decode_tokens as f64);
        let spread = (remaining.sum::<f64>() + queued) / slots;
        if ahead.tasks == 0 { first_free } else { spread.max(first_free) }
    };
    let own = rates.duration_ms(own.prefill_tokens as f64, own.decode_tokens as f64);
    Prediction { start_ms: to_ms(start), end_ms: to_ms(start + own) }
}

/// Rounds up; finite and not negative by construction, and `as` saturates.
fn to_ms(ms: f64) -> u64 {
    if ms.is_finite() { ms.ceil() as u64 } else { 0 }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::pools::rates::Measured;

    /// 1 ms per prompt token, 10 ms per output token.
    fn rates() -> Rates {
        let mut rates = Rates::default();
        let (prefill, decode) = (Duration::from_millis(10), Duration::from_millis(100));
        rates.measure_speed(Measured { tokens_in: 10, tokens_out: 11, prefill, decode });
        rates
    }

    fn work(tasks: u64) -> Work {
        Work { tasks, prefill_tokens: 10 * tasks, decode_tokens: 9 * tasks }
    }

    #[test]
    fn a_free_slot_means_now() {
        let running = [Running { prefill_tokens: 0, decode_tokens: 50 }];
        assert_eq!(predict(&rates(), 2, &running, work(0), work(1)), Prediction { start_ms: 0, end_ms: 100 });
    }

    #[test]
    fn the_next_in_line_waits_for_the_first_slot_to_be_free() {
        let running = [20, 50].map(|decode_tokens| Running { prefill_tokens: 0, decode_tokens });
        assert_eq!(predict(&rates(), 2, &running, work(0), work(1)).start_ms, 200);
    }

    #[test]
    fn work_ahead_is_spread_over_the_slots() {
        let running = [20, 50].map(|decode_tokens| Running { prefill_tokens: 0, decode_tokens });
        assert_eq!(predict(&rates(), 2, &running, work(10), work(1)).start_ms, (700 + 1000) / 2);
    }
}
