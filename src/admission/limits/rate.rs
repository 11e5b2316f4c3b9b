//! A rate per minute, of which a minute's worth may come at once: governor's cell rate algorithm over a state of ours, which can
//! also give back.
//!
//! What was taken is a *level* that sinks at the rate. Giving something back lowers the level to where it would be had only the
//! rest been taken: by the amount, or by less where the level has meanwhile been lower than that, because then the rate had
//! nothing to pay back of it and the time is gone. [`Lows`] knows how low the level has been since.

use std::collections::VecDeque;
use std::num::NonZeroU32;
use std::ops::Add;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use governor::clock::{Clock, Reference};
use governor::middleware::NoOpMiddleware;
use governor::nanos::Nanos;
use governor::state::{NotKeyed, StateStore};
use governor::{Quota, RateLimiter};

/// Parts of a ns that are counted, so that the interval between two of a billion a minute (960 of them) is nearly exact.
const TICKS_PER_NS: u64 = 16;

const TICKS_PER_MINUTE: u64 = 60_000_000_000 * TICKS_PER_NS;

/// Remembered lows at most; beyond them the oldest are remembered less exactly, and less is given back.
const MOST_LOWS: usize = 1024;

/// The moment that is looked at: the same for everything that is decided together.
#[derive(Debug, Clone, Default)]
pub(super) struct Moment(Arc<AtomicU64>);

/// A point in time, in ticks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Tick(u64);

impl Moment {
    /// What is looked at from now on happens so long after the beginning.
    pub fn set(&self, since: Duration) {
        let ns = u64::try_from(since.as_nanos()).unwrap_or(u64::MAX);
        // It never goes back: that would be time that is paid twice.
        self.0.fetch_max(ns.saturating_mul(TICKS_PER_NS), Ordering::Relaxed);
    }
}

impl Clock for Moment {
    type Instant = Tick;

    fn now(&self) -> Tick {
        Tick(self.0.load(Ordering::Relaxed))
    }
}

impl Add<Nanos> for Tick {
    type Output = Self;

    fn add(self, ticks: Nanos) -> Self {
        Self(self.0.saturating_add(ticks.as_u64()))
    }
}

impl Reference for Tick {
    fn duration_since(&self, earlier: Self) -> Nanos {
        self.0.saturating_sub(earlier.0).into()
    }

    fn saturating_sub(&self, ticks: Nanos) -> Self {
        self.0.checked_sub(ticks.as_u64()).map_or(*self, Self)
    }
}

/// When the level is down to nothing, in ticks since the rate began; shared with the algorithm, and changed under the lock of all
/// limits alone.
#[derive(Debug, Clone, Default)]
struct Empty(Arc<AtomicU64>);

impl StateStore for Empty {
    type Key = NotKeyed;

    fn measure_and_replace<T, F, E>(&self, _: &NotKeyed, decide: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        let (outcome, at) = decide(Some(self.get().into()))?;
        self.set(at.into());
        Ok(outcome)
    }
}

impl Empty {
    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    fn set(&self, at: u64) {
        self.0.store(at, Ordering::Relaxed);
    }
}

/// What was taken, to be given back in part or whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mark {
    number: u64,
    /// Of the rate as it was then.
    per_minute: u64,
}

/// How a rate stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    pub limit: u64,
    pub remaining: u64,
    /// Until all of it is there again, if nothing else comes.
    pub reset_ms: u64,
}

/// Why something is not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Short {
    /// In so many ns there is room for it.
    For(u64),
    /// There never is.
    ForEver,
}

/// How low the level has been after each of what was taken: of what came before another that was as low only the later is kept.
#[derive(Debug, Default)]
struct Lows {
    /// The number of what was taken next, and the level that it found; both ascend.
    found: VecDeque<(u64, u64)>,
    /// Of the last that was taken.
    number: u64,
    /// Nothing is given back but by these.
    outstanding: u64,
}

impl Lows {
    fn take(&mut self, level: u64) -> u64 {
        self.number += 1;
        if self.outstanding == 0 {
            self.found.clear();
        }
        while self.found.back().is_some_and(|(_, low)| *low >= level) {
            self.found.pop_back();
        }
        self.found.push_back((self.number, level));
        if self.found.len() > MOST_LOWS
            && let Some((_, low)) = self.found.pop_front()
            && let Some(next) = self.found.front_mut()
        {
            next.1 = low;
        }
        self.outstanding += 1;
        self.number
    }

    /// The lowest level that was found since.
    fn since(&self, number: u64) -> Option<u64> {
        let at = self.found.partition_point(|(found, _)| *found <= number);
        self.found.get(at).map(|(_, low)| *low)
    }

    /// The level would have been so much lower since.
    fn lower(&mut self, number: u64, by: u64) {
        let at = self.found.partition_point(|(found, _)| *found <= number);
        self.found.iter_mut().skip(at).for_each(|(_, low)| *low = low.saturating_sub(by));
        let mut next = u64::MAX;
        let mut kept = VecDeque::with_capacity(self.found.len());
        for (number, low) in self.found.drain(..).rev() {
            if low < next {
                next = low;
                kept.push_front((number, low));
            }
        }
        self.found = kept;
    }

    fn release(&mut self) {
        self.outstanding = self.outstanding.saturating_sub(1);
    }
}

/// A rate, at most a billion per minute. Every operation is at the moment that its [`Moment`] has.
#[derive(Debug)]
pub(super) struct Rate {
    gate: RateLimiter<NotKeyed, Empty, Moment, NoOpMiddleware<Tick>>,
    empty: Empty,
    lows: Lows,
    per_minute: u64,
    /// Ticks between two.
    interval: u64,
    began: Tick,
}

impl Rate {
    pub fn new(per_minute: u64, moment: &Moment) -> Self {
        let burst = u32::try_from(per_minute).ok().and_then(NonZeroU32::new).unwrap_or(NonZeroU32::MIN);
        let interval = TICKS_PER_MINUTE.div_ceil(u64::from(burst.get()));
        // Its ns are our ticks. The interval is never nothing.
        let quota = Quota::with_period(Duration::from_nanos(interval)).unwrap_or(Quota::per_minute(burst));
        let empty = Empty::default();
        let gate = RateLimiter::new(quota.allow_burst(burst), empty.clone(), moment.clone());
        let began = moment.now();
        Self { gate, empty, lows: Lows::default(), per_minute: u64::from(burst.get()), interval, began }
    }

    /// Another rate from now on. What was taken stays taken, as much of it as there is to have.
    pub fn change(&mut self, per_minute: u64) {
        let moment = self.gate.clock().clone();
        let taken = self.level().div_ceil(self.interval);
        let changed = Self::new(per_minute, &moment);
        changed.empty.set(taken.saturating_mul(changed.interval));
        *self = changed;
    }

    fn now(&self) -> u64 {
        self.gate.clock().now().duration_since(self.began).as_u64()
    }

    /// In ticks until there is nothing of it.
    pub fn level(&self) -> u64 {
        self.empty.get().saturating_sub(self.now())
    }

    /// What there is no room for.
    pub fn short_for(&self, amount: u64) -> Option<Short> {
        let before = self.empty.get();
        let outcome = self.try_take(amount);
        self.empty.set(before);
        outcome.err()
    }

    /// Takes so much.
    ///
    /// # Errors
    ///
    /// [`Short`]; nothing is taken then.
    pub fn take(&mut self, amount: u64) -> Result<Mark, Short> {
        let level = self.level();
        self.try_take(amount)?;
        Ok(Mark { number: self.lows.take(level), per_minute: self.per_minute })
    }

    fn try_take(&self, amount: u64) -> Result<(), Short> {
        let Some(cells) = NonZeroU32::new(u32::try_from(amount).map_err(|_| Short::ForEver)?) else { return Ok(()) };
        match self.gate.check_n(cells) {
            Ok(Ok(())) => Ok(()),
            Ok(Err(not_until)) => {
                let ticks = not_until.wait_time_from(self.gate.clock().now()).as_nanos();
                let ns = ticks.div_ceil(u128::from(TICKS_PER_NS));
                Err(Short::For(u64::try_from(ns).unwrap_or(u64::MAX)))
            }
            Err(_insufficient) => Err(Short::ForEver),
        }
    }

    /// Gives `amount` back of what was taken with this mark.
    pub fn give_back(&mut self, mark: Mark, amount: u64) {
        // What was taken of another rate has gone with that.
        if mark.per_minute != self.per_minute {
            return;
        }
        let level = self.level();
        let lowest = self.lows.since(mark.number).unwrap_or(level).min(level);
        let back = amount.saturating_mul(self.interval).min(lowest);
        if back > 0 {
            self.empty.set(self.now() + level - back);
            self.lows.lower(mark.number, back);
        }
    }

    /// Nothing more is given back of what was taken with this mark.
    pub fn release(&mut self, mark: Mark) {
        if mark.per_minute == self.per_minute {
            self.lows.release();
        }
    }

    /// Takes more, whether or not there is room for it.
    pub fn overdraw(&mut self, more: u64) {
        let level = self.level().saturating_add(more.saturating_mul(self.interval));
        self.empty.set(self.now().saturating_add(level));
    }

    pub fn is_full(&self) -> bool {
        self.level() == 0
    }

    pub fn per_minute(&self) -> u64 {
        self.per_minute
    }

    pub fn standing(&self) -> Standing {
        let level = self.level();
        let remaining = self.per_minute.saturating_sub(level.div_ceil(self.interval));
        Standing { limit: self.per_minute, remaining, reset_ms: level.div_ceil(1_000_000 * TICKS_PER_NS) }
    }
}
