//! What tenants and keys may ask for, beside what the scopes of a key say.

use serde::{Deserialize, Serialize};

use super::Priority;
use super::budget::{Budget, check_budgets};
use super::request::{Violation, ensure};

/// A limit is at most this.
pub const MOST_OF_A_LIMIT: u64 = 1_000_000_000;

/// Names in a list at most.
const MOST_NAMES: usize = 1000;

/// Limits on how much is let in; what is not there has none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RateLimits {
    #[serde(default)]
    pub requests_per_minute: Option<u64>,
    /// Of prompts and of all output that they may have.
    #[serde(default)]
    pub tokens_per_minute: Option<u64>,
    /// As above, of tasks that have not ended.
    #[serde(default)]
    pub tokens_in_flight: Option<u64>,
    /// Tasks that have not ended.
    #[serde(default)]
    pub concurrency: Option<u64>,
}

impl RateLimits {
    /// Each with its name.
    pub fn named(&self) -> [(&'static str, Option<u64>); 4] {
        [
            ("requests_per_minute", self.requests_per_minute),
            ("tokens_per_minute", self.tokens_per_minute),
            ("tokens_in_flight", self.tokens_in_flight),
            ("concurrency", self.concurrency),
        ]
    }

    /// The name of one that is too small or too large.
    pub fn unsound(&self) -> Option<&'static str> {
        let sound = |limit: Option<u64>| limit.is_none_or(|limit| (1..=MOST_OF_A_LIMIT).contains(&limit));
        self.named().into_iter().find(|(_, limit)| !sound(*limit)).map(|(name, _)| name)
    }

    /// Whether there is none.
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }

    /// These, and those of `other` where there are none.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self {
            requests_per_minute: self.requests_per_minute.or(other.requests_per_minute),
            tokens_per_minute: self.tokens_per_minute.or(other.tokens_per_minute),
            tokens_in_flight: self.tokens_in_flight.or(other.tokens_in_flight),
            concurrency: self.concurrency.or(other.concurrency),
        }
    }

    /// Those of which `other` has none.
    #[must_use]
    pub fn but(self, other: Self) -> Self {
        let but = |own: Option<u64>, other: Option<u64>| own.filter(|_| other.is_none());
        Self {
            requests_per_minute: but(self.requests_per_minute, other.requests_per_minute),
            tokens_per_minute: but(self.tokens_per_minute, other.tokens_per_minute),
            tokens_in_flight: but(self.tokens_in_flight, other.tokens_in_flight),
            concurrency: but(self.concurrency, other.concurrency),
        }
    }
}

/// What a tenant or a key may ask for. Where nothing is said it may ask for everything.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// No task of a tenant has more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority_ceiling: Option<Priority>,
    /// Of a tenant's tasks whose request names none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_priority: Option<Priority>,
    /// By any of their names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allowed_models: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allowed_pools: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "RateLimits::is_none")]
    pub limits: RateLimits,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub budgets: Vec<Budget>,
}

impl Policy {
    /// # Errors
    ///
    /// The first field that is wrong.
    pub fn check(&self) -> Result<(), Violation> {
        check_names(self.allowed_models.as_deref(), "allowed_models")?;
        check_names(self.allowed_pools.as_deref(), "allowed_pools")?;
        check_budgets(&self.budgets)?;
        self.limits.unsound().map_or(Ok(()), |name| {
            let param = format!("limits.{name}").into();
            Err(Violation { param, message: "1 to 1,000,000,000; leave it out for no limit" })
        })
    }

    /// The priority of a task whose request asks for this one, or for none.
    pub fn priority(&self, asked: Option<Priority>) -> Priority {
        let wanted = asked.or(self.default_priority).unwrap_or_default();
        match self.priority_ceiling {
            Some(Priority::Batch) => Priority::Batch,
            Some(Priority::Interactive) | None => wanted,
        }
    }

    /// Whether something with one of these names may be used where those of `allowed` may.
    pub fn allows(allowed: Option<&[String]>, names: &[&str]) -> bool {
        allowed.is_none_or(|allowed| allowed.iter().any(|allowed| names.contains(&allowed.as_str())))
    }
}

fn check_names(names: Option<&[String]>, param: &'static str) -> Result<(), Violation> {
    let names = names.unwrap_or_default();
    ensure(names.len() <= MOST_NAMES, param, "at most 1,000 names")?;
    let sound = |name: &String| (1..=256).contains(&name.len()) && !name.chars().any(char::is_control);
    ensure(names.iter().all(sound), param, "names of 1 to 256 bytes, without control characters")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ceiling_holds_whatever_is_asked_and_a_default_where_nothing_is() {
        let (interactive, batch) = (Priority::Interactive, Priority::Batch);
        let of = |priority_ceiling, default_priority, asked| {
            Policy { priority_ceiling, default_priority, ..Policy::default() }.priority(asked)
        };
        assert_eq!(of(None, None, None), interactive);
        assert_eq!(of(None, None, Some(batch)), batch);
        assert_eq!(of(None, Some(batch), None), batch);
        assert_eq!(of(None, Some(batch), Some(interactive)), interactive);
        assert_eq!(of(Some(batch), Some(interactive), Some(interactive)), batch);
        assert_eq!(of(Some(interactive), None, Some(batch)), batch);
    }

    #[test]
    fn limits_fill_in_for_each_other_one_by_one() {
        let some = RateLimits { concurrency: Some(1), requests_per_minute: Some(2), ..RateLimits::default() };
        let other = RateLimits { concurrency: Some(3), tokens_in_flight: Some(4), ..RateLimits::default() };
        assert_eq!(some.or(other), RateLimits { tokens_in_flight: Some(4), ..some });
        assert_eq!(other.but(some), RateLimits { tokens_in_flight: Some(4), ..RateLimits::default() });
        assert_eq!(RateLimits { concurrency: Some(0), ..other }.unsound(), Some("concurrency"));
    }
}
