//! What clients see when the server behind a remote engine misbehaves, and that the pool goes on.

mod calling;
mod evaluating;
mod shown;
mod workers;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::harness::Gate;

const HEAD: &str = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n";
const USAGE: &str =
    "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":1,\"completion_tokens\":2}}\n\ndata: [DONE]\n\n";

fn says(text: &str) -> String {
    format!("data: {}\n\n", json!({"choices": [{"index": 0, "delta": {"content": text}}]}))
}

fn stops() -> String {
    format!("data: {}\n\n", json!({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}))
}

fn well() -> String {
    format!("{}{}{}{USAGE}", says("all "), says("well"), stops())
}

/// A server that does what the prompt says, and is good to all others, probes included.
#[derive(Debug, Default)]
struct Server {
    /// Refuses everything.
    down: AtomicBool,
    /// Requests that came, path and body, while it was up.
    requests: Mutex<Vec<String>>,
}

impl Server {
    async fn start(self: &Arc<Self>) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = Arc::clone(self);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let server = Arc::clone(&server);
                tokio::spawn(async move { server.serve(stream).await });
            }
        });
        address
    }

    async fn serve(&self, mut stream: TcpStream) {
        let request = read(&mut stream).await;
        let deed = request.split("misbehave: ").nth(1).and_then(|rest| rest.split('"').next());
        let mut deed = deed.unwrap_or("not at all");
        if self.down.load(Ordering::SeqCst) {
            deed = "500";
        } else {
            let asked = self.times(deed);
            self.requests.lock().unwrap().push(request.clone());
            if deed == "500 once" {
                deed = if asked == 0 { "500" } else { "not at all" };
            }
        }
        // What a client that has hung up does not read is lost.
        let _ = match calling::answer(&request, deed).or_else(|| evaluating::answer(&request, deed)) {
            Some(answer) => stream.write_all(answer.as_bytes()).await,
            None => misbehave(&mut stream, deed).await,
        };
    }

    /// How often it was asked for a deed.
    fn times(&self, deed: &str) -> usize {
        let deed = format!("misbehave: {deed}\"");
        self.requests.lock().unwrap().iter().filter(|request| request.contains(&deed)).count()
    }
}

/// A whole request.
async fn read(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&bytes);
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.to_ascii_lowercase();
            let length = length.split("content-length: ").nth(1).and_then(|rest| rest.lines().next()?.parse().ok());
            if body.len() >= length.unwrap_or(0) {
                return text.into_owned();
            }
        }
        if stream.read_buf(&mut bytes).await.unwrap_or(0) == 0 {
            return String::new();
        }
    }
}

async fn misbehave(stream: &mut TcpStream, deed: &str) -> std::io::Result<()> {
    let refuse = |status: &str, more: &str| {
        format!("HTTP/1.1 {status}\r\n{more}content-length: 6\r\nconnection: close\r\n\r\ngeheim")
    };
    let whole = match deed {
        "stall before the head" => return std::future::pending().await,
        "stall in the middle" => {
            stream.write_all(format!("{HEAD}{}", says("some ")).as_bytes()).await?;
            return std::future::pending().await;
        }
        "drip" => {
            for byte in format!("{HEAD}{}", well()).bytes() {
                stream.write_all(&[byte]).await?;
            }
            return Ok(());
        }
        "never end" => {
            stream.write_all(HEAD.as_bytes()).await?;
            loop {
                stream.write_all(says("x ").as_bytes()).await?;
            }
        }
        "huge event" => format!("{HEAD}data: {}", "x".repeat(3 << 20)),
        "cut" => format!("{HEAD}{}", says("some ")),
        "cut before the first token" => HEAD.to_owned(),
        "no JSON" => format!("{HEAD}data: {{\"geheim\n\n"),
        "error in the stream" => format!("{HEAD}data: {{\"error\":{{\"message\":\"geheim\"}}}}\n\n"),
        "wrong usage" => {
            format!("{HEAD}{}", well().replace("\"completion_tokens\":2", "\"completion_tokens\":4000000000"))
        }
        "wrong type" => "HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: 6\r\n\r\ngeheim".to_owned(),
        "redirect" => refuse("307 Temporary Redirect", "location: http://127.0.0.1:1/v1\r\n"),
        "500" => refuse("500 Internal Server Error", ""),
        "429" => refuse("429 Too Many Requests", "retry-after: 1\r\n"),
        "400" => refuse("400 Bad Request", ""),
        "404" => refuse("404 Not Found", ""),
        "think" => {
            let thought = json!({"choices": [{"delta": {"reasoning_content": "hm"}, "finish_reason": null}]});
            format!("{HEAD}data: {thought}\n\n{}", well())
        }
        "tell the stop" => {
            let text = json!({"choices": [{"text": "all ", "finish_reason": "stop", "stop_reason": "well"}]});
            format!("{HEAD}data: {text}\n\n{USAGE}")
        }
        "tell logprobs" => {
            let logprobs = json!({"tokens": ["all ", "well"], "token_logprobs": [-0.5, -0.25],
                "top_logprobs": [{"all ": -0.5, "some ": -1.5}, {"well": -0.25}]});
            let text = json!({"choices": [{"text": "all well", "logprobs": logprobs, "finish_reason": "stop"}]});
            format!("{HEAD}data: {text}\n\n{USAGE}")
        }
        "garbage" => "\0\u{1}geheim\r\n\r\n".to_owned(),
        _ => format!("{HEAD}{}", well()),
    };
    stream.write_all(whole.as_bytes()).await
}

async fn gate() -> Gate {
    before(&Arc::default()).await
}

/// A gateway before this server.
async fn before(server: &Arc<Server>) -> Gate {
    before_for(server, "completion").await
}

/// A gateway that uses this server for some workload.
async fn before_for(server: &Arc<Server>, workload: &str) -> Gate {
    let limits = "connect_ms = 1000, first_byte_ms = 300, idle_ms = 300";
    let remote = format!(
        r#"{{ base_url = "http://{}/v1", model = "m", workloads = ["{workload}"], {limits} }}"#,
        server.start().await
    );
    let pools = format!(r#"[{{ id = "default", engine = "remote", slots = 4, remote = {remote} }}]"#);
    Gate::configured(&[("SLUICEGATE_POOLS", &pools)]).await
}

async fn events(gate: &Gate, deed: &str) -> String {
    let prompt = format!("misbehave: {deed}");
    let body = json!({"model_ref": "builtin", "messages": [{"role": "user", "content": prompt}], "max_tokens": 5});
    let id = gate.submit(&body.to_string()).await;
    gate.events(&id).await
}

#[tokio::test]
async fn each_failure_ends_its_task_and_the_pool_goes_on() {
    let gate = gate().await;
    let deeds = [
        "stall before the head",
        "stall in the middle",
        "huge event",
        "cut",
        "cut before the first token",
        "no JSON",
        "error in the stream",
        "wrong type",
        "redirect",
        "500",
        "429",
        "garbage",
    ];
    for deed in deeds {
        let seen = events(&gate, deed).await;
        assert!(seen.contains("event: error") && seen.contains("WORKER_RESET"), "{deed}: {seen}");
        assert!(!seen.contains("geheim"), "{deed}: {seen}");
        gate.recovered().await;
        let after = events(&gate, "not at all").await;
        assert!(after.contains(r#""t":"well""#) && after.contains(r#""finish_reason":"stop""#), "{deed}: {after}");
    }
    gate.finish().await;
}

#[tokio::test]
async fn a_stop_string_that_the_server_names_is_told() {
    let gate = gate().await;
    for (stop, told) in [("well", true), ("other", false)] {
        let task = json!({"model_ref": "builtin", "prompt": "misbehave: tell the stop", "stop": [stop]});
        let id = gate.submit(&task.to_string()).await;
        let events = gate.events(&id).await;
        assert_eq!(events.contains(r#""finish_reason":"stop","matched_stop":"well""#), told, "{events}");
    }
    gate.finish().await;
}

#[tokio::test]
async fn a_refused_request_is_the_callers_fault_and_the_pool_stays_ready() {
    let gate = gate().await;
    let seen = events(&gate, "400").await;
    assert!(seen.contains("INVALID_PARAMS") && !seen.contains("geheim"), "{seen}");
    assert_eq!(gate.app.pools[0].health(), sluicegate::pools::Health::Ready);
    gate.finish().await;
}

#[tokio::test]
async fn an_answer_ends_at_its_limit_and_usage_is_held_against_it() {
    let gate = gate().await;
    let endless = events(&gate, "never end").await;
    assert_eq!(endless.matches("event: token").count(), 5, "{endless}");
    assert!(endless.contains(r#""tokens_out":5"#) && endless.contains(r#""finish_reason":"length""#), "{endless}");
    let wrong = events(&gate, "wrong usage").await;
    assert!(wrong.contains(r#""tokens_out":5"#) && wrong.contains(r#""finish_reason":"stop""#), "{wrong}");
    let slow = events(&gate, "drip").await;
    assert!(slow.contains(r#""t":"well""#) && slow.contains(r#""tokens_out":2"#), "{slow}");
    gate.finish().await;
}

#[tokio::test]
async fn a_server_is_told_whose_each_request_is() {
    for (workload, body) in [
        ("completion", json!({"model_ref": "builtin", "messages": [{"role": "user", "content": "hi"}]})),
        ("embedding", json!({"model_ref": "builtin", "workload": "embedding", "inputs": ["hi"]})),
        ("rerank", json!({"model_ref": "builtin", "workload": "rerank", "query": "hi", "inputs": ["hi"]})),
    ] {
        let server = Arc::default();
        let gate = before_for(&server, workload).await;
        let mut request = crate::harness::request("POST", "/v2/tasks", axum::body::Body::from(body.to_string()));
        request.headers_mut().insert("x-correlation-id", "mine-1".parse().unwrap());
        let accepted = crate::harness::read(gate.send(request).await).await.json();
        gate.events(accepted["task_id"].as_str().unwrap()).await;
        let requests = server.requests.lock().unwrap().clone();
        let named = |request: &String| request.lines().any(|line| line.eq_ignore_ascii_case("x-request-id: mine-1"));
        let its = |request: &String| request.contains("\"hi\"");
        // The probes before it are nobody's.
        assert!(requests.iter().any(its) && requests.iter().all(|one| named(one) == its(one)), "{requests:?}");
        gate.finish().await;
    }
}

#[tokio::test]
async fn what_no_server_elsewhere_can_promise_is_refused_by_name() {
    let gate = gate().await;
    for (field, value) in [("determinism", "strict"), ("kv_hint", "cold")] {
        let mut body = json!({"model_ref": "builtin", "prompt": "hi"});
        body[field] = value.into();
        let answer = gate.post("/v2/tasks", &body.to_string()).await;
        assert_eq!((answer.status.as_u16(), &answer.json()["param"]), (400, &json!(field)));
    }
    for (engine, status) in [("remote", 202), ("vllm", 400)] {
        let body = json!({"model_ref": "builtin", "prompt": "hi", "engine": engine});
        assert_eq!(gate.post("/v2/tasks", &body.to_string()).await.status.as_u16(), status, "{engine}");
    }
    tokio::time::timeout(Duration::from_secs(20), gate.settle()).await.unwrap();
    gate.finish().await;
}

#[tokio::test]
async fn a_task_that_lost_its_server_before_its_first_token_is_sent_once_more() {
    let server = Arc::default();
    let gate = before(&server).await;
    let seen = events(&gate, "500 once").await;
    assert!(seen.contains(r#""t":"well""#) && !seen.contains("event: error"), "{seen}");
    assert_eq!(server.times("500 once"), 2);
    let lost = events(&gate, "cut").await;
    assert!(lost.contains("WORKER_RESET"), "{lost}");
    assert_eq!(server.times("cut"), 1, "a client has seen a token of it");
    gate.finish().await;
}

#[tokio::test]
async fn the_gateway_starts_before_its_server_and_is_ready_once_that_answers() {
    let server = Arc::new(Server { down: true.into(), ..Server::default() });
    let gate = before(&server).await;
    assert_eq!(gate.get("/readyz").await.status.as_u16(), 503);
    let error = gate.get("/v2/pools").await.json()["pools"][0]["last_error"].as_str().unwrap().to_owned();
    assert!(error.contains("answers 500 Internal Server Error") && !error.contains("geheim"), "{error}");
    let waits = gate.submit(r#"{"model_ref": "builtin", "prompt": "hi"}"#).await;
    server.down.store(false, Ordering::SeqCst);
    assert!(gate.events(&waits).await.contains(r#""t":"well""#));
    gate.recovered().await;
    assert_eq!(gate.get("/v2/pools").await.json()["pools"][0]["last_error"], serde_json::Value::Null);
    assert_eq!(gate.get("/readyz").await.status.as_u16(), 200);
    assert!(events(&gate, "not at all").await.contains(r#""t":"well""#));
    gate.finish().await;
}

#[tokio::test]
async fn no_pool_waits_for_the_server_of_another() {
    // One takes connections and says nothing, the other takes none.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let absent = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let pool = |id: &str, address: SocketAddr| {
        let remote = format!(r#"{{ base_url = "http://{address}/v1", model = "m" }}"#);
        format!(r#"{{ id = "{id}", engine = "remote", model = "far", remote = {remote} }}"#)
    };
    let far = r#"[{ id = "far", source = "hf:a/b" }]"#;
    let (silent, absent) = (pool("silent", silent.local_addr().unwrap()), pool("absent", absent));
    let pools = format!(r#"[{{ id = "near", engine = "scripted" }}, {silent}, {absent}]"#);
    let began = std::time::Instant::now();
    let gate = Gate::configured(&[("SLUICEGATE_POOLS", &pools), ("SLUICEGATE_CATALOG__MODELS", far)]).await;
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    let near = gate.submit(r#"{"model_ref": "builtin", "prompt": "hi", "max_tokens": 2}"#).await;
    assert!(gate.events(&near).await.contains("event: end"));
    let waits = gate.submit(r#"{"model_ref": "far", "prompt": "hi"}"#).await;
    let pools = gate.get("/v2/pools").await.json();
    let errors: Vec<_> = pools["pools"].as_array().unwrap().iter().map(|pool| pool["last_error"].as_str()).collect();
    assert_eq!(errors[..2], [None, Some("pool silent: the server does not answer yet")]);
    assert!(errors[2].unwrap().contains("Connection refused"), "{errors:?}");
    gate.post(&format!("/v2/tasks/{waits}/cancel"), "").await;
    gate.finish().await;
}

#[tokio::test]
async fn a_server_that_takes_no_plain_prompts_is_named() {
    let gate = gate().await;
    let id = gate.submit(r#"{"model_ref": "builtin", "prompt": "misbehave: 404", "max_tokens": 5}"#).await;
    let seen = gate.events(&id).await;
    let error = r#""message":"the server of this pool has no /completions for this model, so it takes `messages` and no `prompt`","retriable":false,"param":"prompt","pool_id":"default""#;
    assert!(seen.contains(error), "{seen}");
    assert_eq!(gate.app.pools[0].health(), sluicegate::pools::Health::Ready);
    gate.finish().await;
}

#[tokio::test]
async fn reasoning_and_log_probabilities_of_completions_come_through() {
    let server = Arc::default();
    let gate = before(&server).await;
    let thoughts = events(&gate, "think").await;
    assert!(thoughts.contains(r#""t":"hm""#) && thoughts.contains(r#""kind":"reasoning""#), "{thoughts}");
    let body = json!({"model_ref": "builtin", "prompt": "misbehave: tell logprobs", "max_tokens": 5, "logprobs": true,
        "top_logprobs": 2, "seed": -7});
    let id = gate.submit(&body.to_string()).await;
    let told = gate.events(&id).await;
    let tokens: Vec<serde_json::Value> = told
        .lines()
        .filter_map(|line| serde_json::from_str(line.strip_prefix("data: ")?).ok())
        .filter(|data: &serde_json::Value| data["logprob"].is_number())
        .collect();
    assert_eq!(tokens.len(), 2, "{told}");
    assert_eq!((&tokens[0]["t"], &tokens[0]["logprob"]), (&json!("all "), &json!(-0.5)));
    assert_eq!(tokens[0]["top"].as_array().unwrap().len(), 2, "{told}");
    let requests = server.requests.lock().unwrap().clone();
    let sent = requests.iter().find(|request| request.contains("tell logprobs")).unwrap();
    let (head, body) = sent.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("POST /v1/completions "), "{head}");
    let body: serde_json::Value = serde_json::from_str(body).unwrap();
    assert_eq!((&body["seed"], &body["logprobs"], body.get("temperature")), (&json!(-7), &json!(2), None));
    gate.finish().await;
}

#[tokio::test]
async fn what_a_server_elsewhere_cannot_do_is_not_among_the_capabilities() {
    let gate = gate().await;
    let pool = gate.get("/v2/meta/capabilities").await.json()["pools"][0].clone();
    let features = pool["features"].as_array().unwrap();
    assert!(features.contains(&json!("seed")) && !features.contains(&json!("strict_determinism")), "{pool}");
    gate.finish().await;
}

#[tokio::test]
async fn a_model_that_is_elsewhere_is_neither_reloaded_nor_purged() {
    let gate = gate().await;
    for (operation, body) in [
        ("reload", json!({"new_model_ref": "builtin"})),
        ("purge", json!({"purge_models": ["builtin"], "force": true})),
    ] {
        let answer = gate.post(&format!("/v2/pools/default/{operation}"), &body.to_string()).await;
        assert_eq!((answer.status.as_u16(), &answer.json()["code"]), (409, &json!("CONFLICT")), "{operation}");
    }
    assert!(events(&gate, "not at all").await.contains(r#""t":"well""#));
    gate.finish().await;
}
