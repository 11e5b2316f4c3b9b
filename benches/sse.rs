//! What an event stream costs from the router to the last byte of its body: the events of a task that has ended, replayed.
//! Sockets are not in it; `examples/overhead` has those. The encoders by themselves are in `compat/benches`.

use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::Request;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use http_body_util::BodyExt as _;
use sluicegate::app::App;
use sluicegate::engine::scripted::Script;
use tokio::runtime::Runtime;
use tower::ServiceExt as _;

#[path = "support/gate.rs"]
mod gate;

const TOKENS: u32 = 1000;

async fn send(app: &App, method: &str, path: &str, body: String) -> Bytes {
    let request = Request::builder().method(method).uri(path).header("host", "localhost");
    let request = request.header("content-type", "application/json").body(Body::from(body));
    let response = app.router.clone().oneshot(request.unwrap_or_else(|error| panic!("{error}"))).await;
    let body = response.unwrap_or_else(|error| match error {}).into_body().collect().await;
    body.unwrap_or_else(|error| panic!("{error}")).to_bytes()
}

fn replay(criterion: &mut Criterion) {
    let runtime = Runtime::new().unwrap_or_else(|error| panic!("{error}"));
    let script = Script { first_token: Duration::ZERO, token: Duration::ZERO, ..Script::default() };
    let (app, path, length) = runtime.block_on(async {
        let app = gate::start(script, &[]).await;
        let body = format!(r#"{{"model_ref": "builtin", "prompt": "say it", "max_tokens": {TOKENS}}}"#);
        let admitted = send(&app, "POST", "/v2/tasks", body).await;
        let admitted: serde_json::Value = serde_json::from_slice(&admitted).unwrap_or_else(|error| panic!("{error}"));
        let path = admitted["streams"]["sse"].as_str().unwrap_or_default().to_owned();
        // The first reader waits for the end.
        let length = send(&app, "GET", &path, String::new()).await.len();
        (app, path, length)
    });

    let mut group = criterion.benchmark_group("native stream of 1,000 tokens through the router");
    group.throughput(Throughput::Elements(u64::from(TOKENS)));
    group.bench_function("replay", |bencher| {
        bencher.iter(|| {
            let stream = runtime.block_on(send(&app, "GET", &path, String::new()));
            assert_eq!(stream.len(), length);
        });
    });
    group.finish();
    drop(app);
    runtime.shutdown_background();
}

criterion_group!(benches, replay);
criterion_main!(benches);
