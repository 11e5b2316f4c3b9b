//! What the dialects have in common beside the native one.

use crate::native::{CanceledBy, End, ErrorCode, ErrorEnvelope, detail};

/// `envelope` with its `param` in the client's words, which `own` gives for the native ones, also in its message.
pub fn rename(mut envelope: ErrorEnvelope, own: impl FnOnce(&str) -> String) -> ErrorEnvelope {
    if let Some(native) = envelope.param.take() {
        let own = own(&native);
        envelope.message = envelope.message.replacen(&format!("`{native}`"), &format!("`{own}`"), 1);
        envelope.param = Some(own);
    }
    envelope
}

/// Notes a field of a request that has no effect, once.
pub fn pass_over(field: &str, ignored: &mut Vec<String>) {
    if !ignored.iter().any(|noted| noted == field) {
        ignored.push(field.to_owned());
    }
}

/// What a client reads that did not cancel, of a task that somebody else did, or its pool's operator.
pub fn canceled(end: &End) -> ErrorEnvelope {
    if let Some(by) = end.canceled_by {
        let why = match by {
            CanceledBy::Drain => "Its pool was taken out of service before the task ended.",
            CanceledBy::Purge => "Its model was purged before the task ended.",
            // Whoever has done that does not want it tried again.
            CanceledBy::Admin => {
                let message = "An administrator of the gateway has cancelled the task before it ended.";
                return ErrorEnvelope::new(ErrorCode::Conflict, message).with_detail(detail::TASK_CANCELED);
            }
        };
        return ErrorEnvelope::new(ErrorCode::PoolUnready, why).with_retry_after_ms(1000);
    }
    ErrorEnvelope::new(ErrorCode::Conflict, "The task was cancelled before it ended.")
        .with_detail(detail::TASK_CANCELED)
}

/// Whether an answer with this status needs `x-should-retry: false`: the official clients, which were made by the same
/// generator, would repeat the request by themselves, in vain.
pub fn forbids_retry(envelope: &ErrorEnvelope, status: u16) -> bool {
    !envelope.retriable && (matches!(status, 408 | 409 | 429) || status >= 500)
}
