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
    insta::assert_snapshot!(table.join("\n"), @"");
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
    insta::assert_snapshot!(table.join("\n"), @"");
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
    insta::assert_snapshot!(cases.iter().map(line).collect::<Vec<_>>().join("\n"), @"");
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
