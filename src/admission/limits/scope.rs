//! The limits of one tenant, key or model, and what is taken of them.

use sluicegate_compat::native::{PolicyLabel, RateLimits};

use super::rate::{Mark, Moment, Rate, Standing};
use super::room::{Full, Shortage};
use crate::ids::{KeyId, ModelId, TenantId};

/// Whose limits they are.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ScopeId {
    Tenant(TenantId),
    Key(KeyId),
    /// Of all who ask it together.
    Model(ModelId),
}

/// What tasks take that come together.
#[derive(Debug, Clone, Copy)]
pub(super) struct Load {
    pub tasks: u64,
    pub tokens: u64,
}

impl Load {
    pub fn of(tokens: &[u64]) -> Self {
        let sum = tokens.iter().fold(0, |sum: u64, tokens| sum.saturating_add(*tokens));
        Self { tasks: u64::try_from(tokens.len()).unwrap_or(u64::MAX), tokens: sum }
    }
}

/// What a task has taken of the rates of a scope.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Marks {
    pub request: Option<Mark>,
    pub tokens: Option<Mark>,
}

#[derive(Debug)]
pub(super) struct Scope {
    limits: RateLimits,
    requests: Option<Rate>,
    tokens: Option<Rate>,
    tokens_in_flight: u64,
    at_once: u64,
}

impl Scope {
    pub fn new(limits: RateLimits, moment: &Moment) -> Self {
        let rate = |per_minute: Option<u64>| per_minute.map(|per_minute| Rate::new(per_minute, moment));
        let (requests, tokens) = (rate(limits.requests_per_minute), rate(limits.tokens_per_minute));
        Self { limits, requests, tokens, tokens_in_flight: 0, at_once: 0 }
    }

    /// Has these limits from now on.
    pub fn adopt(&mut self, limits: RateLimits, moment: &Moment) {
        if self.limits == limits {
            return;
        }
        let change = |rate: &mut Option<Rate>, per_minute: Option<u64>| match (&mut *rate, per_minute) {
            (Some(rate), Some(per_minute)) if rate.per_minute() == per_minute => {}
            (Some(rate), Some(per_minute)) => rate.change(per_minute),
            (_, per_minute) => *rate = per_minute.map(|per_minute| Rate::new(per_minute, moment)),
        };
        change(&mut self.requests, limits.requests_per_minute);
        change(&mut self.tokens, limits.tokens_per_minute);
        self.limits = limits;
    }

    /// The limits that leave no room for a load.
    pub fn full(&self, Load { tasks, tokens }: Load) -> impl Iterator<Item = Full> {
        let at_once = |most: Option<u64>, there: u64, asked: u64, label, per| {
            let limit = most?;
            let over = there.saturating_add(asked).saturating_sub(limit);
            let short = Shortage::AtOnce { over };
            (over > 0).then_some(Full { label, per, limit, asked, short })
        };
        let rate = |rate: &Option<Rate>, asked, label, per| {
            let rate = rate.as_ref()?;
            let short = Shortage::Rate(rate.short_for(asked)?);
            Some(Full { label, per, limit: rate.per_minute(), asked, short })
        };
        let RateLimits { tokens_in_flight, concurrency, .. } = self.limits;
        [
            at_once(concurrency, self.at_once, tasks, PolicyLabel::RateConcurrency, "tasks at once"),
            at_once(tokens_in_flight, self.tokens_in_flight, tokens, PolicyLabel::RateTokens, "tokens in flight"),
            rate(&self.tokens, tokens, PolicyLabel::RateTokens, "tokens per minute"),
            rate(&self.requests, tasks, PolicyLabel::RateRequests, "requests per minute"),
        ]
        .into_iter()
        .flatten()
    }

    /// Takes what a task needs, for which there is [room](Self::full).
    pub fn take(&mut self, tokens: u64) -> Marks {
        self.at_once += 1;
        self.tokens_in_flight = self.tokens_in_flight.saturating_add(tokens);
        let take = |rate: &mut Option<Rate>, amount| rate.as_mut().and_then(|rate| rate.take(amount).ok());
        Marks { request: take(&mut self.requests, 1), tokens: take(&mut self.tokens, tokens) }
    }

    /// A task has ended that had so many tokens in flight.
    pub fn leave(&mut self, tokens: u64) {
        self.at_once = self.at_once.saturating_sub(1);
        self.tokens_in_flight = self.tokens_in_flight.saturating_sub(tokens);
    }

    /// A task is let in, or it is not and has made no request.
    pub fn decide(&mut self, Marks { request, .. }: Marks, let_in: bool) {
        let Some((rate, mark)) = self.requests.as_mut().zip(request) else { return };
        if !let_in {
            rate.give_back(mark, 1);
        }
        rate.release(mark);
    }

    /// A task that was counted with some tokens takes so many.
    pub fn correct(&mut self, Marks { tokens: mark, .. }: Marks, counted: u64, tokens: u64) {
        let Some((rate, mark)) = self.tokens.as_mut().zip(mark) else { return };
        match tokens.checked_sub(counted) {
            Some(more) => rate.overdraw(more),
            None => rate.give_back(mark, counted - tokens),
        }
    }

    /// As [`correct`](Self::correct), for the last time.
    pub fn settle(&mut self, marks: Marks, counted: u64, used: u64) {
        self.correct(marks, counted, used);
        if let Some((rate, mark)) = self.tokens.as_mut().zip(marks.tokens) {
            rate.release(mark);
        }
    }

    /// A task that was counted with some tokens in flight has so many.
    pub fn refit(&mut self, counted: u64, tokens: u64) {
        self.tokens_in_flight = self.tokens_in_flight.saturating_sub(counted).saturating_add(tokens);
    }

    /// Nothing is lost where it is forgotten.
    pub fn is_idle(&self) -> bool {
        let full = |rate: &Option<Rate>| rate.as_ref().is_none_or(Rate::is_full);
        self.at_once == 0 && full(&self.requests) && full(&self.tokens)
    }

    /// How the rates of requests and of tokens stand.
    pub fn standing(&self) -> [Option<Standing>; 2] {
        [&self.requests, &self.tokens].map(|rate| rate.as_ref().map(Rate::standing))
    }
}
