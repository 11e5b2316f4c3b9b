//! A server that answers at once, asked straight and through a gateway in front of it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{CONTENT_TYPE, HOST, HeaderValue};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use sluicegate::lifecycle::{Lifecycle, OnPanic};
use sysinfo::{ProcessRefreshKind, ProcessesToUpdate, System, get_current_pid};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

use crate::quantile::quantile;
use crate::{Failure, gateway};

const AT_ONCE: [usize; 2] = [1, 32];

/// Rounds of each side. Even, so that each goes first as often as the other.
const ROUNDS: u32 = 6;

/// What is asked for.
#[derive(Debug, Clone, Copy)]
struct Shape {
    /// The model's name, and the first part of the server's path.
    name: &'static str,
    tokens: usize,
    /// Whether the gateway's client wants a stream; the server's always gets one.
    stream: bool,
}

const SHAPES: [Shape; 2] =
    [Shape { name: "whole", tokens: 1, stream: false }, Shape { name: "streamed", tokens: 64, stream: true }];

impl Shape {
    /// The stream that the server answers with, always the same.
    fn answer(self) -> Bytes {
        let chunk = |choices: Value, usage: Value| {
            let chunk = json!({"id": "c", "object": "chat.completion.chunk", "created": 1, "model": self.name,
                "choices": choices, "usage": usage});
            format!("data: {chunk}\n\n")
        };
        let token = chunk(json!([{"index": 0, "delta": {"content": "word "}, "finish_reason": null}]), Value::Null);
        let end = chunk(json!([{"index": 0, "delta": {}, "finish_reason": "length"}]), Value::Null);
        let usage = json!({"prompt_tokens": 5, "completion_tokens": self.tokens, "total_tokens": self.tokens + 5});
        let text = token.repeat(self.tokens) + &end + &chunk(json!([]), usage) + "data: [DONE]\n\n";
        text.into()
    }

    fn question(self) -> Bytes {
        let body = json!({"model": self.name, "stream": self.stream, "max_completion_tokens": self.tokens,
            "messages": [{"role": "user", "content": "What does a sluice gate do?"}]});
        body.to_string().into()
    }
}

/// Starts the server.
async fn upstream(lifecycle: &Lifecycle) -> Result<SocketAddr, Failure> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let answers: Arc<[_]> = SHAPES.map(|shape| (format!("/{}/v1/chat/completions", shape.name), shape.answer())).into();
    lifecycle.spawn("server elsewhere", OnPanic::Shutdown, async move {
        let mut connections = JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            drop(stream.set_nodelay(true));
            let answers = Arc::clone(&answers);
            let service = service_fn(move |request| answer(request, Arc::clone(&answers)));
            let serve = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
            connections.spawn(serve);
        }
    });
    Ok(address)
}

async fn answer(request: Request<Incoming>, answers: Arc<[(String, Bytes)]>) -> hyper::Result<Response<Full<Bytes>>> {
    let found = answers.iter().find(|(path, _)| path == request.uri().path()).map(|(_, answer)| answer.clone());
    // Read to its end, so that the connection can be used again.
    request.into_body().collect().await?;
    let mut response = Response::new(Full::new(found.clone().unwrap_or_default()));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    if found.is_none() {
        *response.status_mut() = StatusCode::NOT_FOUND;
    }
    Ok(response)
}

/// The configuration of a gateway with a pool for each shape, all of them at one server.
fn pools(server: SocketAddr) -> String {
    let each = SHAPES.map(|Shape { name, .. }| {
        format!(
            r#"{{ id = "{name}", model = "{name}", engine = "remote", slots = 64, remote = {{ base_url = "http://{server}/{name}/v1", model = "{name}" }} }}"#
        )
    });
    format!("[{}]", each.join(", "))
}

fn models() -> String {
    let each = SHAPES.map(|Shape { name, .. }| format!(r#"{{ id = "{name}", source = "hf:no/{name}" }}"#));
    format!("[{}]", each.join(", "))
}

/// A client with one connection, which asks until the time is over; how long each answer took, to its last byte.
async fn client(address: SocketAddr, uri: String, body: Bytes, until: Instant) -> Result<Vec<Duration>, Failure> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let (sender, connection) = handshake(TokioIo::new(stream)).await?;
    tokio::select! {
        took = ask(sender, &uri, &body, until) => took,
        ended = connection => Err(ended.err().map_or_else(|| "the connection was closed".into(), Into::into)),
    }
}

async fn ask(
    mut sender: SendRequest<Full<Bytes>>,
    uri: &str,
    body: &Bytes,
    until: Instant,
) -> Result<Vec<Duration>, Failure> {
    let mut took = Vec::new();
    while Instant::now() < until {
        sender.ready().await?;
        let request = Request::post(uri).header(HOST, "localhost").header(CONTENT_TYPE, "application/json");
        let began = Instant::now();
        let response = sender.send_request(request.body(Full::new(body.clone()))?).await?;
        let status = response.status();
        let answer = response.into_body().collect().await?.to_bytes();
        took.push(began.elapsed());
        if !status.is_success() {
            return Err(format!("{status}: {}", String::from_utf8_lossy(&answer)).into());
        }
    }
    Ok(took)
}

/// Has `at_once` clients ask for so long.
pub async fn round(
    at_once: usize,
    address: SocketAddr,
    path: &str,
    question: Bytes,
    long: Duration,
) -> Result<Samples, Failure> {
    let (until, computed_before) = (Instant::now() + long, computed());
    let mut asking: JoinSet<_> =
        (0..at_once).map(|_| client(address, path.to_owned(), question.clone(), until)).collect();
    let mut samples = Samples::default();
    while let Some(took) = asking.join_next().await {
        samples.latency_us.extend(took??.iter().map(|took| took.as_secs_f64() * 1e6));
    }
    let requests = samples.latency_us.len() as f64;
    samples.requests_per_s.push(requests / long.as_secs_f64());
    samples.cpu_us.push((computed() - computed_before).as_secs_f64() * 1e6 / requests);
    Ok(samples)
}

/// For how long this process has computed, on all cores together.
fn computed() -> Duration {
    let mut system = System::new();
    let Ok(own) = get_current_pid() else { return Duration::ZERO };
    let cpu = ProcessRefreshKind::nothing().with_cpu();
    system.refresh_processes_specifics(ProcessesToUpdate::Some(&[own]), false, cpu);
    system.process(own).map_or(Duration::ZERO, |process| Duration::from_millis(process.accumulated_cpu_time()))
}

#[derive(Default)]
pub struct Samples {
    latency_us: Vec<f64>,
    /// One of each round.
    pub requests_per_s: Vec<f64>,
    /// Of the process for each request, clients included; one of each round.
    pub cpu_us: Vec<f64>,
}

impl Samples {
    pub fn add(&mut self, round: Self) {
        self.latency_us.extend(round.latency_us);
        self.requests_per_s.extend(round.requests_per_s);
        self.cpu_us.extend(round.cpu_us);
    }

    pub fn json(&self) -> Value {
        json!({
            "requests_per_s": quantile(&self.requests_per_s, 0.5),
            "cpu_us": quantile(&self.cpu_us, 0.5),
            "latency_us": {"median": quantile(&self.latency_us, 0.5), "p99": quantile(&self.latency_us, 0.99)},
        })
    }

    pub fn line(&self) -> String {
        let latency = |part| quantile(&self.latency_us, part);
        format!("{:10.0} {:9.0} {:9.0}", quantile(&self.requests_per_s, 0.5), latency(0.5), latency(0.99))
    }
}

/// Measures for about `seconds`, and prints.
pub fn measure(runtime: &Runtime, clients: &Runtime, seconds: u32, as_json: bool) -> Result<(), Failure> {
    let server = runtime.block_on(upstream(&Lifecycle::new()))?;
    let settings = [
        ("SLUICEGATE_CATALOG__MODELS", models()),
        ("SLUICEGATE_POOLS", pools(server)),
        // What that costs is another question.
        ("SLUICEGATE_LEDGER__ENABLED", "false".to_owned()),
    ];
    let gateway = runtime.block_on(gateway::serve_configured(&settings))?;
    let parts = (SHAPES.len() * AT_ONCE.len() * 2) as u32 * ROUNDS;
    let long = Duration::from_secs(seconds.into()) / parts;
    if !as_json {
        println!(
            "                            server: /s, us at the median and p99    gateway: the same                added, us"
        );
    }
    let mut measured = Vec::new();
    for (shape, at_once) in SHAPES.into_iter().flat_map(|shape| AT_ONCE.map(|at_once| (shape, at_once))) {
        let straight = || {
            clients.block_on(round(
                at_once,
                server,
                &format!("/{}/v1/chat/completions", shape.name),
                shape.question(),
                long,
            ))
        };
        let through = || clients.block_on(round(at_once, gateway, "/v1/chat/completions", shape.question(), long));
        let (mut server, mut gateway) = (Samples::default(), Samples::default());
        for number in 0..ROUNDS {
            if number % 2 == 0 {
                server.add(straight()?);
                gateway.add(through()?);
            } else {
                gateway.add(through()?);
                server.add(straight()?);
            }
        }
        let added_us = quantile(&gateway.latency_us, 0.5) - quantile(&server.latency_us, 0.5);
        if !as_json {
            let what = format!("{}, {} tokens, {at_once} at once", shape.name, shape.tokens);
            println!("{what:32} {} {} {added_us:+9.0}", server.line(), gateway.line());
        }
        measured.push(json!({"answers": shape.name, "tokens": shape.tokens, "at_once": at_once,
            "server": server.json(), "gateway": gateway.json(), "added_us": added_us}));
    }
    if as_json {
        println!("{}", serde_json::to_string_pretty(&json!({"engine": "remote", "levels": measured}))?);
    }
    Ok(())
}
