//! One port, two protocols, and the limits that keep it open to everybody.

use std::time::Duration;

use reqwest::{Client, Version};
use serde_json::{Value, json};

use super::running::{Running, in_time};
use super::wire::{Wire, get, post};

fn chat(extra: Value) -> Value {
    let mut body = json!({"model": "builtin", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 40});
    body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    body
}

fn h2c() -> Client {
    Client::builder().no_proxy().http2_prior_knowledge().build().unwrap()
}

const FAST: [(&str, &str); 2] = [("POOLS__0__SCRIPTED__TOKEN_MS", "1"), ("POOLS__0__SCRIPTED__FIRST_TOKEN_MS", "1")];

#[tokio::test]
async fn both_protocols_are_spoken_on_one_port() {
    let gateway = Running::scripted(&FAST);
    for (client, version) in [(gateway.client().clone(), Version::HTTP_11), (h2c(), Version::HTTP_2)] {
        for stream in [true, false] {
            let request = client.post(gateway.url("/v1/chat/completions")).json(&chat(json!({"stream": stream})));
            let response = in_time("the answer", request.send()).await.unwrap();
            assert_eq!((response.status().as_u16(), response.version()), (200, version));
            let body = in_time("the body", response.text()).await.unwrap();
            let last = if stream { "data: [DONE]\n\n" } else { "}" };
            assert!(body.ends_with(last), "{version:?}: {body}");
        }
    }
}

#[tokio::test]
async fn many_streams_share_one_connection() {
    let gateway = Running::scripted(&FAST);
    let client = h2c();
    let streams = (0..64).map(async |_| {
        let request = client.post(gateway.url("/v1/chat/completions")).json(&chat(json!({"stream": true})));
        in_time("the stream", async { request.send().await.unwrap().text().await.unwrap() }).await
    });
    let bodies = futures_util::future::join_all(streams).await;
    assert!(bodies.iter().all(|body| body.ends_with("data: [DONE]\n\n")));
}

#[tokio::test]
async fn http_2_can_be_switched_off() {
    let gateway = Running::scripted(&[("SERVER__HTTP2", "off")]);
    let refused = in_time("the refusal", h2c().get(gateway.url("/healthz")).send()).await;
    assert!(refused.is_err(), "{refused:?}");
    assert_eq!(gateway.get("/healthz").await.version(), Version::HTTP_11);
}

#[test]
fn a_connection_serves_one_request_after_another() {
    let gateway = Running::scripted(&FAST);
    let mut wire = Wire::connect(gateway.address);
    for _ in 0..3 {
        wire.send(&get("/healthz"));
        assert_eq!(wire.answer().body, b"ok\n");
        wire.send(&post("/v1/chat/completions", "", &chat(json!({})).to_string()));
        assert_eq!(wire.answer().status, 200);
        wire.send(&post("/v1/chat/completions", "", "{"));
        assert_eq!(wire.answer().status, 400);
    }
}

#[test]
fn whole_answers_are_compressed_and_event_streams_are_not() {
    let gateway = Running::scripted(&FAST);
    for (encoding, magic) in [("gzip", &[0x1f, 0x8b][..]), ("zstd", &[0x28, 0xb5, 0x2f, 0xfd][..])] {
        let accept = format!("Accept-Encoding: {encoding}\r\nConnection: close\r\n");
        let mut wire = Wire::connect(gateway.address);
        wire.send(&post("/v1/chat/completions", &accept, &chat(json!({})).to_string()));
        let head = wire.read_until("\r\n\r\n").to_ascii_lowercase();
        assert!(head.contains(&format!("content-encoding: {encoding}\r\n")), "{head}");
        wire.read_until("\r\n");
        assert!(wire.read().starts_with(magic), "{encoding}");

        let mut wire = Wire::connect(gateway.address);
        wire.send(&post("/v1/chat/completions", &accept, &chat(json!({"stream": true})).to_string()));
        let (text, _) = wire.read_to_end();
        assert!(!text.to_ascii_lowercase().contains("content-encoding"), "{text}");
        assert!(text.contains("data: [DONE]"), "{text}");
    }
}

#[test]
fn a_head_that_does_not_come_ends_the_connection() {
    let gateway = Running::scripted(&[("SERVER__HEADER_TIMEOUT_MS", "300")]);
    let mut wire = Wire::connect(gateway.address);
    wire.send("GET /healthz HTTP/1.1\r\nHost: localhost\r\n");
    let (text, took) = wire.read_to_end();
    assert_eq!(text, "");
    assert!(took > Duration::from_millis(200), "{took:?}");
}

#[test]
fn a_client_that_never_says_which_protocol_it_speaks_loses_its_connection() {
    let gateway = Running::scripted(&[("SERVER__HEADER_TIMEOUT_MS", "300")]);
    for beginning in ["", "P", "PRI * HTTP/2.0\r\n"] {
        let mut wire = Wire::connect(gateway.address);
        wire.send(beginning);
        let (text, took) = wire.read_to_end();
        assert_eq!(text, "", "{beginning:?}");
        assert!(took > Duration::from_millis(200), "{beginning:?}: {took:?}");
    }
}

#[test]
fn clients_beyond_the_limit_wait_for_a_place() {
    let gateway = Running::scripted(&[("SERVER__MAX_CONNECTIONS", "2")]);
    let [mut first, mut second] = [Wire::connect(gateway.address), Wire::connect(gateway.address)];
    for wire in [&mut first, &mut second] {
        wire.send(&get("/healthz"));
        assert_eq!(wire.answer().status, 200);
    }
    let mut third = Wire::connect(gateway.address);
    third.send(&get("/healthz"));
    assert!(third.is_silent_for(Duration::from_millis(300)));
    drop(first);
    assert_eq!(third.answer().status, 200);
    second.send(&get("/healthz"));
    assert_eq!(second.answer().status, 200);
}

#[test]
fn bodies_that_are_too_large_or_cut_short_are_refused() {
    let gateway = Running::scripted(&[("SERVER__MAX_BODY_BYTES", "2000")]);
    let large = format!(r#"{{"model_ref": "builtin", "prompt": "{}"}}"#, "a ".repeat(2000));
    let mut wire = Wire::connect(gateway.address);
    wire.send(&post("/v2/tasks", "", &large));
    let answer = wire.answer();
    assert_eq!((answer.status, &answer.json()["code"]), (413, &json!("PAYLOAD_TOO_LARGE")));
    let mut wire = Wire::connect(gateway.address);
    wire.send(&post("/v1/chat/completions", "", &large));
    let answer = wire.answer();
    assert_eq!((answer.status, &answer.json()["error"]["type"]), (413, &json!("invalid_request_error")));

    let whole = post("/v2/tasks", "", r#"{"model_ref": "builtin", "prompt": "hi"}"#);
    let mut wire = Wire::connect(gateway.address);
    wire.send(&whole[..whole.len() - 5]);
    wire.finish_sending();
    let answer = wire.answer();
    assert_eq!((answer.status, &answer.json()["code"]), (400, &json!("INVALID_PARAMS")));
}

#[test]
fn what_is_no_http_is_refused_and_harms_nobody() {
    let gateway = Running::scripted(&[]);
    for nonsense in ["\0\u{1}\u{2}\r\n\r\n", "GET / HTTP/9.9\r\n\r\n", "GET /\r\nHost localhost\r\n\r\n"] {
        let mut wire = Wire::connect(gateway.address);
        wire.send(nonsense);
        let (text, _) = wire.read_to_end();
        assert!(text.is_empty() || text.starts_with("HTTP/1.1 4"), "{nonsense:?}: {text}");
    }
    let mut wire = Wire::connect(gateway.address);
    wire.send(&get("/healthz"));
    assert_eq!(wire.answer().status, 200);
}
