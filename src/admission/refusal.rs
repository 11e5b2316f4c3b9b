//! Refusals: what clients are told whose request finds no place.

use sluicegate_compat::native::{ErrorCode, ErrorEnvelope, ModelPrice, PolicyLabel, Violation};

use super::recipe::Asked;
use super::worst_case;
use crate::budgets::price::worst_cost;
use crate::budgets::{BindingBudget, Left, Unit};
use crate::placement::NoPlace;
use crate::pools::{Pool, Refused};
use crate::tasks::{Limits, label};

/// The field that asks for more than `bound` of what the policy counts: for too many tasks, or too many tokens.
pub(super) fn field(wanted: &[(&Asked, Limits)], label: PolicyLabel, bound: u64) -> &'static str {
    let Some((asked, _)) = wanted.first() else { return "prompt" };
    let prompts = wanted.iter().map(|(_, limits)| u64::from(limits.prompt_tokens)).sum::<u64>();
    let tokens = matches!(label, PolicyLabel::RateTokens | PolicyLabel::BudgetTokens | PolicyLabel::BudgetCost);
    if tokens && asked.has_output() && prompts < bound { "max_tokens" } else { asked.field() }
}

/// What the client is told whose tasks its budgets do not cover, which leave so much.
pub(super) fn over_budget(
    unit: Unit,
    wanted: &[(&Asked, Limits)],
    (left, binding): (&Left, Option<BindingBudget>),
) -> ErrorEnvelope {
    let bound = if unit == Unit::Tokens { left.tokens.unwrap_or(0) } else { u64::MAX };
    let field = field(wanted, label(unit), bound);
    let whose = binding.map_or_else(|| "the budget".to_owned(), |binding| named(&binding));
    let message = match unit {
        Unit::Tokens => {
            let tokens: u64 = wanted.iter().map(|(_, limits)| worst_case(limits)).sum();
            format!(
                "`{field}`: the request may take {tokens} tokens with all of its output, and {whose} leaves {bound}"
            )
        }
        Unit::Cost => {
            let cost = left.cost.unwrap_or(0);
            format!(
                "`{field}`: the request may cost more with all of its output than the {cost} micro-units that {whose} leaves"
            )
        }
        Unit::Time => return ErrorEnvelope::rejected(label(unit), format!("{whose} does not leave any engine time")),
    };
    ErrorEnvelope { param: Some(field.to_owned()), ..ErrorEnvelope::rejected(label(unit), message) }
}

/// How much of a unit tasks want at least that do not get it.
pub(super) fn wanted(unit: Unit, wanted: &[(&Asked, Limits)], price: &ModelPrice) -> u64 {
    let each = wanted.iter().map(|(_, limits)| match unit {
        Unit::Tokens => worst_case(limits),
        Unit::Cost => {
            let prompt = u64::from(limits.prompt_tokens);
            worst_cost(price, prompt, worst_case(limits).saturating_sub(prompt))
        }
        Unit::Time => 1,
    });
    each.fold(0, u64::saturating_add)
}

/// A budget of a tenant or a key in words, with when it begins anew.
fn named(BindingBudget { owner, budget, resets_ms }: &BindingBudget) -> String {
    let (owner, period) = (owner.kind(), budget.period.as_str());
    let resets = resets_ms.and_then(|ms| jiff::Timestamp::from_millisecond(i64::try_from(ms).ok()?).ok());
    let resets = resets.map_or_else(String::new, |at| format!(" (until {at})"));
    format!("the {period} budget of the {owner}{resets}")
}

pub(super) fn nowhere(reason: NoPlace) -> ErrorEnvelope {
    let message = reason.to_string();
    match reason {
        NoPlace::Invalid { param, .. } => ErrorEnvelope::invalid(param, message),
        NoPlace::Unserved(_) => ErrorEnvelope::invalid("workload", message).with_detail("unsupported_value"),
        NoPlace::Unready { pool } => {
            ErrorEnvelope::new(ErrorCode::PoolUnready, message).with_pool(pool.as_str()).with_retry_after_ms(1000)
        }
        NoPlace::Unavailable(_) => ErrorEnvelope::new(ErrorCode::PoolUnavailable, message).with_retry_after_ms(5000),
    }
}

/// What a client is told whose request is wrong by itself.
pub fn violation(violation: Violation) -> ErrorEnvelope {
    let message = format!("`{}`: {}", violation.param, violation.message);
    ErrorEnvelope::invalid(violation.param, message)
}

pub(super) fn refused(reason: Refused, pool: &Pool) -> ErrorEnvelope {
    let envelope = match reason {
        Refused::QueueFull { retry_after_ms } => {
            ErrorEnvelope::rejected(PolicyLabel::QueueReject, "the queue is full; try again later")
                .with_retry_after_ms(retry_after_ms)
        }
        Refused::BatchShed { retry_after_ms } => {
            ErrorEnvelope::rejected(PolicyLabel::QueueShedBatch, reason.to_string()).with_retry_after_ms(retry_after_ms)
        }
        Refused::NotReady => ErrorEnvelope::new(ErrorCode::PoolUnready, reason.to_string()).with_retry_after_ms(1000),
        Refused::Draining { retry_after_ms } | Refused::Reloading { retry_after_ms } => {
            ErrorEnvelope::new(ErrorCode::PoolUnready, reason.to_string()).with_retry_after_ms(retry_after_ms)
        }
        Refused::Unloaded => ErrorEnvelope::new(ErrorCode::PoolUnready, reason.to_string()).with_retry_after_ms(5000),
        Refused::Exchanged => ErrorEnvelope::new(ErrorCode::PoolUnavailable, reason.to_string()).with_retry_after_ms(0),
        Refused::Exhausted => {
            ErrorEnvelope::new(ErrorCode::ReplicaExhausted, reason.to_string()).with_retry_after_ms(5000)
        }
    };
    envelope.with_pool(pool.id().as_str())
}
