//! A thousand clients that stop reading slow nobody, and leave nothing behind.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::running::{Running, eventually, in_time};
use super::wire::{Wire, get};

/// Where the limit on open files leaves room for so many.
const CLIENTS: usize = 1000;

/// Running tasks that the clients follow, in equal parts.
const TASKS: usize = 20;

/// Bytes of a client's receive buffer.
const WINDOW: u32 = 4096;

/// How much more memory may be in use after the second crowd than during the first, in bytes; the allocator keeps some of
/// what the first one needed.
const MAY_GROW: u64 = 30 << 20;

/// Opens a connection with a small receive buffer, reads the beginning of a stream, and no more.
async fn stalled(gateway: &Running, task: &str) -> Wire {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(WINDOW).unwrap();
    let stream = in_time("a connection", socket.connect(gateway.address)).await.unwrap().into_std().unwrap();
    stream.set_nonblocking(false).unwrap();
    let mut wire = Wire::over(stream);
    wire.send(&get(&format!("/v2/tasks/{task}/events")));
    wire.read_until("event: started");
    wire
}

async fn submit(gateway: &Running, max_tokens: usize) -> String {
    let task = json!({"model_ref": "builtin", "prompt": "hi", "max_tokens": max_tokens});
    let admitted: Value = gateway.post("/v2/tasks", &task).await.json().await.unwrap();
    admitted["task_id"].as_str().unwrap().to_owned()
}

/// How long one short stream takes.
async fn one_more(gateway: &Running) -> Duration {
    let began = Instant::now();
    let body =
        json!({"model": "builtin", "stream": true, "max_tokens": 50, "messages": [{"role": "user", "content": "hi"}]});
    let text = in_time("the stream", gateway.post("/v1/chat/completions", &body).await.text()).await.unwrap();
    assert!(text.ends_with("data: [DONE]\n\n"));
    began.elapsed()
}

/// Event streams of which the access log tells that they have ended.
fn ended(gateway: &Running) -> Vec<Value> {
    let followed = |line: &Value| line["route"] == "/v2/tasks/{id}/events";
    gateway.log().into_iter().filter(followed).collect()
}

/// A thousand clients come, stop reading while their tasks run, and go when those have ended; in between one more client
/// asks for a short answer. Returns how long that took, and the memory in use with all of them.
async fn crowd(gateway: &Running, clients: usize) -> (Duration, u64) {
    let gone = ended(gateway).len();
    let mut tasks = Vec::new();
    for _ in 0..TASKS {
        tasks.push(submit(gateway, 250).await);
    }
    let mut connections = Vec::new();
    for index in 0..clients {
        connections.push(stalled(gateway, &tasks[index % TASKS]).await);
    }
    let took = one_more(gateway).await;
    gateway.idle().await;
    let resident = gateway.resident();
    drop(connections);
    eventually("all streams have ended", async || ended(gateway).len() == gone + clients).await;
    for task in &tasks {
        let forgotten = async || gateway.get(&format!("/v2/tasks/{task}")).await.status().as_u16() == 404;
        eventually("the task is forgotten", forgotten).await;
    }
    (took, resident)
}

#[tokio::test]
async fn a_thousand_clients_that_stop_reading_slow_nobody_and_leave_no_memory_behind() {
    let token = format!(r#"["{}"]"#, "x".repeat(200));
    let gateway = Running::scripted(&[
        ("POOLS__0__SLOTS", "64"),
        ("POOLS__0__SCRIPTED__TOKENS", &token),
        ("ADMISSION__RETENTION_MS", "1000"),
    ]);
    let clients = CLIENTS.min(open_files_allowed().saturating_sub(200) / TASKS * TASKS);
    let alone = one_more(&gateway).await;
    let before = gateway.resident();
    let (first, during) = crowd(&gateway, clients).await;
    let (second, _) = crowd(&gateway, clients).await;
    println!("a short stream takes {alone:?} alone, {first:?} and {second:?} beside {clients} stalled clients");
    assert!(first.max(second) < alone * 3 + Duration::from_secs(2));
    let after = gateway.resident();
    println!(
        "{} MB before, {} MB during the first crowd, {} MB after the second",
        before >> 20,
        during >> 20,
        after >> 20
    );
    eventually("the memory is what it was", async || gateway.resident() < during + MAY_GROW).await;
}

/// More than any buffer between the gateway and its clients holds.
#[tokio::test]
async fn a_stream_waits_in_the_gateway_for_a_reader_that_comes_back() {
    const TOKENS: usize = 2000;
    let token = format!(r#"["{}"]"#, "x".repeat(4096));
    let gateway = Running::scripted(&[("POOLS__0__SCRIPTED__TOKEN_MS", "1"), ("POOLS__0__SCRIPTED__TOKENS", &token)]);
    let task = submit(&gateway, TOKENS).await;
    let mut connections = Vec::new();
    for _ in 0..10 {
        connections.push(stalled(&gateway, &task).await);
    }
    // The task runs on to its end, though nobody reads.
    gateway.state_is(&task, "finished").await;
    one_more(&gateway).await;
    assert_eq!(ended(&gateway), Vec::<Value>::new(), "every stream waits");
    let rest = connections.pop().unwrap().read_until("event: end");
    assert_eq!(rest.matches("event: token").count(), TOKENS);
    drop(connections);
    eventually("all streams have ended", async || ended(&gateway).len() == 10).await;
    gateway.idle().await;
}

fn open_files_allowed() -> usize {
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap();
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files")).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap_or(usize::MAX)
}
