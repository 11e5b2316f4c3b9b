//! Clients that take more than their part: of connections, of headers, of time for a body; and those that read nothing.

use std::net::SocketAddr;
use std::time::Duration;

use reqwest::Client;
use serde_json::json;

use super::running::{Running, eventually, in_time, wait_for};
use super::wire::{Wire, get, post};

/// Parts of an answer so large that no buffer between a gateway and its client holds many of them.
const LARGE: usize = 16 * 1024;

fn large() -> String {
    format!(r#"["{}"]"#, "x".repeat(LARGE))
}

fn chat() -> String {
    let messages = json!([{"role": "user", "content": "hi"}]);
    json!({"model": "builtin", "stream": true, "max_tokens": 8000, "messages": messages}).to_string()
}

/// A connection from this address of the machine.
async fn connect_from(source: [u8; 4], to: SocketAddr) -> Wire {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::from((source, 0))).unwrap();
    let stream = in_time("a connection", socket.connect(to)).await.unwrap().into_std().unwrap();
    stream.set_nonblocking(false).unwrap();
    Wire::over(stream)
}

fn is_served(wire: &mut Wire) -> bool {
    wire.send(&get("/healthz"));
    wire.answer().status == 200
}

#[tokio::test]
async fn one_address_leaves_connections_to_the_others() {
    let gateway = Running::scripted(&[("SERVER__MAX_CONNECTIONS_PER_ADDRESS", "3"), ("SERVER__MAX_CONNECTIONS", "8")]);
    let mut open = Vec::new();
    // The gateway's port file was waited for without a connection, so that all three are free.
    for _ in 0..3 {
        let mut wire = connect_from([127, 0, 0, 1], gateway.address).await;
        assert!(is_served(&mut wire));
        open.push(wire);
    }
    for _ in 0..20 {
        let mut wire = connect_from([127, 0, 0, 1], gateway.address).await;
        assert_eq!(wire.read_to_end_or_reset(), "", "one more is closed");
    }
    assert!(is_served(&mut connect_from([127, 0, 0, 2], gateway.address).await), "another address is served");
    assert!(is_served(&mut open[0]), "and so are those that are open");
    open.pop();
    wait_for("a place", || {
        let mut wire = Wire::connect(gateway.address);
        // The end comes with an answer, or in place of one.
        let sent = wire.try_send("GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        (sent && wire.read_to_end_or_reset().ends_with("ok\n")).then_some(())
    });
}

#[test]
fn headers_that_are_too_many_or_too_large_are_a_431() {
    let gateway = Running::scripted(&[]);
    for headers in ["x: y\r\n".repeat(101), format!("x: {}\r\n", "y".repeat(40 * 1024)), "x: y\r\n".repeat(8000)] {
        let mut wire = Wire::connect(gateway.address);
        wire.send(&format!("GET /healthz HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n"));
        let answer = wire.read_to_end_or_reset();
        assert!(answer.starts_with("HTTP/1.1 431 "), "{} bytes: {answer}", headers.len());
    }
    assert!(is_served(&mut Wire::connect(gateway.address)));
}

#[tokio::test]
async fn headers_that_are_too_large_are_a_431_of_http_2() {
    let gateway = Running::scripted(&[]);
    let client = Client::builder().no_proxy().http2_prior_knowledge().build().unwrap();
    let request = client.get(gateway.url("/healthz")).header("x", "y".repeat(40 * 1024));
    assert_eq!(in_time("the answer", request.send()).await.unwrap().status().as_u16(), 431);
    let next = client.get(gateway.url("/healthz")).send();
    assert_eq!(in_time("the answer", next).await.unwrap().status().as_u16(), 200);
}

#[test]
fn a_body_that_does_not_come_is_a_400_and_the_end_of_the_connection() {
    let gateway = Running::scripted(&[("SERVER__BODY_TIMEOUT_MS", "300")]);
    let whole = post("/v1/chat/completions", "", &chat());
    let mut wire = Wire::connect(gateway.address);
    wire.send(&whole[..whole.len() - 5]);
    let answer = wire.answer();
    assert_eq!(answer.status, 400);
    assert_eq!(answer.json()["error"]["message"], "the body took too long to arrive");
    assert_eq!(wire.read_to_end_or_reset(), "");
}

/// Asks for a long stream over a connection that holds little, and reads its beginning.
async fn stalled(gateway: &Running) -> Wire {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let stream = in_time("a connection", socket.connect(gateway.address)).await.unwrap().into_std().unwrap();
    stream.set_nonblocking(false).unwrap();
    let mut wire = Wire::over(stream);
    wire.send(&post("/v1/chat/completions", "", &chat()));
    wire.read_until("content");
    wire
}

async fn is_given_up(gateway: &Running) {
    eventually("the task is canceled", async || {
        gateway.metric("tasks_canceled_total", r#"reason="running""#).await == 1.0
    })
    .await;
    gateway.idle().await;
    let ended = |line: &serde_json::Value| line["route"] == "/v1/chat/completions" && line["outcome"] == "aborted";
    eventually("the log says so", async || gateway.log().iter().any(ended)).await;
}

#[tokio::test]
async fn a_client_that_reads_nothing_is_hung_up_on() {
    let tokens = large();
    let settings = [
        ("SERVER__WRITE_TIMEOUT_MS", "500"),
        ("POOLS__0__SCRIPTED__TOKENS", tokens.as_str()),
        ("POOLS__0__SCRIPTED__TOKEN_MS", "1"),
    ];
    let gateway = Running::scripted(&settings);
    let wire = stalled(&gateway).await;
    is_given_up(&gateway).await;
    drop(wire);
}

#[tokio::test]
async fn a_client_of_http_2_that_takes_nothing_of_a_stream_is_hung_up_on() {
    let tokens = large();
    let settings = [
        ("SERVER__WRITE_TIMEOUT_MS", "500"),
        ("POOLS__0__SCRIPTED__TOKENS", tokens.as_str()),
        ("POOLS__0__SCRIPTED__TOKEN_MS", "1"),
    ];
    let gateway = Running::scripted(&settings);
    let client = Client::builder().no_proxy().http2_prior_knowledge();
    // The client goes on to answer pings, and gives the stream no more room.
    let client = client.http2_initial_stream_window_size(20_000).build().unwrap();
    let request = client.post(gateway.url("/v1/chat/completions")).header("content-type", "application/json");
    let mut response = in_time("the head", request.body(chat()).send()).await.unwrap();
    in_time("a chunk", response.chunk()).await.unwrap().unwrap();
    is_given_up(&gateway).await;
    drop(response);
}

#[tokio::test]
async fn a_client_that_reads_slowly_is_served_to_the_end() {
    let tokens = large();
    let settings = [
        ("SERVER__WRITE_TIMEOUT_MS", "1000"),
        ("POOLS__0__SCRIPTED__TOKENS", tokens.as_str()),
        ("POOLS__0__SCRIPTED__TOKEN_MS", "0"),
    ];
    let gateway = Running::scripted(&settings);
    let body = chat().replace("8000", "300");
    let request = gateway.client().post(gateway.url("/v1/chat/completions")).header("content-type", "application/json");
    let mut response = in_time("the head", request.body(body).send()).await.unwrap();
    let mut bytes = 0;
    let mut last = Vec::new();
    let mut pace = tokio::time::interval(Duration::from_millis(10));
    while let Some(chunk) = in_time("a chunk", response.chunk()).await.unwrap() {
        bytes += chunk.len();
        last = chunk.to_vec();
        pace.tick().await;
    }
    assert!(bytes > 300 * LARGE && last.ends_with(b"data: [DONE]\n\n"), "{bytes}");
}
