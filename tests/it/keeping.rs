//! What is kept of requests and answers, for how long, and what is kept of nobody.

use std::time::Duration;

use axum::body::Body;
use axum::http::StatusCode;
use serde_json::{Value, json};
use sluicegate::engine::scripted::Script;

use crate::harness::{Gate, read_until, request, says};

const RESPONSES: &str = "/v1/responses";
const CHATS: &str = "/v1/chat/completions";

/// One request in both dialects.
fn both(change: &Value) -> [(&'static str, String); 2] {
    let body = |mut body: Value| {
        body.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        body.to_string()
    };
    let response = json!({"model": "builtin", "input": "say it", "max_output_tokens": 500});
    let chat =
        json!({"model": "builtin", "messages": [{"role": "user", "content": "say it"}], "max_completion_tokens": 500});
    [(RESPONSES, body(response)), (CHATS, body(chat))]
}

async fn tasks(gate: &Gate) -> usize {
    gate.get("/v2/tasks").await.json()["tasks"].as_array().unwrap().len()
}

async fn delete(gate: &Gate, id: &Value) -> StatusCode {
    let path = format!("{RESPONSES}/{}", id.as_str().unwrap());
    gate.send(request("DELETE", &path, Body::empty())).await.status()
}

async fn respond(gate: &Gate, body: &Value) -> Value {
    let answer = gate.post(RESPONSES, &body.to_string()).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.body);
    answer.json()
}

#[tokio::test(start_paused = true)]
async fn what_is_not_to_be_stored_is_found_nowhere_once_it_is_answered() {
    let gate = Gate::with(says(&["one"]), &[("SLUICEGATE_SERVER__UNKNOWN_FIELDS", "refuse")]).await;
    let session = "0190c4d6-7f3c-7000-8000-000000000001";
    gate.post(&format!("/v2/sessions/{session}"), r#"{"budget": {"tokens": 100000}}"#).await;
    for stream in [false, true] {
        for wishes in [json!({}), json!({"sluicegate": {"session_id": session}})] {
            let mut change = json!({"store": false, "stream": stream});
            change.as_object_mut().unwrap().extend(wishes.as_object().unwrap().clone());
            for (path, body) in both(&change) {
                let answer = gate.post(path, &body).await;
                assert_eq!((answer.status, answer.body.contains("one")), (StatusCode::OK, true), "{}", answer.body);
                assert_eq!(answer.header("x-sluicegate-ignored"), "");
                let task = gate.get(&format!("/v2/tasks/{}", answer.header("x-task-id"))).await;
                assert_eq!(task.status, StatusCode::NOT_FOUND, "{path} {body}");
            }
        }
    }
    assert_eq!(tasks(&gate).await, 0);
    for (path, body) in both(&json!({"store": null})) {
        assert_eq!(gate.post(path, &body).await.status, StatusCode::OK);
    }
    assert_eq!(tasks(&gate).await, 2);
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn what_is_not_to_be_stored_goes_with_a_client_that_hangs_up() {
    let gate = Gate::scripted(Script { tokens: vec!["word ".into()], repeat: true, ..Script::default() }).await;
    for (path, body) in both(&json!({"store": false, "stream": true})) {
        let mut stream = gate.send(request("POST", path, Body::from(body))).await.into_body();
        read_until(&mut stream, "word").await;
        assert_eq!(tasks(&gate).await, 1, "it is a task while it runs");
        drop(stream);
        gate.settle().await;
        assert_eq!(tasks(&gate).await, 0, "{path}");
    }
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn a_key_asks_for_the_answer_to_be_kept() {
    let gate = Gate::scripted(says(&["one"])).await;
    for (path, body) in both(&json!({"store": false})) {
        let (first, again) = (gate.post_keyed(path, path, &body).await, gate.post_keyed(path, path, &body).await);
        assert_eq!((first.status, first.body), (StatusCode::OK, again.body));
        let task = gate.get(&format!("/v2/tasks/{}", first.headers["x-task-id"].to_str().unwrap())).await;
        assert_eq!(task.json()["output"], "one");
    }
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn a_key_whose_answer_is_gone_is_a_422_until_its_own_time_is_over() {
    let settings =
        [("SLUICEGATE_ADMISSION__RETENTION_MS", "60000"), ("SLUICEGATE_ADMISSION__IDEMPOTENCY_TTL_MS", "180000")];
    let gate = Gate::with(says(&["one"]), &settings).await;
    let native = r#"{"model_ref": "builtin", "prompt": "say it"}"#;
    let accepted = gate.post_keyed("/v2/tasks", "native", native).await;
    let id = accepted.json()["task_id"].as_str().unwrap().to_owned();
    let asked = both(&json!({}));
    for (path, body) in &asked {
        assert_eq!(gate.post_keyed(path, path, body).await.status, StatusCode::OK);
    }
    tokio::time::sleep(Duration::from_secs(62)).await;
    assert_eq!(tasks(&gate).await, 0);
    for (path, body) in &asked {
        let gone = gate.post_keyed(path, path, body).await;
        assert_eq!(gone.status, StatusCode::UNPROCESSABLE_ENTITY);
        let error = &gone.json()["error"];
        assert_eq!(error["code"], "conflict");
        assert_eq!(error["message"], "the answer to this `Idempotency-Key` is no longer kept; take a new key");
    }
    // What the native API answers is where the task stood.
    let again = gate.post_keyed("/v2/tasks", "native", native).await;
    assert_eq!((again.status, again.body), (StatusCode::ACCEPTED, accepted.body));
    assert_eq!(gate.get(&format!("/v2/tasks/{id}")).await.status, StatusCode::NOT_FOUND);
    tokio::time::sleep(Duration::from_secs(120)).await;
    for (path, body) in &asked {
        assert_eq!(gate.post_keyed(path, path, body).await.status, StatusCode::OK, "as if it were new");
    }
    assert_eq!(tasks(&gate).await, 2);
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn the_same_request_has_the_same_bytes() {
    let gate = Gate::scripted(says(&["one"])).await;
    let body = r#"{"model": "builtin", "input": "say it"}"#;
    assert_eq!(gate.post_keyed(RESPONSES, "k", body).await.status, StatusCode::OK);
    for other in [r#"{"model":"builtin","input":"say it"}"#, r#"{"input": "say it", "model": "builtin"}"#] {
        assert_eq!(gate.post_keyed(RESPONSES, "k", other).await.status, StatusCode::UNPROCESSABLE_ENTITY);
    }
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn a_deleted_response_lives_on_in_those_that_went_on_from_it() {
    let gate = Gate::scripted(says(&["answered"])).await;
    let first = respond(&gate, &json!({"model": "builtin", "input": "the secret"})).await;
    let second =
        respond(&gate, &json!({"model": "builtin", "input": "next", "previous_response_id": first["id"]})).await;
    assert_eq!(delete(&gate, &first["id"]).await, StatusCode::OK);

    // By itself it is gone: nobody reads it or goes on from it.
    for path in ["", "/input_items"] {
        let path = format!("{RESPONSES}/{}{path}", first["id"].as_str().unwrap());
        assert_eq!(gate.get(&path).await.status, StatusCode::NOT_FOUND);
    }
    let branch = json!({"model": "builtin", "input": "next", "previous_response_id": first["id"]});
    assert_eq!(gate.post(RESPONSES, &branch.to_string()).await.status, StatusCode::BAD_REQUEST);

    // The second one goes on from what it was shown, and lists that.
    let third =
        respond(&gate, &json!({"model": "builtin", "input": "last", "previous_response_id": second["id"]})).await;
    for (id, turns) in [(&second["id"], 3), (&third["id"], 5)] {
        let items = gate.get(&format!("{RESPONSES}/{}/input_items?order=asc", id.as_str().unwrap())).await.json();
        assert_eq!(items["data"].as_array().unwrap().len(), turns);
        assert_eq!(items["data"][0]["content"][0]["text"], "the secret");
    }
    // What it was shown goes with it, and for good with the last one.
    for response in [&second, &third] {
        assert_eq!(delete(&gate, &response["id"]).await, StatusCode::OK);
    }
    assert_eq!(tasks(&gate).await, 0);
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn a_conversation_is_kept_as_long_as_its_last_response() {
    let gate = Gate::with(says(&["answered"]), &[("SLUICEGATE_ADMISSION__RETENTION_MS", "60000")]).await;
    let first = respond(&gate, &json!({"model": "builtin", "input": "the secret"})).await;
    tokio::time::sleep(Duration::from_secs(40)).await;
    let second =
        respond(&gate, &json!({"model": "builtin", "input": "next", "previous_response_id": first["id"]})).await;
    tokio::time::sleep(Duration::from_secs(40)).await;
    let path = |response: &Value| format!("{RESPONSES}/{}", response["id"].as_str().unwrap());
    assert_eq!(gate.get(&path(&first)).await.status, StatusCode::NOT_FOUND);
    let items = gate.get(&format!("{}/input_items?order=asc", path(&second))).await;
    assert_eq!(items.json()["data"][0]["content"][0]["text"], "the secret");
    tokio::time::sleep(Duration::from_secs(22)).await;
    assert_eq!(gate.get(&path(&second)).await.status, StatusCode::NOT_FOUND);
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn without_room_nothing_is_kept_beyond_its_end() {
    let gate = Gate::with(says(&["one"]), &[("SLUICEGATE_ADMISSION__RETENTION_MAX_BYTES", "0")]).await;
    for stream in [false, true] {
        for (path, body) in both(&json!({"stream": stream})) {
            let answer = gate.post(path, &body).await;
            assert_eq!((answer.status, answer.body.contains("one")), (StatusCode::OK, true), "{}", answer.body);
        }
    }
    // The client has its end a moment before. In virtual time this is when nothing else is left to do.
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert_eq!(tasks(&gate).await, 0);
    gate.finish().await;
}
