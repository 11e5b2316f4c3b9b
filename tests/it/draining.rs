//! Pools that are taken out of service and back, as operators and clients see it.

use std::time::Duration;

use axum::http::StatusCode;
use insta::assert_snapshot;
use serde_json::Value;
use sluicegate::engine::scripted::Script;

use crate::harness::{Gate, says};

const TASK: &str = r#"{"model_ref": "builtin", "prompt": "say it", "max_tokens": 500}"#;

/// One slot, and answers of 500 tokens: 5 s each.
fn long() -> Script {
    Script { slots: 1, ..Script::default() }
}

async fn drain(gate: &Gate, pool: &str, deadline_ms: u64) {
    let answer = gate.post(&format!("/v2/pools/{pool}/drain"), &format!(r#"{{"deadline_ms": {deadline_ms}}}"#)).await;
    assert_eq!((answer.status, &answer.json()["draining"]), (StatusCode::ACCEPTED, &true.into()), "{}", answer.body);
}

async fn view(gate: &Gate, id: &str) -> Value {
    gate.get(&format!("/v2/tasks/{id}")).await.json()
}

#[tokio::test(start_paused = true)]
async fn the_health_of_a_pool_says_what_it_is_and_does() {
    let gate = Gate::scripted(says(&["one ", "two "])).await;
    gate.events(&gate.submit(TASK).await).await;
    let health = gate.get("/v2/pools/default/health").await;
    assert_snapshot!(health.body, @r#"{"pool_id":"default","live":true,"ready":true,"draining":false,"reloading":false,"engine":"scripted","model_ref":"builtin","model_digest":"none","last_error":null,"reload":null,"purge":null,"metrics":{"queue_depth":0,"slots_total":8,"slots_active":0,"prefill_tokens_per_s":25600.0,"decode_tokens_per_s":100.0,"tokens_per_s":23.076923076923077},"replicas":[{"replica_id":"default-0","state":"ready","device":"none","slots_total":8,"slots_active":0,"last_error":null}]}"#);
    let list = gate.get("/v2/pools").await;
    assert_eq!(list.json()["pools"][0], health.json());
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn a_pool_that_drains_takes_nothing_and_serves_what_it_has() {
    let gate = Gate::scripted(long()).await;
    let (running, waiting) = (gate.submit(TASK).await, gate.submit(TASK).await);
    drain(&gate, "default", 60_000).await;
    let refused = gate.post("/v2/tasks", TASK).await;
    assert_eq!((refused.status, &refused.json()["code"]), (StatusCode::SERVICE_UNAVAILABLE, &"POOL_UNREADY".into()));
    assert_ne!(refused.header("retry-after"), "");
    assert_eq!(gate.get("/v2/pools/default/health").await.json()["ready"], false);
    for id in [&running, &waiting] {
        gate.events(id).await;
        assert_eq!(view(&gate, id).await["finish_reason"], "length");
    }
    let resumed = gate.post("/v2/pools/default/resume", "").await;
    assert_eq!((resumed.status, &resumed.json()["ready"]), (StatusCode::ACCEPTED, &true.into()));
    let again = gate.submit(TASK).await;
    // The deadline of the drain that is over means nothing any more.
    tokio::time::sleep(Duration::from_secs(120)).await;
    assert_eq!(view(&gate, &again).await["finish_reason"], "length");
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn the_deadline_of_a_drain_cancels_what_is_left_with_a_last_event() {
    let gate = Gate::scripted(long()).await;
    let (running, waiting) = (gate.submit(TASK).await, gate.submit(TASK).await);
    drain(&gate, "default", 60_000).await;
    // A second drain sets another deadline.
    drain(&gate, "default", 1_000).await;
    for (id, started) in [(&running, true), (&waiting, false)] {
        let events = gate.events(id).await;
        assert!(events.contains(r#""finish_reason":"canceled","canceled_by":"drain""#), "{events}");
        assert_eq!(events.contains("event: started"), started);
        let view = view(&gate, id).await;
        assert_eq!((&view["state"], &view["canceled_by"]), (&"canceled".into(), &"drain".into()), "{view}");
    }
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn a_chat_that_a_drain_cancels_may_be_sent_again() {
    let gate = Gate::scripted(long()).await;
    let body = r#"{"model": "builtin", "messages": [{"role": "user", "content": "go on"}], "max_tokens": 500}"#;
    let chat = async {
        let answer = gate.post("/v1/chat/completions", body).await;
        assert_eq!((answer.status, answer.header("retry-after")), (StatusCode::SERVICE_UNAVAILABLE, "1"));
        assert_snapshot!(answer.body, @r#"{"error":{"message":"Its pool was taken out of service before the task ended.","type":"server_error","param":null,"code":"service_unavailable","retry_after_ms":1000}}"#);
    };
    tokio::join!(chat, drain(&gate, "default", 1_000));
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn a_drain_may_fail_what_waits_at_once() {
    let pools = r#"[{ id = "a", engine = "scripted" }, { id = "b", engine = "scripted", queue = { capacity = 1 } }]"#;
    let gate = Gate::with(long(), &[("SLUICEGATE_POOLS", pools)]).await;
    let mut ids = Vec::new();
    for _ in 0..4 {
        let to_a = TASK.replace('}', r#", "placement": {"mode": "prefer", "prefer_pools": ["a"]}}"#);
        ids.push(gate.submit(&to_a).await);
    }
    let unknown = gate.post("/v2/pools/a/drain", r#"{"deadline_ms": 60000, "waiting": "vanish"}"#).await;
    assert_eq!((unknown.status, &unknown.json()["param"]), (StatusCode::BAD_REQUEST, &"waiting".into()));
    let drained = gate.post("/v2/pools/a/drain", r#"{"deadline_ms": 60000, "waiting": "fail"}"#).await;
    assert_eq!(drained.status, StatusCode::ACCEPTED, "{}", drained.body);
    // One runs where it was, two found a place in the other pool: one in its slot, one in its queue.
    let events = gate.events(&ids[3]).await;
    assert_eq!((events.contains("event: started"), events.matches("event: error").count()), (false, 1), "{events}");
    let failed = view(&gate, &ids[3]).await;
    assert_eq!((&failed["state"], &failed["error"]["code"]), (&"failed".into(), &"POOL_UNREADY".into()), "{failed}");
    assert_eq!((&failed["error"]["retriable"], &failed["error"]["pool_id"]), (&true.into(), &"a".into()));
    assert_eq!(failed["error"]["retry_after_ms"], 60_000);
    for id in &ids[..3] {
        gate.events(id).await;
        assert_eq!(view(&gate, id).await["finish_reason"], "length");
    }
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn waiting_tasks_go_to_another_pool_of_their_model() {
    let pools = r#"[{ id = "a", engine = "scripted" }, { id = "b", engine = "scripted", queue = { capacity = 2 } }]"#;
    let gate = Gate::with(long(), &[("SLUICEGATE_POOLS", pools)]).await;
    let mut ids = Vec::new();
    for _ in 0..5 {
        ids.push(gate.submit(TASK).await);
    }
    drain(&gate, "a", 60_000).await;
    let mut pools = Vec::new();
    for id in &ids {
        pools.push(view(&gate, id).await["pool_id"].as_str().unwrap().to_owned());
    }
    // One runs where it was; one starts on the other pool's free slot and two wait there; for the last there is no place.
    assert_eq!(pools, ["a", "b", "b", "b", "a"]);
    assert_eq!(view(&gate, &ids[1]).await["state"], "running");
    for id in &ids {
        let events = gate.events(id).await;
        assert!(events.contains(r#""finish_reason":"length""#), "{events}");
        assert_eq!(events.matches("event: started").count(), 1);
    }
    let cancelled = gate.submit(TASK).await;
    gate.post(&format!("/v2/tasks/{cancelled}/cancel"), "").await;
    gate.finish().await;
}
