//! Headers that say what is left of the caller's budgets, and which of them are nearly used up.

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use uuid::Uuid;

use super::Api;
use crate::budgets::{Left, Owners};
use crate::ids::TenantId;

const TOKENS: HeaderName = HeaderName::from_static("x-budget-tokens-remaining");
const TIME: HeaderName = HeaderName::from_static("x-budget-time-remaining-ms");
const COST: HeaderName = HeaderName::from_static("x-budget-cost-remaining");
const SOFT: HeaderName = HeaderName::from_static("x-budget-soft-limit-reached");

/// One for each budget that there is for a task of a session and these owners; and the budgets whose soft limit is reached, each as
/// `tenant-daily-tokens`, with commas between.
pub fn headers(api: &Api, tenant: &TenantId, session: Option<Uuid>, owners: Owners) -> HeaderMap {
    let soft = api.gateway.soft_limits(&owners);
    let Left { tokens, time_ms, cost } = api.gateway.budget_left(tenant, session, owners);
    let each = [(TOKENS, tokens), (TIME, time_ms), (COST, cost)];
    let mut headers: HeaderMap =
        each.into_iter().filter_map(|(name, left)| Some((name, HeaderValue::from(left?)))).collect();
    let soft: Vec<_> = soft
        .iter()
        .map(|(owner, budget)| format!("{}-{}-{}", owner.kind(), budget.period.as_str(), budget.kind.as_str()))
        .collect();
    if let Some(soft) = HeaderValue::try_from(soft.join(", ")).ok().filter(|soft| !soft.is_empty()) {
        headers.insert(SOFT, soft);
    }
    headers
}
