//! Sessions in the next process: what they have spent, what they may spend yet, and how long they live.

use std::path::Path;

use axum::body::Body;
use axum::http::StatusCode;
use serde_json::{Value, json};
use sluicegate::engine::scripted::Script;
use sluicegate::store::SessionRow;
use tempfile::TempDir;

use super::{endless, gate};
use crate::harness::{Gate, read, read_until, request, says};

const SESSION: &str = "0192d3a0-0000-7000-8000-000000000001";
const PATH: &str = "/v2/sessions/0192d3a0-0000-7000-8000-000000000001";

/// Of two tokens, as the scripted engine counts.
const PROMPT: &str = "say it";

/// Tokens of a task with that prompt whose answer is two words: the one that ends it counts as well.
const USED: u64 = 2 + 3;

async fn open(folder: &Path, script: Script) -> Gate {
    gate(folder, script, &[]).await
}

fn task(max_tokens: u32) -> String {
    json!({"model_ref": "builtin", "prompt": PROMPT, "max_tokens": max_tokens, "session_id": SESSION}).to_string()
}

async fn set(gate: &Gate, body: Value) {
    assert_eq!(gate.post(PATH, &body.to_string()).await.status, StatusCode::NO_CONTENT);
}

async fn left(gate: &Gate) -> u64 {
    gate.get(PATH).await.json()["tokens_budget_remaining"].as_u64().unwrap()
}

/// Starts a streamed chat of the session, which has used its prompt and may use so much output, and reads up to `seen`.
async fn chat(gate: &Gate, max_tokens: u32, seen: &str) -> Body {
    let messages = json!([{"role": "user", "content": PROMPT}]);
    let chat = json!({"model": "builtin", "messages": messages, "max_tokens": max_tokens, "stream": true,
                      "sluicegate": {"session_id": SESSION}});
    let answer = gate.send(request("POST", "/v1/chat/completions", Body::from(chat.to_string()))).await;
    let mut body = answer.into_body();
    if !seen.is_empty() {
        read_until(&mut body, seen).await;
    }
    body
}

/// Submits a task and waits until an engine has it and a token of it was seen.
async fn running(gate: &Gate, body: &str) -> String {
    let id = gate.submit(body).await;
    let path = format!("/v2/tasks/{id}/events");
    read_until(&mut gate.send(request("GET", &path, Body::empty())).await.into_body(), "event: token").await;
    id
}

#[tokio::test(start_paused = true)]
async fn a_session_comes_back_as_it_was_but_for_what_an_engine_had_in_its_cache() {
    let folder = TempDir::new().unwrap();
    let first = open(folder.path(), says(&["one ", "two "])).await;
    set(&first, json!({"ttl_ms": 3_600_000, "budget": {"tokens": 1000, "time_ms": 60_000, "cost": 500}})).await;
    first.events(&first.submit(&task(9)).await).await;
    let whole = chat(&first, 9, "[DONE]").await;
    drop(whole);
    let before = first.get(PATH).await.json();
    assert_eq!(before["turns"], 2);
    assert!(before["tokens_budget_remaining"].as_u64().unwrap() <= 1000 - 2 * USED, "{before}");
    first.crash().await;

    let second = open(folder.path(), says(&["one ", "two "])).await;
    let after = second.get(PATH).await.json();
    let kept = ["turns", "tokens_budget_remaining", "time_budget_remaining_ms", "cost_budget_remaining"];
    assert_eq!(kept.map(|name| &before[name]), kept.map(|name| &after[name]));
    let rest = after["ttl_ms_remaining"].as_u64().unwrap();
    assert!((3_300_000..=3_600_000).contains(&rest), "{rest}");
    assert_eq!(second.metric("sessions_open").await, 1.0);
    // It goes on from there.
    second.events(&second.submit(&task(9)).await).await;
    let spent = before["tokens_budget_remaining"].as_u64().unwrap() - left(&second).await;
    assert_eq!((spent, second.get(PATH).await.json()["turns"].clone()), (USED, 3.into()));
    second.finish().await;
}

#[tokio::test(start_paused = true)]
async fn what_ran_is_charged_whole_and_what_waited_runs_within_what_it_had_reserved() {
    let folder = TempDir::new().unwrap();
    let first = open(folder.path(), endless()).await;
    set(&first, json!({"budget": {"tokens": 1000}})).await;
    let ran = running(&first, &task(300)).await;
    let waited = first.submit(&task(200)).await;
    assert_eq!(left(&first).await, 1000 - 302 - 202);
    first.crash().await;

    let second = open(folder.path(), says(&["one ", "two "])).await;
    assert!(second.events(&ran).await.contains("WORKER_RESET"));
    assert!(second.events(&waited).await.contains(r#""finish_reason":"stop""#));
    assert_eq!(left(&second).await, 1000 - 302 - USED);
    second.settle().await;
    second.crash().await;

    let third = open(folder.path(), endless()).await;
    assert_eq!(left(&third).await, 1000 - 302 - USED, "charged once");
    third.finish().await;
}

#[tokio::test(start_paused = true)]
async fn a_task_that_was_let_in_runs_also_where_the_budget_was_used_up_or_lowered_since() {
    let folder = TempDir::new().unwrap();
    let first = open(folder.path(), endless()).await;
    set(&first, json!({"budget": {"tokens": 504}})).await;
    running(&first, &task(300)).await;
    let waited = first.submit(&task(200)).await;
    assert_eq!(first.post("/v2/tasks", &task(1)).await.json()["policy_label"], "budget.tokens");
    set(&first, json!({"budget": {"tokens": 10}})).await;
    first.crash().await;

    let second = open(folder.path(), endless()).await;
    assert!(second.events(&waited).await.contains(r#""tokens_out":200"#));
    assert_eq!(second.post("/v2/tasks", &task(1)).await.json()["policy_label"], "budget.tokens");
    set(&second, json!({"budget": {"tokens": 600}})).await;
    assert_eq!(left(&second).await, 600 - 302 - 202, "a lower limit makes nothing unspent");
    second.finish().await;
}

#[tokio::test(start_paused = true)]
async fn a_chat_that_a_crash_has_cut_is_charged_if_it_had_started() {
    let folder = TempDir::new().unwrap();
    let first = open(folder.path(), endless()).await;
    set(&first, json!({"budget": {"tokens": 1000}})).await;
    let _running = chat(&first, 100, "word").await;
    let reserved = 1000 - left(&first).await;
    assert!(reserved > 100);
    let _waiting = chat(&first, 50, "").await;
    assert!(left(&first).await < 1000 - reserved - 50);
    first.crash().await;

    let second = open(folder.path(), endless()).await;
    assert_eq!(left(&second).await, 1000 - reserved);
    assert_eq!(second.app.store.holds().await.unwrap(), []);
    second.crash().await;
    let third = open(folder.path(), endless()).await;
    assert_eq!(left(&third).await, 1000 - reserved, "charged once");
    third.finish().await;
}

#[tokio::test(start_paused = true)]
async fn engine_time_is_charged_until_the_restart_and_never_beyond_the_budget() {
    let now_ms = || std::time::UNIX_EPOCH.elapsed().unwrap().as_millis() as i64;
    for (budget, lasted, charged) in [(60_000, 20_000, 20_000..60_000), (10_000, 20_000, 10_000..10_001)] {
        let folder = TempDir::new().unwrap();
        let first = open(folder.path(), endless()).await;
        set(&first, json!({"budget": {"time_ms": budget}})).await;
        let _running = chat(&first, 100, "word").await;
        let task_id = first.app.store.holds().await.unwrap().remove(0).task_id;
        // As if it had begun long ago.
        first.app.store.hold_started(task_id, now_ms() - lasted, |_| ());
        first.crash().await;
        let second = open(folder.path(), endless()).await;
        let left = second.get(PATH).await.json()["time_budget_remaining_ms"].as_u64().unwrap();
        assert!(charged.contains(&(budget - left)), "{left} of {budget}");
        second.finish().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_session_whose_time_ended_meanwhile_is_gone_unless_a_task_of_it_waits() {
    let folder = TempDir::new().unwrap();
    let first = open(folder.path(), endless()).await;
    set(&first, json!({"ttl_ms": 60_000, "budget": {"tokens": 1000}})).await;
    let past = |row: SessionRow| SessionRow { expires_at_ms: 1, ..row };
    let age = async |gate: &Gate| {
        for row in gate.app.store.sessions().await.unwrap() {
            gate.app.store.put_session(past(row)).await.unwrap();
        }
    };
    running(&first, r#"{"model_ref": "builtin", "prompt": "no session", "max_tokens": 1000}"#).await;
    let waits = first.submit(&task(5)).await;
    age(&first).await;
    first.crash().await;

    let second = open(folder.path(), endless()).await;
    second.events(&waits).await;
    assert_eq!(left(&second).await, 1000 - 7);
    age(&second).await;
    second.crash().await;

    let third = open(folder.path(), endless()).await;
    assert_eq!(third.get(PATH).await.status, StatusCode::NOT_FOUND);
    assert_eq!(third.app.store.sessions().await.unwrap(), []);
    third.finish().await;
}

#[tokio::test(start_paused = true)]
async fn an_evicted_session_does_not_come_back_with_its_tasks() {
    let folder = TempDir::new().unwrap();
    let first = open(folder.path(), endless()).await;
    set(&first, json!({"budget": {"tokens": 1000}})).await;
    let ran = running(&first, &task(300)).await;
    let waited = first.submit(&task(20)).await;
    assert_eq!(read(first.send(request("DELETE", PATH, Body::empty())).await).await.status, StatusCode::NO_CONTENT);
    first.crash().await;

    let second = open(folder.path(), endless()).await;
    assert_eq!(second.get(PATH).await.status, StatusCode::NOT_FOUND);
    assert!(second.events(&ran).await.contains("WORKER_RESET"));
    assert!(second.events(&waited).await.contains(r#""tokens_out":20"#));
    assert_eq!(second.get(PATH).await.status, StatusCode::NOT_FOUND);
    // Its successor has nothing to do with it.
    set(&second, json!({"budget": {"tokens": 50}})).await;
    second.settle().await;
    second.crash().await;
    let third = open(folder.path(), endless()).await;
    assert_eq!(left(&third).await, 50);
    third.finish().await;
}

#[tokio::test(start_paused = true)]
async fn a_refused_task_leaves_nothing_behind_and_an_expired_session_goes_from_the_store() {
    let folder = TempDir::new().unwrap();
    let settings = [("SLUICEGATE_SESSIONS__TTL_MS", "1000"), ("SLUICEGATE_POOLS__0__QUEUE__CAPACITY", "1")];
    let gate = gate(folder.path(), endless(), &settings).await;
    running(&gate, &task(400)).await;
    gate.submit(&task(5)).await;
    assert_eq!(gate.post("/v2/tasks", &task(5)).await.status, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(gate.app.store.holds().await.unwrap().len(), 2);
    gate.settle().await;
    assert_eq!(gate.app.store.holds().await.unwrap(), []);
    assert_eq!(gate.app.store.sessions().await.unwrap().len(), 1);
    tokio::time::sleep(std::time::Duration::from_secs(3)).await;
    assert_eq!(gate.app.store.sessions().await.unwrap(), []);
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn a_session_that_cannot_be_stored_is_said_to_be_gone_after_a_restart() {
    let gate = Gate::scripted(endless()).await;
    gate.app.store.close().await;
    for answer in [gate.post(PATH, r#"{"budget": {"tokens": 5}}"#).await, gate.post(PATH, "").await] {
        assert_eq!((answer.status, &answer.json()["code"]), (StatusCode::INTERNAL_SERVER_ERROR, &"INTERNAL".into()));
    }
    assert_eq!(left(&gate).await, 5, "it is in effect");
    gate.finish().await;
}
