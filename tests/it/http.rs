//! What holds for every route: errors in the caller's dialect, correlation ids, local callers only, compression.

use std::time::Duration;

use axum::body::Body;
use axum::http::{Request, StatusCode};
use insta::assert_snapshot;
use sluicegate::engine::scripted::Script;
use tokio::time::Instant;

use crate::harness::{Answer, Gate, read, request, says};

const CHAT: &str = r#"{"model": "builtin", "messages": [{"role": "user", "content": "hi"}]}"#;

async fn sent(gate: &Gate, mut request: Request<Body>, headers: &[(&'static str, &str)]) -> Answer {
    for (name, value) in headers {
        request.headers_mut().insert(*name, value.parse().unwrap());
    }
    request.headers_mut().insert("x-correlation-id", "c-1".parse().unwrap());
    read(gate.send(request).await).await
}

#[tokio::test(start_paused = true)]
async fn failures_are_told_in_the_dialect_of_the_path() {
    let gate = Gate::scripted(says(&["hi"])).await;
    let get = |path: &str| request("GET", path, Body::empty());
    assert_snapshot!(sent(&gate, get("/v2/nothing"), &[]).await.body, @r#"{"code":"NOT_FOUND","message":"there is no /v2/nothing","retriable":false,"correlation_id":"c-1"}"#);
    assert_snapshot!(sent(&gate, get("/v1/nothing"), &[]).await.body, @r#"{"error":{"message":"there is no /v1/nothing","type":"invalid_request_error","param":null,"code":"not_found"}}"#);
    assert_snapshot!(sent(&gate, get("/v2/tasks/preview"), &[]).await.body, @r#"{"code":"METHOD_NOT_ALLOWED","message":"/v2/tasks/preview does not take GET","retriable":false,"correlation_id":"c-1"}"#);
    let wrong_method = sent(&gate, get("/v1/chat/completions"), &[]).await;
    assert_eq!((wrong_method.status, wrong_method.header("allow")), (StatusCode::METHOD_NOT_ALLOWED, "POST"));
    assert_snapshot!(wrong_method.body, @r#"{"error":{"message":"/v1/chat/completions does not take GET","type":"invalid_request_error","param":null,"code":"method_not_allowed"}}"#);
    assert_snapshot!(sent(&gate, get("/v2/tasks/not-an-id"), &[]).await.body, @r#"{"code":"NOT_FOUND","message":"no such task, or its retention has ended","retriable":false,"correlation_id":"c-1"}"#);
    assert_snapshot!(sent(&gate, get("/v1/models/gpt-9"), &[]).await.body, @r#"{"error":{"message":"no model is called \"gpt-9\" here","type":"invalid_request_error","param":"model","code":"model_not_found"}}"#);
    let not_json = request("POST", "/v1/chat/completions", Body::from("{"));
    assert_snapshot!(sent(&gate, not_json, &[]).await.body, @r#"{"error":{"message":"We could not parse the JSON body of your request: EOF while parsing an object at line 1 column 1.","type":"invalid_request_error","param":null,"code":null}}"#);
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn bodies_that_are_not_json_or_too_large_are_refused() {
    let gate = Gate::with(says(&["hi"]), &[("SLUICEGATE_SERVER__MAX_BODY_BYTES", "2000")]).await;
    let form = request("POST", "/v1/chat/completions", Body::from("a=b"));
    let answer = sent(&gate, form, &[("content-type", "application/x-www-form-urlencoded")]).await;
    assert_eq!(
        (answer.status, &answer.json()["error"]["code"]),
        (StatusCode::UNSUPPORTED_MEDIA_TYPE, &"unsupported_media_type".into())
    );
    for path in ["/v1/chat/completions", "/v2/tasks"] {
        let large = request("POST", path, Body::from(" ".repeat(2001)));
        assert_eq!(sent(&gate, large, &[]).await.status, StatusCode::PAYLOAD_TOO_LARGE);
    }
    gate.finish().await;
}

/// A body of so many parts, with a pause before each.
fn slow(parts: usize, part: &'static str, pause: Duration) -> Body {
    let parts = futures_util::stream::unfold(0, move |number| async move {
        tokio::time::sleep(pause).await;
        (number < parts).then(|| (Ok::<_, std::io::Error>(part), number + 1))
    });
    Body::from_stream(parts)
}

#[tokio::test(start_paused = true)]
async fn a_body_has_time_for_its_size_and_no_more() {
    const SECOND: Duration = Duration::from_secs(1);
    let gate = Gate::scripted(says(&["hi"])).await;
    // As much as explains 16 seconds.
    let spaces: &str = " ".repeat(256 * 1024).leak();
    for (body, status, took) in [
        (slow(1, CHAT, 14 * SECOND), 200, 28 * SECOND),
        (slow(1, CHAT, 31 * SECOND), 400, 30 * SECOND),
        (slow(1000, " ", SECOND), 400, 30 * SECOND),
        // Slow and steady, and then no JSON.
        (slow(5, spaces, 16 * SECOND), 400, 96 * SECOND),
        // Of the fourth part, half a minute after the 48 seconds that three explain.
        (slow(5, spaces, 20 * SECOND), 400, 78 * SECOND),
    ] {
        let began = Instant::now();
        let answer = read(gate.send(request("POST", "/v1/chat/completions", body)).await).await;
        assert_eq!((answer.status.as_u16(), began.elapsed().as_secs()), (status, took.as_secs()), "{}", answer.body);
        let late = answer.body.contains("the body took too long to arrive");
        assert_eq!(late, status == 400 && took != 96 * SECOND, "{}", answer.body);
    }
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn every_answer_carries_the_correlation_id() {
    let gate = Gate::scripted(says(&["hi"])).await;
    for path in ["/healthz", "/v2/nothing", "/v1/models", "/metrics"] {
        let answer = sent(&gate, request("GET", path, Body::empty()), &[]).await;
        assert_eq!(answer.header("x-correlation-id"), "c-1", "{path}");
    }
    let answer = sent(&gate, request("GET", "/v1/models", Body::empty()), &[]).await;
    assert_eq!(answer.header("x-request-id"), "c-1");
    let made = gate.get("/healthz").await;
    assert!(uuid::Uuid::try_parse(made.header("x-correlation-id")).is_ok());
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn without_keys_only_local_programs_are_answered() {
    let gate = Gate::scripted(says(&["hi"])).await;
    for headers in [[("host", "example.org")], [("origin", "https://example.org")]] {
        let answer = sent(&gate, request("GET", "/v1/models", Body::empty()), &headers).await;
        assert_eq!(
            (answer.status, &answer.json()["error"]["type"]),
            (StatusCode::FORBIDDEN, &"permission_error".into())
        );
    }
    let page = sent(&gate, request("GET", "/v1/models", Body::empty()), &[("origin", "http://localhost:3000")]).await;
    assert_eq!(page.status, StatusCode::OK);
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn whole_answers_are_compressed_and_streams_never() {
    let gate = Gate::scripted(Script { slots: 4, ..says(&["word "; 100]) }).await;
    for encoding in ["gzip", "zstd"] {
        let accept = [("accept-encoding", encoding)];
        let mut whole = request("POST", "/v1/chat/completions", Body::from(CHAT));
        whole.headers_mut().insert("accept-encoding", encoding.parse().unwrap());
        assert_eq!(gate.send(whole).await.headers()["content-encoding"], encoding);
        let stream = CHAT.replace("\"model\"", "\"stream\": true, \"model\"");
        let answer = sent(&gate, request("POST", "/v1/chat/completions", Body::from(stream)), &accept).await;
        assert_eq!(answer.header("content-encoding"), "");
        assert!(answer.body.ends_with("data: [DONE]\n\n"));
    }
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn a_request_is_counted_when_its_stream_has_ended() {
    let gate = Gate::scripted(says(&["hi"])).await;
    let series = r#"http_request_duration_seconds_count{method="GET",route="/v2/tasks/{id}/events",status="200"}"#;
    let id = gate.submit(r#"{"model_ref": "builtin", "prompt": "a"}"#).await;
    let open = gate.send(request("GET", &format!("/v2/tasks/{id}/events"), Body::empty())).await;
    assert!(!gate.get("/metrics").await.body.contains(series));
    drop(open);
    assert_eq!(gate.metric(series).await, 1.0);
    assert_eq!(gate.metric(r#"errors_total{code="NOT_FOUND"}"#).await, 0.0);
    gate.get("/v2/nothing").await;
    assert_eq!(gate.metric(r#"errors_total{code="NOT_FOUND"}"#).await, 1.0);
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn a_compressed_body_is_refused_in_each_dialect() {
    let gate = Gate::scripted(says(&["hi"])).await;
    let body = r#"{"model": "builtin", "max_tokens": 1, "messages": [{"role": "user", "content": "hi"}]}"#;
    let why = "bodies are read as they are: send JSON without a `Content-Encoding`, or with `identity`";
    for (path, coding) in [("/v1/chat/completions", "gzip"), ("/v1/messages", "identity, br"), ("/v2/tasks", "zstd")] {
        let mut coded = request("POST", path, Body::from(body));
        coded.headers_mut().insert("content-encoding", coding.parse().unwrap());
        let refused = read(gate.send(coded).await).await;
        assert_eq!(refused.status, StatusCode::UNSUPPORTED_MEDIA_TYPE);
        let said = refused.json();
        let message = if path == "/v2/tasks" { &said["message"] } else { &said["error"]["message"] };
        assert_eq!(message, why, "{}", refused.body);
    }
    let mut plain = request("POST", "/v1/chat/completions", Body::from(body));
    plain.headers_mut().insert("content-encoding", "Identity".parse().unwrap());
    assert_eq!(read(gate.send(plain).await).await.status, StatusCode::OK);
    gate.finish().await;
}
