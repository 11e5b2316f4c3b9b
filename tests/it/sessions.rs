//! Sessions as clients see them: made on first use, forgotten when unused, and what they remember meanwhile.

use std::time::Duration;

use axum::body::Body;
use axum::http::StatusCode;
use insta::assert_snapshot;
use serde_json::{Value, json};
use sluicegate::engine::scripted::Script;

use crate::harness::{Answer, Gate, read, request, says};

const SESSION: &str = "0192d3a0-0000-7000-8000-000000000001";
const PATH: &str = "/v2/sessions/0192d3a0-0000-7000-8000-000000000001";

/// A task of the session that says so many tokens.
fn task(max_tokens: u32) -> Value {
    json!({"model_ref": "builtin", "prompt": "say it", "max_tokens": max_tokens, "session_id": SESSION})
}

async fn evict(gate: &Gate) -> Answer {
    read(gate.send(request("DELETE", PATH, Body::empty())).await).await
}

#[tokio::test(start_paused = true)]
async fn a_session_is_made_by_its_first_task_and_counts_those_that_end_by_themselves() {
    let gate = Gate::scripted(says(&["one ", "two "])).await;
    assert_eq!(gate.get(PATH).await.status, StatusCode::NOT_FOUND);
    let id = gate.submit(&task(9).to_string()).await;
    assert_eq!(gate.get(PATH).await.json()["turns"], 0);
    gate.events(&id).await;
    assert_snapshot!(gate.get(PATH).await.body, @r#"{"ttl_ms_remaining":600000,"turns":1,"kv_bytes":0,"kv_warmth":0.0,"tokens_budget_remaining":null,"time_budget_remaining_ms":null,"cost_budget_remaining":null}"#);
    let id = gate.submit(&task(9).to_string()).await;
    gate.post(&format!("/v2/tasks/{id}/cancel"), "").await;
    gate.settle().await;
    assert_eq!(gate.get(PATH).await.json()["turns"], 1, "a cancelled task is no turn");
    let listed = gate.get(&format!("/v2/tasks?session_id={SESSION}")).await.json();
    assert_eq!(listed["tasks"].as_array().unwrap().len(), 2);
    assert_eq!(gate.metric("sessions_open").await, 1.0);
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn an_openai_client_names_its_session_in_the_body_or_in_a_header() {
    let gate = Gate::scripted(says(&["hi"])).await;
    let chat = json!({"model": "builtin", "messages": [{"role": "user", "content": "hi"}]});
    let mut named = chat.clone();
    named["sluicegate"] = json!({"session_id": SESSION});
    assert_eq!(gate.post("/v1/chat/completions", &named.to_string()).await.status, StatusCode::OK);
    let mut by_header = request("POST", "/v1/chat/completions", Body::from(chat.to_string()));
    by_header.headers_mut().insert("x-session-id", SESSION.parse().unwrap());
    assert_eq!(read(gate.send(by_header).await).await.status, StatusCode::OK);
    assert_eq!(gate.get(PATH).await.json()["turns"], 2);
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn an_unused_session_goes_when_its_time_is_over_and_a_busy_one_stays() {
    let gate = Gate::with(Script::default(), &[("SLUICEGATE_SESSIONS__TTL_MS", "1000")]).await;
    let id = gate.submit(&task(500).to_string()).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(gate.get(PATH).await.json()["ttl_ms_remaining"], 1000, "its task still runs");
    gate.events(&id).await;
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert_eq!(gate.get(PATH).await.json()["ttl_ms_remaining"], 400);
    assert_eq!(gate.post(PATH, "").await.status, StatusCode::NO_CONTENT);
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert_eq!(gate.get(PATH).await.json()["ttl_ms_remaining"], 400, "a request without a body lets it live on");
    assert_eq!(gate.post(PATH, r#"{"ttl_ms": 5000}"#).await.status, StatusCode::NO_CONTENT);
    tokio::time::sleep(Duration::from_millis(4999)).await;
    let kept = gate.get(PATH).await.json();
    assert_eq!((&kept["ttl_ms_remaining"], &kept["turns"]), (&1.into(), &1.into()));
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert_eq!(gate.get(PATH).await.status, StatusCode::NOT_FOUND);
    assert_eq!(gate.post(PATH, "").await.status, StatusCode::NOT_FOUND);
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(gate.metric("sessions_open").await, 0.0);
    assert_eq!(gate.metric(r#"sessions_ended_total{reason="expired"}"#).await, 1.0);
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn an_evicted_session_knows_nothing_of_its_tasks_any_more() {
    let gate = Gate::scripted(Script::default()).await;
    assert_eq!(evict(&gate).await.status, StatusCode::NOT_FOUND);
    let id = gate.submit(&task(50).to_string()).await;
    assert_eq!(evict(&gate).await.status, StatusCode::NO_CONTENT);
    assert_eq!(gate.get(PATH).await.status, StatusCode::NOT_FOUND);
    assert_eq!(gate.post(PATH, "{}").await.status, StatusCode::NO_CONTENT, "made anew");
    assert!(gate.events(&id).await.contains(r#""finish_reason":"length""#), "its task goes on");
    assert_eq!(gate.get(PATH).await.json()["turns"], 0);
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn a_session_stays_with_the_replica_of_its_last_good_task_where_it_has_room() {
    let pools = r#"[{ id = "a", engine = "scripted", replicas = 2 }, { id = "b", engine = "scripted" }]"#;
    let gate = Gate::with(Script { slots: 1, ..Script::default() }, &[("SLUICEGATE_POOLS", pools)]).await;
    let other = json!({"model_ref": "builtin", "prompt": "say it", "max_tokens": 500});
    let replica_of = async |id: &str| gate.get(&format!("/v2/tasks/{id}")).await.json()["replica_id"].clone();
    // The first replica is taken, so that the session begins on another.
    let first = gate.submit(&other.to_string()).await;
    let turn = gate.submit(&task(5).to_string()).await;
    gate.events(&turn).await;
    assert_eq!(replica_of(&turn).await, "a-1");
    gate.post(&format!("/v2/tasks/{first}/cancel"), "").await;
    gate.settle().await;
    for (changed, value) in [("n", json!(1)), ("max_tokens", json!(500))] {
        let mut again = task(5);
        again[changed] = value;
        let id = gate.submit(&again.to_string()).await;
        assert_eq!(replica_of(&id).await, "a-1", "not the first, which is free");
        if changed == "n" {
            gate.events(&id).await;
        }
    }
    // The last one still runs, so there is no room.
    let elsewhere = gate.submit(&task(5).to_string()).await;
    assert_eq!(replica_of(&elsewhere).await, "a-0");
    for task in gate.get("/v2/tasks?state=running").await.json()["tasks"].as_array().unwrap() {
        gate.post(&format!("/v2/tasks/{}/cancel", task["task_id"].as_str().unwrap()), "").await;
    }
    gate.settle().await;
    let mut cold = task(5);
    cold["kv_hint"] = "cold".into();
    let cold = gate.submit(&cold.to_string()).await;
    assert_eq!(replica_of(&cold).await, "a-0", "who wants nothing from a cache goes anywhere");
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn a_bad_request_for_a_session_names_the_field() {
    let gate = Gate::scripted(says(&["hi"])).await;
    for (body, param) in [
        (r#"{"ttl_ms": 0}"#, "ttl_ms"),
        (r#"{"ttl_ms": 31536000001}"#, "ttl_ms"),
        (r#"{"ttl_ms": "long"}"#, "ttl_ms"),
        (r#"{"colour": "red"}"#, "colour"),
        (r#"{"budget": {"tokens": -1}}"#, "budget.tokens"),
        (r#"{"budget": {"euros": 1}}"#, "budget.euros"),
    ] {
        let answer = gate.post(PATH, body).await;
        assert_eq!((answer.status, &answer.json()["param"]), (StatusCode::BAD_REQUEST, &param.into()), "{body}");
    }
    assert_eq!(gate.get(PATH).await.status, StatusCode::NOT_FOUND, "nothing was made");
    for method in ["GET", "POST", "DELETE"] {
        let answer = read(gate.send(request(method, "/v2/sessions/mine", Body::empty())).await).await;
        assert_eq!(answer.status, StatusCode::NOT_FOUND, "{method}");
    }
    gate.finish().await;
}
