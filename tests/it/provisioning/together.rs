//! Tasks that wait for one model, each with wishes and faults of its own.

use std::sync::Arc;

use serde_json::Value;
use sluicegate::engine::{Engine, Prompt};

use super::{Gate, LONG, TASK, folder, gate, load_of, loading_any, numbered, state};
use crate::harness::{MakeAny, Watched};

/// Two pools that may be given models.
const TWO: (&str, &str) = (
    "SLUICEGATE_POOLS",
    r#"[{ id = "a", engine = "scripted", on_demand = true }, { id = "b", engine = "scripted", on_demand = true }]"#,
);

fn wishing(task: &str, placement: &str) -> String {
    task.replacen('{', &format!(r#"{{"placement": {placement}, "#), 1)
}

fn pinned(task: &str, pool: &str) -> String {
    wishing(task, &format!(r#"{{"mode": "pin", "pin_pool_id": "{pool}"}}"#))
}

async fn pool_of(gate: &Gate, id: &str) -> Value {
    gate.get(&format!("/v2/tasks/{id}")).await.json()["pool_id"].clone()
}

/// Engines that panic at prompts which say so.
fn brittle() -> Arc<MakeAny> {
    Arc::new(|number| {
        let prepares = |prompt: &Prompt| assert!(!format!("{prompt:?}").contains("panic"), "the prompt says so");
        let watched = Watched { prepares: Box::new(prepares), ..Watched::new(numbered(number)) };
        Ok(Arc::new(watched) as Arc<dyn Engine>)
    })
}

#[tokio::test(start_paused = true)]
async fn each_of_those_who_wait_gets_the_model_in_a_pool_that_it_allows() {
    let folder = folder();
    let gate = gate(folder.path(), &[TWO]).await;
    let busy = gate.submit(&pinned(LONG, "b")).await;
    let (first, second) = (gate.submit(&pinned(TASK, "a")).await, gate.submit(&pinned(TASK, "b")).await);
    assert_eq!(load_of(&gate, &first).await, "2");
    // The model is there, but not where this one may run.
    assert_eq!(state(&gate, &second).await, "preparing");
    let steps = gate.get(&format!("/v2/tasks/{second}/events?verbose=true")).await.body;
    assert_eq!(load_of(&gate, &second).await, "3", "{steps}");
    assert_eq!((pool_of(&gate, &first).await, pool_of(&gate, &second).await), ("a".into(), "b".into()));
    load_of(&gate, &busy).await;
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn a_wish_that_no_pool_can_fulfil_is_refused_before_anything_is_prepared() {
    let folder = folder();
    let gate = gate(folder.path(), &[TWO]).await;
    for (placement, code) in [
        (r#"{"require_device_mask": "cuda:0"}"#, "POOL_UNAVAILABLE"),
        (r#"{"require_device_mask": "gpu"}"#, "INVALID_PARAMS"),
        (r#"{"avoid_pools": ["a", "b"]}"#, "POOL_UNAVAILABLE"),
        (r#"{"mode": "pin", "pin_pool_id": "c"}"#, "INVALID_PARAMS"),
    ] {
        let refused = gate.post("/v2/tasks", &wishing(TASK, placement)).await;
        assert_eq!(refused.json()["code"], code, "{placement}: {}", refused.body);
    }
    let placed = gate.submit(&wishing(TASK, r#"{"require_device_mask": "none", "avoid_pools": ["a"]}"#)).await;
    load_of(&gate, &placed).await;
    assert_eq!(pool_of(&gate, &placed).await, "b");
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn a_task_that_waits_is_served_by_whichever_pool_gets_its_model() {
    let folder = folder();
    let pools = r#"[{ id = "default", engine = "scripted", on_demand = true }, { id = "other", engine = "scripted" }]"#;
    let gate = gate(folder.path(), &[("SLUICEGATE_POOLS", pools)]).await;
    let busy = gate.submit(&pinned(LONG, "default")).await;
    let waits = gate.submit(TASK).await;
    gate.post("/v2/pools/other/reload", r#"{"new_model_ref": "m"}"#).await;
    assert_eq!(load_of(&gate, &waits).await, "2");
    assert_eq!(pool_of(&gate, &waits).await, "other");
    assert_eq!(state(&gate, &busy).await, "running");
    load_of(&gate, &busy).await;
    assert_eq!(gate.loads.load(std::sync::atomic::Ordering::SeqCst), 3, "nothing is loaded twice");
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn a_prompt_that_makes_an_engine_panic_ends_its_own_task_and_no_other() {
    let folder = folder();
    let gate = loading_any(brittle(), folder.path(), &[]).await;
    let mut ids = Vec::new();
    for prompt in ["say it", "panic", "say it"] {
        ids.push(gate.submit(&TASK.replace("say it", prompt)).await);
    }
    load_of(&gate, &ids[0]).await;
    let events = gate.events(&ids[1]).await;
    assert!(events.contains("event: error") && events.contains("INTERNAL"), "{events}");
    load_of(&gate, &ids[2]).await;
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn after_a_restart_a_prompt_that_makes_an_engine_panic_does_not_keep_the_gateway_shut() {
    let (folder, data) = (folder(), tempfile::tempdir().unwrap());
    let url = format!("sqlite:{}/test.db", data.path().display());
    let store = [("SLUICEGATE_STORE__URL", url.as_str())];
    let first = gate(folder.path(), &store).await;
    first.submit(LONG).await;
    let short = LONG.replace("500", "5");
    let (bad, good) = (first.submit(&short.replace("say", "panic")).await, first.submit(&short).await);
    first.crash().await;
    let second = loading_any(brittle(), folder.path(), &store).await;
    assert_eq!(load_of(&second, &good).await, "0");
    assert_eq!(state(&second, &bad).await, "failed");
    assert_eq!(second.get("/readyz").await.status, 200);
    load_of(&second, &second.submit(&short).await).await;
    second.finish().await;
}

#[tokio::test(start_paused = true)]
async fn the_tokens_of_a_prompt_are_counted_once_there_is_a_model_to_count_them() {
    let folder = folder();
    let gate = gate(folder.path(), &[("SLUICEGATE_LIMITS", "{ tokens_per_minute = 1000 }")]).await;
    // A fourth of its bytes are half as many.
    let prompt = "a ".repeat(400);
    load_of(&gate, &gate.submit(&TASK.replace("say it", &prompt)).await).await;
    let chat = r#"{"model": "m", "max_tokens": 1, "messages": [{"role": "user", "content": "hi"}]}"#;
    let answer = gate.post("/v1/chat/completions", chat).await;
    let remaining: u64 = answer.header("x-ratelimit-remaining-tokens").parse().unwrap();
    assert!((595..=605).contains(&remaining), "{remaining}");
    gate.finish().await;
}
