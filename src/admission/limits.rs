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

/// What is let in of one tenant. One plain mutex, held for a little arithmetic.
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

    /// Counts a task of so many tokens; how long it would take is asked where that says when there is room.
    ///
    /// # Errors
    ///
    /// ADMISSION_REJECT by the limit that leaves no room; it may come again where there will be some.
    pub(super) fn admit(
        self: &Arc<Self>,
        tokens: u64,
        task_ms: impl FnOnce() -> u64,
    ) -> Result<(Charge, AtOnce), ErrorEnvelope> {
        let now_ns = self.now_ns();
        let taken = self.lock().take(now_ns, tokens);
        // The pool is asked with nothing locked.
        taken.map_err(|full| full.told(task_ms))?;
        let charge = Charge { limiter: Arc::clone(self), tokens, taken_ns: now_ns, let_in: false };
        Ok((charge, AtOnce(Arc::clone(self))))
    }

    /// As [`admit`](Self::admit), with nothing counted.
    ///
    /// # Errors
    ///
    /// As there.
    pub(super) fn check(&self, tokens: u64, task_ms: impl FnOnce() -> u64) -> Result<(), ErrorEnvelope> {
        let room = self.lock().check(self.now_ns(), tokens);
        room.map_err(|full| full.told(task_ms))
    }

    fn now_ns(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The limit that leaves no room.
#[derive(Debug, Clone, Copy)]
enum Full {
    AtOnce { most: u64 },
    Rate { label: PolicyLabel, what: &'static str, limit: u64, amount: u64, short: Short },
}

impl Full {
    /// What the client is told whose task would take so long.
    fn told(self, task_ms: impl FnOnce() -> u64) -> ErrorEnvelope {
        match self {
            Self::AtOnce { most } => {
                // They end one after the other.
                let next_ms = task_ms().div_ceil(most).max(1);
                let message = format!("{most} tasks at once is the limit");
                ErrorEnvelope::rejected(PolicyLabel::RateConcurrency, message).with_retry_after_ms(next_ms)
            }
            Self::Rate { label, what, limit, short: Short::For(ns), .. } => {
                let error = ErrorEnvelope::rejected(label, format!("{limit} {what} per minute is the limit"));
                error.with_retry_after_ms(ns.div_ceil(1_000_000))
            }
            Self::Rate { label, what, limit, amount, short: Short::ForEver } => {
                let message = format!(
                    "the prompt and its output may take {amount} {what}, and {limit} per minute is the limit; ask for fewer \
                     with max_tokens"
                );
                ErrorEnvelope { retriable: false, ..ErrorEnvelope::rejected(label, message) }
            }
        }
    }
}

impl State {
    fn check(&mut self, now_ns: u64, tokens: u64) -> Result<(), Full> {
        if let Some(most) = self.most_at_once.filter(|most| self.at_once >= *most) {
            return Err(Full::AtOnce { most });
        }
        let rates = [
            (&mut self.tokens, tokens, PolicyLabel::RateTokens, "tokens"),
            (&mut self.requests, 1, PolicyLabel::RateRequests, "requests"),
        ];
        for (bucket, amount, label, what) in rates {
            let Some(bucket) = bucket else { continue };
            if let Some(short) = bucket.short_for(now_ns, amount) {
                return Err(Full::Rate { label, what, limit: bucket.per_minute, amount, short });
            }
        }
        Ok(())
    }

    fn take(&mut self, now_ns: u64, tokens: u64) -> Result<(), Full> {
        self.check(now_ns, tokens)?;
        self.requests.iter_mut().for_each(|bucket| bucket.take(1));
        self.tokens.iter_mut().for_each(|bucket| bucket.take(tokens));
        self.at_once += 1;
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
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    /// Steps in ms, each with an amount that is asked for then.
    fn asked() -> impl Strategy<Value = Vec<(u64, u64)>> {
        prop::collection::vec((0..20_000_u64, 1..30_u64), 1..200)
    }

    proptest! {
        #[test]
        fn no_window_has_more_than_the_burst_and_the_rate(rate in 1..50_u64, asked in asked()) {
            let mut bucket = Bucket::new(rate);
            let (mut now_ms, mut taken) = (0, Vec::new());
            for (pause_ms, amount) in asked {
                now_ms += pause_ms;
                if bucket.short_for(now_ms * 1_000_000, amount).is_none() {
                    bucket.take(amount);
                    taken.push((now_ms, amount));
                }
            }
            for (first, (from_ms, _)) in taken.iter().enumerate() {
                let mut sum = 0;
                for (to_ms, amount) in &taken[first..] {
                    sum += amount;
                    // In 60,000ths, so that nothing is rounded.
                    prop_assert!(sum * 60_000 <= rate * 60_000 + rate * (to_ms - from_ms));
                }
            }
        }

        #[test]
        fn what_is_refused_is_let_in_when_it_was_told_to_come_again_and_not_before(
            rate in 1..50_u64, asked in asked()
        ) {
            let mut bucket = Bucket::new(rate);
            let mut now_ns = 0;
            for (pause_ms, amount) in asked {
                now_ns += pause_ms * 1_000_000;
                match bucket.short_for(now_ns, amount) {
                    None => bucket.take(amount),
                    Some(Short::ForEver) => prop_assert!(amount > rate),
                    Some(Short::For(wait_ns)) => {
                        prop_assert!(amount <= rate && wait_ns > 0);
                        let early = &mut bucket.clone();
                        prop_assert!(early.short_for(now_ns + wait_ns - 1, amount).is_some());
                        now_ns += wait_ns;
                        prop_assert_eq!(bucket.short_for(now_ns, amount), None);
                        bucket.take(amount);
                    }
                }
            }
        }

        #[test]
        fn what_is_given_back_leaves_no_more_than_if_it_was_never_taken(rate in 1..50_u64, asked in asked()) {
            let (mut bucket, mut without) = (Bucket::new(rate), Bucket::new(rate));
            let mut now_ns = 0;
            for (at, (pause_ms, amount)) in asked.into_iter().enumerate() {
                let taken_ns = now_ns;
                let lost = at % 2 == 1 && bucket.short_for(taken_ns, amount).is_none();
                if lost {
                    bucket.take(amount);
                }
                now_ns += pause_ms * 1_000_000;
                // Another one comes in between.
                if bucket.short_for(now_ns, 1).is_none() {
                    bucket.take(1);
                    without.pay_back(now_ns);
                    without.take(1);
                }
                if lost {
                    bucket.give_back(now_ns, amount, taken_ns);
                }
                without.pay_back(now_ns);
                prop_assert!(bucket.debt >= without.debt);
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_is_counted_for_every_limit_or_for_none() {
        let (requests_per_minute, tokens_per_minute) = (Some(2), Some(100));
        let limits = RateLimits { requests_per_minute, tokens_per_minute, concurrency: Some(2) };
        let limiter = Arc::new(Limiter::new(limits));
        let label = |error: ErrorEnvelope| (error.policy_label.unwrap(), error.retriable, error.retry_after_ms);
        let refused = limiter.admit(101, || 0).unwrap_err();
        assert_eq!(label(refused), (PolicyLabel::RateTokens, false, None));
        let (first, running) = limiter.admit(60, || 0).unwrap();
        first.keep();
        let refused = limiter.admit(60, || 0).unwrap_err();
        assert_eq!(label(refused), (PolicyLabel::RateTokens, true, Some(12_000)));
        // One that finds no place in the queue has taken nothing.
        drop(limiter.admit(40, || 0).unwrap());
        let [requests, tokens] = limiter.standing();
        assert_eq!(requests, Some(Standing { limit: 2, remaining: 1, reset_ms: 30_000 }));
        assert_eq!(tokens, Some(Standing { limit: 100, remaining: 40, reset_ms: 36_000 }));
        let (second, last) = limiter.admit(40, || 0).unwrap();
        second.keep();
        assert_eq!(label(limiter.admit(1, || 3000).unwrap_err()), (PolicyLabel::RateConcurrency, true, Some(1500)));
        drop(running);
        assert_eq!(label(limiter.admit(1, || 0).unwrap_err()), (PolicyLabel::RateTokens, true, Some(600)));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(label(limiter.admit(1, || 0).unwrap_err()), (PolicyLabel::RateRequests, true, Some(29_000)));
        drop(last);
        tokio::time::advance(Duration::from_secs(29)).await;
        assert!(limiter.check(50, || 0).is_ok() && limiter.admit(50, || 0).is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_guess_of_tokens_is_corrected_either_way() {
        let limits = RateLimits { tokens_per_minute: Some(60), ..RateLimits::default() };
        let limiter = Arc::new(Limiter::new(limits));
        let guess = || limiter.admit(20, || 0).unwrap().0.keep_guess();
        let remaining = || limiter.standing()[1].unwrap().remaining;
        guess().correct(5);
        assert_eq!(remaining(), 55);
        guess().correct(115);
        assert_eq!(limiter.standing()[1], Some(Standing { limit: 60, remaining: 0, reset_ms: 120_000 }));
        // What was overdrawn is paid back first.
        assert_eq!(limiter.admit(1, || 0).unwrap_err().retry_after_ms, Some(61_000));
        tokio::time::advance(Duration::from_secs(61)).await;
        assert_eq!(remaining(), 1);
        // One that is dropped before it is corrected stays counted.
        drop(limiter.admit(1, || 0).unwrap().0.keep_guess());
        assert_eq!(remaining(), 0);
    }
}
