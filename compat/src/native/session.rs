//! Sessions as clients see them and ask for them.

use serde::{Deserialize, Serialize};

use super::ErrorEnvelope;

/// A session lives no longer without use: a year, in ms.
const LONGEST_TTL_MS: u64 = 365 * 24 * 60 * 60 * 1000;

/// The body of `GET /v2/sessions/{id}`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SessionView {
    /// Until it is evicted, if nothing uses it; all of it while a task of the session has not ended.
    pub ttl_ms_remaining: u64,
    /// Tasks of it that came to an end of their own.
    pub turns: u64,
    /// Memory that engines keep for it between tasks; null where that is not known.
    pub kv_bytes: Option<u64>,
    /// The part of its last prompt that an engine still had in its cache, 0 to 1.
    pub kv_warmth: f64,
    /// Null without such a budget, as are the next two.
    pub tokens_budget_remaining: Option<u64>,
    pub time_budget_remaining_ms: Option<u64>,
    /// Micro-units.
    pub cost_budget_remaining: Option<u64>,
}

/// The body of `POST /v2/sessions/{id}`, where there is one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct SessionRequest {
    /// How long it lives without use, from now on.
    #[serde(default)]
    pub ttl_ms: Option<u64>,
    /// Changes the units that it names.
    #[serde(default, deserialize_with = "crate::json::object")]
    pub budget: Option<SessionBudget>,
}

/// What the tasks of a session may use in all, what they have used before included.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
pub struct SessionBudget {
    /// Of prompts and output.
    #[serde(default)]
    pub tokens: Option<u64>,
    /// Of engines.
    #[serde(default)]
    pub time_ms: Option<u64>,
    /// Micro-units.
    #[serde(default)]
    pub cost: Option<u64>,
}

impl SessionRequest {
    /// Reads a body. A field that the contract does not have is refused by name.
    ///
    /// # Errors
    ///
    /// INVALID_PARAMS with the path of the field.
    pub fn parse(body: &[u8]) -> Result<Self, ErrorEnvelope> {
        let request: Self = crate::json::parse_known(body)?;
        if request.ttl_ms.is_some_and(|ms| !(1..=LONGEST_TTL_MS).contains(&ms)) {
            return Err(ErrorEnvelope::invalid("ttl_ms", format!("`ttl_ms` is 1 to {LONGEST_TTL_MS}")));
        }
        Ok(request)
    }
}
