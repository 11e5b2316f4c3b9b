//! Failures as OpenAI's clients expect them: the body, the status, and whether a retry can help.

use serde::Serialize;

use crate::dialect;
use crate::native::{ErrorCode, ErrorEnvelope, PolicyLabel, detail};

/// `{"error": {…}}`: the body of a refused request, and the last `data:` of a stream that fails.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ErrorBody<'a> {
    pub error: ErrorObject<'a>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ErrorObject<'a> {
    pub message: &'a str,
    pub r#type: &'static str,
    pub param: Option<&'a str>,
    pub code: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy_label: Option<PolicyLabel>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u64>,
}

impl<'a> From<&'a ErrorEnvelope> for ErrorBody<'a> {
    fn from(envelope: &'a ErrorEnvelope) -> Self {
        let (r#type, code) = type_and_code(envelope);
        Self {
            error: ErrorObject {
                message: &envelope.message,
                r#type,
                param: param(envelope),
                code,
                policy_label: envelope.policy_label,
                retry_after_ms: envelope.retry_after_ms,
            },
        }
    }
}

/// The HTTP status on `/v1`: that of the code, except where OpenAI's clients would misread it.
pub fn status(envelope: &ErrorEnvelope) -> u16 {
    match envelope.code {
        ErrorCode::ModelDeprecated => 404,
        _ => envelope.http_status(),
    }
}

/// Whether the answer needs `x-should-retry: false`: OpenAI's clients would repeat the request by themselves, in vain.
pub fn forbids_retry(envelope: &ErrorEnvelope) -> bool {
    dialect::forbids_retry(envelope, status(envelope))
}

const INVALID: &str = "invalid_request_error";
const SERVER: &str = "server_error";

fn type_and_code(envelope: &ErrorEnvelope) -> (&'static str, Option<&'static str>) {
    let exact = |code: &'static str| Some(envelope.detail.unwrap_or(code));
    match envelope.code {
        ErrorCode::InvalidParams if envelope.param.is_some() => (INVALID, exact(detail::INVALID_VALUE)),
        ErrorCode::InvalidParams => (INVALID, envelope.detail),
        ErrorCode::DeadlineUnmet => (INVALID, Some("deadline_unmet")),
        ErrorCode::Unauthenticated => (INVALID, Some("invalid_api_key")),
        ErrorCode::Forbidden => ("permission_error", Some("insufficient_permissions")),
        ErrorCode::NotFound if is_about_a_model(envelope) => (INVALID, Some(detail::MODEL_NOT_FOUND)),
        ErrorCode::NotFound => (INVALID, exact("not_found")),
        ErrorCode::MethodNotAllowed => (INVALID, Some("method_not_allowed")),
        ErrorCode::Conflict if envelope.http_status() == 422 => (INVALID, Some("conflict")),
        ErrorCode::Conflict => (INVALID, exact("conflict")),
        ErrorCode::PayloadTooLarge => (INVALID, Some("payload_too_large")),
        ErrorCode::UnsupportedMediaType => (INVALID, Some("unsupported_media_type")),
        ErrorCode::ModelDeprecated => (INVALID, Some(detail::MODEL_NOT_FOUND)),
        ErrorCode::UntrustedArtifact => (INVALID, Some("untrusted_artifact")),
        ErrorCode::AdmissionReject => rejection(envelope.policy_label),
        ErrorCode::QueueFullDropLru => (SERVER, Some("server_overloaded")),
        ErrorCode::Internal => (SERVER, Some("internal_error")),
        ErrorCode::PoolUnready | ErrorCode::PoolUnavailable | ErrorCode::ReplicaExhausted => {
            (SERVER, Some("service_unavailable"))
        }
        ErrorCode::WorkerReset => (SERVER, Some("engine_reset")),
        ErrorCode::DecodeTimeout => (SERVER, Some("timeout")),
    }
}

const fn rejection(label: Option<PolicyLabel>) -> (&'static str, Option<&'static str>) {
    use PolicyLabel::{BudgetCost, BudgetTime, BudgetTokens, QueueReject, QueueShedBatch};
    match label {
        Some(PolicyLabel::RateTokens) => ("tokens", Some("rate_limit_exceeded")),
        Some(PolicyLabel::RateRequests | PolicyLabel::RateConcurrency) => ("requests", Some("rate_limit_exceeded")),
        Some(BudgetTokens | BudgetTime | BudgetCost) => ("insufficient_quota", Some("insufficient_quota")),
        Some(QueueReject | QueueShedBatch) | None => (SERVER, Some("server_overloaded")),
    }
}

fn is_about_a_model(envelope: &ErrorEnvelope) -> bool {
    envelope.detail == Some(detail::MODEL_NOT_FOUND) || matches!(envelope.param.as_deref(), Some("model_ref" | "model"))
}

fn param(envelope: &ErrorEnvelope) -> Option<&str> {
    let names_the_model = match envelope.code {
        ErrorCode::NotFound => is_about_a_model(envelope),
        ErrorCode::ModelDeprecated => true,
        _ => envelope.param.as_deref() == Some("model_ref"),
    };
    if names_the_model { Some("model") } else { envelope.param.as_deref() }
}
