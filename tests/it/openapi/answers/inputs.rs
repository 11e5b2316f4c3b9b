//! Every documented answer to completions of prompts, embeddings and rerank.

use axum::body::Body;
use axum::http::StatusCode;
use sluicegate::engine::scripted::{Failure, FailureKind, Script};
use sluicegate_compat::native::Workload;

use super::{NOBODY, with};
use crate::harness::{Gate, request};
use crate::openapi::witness::Witness;

const ASK: [(&str, &str); 3] = [
    ("/v1/completions", r#"{"model": "builtin", "prompt": "a", "max_tokens": 4}"#),
    ("/v1/embeddings", r#"{"model": "builtin", "input": ["a", "b"]}"#),
    ("/v1/rerank", r#"{"model": "builtin", "query": "a", "documents": ["a", "b"]}"#),
];

fn able() -> Script {
    Script { workloads: Workload::ALL.to_vec(), ..Script::default() }
}

pub(super) async fn see(witness: &mut Witness) {
    refused(witness).await;
    forms(witness).await;
    for (path, body) in ASK {
        let named = with(body, "sluicegate", &format!(r#"{{"task_id": "{NOBODY}"}}"#));
        let gate = Gate::scripted(able()).await;
        for status in [StatusCode::OK, StatusCode::CONFLICT] {
            assert_eq!(witness.post(&gate, path, &named).await.0.status, status);
        }
        for (body, status) in [(body, StatusCode::OK), (&with(body, "why", "1"), StatusCode::UNPROCESSABLE_ENTITY)] {
            let mut keyed = request("POST", path, Body::from(body.to_owned()));
            keyed.headers_mut().insert("idempotency-key", path.parse().unwrap());
            assert_eq!(witness.send(&gate, keyed).await.0.status, status);
        }
        gate.finish().await;
        for (kind, status) in
            [(FailureKind::Reset, StatusCode::SERVICE_UNAVAILABLE), (FailureKind::Stall, StatusCode::GATEWAY_TIMEOUT)]
        {
            let script = Script { failure: Some(Failure { after: 1, kind, times: u32::MAX }), ..able() };
            let gate = Gate::with(script, &[("SLUICEGATE_POOLS__0__WATCHDOG__IDLE_MS", "1000")]).await;
            assert_eq!(witness.post(&gate, path, body).await.0.status, status);
            gate.recovered().await;
            gate.finish().await;
        }
    }
}

/// Every form that an answer to a prompt has.
async fn forms(witness: &mut Witness) {
    let gate = Gate::scripted(able()).await;
    let (path, body) = ASK[0];
    for (field, value) in
        [("logprobs", "1"), ("stream", "true"), ("n", "2"), ("best_of", "2"), ("user", "\"me\""), ("why", "1")]
    {
        assert_eq!(witness.post(&gate, path, &with(body, field, value)).await.0.status, StatusCode::OK);
    }
    let usage = with(&with(body, "stream", "true"), "stream_options", r#"{"include_usage": true}"#);
    assert_eq!(witness.post(&gate, path, &with(&usage, "logprobs", "2")).await.0.status, StatusCode::OK);
    gate.finish().await;
    let script = Script { failure: Some(Failure { after: 1, kind: FailureKind::Reset, times: u32::MAX }), ..able() };
    let gate = Gate::scripted(script).await;
    assert_eq!(witness.post(&gate, path, &usage).await.0.status, StatusCode::OK);
    gate.recovered().await;
    gate.finish().await;
}

async fn refused(witness: &mut Witness) {
    let gate = Gate::with(Script { slots: 1, ..able() }, &[("SLUICEGATE_POOLS__0__QUEUE__CAPACITY", "1")]).await;
    let long = r#"{"model_ref": "builtin", "prompt": "say it", "max_tokens": 500}"#;
    let tasks = [gate.submit(long).await, gate.submit(long).await];
    for (path, body) in ASK {
        for (body, status) in [
            (body.to_owned(), StatusCode::TOO_MANY_REQUESTS),
            ("{}".to_owned(), StatusCode::BAD_REQUEST),
            (body.replace("builtin", "gpt-9"), StatusCode::NOT_FOUND),
        ] {
            assert_eq!(witness.post(&gate, path, &body).await.0.status, status, "{path} {body}");
        }
    }
    for id in tasks.iter().rev() {
        gate.post(&format!("/v2/tasks/{id}/cancel"), "").await;
    }
    gate.finish().await;
    let gate = Gate::with(able(), &[("SLUICEGATE_SERVER__MAX_BODY_BYTES", "2000")]).await;
    for (path, body) in ASK {
        let (answer, _) = witness.post(&gate, path, &" ".repeat(2001)).await;
        assert_eq!(answer.status, StatusCode::PAYLOAD_TOO_LARGE);
        let mut form = request("POST", path, Body::from(body));
        form.headers_mut().insert("content-type", "text/plain".parse().unwrap());
        assert_eq!(witness.send(&gate, form).await.0.status, StatusCode::UNSUPPORTED_MEDIA_TYPE);
    }
    gate.finish().await;
}
