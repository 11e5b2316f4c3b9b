//! Headers that say what is left of the caller's budgets.

use axum::http::{HeaderMap, HeaderName, HeaderValue};

use crate::budgets::Left;

const TOKENS: HeaderName = HeaderName::from_static("x-budget-tokens-remaining");
const TIME: HeaderName = HeaderName::from_static("x-budget-time-remaining-ms");
const COST: HeaderName = HeaderName::from_static("x-budget-cost-remaining");

/// One for each budget that there is.
pub fn headers(left: &Left) -> HeaderMap {
    let each = [(TOKENS, left.tokens), (TIME, left.time_ms), (COST, left.cost)];
    each.into_iter().filter_map(|(name, left)| Some((name, HeaderValue::from(left?)))).collect()
}
