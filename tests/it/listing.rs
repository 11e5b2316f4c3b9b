//! Looking before one submits, and finding what one has submitted.

use axum::http::StatusCode;
use insta::assert_snapshot;
use serde_json::{Value, json};
use sluicegate::engine::scripted::Script;

use crate::harness::{Gate, masked, says};

const TASK: &str = r#"{"model_ref": "builtin", "prompt": "say it", "max_tokens": 500}"#;

async fn page(gate: &Gate, query: &str) -> (Vec<String>, Value) {
    let answer = gate.get(&format!("/v2/tasks?{query}")).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.body);
    let json = answer.json();
    let ids = json["tasks"].as_array().unwrap().iter().map(|task| task["task_id"].as_str().unwrap().to_owned());
    (ids.collect(), json["next_cursor"].clone())
}

#[tokio::test(start_paused = true)]
async fn a_preview_foretells_what_the_submission_then_says_and_queues_nothing() {
    let gate = Gate::scripted(Script { slots: 1, ..Script::default() }).await;
    for expected_position in [0, 0, 1] {
        let preview = gate.post("/v2/tasks/preview", TASK).await.json();
        assert_eq!((&preview["feasible"], &preview["queue_position"]), (&true.into(), &expected_position.into()));
        let admitted = gate.post("/v2/tasks", TASK).await.json();
        for field in ["queue_position", "predicted_start_ms", "predicted_end_ms"] {
            assert_eq!(preview[field], admitted[field], "{field}");
        }
    }
    assert_eq!(page(&gate, "").await.0.len(), 3);
    let batch = json!({"model_ref": "builtin", "prompt": "say it", "priority": "batch", "max_tokens": 500});
    assert_eq!(gate.post("/v2/tasks/preview", &batch.to_string()).await.json()["queue_position"], 2);
    gate.post("/v2/pools/default/drain", r#"{"deadline_ms": 0}"#).await;
    let infeasible = gate.post("/v2/tasks/preview", TASK).await;
    assert_snapshot!(masked(&infeasible.body), @r#"{"feasible":false,"error":{"code":"POOL_UNREADY","message":"the pool is draining and takes no new tasks","retriable":true,"pool_id":"default","retry_after_ms":1,"correlation_id":"<uuid>"},"queue_position":null,"predicted_start_ms":null,"predicted_end_ms":null,"pool_id":"default"}"#);
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn a_preview_says_why_a_task_would_be_refused() {
    let script = Script { slots: 1, ..Script::default() };
    let gate = Gate::with(script, &[("SLUICEGATE_POOLS__0__QUEUE__CAPACITY", "1")]).await;
    let preview = |field: &'static str, value: Value| {
        let mut body: Value = serde_json::from_str(TASK).unwrap();
        body[field] = value;
        let gate = &gate;
        async move { gate.post("/v2/tasks/preview", &body.to_string()).await.json()["error"].clone() }
    };
    assert_eq!(preview("model_ref", json!("gpt-9")).await["code"], "NOT_FOUND");
    assert_eq!(preview("max_tokens", json!(100_000)).await["param"], "max_tokens");
    let ids = [gate.submit(TASK).await, gate.submit(TASK).await];
    assert_eq!(preview("n", json!(2)).await["policy_label"], "queue.reject");
    gate.post(&format!("/v2/tasks/{}/cancel", ids[1]), "").await;
    assert_eq!(preview("deadline_ms", json!(1)).await["code"], "DEADLINE_UNMET");
    gate.post(&format!("/v2/tasks/{}/cancel", ids[0]), "").await;
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn tasks_are_listed_newest_first_in_pages_that_do_not_shift() {
    let gate = Gate::scripted(says(&["one ", "two "])).await;
    let mut ids = Vec::new();
    for _ in 0..7 {
        ids.push(gate.submit(TASK).await);
    }
    ids.reverse();
    let (first, cursor) = page(&gate, "limit=3").await;
    assert_eq!(first, ids[..3]);
    // A new task comes between two pages.
    let newer = gate.submit(TASK).await;
    let (second, cursor) = page(&gate, &format!("limit=3&cursor={}", cursor.as_str().unwrap())).await;
    assert_eq!(second, ids[3..6]);
    let (last, cursor) = page(&gate, &format!("limit=3&cursor={}", cursor.as_str().unwrap())).await;
    assert_eq!((last, cursor), (ids[6..].to_vec(), Value::Null));
    assert_eq!(page(&gate, "limit=1").await.0, [newer]);
    assert_eq!(page(&gate, "limit=8").await.1, Value::Null, "exactly one page");
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn lists_are_filtered_by_state_and_pool() {
    let gate = Gate::scripted(Script { slots: 1, ..says(&["one ", "two "]) }).await;
    let finished = gate.submit(TASK).await;
    gate.events(&finished).await;
    let (running, waiting, canceled) = (gate.submit(TASK).await, gate.submit(TASK).await, gate.submit(TASK).await);
    gate.post(&format!("/v2/tasks/{canceled}/cancel"), "").await;
    for (state, id) in [("finished", &finished), ("running", &running), ("queued", &waiting), ("canceled", &canceled)] {
        assert_eq!(page(&gate, &format!("state={state}")).await.0, std::slice::from_ref(id), "{state}");
    }
    assert!(page(&gate, "state=failed").await.0.is_empty());
    assert_eq!(page(&gate, "pool_id=default").await.0.len(), 4);
    assert!(page(&gate, "pool_id=elsewhere").await.0.is_empty());
    let text = gate.get("/v2/tasks?state=finished").await.body;
    assert!(!text.contains("one two"), "a list has no texts: {text}");
    gate.finish().await;
}
