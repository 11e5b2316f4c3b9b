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
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Prediction {
    pub start_ms: u64,
    pub end_ms: u64,
}

/// A replica that can run tasks, and what runs there: one entry for each slot that is in use.
#[derive(Debug, Clone, PartialEq)]
pub struct Bench {
    pub slots: u32,
    pub running: Vec<Running>,
}

/// The slots of a pool as time goes on: tasks are put on them in the order in which they will be served.
///
/// A task starts on the replica where as many slots as it needs are free soonest, and none before the one before it.
#[derive(Debug, Clone)]
pub struct Forecast<'a> {
    rates: &'a Rates,
    /// At least one.
    replicas: Vec<Ahead>,
    last_start: f64,
}

#[derive(Debug, Clone)]
struct Ahead {
    /// Sequences that run at once meanwhile, as the rates depend on it.
    occupancy: u32,
    /// When each slot is free, in ms from now, ascending; at least one.
    free_at: Vec<f64>,
}

impl<'a> Forecast<'a> {
    /// From what runs now. `waiting` says whether anything waits, which will keep all slots busy.
    pub fn new(rates: &'a Rates, replicas: &[Bench], waiting: bool) -> Self {
        let ahead = |replica: &Bench| {
            let slots = replica.slots.max(1);
            let occupancy = occupancy(slots, replica.running.len() as u32, waiting);
            let remaining = replica.running.iter().take(slots as usize).map(|sequence| {
                rates.sequence_ms(occupancy, f64::from(sequence.prefill_tokens), f64::from(sequence.decode_tokens))
            });
            let mut free_at: Vec<f64> = remaining.collect();
            free_at.resize(slots as usize, 0.0);
            free_at.sort_unstable_by(f64::total_cmp);
            Ahead { occupancy, free_at }
        };
        let mut replicas: Vec<_> = replicas.iter().map(ahead).collect();
        if replicas.is_empty() {
            replicas.push(Ahead { occupancy: 1, free_at: vec![0.0] });
        }
        Self { rates, replicas, last_start: 0.0 }
    }

    /// Puts the next task on its slots.
    pub fn next(&mut self, work: Work) -> Prediction {
        let needs = |replica: &Ahead| work.slots.clamp(1, replica.free_at.len() as u64) as usize;
        let free_at = |replica: &Ahead| replica.free_at[needs(replica) - 1];
        let best = (0..self.replicas.len())
            .min_by(|a, b| free_at(&self.replicas[*a]).total_cmp(&free_at(&self.replicas[*b])))
            .unwrap_or(0);
        let replica = &mut self.replicas[best];
        let needs = needs(replica);
        let start = replica.free_at[needs - 1].max(self.last_start);
        let end = start + takes_ms(self.rates, replica.occupancy, work, needs as u64);
        self.last_start = start;
        replica.free_at[..needs].fill(end);
        replica.free_at.sort_unstable_by(f64::total_cmp);
        Prediction { start_ms: to_ms(start), end_ms: to_ms(end) }
    }

    /// Puts many tasks on the slots at once, spread evenly, where it matters little which is where.
    pub fn many(&mut self, work: Work) {
        let occupancy = self.replicas.iter().map(|replica| replica.occupancy).max().unwrap_or(1);
        let mut rest = self.rates.work_ms(occupancy, work);
        let mut slots: Vec<&mut f64> = self.replicas.iter_mut().flat_map(|replica| &mut replica.free_at).collect();
        slots.sort_unstable_by(|a, b| a.total_cmp(b));
        // Fills the slots that are free first, up to where the next one begins.
        for filled in 1..=slots.len() {
            let level = *slots[filled - 1];
            let next = slots.get(filled).map_or(f64::INFINITY, |slot| **slot);
            let step = ((next - level) * filled as f64).min(rest);
            rest -= step;
            slots[..filled].iter_mut().for_each(|slot| **slot = level + step / filled as f64);
            if rest <= 0.0 {
                break;
            }
        }
        self.replicas.iter_mut().for_each(|replica| replica.free_at.sort_unstable_by(f64::total_cmp));
    }
}

/// A task that starts now, on a replica of which so many slots are in use, as a [`Forecast`] has it: what runs beside it need not be
/// looked at for that. `None` where it has no room there.
pub fn starting_now(rates: &Rates, (slots, used): (u32, u32), waiting: bool, work: Work) -> Option<Prediction> {
    let slots = slots.max(1);
    let needs = work.slots.clamp(1, slots.into());
    let has_room = u64::from(slots.saturating_sub(used)) >= needs;
    let ends = || takes_ms(rates, occupancy(slots, used, waiting), work, needs);
    has_room.then(|| Prediction { start_ms: 0, end_ms: to_ms(ends()) })
}

/// Sequences that run at once while one more runs.
fn occupancy(slots: u32, used: u32, waiting: bool) -> u32 {
    if waiting { slots } else { used.saturating_add(1).min(slots) }
}

/// How long a task runs that has so many slots.
fn takes_ms(rates: &Rates, occupancy: u32, work: Work, slots: u64) -> f64 {
    // Choices that have slots run side by side.
    rates.work_ms(occupancy, work) / work.sequences.clamp(1, slots) as f64
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
        Work { tasks, sequences: tasks, slots: tasks, cache: 0, prefill_tokens: 10 * tasks, decode_tokens: 10 * tasks }
    }

    fn replica(slots: u32, decode_tokens: &[u32]) -> Bench {
        let running = decode_tokens.iter().map(|&decode_tokens| Running { prefill_tokens: 0, decode_tokens });
        Bench { slots, running: running.collect() }
    }

    #[test]
    fn a_free_slot_means_now() {
        let rates = rates();
        let mut forecast = Forecast::new(&rates, &[replica(2, &[50])], false);
        assert_eq!(forecast.next(work(1)), Prediction { start_ms: 0, end_ms: 100 });
    }

    #[test]
    fn tasks_take_the_slots_in_turn_as_they_become_free() {
        let rates = rates();
        let mut forecast = Forecast::new(&rates, &[replica(2, &[20, 45])], true);
        let starts: Vec<u64> = (0..4).map(|_| forecast.next(work(1)).start_ms).collect();
        assert_eq!(starts, [200, 300, 400, 450]);
    }

    #[test]
    fn a_task_that_needs_all_slots_waits_for_the_last_and_the_next_waits_for_it() {
        let rates = rates();
        let mut forecast = Forecast::new(&rates, &[replica(3, &[20, 50])], true);
        let strict = Work { slots: 3, ..work(1) };
        assert_eq!(forecast.next(strict), Prediction { start_ms: 500, end_ms: 600 });
        assert_eq!(forecast.next(work(1)).start_ms, 600);
    }

    #[test]
    fn a_task_that_needs_several_slots_needs_them_on_one_replica() {
        let rates = rates();
        let mut forecast = Forecast::new(&rates, &[replica(2, &[30]), replica(2, &[20])], false);
        let strict = Work { slots: 2, ..work(1) };
        assert_eq!(forecast.next(strict).start_ms, 200);
        assert_eq!(forecast.next(work(1)).start_ms, 200, "none before the one before it");
    }

    #[test]
    fn choices_run_side_by_side_where_there_are_slots() {
        let rates = rates();
        let mut forecast = Forecast::new(&rates, &[replica(2, &[])], false);
        let four = Work { tasks: 1, sequences: 4, slots: 2, cache: 0, prefill_tokens: 40, decode_tokens: 40 };
        assert_eq!(forecast.next(four), Prediction { start_ms: 0, end_ms: 200 });
    }

    proptest! {
        #[test]
        fn a_task_that_starts_now_is_foreseen_without_looking_at_the_others(
            slots in 1u32..9,
            used in 0u32..9,
            needs in 1u64..5,
            sequences in 1u64..5,
            waiting: bool,
        ) {
            let (rates, used) = (rates(), used.min(slots));
            let work = Work { slots: needs, sequences, ..work(1) };
            let mut forecast = Forecast::new(&rates, &[replica(slots, &vec![50; used as usize])], waiting);
            let foreseen = forecast.next(work);
            let now = starting_now(&rates, (slots, used), waiting, work);
            prop_assert_eq!(now, (foreseen.start_ms == 0).then_some(foreseen));
        }

        /// Where all tasks are alike it makes no difference whether they are put there one by one or together.
        #[test]
        fn many_is_as_one_by_one(count in 1u64..200, slots in 1u32..9, held in proptest::collection::vec(0u32..80, 0..8)) {
            let rates = rates();
            let mut each = Forecast::new(&rates, &[replica(slots, &held)], true);
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
