//! PostgreSQL stops under load and starts again: chats go on, tasks are refused and come again, and nothing is lost or counted twice.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use super::running::{Running, eventually};
use crate::postgres::Cluster;

/// What clients have seen.
#[derive(Default)]
struct Seen {
    /// Answered chats.
    chats: AtomicU64,
    /// Tasks that were answered with 202.
    accepted: Mutex<HashSet<String>>,
    refused: AtomicU64,
    stop: AtomicBool,
}

async fn chat(client: reqwest::Client, gateway: std::net::SocketAddr, seen: Arc<Seen>) {
    let body = json!({"model": "builtin", "max_tokens": 3, "messages": [{"role": "user", "content": "hi"}]});
    while !seen.stop.load(Ordering::SeqCst) {
        let answer = client.post(format!("http://{gateway}/v1/chat/completions")).json(&body).send().await.unwrap();
        let (status, text) = (answer.status(), answer.text().await.unwrap());
        assert_eq!(status, 200, "{text}");
        seen.chats.fetch_add(1, Ordering::SeqCst);
    }
}

async fn submit(client: reqwest::Client, gateway: std::net::SocketAddr, seen: Arc<Seen>) {
    let task = json!({"model_ref": "builtin", "prompt": "hi", "max_tokens": 3});
    while !seen.stop.load(Ordering::SeqCst) {
        let answer = client.post(format!("http://{gateway}/v2/tasks")).json(&task).send().await.unwrap();
        let (status, again) = (answer.status(), answer.headers().contains_key("retry-after"));
        let answer: Value = answer.json().await.unwrap();
        match status.as_u16() {
            202 => _ = seen.accepted.lock().unwrap().insert(answer["task_id"].as_str().unwrap().to_owned()),
            503 => {
                assert!(again && answer["retriable"] == true, "{answer}");
                seen.refused.fetch_add(1, Ordering::SeqCst);
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
            _ => panic!("{status}: {answer}"),
        }
    }
}

async fn text(gateway: &Running, path: &str) -> String {
    gateway.get(path).await.text().await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_outlives_its_database() {
    let mut server = Cluster::of_its_own();
    let gateway = Running::scripted(&[
        ("STORE__URL", &server.public_url()),
        ("POOLS__0__SLOTS", "16"),
        ("POOLS__0__QUEUE__CAPACITY", "5000"),
        ("POOLS__0__SCRIPTED__FIRST_TOKEN_MS", "1"),
        ("POOLS__0__SCRIPTED__TOKEN_MS", "1"),
    ]);
    let seen = Arc::new(Seen::default());
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..4 {
        clients.spawn(chat(gateway.client().clone(), gateway.address, Arc::clone(&seen)));
        clients.spawn(submit(gateway.client().clone(), gateway.address, Arc::clone(&seen)));
    }
    let more = async |count: &AtomicU64| {
        let target = count.load(Ordering::SeqCst) + 50;
        eventually("clients get on", async || count.load(Ordering::SeqCst) >= target).await;
    };
    for _ in 0..2 {
        more(&seen.chats).await;
        assert_eq!(text(&gateway, "/readyz").await, "ready\n");
        server.stop();
        eventually("it is away", async || text(&gateway, "/readyz").await.contains("the database is away")).await;
        more(&seen.refused).await;
        // Some of these may be of tasks whose start waits for the database; there are slots for all of them.
        more(&seen.chats).await;
        assert!(text(&gateway, "/metrics").await.contains("\nstore_available 0\n"));
        server.start();
        eventually("it is back", async || text(&gateway, "/readyz").await == "ready\n").await;
        let accepted = seen.accepted.lock().unwrap().len();
        eventually("tasks are let in", async || seen.accepted.lock().unwrap().len() > accepted + 20).await;
    }
    seen.stop.store(true, Ordering::SeqCst);
    while let Some(client) = clients.join_next().await {
        client.unwrap();
    }
    gateway.idle().await;
    let accepted = seen.accepted.lock().unwrap().clone();
    for id in &accepted {
        gateway.state_is(id, "finished").await;
    }
    let usage = gateway.get_json("/v2/usage").await;
    assert_eq!(usage["total"]["tasks"], seen.chats.load(Ordering::SeqCst) + accepted.len() as u64);
    let metrics = text(&gateway, "/metrics").await;
    assert!(metrics.contains("\nstore_available 1\n") && metrics.contains("\nstore_spooled_records 0\n"));
    let kept =
        std::fs::read_dir(gateway.data_dir()).unwrap().map(|file| file.unwrap().file_name().into_string().unwrap());
    assert_eq!(kept.filter(|name| name.starts_with("spool-")).count(), 0);
    gateway.terminate();
    assert_eq!(gateway.wait_for_exit().code, Some(0));
}
