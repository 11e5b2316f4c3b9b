//! When tasks will start, from what runs, what waits before them, and the measured rates. Pure.

use super::queue::Work;
use super::rates::Rates;
use crate::placement::is_on;

/// A task that runs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Running {
    /// That it holds.
    pub slots: u32,
    /// Tokens of the shared cache that it holds.
    pub cache: u64,
    /// Prompt tokens of each sequence that are not yet known to be prefilled.
    pub prefill_tokens: u32,
    /// Output tokens of each sequence expected to be still to come.
    pub decode_tokens: u32,
}

/// Where a task stands, in ms from now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Prediction {
    pub start_ms: u64,
    pub end_ms: u64,
}

/// A replica that can run tasks, and what runs there.
#[derive(Debug, Clone, PartialEq)]
pub struct Bench<'a> {
    /// Its device.
    pub device: Option<&'a str>,
    pub slots: u32,
    /// Tokens that the cache has room for which its sequences share; `None` where each has its own.
    pub cache: Option<u64>,
    pub running: Vec<Running>,
}

impl Bench<'_> {
    /// So many sequences like those that run fit into the cache.
    fn side_by_side(&self, used: u32) -> u32 {
        let held: u64 = self.running.iter().map(|task| task.cache).sum();
        let fitting = |tokens: u64| tokens.saturating_mul(u64::from(used)).checked_div(held);
        let fitting = self.cache.and_then(fitting).map(|fitting| u32::try_from(fitting).unwrap_or(u32::MAX));
        fitting.map_or(u32::MAX, |fitting| fitting.max(used))
    }
}

/// The slots and caches of a pool as time goes on: tasks are put on them in the order in which they will be served.
///
/// A task starts on the replica where it has the slots and the cache that it needs soonest, and none before the one before it: but
/// for those that wait for some devices, which keep nobody.
#[derive(Debug, Clone)]
pub struct Forecast<'a> {
    rates: &'a Rates,
    /// At least one.
    replicas: Vec<Ahead<'a>>,
    last_start: f64,
}

#[derive(Debug, Clone)]
struct Ahead<'a> {
    device: Option<&'a str>,
    /// Sequences that run at once meanwhile, as the rates depend on it.
    occupancy: u32,
    /// When each slot is free, in ms from now, ascending; at least one.
    free_at: Vec<f64>,
    cache: Option<CacheAhead>,
}

/// A cache that sequences share.
#[derive(Debug, Clone)]
struct CacheAhead {
    tokens: u64,
    /// Of those that nobody holds, once all that is known to have started has.
    free: u64,
    /// When tasks give back what they hold, in ms from now, ascending.
    held: Vec<(f64, u64)>,
}

impl CacheAhead {
    fn new(tokens: u64) -> Self {
        Self { tokens, free: tokens, held: Vec::new() }
    }

    /// When so much is free.
    fn free_at(&self, wanted: u64) -> f64 {
        let (mut free, mut at) = (self.free, 0.0);
        for &(end, tokens) in &self.held {
            if free >= wanted {
                break;
            }
            (free, at) = (free + tokens, end);
        }
        at
    }

    /// Gives so much to a task from `start` to `end`; nothing that comes later starts before `start`.
    fn hold(&mut self, wanted: u64, (start, end): (f64, f64)) {
        let ended = self.held.partition_point(|(end, _)| *end <= start);
        self.free += self.held.drain(..ended).map(|(_, tokens)| tokens).sum::<u64>();
        // A task that needs more than there is would never start, and is not put here.
        let given = wanted.min(self.free);
        self.free -= given;
        let at = self.held.partition_point(|(other, _)| *other <= end);
        self.held.insert(at, (end, given));
    }

    /// How much longer tasks like these take together than their slots say, since no more of them fit side by side.
    fn stretch(&self, each: f64, slots: usize) -> f64 {
        (each * slots as f64 / self.tokens.max(1) as f64).max(1.0)
    }
}

impl Ahead<'_> {
    fn needs(&self, work: Work) -> usize {
        work.slots.clamp(1, self.free_at.len() as u64) as usize
    }

    /// When a task has here what it needs.
    fn ready_at(&self, work: Work) -> f64 {
        let cache = self.cache.as_ref().map_or(0.0, |cache| cache.free_at(work.cache.min(cache.tokens)));
        self.free_at[self.needs(work) - 1].max(cache)
    }
}

impl<'a> Forecast<'a> {
    /// From what runs now. `waiting` says whether anything waits, which will keep all slots busy.
    pub fn new(rates: &'a Rates, replicas: &[Bench<'a>], waiting: bool) -> Self {
        let mut replicas: Vec<_> = replicas.iter().map(|replica| ahead(rates, replica, waiting)).collect();
        if replicas.is_empty() {
            replicas.push(Ahead { device: None, occupancy: 1, free_at: vec![0.0], cache: None });
        }
        Self { rates, replicas, last_start: 0.0 }
    }

    /// Puts the next task on its slots, on one of these devices.
    pub fn next(&mut self, work: Work, devices: Option<&str>) -> Prediction {
        let suits = |at: &usize| is_on(self.replicas[*at].device, devices);
        let soonest = |at: &usize, other: &usize| {
            self.replicas[*at].ready_at(work).total_cmp(&self.replicas[*other].ready_at(work))
        };
        let best = (0..self.replicas.len()).filter(suits).min_by(soonest);
        // None of its devices is there now: it waits for one that comes back, and what the others do is the best guess.
        let best = best.or_else(|| (0..self.replicas.len()).min_by(soonest)).unwrap_or(0);
        let replica = &mut self.replicas[best];
        let needs = replica.needs(work);
        let start = replica.ready_at(work).max(self.last_start);
        let end = start + takes_ms(self.rates, replica.occupancy, work, needs as u64);
        if devices.is_none() {
            self.last_start = start;
        }
        replica.free_at[..needs].fill(end);
        replica.free_at.sort_unstable_by(f64::total_cmp);
        if let Some(cache) = &mut replica.cache {
            cache.hold(work.cache, (start, end));
        }
        Prediction { start_ms: to_ms(start), end_ms: to_ms(end) }
    }

    /// Puts many tasks on the slots at once, spread evenly, where it matters little which is where.
    pub fn many(&mut self, work: Work) {
        let occupancy = self.replicas.iter().map(|replica| replica.occupancy).max().unwrap_or(1);
        let each = work.cache as f64 / work.slots.max(1) as f64;
        let stretch = |replica: &Ahead<'_>| {
            replica.cache.as_ref().map_or(1.0, |cache| cache.stretch(each, replica.free_at.len()))
        };
        let stretch = self.replicas.iter().map(stretch).fold(1.0, f64::max);
        let mut rest = self.rates.work_ms(occupancy, work) * stretch;
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

fn ahead<'a>(rates: &Rates, replica: &Bench<'a>, waiting: bool) -> Ahead<'a> {
    let slots = replica.slots.max(1);
    let used = replica.running.iter().map(|task| task.slots).sum::<u32>();
    let occupancy = occupancy(replica.side_by_side(used).min(slots), used, waiting);
    let ends =
        |task: &Running| rates.sequence_ms(occupancy, f64::from(task.prefill_tokens), f64::from(task.decode_tokens));
    let running: Vec<_> = replica.running.iter().map(|task| (ends(task), task)).collect();
    let each = running.iter().flat_map(|(end, task)| std::iter::repeat_n(*end, task.slots as usize));
    let mut free_at: Vec<f64> = each.take(slots as usize).collect();
    free_at.resize(slots as usize, 0.0);
    free_at.sort_unstable_by(f64::total_cmp);
    let cache = replica.cache.map(|tokens| {
        let mut cache = CacheAhead::new(tokens);
        running.iter().for_each(|(end, task)| cache.hold(task.cache, (0.0, *end)));
        cache
    });
    Ahead { device: replica.device, occupancy, free_at, cache }
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

    fn running(decode_tokens: u32) -> Running {
        Running { slots: 1, cache: 0, prefill_tokens: 0, decode_tokens }
    }

    fn replica(slots: u32, decode_tokens: &[u32]) -> Bench<'static> {
        Bench { device: None, slots, cache: None, running: decode_tokens.iter().copied().map(running).collect() }
    }

    #[test]
    fn a_free_slot_means_now() {
        let rates = rates();
        let mut forecast = Forecast::new(&rates, &[replica(2, &[50])], false);
        assert_eq!(forecast.next(work(1), None), Prediction { start_ms: 0, end_ms: 100 });
    }

    #[test]
    fn tasks_take_the_slots_in_turn_as_they_become_free() {
        let rates = rates();
        let mut forecast = Forecast::new(&rates, &[replica(2, &[20, 45])], true);
        let starts: Vec<u64> = (0..4).map(|_| forecast.next(work(1), None).start_ms).collect();
        assert_eq!(starts, [200, 300, 400, 450]);
    }

    #[test]
    fn a_task_that_needs_all_slots_waits_for_the_last_and_the_next_waits_for_it() {
        let rates = rates();
        let mut forecast = Forecast::new(&rates, &[replica(3, &[20, 50])], true);
        let strict = Work { slots: 3, ..work(1) };
        assert_eq!(forecast.next(strict, None), Prediction { start_ms: 500, end_ms: 600 });
        assert_eq!(forecast.next(work(1), None).start_ms, 600);
    }

    #[test]
    fn a_task_that_needs_several_slots_needs_them_on_one_replica() {
        let rates = rates();
        let mut forecast = Forecast::new(&rates, &[replica(2, &[30]), replica(2, &[20])], false);
        let strict = Work { slots: 2, ..work(1) };
        assert_eq!(forecast.next(strict, None).start_ms, 200);
        assert_eq!(forecast.next(work(1), None).start_ms, 200, "none before the one before it");
    }

    #[test]
    fn a_task_waits_for_the_cache_that_it_needs_and_the_next_for_it() {
        let rates = rates();
        let held = |decode_tokens, cache| Running { cache, ..running(decode_tokens) };
        let running = vec![held(20, 400), held(50, 300), held(90, 100)];
        let bench = Bench { cache: Some(1000), running, ..replica(8, &[]) };
        let cached = |cache| Work { cache, ..work(1) };
        let forecast = Forecast::new(&rates, &[bench], true);
        let start = |cache| forecast.clone().next(cached(cache), None).start_ms;
        // 200 are free now, 600 when the first has ended, and 900 and all of them later.
        assert_eq!([200, 201, 601, 901, 5000].map(start), [0, 200, 500, 900, 900]);
        let mut forecast = forecast;
        assert_eq!(forecast.next(cached(900), None).start_ms, 500);
        // Nothing is left until that one ends.
        assert_eq!(forecast.next(cached(0), None).start_ms, 500);
        assert_eq!(forecast.next(cached(200), None).start_ms, 600);
    }

    #[test]
    fn a_task_waits_for_one_of_its_devices_and_keeps_nobody() {
        let rates = rates();
        let on = |device, decode_tokens| Bench { device: Some(device), ..replica(1, &[decode_tokens]) };
        let mut forecast = Forecast::new(&rates, &[on("cuda:0", 20), on("cuda:1", 50)], true);
        assert_eq!(forecast.next(work(1), Some("cuda:1")).start_ms, 500);
        assert_eq!(forecast.next(work(1), None).start_ms, 200);
        assert_eq!(forecast.next(work(1), Some("cuda:0, cuda:1")).start_ms, 300);
        assert_eq!(forecast.next(work(1), Some("cuda:7")).start_ms, 400, "as if it were one of those that are there");
    }

    #[test]
    fn choices_run_side_by_side_where_there_are_slots() {
        let rates = rates();
        let mut forecast = Forecast::new(&rates, &[replica(2, &[])], false);
        let four = Work { tasks: 1, sequences: 4, slots: 2, cache: 0, prefill_tokens: 40, decode_tokens: 40 };
        assert_eq!(forecast.next(four, None), Prediction { start_ms: 0, end_ms: 200 });
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
            let foreseen = forecast.next(work, None);
            let now = starting_now(&rates, (slots, used), waiting, work);
            prop_assert_eq!(now, (foreseen.start_ms == 0).then_some(foreseen));
        }

        /// However tasks come, those that run at any time never hold more of a cache than there is.
        #[test]
        fn a_cache_is_never_overdrawn(
            tokens in 100u64..1000,
            tasks in proptest::collection::vec((1u64..100, 1u64..40), 1..60),
        ) {
            let rates = rates();
            let mut forecast = Forecast::new(&rates, &[Bench { cache: Some(tokens), ..replica(64, &[]) }], true);
            let mut runs = Vec::new();
            for (cache, decode_tokens) in tasks {
                let placed = forecast.next(Work { cache, decode_tokens, ..work(1) }, None);
                runs.push((placed.start_ms, placed.end_ms, cache));
            }
            for (start, ..) in &runs {
                let at_once: u64 = runs.iter().filter(|(from, to, _)| from <= start && start < to).map(|run| run.2).sum();
                prop_assert!(at_once <= tokens, "{at_once} of {tokens} at {start} ms");
            }
        }

        /// Where all tasks are alike it makes no difference whether they are put there one by one or together.
        #[test]
        fn many_is_as_one_by_one(count in 1u64..200, slots in 1u32..9, held in proptest::collection::vec(0u32..80, 0..8)) {
            let rates = rates();
            let mut each = Forecast::new(&rates, &[replica(slots, &held)], true);
            let mut together = each.clone();
            for _ in 0..count {
                each.next(work(1), None);
            }
            together.many(work(count));
            let (each, together) = (each.next(work(1), None).start_ms, together.next(work(1), None).start_ms);
            prop_assert!(each.abs_diff(together) <= 101, "{each} and {together}");
        }
    }
}
