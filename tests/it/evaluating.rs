//! Tasks that embed their inputs or score them against a query, over the scripted engine.

use std::time::Duration;

use axum::body::Body;
use axum::http::StatusCode;
use insta::assert_snapshot;
use serde_json::{Value, json};
use sluicegate::engine::scripted::{Failure, FailureKind, Script};
use sluicegate_compat::native::Workload;
use tempfile::TempDir;

use super::harness::{Gate, masked, read, request};

fn able() -> Script {
    Script { workloads: Workload::ALL.to_vec(), ..Script::default() }
}

fn task(change: Value) -> String {
    let mut body = json!({"workload": "embedding", "model_ref": "builtin", "inputs": ["red gate", "a blue gate"]});
    body.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
    body.to_string()
}

fn rerank(change: Value) -> String {
    let mut body =
        json!({"workload": "rerank", "query": "green water", "inputs": ["dry sand", "the water is green", "green"]});
    body.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
    task(body)
}

/// The data of the `result` event in a stream.
fn result(stream: &str) -> Value {
    let data = stream.split_once("event: result\ndata: ").unwrap().1;
    serde_json::from_str(data.lines().next().unwrap()).unwrap()
}

fn numbers(vector: &Value) -> Vec<f64> {
    vector.as_array().unwrap().iter().map(|number| number.as_f64().unwrap()).collect()
}

fn length(vector: &[f64]) -> f64 {
    vector.iter().map(|number| number * number).sum::<f64>().sqrt()
}

#[tokio::test(start_paused = true)]
async fn each_input_becomes_a_vector_between_started_and_end() {
    let gate = Gate::scripted(able()).await;
    let id = gate.submit(&task(json!({}))).await;
    let stream = gate.events(&id).await;
    let shown = stream.replace(result(&stream)["embeddings"][1].to_string().as_str(), "[…]");
    assert_snapshot!(masked(&shown), @r#"
    id: 1
    event: started
    data: {"queue_position":0,"predicted_start_ms":0,"engine":"scripted","engine_version":"0.1.0","pool_id":"default","replica_id":"default-0","sampler_profile_version":"scripted-1","model_digest":"none"}

    id: 2
    event: result
    data: {"embeddings":[[0.55767006,-0.5694134,0.15697818,0.23967385,0.3307826,-0.3020383,0.13460916,-0.2528297],[…]]}

    id: 3
    event: end
    data: {"tokens_in":5,"tokens_out":0,"queue_ms":0,"first_token_ms":null,"decode_ms":0,"finish_reason":"stop"}
    "#);
    let view = gate.get(&format!("/v2/tasks/{id}")).await.json();
    assert_eq!(
        (&view["workload"], &view["state"], &view["tokens_in"]),
        (&"embedding".into(), &"finished".into(), &5.into())
    );
    assert_eq!(serde_json::from_str::<Value>(view["output"].as_str().unwrap()).unwrap(), result(&stream));
    // Read again, from any place.
    assert_eq!(gate.events(&id).await, stream);
    let mut resumed = request("GET", &format!("/v2/tasks/{id}/events"), Body::empty());
    resumed.headers_mut().insert("last-event-id", "2".parse().unwrap());
    assert!(read(gate.send(resumed).await).await.body.starts_with("id: 3\nevent: end"));
    assert_eq!(
        gate.metric(
            r#"tokens_in_total{engine="scripted",engine_version="0.1.0",pool_id="default",replica_id="default-0"}"#
        )
        .await,
        5.0
    );
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn inputs_are_scored_by_how_well_they_fit_the_query() {
    let gate = Gate::scripted(able()).await;
    let id = gate.submit(&rerank(json!({}))).await;
    let stream = gate.events(&id).await;
    let scores = numbers(&result(&stream)["scores"]);
    assert!(scores[1] > scores[0] && scores[2] > scores[0], "{scores:?}");
    assert!(stream.contains(r#""tokens_in":9,"tokens_out":0"#), "the query counts once: {stream}");
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn fewer_dimensions_are_the_first_ones_with_length_one_again() {
    let gate = Gate::scripted(able()).await;
    let whole = gate.submit(&task(json!({}))).await;
    let short = gate.submit(&task(json!({"dimensions": 3}))).await;
    let (whole, short) = (gate.events(&whole).await, gate.events(&short).await);
    let whole = numbers(&result(&whole)["embeddings"][0]);
    let short = numbers(&result(&short)["embeddings"][0]);
    assert_eq!((whole.len(), short.len()), (8, 3));
    assert!((length(&whole) - 1.0).abs() < 1e-6 && (length(&short) - 1.0).abs() < 1e-6);
    let scale = length(&whole[..3]);
    assert!(short.iter().zip(&whole).all(|(short, whole)| (short * scale - whole).abs() < 1e-6));
    let refused = gate.post("/v2/tasks", &task(json!({"dimensions": 9}))).await.json();
    assert_eq!(
        (&refused["param"], &refused["message"]),
        (&"dimensions".into(), &"the model's vectors have 8 numbers".into())
    );
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn what_does_not_fit_is_refused_before_the_queue() {
    let gate = Gate::scripted(Script { context_length: 100, ..able() }).await;
    let long = "word ".repeat(101);
    let most = "word ".repeat(100);
    let cases = [
        (task(json!({"inputs": ["a", long]})), "inputs[1]"),
        (task(json!({"inputs": ["a", "b".repeat(7000)]})), "inputs[1]"),
        (task(json!({"inputs": ["a", [1, 2, 3], (0..101).collect::<Vec<_>>()]})), "inputs[2]"),
        (task(json!({"inputs": ["a", most], "ctx": 50})), "inputs[1]"),
        (task(json!({"ctx": 101})), "ctx"),
        (rerank(json!({"query": long})), "query"),
        (rerank(json!({"query": " "})), "query"),
        (task(json!({"inputs": ["a", " \n"]})), "inputs[1]"),
        (task(json!({"max_tokens": 1})), "max_tokens"),
    ];
    for (body, param) in cases {
        let refused = gate.post("/v2/tasks", &body).await;
        assert_eq!(
            (refused.status, refused.json()["param"].as_str()),
            (StatusCode::BAD_REQUEST, Some(param)),
            "{}",
            refused.body
        );
    }
    // Each fits by itself: 2,048 of 100 are less than there may be.
    let many = gate.post("/v2/tasks/preview", &task(json!({"inputs": vec![most; 2048]}))).await.json();
    assert_eq!(many["feasible"], true, "{many}");
    gate.finish().await;
    let gate = Gate::scripted(able()).await;
    let much = gate.post("/v2/tasks", &task(json!({"inputs": vec!["word ".repeat(1000); 301]}))).await.json();
    assert_eq!((&much["code"], &much["param"]), (&"INVALID_PARAMS".into(), &"inputs".into()), "{much}");
    gate.finish().await;
}

/// Two pools of one model: the first completes, the second embeds.
const APART: &str = r#"[{ id = "writes", engine = "scripted" }, { id = "embeds", engine = "scripted", scripted = { workloads = ["embedding"] } }]"#;

#[tokio::test(start_paused = true)]
async fn a_task_goes_to_a_pool_that_serves_its_workload_or_is_refused() {
    let gate = Gate::configured(&[("SLUICEGATE_POOLS", APART)]).await;
    let id = gate.submit(&task(json!({}))).await;
    assert!(gate.events(&id).await.contains(r#""pool_id":"embeds""#));
    let id = gate.submit(r#"{"model_ref": "builtin", "prompt": "a", "max_tokens": 1}"#).await;
    assert!(gate.events(&id).await.contains(r#""pool_id":"writes""#));
    let pin = |pool: &str| json!({"placement": {"mode": "pin", "pin_pool_id": pool}});
    assert_snapshot!(masked(&gate.post("/v2/tasks", &rerank(json!({}))).await.body), @r#"{"code":"INVALID_PARAMS","message":"no pool serves the workload `rerank` with this model","retriable":false,"param":"workload","correlation_id":"<uuid>"}"#);
    assert_snapshot!(masked(&gate.post("/v2/tasks", &task(pin("writes"))).await.body), @r#"{"code":"INVALID_PARAMS","message":"this pool does not serve the workload `embedding`","retriable":false,"param":"placement.pin_pool_id","correlation_id":"<uuid>"}"#);
    let chat = r#"{"model": "builtin", "messages": [{"role": "user", "content": "a"}], "sluicegate": {"placement": {"mode": "pin", "pin_pool_id": "embeds"}}}"#;
    assert_snapshot!(gate.post("/v1/chat/completions", chat).await.body, @r#"{"error":{"message":"this pool does not serve the workload `completion`","type":"invalid_request_error","param":"sluicegate.placement.pin_pool_id","code":"invalid_value"}}"#);
    // While the one that could is closed, that is what is said.
    gate.post("/v2/pools/embeds/drain", r#"{"deadline_ms": 1}"#).await;
    let closed = gate.post("/v2/tasks", &task(json!({}))).await.json();
    assert_eq!((&closed["code"], &closed["pool_id"]), (&"POOL_UNREADY".into(), &"embeds".into()));
    let workloads = |value: &Value| value["workloads"].clone();
    let capabilities = gate.get("/v2/meta/capabilities").await.json();
    assert_eq!(
        [&capabilities["pools"][0], &capabilities["pools"][1]].map(workloads),
        [json!(["completion"]), json!(["embedding"])]
    );
    let features = json!(["sse", "resume", "cancel", "strict_determinism", "deadline"]);
    assert_eq!(capabilities["pools"][1]["features"], features);
    assert_eq!(workloads(&gate.get("/v2/catalog/models/builtin").await.json()), json!(["completion", "embedding"]));
    assert_eq!(
        workloads(&gate.get("/v1/models/builtin").await.json()["sluicegate"]),
        json!(["completion", "embedding"])
    );
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn a_batch_ends_early_by_cancel_and_by_deadline_and_gives_its_slot_back() {
    let gate = Gate::scripted(Script { slots: 1, token: Duration::from_secs(1), ..able() }).await;
    let many = json!({"inputs": vec!["a"; 100]});
    let id = gate.submit(&task(many.clone())).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(gate.post(&format!("/v2/tasks/{id}/cancel"), "").await.status, StatusCode::NO_CONTENT);
    let stream = gate.events(&id).await;
    assert!(
        stream.ends_with("\n\n")
            && stream.contains(r#""finish_reason":"canceled""#)
            && !stream.contains("event: result"),
        "{stream}"
    );
    let id = gate.submit(&task(json!({"inputs": vec!["a"; 100], "deadline_ms": 2000}))).await;
    // Half of a result helps nobody.
    let stream = gate.events(&id).await;
    assert_snapshot!(masked(stream.split_once("event: error\n").unwrap_or_else(|| panic!("{stream}")).1), @r#"data: {"code":"DEADLINE_UNMET","message":"the deadline came before the result","retriable":false,"correlation_id":"<uuid>"}"#);
    let view = gate.get(&format!("/v2/tasks/{id}")).await.json();
    assert_eq!((&view["state"], &view["error"]["code"]), (&"failed".into(), &"DEADLINE_UNMET".into()), "{view}");
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn the_watchdog_is_content_while_inputs_are_done_and_not_when_they_stall() {
    let idle = [("SLUICEGATE_POOLS__0__WATCHDOG__IDLE_MS", "1000")];
    let many = task(json!({"inputs": vec!["a"; 20]}));
    let gate = Gate::with(Script { token: Duration::from_millis(900), ..able() }, &idle).await;
    let id = gate.submit(&many).await;
    assert_eq!(result(&gate.events(&id).await)["embeddings"].as_array().unwrap().len(), 20);
    gate.finish().await;
    let failure = Some(Failure { after: 5, kind: FailureKind::Stall, times: 1 });
    let gate = Gate::with(Script { failure, ..able() }, &idle).await;
    let id = gate.submit(&many).await;
    assert!(gate.events(&id).await.contains("DECODE_TIMEOUT"));
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn a_batch_whose_engine_fails_is_run_once_more() {
    for (kind, times, ends) in [
        (FailureKind::Reset, 1, "event: result"),
        (FailureKind::Panic, 1, "event: result"),
        (FailureKind::Reset, 2, "WORKER_RESET"),
    ] {
        let gate = Gate::scripted(Script { failure: Some(Failure { after: 1, kind, times }), ..able() }).await;
        let id = gate.submit(&task(json!({}))).await;
        let stream = gate.events(&id).await;
        assert!(stream.contains(ends) && stream.matches("event: started").count() == 1, "{stream}");
        gate.recovered().await;
        gate.finish().await;
    }
}

#[tokio::test(start_paused = true)]
async fn budgets_pay_for_the_inputs_and_for_nothing_else() {
    let gate = Gate::scripted(able()).await;
    let session = "01a20a7d-a21e-77b5-a166-c2154022f8c7";
    gate.post(&format!("/v2/sessions/{session}"), r#"{"budget": {"tokens": 9}}"#).await;
    let body = task(json!({"session_id": session}));
    let id = gate.submit(&body).await;
    gate.events(&id).await;
    assert_eq!(gate.get(&format!("/v2/sessions/{session}")).await.json()["tokens_budget_remaining"], 4);
    let refused = gate.post("/v2/tasks", &body).await;
    assert_eq!(
        (refused.status, refused.json()["policy_label"].as_str()),
        (StatusCode::TOO_MANY_REQUESTS, Some("budget.tokens"))
    );
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn the_same_request_with_the_same_key_is_one_task() {
    let gate = Gate::scripted(able()).await;
    let keyed = |body: String| {
        let mut request = request("POST", "/v2/tasks", Body::from(body));
        request.headers_mut().insert("idempotency-key", "once".parse().unwrap());
        request
    };
    let first = read(gate.send(keyed(rerank(json!({})))).await).await;
    let second = read(gate.send(keyed(rerank(json!({})))).await).await;
    assert_eq!((first.status, &first.body), (StatusCode::ACCEPTED, &second.body));
    let other = read(gate.send(keyed(rerank(json!({"query": "b"})))).await).await;
    assert_eq!(other.status, StatusCode::UNPROCESSABLE_ENTITY);
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn after_a_crash_what_waited_is_run_and_what_ended_has_its_result() {
    let folder = TempDir::new().unwrap();
    let url = format!("sqlite:{}/test.db", folder.path().display());
    let store = [("SLUICEGATE_STORE__URL", url.as_str())];
    let gate = || Gate::with(Script { slots: 1, ..able() }, &store);
    let first = gate().await;
    let ended = first.submit(&task(json!({}))).await;
    let before = result(&first.events(&ended).await);
    let ran = first.submit(&task(json!({"inputs": vec!["a"; 2000]}))).await;
    let waited = first.submit(&rerank(json!({}))).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    first.crash().await;
    let second = gate().await;
    let view = second.get(&format!("/v2/tasks/{ended}")).await.json();
    assert_eq!(serde_json::from_str::<Value>(view["output"].as_str().unwrap()).unwrap(), before);
    assert_eq!((&view["tokens_in"], &view["workload"]), (&5.into(), &"embedding".into()));
    assert!(second.events(&ended).await.starts_with("id: 3\nevent: end"));
    assert!(second.events(&ran).await.contains("WORKER_RESET"));
    assert_eq!(result(&second.events(&waited).await)["scores"].as_array().unwrap().len(), 3);
    second.finish().await;
}
