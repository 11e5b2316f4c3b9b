//! What a client is told whose tasks a limit leaves no room for.

use sluicegate_compat::native::{ErrorEnvelope, PolicyLabel};

use super::rate::Short;

/// What a client is told whose tasks a limit leaves no room for.
#[derive(Debug, PartialEq, Eq)]
pub enum NoRoom {
    /// They may come again.
    Now { label: PolicyLabel, message: String, retry_after_ms: u64 },
    /// They never fit: so many of these are asked for, and that is the bound.
    Ever { label: PolicyLabel, asked: u64, bound: u64, per: &'static str },
}

impl NoRoom {
    /// The refusal of tasks that come of `field`, and are fewer where that asks for less.
    pub fn refusal(self, field: impl FnOnce(PolicyLabel, u64) -> &'static str) -> ErrorEnvelope {
        let (label, asked, bound, per) = match self {
            Self::Now { label, message, retry_after_ms } => {
                return ErrorEnvelope::rejected(label, message).with_retry_after_ms(retry_after_ms);
            }
            Self::Ever { label, asked, bound, per } => (label, asked, bound, per),
        };
        let field = field(label, bound);
        let what = if label == PolicyLabel::RateTokens {
            format!("the request may take {asked} tokens with all of its output")
        } else {
            format!("it asks for {asked} tasks")
        };
        let refusal = ErrorEnvelope::rejected(label, format!("`{field}`: {what}, and {bound} {per} is the limit"));
        ErrorEnvelope { retriable: false, param: Some(field.to_owned()), ..refusal }
    }
}

/// A limit that leaves no room.
#[derive(Debug, Clone, Copy)]
pub(super) struct Full {
    pub label: PolicyLabel,
    /// What the limit is one of, after its number.
    pub per: &'static str,
    pub limit: u64,
    pub asked: u64,
    pub short: Shortage,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Shortage {
    Rate(Short),
    /// So many too many at once.
    AtOnce {
        over: u64,
    },
}

impl Full {
    /// How long a client has to wait, where one of its tasks takes so long; `None`: for ever.
    pub fn wait_ms(&self, task_ms: u64) -> Option<u64> {
        match self.short {
            Shortage::Rate(Short::ForEver) => None,
            Shortage::AtOnce { .. } if self.asked > self.limit => None,
            Shortage::Rate(Short::For(ns)) => Some(ns.div_ceil(1_000_000)),
            // They end one after the other.
            Shortage::AtOnce { over } => Some(task_ms.saturating_mul(over).div_ceil(self.limit.max(1)).max(1)),
        }
    }

    pub fn is_at_once(&self) -> bool {
        matches!(self.short, Shortage::AtOnce { .. })
    }

    pub fn told(&self, task_ms: u64) -> NoRoom {
        let Self { label, per, limit, asked, .. } = *self;
        match self.wait_ms(task_ms) {
            Some(retry_after_ms) => {
                NoRoom::Now { label, message: format!("{limit} {per} is the limit"), retry_after_ms }
            }
            None => NoRoom::Ever { label, asked, bound: limit, per },
        }
    }
}

/// The one that a client has to wait longest for.
pub(super) fn longest(full: Vec<Full>, task_ms: impl FnOnce() -> u64) -> Option<NoRoom> {
    let task_ms = if full.iter().any(Full::is_at_once) { task_ms() } else { 0 };
    // Of those that are as long the first.
    let longest = full.into_iter().rev().max_by_key(|full| full.wait_ms(task_ms).unwrap_or(u64::MAX));
    longest.map(|full| full.told(task_ms))
}
