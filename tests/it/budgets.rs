//! Budgets of sessions: what is reserved, what is given back, and what clients are told.

use std::time::Duration;

use axum::body::Body;
use axum::http::StatusCode;
use futures_util::future::join_all;
use serde_json::{Value, json};
use sluicegate::engine::scripted::Script;

use crate::harness::{Answer, Gate, read, read_until, request, says};

const SESSION: &str = "0192d3a0-0000-7000-8000-000000000001";
const PATH: &str = "/v2/sessions/0192d3a0-0000-7000-8000-000000000001";

/// Of two tokens, as the scripted engine counts.
const PROMPT: &str = "say it";

async fn gate(script: Script, budget: Value) -> Gate {
    let gate = Gate::scripted(script).await;
    let answer = gate.post(PATH, &json!({"budget": budget}).to_string()).await;
    assert_eq!(answer.status, StatusCode::NO_CONTENT, "{}", answer.body);
    gate
}

fn task(max_tokens: Option<u32>) -> String {
    json!({"model_ref": "builtin", "prompt": PROMPT, "max_tokens": max_tokens, "session_id": SESSION}).to_string()
}

async fn left(gate: &Gate, unit: &str) -> u64 {
    gate.get(PATH).await.json()[unit].as_u64().unwrap()
}

fn refused(answer: &Answer, label: &str) -> bool {
    let error = answer.json();
    answer.status == StatusCode::TOO_MANY_REQUESTS
        && error["code"] == "ADMISSION_REJECT"
        && error["policy_label"] == label
        && error["retriable"] == false
}

/// The data of a stream's events by one name.
fn data(stream: &str, name: &str) -> Vec<Value> {
    let events = stream.split("\n\n").filter(|event| event.lines().any(|line| line == format!("event: {name}")));
    let data = events.filter_map(|event| event.lines().find_map(|line| line.strip_prefix("data: ")));
    data.map(|data| serde_json::from_str(data).unwrap()).collect()
}

#[tokio::test(start_paused = true)]
async fn two_hundred_tasks_against_a_budget_for_fifty_use_it_to_the_last_token_and_no_further() {
    let gate = gate(Script::default(), json!({"tokens": 50 * (2 + 4)})).await;
    let body = task(Some(4));
    let answers = join_all((0..200).map(|_| gate.post("/v2/tasks", &body))).await;
    let (taken, others): (Vec<_>, Vec<_>) = answers.iter().partition(|answer| answer.status == StatusCode::ACCEPTED);
    assert_eq!((taken.len(), others.len()), (50, 150));
    assert!(others.iter().all(|answer| refused(answer, "budget.tokens")));
    assert_eq!(left(&gate, "tokens_budget_remaining").await, 0);
    let mut used = 0;
    for answer in taken {
        let stream = gate.events(answer.json()["task_id"].as_str().unwrap()).await;
        let end = &data(&stream, "end")[0];
        used += end["tokens_in"].as_u64().unwrap() + end["tokens_out"].as_u64().unwrap();
    }
    assert_eq!((used, left(&gate, "tokens_budget_remaining").await), (300, 0));
    let rejected = gate.metric(r#"tasks_rejected_total{engine="scripted",reason="budget.tokens"}"#).await;
    assert_eq!(rejected, 150.0);
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn what_a_task_does_not_use_is_given_back_when_it_ends_is_cancelled_or_is_never_let_in() {
    let gate = gate(Script { slots: 1, ..Script::default() }, json!({"tokens": 1000})).await;
    let running = gate.submit(&task(Some(500))).await;
    let waiting = gate.submit(&task(Some(400))).await;
    assert_eq!(left(&gate, "tokens_budget_remaining").await, 1000 - 502 - 402);
    gate.post(&format!("/v2/tasks/{waiting}/cancel"), "").await;
    assert_eq!(left(&gate, "tokens_budget_remaining").await, 1000 - 502, "it never started");
    let path = format!("/v2/tasks/{running}/events");
    let mut stream = gate.send(request("GET", &path, Body::empty())).await.into_body();
    read_until(&mut stream, r#""i":2"#).await;
    gate.post(&format!("/v2/tasks/{running}/cancel"), "").await;
    let seen = data(&gate.events(&running).await, "token").len() as u64;
    assert!(seen >= 3);
    assert_eq!(left(&gate, "tokens_budget_remaining").await, 1000 - 2 - seen);
    let mut taken: Value = serde_json::from_str(&task(Some(5))).unwrap();
    taken["task_id"] = running.into();
    assert_eq!(gate.post("/v2/tasks", &taken.to_string()).await.status, StatusCode::CONFLICT);
    assert_eq!(left(&gate, "tokens_budget_remaining").await, 1000 - 2 - seen, "it was not let in");
    drop(stream);
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn without_max_tokens_the_output_is_what_the_budget_leaves() {
    let gate = gate(Script::default(), json!({"tokens": 9})).await;
    let answer = gate.post("/v2/tasks", &task(None)).await;
    assert_eq!((answer.status, answer.header("x-budget-tokens-remaining")), (StatusCode::ACCEPTED, "0"));
    let stream = gate.events(answer.json()["task_id"].as_str().unwrap()).await;
    let end = &data(&stream, "end")[0];
    assert_eq!((&end["tokens_out"], &end["finish_reason"]), (&7.into(), &"length".into()));
    assert_eq!(end["policy_label"], "budget.tokens");
    assert_eq!(data(&stream, "metrics")[0], json!({"tokens_budget_remaining": 0}));
    for body in [task(None), task(Some(1))] {
        let answer = gate.post("/v2/tasks", &body).await;
        assert!(refused(&answer, "budget.tokens"), "{}", answer.body);
        assert_eq!(answer.header("x-budget-tokens-remaining"), "0");
        // Nobody is told to come again where that does not help.
        for name in ["retry-after", "x-backoff-ms", "retry-after-ms"] {
            assert_eq!(answer.header(name), "", "{name}");
        }
        let preview = gate.post("/v2/tasks/preview", &body).await.json();
        assert_eq!(preview["error"]["policy_label"], "budget.tokens");
    }
    // A budget is what the session may use in all.
    gate.post(PATH, r#"{"budget": {"tokens": 12}}"#).await;
    let id = gate.submit(&task(Some(1))).await;
    let end = &data(&gate.events(&id).await, "end")[0];
    assert_eq!((&end["finish_reason"], &end["policy_label"]), (&"length".into(), &Value::Null), "as it was asked for");
    assert_eq!(left(&gate, "tokens_budget_remaining").await, 0);
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn engine_time_is_reserved_in_slices_and_ends_the_task_when_there_is_none_left() {
    let gate = gate(Script::default(), json!({"time_ms": 2500})).await;
    let began = tokio::time::Instant::now();
    let answer = gate.post("/v2/tasks", &task(Some(4000))).await;
    assert_eq!(answer.header("x-budget-time-remaining-ms"), "1500");
    let stream = gate.events(answer.json()["task_id"].as_str().unwrap()).await;
    assert!((2500..2600).contains(&began.elapsed().as_millis()), "{:?}", began.elapsed());
    let end = &data(&stream, "end")[0];
    assert_eq!((&end["finish_reason"], &end["policy_label"]), (&"length".into(), &"budget.time".into()));
    let told = data(&stream, "metrics");
    let told: Vec<_> = told.iter().filter_map(|told| told["time_budget_remaining_ms"].as_u64()).collect();
    assert_eq!(told, [1500, 500, 0]);
    let answer = gate.post("/v2/tasks", &task(Some(1))).await;
    assert!(refused(&answer, "budget.time"), "{}", answer.body);
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn time_in_the_queue_costs_nothing_and_a_short_task_pays_for_what_it_took() {
    let gate = gate(Script { slots: 1, ..says(&["one ", "two "]) }, json!({"time_ms": 2000})).await;
    let tasks = [gate.submit(&task(Some(9))).await, gate.submit(&task(Some(9))).await];
    let mut took = 0;
    for id in tasks {
        let end = &data(&gate.events(&id).await, "end")[0];
        took += end["first_token_ms"].as_u64().unwrap() + end["decode_ms"].as_u64().unwrap();
    }
    tokio::time::sleep(Duration::from_millis(1)).await;
    let left = left(&gate, "time_budget_remaining_ms").await;
    assert!(left.abs_diff(2000 - took) <= 4, "{left} of 2000, {took} ms used");
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn an_openai_client_learns_what_is_left_and_that_a_retry_cannot_help() {
    let gate = Gate::with(says(&["hi"]), &[("SLUICEGATE_SESSIONS__BUDGET__TOKENS", "60")]).await;
    let chat = |max_tokens: u32| {
        let messages = json!([{"role": "user", "content": "hi"}]);
        json!({"model": "builtin", "messages": messages, "max_tokens": max_tokens, "sluicegate": {"session_id": SESSION}})
            .to_string()
    };
    let whole = gate.post("/v1/chat/completions", &chat(20)).await;
    let used = whole.json()["usage"]["total_tokens"].as_u64().unwrap();
    assert_eq!(whole.header("x-budget-tokens-remaining"), (60 - used).to_string(), "after it was charged");
    let refused = gate.post("/v1/chat/completions", &chat(500)).await;
    assert_eq!((refused.status, refused.header("x-should-retry")), (StatusCode::TOO_MANY_REQUESTS, "false"));
    assert_eq!(refused.json()["error"]["code"], "insufficient_quota");
    assert_eq!(refused.header("x-budget-tokens-remaining"), (60 - used).to_string());
    let mut by_header = request("POST", "/v1/chat/completions", Body::from(chat(1)));
    by_header.headers_mut().insert("x-session-id", "0192d3a0-0000-7000-8000-000000000002".parse().unwrap());
    assert_eq!(read(gate.send(by_header).await).await.status, StatusCode::OK, "another session has its own");
    gate.finish().await;
}

/// A gateway whose model costs, with a session that has so much money.
async fn priced(script: Script, price: &str, cost: u64) -> Gate {
    let models = format!(r#"[{{ id = "builtin", price = {{ {price} }} }}]"#);
    let gate = Gate::with(script, &[("SLUICEGATE_CATALOG__MODELS", models.as_str())]).await;
    let answer = gate.post(PATH, &json!({"budget": {"cost": cost}}).to_string()).await;
    assert_eq!(answer.status, StatusCode::NO_CONTENT, "{}", answer.body);
    gate
}

#[tokio::test(start_paused = true)]
async fn money_is_reserved_for_the_worst_case_and_never_overspent() {
    // Two tokens of prompt at 1 and four of output at 2: 10 each.
    let gate = priced(Script::default(), "input_per_mtok = 1000000, output_per_mtok = 2000000", 505).await;
    let body = task(Some(4));
    let answers = join_all((0..200).map(|_| gate.post("/v2/tasks", &body))).await;
    let (taken, others): (Vec<_>, Vec<_>) = answers.iter().partition(|answer| answer.status == StatusCode::ACCEPTED);
    assert_eq!((taken.len(), others.len()), (50, 150));
    assert!(others.iter().all(|answer| refused(answer, "budget.cost")));
    assert_eq!(taken[49].header("x-budget-cost-remaining"), "5");
    for answer in taken {
        gate.events(answer.json()["task_id"].as_str().unwrap()).await;
    }
    assert_eq!(left(&gate, "cost_budget_remaining").await, 5);
    let stream = gate.events(&gate.submit(&task(None)).await).await;
    let end = &data(&stream, "end")[0];
    assert_eq!((&end["tokens_out"], &end["finish_reason"]), (&1.into(), &"length".into()));
    assert_eq!(end["policy_label"], "budget.cost");
    assert_eq!(left(&gate, "cost_budget_remaining").await, 1);
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn money_for_engine_time_is_reserved_by_the_slice_and_given_back() {
    let gate = priced(says(&["one ", "two "]), "engine_second = 1000", 10_000).await;
    let end = data(&gate.events(&gate.submit(&task(Some(9))).await).await, "end").remove(0);
    let took = end["first_token_ms"].as_u64().unwrap() + end["decode_ms"].as_u64().unwrap();
    assert_eq!(left(&gate, "cost_budget_remaining").await, 10_000 - took, "a ms costs one");
    gate.finish().await;
    let gate = priced(Script::default(), "engine_second = 1000", 1500).await;
    let stream = gate.events(&gate.submit(&task(Some(4000))).await).await;
    let end = &data(&stream, "end")[0];
    assert_eq!((&end["finish_reason"], &end["policy_label"]), (&"length".into(), &"budget.cost".into()));
    let told = data(&stream, "metrics");
    let told: Vec<_> = told.iter().filter_map(|told| told["cost_budget_remaining"].as_u64()).collect();
    assert_eq!(told, [500, 0]);
    assert!(refused(&gate.post("/v2/tasks", &task(Some(1))).await, "budget.cost"));
    gate.finish().await;
}
