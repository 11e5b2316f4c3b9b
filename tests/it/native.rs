//! The native API as a client sees it, over the scripted engine.

use std::time::Duration;

use axum::body::Body;
use axum::http::StatusCode;
use insta::assert_snapshot;
use sluicegate::engine::scripted::Script;

use crate::harness::{Gate, masked, read, read_until, request, says};

const HELLO: &str = r#"{"model_ref": "builtin", "prompt": "say it"}"#;

/// So long that a test can catch it in the middle.
fn endless() -> Script {
    Script { slots: 1, ..Script::default() }
}

#[tokio::test(start_paused = true)]
async fn a_task_is_admitted_run_and_told_event_by_event() {
    let gate = Gate::scripted(says(&["one ", "two ", "three"])).await;
    let answer = gate.post("/v2/tasks", HELLO).await;
    assert_eq!(answer.status, StatusCode::ACCEPTED);
    assert_snapshot!(masked(&answer.body), @r#"{"task_id":"<uuid>","queue_position":0,"predicted_start_ms":0,"predicted_end_ms":40970,"backoff_ms":0,"streams":{"sse":"/v2/tasks/<uuid>/events","sse_verbose":"/v2/tasks/<uuid>/events?verbose=true"},"preparation":{"steps":[]}}"#);

    let id = answer.json()["task_id"].as_str().unwrap().to_owned();
    let stream = gate.get(&format!("/v2/tasks/{id}/events")).await;
    assert_eq!(stream.header("content-type"), "text/event-stream; charset=utf-8");
    assert_eq!(stream.header("x-queue-depth"), "0");
    assert_snapshot!(stream.body, @r#"
    id: 1
    event: started
    data: {"queue_position":0,"predicted_start_ms":0,"engine":"scripted","engine_version":"0.1.0","pool_id":"default","replica_id":"default-0","sampler_profile_version":"scripted-1","model_digest":"none"}

    id: 2
    event: token
    data: {"t":"one ","i":0}

    id: 3
    event: token
    data: {"t":"two ","i":1}

    id: 4
    event: token
    data: {"t":"three","i":2}

    id: 5
    event: end
    data: {"tokens_in":2,"tokens_out":4,"queue_ms":0,"first_token_ms":20,"decode_ms":30,"finish_reason":"stop"}
    "#);
    let view = gate.get(&format!("/v2/tasks/{id}")).await;
    assert_snapshot!(masked(&view.body), @r#"{"task_id":"<uuid>","session_id":null,"state":"finished","priority":"interactive","workload":"completion","model_ref":"builtin","pool_id":"default","replica_id":"default-0","queue_position":null,"predicted_start_ms":null,"created_at_ms":<time>,"started_at_ms":<time>,"first_token_at_ms":<time>,"ended_at_ms":<time>,"queue_ms":0,"decode_ms":30,"tokens_in":2,"tokens_out":4,"finish_reason":"stop","error":null,"metadata":{},"output":"one two three"}"#);
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn a_stream_resumes_after_the_last_event_id_without_loss_or_repeat() {
    let gate = Gate::scripted(says(&["one ", "two ", "three"])).await;
    let id = gate.submit(HELLO).await;
    let path = format!("/v2/tasks/{id}/events");
    let mut first = gate.send(request("GET", &path, Body::empty())).await.into_body();
    read_until(&mut first, "id: 2\n").await;

    // A second connection, while the first still runs.
    let mut again = request("GET", &path, Body::empty());
    again.headers_mut().insert("last-event-id", "2".parse().unwrap());
    let rest = read(gate.send(again).await).await.body;
    let whole = gate.events(&id).await;
    let head = whole.find("id: 3\n").unwrap();
    assert_eq!(rest, whole[head..]);

    let mut past_the_end = request("GET", &path, Body::empty());
    past_the_end.headers_mut().insert("last-event-id", "999".parse().unwrap());
    assert_eq!(read(gate.send(past_the_end).await).await.body, "");
    let mut nonsense = request("GET", &path, Body::empty());
    nonsense.headers_mut().insert("last-event-id", "abc".parse().unwrap());
    assert_eq!(read(gate.send(nonsense).await).await.json()["param"], "Last-Event-ID");
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn any_number_of_readers_see_the_same_stream() {
    let gate = Gate::scripted(says(&["one ", "two ", "three"])).await;
    let id = gate.submit(HELLO).await;
    let (first, second, third) = tokio::join!(gate.events(&id), gate.events(&id), gate.events(&id));
    assert_eq!(first, second);
    assert_eq!(second, third);
    assert_eq!(first, gate.events(&id).await);
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn a_silent_stream_is_kept_alive_by_a_comment_after_15_seconds() {
    let slow = Script { first_token: Duration::from_secs(16), token: Duration::from_secs(10), ..says(&["late"]) };
    let gate = Gate::scripted(slow).await;
    let id = gate.submit(HELLO).await;
    let body = gate.events(&id).await;
    assert_eq!(body.matches(": keep-alive\n\n").count(), 1);
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn cancelling_ends_a_running_task_and_nothing_follows() {
    let gate = Gate::scripted(endless()).await;
    let id = gate.submit(HELLO).await;
    let path = format!("/v2/tasks/{id}/events");
    let mut stream = gate.send(request("GET", &path, Body::empty())).await.into_body();
    read_until(&mut stream, "event: token").await;
    for _ in 0..2 {
        assert_eq!(gate.post(&format!("/v2/tasks/{id}/cancel"), "").await.status, StatusCode::NO_CONTENT);
    }
    let at_cancel = gate.events(&id).await;
    assert!(at_cancel.contains(r#""finish_reason":"canceled""#), "{at_cancel}");
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(gate.events(&id).await, at_cancel);
    assert_eq!(gate.get(&format!("/v2/tasks/{id}")).await.json()["state"], "canceled");
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn a_waiting_task_knows_its_place_and_leaves_the_queue_when_cancelled() {
    let gate = Gate::scripted(endless()).await;
    let running = gate.submit(HELLO).await;
    let ids = [gate.submit(HELLO).await, gate.submit(HELLO).await, gate.submit(HELLO).await];
    let view = gate.get(&format!("/v2/tasks/{}", ids[2])).await.json();
    assert_eq!((view["state"].as_str(), view["queue_position"].as_u64()), (Some("queued"), Some(2)));
    assert!(view["predicted_start_ms"].as_u64().unwrap() > 0, "{view}");

    gate.post(&format!("/v2/tasks/{}/cancel", ids[0]), "").await;
    let events = gate.events(&ids[0]).await;
    assert!(!events.contains("event: started"), "{events}");
    assert!(events.contains(r#""tokens_in":0,"#), "{events}");
    assert_eq!(gate.get(&format!("/v2/tasks/{}", ids[2])).await.json()["queue_position"], 1);

    // The one that moved up is told so on its stream.
    let path = format!("/v2/tasks/{}/events", ids[2]);
    let mut stream = gate.send(request("GET", &path, Body::empty())).await.into_body();
    read_until(&mut stream, r#""queue_position":1"#).await;
    drop(stream);
    let verbose = format!("{path}?verbose=true");
    let mut stream = gate.send(request("GET", &verbose, Body::empty())).await.into_body();
    read_until(&mut stream, r#""human":"1 task ahead, expected to start in "#).await;
    drop(stream);
    for id in ids.iter().skip(1).chain([&running]) {
        gate.post(&format!("/v2/tasks/{id}/cancel"), "").await;
    }
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn a_full_queue_says_when_to_come_back() {
    let gate = Gate::with(endless(), &[("SLUICEGATE_POOLS__0__QUEUE__CAPACITY", "1")]).await;
    let task = r#"{"model_ref": "builtin", "prompt": "say it", "max_tokens": 500}"#;
    let ids = [gate.submit(task).await, gate.submit(task).await];
    let answer = gate.post("/v2/tasks", task).await;
    assert_eq!(answer.status, StatusCode::TOO_MANY_REQUESTS);
    let error = answer.json();
    assert_eq!(error["policy_label"], "queue.reject");
    assert_eq!(error["retriable"], true);
    let wait = error["retry_after_ms"].as_u64().unwrap();
    assert!((3000..=5100).contains(&wait), "about 5 s of tokens are left: {wait}");
    assert_eq!(answer.header("retry-after"), wait.div_ceil(1000).to_string());
    assert_eq!(answer.header("x-backoff-ms"), wait.to_string());
    assert_eq!(gate.metric(r#"tasks_rejected_total{engine="scripted",reason="queue.reject"}"#).await, 1.0);
    for id in &ids {
        gate.post(&format!("/v2/tasks/{id}/cancel"), "").await;
    }
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn a_deadline_ends_a_task_that_runs_and_one_that_waits() {
    let gate = Gate::scripted(endless()).await;
    let mortal = r#"{"model_ref": "builtin", "prompt": "say it", "deadline_ms": 1000, "expected_tokens": 5}"#;
    let running = gate.submit(mortal).await;
    let events = gate.events(&running).await;
    assert!(events.ends_with("\"finish_reason\":\"deadline\"}\n\n"), "{events}");
    assert_eq!(gate.get(&format!("/v2/tasks/{running}")).await.json()["state"], "finished");

    let long = gate.submit(r#"{"model_ref": "builtin", "prompt": "say it", "expected_tokens": 1}"#).await;
    let waiting = gate.submit(mortal).await;
    let events = gate.events(&waiting).await;
    assert!(events.ends_with("\"finish_reason\":\"deadline\"}\n\n"), "{events}");
    assert!(!events.contains("event: started"), "{events}");
    gate.post(&format!("/v2/tasks/{long}/cancel"), "").await;
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn a_deadline_that_cannot_be_met_is_refused() {
    let gate = Gate::scripted(endless()).await;
    let long = gate.submit(r#"{"model_ref": "builtin", "prompt": "say it", "expected_tokens": 4000}"#).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    let answer = gate.post("/v2/tasks", r#"{"model_ref": "builtin", "prompt": "say it", "deadline_ms": 1000}"#).await;
    assert_eq!(answer.status, StatusCode::BAD_REQUEST);
    assert_eq!(answer.json()["code"], "DEADLINE_UNMET");
    gate.post(&format!("/v2/tasks/{long}/cancel"), "").await;
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn a_task_id_is_used_once() {
    let gate = Gate::scripted(says(&["hi"])).await;
    let body = r#"{"model_ref": "builtin", "prompt": "a", "task_id": "0192d3a0-0000-7000-8000-000000000001"}"#;
    gate.submit(body).await;
    let again = gate.post("/v2/tasks", body).await;
    assert_eq!((again.status, &again.json()["code"]), (StatusCode::CONFLICT, &"CONFLICT".into()));
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn several_choices_are_one_task() {
    let gate = Gate::scripted(says(&["one ", "two"])).await;
    let id = gate.submit(r#"{"model_ref": "builtin", "prompt": "say it twice", "n": 3}"#).await;
    let events = gate.events(&id).await;
    assert!(events.contains(r#"{"t":"two","i":1,"c":2}"#), "{events}");
    assert_snapshot!(events.rsplit("data: ").next().unwrap(), @r#"{"tokens_in":3,"tokens_out":9,"queue_ms":0,"first_token_ms":20,"decode_ms":20,"finish_reason":"stop","choices":[{"choice":0,"finish_reason":"stop","tokens_out":3},{"choice":1,"finish_reason":"stop","tokens_out":3},{"choice":2,"finish_reason":"stop","tokens_out":3}]}"#);
    let view = gate.get(&format!("/v2/tasks/{id}")).await.json();
    assert_eq!(view["outputs"], serde_json::json!(["one two", "one two", "one two"]));
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn an_ended_task_is_kept_for_the_retention_time() {
    let gate = Gate::with(says(&["hi"]), &[("SLUICEGATE_ADMISSION__RETENTION_MS", "60000")]).await;
    let id = gate.submit(HELLO).await;
    gate.events(&id).await;
    tokio::time::sleep(Duration::from_secs(58)).await;
    assert_eq!(gate.get(&format!("/v2/tasks/{id}")).await.status, StatusCode::OK);
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert_eq!(gate.get(&format!("/v2/tasks/{id}")).await.status, StatusCode::NOT_FOUND);
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn bad_requests_name_the_field() {
    let gate = Gate::scripted(says(&["hi"])).await;
    let cases = [
        (r#"{"prompt": "a"}"#, "model_ref"),
        (r#"{"model_ref": "builtin"}"#, "prompt"),
        (r#"{"model_ref": "builtin", "prompt": "a", "max_tokens": "ten"}"#, "max_tokens"),
        (r#"{"model_ref": "builtin", "prompt": "a", "max_tokens": 99999}"#, "max_tokens"),
        (r#"{"model_ref": "builtin", "prompt": "a", "temperature": 3}"#, "temperature"),
        (r#"{"model_ref": "builtin", "prompt": "a", "ctx": 99999999}"#, "ctx"),
        (r#"{"model_ref": "builtin", "messages": [{"role": "robot", "content": "a"}]}"#, "messages[0].role"),
        (r#"{"model_ref": "builtin", "prompt": "a", "workload": "embedding"}"#, "prompt"),
        (r#"{"model_ref": "builtin", "prompt": "a", "session_id": "mine"}"#, "session_id"),
        (r#"{"model_ref": "builtin", "prompt": " "}"#, "prompt"),
        (r#"{"model_ref": "builtin", "prompt": "a", "colour": "red"}"#, "colour"),
        (r#"{"model_ref": "builtin", "messages": [{"role": "user", "content": " "}]}"#, "messages"),
    ];
    for (body, param) in cases {
        let answer = gate.post("/v2/tasks", body).await;
        let error = answer.json();
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{body}: {error}");
        assert_eq!(error["code"], "INVALID_PARAMS", "{body}: {error}");
        assert_eq!(error["param"], param, "{body}: {error}");
    }
    let unknown = gate.post("/v2/tasks", r#"{"model_ref": "gpt-9", "prompt": "a"}"#).await;
    assert_eq!((unknown.status, &unknown.json()["param"]), (StatusCode::NOT_FOUND, &"model_ref".into()));
    gate.finish().await;
}
