//! Limits on how much is let in: requests and tokens per minute, and tasks at once.
//!
//! [`Bucket`] is the machine: pure, exact in whole numbers, and with no clock. With a rate r per minute it lets in at most
//! r + r·w in any window of w minutes, and that much where it is asked for. [`Limiter`] is one mutex around what there is, so
//! that a task is counted for every limit or for none, and [`Charge`] and [`AtOnce`] are values that give back on drop.
//!
//! The governor crate is not used: it can give nothing back, and refuses for ever what is larger than its burst, where a task
//! that ends without its tokens has to be settled, and a client told that it never fits.
//!
//! Only a task whose tokens had to be guessed can overdraw a rate: what it turns out to take is paid back before others come.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sluicegate_compat::native::{ErrorEnvelope, PolicyLabel};
use tokio::time::Instant;

use crate::tasks::{Ended, Observer, Task};

/// A debt of one is this much, and a rate of one per minute pays back 1 each ns.
const ONE: u128 = 60_000_000_000;

/// How much is let in; `None`: without limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RateLimits {
    pub requests_per_minute: Option<u64>,
    /// Of prompts and of all output that they may have.
    pub tokens_per_minute: Option<u64>,
    /// Tasks that have not ended.
    pub concurrency: Option<u64>,
}

/// How a rate stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    pub limit: u64,
    pub remaining: u64,
    /// Until all of it is there again, if nothing else comes.
    pub reset_ms: u64,
}

/// A rate with a burst of one minute's worth.
#[derive(Debug, Clone, Copy)]
struct Bucket {
    per_minute: u64,
    /// What was let in and is not paid back yet.
    debt: u128,
    at_ns: u64,
}

/// Why something is not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Short {
    /// In so many ns there is room for it.
    For(u64),
    /// There never is.
    ForEver,
}

impl Bucket {
    fn new(per_minute: u64) -> Self {
        Self { per_minute, debt: 0, at_ns: 0 }
    }

    fn pay_back(&mut self, now_ns: u64) {
        let paid = u128::from(self.per_minute) * u128::from(now_ns.saturating_sub(self.at_ns));
        self.debt = self.debt.saturating_sub(paid);
        self.at_ns = self.at_ns.max(now_ns);
    }

    fn most(&self) -> u128 {
        u128::from(self.per_minute) * ONE
    }

    fn short_for(&mut self, now_ns: u64, amount: u64) -> Option<Short> {
        self.pay_back(now_ns);
        if amount > self.per_minute {
            return Some(Short::ForEver);
        }
        let over = (self.debt + u128::from(amount) * ONE).saturating_sub(self.most());
        (over > 0).then(|| Short::For(self.until_paid(over)))
    }

    fn until_paid(&self, debt: u128) -> u64 {
        u64::try_from(debt.div_ceil(u128::from(self.per_minute.max(1)))).unwrap_or(u64::MAX)
    }

    fn take(&mut self, amount: u64) {
        self.debt += u128::from(amount) * ONE;
    }

    /// Undoes a `take` of `then_ns`, less what was paid back of it meanwhile, which may have let in others.
    fn give_back(&mut self, now_ns: u64, amount: u64, then_ns: u64) {
        self.pay_back(now_ns);
        let paid = u128::from(self.per_minute) * u128::from(now_ns.saturating_sub(then_ns));
        self.debt = self.debt.saturating_sub((u128::from(amount) * ONE).saturating_sub(paid));
    }

    fn standing(&mut self, now_ns: u64) -> Standing {
        self.pay_back(now_ns);
        let remaining = u64::try_from(self.most().saturating_sub(self.debt) / ONE).unwrap_or(u64::MAX);
        Standing { limit: self.per_minute, remaining, reset_ms: self.until_paid(self.debt).div_ceil(1_000_000) }
    }
}

#[derive(Debug)]
struct State {
    requests: Option<Bucket>,
    tokens: Option<Bucket>,
    most_at_once: Option<u64>,
    at_once: u64,
}

/// What is let in, of all tenants together. One plain mutex, held for a little arithmetic.
#[derive(Debug)]
pub struct Limiter {
    state: Mutex<State>,
    began: Instant,
}

/// What a task has taken of the rates. Given back on drop, unless it was let in.
#[derive(Debug)]
pub struct Charge {
    limiter: Arc<Limiter>,
    tokens: u64,
    taken_ns: u64,
    let_in: bool,
}

/// One of the tasks at once, until it has ended.
#[derive(Debug)]
pub(super) struct AtOnce(Arc<Limiter>);

impl Limiter {
    pub fn new(limits: RateLimits) -> Self {
        let state = State {
            requests: limits.requests_per_minute.map(Bucket::new),
            tokens: limits.tokens_per_minute.map(Bucket::new),
            most_at_once: limits.concurrency,
            at_once: 0,
        };
        Self { state: Mutex::new(state), began: Instant::now() }
    }

    pub fn limits(&self) -> RateLimits {
        let state = self.lock();
        let per_minute = |bucket: &Option<Bucket>| bucket.as_ref().map(|bucket| bucket.per_minute);
        RateLimits {
            requests_per_minute: per_minute(&state.requests),
            tokens_per_minute: per_minute(&state.tokens),
            concurrency: state.most_at_once,
        }
    }

    /// How the rates of requests and of tokens stand.
    pub fn standing(&self) -> [Option<Standing>; 2] {
        let (mut state, now_ns) = (self.lock(), self.now_ns());
        let State { requests, tokens, .. } = &mut *state;
        [requests, tokens].map(|bucket| bucket.as_mut().map(|bucket| bucket.standing(now_ns)))
    }

    /// Counts tasks of so many tokens each, all of them or none; how long one would take is asked where that says when there
    /// is room.
    ///
    /// # Errors
    ///
    /// The limit that leaves no room.
    pub(super) fn admit(
        self: &Arc<Self>,
        tokens: &[u64],
        task_ms: impl FnOnce() -> u64,
    ) -> Result<Vec<(Charge, AtOnce)>, NoRoom> {
        let now_ns = self.now_ns();
        let taken = self.lock().take(now_ns, Load::of(tokens));
        // The pool is asked with nothing locked.
        taken.map_err(|full| full.told(task_ms))?;
        let limiter = || Arc::clone(self);
        let charge = |tokens| Charge { limiter: limiter(), tokens, taken_ns: now_ns, let_in: false };
        Ok(tokens.iter().map(|tokens| (charge(*tokens), AtOnce(limiter()))).collect())
    }

    /// As [`admit`](Self::admit) for one task, with nothing counted.
    ///
    /// # Errors
    ///
    /// As there.
    pub(super) fn check(&self, tokens: u64, task_ms: impl FnOnce() -> u64) -> Result<(), NoRoom> {
        let room = self.lock().check(self.now_ns(), Load::of(&[tokens]));
        room.map_err(|full| full.told(task_ms))
    }

    fn now_ns(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What tasks take that come together.
#[derive(Debug, Clone, Copy)]
struct Load {
    tasks: u64,
    tokens: u64,
}

impl Load {
    fn of(tokens: &[u64]) -> Self {
        let sum = tokens.iter().fold(0, |sum: u64, tokens| sum.saturating_add(*tokens));
        Self { tasks: u64::try_from(tokens.len()).unwrap_or(u64::MAX), tokens: sum }
    }
}

/// What a client is told whose tasks a limit leaves no room for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NoRoom {
    /// They may come again.
    Now { label: PolicyLabel, message: String, retry_after_ms: u64 },
    /// They never fit: so many of these are asked for, and that is the bound.
    Ever { label: PolicyLabel, asked: u64, bound: u64 },
}

impl NoRoom {
    /// The refusal of tasks that come of `field`, and are fewer where that asks for less.
    pub fn refusal(self, field: impl FnOnce(PolicyLabel, u64) -> &'static str) -> ErrorEnvelope {
        let (label, asked, bound) = match self {
            Self::Now { label, message, retry_after_ms } => {
                return ErrorEnvelope::rejected(label, message).with_retry_after_ms(retry_after_ms);
            }
            Self::Ever { label, asked, bound } => (label, asked, bound),
        };
        let field = field(label, bound);
        let message = match label {
            PolicyLabel::RateTokens => format!(
                "`{field}`: the request may take {asked} tokens with all of its output, and {bound} per minute is the limit"
            ),
            PolicyLabel::RateRequests => {
                format!("`{field}`: it asks for {asked} tasks, and {bound} requests per minute is the limit")
            }
            _ => format!("`{field}`: it asks for {asked} tasks, and {bound} tasks at once is the limit"),
        };
        let refusal = ErrorEnvelope::rejected(label, message);
        ErrorEnvelope { retriable: false, param: Some(field.to_owned()), ..refusal }
    }
}

/// The limit that leaves no room.
#[derive(Debug, Clone, Copy)]
enum Full {
    /// So many too many.
    AtOnce {
        most: u64,
        over: u64,
        tasks: u64,
    },
    Rate {
        label: PolicyLabel,
        what: &'static str,
        limit: u64,
        amount: u64,
        short: Short,
    },
}

impl Full {
    /// What the client is told where one task would take so long.
    fn told(self, task_ms: impl FnOnce() -> u64) -> NoRoom {
        match self {
            Self::AtOnce { most, tasks, .. } if tasks > most => {
                NoRoom::Ever { label: PolicyLabel::RateConcurrency, asked: tasks, bound: most }
            }
            Self::AtOnce { most, over, .. } => NoRoom::Now {
                label: PolicyLabel::RateConcurrency,
                message: format!("{most} tasks at once is the limit"),
                // They end one after the other.
                retry_after_ms: task_ms().saturating_mul(over).div_ceil(most).max(1),
            },
            Self::Rate { label, what, limit, short: Short::For(ns), .. } => {
                let message = format!("{limit} {what} per minute is the limit");
                NoRoom::Now { label, message, retry_after_ms: ns.div_ceil(1_000_000) }
            }
            Self::Rate { label, limit, amount, short: Short::ForEver, .. } => {
                NoRoom::Ever { label, asked: amount, bound: limit }
            }
        }
    }
}

impl State {
    fn check(&mut self, now_ns: u64, Load { tasks, tokens }: Load) -> Result<(), Full> {
        if let Some(most) = self.most_at_once {
            let over = self.at_once.saturating_add(tasks).saturating_sub(most);
            if over > 0 {
                return Err(Full::AtOnce { most, over, tasks });
            }
        }
        let rates = [
            (&mut self.tokens, tokens, PolicyLabel::RateTokens, "tokens"),
            (&mut self.requests, tasks, PolicyLabel::RateRequests, "requests"),
        ];
        for (bucket, amount, label, what) in rates {
            let Some(bucket) = bucket else { continue };
            if let Some(short) = bucket.short_for(now_ns, amount) {
                return Err(Full::Rate { label, what, limit: bucket.per_minute, amount, short });
            }
        }
        Ok(())
    }

    fn take(&mut self, now_ns: u64, load: Load) -> Result<(), Full> {
        self.check(now_ns, load)?;
        self.requests.iter_mut().for_each(|bucket| bucket.take(load.tasks));
        self.tokens.iter_mut().for_each(|bucket| bucket.take(load.tokens));
        self.at_once += load.tasks;
        Ok(())
    }
}

impl Charge {
    /// The task is in its queue.
    pub(super) fn keep(mut self) {
        self.let_in = true;
    }

    /// The task is let in with a guess of its tokens, which is to be [corrected](Self::correct).
    pub(super) fn keep_guess(mut self) -> Self {
        self.let_in = true;
        self
    }

    /// The task takes so many tokens, and not those that were guessed.
    pub(super) fn correct(self, tokens: u64) {
        let (mut state, now_ns) = (self.limiter.lock(), self.limiter.now_ns());
        let Some(bucket) = &mut state.tokens else { return };
        match tokens.checked_sub(self.tokens) {
            Some(more) => {
                bucket.pay_back(now_ns);
                bucket.take(more);
            }
            None => bucket.give_back(now_ns, self.tokens - tokens, self.taken_ns),
        }
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        if self.let_in {
            return;
        }
        let (mut state, now_ns) = (self.limiter.lock(), self.limiter.now_ns());
        state.requests.iter_mut().for_each(|bucket| bucket.give_back(now_ns, 1, self.taken_ns));
        state.tokens.iter_mut().for_each(|bucket| bucket.give_back(now_ns, self.tokens, self.taken_ns));
    }
}

impl Observer for AtOnce {
    fn ended(&self, _: &Task, _: &Ended) {}
}

impl Drop for AtOnce {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.at_once = state.at_once.saturating_sub(1);
    }
}

#[cfg(test)]
mod tests;
