//! When tasks will start, from what runs, what waits before them, and the measured rates. Pure.

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

/// The slots of a pool as time goes on: tasks are put on them in the order in which they will be served.
///
/// A task starts when as many slots are free as it needs, and none before the one before it.
#[derive(Debug, Clone)]
pub struct Forecast<'a> {
    rates: &'a Rates,
    /// Sequences that run at once meanwhile, as the rates depend on it.
    occupancy: u32,
    /// When each slot is free, in ms from now, ascending; at least one.
    free_at: Vec<f64>,
    last_start: f64,
}

impl<'a> Forecast<'a> {
    /// From what runs now. `waiting` says whether anything waits, which will keep all slots busy.
    pub fn new(rates: &'a Rates, slots: u32, running: &[Running], waiting: bool) -> Self {
        let slots = slots.max(1);
        let occupancy = if waiting { slots } else { (running.len() as u32 + 1).min(slots) };
        let remaining = running.iter().take(slots as usize).map(|sequence| {
            rates.sequence_ms(occupancy, f64::from(sequence.prefill_tokens), f64::from(sequence.decode_tokens))
        });
        let mut free_at: Vec<f64> = remaining.collect();
        free_at.resize(slots as usize, 0.0);
        free_at.sort_unstable_by(f64::total_cmp);
        Self { rates, occupancy, free_at, last_start: 0.0 }
    }

    /// Puts the next task on its slots.
    pub fn next(&mut self, work: Work) -> Prediction {
        let needs = work.slots.clamp(1, self.free_at.len() as u64) as usize;
        let start = self.free_at[needs - 1].max(self.last_start);
        // Choices that have slots run side by side.
        let end = start + self.rates.work_ms(self.occupancy, work) / work.sequences.clamp(1, needs as u64) as f64;
        self.last_start = start;
        self.free_at[..needs].fill(end);
        self.free_at.sort_unstable_by(f64::total_cmp);
        Prediction { start_ms: to_ms(start), end_ms: to_ms(end) }
    }

    /// Puts many tasks on the slots at once, spread evenly, where it matters little which is where.
    pub fn many(&mut self, work: Work) {
        let mut rest = self.rates.work_ms(self.occupancy, work);
        // Fills the slots that are free first, up to where the next one begins.
        for filled in 1..=self.free_at.len() {
            let level = self.free_at[filled - 1];
            let next = self.free_at.get(filled).copied().unwrap_or(f64::INFINITY);
            let step = ((next - level) * filled as f64).min(rest);
            rest -= step;
            self.free_at[..filled].fill(level + step / filled as f64);
            if rest <= 0.0 {
                return;
            }
        }
    }
}

/// Rounds up; finite and not negative by construction, and `as` saturates.
fn to_ms(ms: f64) -> u64 {
    if ms.is_finite() { ms.ceil() as u64 } else { 0 }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::pools::rates::Measured;

    /// 1 ms per prompt token, 10 ms per output token.
    fn rates() -> Rates {
        let mut rates = Rates::default();
        let (prefill, decode) = (Duration::from_millis(10), Duration::from_millis(100));
        rates.measure_speed(Measured { tokens_in: 10, tokens_out: 11, prefill, decode, occupancy: 1.0 });
        rates
    }

    /// 100 ms each on one slot.
    fn work(tasks: u64) -> Work {
        Work { tasks, sequences: tasks, slots: tasks, prefill_tokens: 10 * tasks, decode_tokens: 10 * tasks }
    }

    fn running(decode_tokens: &[u32]) -> Vec<Running> {
        decode_tokens.iter().map(|&decode_tokens| Running { prefill_tokens: 0, decode_tokens }).collect()
    }

    #[test]
    fn a_free_slot_means_now() {
        let rates = rates();
        let mut forecast = Forecast::new(&rates, 2, &running(&[50]), false);
        assert_eq!(forecast.next(work(1)), Prediction { start_ms: 0, end_ms: 100 });
    }

    #[test]
    fn tasks_take_the_slots_in_turn_as_they_become_free() {
        let rates = rates();
        let mut forecast = Forecast::new(&rates, 2, &running(&[20, 45]), true);
        let starts: Vec<u64> = (0..4).map(|_| forecast.next(work(1)).start_ms).collect();
        assert_eq!(starts, [200, 300, 400, 450]);
    }

    #[test]
    fn a_task_that_needs_all_slots_waits_for_the_last_and_the_next_waits_for_it() {
        let rates = rates();
        let mut forecast = Forecast::new(&rates, 3, &running(&[20, 50]), true);
        let strict = Work { slots: 3, ..work(1) };
        assert_eq!(forecast.next(strict), Prediction { start_ms: 500, end_ms: 600 });
        assert_eq!(forecast.next(work(1)).start_ms, 600);
    }

    #[test]
    fn choices_run_side_by_side_where_there_are_slots() {
        let rates = rates();
        let mut forecast = Forecast::new(&rates, 2, &[], false);
        let four = Work { tasks: 1, sequences: 4, slots: 2, prefill_tokens: 40, decode_tokens: 40 };
        assert_eq!(forecast.next(four), Prediction { start_ms: 0, end_ms: 200 });
    }

    proptest! {
        /// Where all tasks are alike it makes no difference whether they are put there one by one or together.
        #[test]
        fn many_is_as_one_by_one(count in 1u64..200, slots in 1u32..9, held in proptest::collection::vec(0u32..80, 0..8)) {
            let rates = rates();
            let mut each = Forecast::new(&rates, slots, &running(&held), true);
            let mut together = each.clone();
            for _ in 0..count {
                each.next(work(1));
            }
            together.many(work(count));
            let (each, together) = (each.next(work(1)).start_ms, together.next(work(1)).start_ms);
            prop_assert!(each.abs_diff(together) <= 101, "{each} and {together}");
        }
    }
}
