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
    pub slots: SlotUse,
    /// Tokens that the cache has room for which its sequences share; `None` where each has its own.
    pub cache: Option<u64>,
    pub running: Vec<Running>,
}

/// The slots of a replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SlotUse {
    pub all: u32,
    /// As many of them as the shared cache has room for, with sequences like those that run.
    pub at_once: u32,
    pub used: u32,
}

impl SlotUse {
    /// Sequences that run at once while one more runs. `waiting` says whether anything waits.
    fn occupancy(self, waiting: bool) -> u32 {
        let most = self.at_once.clamp(1, self.all.max(1));
        if waiting { most } else { self.used.saturating_add(1).min(most) }
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
    /// Of those that keep the next ones from starting sooner.
    last_start: f64,
    /// Of all.
    latest_start: f64,
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
    /// Of those that nobody holds.
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

    /// Gives so much to a task from `start` to `end`: first of what others give back last before it starts, so that what is free
    /// earlier stays so.
    fn hold(&mut self, wanted: u64, (start, end): (f64, f64)) {
        let mut left = wanted;
        let ended = self.ended_by(start);
        for (_, tokens) in self.held[..ended].iter_mut().rev() {
            let part = left.min(*tokens);
            (*tokens, left) = (*tokens - part, left - part);
        }
        self.held.retain(|(_, tokens)| *tokens > 0);
        let part = left.min(self.free);
        (self.free, left) = (self.free - part, left - part);
        let at = self.held.partition_point(|(other, _)| *other <= end);
        self.held.insert(at, (end, wanted - left));
    }

    /// Nobody starts before `start` any more.
    fn forget(&mut self, start: f64) {
        let ended = self.ended_by(start);
        self.free += self.held.drain(..ended).map(|(_, tokens)| tokens).sum::<u64>();
    }

    fn ended_by(&self, start: f64) -> usize {
        self.held.partition_point(|(end, _)| *end <= start)
    }
}

impl Ahead<'_> {
    fn needs(&self, work: Work) -> usize {
        work.slots.clamp(1, self.free_at.len() as u64) as usize
    }

    /// Whether the cache can hold each sequence of a task, if nothing else is there.
    fn holds(&self, work: Work) -> bool {
        let each = work.cache / work.sequences.min(work.slots).max(1);
        self.cache.as_ref().is_none_or(|cache| each <= cache.tokens)
    }

    /// When a task has here what it needs.
    fn ready_at(&self, work: Work) -> f64 {
        let cache = self.cache.as_ref().map_or(0.0, |cache| cache.free_at(work.cache.min(cache.tokens)));
        self.free_at[self.needs(work) - 1].max(cache)
    }

    /// Of its slots those that tasks which need so much of the cache can have at once.
    fn side_by_side(&self, each: f64) -> usize {
        let slots = self.free_at.len();
        let fitting = self.cache.as_ref().map(|cache| cache.tokens as f64 / each);
        fitting.map_or(slots, |fitting| (fitting as usize).clamp(1, slots))
    }
}

impl<'a> Forecast<'a> {
    /// From what runs now. `waiting` says whether anything waits, which will keep all slots busy.
    pub fn new(rates: &'a Rates, replicas: &[Bench<'a>], waiting: bool) -> Self {
        let mut replicas: Vec<_> = replicas.iter().map(|replica| ahead(rates, replica, waiting)).collect();
        if replicas.is_empty() {
            replicas.push(Ahead { device: None, occupancy: 1, free_at: vec![0.0], cache: None });
        }
        Self { rates, replicas, last_start: 0.0, latest_start: 0.0 }
    }

    /// Puts the next task on its slots, on one of these devices.
    pub fn next(&mut self, work: Work, devices: Option<&str>) -> Prediction {
        let suits = |at: &usize| is_on(self.replicas[*at].device, devices) && self.replicas[*at].holds(work);
        let best = self.soonest(work, (0..self.replicas.len()).filter(suits));
        // It waits for a replica that is not there now. What the others do is the best guess, and it keeps none of them.
        let Some(best) = best else {
            let best = self.soonest(work, 0..self.replicas.len()).unwrap_or(0);
            return self.on(best, work).into();
        };
        let times = self.on(best, work);
        if devices.is_none() {
            self.last_start = times.start;
        }
        self.latest_start = self.latest_start.max(times.start);
        let last_start = self.last_start;
        let replica = &mut self.replicas[best];
        // Of the slots that are free by then those that are free last: others may start on the rest before.
        let free = replica.free_at.partition_point(|at| *at <= times.start);
        let needs = replica.needs(work);
        replica.free_at[free.saturating_sub(needs)..free].fill(times.end);
        replica.free_at.sort_unstable_by(f64::total_cmp);
        if let Some(cache) = &mut replica.cache {
            cache.hold(work.cache.min(cache.tokens), (times.start, times.end));
            cache.forget(last_start);
        }
        times.into()
    }

    fn soonest(&self, work: Work, among: impl Iterator<Item = usize>) -> Option<usize> {
        let ready_at = |at: &usize| self.replicas[*at].ready_at(work);
        among.min_by(|at, other| ready_at(at).total_cmp(&ready_at(other)))
    }

    fn on(&self, at: usize, work: Work) -> Times {
        let replica = &self.replicas[at];
        let start = replica.ready_at(work).max(self.last_start);
        Times { start, end: start + takes_ms(self.rates, replica.occupancy, work, replica.needs(work) as u64) }
    }

    /// When all that was put here has started; at least 1 ms.
    pub fn all_started_ms(&self) -> u64 {
        to_ms(self.latest_start).max(1)
    }

    /// Puts many tasks on the slots at once, spread evenly, where it matters little which is where. Which devices they wait for is not
    /// looked at, and the caches are as they were: their slots say how many fit side by side.
    pub fn many(&mut self, work: Work) {
        let occupancy = self.replicas.iter().map(|replica| replica.occupancy).max().unwrap_or(1);
        let mut rest = self.rates.work_ms(occupancy, work);
        let each = work.cache as f64 / work.slots.max(1) as f64;
        // Those that are in use, and as many of the others as the cache has room for.
        let unusable: Vec<_> =
            self.replicas.iter().map(|replica| replica.free_at.len() - replica.side_by_side(each)).collect();
        let usable = self.replicas.iter_mut().zip(&unusable).flat_map(|(replica, at)| &mut replica.free_at[*at..]);
        let mut slots: Vec<&mut f64> = usable.collect();
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
        let level = slots.first().map_or(0.0, |slot| **slot);
        self.latest_start = self.latest_start.max(level);
        for (replica, unusable) in self.replicas.iter_mut().zip(unusable) {
            let soonest = replica.free_at[unusable..].iter().copied().fold(f64::INFINITY, f64::min);
            replica.free_at[..unusable].fill(soonest);
            replica.free_at.sort_unstable_by(f64::total_cmp);
        }
    }
}

/// In ms from now.
#[derive(Clone, Copy)]
struct Times {
    start: f64,
    end: f64,
}

impl From<Times> for Prediction {
    fn from(times: Times) -> Self {
        Self { start_ms: to_ms(times.start), end_ms: to_ms(times.end) }
    }
}

fn ahead<'a>(rates: &Rates, replica: &Bench<'a>, waiting: bool) -> Ahead<'a> {
    let slots = replica.slots.all.max(1) as usize;
    let occupancy = replica.slots.occupancy(waiting);
    let ends =
        |task: &Running| rates.sequence_ms(occupancy, f64::from(task.prefill_tokens), f64::from(task.decode_tokens));
    let running: Vec<_> = replica.running.iter().map(|task| (ends(task), task)).collect();
    let each = running.iter().flat_map(|(end, task)| std::iter::repeat_n(*end, task.slots as usize));
    let mut free_at: Vec<f64> = each.take(slots).collect();
    free_at.resize(slots, 0.0);
    free_at.sort_unstable_by(f64::total_cmp);
    let cache = replica.cache.map(|tokens| {
        let mut cache = CacheAhead::new(tokens);
        running.iter().for_each(|(end, task)| cache.hold(task.cache, (f64::NEG_INFINITY, *end)));
        cache
    });
    Ahead { device: replica.device, occupancy, free_at, cache }
}

/// A task that starts now, on a replica with such slots, as a [`Forecast`] has it: what runs beside it need not be looked at for that.
/// `None` where it has no room there.
pub fn starting_now(rates: &Rates, slots: SlotUse, waiting: bool, work: Work) -> Option<Prediction> {
    let needs = work.slots.clamp(1, slots.all.max(1).into());
    let has_room = u64::from(slots.all.max(1).saturating_sub(slots.used)) >= needs;
    let ends = || takes_ms(rates, slots.occupancy(waiting), work, needs);
    has_room.then(|| Prediction { start_ms: 0, end_ms: to_ms(ends()) })
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
        let slots = SlotUse { all: slots, at_once: slots, used: decode_tokens.len() as u32 };
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
        assert_eq!(forecast.next(work(1), None).start_ms, 400, "which it does not keep");
        assert_eq!(forecast.all_started_ms(), 500, "the first of them too");
    }

    #[test]
    fn what_a_task_waits_for_some_devices_for_is_not_free_before_it() {
        let rates = rates();
        let held = Running { cache: 900, ..running(50) };
        let bench = Bench { device: Some("cuda:0"), cache: Some(1000), running: vec![held], ..replica(8, &[]) };
        let mut forecast = Forecast::new(&rates, &[bench], true);
        let cached = |cache| Work { cache, ..work(1) };
        assert_eq!(forecast.next(cached(500), Some("cuda:0")).start_ms, 500);
        assert_eq!(forecast.next(cached(100), None).start_ms, 0);
        assert_eq!(forecast.next(cached(400), None).start_ms, 500);
    }

    #[test]
    fn a_task_is_foreseen_where_the_cache_can_hold_it() {
        let rates = rates();
        let cached = |cache, decode_tokens| Bench { cache: Some(cache), ..replica(1, &[decode_tokens]) };
        let mut forecast = Forecast::new(&rates, &[cached(100, 1), cached(1000, 50)], true);
        assert_eq!(forecast.next(Work { cache: 500, ..work(1) }, None).start_ms, 500);
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
            (all, at_once) in (1u32..9).prop_flat_map(|all| (Just(all), 1..=all)),
            used in 0u32..9,
            needs in 1u64..5,
            sequences in 1u64..5,
            waiting: bool,
        ) {
            let (rates, used) = (rates(), used.min(all));
            let work = Work { slots: needs, sequences, ..work(1) };
            let slots = SlotUse { all, at_once, used };
            let bench = Bench { slots, ..replica(all, &vec![50; used as usize]) };
            let foreseen = Forecast::new(&rates, &[bench], waiting).next(work, None);
            let now = starting_now(&rates, slots, waiting, work);
            prop_assert_eq!(now, (foreseen.start_ms == 0).then_some(foreseen));
        }

        /// However tasks come, those that run at any time never hold more of a cache than there is.
        #[test]
        fn a_cache_is_never_overdrawn(
            tokens in 100u64..1000,
            tasks in proptest::collection::vec((1u64..100, 1u64..40, prop::bool::weighted(0.2)), 1..60),
        ) {
            let rates = rates();
            let bench = Bench { device: Some("cuda:0"), cache: Some(tokens), ..replica(64, &[]) };
            let mut forecast = Forecast::new(&rates, &[bench], true);
            let mut runs = Vec::new();
            for (cache, decode_tokens, masked) in tasks {
                let work = Work { cache, decode_tokens, ..work(1) };
                let placed = forecast.next(work, masked.then_some("cuda:0"));
                runs.push((placed.start_ms, placed.end_ms, cache));
            }
            for (start, ..) in &runs {
                let at_once: u64 = runs.iter().filter(|(from, to, _)| from <= start && start < to).map(|run| run.2).sum();
                prop_assert!(at_once <= tokens, "{at_once} of {tokens} at {start} ms");
            }
        }

        /// Where all tasks are alike it makes no difference whether they are put there one by one or together.
        #[test]
        fn many_is_as_one_by_one(
            count in 1u64..200,
            slots in 1u32..9,
            fitting in proptest::option::of(1u64..9),
            held in proptest::collection::vec(0u32..80, 0..8),
        ) {
            let rates = rates();
            let most = slots.min(fitting.map_or(u32::MAX, |fitting| fitting as u32)) as usize;
            let mut bench = replica(slots, &held[..held.len().min(most)]);
            bench.cache = fitting.map(|fitting| fitting * 100);
            bench.running.iter_mut().for_each(|running| running.cache = 100);
            let work = |tasks| Work { cache: 100 * tasks, ..work(tasks) };
            let mut each = Forecast::new(&rates, &[bench], true);
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
