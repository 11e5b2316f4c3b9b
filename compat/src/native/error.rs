//! The error envelope: one small shape for every failure, with what a client can do about it.

use serde::{Deserialize, Serialize};

/// What went wrong, as clients match on it. The names are part of the contract and never change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum ErrorCode {
    /// Malformed or out of range; `param` names the field.
    InvalidParams,
    /// The task cannot make its deadline.
    DeadlineUnmet,
    /// No key, or an unknown one.
    Unauthenticated,
    /// The key lacks the scope or the model; or, without keys, the caller is not local.
    Forbidden,
    /// No such task, pool, model or route.
    NotFound,
    /// The route exists, but not with this method.
    MethodNotAllowed,
    /// An id that is taken, or an operation already under way.
    Conflict,
    /// The body is larger than `server.max_body_bytes`.
    PayloadTooLarge,
    /// The body's media type is not JSON, or it is compressed.
    UnsupportedMediaType,
    /// The model is retired.
    ModelDeprecated,
    /// The digest or the trust policy failed.
    UntrustedArtifact,
    /// A policy said no; `policy_label` says which.
    AdmissionReject,
    /// Dropped from a full queue for a newer task.
    QueueFullDropLru,
    /// Ours; the message never shows internals.
    Internal,
    /// The pool is not ready, or draining.
    PoolUnready,
    /// No pool serves it.
    PoolUnavailable,
    /// All replicas failed.
    ReplicaExhausted,
    /// The engine died under the task.
    WorkerReset,
    /// The watchdog ended it: wall or idle time exceeded.
    DecodeTimeout,
}

impl ErrorCode {
    /// Every code, for tables and for metrics whose series exist from the start.
    pub const ALL: [ErrorCode; 19] = [
        Self::InvalidParams,
        Self::DeadlineUnmet,
        Self::Unauthenticated,
        Self::Forbidden,
        Self::NotFound,
        Self::MethodNotAllowed,
        Self::Conflict,
        Self::PayloadTooLarge,
        Self::UnsupportedMediaType,
        Self::ModelDeprecated,
        Self::UntrustedArtifact,
        Self::AdmissionReject,
        Self::QueueFullDropLru,
        Self::Internal,
        Self::PoolUnready,
        Self::PoolUnavailable,
        Self::ReplicaExhausted,
        Self::WorkerReset,
        Self::DecodeTimeout,
    ];

    /// The name on the wire, which is also the label of `errors_total`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::InvalidParams => "INVALID_PARAMS",
            Self::DeadlineUnmet => "DEADLINE_UNMET",
            Self::Unauthenticated => "UNAUTHENTICATED",
            Self::Forbidden => "FORBIDDEN",
            Self::NotFound => "NOT_FOUND",
            Self::MethodNotAllowed => "METHOD_NOT_ALLOWED",
            Self::Conflict => "CONFLICT",
            Self::PayloadTooLarge => "PAYLOAD_TOO_LARGE",
            Self::UnsupportedMediaType => "UNSUPPORTED_MEDIA_TYPE",
            Self::ModelDeprecated => "MODEL_DEPRECATED",
            Self::UntrustedArtifact => "UNTRUSTED_ARTIFACT",
            Self::AdmissionReject => "ADMISSION_REJECT",
            Self::QueueFullDropLru => "QUEUE_FULL_DROP_LRU",
            Self::Internal => "INTERNAL",
            Self::PoolUnready => "POOL_UNREADY",
            Self::PoolUnavailable => "POOL_UNAVAILABLE",
            Self::ReplicaExhausted => "REPLICA_EXHAUSTED",
            Self::WorkerReset => "WORKER_RESET",
            Self::DecodeTimeout => "DECODE_TIMEOUT",
        }
    }

    /// The HTTP status of an answer that fails with this code.
    pub const fn http_status(self) -> u16 {
        match self {
            Self::InvalidParams | Self::DeadlineUnmet => 400,
            Self::Unauthenticated => 401,
            Self::Forbidden => 403,
            Self::NotFound => 404,
            Self::MethodNotAllowed => 405,
            Self::Conflict => 409,
            Self::ModelDeprecated => 410,
            Self::PayloadTooLarge => 413,
            Self::UnsupportedMediaType => 415,
            Self::UntrustedArtifact => 422,
            Self::AdmissionReject | Self::QueueFullDropLru => 429,
            Self::Internal => 500,
            Self::PoolUnready | Self::PoolUnavailable | Self::ReplicaExhausted | Self::WorkerReset => 503,
            Self::DecodeTimeout => 504,
        }
    }
}

/// More exact reasons than a code, for [`ErrorEnvelope::detail`]. Dialects that have a `code` of their own use them as it is.
pub mod detail {
    pub const CONTEXT_LENGTH_EXCEEDED: &str = "context_length_exceeded";
    /// An idempotency key that was used with another body: CONFLICT, but 422.
    pub const IDEMPOTENCY_CONFLICT: &str = "idempotency_conflict";
    /// `If-Match` names another state than the present one: CONFLICT, but 412.
    pub const PRECONDITION_FAILED: &str = "precondition_failed";
    pub const EMPTY_IMAGE_FILE: &str = "empty_image_file";
    pub const FAILED_TO_DOWNLOAD_IMAGE: &str = "failed_to_download_image";
    pub const IMAGE_FILE_TOO_LARGE: &str = "image_file_too_large";
    pub const IMAGE_PARSE_ERROR: &str = "image_parse_error";
    /// In pixels.
    pub const IMAGE_TOO_LARGE: &str = "image_too_large";
    pub const INVALID_BASE64_IMAGE: &str = "invalid_base64_image";
    pub const INVALID_IMAGE_URL: &str = "invalid_image_url";
    pub const INVALID_TYPE: &str = "invalid_type";
    pub const INVALID_VALUE: &str = "invalid_value";
    pub const MISSING_PARAMETER: &str = "missing_required_parameter";
    /// NOT_FOUND about a model, and not about a task or a route.
    pub const MODEL_NOT_FOUND: &str = "model_not_found";
    /// A response that is to be gone on with, and is not kept.
    pub const NO_PREVIOUS_RESPONSE: &str = "previous_response_not_found";
    /// CONFLICT: somebody else cancelled the task that a dialect without cancelled answers was reading.
    pub const TASK_CANCELED: &str = "task_canceled";
    /// Fields that exclude each other.
    pub const PARAMETER_COMBINATION: &str = "invalid_parameter_combination";
    pub const UNSUPPORTED_IMAGE_MEDIA_TYPE: &str = "unsupported_image_media_type";
    pub const UNSUPPORTED_PARAMETER: &str = "unsupported_parameter";
    /// A conversation that the server is to hold, of which the client would send what is new: its clients send all of it then.
    pub const UNSUPPORTED_THREAD: &str = "thread_unsupported_request";
    pub const UNSUPPORTED_VALUE: &str = "unsupported_value";
}

/// Which policy refused or ended a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum PolicyLabel {
    #[serde(rename = "queue.reject")]
    QueueReject,
    #[serde(rename = "queue.shed_batch")]
    QueueShedBatch,
    #[serde(rename = "rate.requests")]
    RateRequests,
    #[serde(rename = "rate.tokens")]
    RateTokens,
    #[serde(rename = "rate.concurrency")]
    RateConcurrency,
    #[serde(rename = "budget.tokens")]
    BudgetTokens,
    #[serde(rename = "budget.time")]
    BudgetTime,
    #[serde(rename = "budget.cost")]
    BudgetCost,
}

impl PolicyLabel {
    /// The name on the wire, which is also the `reason` label of `tasks_rejected_total`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::QueueReject => "queue.reject",
            Self::QueueShedBatch => "queue.shed_batch",
            Self::RateRequests => "rate.requests",
            Self::RateTokens => "rate.tokens",
            Self::RateConcurrency => "rate.concurrency",
            Self::BudgetTokens => "budget.tokens",
            Self::BudgetTime => "budget.time",
            Self::BudgetCost => "budget.cost",
        }
    }

    /// Whether waiting and asking again can succeed: queues empty and rates refill, budgets do not.
    pub const fn retriable(self) -> bool {
        !matches!(self, Self::BudgetTokens | Self::BudgetTime | Self::BudgetCost)
    }
}

/// A failure as every client sees it: as the body of a refused request, or as the `error` event of a stream.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ErrorEnvelope {
    pub code: ErrorCode,
    /// What was wrong, for a person to read. Never shows internals, prompts or keys.
    pub message: String,
    /// Whether the same request can succeed later.
    pub retriable: bool,
    /// The offending field, as a path into the body: `messages[0].content`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub param: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub engine: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pool_id: Option<String>,
    /// How long to wait before asking again, in ms, from the prediction.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy_label: Option<PolicyLabel>,
    pub correlation_id: String,
    /// A more exact reason, for dialects that have a name for it (`context_length_exceeded`, `unsupported_parameter`, …).
    #[serde(skip)]
    pub detail: Option<&'static str>,
}

impl ErrorEnvelope {
    /// An envelope with the defaults of `code`; the correlation id is filled in by whoever renders or logs it.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        let retriable = matches!(
            code,
            ErrorCode::QueueFullDropLru
                | ErrorCode::PoolUnready
                | ErrorCode::PoolUnavailable
                | ErrorCode::ReplicaExhausted
                | ErrorCode::WorkerReset
                | ErrorCode::DecodeTimeout
        );
        Self {
            code,
            message: message.into(),
            retriable,
            param: None,
            engine: None,
            pool_id: None,
            retry_after_ms: None,
            policy_label: None,
            correlation_id: String::new(),
            detail: None,
        }
    }

    /// INVALID_PARAMS about one field.
    pub fn invalid(param: impl Into<String>, message: impl Into<String>) -> Self {
        Self { param: Some(param.into()), ..Self::new(ErrorCode::InvalidParams, message) }
    }

    /// ADMISSION_REJECT by one policy.
    pub fn rejected(label: PolicyLabel, message: impl Into<String>) -> Self {
        Self {
            retriable: label.retriable(),
            policy_label: Some(label),
            ..Self::new(ErrorCode::AdmissionReject, message)
        }
    }

    /// The HTTP status of an answer that fails like this: that of the code, but for a clash of idempotency keys, because
    /// OpenAI's clients retry a 409, which can never help there.
    pub fn http_status(&self) -> u16 {
        match self.code {
            ErrorCode::Conflict if self.detail == Some(detail::IDEMPOTENCY_CONFLICT) => 422,
            ErrorCode::Conflict if self.detail == Some(detail::PRECONDITION_FAILED) => 412,
            code => code.http_status(),
        }
    }

    pub fn with_detail(mut self, detail: &'static str) -> Self {
        self.detail = Some(detail);
        self
    }

    pub fn with_pool(mut self, pool_id: impl Into<String>) -> Self {
        self.pool_id = Some(pool_id.into());
        self
    }

    pub fn with_retry_after_ms(mut self, retry_after_ms: u64) -> Self {
        self.retry_after_ms = Some(retry_after_ms);
        self
    }

    pub fn with_correlation_id(mut self, correlation_id: impl Into<String>) -> Self {
        self.correlation_id = correlation_id.into();
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_each_code_is_its_json() {
        for code in ErrorCode::ALL {
            assert_eq!(serde_json::to_string(&code).unwrap(), format!("\"{}\"", code.as_str()));
        }
    }

    #[test]
    fn an_envelope_always_says_whether_a_retry_helps() {
        let full = ErrorEnvelope::rejected(PolicyLabel::QueueReject, "the queue is full").with_retry_after_ms(1200);
        assert_eq!(
            serde_json::to_string(&full).unwrap(),
            r#"{"code":"ADMISSION_REJECT","message":"the queue is full","retriable":true,"retry_after_ms":1200,"policy_label":"queue.reject","correlation_id":""}"#
        );
        assert!(!ErrorEnvelope::rejected(PolicyLabel::BudgetCost, "spent").retriable);
    }
}
