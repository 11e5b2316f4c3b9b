//! A thousand clients that stop reading cost the gateway a cursor each, and nobody else anything.

use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::running::{Running, eventually, in_time};
use super::wire::{Wire, get};

/// Where the limit on open files leaves room for so many.
const CLIENTS: usize = 1000;

/// Running tasks that the clients follow, in equal parts.
const TASKS: usize = 20;

/// A task's stream has some 1.5 MB, many times what the buffers between the gateway and a small window hold.
const TOKENS: usize = 2500;
const TOKEN_BYTES: usize = 512;

/// Bytes of a client's receive buffer.
const WINDOW: u32 = 4096;

/// What may stay in memory after all of it, in bytes.
const MAY_STAY: u64 = 30 << 20;

/// Opens a connection with a small receive buffer, reads the beginning of a stream, and no more.
async fn stalled(gateway: &Running, task: &str) -> TcpStream {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(WINDOW).unwrap();
    let stream = in_time("a connection", socket.connect(gateway.address)).await.unwrap().into_std().unwrap();
    stream.set_nonblocking(false).unwrap();
    let mut wire = Wire::over(stream.try_clone().unwrap());
    wire.send(&get(&format!("/v2/tasks/{task}/events")));
    wire.read_until("event: started");
    stream
}

/// How long one short stream takes.
async fn one_more(gateway: &Running) -> Duration {
    let began = Instant::now();
    let body =
        json!({"model": "builtin", "stream": true, "max_tokens": 100, "messages": [{"role": "user", "content": "hi"}]});
    let text = in_time("the stream", gateway.post("/v1/chat/completions", &body).await.text()).await.unwrap();
    assert!(text.ends_with("data: [DONE]\n\n"));
    began.elapsed()
}

/// Streams of tasks that the access log tells of: `complete` or `aborted`.
fn ended(gateway: &Running, outcome: &str) -> usize {
    let followed = |line: &&Value| line["route"] == "/v2/tasks/{id}/events" && line["outcome"] == outcome;
    gateway.log().iter().filter(followed).count()
}

fn open_files_allowed() -> usize {
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap();
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files")).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap_or(usize::MAX)
}

async fn submit(gateway: &Running) -> String {
    let task = json!({"model_ref": "builtin", "prompt": "hi", "max_tokens": TOKENS});
    let admitted: Value = gateway.post("/v2/tasks", &task).await.json().await.unwrap();
    admitted["task_id"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_thousand_clients_that_stop_reading_slow_nobody() {
    let token = format!(r#"["{}"]"#, "x".repeat(TOKEN_BYTES));
    let gateway = Running::scripted(&[
        ("POOLS__0__SLOTS", "64"),
        ("POOLS__0__SCRIPTED__TOKEN_MS", "2"),
        ("POOLS__0__SCRIPTED__TOKENS", &token),
        ("ADMISSION__RETENTION_MS", "1000"),
    ]);
    let clients = CLIENTS.min(open_files_allowed().saturating_sub(200) / TASKS * TASKS);
    let alone = one_more(&gateway).await;
    let before = gateway.resident();

    let mut tasks = Vec::new();
    for _ in 0..TASKS {
        tasks.push(submit(&gateway).await);
    }
    let mut connections = Vec::new();
    for index in 0..clients {
        connections.push(stalled(&gateway, &tasks[index % TASKS]).await);
    }
    let beside = one_more(&gateway).await;
    // Their tasks run on to the end, though nobody reads; retention would forget them a second later.
    eventually("all tasks have ended", async || {
        gateway.metric("tasks_finished_total", r#"outcome="finished""#).await == (TASKS + 2) as f64
    })
    .await;
    let after_the_end = one_more(&gateway).await;
    assert_eq!(ended(&gateway, "complete") + ended(&gateway, "aborted"), 0, "every stream is stalled");
    let stalled = gateway.resident();
    println!(
        "{clients} stalled clients: a stream of 100 tokens takes {alone:?} alone, {beside:?} and {after_the_end:?} beside \
         them; memory {} MB before, {} MB with them",
        before >> 20,
        stalled >> 20
    );
    assert!(beside.max(after_the_end) < alone * 3 + Duration::from_secs(1));

    drop(connections);
    eventually("all streams have ended", async || ended(&gateway, "aborted") == clients).await;
    eventually("the memory is free again", async || gateway.resident() < before + MAY_STAY).await;
    println!("memory {} MB after them", gateway.resident() >> 20);
    one_more(&gateway).await;
}
