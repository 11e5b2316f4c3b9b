//! SIGTERM: what runs may end, nothing new begins, and a second signal or the deadline ends it all.

use std::time::{Duration, Instant};

use reqwest::Response;
use serde_json::{Value, json};

use super::running::{Exit, Running, eventually, in_time};

async fn submit(gateway: &Running, max_tokens: u32) -> (String, Response) {
    let task = json!({"model_ref": "builtin", "prompt": "hi", "max_tokens": max_tokens});
    let admitted: Value = gateway.post("/v2/tasks", &task).await.json().await.unwrap();
    let id = admitted["task_id"].as_str().unwrap().to_owned();
    let stream = gateway.get(&format!("/v2/tasks/{id}/events")).await;
    (id, stream)
}

async fn read_until(stream: &mut Response, text: &str) -> String {
    let mut seen = String::new();
    while !seen.contains(text) {
        let chunk = in_time(text, stream.chunk()).await.unwrap().unwrap_or_else(|| panic!("no {text} in {seen}"));
        seen.push_str(&String::from_utf8_lossy(&chunk));
    }
    seen
}

async fn draining(gateway: &Running) {
    gateway.terminate();
    eventually("it drains", async || gateway.get("/readyz").await.status().as_u16() == 503).await;
}

fn ended_well(exit: &Exit) {
    assert_eq!(exit.code, Some(0), "{}", exit.stderr);
    assert!(exit.stderr.contains(r#""message":"ended""#), "{}", exit.stderr);
}

#[tokio::test]
async fn what_runs_and_what_waits_may_end() {
    let gateway = Running::scripted(&[("POOLS__0__SLOTS", "1")]);
    let (_, mut running) = submit(&gateway, 80).await;
    let (_, mut waiting) = submit(&gateway, 20).await;
    read_until(&mut running, "event: token").await;
    draining(&gateway).await;
    assert_eq!(gateway.get("/healthz").await.status().as_u16(), 200);

    let refused = gateway.post("/v2/tasks", &json!({"model_ref": "builtin", "prompt": "late"})).await;
    assert_eq!(refused.status().as_u16(), 503);
    assert!(refused.headers().contains_key("retry-after"));
    let error: Value = refused.json().await.unwrap();
    assert_eq!((&error["code"], &error["retriable"]), (&json!("POOL_UNREADY"), &json!(true)));
    let late = json!({"model": "builtin", "messages": [{"role": "user", "content": "late"}]});
    let refused = gateway.post("/v1/chat/completions", &late).await;
    assert_eq!(refused.status().as_u16(), 503);

    for (stream, tokens) in [(&mut running, 80), (&mut waiting, 20)] {
        let rest = read_until(stream, "event: end").await;
        let rest = rest
            + &in_time("the end", stream.chunk())
                .await
                .unwrap()
                .map_or_else(String::new, |chunk| String::from_utf8_lossy(&chunk).into_owned());
        assert!(rest.contains(&format!(r#""tokens_out":{tokens}"#)), "{rest}");
    }
    ended_well(&gateway.wait_for_exit());
}

#[tokio::test]
async fn the_deadline_ends_what_runs_with_an_error_event_and_keeps_what_waits() {
    let folder = tempfile::TempDir::new().unwrap();
    let data = folder.path().display().to_string();
    let settings = [("DATA_DIR", data.as_str()), ("POOLS__0__SLOTS", "1"), ("SERVER__DRAIN_DEADLINE_MS", "300")];
    let gateway = Running::scripted(&settings);
    let (_, mut running) = submit(&gateway, 8000).await;
    let (waits, mut waiting) = submit(&gateway, 20).await;
    read_until(&mut running, "event: token").await;
    let began = Instant::now();
    gateway.terminate();
    let rest = in_time("the rest", read_to_end(&mut running)).await;
    assert!(rest.contains("event: error") && rest.contains("POOL_UNREADY") && !rest.contains("event: end"), "{rest}");
    // Not over: the next process runs it.
    let rest = in_time("the rest", read_to_end(&mut waiting)).await;
    assert!(!rest.contains("event: error") && !rest.contains("event: end"), "{rest}");
    ended_well(&gateway.wait_for_exit());
    let took = began.elapsed();
    // Not before it, and not as long as the task would have taken.
    assert!(took >= Duration::from_millis(300), "{took:?}");
    let again = Running::scripted(&settings);
    let mut stream = again.get(&format!("/v2/tasks/{waits}/events")).await;
    let whole = in_time("the end", read_to_end(&mut stream)).await;
    assert!(whole.contains("event: started") && whole.contains(r#""tokens_out":20"#), "{whole}");
}

async fn read_to_end(stream: &mut Response) -> String {
    let mut seen = String::new();
    while let Some(chunk) = stream.chunk().await.unwrap() {
        seen.push_str(&String::from_utf8_lossy(&chunk));
    }
    seen
}

#[tokio::test]
async fn a_second_signal_ends_everything_at_once() {
    let gateway = Running::scripted(&[("SERVER__DRAIN_DEADLINE_MS", "600000")]);
    let (_, mut stream) = submit(&gateway, 8000).await;
    read_until(&mut stream, "event: token").await;
    draining(&gateway).await;
    gateway.terminate();
    let rest = in_time("the rest", read_to_end(&mut stream)).await;
    assert!(rest.contains("event: error") && rest.contains("POOL_UNREADY"), "{rest}");
    // Long before the drain's deadline.
    ended_well(&gateway.wait_for_exit());
}

#[tokio::test]
async fn an_open_answer_of_the_real_engine_is_drained_as_well() {
    let gateway = Running::real(&[]);
    let body = json!({"model": "builtin", "stream": true, "seed": 1, "max_tokens": 60,
        "messages": [{"role": "user", "content": "What is Sluicegate?"}]});
    let mut stream = gateway.post("/v1/chat/completions", &body).await;
    read_until(&mut stream, "content").await;
    gateway.terminate();
    let rest = in_time("the rest", read_to_end(&mut stream)).await;
    assert!(rest.contains("finish_reason") && rest.ends_with("data: [DONE]\n\n"), "{rest}");
    ended_well(&gateway.wait_for_exit());
}

/// Clients that keep a connection open without a request do not hold the process back.
#[tokio::test]
async fn idle_connections_do_not_delay_the_end() {
    let gateway = Running::scripted(&[("SERVER__DRAIN_DEADLINE_MS", "600000")]);
    gateway.get("/healthz").await;
    let mut silent = super::wire::Wire::connect(gateway.address);
    let mut used = super::wire::Wire::connect(gateway.address);
    used.send(&super::wire::get("/healthz"));
    assert_eq!(used.answer().status, 200);
    gateway.terminate();
    ended_well(&gateway.wait_for_exit());
    assert_eq!(silent.read_to_end().0, "");
    assert_eq!(used.read_to_end().0, "");
}
