//! Once a cancellation has returned, no token is ever added: randomised trials with real threads.
//!
//! `cargo test` makes ten thousand trials. A million, in one to five minutes, as busy as the machine is:
//!
//! ```text
//! cargo test --test it -- --ignored a_million_cancellations
//! ```

use std::hint::spin_loop;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::ScopedJoinHandle;
use std::time::Duration;

use axum::body::Body;
use axum::http::StatusCode;
use sluicegate::engine::scripted::Script;
use sluicegate::ids::{CorrelationId, PoolId, TaskId, TenantId};
use sluicegate::tasks::{Ended, Home, Limits, Observer, Registry, Retention, Task, TaskSpec, Ties};
use sluicegate_compat::native::{Determinism, Event, Priority, Token, TokenKind, Workload};
use tokio::time::Instant;

use crate::harness::{Gate, read_until, request};

/// The pauses of one run follow from it.
const SEED: u64 = 0x5EED;

/// The canceller waits for up to so many turns: a few µs, in which the appender adds none to a few hundred tokens.
const LONGEST_PAUSE: u64 = 512;

/// Trials that two threads go through side by side, so that starting the threads does not take most of the time.
const BATCH: usize = 250;

/// SplitMix64 (Steele, Lea and Flood, 2014).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (mixed ^ (mixed >> 31)) % bound
    }
}

struct Nobody;

impl Observer for Nobody {
    fn ended(&self, _: &Task, _: &Ended) {}
}

/// A task as admission makes it; its registry keeps nothing that has ended.
fn task(registry: &Arc<Registry>) -> Arc<Task> {
    let limits = Limits {
        prompt_tokens: 1,
        max_tokens: u32::MAX,
        choices: 1,
        alone: false,
        expected_tokens: None,
        deadline: None,
    };
    let spec = TaskSpec {
        id: TaskId::new(),
        correlation_id: CorrelationId::from("trial"),
        tenant_id: TenantId::from("default"),
        key_id: None,
        only_pools: None,
        session_id: None,
        workload: Workload::Completion,
        model_ref: "builtin".into(),
        model_id: "builtin".into(),
        price: Default::default(),
        priority: Priority::Interactive,
        determinism: Determinism::BestEffort,
        metadata: Default::default(),
        memo: None,
        limits,
    };
    registry
        .create(spec, Home { pool_id: PoolId::from("default"), observer: Arc::new(Nobody) }, Ties::default())
        .unwrap()
}

fn token(index: u32) -> Event {
    Event::Token(Token { choice: 0, index, text: "word ".into(), kind: TokenKind::Text, logprobs: None, tool: None })
}

/// One task, with what the canceller says when it is through.
struct Trial {
    task: Arc<Task>,
    canceled: AtomicBool,
    /// The appender is at work.
    running: AtomicBool,
}

impl Trial {
    fn new(registry: &Arc<Registry>) -> Self {
        Self { task: task(registry), canceled: AtomicBool::new(false), running: AtomicBool::new(false) }
    }
}

/// The engine's side: adds tokens until the log takes no more, then tries some more. Returns how many it added.
fn append_until_refused(trial: &Trial) -> u64 {
    trial.running.store(true, Ordering::SeqCst);
    let log = &trial.task.log;
    let mut added = 0;
    loop {
        let too_late = trial.canceled.load(Ordering::SeqCst);
        if log.append(token(added), Instant::now()).is_err() {
            break;
        }
        assert!(!too_late, "token {added} was added after the cancellation had returned");
        added += 1;
        // No engine takes the lock again at once; one that did would keep the canceller waiting for it.
        (0..8).for_each(|_| spin_loop());
    }
    assert!((0..8).all(|more| log.append(token(added + more), Instant::now()).is_err()), "a sealed log took a token");
    u64::from(added)
}

/// Cancels so long after the appender's start, or at once, and returns the events of the log right after.
fn cancel_after(trial: &Trial, pause: Option<u64>, appender: &ScopedJoinHandle<'_, Vec<u64>>) -> usize {
    if let Some(pause) = pause {
        while !trial.running.load(Ordering::SeqCst) && !appender.is_finished() {
            std::thread::yield_now();
        }
        (0..pause).for_each(|_| spin_loop());
    }
    trial.task.cancel();
    let events = trial.task.log.inspect(<[Event]>::len);
    trial.canceled.store(true, Ordering::SeqCst);
    events
}

/// One trial in eight cancels whether or not the appender is at work.
fn pause(random: &mut Random) -> Option<u64> {
    (random.below(8) > 0).then(|| random.below(LONGEST_PAUSE))
}

/// Makes so many trials, and returns in how many of them tokens came before the cancellation.
fn trials(count: usize) -> usize {
    let registry = Registry::new(Retention { time: Duration::ZERO, bytes: 0 });
    let mut random = Random(SEED);
    let mut caught_running = 0;
    for batch in 0..count.div_ceil(BATCH) {
        let trials: Vec<Trial> = (0..BATCH).map(|_| Trial::new(&registry)).collect();
        let (at_cancel, added) = std::thread::scope(|scope| {
            let appender = scope.spawn(|| trials.iter().map(append_until_refused).collect());
            let cancel = |trial| cancel_after(trial, pause(&mut random), &appender);
            let at_cancel: Vec<usize> = trials.iter().map(cancel).collect();
            (at_cancel, appender.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
        });
        for (trial, (at_cancel, added)) in trials.iter().zip(at_cancel.into_iter().zip(added)) {
            let log = &trial.task.log;
            let now = log.inspect(<[Event]>::len);
            assert_eq!(now, at_cancel, "batch {batch}: events after the cancellation had returned");
            assert_eq!(log.progress().tokens, added, "batch {batch}: the appender was told otherwise");
            assert_eq!(now as u64, added + 1, "batch {batch}: one event beside the tokens, the last");
            assert!(log.inspect(|events| events.last().is_some_and(Event::is_last)), "batch {batch}");
            caught_running += usize::from(added > 0);
        }
    }
    assert!(registry.is_empty(), "an ended task was kept");
    caught_running
}

#[test]
fn no_token_comes_after_any_of_ten_thousand_cancellations() {
    let caught_running = trials(10_000);
    assert!(caught_running > 1000, "only {caught_running} of the trials cancelled a task that ran");
}

#[test]
#[ignore = "some minutes; for changes to the event log"]
fn no_token_comes_after_any_of_a_million_cancellations() {
    let caught_running = trials(1_000_000);
    assert!(caught_running > 100_000, "only {caught_running} of the trials cancelled a task that ran");
}

/// Through the router, with a reader on the stream: what it has seen when the cancellation is answered is all there is.
#[tokio::test(flavor = "multi_thread")]
async fn no_token_comes_after_a_cancellation_over_http_has_been_answered() {
    let script = Script { first_token: Duration::ZERO, token: Duration::ZERO, slots: 4, ..Script::default() };
    let gate = Gate::with(script, &[]).await;
    let mut random = Random(SEED);
    for number in 0..100 {
        let id = gate.submit(r#"{"model_ref": "builtin", "prompt": "say it", "max_tokens": 4096}"#).await;
        let mut stream = gate.send(request("GET", &format!("/v2/tasks/{id}/events"), Body::empty())).await.into_body();
        let mut seen = String::new();
        // After none to three of its tokens.
        for index in 0..random.below(4) {
            let until = format!(r#""i":{index}}}"#);
            if !seen.contains(&until) {
                seen += &read_until(&mut stream, &until).await;
            }
        }
        let canceled = gate.post(&format!("/v2/tasks/{id}/cancel"), "").await;
        assert_eq!(canceled.status, StatusCode::NO_CONTENT);
        let at_cancel = gate.events(&id).await;
        assert!(at_cancel.contains(r#""finish_reason":"canceled""#), "{number}: {at_cancel}");
        seen += &read_until(&mut stream, "event: end").await;
        assert!(at_cancel.starts_with(seen.trim_end()), "{number}: {seen}\nis not the beginning of\n{at_cancel}");
        // Other tasks run on meanwhile, so this one's engine has had all the time it could want.
        tokio::task::yield_now().await;
        assert_eq!(gate.events(&id).await, at_cancel, "{number}");
    }
    gate.finish().await;
}
