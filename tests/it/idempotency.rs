//! Requests that are sent again with the same key.

use axum::http::StatusCode;
use http_body_util::BodyExt as _;
use sluicegate::engine::scripted::Script;

use crate::harness::{Gate, keyed, read_until, says};

const TASK: &str = r#"{"model_ref": "builtin", "prompt": "say it", "max_tokens": 500}"#;
const CHAT: &str = r#"{"model": "builtin", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 500}"#;
const STREAM: &str = r#"{"model": "builtin", "messages": [{"role": "user", "content": "hi"}], "stream": true}"#;

async fn tasks(gate: &Gate) -> usize {
    gate.get("/v2/tasks").await.json()["tasks"].as_array().unwrap().len()
}

#[tokio::test(start_paused = true)]
async fn a_native_task_is_admitted_once_and_the_answer_is_the_first_one() {
    let gate = Gate::scripted(Script { slots: 1, ..says(&["one "]) }).await;
    gate.submit(TASK).await;
    let (first, second) =
        tokio::join!(gate.post_keyed("/v2/tasks", "k", TASK), gate.post_keyed("/v2/tasks", "k", TASK));
    assert_eq!((first.status, first.body.as_str()), (StatusCode::ACCEPTED, second.body.as_str()));
    gate.settle().await;
    assert_eq!(gate.post_keyed("/v2/tasks", "k", TASK).await.body, first.body, "also once it has ended");
    assert_eq!(tasks(&gate).await, 2);
    let other = gate.post_keyed("/v2/tasks", "l", TASK).await;
    assert_ne!(other.json()["task_id"], first.json()["task_id"]);
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn another_body_under_the_same_key_is_a_422_that_no_sdk_repeats() {
    let gate = Gate::scripted(says(&["one "])).await;
    gate.post_keyed("/v2/tasks", "k", TASK).await;
    let clash = gate.post_keyed("/v2/tasks", "k", &TASK.replace("500", "400")).await;
    assert_eq!((clash.status, &clash.json()["code"]), (StatusCode::UNPROCESSABLE_ENTITY, &"CONFLICT".into()));
    let clash = gate.post_keyed("/v1/chat/completions", "k", CHAT).await;
    assert_eq!(clash.status, StatusCode::UNPROCESSABLE_ENTITY, "the keys of a tenant are the same in all dialects");
    assert_eq!(gate.post_keyed("/v2/tasks", "a b", TASK).await.json()["param"], "Idempotency-Key");
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn what_was_refused_is_not_remembered() {
    let gate = Gate::scripted(says(&["one "])).await;
    gate.post("/v2/pools/default/drain", r#"{"deadline_ms": 0}"#).await;
    assert_eq!(gate.post_keyed("/v2/tasks", "k", TASK).await.status, StatusCode::SERVICE_UNAVAILABLE);
    gate.post("/v2/pools/default/resume", "").await;
    assert_eq!(gate.post_keyed("/v2/tasks", "k", TASK).await.status, StatusCode::ACCEPTED);
    // Nor is the body of a refused request.
    let wrong = TASK.replace("500", "100000");
    assert_eq!(gate.post_keyed("/v2/tasks", "l", &wrong).await.status, StatusCode::BAD_REQUEST);
    assert_eq!(gate.post_keyed("/v2/tasks", "l", TASK).await.status, StatusCode::ACCEPTED);
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn a_chat_that_somebody_cancelled_is_not_run_anew() {
    let gate = Gate::scripted(Script { slots: 1, ..Script::default() }).await;
    let path = "/v1/chat/completions";
    let mut running = gate.send(keyed(path, "k", STREAM)).await;
    let id = running.headers()["x-task-id"].to_str().unwrap().to_owned();
    read_until(running.body_mut(), "content").await;
    gate.post(&format!("/v2/tasks/{id}/cancel"), "").await;
    let first = running.into_body().collect().await.unwrap().to_bytes();
    assert!(std::str::from_utf8(&first).unwrap().contains("task_canceled"));
    let again = gate.post_keyed(path, "k", STREAM).await;
    assert_eq!((again.header("x-task-id"), again.body.contains("task_canceled")), (id.as_str(), true));
    assert_eq!(tasks(&gate).await, 1);
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn a_chat_that_is_sent_again_joins_the_one_that_runs_or_is_replayed() {
    let gate = Gate::scripted(says(&["one ", "two ", "three"])).await;
    let (first, second) = tokio::join!(
        gate.post_keyed("/v1/chat/completions", "w", CHAT),
        gate.post_keyed("/v1/chat/completions", "w", CHAT)
    );
    assert_eq!(first.json(), second.json());
    assert_eq!(gate.post_keyed("/v1/chat/completions", "w", CHAT).await.json(), first.json());

    let mut running = gate.send(keyed("/v1/chat/completions", "s", STREAM)).await.into_body();
    let head = read_until(&mut running, "one ").await;
    let joined = gate.post_keyed("/v1/chat/completions", "s", STREAM).await.body;
    let rest = running.collect().await.unwrap().to_bytes();
    assert_eq!(joined, head + std::str::from_utf8(&rest).unwrap());
    assert_eq!(tasks(&gate).await, 2);
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn the_task_goes_on_while_one_of_its_clients_stays_and_is_run_anew_when_all_had_gone() {
    let gate = Gate::scripted(Script { slots: 1, ..Script::default() }).await;
    let path = "/v1/chat/completions";
    let stream = STREAM.replace(r#""stream""#, r#""max_tokens": 50, "stream""#);
    let mut first = gate.send(keyed(path, "k", &stream)).await.into_body();
    read_until(&mut first, "content").await;
    let mut second = gate.send(keyed(path, "k", &stream)).await.into_body();
    read_until(&mut second, "content").await;
    drop(first);
    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    assert_eq!(gate.slots_used(), 1, "somebody still reads");
    drop(second);
    gate.settle().await;
    let again = gate.post_keyed(path, "k", &stream).await;
    assert!(again.body.ends_with("data: [DONE]\n\n") && !again.body.contains("error"), "{}", again.body);
    assert_eq!(tasks(&gate).await, 2);
    gate.finish().await;
}
