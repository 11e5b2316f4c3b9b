//! A client that hangs up leaves nothing behind: its task is cancelled and its slot and place in the queue are free.

use std::time::Duration;

use reqwest::{Client, RequestBuilder, Response};
use serde_json::{Value, json};

use super::running::{Running, eventually, in_time};

/// One slot, and tokens without end.
const ONE_SLOT: [(&str, &str); 1] = [("POOLS__0__SLOTS", "1")];

fn chat(stream: bool) -> Value {
    json!({"model": "builtin", "stream": stream, "max_tokens": 8000, "messages": [{"role": "user", "content": "hi"}]})
}

fn ask(client: &Client, gateway: &Running, stream: bool) -> RequestBuilder {
    client.post(gateway.url("/v1/chat/completions")).json(&chat(stream))
}

fn task_of(response: &Response) -> String {
    response.headers()["x-task-id"].to_str().unwrap().to_owned()
}

async fn read_until(response: &mut Response, text: &str) {
    let mut seen = String::new();
    while !seen.contains(text) {
        let chunk = in_time(text, response.chunk()).await.unwrap().unwrap();
        seen.push_str(&String::from_utf8_lossy(&chunk));
    }
}

/// Runs the clients of the test over HTTP/1.1 or over HTTP/2, where they share a connection that stays.
fn client(h2: bool) -> Client {
    let builder = Client::builder().no_proxy();
    if h2 { builder.http2_prior_knowledge() } else { builder }.build().unwrap()
}

async fn streamed(h2: bool) {
    let gateway = Running::scripted(&ONE_SLOT);
    let client = client(h2);
    let mut running = ask(&client, &gateway, true).send().await.unwrap();
    read_until(&mut running, "content").await;
    let queued = ask(&client, &gateway, true).send().await.unwrap();
    let ids = [task_of(&queued), task_of(&running)];
    eventually("one waits", async || gateway.metric("queue_depth", "").await == 1.0).await;
    drop(queued);
    gateway.state_is(&ids[0], "canceled").await;
    assert_eq!(gateway.metric("queue_depth", "").await, 0.0);
    assert_eq!(gateway.metric("slots_active", "").await, 1.0);
    drop(running);
    gateway.state_is(&ids[1], "canceled").await;
    gateway.idle().await;
    assert_eq!(gateway.metric("tasks_canceled_total", r#"reason="queued""#).await, 1.0);
    assert_eq!(gateway.metric("tasks_canceled_total", r#"reason="running""#).await, 1.0);
}

async fn whole(h2: bool) {
    let gateway = Running::scripted(&ONE_SLOT);
    let client = client(h2);
    let running = tokio::spawn(ask(&client, &gateway, false).send());
    eventually("one runs", async || gateway.metric("slots_active", "").await == 1.0).await;
    let queued = tokio::spawn(ask(&client, &gateway, false).send());
    eventually("one waits", async || gateway.metric("queue_depth", "").await == 1.0).await;
    queued.abort();
    eventually("none waits", async || gateway.metric("queue_depth", "").await == 0.0).await;
    assert_eq!(gateway.metric("slots_active", "").await, 1.0);
    running.abort();
    gateway.idle().await;
    assert_eq!(gateway.metric("tasks_canceled_total", "").await, 2.0);
}

#[tokio::test]
async fn streamed_running_and_queued() {
    streamed(false).await;
}

#[tokio::test]
async fn streamed_running_and_queued_over_http_2() {
    streamed(true).await;
}

#[tokio::test]
async fn whole_running_and_queued() {
    whole(false).await;
}

#[tokio::test]
async fn whole_running_and_queued_over_http_2() {
    whole(true).await;
}

#[tokio::test]
async fn a_native_task_lives_on_without_its_readers() {
    let gateway = Running::scripted(&ONE_SLOT);
    let task = json!({"model_ref": "builtin", "prompt": "hi", "max_tokens": 60});
    let admitted: Value = gateway.post("/v2/tasks", &task).await.json().await.unwrap();
    let id = admitted["task_id"].as_str().unwrap();
    let mut reader = gateway.get(&format!("/v2/tasks/{id}/events")).await;
    read_until(&mut reader, "event: token").await;
    drop(reader);
    gateway.state_is(id, "finished").await;
    assert_eq!(gateway.get_json(&format!("/v2/tasks/{id}")).await["tokens_out"], 60);
}

/// The engine's round in progress is all that a cancelled sequence may still take.
#[tokio::test]
async fn the_real_engine_lets_go_at_once() {
    let gateway = Running::real(&[("POOLS__0__SLOTS", "1")]);
    let ask = |stream: bool| {
        let body = json!({"model": "builtin", "stream": stream, "max_tokens": 3000, "seed": 3,
            "messages": [{"role": "user", "content": "What is Sluicegate?"}]});
        gateway.client().post(gateway.url("/v1/chat/completions")).json(&body).send()
    };
    for _ in 0..5 {
        let mut response = in_time("the head", ask(true)).await.unwrap();
        read_until(&mut response, "content").await;
        drop(response);
        gateway.idle().await;
    }
    let mut queued = Vec::new();
    for _ in 0..3 {
        queued.push(in_time("the head", ask(true)).await.unwrap());
    }
    drop(queued);
    gateway.idle().await;
    let answer = in_time("an answer", ask(false)).await.unwrap();
    assert_eq!(answer.status().as_u16(), 200);
    assert!(tokio::time::timeout(Duration::from_secs(5), answer.text()).await.unwrap().is_ok());
}
