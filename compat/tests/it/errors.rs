//! Error bodies, statuses and advice on retries.

use async_openai::error::ApiError;
use sluicegate_compat::native::{ErrorCode, ErrorEnvelope, PolicyLabel, detail};
use sluicegate_compat::openai::ErrorBody;
use sluicegate_compat::openai::error::{forbids_retry, status};

fn line(error: &ErrorEnvelope) -> String {
    let body = serde_json::to_value(ErrorBody::from(error)).unwrap();
    let body = &body["error"];
    let retry = if forbids_retry(error) { "no retry" } else { "" };
    let [r#type, code, param] = ["type", "code", "param"].map(|member| body[member].as_str().unwrap_or("null"));
    format!("{:<24}{:<18}{} {type} {code} {param} {retry}", error.code.as_str(), label(error), status(error))
        .trim_end()
        .to_owned()
}

fn label(error: &ErrorEnvelope) -> &'static str {
    error.policy_label.map_or("", PolicyLabel::as_str)
}

#[test]
fn every_code_has_its_type_code_status_and_advice() {
    let table: Vec<_> = ErrorCode::ALL.iter().map(|code| line(&ErrorEnvelope::new(*code, ""))).collect();
    insta::assert_snapshot!(table.join("\n"), @r#"
    INVALID_PARAMS                            400 invalid_request_error null null
    DEADLINE_UNMET                            400 invalid_request_error deadline_unmet null
    UNAUTHENTICATED                           401 invalid_request_error invalid_api_key null
    FORBIDDEN                                 403 permission_error insufficient_permissions null
    NOT_FOUND                                 404 invalid_request_error not_found null
    METHOD_NOT_ALLOWED                        405 invalid_request_error method_not_allowed null
    CONFLICT                                  409 invalid_request_error conflict null no retry
    PAYLOAD_TOO_LARGE                         413 invalid_request_error payload_too_large null
    UNSUPPORTED_MEDIA_TYPE                    415 invalid_request_error unsupported_media_type null
    MODEL_DEPRECATED                          404 invalid_request_error model_not_found model
    UNTRUSTED_ARTIFACT                        422 invalid_request_error untrusted_artifact null
    ADMISSION_REJECT                          429 server_error server_overloaded null no retry
    QUEUE_FULL_DROP_LRU                       429 server_error server_overloaded null
    INTERNAL                                  500 server_error internal_error null no retry
    POOL_UNREADY                              503 server_error service_unavailable null
    POOL_UNAVAILABLE                          503 server_error service_unavailable null
    REPLICA_EXHAUSTED                         503 server_error service_unavailable null
    WORKER_RESET                              503 server_error engine_reset null
    DECODE_TIMEOUT                            504 server_error timeout null
    "#);
}

#[test]
fn every_policy_has_its_type_and_code() {
    let labels = [
        PolicyLabel::QueueReject,
        PolicyLabel::QueueShedBatch,
        PolicyLabel::RateRequests,
        PolicyLabel::RateTokens,
        PolicyLabel::RateConcurrency,
        PolicyLabel::BudgetTokens,
        PolicyLabel::BudgetTime,
        PolicyLabel::BudgetCost,
    ];
    let table: Vec<_> = labels.iter().map(|label| line(&ErrorEnvelope::rejected(*label, ""))).collect();
    insta::assert_snapshot!(table.join("\n"), @r#"
    ADMISSION_REJECT        queue.reject      429 server_error server_overloaded null
    ADMISSION_REJECT        queue.shed_batch  429 server_error server_overloaded null
    ADMISSION_REJECT        rate.requests     429 requests rate_limit_exceeded null
    ADMISSION_REJECT        rate.tokens       429 tokens rate_limit_exceeded null
    ADMISSION_REJECT        rate.concurrency  429 requests rate_limit_exceeded null
    ADMISSION_REJECT        budget.tokens     429 insufficient_quota insufficient_quota null no retry
    ADMISSION_REJECT        budget.time       429 insufficient_quota insufficient_quota null no retry
    ADMISSION_REJECT        budget.cost       429 insufficient_quota insufficient_quota null no retry
    "#);
}

#[test]
fn details_and_fields_make_it_exact() {
    let not_found = |param: Option<&str>| ErrorEnvelope {
        param: param.map(str::to_owned),
        ..ErrorEnvelope::new(ErrorCode::NotFound, "")
    };
    let conflict = ErrorEnvelope::new(ErrorCode::Conflict, "");
    let burst = ErrorEnvelope { retriable: false, ..ErrorEnvelope::rejected(PolicyLabel::RateTokens, "") };
    let cases = [
        ErrorEnvelope::invalid("messages", "").with_detail(detail::CONTEXT_LENGTH_EXCEEDED),
        ErrorEnvelope::invalid("temperature", ""),
        ErrorEnvelope::invalid("model_ref", ""),
        not_found(Some("model_ref")),
        not_found(None).with_detail(detail::MODEL_NOT_FOUND),
        not_found(None),
        conflict.with_detail(detail::IDEMPOTENCY_CONFLICT),
        burst,
    ];
    insta::assert_snapshot!(cases.iter().map(line).collect::<Vec<_>>().join("\n"), @r#"
    INVALID_PARAMS                            400 invalid_request_error context_length_exceeded messages
    INVALID_PARAMS                            400 invalid_request_error invalid_value temperature
    INVALID_PARAMS                            400 invalid_request_error invalid_value model
    NOT_FOUND                                 404 invalid_request_error model_not_found model
    NOT_FOUND                                 404 invalid_request_error model_not_found model
    NOT_FOUND                                 404 invalid_request_error not_found null
    CONFLICT                                  422 invalid_request_error conflict null
    ADMISSION_REJECT        rate.tokens       429 tokens rate_limit_exceeded null no retry
    "#);
}

#[test]
fn the_body_keeps_what_openai_has_no_name_for() {
    let error = ErrorEnvelope::rejected(PolicyLabel::QueueReject, "The queue is full.").with_retry_after_ms(1200);
    insta::assert_snapshot!(serde_json::to_string(&ErrorBody::from(&error)).unwrap(), @r#"{"error":{"message":"The queue is full.","type":"server_error","param":null,"code":"server_overloaded","policy_label":"queue.reject","retry_after_ms":1200}}"#);
}

#[test]
fn async_openai_reads_every_error() {
    #[derive(serde::Deserialize)]
    struct Wrapped {
        error: ApiError,
    }
    for code in ErrorCode::ALL {
        let envelope = ErrorEnvelope { param: Some("n".into()), ..ErrorEnvelope::new(code, "why") };
        let body = serde_json::to_string(&ErrorBody::from(&envelope)).unwrap();
        let read: Wrapped = serde_json::from_str(&body).unwrap();
        assert_eq!(read.error.message, "why");
        assert!(read.error.r#type.is_some());
        assert!(read.error.code.is_some());
    }
}
