//! Every documented answer of the Responses API.

use axum::body::Body;
use axum::http::StatusCode;
use sluicegate::engine::scripted::{Failure, FailureKind, Script};

use super::{NOBODY, with};
use crate::harness::{Gate, request, says};
use crate::openapi::witness::Witness;

/// Those of its streams that no other API has.
pub(super) const EVENTS: [&str; 16] = [
    "response.completed",
    "response.content_part.added",
    "response.content_part.done",
    "response.created",
    "response.failed",
    "response.function_call_arguments.delta",
    "response.function_call_arguments.done",
    "response.in_progress",
    "response.incomplete",
    "response.output_item.added",
    "response.output_item.done",
    "response.output_text.delta",
    "response.output_text.done",
    "response.queued",
    "response.reasoning_text.delta",
    "response.reasoning_text.done",
];

const PATH: &str = "/v1/responses";
const COUNT: &str = "/v1/responses/input_tokens";
const ASK: &str = r#"{"model": "builtin", "input": "a"}"#;

pub(super) async fn see(witness: &mut Witness) {
    forms(witness).await;
    stored(witness).await;
    refused(witness).await;
    failures(witness).await;
    counts(witness).await;
}

async fn counts(witness: &mut Witness) {
    let gate = Gate::with(says(&["one"]), &[("SLUICEGATE_SERVER__MAX_BODY_BYTES", "2000")]).await;
    for (body, status) in [
        (with(ASK, "colour", "1"), StatusCode::OK),
        ("{}".to_owned(), StatusCode::BAD_REQUEST),
        (ASK.replace("builtin", "gpt-9"), StatusCode::NOT_FOUND),
        (" ".repeat(2001), StatusCode::PAYLOAD_TOO_LARGE),
    ] {
        assert_eq!(witness.post(&gate, COUNT, &body).await.0.status, status);
    }
    let mut form = request("POST", COUNT, Body::from(ASK));
    form.headers_mut().insert("content-encoding", "gzip".parse().unwrap());
    assert_eq!(witness.send(&gate, form).await.0.status, StatusCode::UNSUPPORTED_MEDIA_TYPE);
    gate.finish().await;
    let nobody = r#"[{ id = "default", engine = "scripted", model = "builtin-embedding" }]"#;
    let gate = Gate::with(Script::default(), &[("SLUICEGATE_POOLS", nobody)]).await;
    assert_eq!(witness.post(&gate, COUNT, ASK).await.0.status, StatusCode::SERVICE_UNAVAILABLE);
    gate.finish().await;
}

/// Items of every kind, whole and streamed.
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
    let tools = with(ASK, "tools", r#"[{"type": "function", "name": "f", "parameters": {}}]"#);
    let told = with(&with(&tools, "include", r#"["message.output_text.logprobs"]"#), "top_logprobs", "2");
    for body in [&tools, &told, &with(ASK, "max_output_tokens", "1"), &with(ASK, "why", "1")] {
        assert_eq!(witness.post(&gate, PATH, body).await.0.status, StatusCode::OK);
        assert_eq!(witness.post(&gate, PATH, &with(body, "stream", "true")).await.0.status, StatusCode::OK);
    }
    let background = with(&with(&tools, "background", "true"), "stream", "true");
    assert_eq!(witness.post(&gate, PATH, &background).await.1["response.queued"].len(), 1);
    gate.finish().await;
}

/// What is kept of a response.
async fn stored(witness: &mut Witness) {
    let gate = Gate::scripted(says(&["one"])).await;
    let response = witness.post(&gate, PATH, &with(ASK, "background", "true")).await.0.json();
    let path = format!("{PATH}/{}", response["id"].as_str().unwrap());
    let cancel = format!("{path}/cancel");
    let bad = [format!("{path}?stream=1"), format!("{path}/input_items?limit=0")];
    for path in &bad {
        assert_eq!(get(witness, &gate, path).await, StatusCode::BAD_REQUEST);
    }
    for path in [&path, &format!("{path}?stream=true&include=x"), &format!("{path}/input_items?order=asc&include[]=x")]
    {
        assert_eq!(get(witness, &gate, path).await, StatusCode::OK);
    }
    assert_eq!(witness.send(&gate, request("POST", &cancel, Body::empty())).await.0.status, StatusCode::OK);
    let alone = witness.post(&gate, PATH, ASK).await.0.json();
    let alone = format!("{PATH}/{}/cancel", alone["id"].as_str().unwrap());
    assert_eq!(witness.send(&gate, request("POST", &alone, Body::empty())).await.0.status, StatusCode::BAD_REQUEST);
    assert_eq!(witness.send(&gate, request("DELETE", &path, Body::empty())).await.0.status, StatusCode::OK);
    for (method, path) in
        [("GET", path.clone()), ("GET", format!("{path}/input_items")), ("POST", cancel), ("DELETE", path)]
    {
        let gone = witness.send(&gate, request(method, &path, Body::empty())).await.0;
        assert_eq!(gone.status, StatusCode::NOT_FOUND, "{method} {path}");
    }
    gate.finish().await;
}

async fn get(witness: &mut Witness, gate: &Gate, path: &str) -> StatusCode {
    witness.send(gate, request("GET", path, Body::empty())).await.0.status
}

async fn refused(witness: &mut Witness) {
    let gate = Gate::scripted(says(&["one"])).await;
    let named = with(ASK, "sluicegate", &format!(r#"{{"task_id": "{NOBODY}"}}"#));
    for status in [StatusCode::OK, StatusCode::CONFLICT] {
        assert_eq!(witness.post(&gate, PATH, &named).await.0.status, status);
    }
    for (body, status) in [(ASK, StatusCode::OK), (&with(ASK, "user", "\"me\""), StatusCode::UNPROCESSABLE_ENTITY)] {
        let mut keyed = request("POST", PATH, Body::from(body.to_owned()));
        keyed.headers_mut().insert("idempotency-key", "k".parse().unwrap());
        assert_eq!(witness.send(&gate, keyed).await.0.status, status);
    }
    for (body, status) in [
        (ASK.replace("builtin", "gpt-9"), StatusCode::NOT_FOUND),
        (with(ASK, "previous_response_id", "\"x\""), StatusCode::BAD_REQUEST),
    ] {
        assert_eq!(witness.post(&gate, PATH, &body).await.0.status, status);
    }
    gate.finish().await;
    let full = [("SLUICEGATE_POOLS__0__QUEUE__CAPACITY", "1"), ("SLUICEGATE_SERVER__MAX_BODY_BYTES", "2000")];
    let gate = Gate::with(Script { slots: 1, ..Script::default() }, &full).await;
    let long = r#"{"model_ref": "builtin", "prompt": "say it", "max_tokens": 500}"#;
    let tasks = [gate.submit(long).await, gate.submit(long).await];
    assert_eq!(witness.post(&gate, PATH, ASK).await.0.status, StatusCode::TOO_MANY_REQUESTS);
    for id in tasks.iter().rev() {
        gate.post(&format!("/v2/tasks/{id}/cancel"), "").await;
    }
    assert_eq!(witness.post(&gate, PATH, &" ".repeat(2001)).await.0.status, StatusCode::PAYLOAD_TOO_LARGE);
    let mut form = request("POST", PATH, Body::from(ASK));
    form.headers_mut().insert("content-type", "text/plain".parse().unwrap());
    assert_eq!(witness.send(&gate, form).await.0.status, StatusCode::UNSUPPORTED_MEDIA_TYPE);
    gate.finish().await;
}

async fn failures(witness: &mut Witness) {
    for (kind, status) in
        [(FailureKind::Reset, StatusCode::SERVICE_UNAVAILABLE), (FailureKind::Stall, StatusCode::GATEWAY_TIMEOUT)]
    {
        let script = Script { failure: Some(Failure { after: 1, kind, times: u32::MAX }), ..says(&["a", "b"]) };
        let gate = Gate::with(script, &[("SLUICEGATE_POOLS__0__WATCHDOG__IDLE_MS", "1000")]).await;
        assert_eq!(witness.post(&gate, PATH, ASK).await.0.status, status);
        gate.recovered().await;
        let (_, events) = witness.post(&gate, PATH, &with(ASK, "stream", "true")).await;
        assert_eq!((events["error"].len(), events["response.failed"].len()), (1, 1));
        gate.recovered().await;
        gate.finish().await;
    }
}
