//! Several engines behind one queue.

use std::time::Duration;

use axum::body::Body;
use axum::http::StatusCode;
use serde_json::json;
use sluicegate::engine::Cache;
use sluicegate::engine::scripted::{Failure, FailureKind, Script};

use crate::harness::{Gate, read_until, request, says};

const HELLO: &str = r#"{"model_ref": "builtin", "prompt": "say it"}"#;
const TWO: (&str, &str) = ("SLUICEGATE_POOLS__0__REPLICAS", "2");

fn one_slot() -> Script {
    Script { slots: 1, ..says(&["one ", "two ", "three"]) }
}

async fn view(gate: &Gate, id: &str) -> serde_json::Value {
    gate.get(&format!("/v2/tasks/{id}")).await.json()
}

#[tokio::test(start_paused = true)]
async fn replicas_share_the_queue_and_each_has_its_slots() {
    let gate = Gate::with(one_slot(), &[TWO]).await;
    let mut ids = Vec::new();
    for _ in 0..3 {
        ids.push(gate.submit(HELLO).await);
    }
    let states: Vec<_> = [view(&gate, &ids[0]).await, view(&gate, &ids[1]).await, view(&gate, &ids[2]).await].into();
    assert_eq!((&states[0]["replica_id"], &states[1]["replica_id"]), (&"default-0".into(), &"default-1".into()));
    assert_eq!(states[2]["state"], "queued");
    for replica in ["default-0", "default-1"] {
        assert_eq!(gate.metric(&format!(r#"slots_total{{pool_id="default",replica_id="{replica}"}}"#)).await, 1.0);
        assert_eq!(gate.metric(&format!(r#"slots_active{{pool_id="default",replica_id="{replica}"}}"#)).await, 1.0);
    }
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn chats_with_one_cache_key_go_to_one_replica() {
    let gate = Gate::with(one_slot(), &[TWO]).await;
    let mut seen = std::collections::BTreeMap::new();
    for key in (0..8).chain(0..8) {
        let body = format!(
            r#"{{"model": "builtin", "prompt_cache_key": "k{key}", "messages": [{{"role": "user", "content": "hi"}}]}}"#
        );
        let answer = gate.post("/v1/chat/completions", &body).await;
        assert_eq!((answer.status, answer.header("x-sluicegate-ignored")), (StatusCode::OK, ""));
        let replica = view(&gate, answer.header("x-task-id")).await["replica_id"].as_str().unwrap().to_owned();
        assert_eq!(seen.entry(key).or_insert_with(|| replica.clone()), &replica);
    }
    let replicas: std::collections::BTreeSet<_> = seen.values().collect();
    assert_eq!(replicas.len(), 2, "{seen:?}");
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn the_metrics_say_how_much_of_its_cache_each_replica_uses() {
    let gate = Gate::with(Script { slots: 2, ..Script::default() }, &[TWO]).await;
    let usage = |replica: &str| {
        format!(
            r#"kv_cache_usage_ratio{{engine="scripted",engine_version="0.1.0",pool_id="default",replica_id="{replica}"}}"#
        )
    };
    assert_eq!(gate.metric(&usage("default-0")).await, 0.0);
    let id = gate.submit(r#"{"model_ref": "builtin", "prompt": "one two three", "max_tokens": 4000}"#).await;
    let mut stream = gate.send(request("GET", &format!("/v2/tasks/{id}/events"), Body::empty())).await.into_body();
    read_until(&mut stream, r#""i":6"#).await;
    let held =
        gate.metric(&usage("default-0")).await * 2.0 * f64::from(gate.app.pools[0].info().unwrap().context_length);
    assert!((10.0..12.0).contains(&held.round()), "{held} tokens: three of the prompt and seven or more of output");
    assert_eq!(gate.metric(&usage("default-1")).await, 0.0);
    gate.post(&format!("/v2/tasks/{id}/cancel"), "").await;
    gate.settle().await;
    assert_eq!(gate.metric(&usage("default-0")).await, 0.0);
    for name in ["gpu_utilization", "vram_used_bytes", "vram_total_bytes", "gpu_temperature_celsius", "gpu_power_watts"]
    {
        let labels =
            r#"device="none",engine="scripted",engine_version="0.1.0",pool_id="default",replica_id="default-1""#;
        assert_eq!(gate.metric(&format!("{name}{{{labels}}}")).await, 0.0);
    }
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn a_task_that_has_said_nothing_is_run_by_another_replica_when_its_own_fails() {
    // The first engine fails every task, the second none.
    let failure = Some(Failure { after: 0, kind: FailureKind::Reset, times: u32::MAX });
    let script = move |load| Script { failure: failure.filter(|_| load == 0), ..one_slot() };
    let gate = Gate::per_load(script, &[TWO], u32::MAX).await;
    let began = tokio::time::Instant::now();
    let id = gate.submit(HELLO).await;
    let events = gate.events(&id).await;
    assert!(events.contains(r#""finish_reason":"stop""#), "{events}");
    assert_eq!(events.matches("event: started").count(), 1, "{events}");
    assert_eq!(view(&gate, &id).await["replica_id"], "default-1");
    assert!(began.elapsed() < Duration::from_millis(200), "it does not wait for its own: {:?}", began.elapsed());
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn the_pool_serves_while_one_of_its_replicas_lives() {
    // Two engines that fail once; only the second can be built again.
    let failure = Failure { after: 1, kind: FailureKind::Death, times: 1 };
    let script = move |load| if load == 0 { Script { failure: Some(failure), ..one_slot() } } else { one_slot() };
    let gate = Gate::per_load(script, &[TWO], 2).await;
    let events = gate.events(&gate.submit(HELLO).await).await;
    assert!(events.contains("WORKER_RESET"), "{events}");
    // Long enough for all attempts to build the first engine anew.
    tokio::time::sleep(Duration::from_secs(60)).await;
    for _ in 0..3 {
        let id = gate.submit(HELLO).await;
        let events = gate.events(&id).await;
        assert!(events.contains(r#""finish_reason":"stop""#), "{events}");
        assert_eq!(view(&gate, &id).await["replica_id"], "default-1");
    }
    assert_eq!(gate.get("/readyz").await.status, StatusCode::OK);
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn a_replica_that_has_failed_is_not_counted_on() {
    let failure = Failure { after: 1, kind: FailureKind::Death, times: 1 };
    let script = move |load| if load == 0 { Script { failure: Some(failure), ..one_slot() } } else { one_slot() };
    let gate = Gate::per_load(script, &[TWO], 2).await;
    gate.events(&gate.submit(HELLO).await).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    gate.submit(HELLO).await;
    let second = gate.post("/v2/tasks", HELLO).await.json();
    assert!(second["predicted_start_ms"].as_u64().unwrap() > 0, "the only replica that lives is busy: {second}");
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn a_replica_that_cannot_be_loaded_does_not_keep_the_others_from_serving() {
    let gate = Gate::build(one_slot(), &[TWO], 1).await;
    let events = gate.events(&gate.submit(HELLO).await).await;
    assert!(events.contains(r#""finish_reason":"stop""#), "{events}");
    let health = gate.get("/v2/pools/default/health").await.json();
    assert_eq!((&health["ready"], &health["replicas"][1]["state"]), (&true.into(), &"recovering".into()), "{health}");
    assert_eq!(health["last_error"], "the test says so");
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn a_strict_task_needs_a_whole_replica_and_not_the_whole_pool() {
    let script = Script { slots: 2, ..says(&["one "]) };
    let gate = Gate::with(script, &[TWO]).await;
    let running = gate.submit(HELLO).await;
    let strict = gate.submit(r#"{"model_ref": "builtin", "prompt": "say it", "determinism": "strict"}"#).await;
    assert_eq!(view(&gate, &running).await["replica_id"], "default-0");
    let strict = view(&gate, &strict).await;
    assert_eq!((&strict["state"], &strict["replica_id"]), (&"running".into(), &"default-1".into()));
    assert_eq!(gate.slots_used(), 3);
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn tasks_start_while_the_cache_has_room_for_all_of_their_tokens() {
    let cache = Some(Cache { tokens: 128, block: 32 });
    let gate = Gate::with(Script { slots: 8, cache, ..Script::default() }, &[]).await;
    let task = |max_tokens: u32| {
        format!(r#"{{"model_ref": "builtin", "prompt": "one two three", "max_tokens": {max_tokens}}}"#)
    };
    // Three blocks and one: the cache is full, and slots are free.
    let large = gate.submit(&task(60 + 32)).await;
    let small = gate.submit(&task(20)).await;
    let waiting = gate.submit(&task(20)).await;
    gate.until(&format!("/v2/tasks/{small}"), |task| task["state"] == "running").await;
    assert_eq!(gate.app.pools[0].slots(), (2, 8));
    assert_eq!(gate.app.pools[0].queue_depth(), 1);
    assert_eq!(view(&gate, &waiting).await["state"], "queued");
    // The small one ends first, and the next has its place.
    gate.events(&small).await;
    gate.events(&waiting).await;
    assert_eq!(view(&gate, &large).await["state"], "running");
    // Choices run side by side as far as they fit, also of a task that runs alone.
    gate.events(&large).await;
    for (determinism, slots) in [("best_effort", 2), ("strict", 8)] {
        let choices =
            json!({"model_ref": "builtin", "prompt": "one", "max_tokens": 60, "n": 4, "determinism": determinism});
        let choices = gate.submit(&choices.to_string()).await;
        gate.until(&format!("/v2/tasks/{choices}"), |task| task["state"] == "running").await;
        assert_eq!(gate.app.pools[0].slots(), (slots, 8), "{determinism}");
        gate.until(&format!("/v2/tasks/{choices}"), |_| gate.app.pools[0].stats().running > 0).await;
        assert_eq!(gate.app.pools[0].stats().running, 2, "{determinism}");
        gate.events(&choices).await;
    }
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn a_task_goes_to_a_replica_whose_cache_can_hold_it() {
    let script = |load| {
        let tokens = if load == 0 { 64 } else { 128 };
        Script { cache: Some(Cache { tokens, block: 32 }), slots: 4, ..says(&["one"]) }
    };
    let gate = Gate::per_load(script, &[TWO], u32::MAX).await;
    for (max_tokens, replica) in [(90, "default-1"), (20, "default-1"), (90, "default-1")] {
        let task = format!(r#"{{"model_ref": "builtin", "prompt": "x", "max_tokens": {max_tokens}}}"#);
        let id = gate.submit(&task).await;
        gate.events(&id).await;
        assert_eq!(view(&gate, &id).await["replica_id"], replica, "{max_tokens}");
    }
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn a_task_runs_on_a_device_of_its_mask() {
    let script = |load| Script { device: format!("cuda:{load}"), ..one_slot() };
    let gate = Gate::per_load(script, &[TWO], u32::MAX).await;
    let on_the_second = r#"{"model_ref": "builtin", "prompt": "x", "placement": {"require_device_mask": "cuda:1"}}"#;
    let submit = async |task: &str| {
        let answer = gate.post("/v2/tasks", task).await.json();
        let start_ms = answer["predicted_start_ms"].as_u64().unwrap();
        (answer["task_id"].as_str().unwrap().to_owned(), start_ms)
    };
    let ((first, at_once), (second, later)) = (submit(on_the_second).await, submit(on_the_second).await);
    // It waits for its device, and keeps nobody from another.
    let (third, beside) = submit(r#"{"model_ref": "builtin", "prompt": "x", "max_tokens": 1}"#).await;
    assert!(at_once == 0 && later > 0 && beside == 0, "{at_once}, {later}, {beside}");
    gate.events(&third).await;
    assert_eq!(view(&gate, &second).await["state"], "queued");
    gate.events(&second).await;
    let replicas = [view(&gate, &first).await, view(&gate, &second).await, view(&gate, &third).await];
    assert_eq!(replicas.map(|view| view["replica_id"].clone()), ["default-1", "default-1", "default-0"]);
    gate.finish().await;
}
