//! Embeddings and rerank as an OpenAI client sees them, over the scripted engine.

use std::time::Duration;

use axum::body::Body;
use axum::http::StatusCode;
use insta::assert_snapshot;
use serde_json::{Value, json};
use sluicegate::engine::scripted::Script;
use sluicegate_compat::native::Workload;

use crate::harness::{Gate, masked, read, request};

fn able() -> Script {
    Script { workloads: Workload::ALL.to_vec(), ..Script::default() }
}

fn body(mut base: Value, change: &Value) -> String {
    base.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
    base.to_string()
}

fn embed(change: Value) -> String {
    body(json!({"model": "builtin", "input": ["red gate", "a blue gate"]}), &change)
}

fn rerank(change: Value) -> String {
    body(json!({"model": "builtin", "query": "green water", "documents": ["dry sand", "green water"]}), &change)
}

#[tokio::test(start_paused = true)]
async fn each_input_has_its_vector() {
    let gate = Gate::scripted(able()).await;
    let answer = gate.post("/v1/embeddings", &embed(json!({"dimensions": 2, "user": "me", "colour": 1}))).await;
    assert_eq!(answer.status, StatusCode::OK);
    assert_snapshot!(answer.body, @r#"{"object":"list","data":[{"object":"embedding","index":0,"embedding":[0.6997012495994568,-0.7144355177879333]},{"object":"embedding","index":1,"embedding":[0.5614485740661621,-0.8275116086006165]}],"model":"builtin","usage":{"prompt_tokens":5,"total_tokens":5}}"#);
    assert_eq!((answer.header("x-queue-wait-ms"), answer.header("x-sluicegate-ignored")), ("0", "colour"));
    let task = gate.get(&format!("/v2/tasks/{}", answer.header("x-task-id"))).await.json();
    assert_eq!(
        (&task["workload"], &task["tokens_in"], &task["state"]),
        (&json!("embedding"), &json!(5), &json!("finished"))
    );
    // Alone, as a string and as its token ids, it is the same.
    let whole = gate.post("/v1/embeddings", &embed(json!({}))).await.json();
    let one = gate.post("/v1/embeddings", &embed(json!({"input": "a blue gate"}))).await.json();
    assert_eq!(one["data"][0]["embedding"], whole["data"][1]["embedding"]);
    let ids = gate.post("/v1/embeddings", &embed(json!({"input": [7, 8]}))).await.json();
    let listed = gate.post("/v1/embeddings", &embed(json!({"input": [[7, 8]]}))).await.json();
    assert_eq!((&ids["data"], &ids["usage"]["prompt_tokens"]), (&listed["data"], &json!(2)));
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn documents_are_ranked() {
    let gate = Gate::scripted(able()).await;
    let answer = gate.post("/v1/rerank", &rerank(json!({}))).await;
    assert_snapshot!(masked(&answer.body), @r#"{"id":"rerank-<uuid>","object":"list","model":"builtin","results":[{"index":1,"relevance_score":1.0,"document":{"text":"green water"}},{"index":0,"relevance_score":-0.06182065233588219,"document":{"text":"dry sand"}}],"usage":{"prompt_tokens":6,"total_tokens":6}}"#);
    assert_eq!(answer.header("x-queue-wait-ms"), "0");
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn errors_are_openais_and_name_the_field() {
    let gate = Gate::scripted(Script { context_length: 10, ..able() }).await;
    let long = "word ".repeat(11);
    let cases = [
        ("/v1/embeddings", embed(json!({"input": ""})), "input", "invalid_value"),
        ("/v1/embeddings", embed(json!({"input": []})), "input", "invalid_value"),
        ("/v1/embeddings", embed(json!({"input": ["a", ""]})), "input", "invalid_value"),
        ("/v1/embeddings", embed(json!({"input": vec!["a"; 2049]})), "input", "invalid_value"),
        ("/v1/embeddings", embed(json!({"input": ["a", long]})), "input[1]", "context_length_exceeded"),
        ("/v1/embeddings", embed(json!({"input": long})), "input", "context_length_exceeded"),
        ("/v1/embeddings", embed(json!({"dimensions": 9})), "dimensions", "invalid_value"),
        ("/v1/rerank", rerank(json!({"documents": []})), "documents", "invalid_value"),
        ("/v1/rerank", rerank(json!({"documents": ["a", long]})), "documents[1]", "context_length_exceeded"),
        ("/v1/rerank", rerank(json!({"query": ""})), "query", "invalid_value"),
    ];
    for (path, body, param, code) in cases {
        let answer = gate.post(path, &body).await;
        let error = &answer.json()["error"];
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{}", answer.body);
        assert_eq!(
            (&error["param"], &error["code"], &error["type"]),
            (&json!(param), &json!(code), &json!("invalid_request_error"))
        );
    }
    gate.finish().await;
    let writes = Gate::scripted(Script::default()).await;
    assert_snapshot!(writes.post("/v1/embeddings", &embed(json!({}))).await.body, @r#"{"error":{"message":"no pool serves the workload `embedding` with this model","type":"invalid_request_error","param":"model","code":"unsupported_value"}}"#);
    let unknown = writes.post("/v1/rerank", &rerank(json!({"model": "gpt-9"}))).await;
    assert_eq!((unknown.status, &unknown.json()["error"]["code"]), (StatusCode::NOT_FOUND, &json!("model_not_found")));
    writes.finish().await;
}

#[tokio::test(start_paused = true)]
async fn a_client_that_hangs_up_cancels_its_task_and_a_deadline_is_an_error() {
    let gate = Gate::scripted(Script { slots: 1, token: Duration::from_secs(1), ..able() }).await;
    let many = embed(json!({"input": vec!["a"; 100]}));
    assert!(tokio::time::timeout(Duration::from_secs(2), gate.post("/v1/embeddings", &many)).await.is_err());
    // Its end is seen once it is in the ledger.
    gate.until("/v2/tasks", |list| list["tasks"][0]["state"] == "canceled").await;
    let mut late = request("POST", "/v1/embeddings", Body::from(many));
    late.headers_mut().insert("x-deadline-ms", "1500".parse().unwrap());
    let late = read(gate.send(late).await).await;
    assert_eq!((late.status, &late.json()["error"]["code"]), (StatusCode::BAD_REQUEST, &json!("deadline_unmet")));
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn the_same_key_is_one_task() {
    let gate = Gate::scripted(able()).await;
    let keyed = |path: &str, body: String| {
        let mut request = request("POST", path, Body::from(body));
        request.headers_mut().insert("idempotency-key", "once".parse().unwrap());
        request
    };
    let first = read(gate.send(keyed("/v1/embeddings", embed(json!({})))).await).await;
    let again = read(gate.send(keyed("/v1/embeddings", embed(json!({})))).await).await;
    assert_eq!((first.header("x-task-id"), &first.body), (again.header("x-task-id"), &again.body));
    let other = read(gate.send(keyed("/v1/rerank", rerank(json!({})))).await).await;
    assert_eq!(other.status, StatusCode::UNPROCESSABLE_ENTITY);
    gate.finish().await;
}
