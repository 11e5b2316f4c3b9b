//! Failures as Anthropic's clients expect them: the body, the status, and whether a retry can help.

use std::borrow::Cow;

use serde::Serialize;

use crate::dialect;
use crate::native::{ErrorCode, ErrorEnvelope, PolicyLabel, detail};

/// The body of a refused request, and the data of the `error` event of a stream that fails.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ErrorBody<'a> {
    r#type: &'static str,
    error: ErrorObject<'a>,
    request_id: &'a str,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct ErrorObject<'a> {
    r#type: &'static str,
    /// Names the field that it is about.
    message: Cow<'a, str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    param: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    details: Option<Details>,
    #[serde(skip_serializing_if = "Option::is_none")]
    policy_label: Option<PolicyLabel>,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after_ms: Option<u64>,
}

/// Of a refusal that clients know how to go on from.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct Details {
    error_code: &'static str,
    /// What keeps the conversation from being a thread.
    unsupported: [&'static str; 1],
}

impl<'a> From<&'a ErrorEnvelope> for ErrorBody<'a> {
    fn from(envelope: &'a ErrorEnvelope) -> Self {
        Self::of(envelope, &envelope.correlation_id)
    }
}

impl<'a> ErrorBody<'a> {
    /// Where the envelope may not know yet which request it is an answer to.
    pub(super) fn of(envelope: &'a ErrorEnvelope, request_id: &'a str) -> Self {
        let param = match envelope.param.as_deref() {
            Some("model_ref") => Some("model"),
            param => param,
        };
        let message = match param {
            Some(param) if !envelope.message.contains(param) => Cow::Owned(format!("{param}: {}", envelope.message)),
            _ => Cow::Borrowed(envelope.message.as_str()),
        };
        let code = envelope.detail.filter(|code| *code == detail::UNSUPPORTED_THREAD);
        let error = ErrorObject {
            r#type: type_of(envelope),
            message,
            param,
            details: code.map(|error_code| Details { error_code, unsupported: ["thread"] }),
            policy_label: envelope.policy_label,
            retry_after_ms: envelope.retry_after_ms,
        };
        Self { r#type: "error", error, request_id }
    }
}

/// The HTTP status on `/v1/messages`: that of the code, except where Anthropic's clients would misread it.
pub fn status(envelope: &ErrorEnvelope) -> u16 {
    match envelope.code {
        ErrorCode::ModelDeprecated => 404,
        _ if is_overloaded(envelope) => 529,
        _ => envelope.http_status(),
    }
}

/// Whether the answer needs `x-should-retry: false`.
pub fn forbids_retry(envelope: &ErrorEnvelope) -> bool {
    dialect::forbids_retry(envelope, status(envelope))
}

/// A full queue is the gateway's limit; 429 would say that it is one of the caller.
fn is_overloaded(envelope: &ErrorEnvelope) -> bool {
    match envelope.code {
        ErrorCode::QueueFullDropLru => true,
        ErrorCode::AdmissionReject => {
            matches!(envelope.policy_label, None | Some(PolicyLabel::QueueReject | PolicyLabel::QueueShedBatch))
        }
        _ => false,
    }
}

fn type_of(envelope: &ErrorEnvelope) -> &'static str {
    match envelope.code {
        ErrorCode::InvalidParams
        | ErrorCode::DeadlineUnmet
        | ErrorCode::MethodNotAllowed
        | ErrorCode::Conflict
        | ErrorCode::UnsupportedMediaType
        | ErrorCode::UntrustedArtifact => "invalid_request_error",
        ErrorCode::Unauthenticated => "authentication_error",
        ErrorCode::Forbidden => "permission_error",
        ErrorCode::NotFound | ErrorCode::ModelDeprecated => "not_found_error",
        ErrorCode::PayloadTooLarge => "request_too_large",
        ErrorCode::AdmissionReject | ErrorCode::QueueFullDropLru if is_overloaded(envelope) => "overloaded_error",
        ErrorCode::AdmissionReject | ErrorCode::QueueFullDropLru => "rate_limit_error",
        ErrorCode::PoolUnready | ErrorCode::PoolUnavailable | ErrorCode::ReplicaExhausted => "overloaded_error",
        ErrorCode::Internal | ErrorCode::WorkerReset => "api_error",
        ErrorCode::DecodeTimeout => "timeout_error",
    }
}
