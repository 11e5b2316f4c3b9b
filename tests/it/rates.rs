//! Limits on requests and tokens per minute and on tasks at once, as clients see them.

use std::time::Duration;

use axum::http::StatusCode;
use insta::assert_snapshot;
use serde_json::json;
use sluicegate::engine::scripted::Script;

use crate::harness::{Answer, Gate, masked, says};

const CHAT: &str = r#"{"model": "builtin", "max_tokens": 1, "messages": [{"role": "user", "content": "hi"}]}"#;
const TASK: &str = r#"{"model_ref": "builtin", "prompt": "hi", "max_tokens": 9}"#;

async fn gate(script: Script, limits: &str) -> Gate {
    Gate::with(script, &[("SLUICEGATE_LIMITS", limits)]).await
}

fn rates(answer: &Answer, what: &str) -> [String; 3] {
    ["limit", "remaining", "reset"].map(|name| answer.header(&format!("x-ratelimit-{name}-{what}")).to_owned())
}

#[tokio::test(start_paused = true)]
async fn a_minutes_worth_of_requests_comes_at_once_and_then_the_rate() {
    let gate = gate(says(&["hi"]), "{ requests_per_minute = 2 }").await;
    let first = gate.post("/v1/chat/completions", CHAT).await;
    assert_eq!(first.status, StatusCode::OK);
    assert_eq!(rates(&first, "requests")[..2], ["2", "1"]);
    assert_eq!(rates(&first, "tokens"), [""; 3]);
    // A preview takes nothing, and neither does what is refused for another reason.
    assert_eq!(gate.post("/v2/tasks/preview", TASK).await.json()["feasible"], true);
    assert_eq!(gate.post("/v2/tasks", r#"{"model_ref": "builtin", "prompt": "hi", "n": 0}"#).await.status, 400);
    assert_eq!(gate.post("/v2/tasks", TASK).await.status, StatusCode::ACCEPTED);
    gate.settle().await;

    let refused = gate.post("/v1/chat/completions", CHAT).await;
    assert_eq!(refused.status, StatusCode::TOO_MANY_REQUESTS);
    let error = refused.json()["error"].clone();
    assert_eq!((&error["type"], &error["code"]), (&"requests".into(), &"rate_limit_exceeded".into()));
    assert_eq!(
        (&error["policy_label"], error["retry_after_ms"].as_u64()),
        (&"rate.requests".into(), first_room(&refused))
    );
    assert_eq!(refused.header("x-should-retry"), "");
    let native = gate.post("/v2/tasks", TASK).await;
    assert_eq!(native.status, StatusCode::TOO_MANY_REQUESTS);
    let mut envelope = native.json();
    let wait_ms = envelope["retry_after_ms"].take().as_u64().unwrap();
    assert_snapshot!(masked(&envelope.to_string()), @r#"{"code":"ADMISSION_REJECT","message":"2 requests per minute is the limit","retriable":true,"retry_after_ms":null,"policy_label":"rate.requests","correlation_id":"<uuid>"}"#);
    assert!((29_000..=30_000).contains(&wait_ms), "{wait_ms}");
    assert_eq!(native.header("retry-after"), wait_ms.div_ceil(1000).to_string());
    assert_eq!(native.header("x-backoff-ms"), wait_ms.to_string());
    assert_eq!(gate.post("/v2/tasks/preview", TASK).await.json()["error"]["policy_label"], "rate.requests");

    tokio::time::advance(Duration::from_millis(wait_ms - 1)).await;
    assert_eq!(gate.post("/v2/tasks", TASK).await.status, StatusCode::TOO_MANY_REQUESTS);
    tokio::time::advance(Duration::from_millis(1)).await;
    assert_eq!(gate.post("/v2/tasks", TASK).await.status, StatusCode::ACCEPTED);
    assert_eq!(gate.metric(r#"tasks_rejected_total{engine="scripted",reason="rate.requests"}"#).await, 3.0);
    gate.finish().await;
}

fn first_room(refused: &Answer) -> Option<u64> {
    refused.header("retry-after-ms").parse().ok()
}

#[tokio::test(start_paused = true)]
async fn tokens_are_counted_in_the_worst_case_and_more_than_a_minutes_worth_is_never_let_in() {
    let gate = gate(says(&["hi"]), "{ tokens_per_minute = 20 }").await;
    let beyond = json!({"model": "builtin", "max_tokens": 100, "messages": [{"role": "user", "content": "hi"}]});
    let beyond = gate.post("/v1/chat/completions", &beyond.to_string()).await;
    assert_eq!(beyond.status, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(beyond.json()["error"]["type"], "tokens");
    assert_eq!(
        (beyond.header("x-should-retry"), rates(&beyond, "tokens")),
        ("false", ["20", "20", "0ms"].map(String::from))
    );
    let first = gate.submit(TASK).await;
    let second = gate.submit(TASK).await;
    let refused = gate.post("/v2/tasks", TASK).await.json();
    assert_eq!((&refused["policy_label"], &refused["retriable"]), (&"rate.tokens".into(), &true.into()));
    // What they have not used is there again with their end: of 20 tokens in the worst case they were 6.
    for task in [&first, &second] {
        gate.events(task).await;
    }
    let after = gate.get("/v1/models").await;
    assert_eq!(rates(&after, "tokens")[..2], ["20", "14"]);
    assert_eq!(gate.post("/v2/tasks", TASK).await.status, StatusCode::ACCEPTED);
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn a_task_that_is_cancelled_before_it_starts_has_used_nothing() {
    let script = Script { slots: 1, ..says(&["one ", "two "]) };
    let gate = gate(script, "{ tokens_per_minute = 30, tokens_in_flight = 20 }").await;
    let running = gate.submit(TASK).await;
    let waiting = gate.submit(TASK).await;
    let refused = gate.post("/v2/tasks", TASK).await.json();
    assert_eq!(refused["message"], "20 tokens in flight is the limit");
    assert_eq!(refused["policy_label"], "rate.tokens");
    gate.post(&format!("/v2/tasks/{waiting}/cancel"), "").await;
    let after = gate.get("/v1/models").await;
    assert_eq!(rates(&after, "tokens")[..2], ["30", "20"]);
    gate.submit(TASK).await;
    gate.events(&running).await;
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn a_model_has_limits_of_its_own() {
    let models = r#"[{ id = "builtin", limits = { concurrency = 1 } }]"#;
    let gate = Gate::with(says(&["one ", "two "]), &[("SLUICEGATE_CATALOG__MODELS", models)]).await;
    let running = gate.submit(TASK).await;
    let refused = gate.post("/v2/tasks", TASK).await.json();
    assert_eq!(refused["message"], "1 tasks at once is the limit");
    gate.events(&running).await;
    gate.submit(TASK).await;
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn so_many_tasks_at_once_and_the_next_when_one_has_ended() {
    let script = Script { slots: 1, ..says(&["one ", "two "]) };
    let gate = gate(script, "{ concurrency = 2 }").await;
    let running = gate.submit(TASK).await;
    let waiting = gate.submit(TASK).await;
    let refused = gate.post("/v2/tasks", TASK).await;
    assert_eq!(refused.json()["policy_label"], "rate.concurrency");
    assert!(refused.json()["retry_after_ms"].as_u64().unwrap() > 0);
    gate.post(&format!("/v2/tasks/{waiting}/cancel"), "").await;
    let again = gate.submit(TASK).await;
    for task in [&running, &again] {
        gate.events(task).await;
    }
    let capabilities = gate.get("/v2/meta/capabilities").await.json();
    let limits = json!({
        "requests_per_minute": null, "tokens_per_minute": null, "tokens_in_flight": null, "concurrency": 2
    });
    assert_eq!(capabilities["pools"][0]["rate_limits"], limits);
    gate.submit(TASK).await;
    gate.submit(TASK).await;
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn what_a_full_queue_refuses_is_not_counted() {
    let pools = r#"[{ id = "default", engine = "scripted", queue = { capacity = 1 } }]"#;
    let script = Script { slots: 1, ..says(&["one ", "two "]) };
    let limits = "{ requests_per_minute = 3 }";
    let gate = Gate::with(script, &[("SLUICEGATE_LIMITS", limits), ("SLUICEGATE_POOLS", pools)]).await;
    gate.submit(TASK).await;
    let running = |health: &serde_json::Value| health["metrics"]["slots_active"] == 1;
    gate.until("/v2/pools/default/health", running).await;
    gate.submit(TASK).await;
    for _ in 0..5 {
        assert_eq!(gate.post("/v2/tasks", TASK).await.json()["policy_label"], "queue.reject");
    }
    gate.settle().await;
    gate.submit(TASK).await;
    gate.finish().await;
}
