//! Several pools of one model: which of them runs a task, and what clients can say about it.

use axum::http::StatusCode;
use serde_json::{Value, json};
use sluicegate::engine::scripted::Script;

use crate::harness::{Answer, Gate};

const POOLS: &str =
    r#"[{ id = "a", engine = "scripted", queue.capacity = 1 }, { id = "b", engine = "scripted", queue.capacity = 1 }]"#;

/// One slot in each pool, and answers of 5 s.
async fn gate() -> Gate {
    Gate::with(Script { slots: 1, ..Script::default() }, &[("SLUICEGATE_POOLS", POOLS)]).await
}

async fn submit(gate: &Gate, placement: Value) -> Answer {
    let body = json!({"model_ref": "builtin", "prompt": "say it", "max_tokens": 500, "placement": placement});
    gate.post("/v2/tasks", &body.to_string()).await
}

async fn pool_of(gate: &Gate, answer: &Answer) -> String {
    assert_eq!(answer.status, StatusCode::ACCEPTED, "{}", answer.body);
    let id = answer.json()["task_id"].as_str().unwrap().to_owned();
    gate.get(&format!("/v2/tasks/{id}")).await.json()["pool_id"].as_str().unwrap().to_owned()
}

async fn cancel_all(gate: &Gate) {
    for pool in ["a", "b"] {
        gate.post(&format!("/v2/pools/{pool}/drain"), r#"{"deadline_ms": 0}"#).await;
    }
    gate.settle().await;
    for pool in ["a", "b"] {
        gate.post(&format!("/v2/pools/{pool}/resume"), "").await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_task_goes_where_it_starts_soonest_and_to_the_next_pool_when_a_queue_is_full() {
    let gate = gate().await;
    let mut pools = Vec::new();
    for _ in 0..4 {
        pools.push(pool_of(&gate, &submit(&gate, Value::Null).await).await);
    }
    pools.sort();
    assert_eq!(pools, ["a", "a", "b", "b"]);
    let refused = submit(&gate, Value::Null).await;
    assert_eq!(
        (refused.status, &refused.json()["policy_label"]),
        (StatusCode::TOO_MANY_REQUESTS, &"queue.reject".into())
    );
    cancel_all(&gate).await;
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn a_pin_waits_in_its_pool_and_a_preference_gives_way() {
    let gate = gate().await;
    let pin = json!({"mode": "pin", "pin_pool_id": "b"});
    for _ in 0..2 {
        assert_eq!(pool_of(&gate, &submit(&gate, pin.clone()).await).await, "b", "though the other pool is free");
    }
    let refused = submit(&gate, pin.clone()).await;
    assert_eq!((refused.status, &refused.json()["pool_id"]), (StatusCode::TOO_MANY_REQUESTS, &"b".into()));
    let prefer = json!({"mode": "prefer", "prefer_pools": ["b"]});
    assert_eq!(pool_of(&gate, &submit(&gate, prefer).await).await, "a");
    cancel_all(&gate).await;

    gate.post("/v2/pools/b/drain", r#"{"deadline_ms": 0}"#).await;
    let unready = submit(&gate, pin).await;
    assert_eq!((unready.status, &unready.json()["code"]), (StatusCode::SERVICE_UNAVAILABLE, &"POOL_UNREADY".into()));
    let avoid = json!({"avoid_pools": ["a"], "allow_fallback": false});
    assert_eq!(submit(&gate, avoid).await.json()["code"], "POOL_UNREADY");
    assert_eq!(pool_of(&gate, &submit(&gate, json!({"avoid_pools": ["a"]})).await).await, "a");
    gate.post("/v2/pools/b/resume", "").await;
    cancel_all(&gate).await;
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn a_drain_hands_on_only_what_other_pools_may_run() {
    let gate = gate().await;
    let pin = json!({"mode": "pin", "pin_pool_id": "b"});
    let (_running, waiting) = (submit(&gate, pin.clone()).await, submit(&gate, pin).await);
    gate.post("/v2/pools/b/drain", r#"{"deadline_ms": 60000}"#).await;
    assert_eq!(pool_of(&gate, &waiting).await, "b", "though the other pool is free");
    gate.post("/v2/pools/b/resume", "").await;
    cancel_all(&gate).await;
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn the_pool_that_gets_the_task_is_one_where_it_makes_its_deadline() {
    let gate = gate().await;
    submit(&gate, json!({"mode": "pin", "pin_pool_id": "a"})).await;
    let body = json!({"model_ref": "builtin", "prompt": "say it", "max_tokens": 5, "deadline_ms": 1000,
        "placement": {"prefer_pools": ["a"]}});
    let preview = gate.post("/v2/tasks/preview", &body.to_string()).await.json();
    assert_eq!((&preview["feasible"], &preview["pool_id"]), (&true.into(), &"b".into()), "{preview}");
    let admitted = gate.post("/v2/tasks", &body.to_string()).await;
    assert_eq!(pool_of(&gate, &admitted).await, "b");
    gate.settle().await;
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn the_gateway_is_ready_while_one_pool_takes_tasks() {
    let gate = gate().await;
    for (pool, status) in [("a", StatusCode::OK), ("b", StatusCode::SERVICE_UNAVAILABLE)] {
        gate.post(&format!("/v2/pools/{pool}/drain"), r#"{"deadline_ms": 0}"#).await;
        assert_eq!(gate.get("/readyz").await.status, status, "after {pool}");
    }
    let model = gate.get("/v1/models/builtin").await.json();
    assert_eq!(model["sluicegate"]["pool_state"], "draining", "{model}");
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn a_wish_that_nothing_can_meet_names_its_field() {
    let gate = gate().await;
    for (placement, param) in [
        (json!({"mode": "pin", "pin_pool_id": "x"}), "placement.pin_pool_id"),
        (json!({"mode": "pin"}), "placement.pin_pool_id"),
        (json!({"prefer_pools": ["a", "x"]}), "placement.prefer_pools[1]"),
        (json!({"avoid_pools": ["x"]}), "placement.avoid_pools[0]"),
        (json!({"require_device_mask": "tpu"}), "placement.require_device_mask"),
    ] {
        let refused = submit(&gate, placement).await;
        assert_eq!(
            (refused.status, &refused.json()["param"]),
            (StatusCode::BAD_REQUEST, &param.into()),
            "{}",
            refused.body
        );
    }
    let nowhere = submit(&gate, json!({"require_device_mask": "cuda:3"})).await;
    assert_eq!(
        (nowhere.status, &nowhere.json()["code"]),
        (StatusCode::SERVICE_UNAVAILABLE, &"POOL_UNAVAILABLE".into())
    );
    // The OpenAI API says the same in its own names.
    let chat = json!({"model": "builtin", "messages": [{"role": "user", "content": "hi"}],
        "sluicegate": {"placement": {"mode": "pin", "pin_pool_id": "x"}}});
    let refused = gate.post("/v1/chat/completions", &chat.to_string()).await;
    assert_eq!(refused.json()["error"]["param"], "sluicegate.placement.pin_pool_id", "{}", refused.body);
    gate.finish().await;
}
