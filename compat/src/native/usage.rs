//! What tasks have used that have ended.

use serde::Serialize;

/// The body of `GET /v2/usage`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct UsageView {
    pub total: UsageSums,
    /// One for each of what it is grouped by; none where it is not.
    pub groups: Vec<UsageGroup>,
}

/// Sums over tasks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct UsageSums {
    pub tasks: u64,
    pub tokens_in: u64,
    /// Of those, from the engine's cache.
    pub tokens_cached: u64,
    pub tokens_out: u64,
    pub queue_ms: u64,
    pub engine_ms: u64,
    /// Micro-units.
    pub cost: u64,
}

/// The sums of one group: what it is not grouped by is not there.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct UsageGroup {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tenant_id: Option<String>,
    /// Empty where there were no keys.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pool_id: Option<String>,
    /// When the day or the hour begins, in UTC.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from_ms: Option<u64>,
    #[serde(flatten)]
    pub sums: UsageSums,
}

impl UsageSums {
    /// Each with its name.
    pub const fn named(&self) -> [(&'static str, u64); 7] {
        [
            ("tasks", self.tasks),
            ("tokens_in", self.tokens_in),
            ("tokens_cached", self.tokens_cached),
            ("tokens_out", self.tokens_out),
            ("queue_ms", self.queue_ms),
            ("engine_ms", self.engine_ms),
            ("cost", self.cost),
        ]
    }

    /// The sum of both; it stays at the largest number instead of passing it.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self {
            tasks: self.tasks.saturating_add(other.tasks),
            tokens_in: self.tokens_in.saturating_add(other.tokens_in),
            tokens_cached: self.tokens_cached.saturating_add(other.tokens_cached),
            tokens_out: self.tokens_out.saturating_add(other.tokens_out),
            queue_ms: self.queue_ms.saturating_add(other.queue_ms),
            engine_ms: self.engine_ms.saturating_add(other.engine_ms),
            cost: self.cost.saturating_add(other.cost),
        }
    }
}
