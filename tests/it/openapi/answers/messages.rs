//! Every documented answer of the Messages API.

use axum::body::Body;
use axum::http::StatusCode;
use sluicegate::engine::scripted::{Failure, FailureKind, Script};

use super::{NOBODY, with};
use crate::harness::{Gate, request, says};
use crate::openapi::witness::Witness;

/// Those of its streams that no other API has.
pub(super) const EVENTS: [&str; 7] = [
    "content_block_delta",
    "content_block_start",
    "content_block_stop",
    "message_delta",
    "message_start",
    "message_stop",
    "ping",
];

const PATH: &str = "/v1/messages";
const COUNT: &str = "/v1/messages/count_tokens";
const ASK: &str = r#"{"model": "builtin", "max_tokens": 500, "messages": [{"role": "user", "content": "a"}]}"#;
const BRIEF: &str = r#"{"model": "builtin", "messages": [{"role": "user", "content": "a"}]}"#;

pub(super) async fn see(witness: &mut Witness) {
    forms(witness).await;
    refused(witness).await;
    conflicts(witness).await;
    too_much(witness).await;
    nothing_to_serve_it(witness).await;
    failures(witness).await;
}

/// Blocks of every kind, whole and streamed, and what goes through a silence.
async fn forms(witness: &mut Witness) {
    let answer = [
        "<think>\n",
        "Hm",
        "\n</think>",
        "Wait.",
        "<tool_call>{\"name\": \"f\", \"arguments\": {\"a\":",
        " 1}}</tool_call>",
    ];
    let gate = Gate::scripted(says(&answer)).await;
    let tools = with(ASK, "tools", r#"[{"name": "f", "input_schema": {}}]"#);
    let thinking = with(&tools, "thinking", r#"{"type": "adaptive"}"#);
    for body in [&thinking, &with(&thinking, "stop_sequences", r#"["Wait"]"#), &with(ASK, "max_tokens", "1")] {
        assert_eq!(witness.post(&gate, PATH, body).await.0.status, StatusCode::OK);
        let (_, events) = witness.post(&gate, PATH, &with(body, "stream", "true")).await;
        assert_eq!(events["message_stop"].len(), 1);
    }
    gate.finish().await;
    let gate = Gate::scripted(Script { slots: 1, ..Script::default() }).await;
    gate.submit(r#"{"model_ref": "builtin", "prompt": "hi", "max_tokens": 2000}"#).await;
    let (_, events) = witness.post(&gate, PATH, &with(ASK, "stream", "true")).await;
    assert_eq!(events["ping"].len(), 1);
    gate.finish().await;
}

async fn refused(witness: &mut Witness) {
    let gate = Gate::with(says(&["hi"]), &[("SLUICEGATE_SERVER__MAX_BODY_BYTES", "2000")]).await;
    for (path, body) in [(PATH, ASK), (COUNT, BRIEF)] {
        let (ignored, _) = witness.post(&gate, path, &with(body, "colour", "1")).await;
        assert_eq!(ignored.header("x-sluicegate-ignored"), "colour");
        assert_eq!(witness.post(&gate, path, "{}").await.0.status, StatusCode::BAD_REQUEST);
        let unknown = body.replace("builtin", "claude-9");
        assert_eq!(witness.post(&gate, path, &unknown).await.0.status, StatusCode::NOT_FOUND);
        assert_eq!(witness.post(&gate, path, &" ".repeat(2001)).await.0.status, StatusCode::PAYLOAD_TOO_LARGE);
        let mut form = request("POST", path, Body::from(body));
        form.headers_mut().insert("content-type", "text/plain".parse().unwrap());
        assert_eq!(witness.send(&gate, form).await.0.status, StatusCode::UNSUPPORTED_MEDIA_TYPE);
    }
    let nowhere = "/v1/messages/nowhere";
    assert_eq!(witness.get(&gate, nowhere).await.0.status, StatusCode::NOT_FOUND);
    let mut elsewhere = request("GET", nowhere, Body::empty());
    elsewhere.headers_mut().insert("host", "example.org".parse().unwrap());
    assert_eq!(witness.send(&gate, elsewhere).await.0.status, StatusCode::FORBIDDEN);
    gate.finish().await;
}

async fn conflicts(witness: &mut Witness) {
    let gate = Gate::scripted(says(&["hi"])).await;
    let named = with(ASK, "sluicegate", &format!(r#"{{"task_id": "{NOBODY}"}}"#));
    for status in [StatusCode::OK, StatusCode::CONFLICT] {
        assert_eq!(witness.post(&gate, PATH, &named).await.0.status, status);
    }
    for (body, status) in [(ASK, StatusCode::OK), (&with(ASK, "why", "1"), StatusCode::UNPROCESSABLE_ENTITY)] {
        let mut keyed = request("POST", PATH, Body::from(body.to_owned()));
        keyed.headers_mut().insert("idempotency-key", "k".parse().unwrap());
        assert_eq!(witness.send(&gate, keyed).await.0.status, status);
    }
    gate.finish().await;
    let gate = Gate::with(says(&["hi"]), &[("SLUICEGATE_CATALOG__TRUST", "strict")]).await;
    gate.post("/v2/catalog/models", r#"{"id": "q", "source": "hf:a/b"}"#).await;
    for (path, body) in [(PATH, ASK), (COUNT, BRIEF)] {
        let (answer, _) = witness.post(&gate, path, &body.replace("builtin", "q")).await;
        assert_eq!(answer.status, StatusCode::UNPROCESSABLE_ENTITY, "{}", answer.body);
    }
    gate.finish().await;
}

async fn too_much(witness: &mut Witness) {
    let script = Script { slots: 1, ..Script::default() };
    let gate = Gate::with(script, &[("SLUICEGATE_POOLS__0__QUEUE__CAPACITY", "1")]).await;
    let long = r#"{"model_ref": "builtin", "prompt": "say it", "max_tokens": 500}"#;
    let tasks = [gate.submit(long).await, gate.submit(long).await];
    assert_eq!(witness.post(&gate, PATH, ASK).await.0.status.as_u16(), 529);
    for id in tasks.iter().rev() {
        gate.post(&format!("/v2/tasks/{id}/cancel"), "").await;
    }
    let session = format!("/v2/sessions/{NOBODY}");
    gate.post(&session, r#"{"budget": {"tokens": 9}}"#).await;
    let spent = with(ASK, "sluicegate", &format!(r#"{{"session_id": "{NOBODY}"}}"#));
    let (answer, _) = witness.post(&gate, PATH, &spent).await;
    assert_eq!((answer.status, answer.header("x-should-retry")), (StatusCode::TOO_MANY_REQUESTS, "false"));
    gate.finish().await;
}

async fn nothing_to_serve_it(witness: &mut Witness) {
    let models =
        [("SLUICEGATE_CATALOG__MODELS", "[{ id = \"q\", source = \"hf:a/b\" }]"), ("SLUICEGATE_POOLS__0__MODEL", "q")];
    let gate = Gate::with(says(&["hi"]), &models).await;
    for (path, body) in [(PATH, ASK), (COUNT, BRIEF)] {
        assert_eq!(witness.post(&gate, path, body).await.0.status, StatusCode::SERVICE_UNAVAILABLE);
    }
    gate.finish().await;
}

async fn failures(witness: &mut Witness) {
    for (kind, status) in
        [(FailureKind::Reset, StatusCode::SERVICE_UNAVAILABLE), (FailureKind::Stall, StatusCode::GATEWAY_TIMEOUT)]
    {
        let script = Script { failure: Some(Failure { after: 1, kind, times: u32::MAX }), ..Script::default() };
        let gate = Gate::with(script, &[("SLUICEGATE_POOLS__0__WATCHDOG__IDLE_MS", "1000")]).await;
        assert_eq!(witness.post(&gate, PATH, ASK).await.0.status, status);
        gate.recovered().await;
        let (_, events) = witness.post(&gate, PATH, &with(ASK, "stream", "true")).await;
        assert_eq!(events["error"].len(), 1);
        gate.recovered().await;
        gate.finish().await;
    }
}
