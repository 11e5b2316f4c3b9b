//! What clients see when an engine fails, and that the gateway goes on.

use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::http::StatusCode;
use sluicegate::engine::scripted::{Failure, FailureKind, Script};

use crate::harness::{Gate, says};

const HELLO: &str = r#"{"model_ref": "builtin", "prompt": "say it"}"#;

fn fails(after: u32, kind: FailureKind, times: u32) -> Script {
    Script { failure: Some(Failure { after, kind, times }), ..says(&["one ", "two ", "three"]) }
}

#[tokio::test(start_paused = true)]
async fn a_failure_before_the_first_token_is_retried_unseen() {
    for kind in [FailureKind::Reset, FailureKind::Panic] {
        let gate = Gate::scripted(fails(0, kind, 1)).await;
        let id = gate.submit(HELLO).await;
        let events = gate.events(&id).await;
        assert_eq!(events.matches("event: started").count(), 1, "{events}");
        assert!(events.contains(r#""finish_reason":"stop""#), "{kind:?}: {events}");
        gate.finish().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_failure_in_mid_stream_is_one_error_event_and_the_next_task_works() {
    for kind in [FailureKind::Reset, FailureKind::Panic] {
        let gate = Gate::scripted(fails(2, kind, 1)).await;
        let events = gate.events(&gate.submit(HELLO).await).await;
        assert_eq!(events.matches("event: error").count(), 1, "{events}");
        assert!(events.contains(r#"{"t":"two ","i":1}"#) && !events.contains("event: end"), "{events}");
        let error: serde_json::Value = serde_json::from_str(events.rsplit("data: ").next().unwrap()).unwrap();
        assert_eq!((error["code"].as_str(), error["retriable"].as_bool()), (Some("WORKER_RESET"), Some(true)));
        assert_eq!(error["pool_id"], "default");
        assert!(!error["correlation_id"].as_str().unwrap().is_empty());
        let events = gate.events(&gate.submit(HELLO).await).await;
        assert!(events.contains(r#""finish_reason":"stop""#), "{events}");
        gate.finish().await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_engine_that_falls_silent_is_caught_by_the_watchdog() {
    let gate = Gate::with(
        fails(1, FailureKind::Stall, 1),
        &[("SLUICEGATE_POOLS__0__WATCHDOG__IDLE_MS", "5000"), ("SLUICEGATE_POOLS__0__WATCHDOG__WALL_MS", "60000")],
    )
    .await;
    let began = tokio::time::Instant::now();
    let events = gate.events(&gate.submit(HELLO).await).await;
    assert!(events.contains(r#""code":"DECODE_TIMEOUT""#), "{events}");
    assert_eq!(began.elapsed().as_secs(), 5);
    let events = gate.events(&gate.submit(HELLO).await).await;
    assert!(events.contains(r#""finish_reason":"stop""#), "{events}");
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn a_task_that_runs_too_long_is_ended() {
    let script = Script { token: Duration::from_secs(1), ..Script::default() };
    let gate = Gate::with(script, &[("SLUICEGATE_POOLS__0__WATCHDOG__WALL_MS", "10000")]).await;
    let events = gate.events(&gate.submit(HELLO).await).await;
    assert!(events.contains(r#""code":"DECODE_TIMEOUT""#), "{events}");
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn a_whole_answer_fails_with_the_status_of_its_error() {
    let gate = Gate::scripted(fails(1, FailureKind::Reset, 1)).await;
    let chat = r#"{"model": "builtin", "messages": [{"role": "user", "content": "hi"}]}"#;
    let answer = gate.post("/v1/chat/completions", chat).await;
    assert_eq!(
        (answer.status, &answer.json()["error"]["code"]),
        (StatusCode::SERVICE_UNAVAILABLE, &"engine_reset".into())
    );
    assert_ne!(answer.header("retry-after"), "");
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn shutting_down_refuses_new_tasks_and_lets_running_ones_end() {
    let gate = Gate::scripted(says(&["one ", "two"])).await;
    let id = gate.submit(HELLO).await;
    gate.lifecycle.shutdown();
    assert_eq!(gate.get("/readyz").await.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(gate.get("/healthz").await.status, StatusCode::OK);
    let refused = gate.post("/v2/tasks", HELLO).await;
    assert_eq!((refused.status, &refused.json()["code"]), (StatusCode::SERVICE_UNAVAILABLE, &"POOL_UNREADY".into()));
    assert!(gate.events(&id).await.contains(r#""finish_reason":"stop""#));
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn counters_agree_with_what_clients_saw() {
    let gate = Gate::scripted(fails(2, FailureKind::Reset, 1)).await;
    gate.events(&gate.submit(HELLO).await).await;
    gate.events(&gate.submit(HELLO).await).await;
    let canceled = gate.submit(r#"{"model_ref": "builtin", "prompt": "one two three"}"#).await;
    gate.post(&format!("/v2/tasks/{canceled}/cancel"), "").await;
    gate.settle().await;
    assert_eq!(gate.loads.load(Ordering::SeqCst), 1);
    for (outcome, count) in [("finished", 1.0), ("failed", 1.0), ("canceled", 1.0)] {
        let series = format!(r#"tasks_finished_total{{engine="scripted",outcome="{outcome}",pool_id="default"}}"#);
        assert_eq!(gate.metric(&series).await, count, "{outcome}");
    }
    let version = env!("CARGO_PKG_VERSION");
    let replica = format!(r#"engine="scripted",engine_version="{version}",pool_id="default""#);
    let of = |name: &str, rest: &str| format!("{name}{{{replica},{rest}}}");
    assert_eq!(gate.metric(&of("tasks_enqueued_total", r#"priority="interactive",replica_id="none""#)).await, 3.0);
    // Two tokens before the failure; three and the end of the script in the second task.
    assert_eq!(gate.metric(&of("tokens_out_total", r#"replica_id="default-0""#)).await, 6.0);
    assert_eq!(gate.metric(r#"slots_total{pool_id="default",replica_id="default-0"}"#).await, 8.0);
    assert_eq!(gate.metric(r#"slots_active{pool_id="default",replica_id="default-0"}"#).await, 0.0);
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn an_engine_that_cannot_be_rebuilt_fails_its_queue_and_refuses_more() {
    let dead = Failure { after: 1, kind: FailureKind::Death, times: 1 };
    let gate = Gate::build(Script { slots: 1, failure: Some(dead), ..Script::default() }, &[], 1).await;
    let (first, second) = (gate.submit(HELLO).await, gate.submit(HELLO).await);
    let (first, second) = tokio::join!(gate.events(&first), gate.events(&second));
    assert!(first.contains(r#""code":"WORKER_RESET""#), "{first}");
    assert!(second.contains(r#""code":"REPLICA_EXHAUSTED""#) && !second.contains("event: started"), "{second}");
    let refused = gate.post("/v2/tasks", HELLO).await;
    assert_eq!(
        (refused.status, &refused.json()["code"]),
        (StatusCode::SERVICE_UNAVAILABLE, &"REPLICA_EXHAUSTED".into())
    );
    assert_eq!(gate.get("/readyz").await.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(gate.loads.load(Ordering::SeqCst), 1 + 3);
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn an_engine_that_does_not_heal_is_built_anew_and_its_queue_goes_on() {
    let dead = Failure { after: 1, kind: FailureKind::Death, times: 1 };
    let gate = Gate::build(Script { failure: Some(dead), ..says(&["one ", "two"]) }, &[], 2).await;
    let events = gate.events(&gate.submit(HELLO).await).await;
    assert!(events.contains(r#""code":"WORKER_RESET""#), "{events}");
    gate.recovered().await;
    assert_eq!(gate.loads.load(Ordering::SeqCst), 2);
    assert_eq!(gate.get("/readyz").await.status, StatusCode::OK);
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn the_pauses_between_attempts_to_build_an_engine_anew_grow() {
    let dead = Failure { after: 1, kind: FailureKind::Death, times: 1 };
    let gate = Gate::build(Script { failure: Some(dead), ..Script::default() }, &[], 1).await;
    gate.events(&gate.submit(HELLO).await).await;
    let (mut attempts, mut seconds) = (Vec::new(), 0);
    while attempts.len() < 7 && seconds < 600 {
        let before = gate.loads.load(Ordering::SeqCst);
        tokio::time::sleep(Duration::from_secs(1)).await;
        seconds += 1;
        attempts.extend((before..gate.loads.load(Ordering::SeqCst)).map(|_| seconds));
    }
    let pauses: Vec<_> = attempts.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert_eq!(pauses, [5, 10, 20, 40, 60, 60]);
    gate.finish().await;
}
