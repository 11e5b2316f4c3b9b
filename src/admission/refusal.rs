//! Refusals: what clients are told whose request finds no place.

use sluicegate_compat::native::{ErrorCode, ErrorEnvelope, PolicyLabel, Violation};

use crate::placement::NoPlace;
use crate::pools::{Pool, Refused};

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
