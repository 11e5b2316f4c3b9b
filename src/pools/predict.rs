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
/// A task starts now where as many slots are free as it and those before it need. Otherwise the work of the running
/// sequences and of the queue ahead is spread over all slots; but the task cannot start before its slots are free.
pub fn predict(rates: &Rates, slots: u32, running: &[Running], ahead: Work, own: Work) -> Prediction {
    let mut remaining: Vec<f64> = running
        .iter()
        .map(|sequence| rates.sequence_ms(f64::from(sequence.prefill_tokens), f64::from(sequence.decode_tokens)))
        .collect();
    remaining.sort_unstable_by(f64::total_cmp);
    let free = u64::from(slots).saturating_sub(running.len() as u64);
    let start = if ahead.slots + own.slots.max(1) <= free {
        0.0
    } else {
        // Free once so many of the running ones have ended.
        let to_end = own.slots.max(1).saturating_sub(free).max(1);
        let own_slots = remaining.get(to_end as usize - 1).or(remaining.last()).copied().unwrap_or(0.0);
        let spread = (remaining.iter().sum::<f64>() + rates.work_ms(ahead)) / f64::from(slots.max(1));
        if ahead.tasks == 0 { own_slots } else { spread.max(own_slots) }
    };
    // Choices that have slots run side by side.
    let own_ms = rates.work_ms(own) / own.slots.clamp(1, own.sequences.max(1)) as f64;
    Prediction { start_ms: to_ms(start), end_ms: to_ms(start + own_ms) }
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
        Work { tasks, sequences: tasks, slots: tasks, prefill_tokens: 10 * tasks, decode_tokens: 10 * tasks }
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

    #[test]
    fn a_task_that_needs_all_slots_waits_for_the_last_of_them() {
        let running = [20, 50].map(|decode_tokens| Running { prefill_tokens: 0, decode_tokens });
        let strict = Work { slots: 3, ..work(1) };
        assert_eq!(predict(&rates(), 3, &running, work(0), strict).start_ms, 500);
        assert_eq!(predict(&rates(), 3, &[], work(0), strict), Prediction { start_ms: 0, end_ms: 100 });
    }

    #[test]
    fn choices_run_side_by_side_where_there_are_slots() {
        let four = Work { tasks: 1, sequences: 4, slots: 2, prefill_tokens: 40, decode_tokens: 40 };
        assert_eq!(predict(&rates(), 2, &[], work(0), four), Prediction { start_ms: 0, end_ms: 200 });
    }
}
