//! Tasks that somebody ends between their creation and their filing, when their id is known by then; and what is kept of
//! those that have ended.

use std::sync::Arc;
use std::time::Duration;

use sluicegate::ids::{CorrelationId, PoolId, TaskId, TenantId};
use sluicegate::lifecycle::Lifecycle;
use sluicegate::store::{Location, Store};
use sluicegate::tasks::{Ended, Home, Journal, Limits, Observer, Registry, Retention, Stage, Task, TaskSpec, Ties};
use sluicegate_compat::native::{
    Determinism, ErrorCode, ErrorEnvelope, Event, FinishReason, Priority, Token, TokenKind, Workload,
};
use tokio::time::Instant;

struct Nobody;

impl Observer for Nobody {
    fn ended(&self, _: &Task, _: &Ended) {}
}

fn spec() -> TaskSpec {
    TaskSpec {
        id: TaskId::new(),
        correlation_id: CorrelationId::from("c"),
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
        metadata: std::collections::BTreeMap::new(),
        memo: None,
        limits: Limits {
            prompt_tokens: 1,
            max_tokens: 1,
            choices: 1,
            alone: false,
            expected_tokens: None,
            deadline: None,
        },
    }
}

fn home() -> Home {
    Home { pool_id: PoolId::from("default"), observer: Arc::new(Nobody) }
}

const RETENTION: Retention = Retention { time: Duration::from_secs(600), bytes: 1 << 20 };

const BODY: &[u8] = br#"{"model_ref": "builtin", "prompt": "hi"}"#;

#[tokio::test]
async fn a_task_that_is_cancelled_before_it_is_filed_has_ended_for_the_next_process_too() {
    let store = Store::open(&Location::Memory, &Lifecycle::new()).await.unwrap();
    let (journal, _) = Journal::open(store.clone(), true).await.unwrap();
    let registry = Registry::with_journal(RETENTION, journal.clone());
    let tasks: Vec<_> = (0..2).map(|_| registry.create(spec(), home(), Ties::default()).unwrap()).collect();
    tasks[0].cancel();
    for task in &tasks {
        journal.accept(task, BODY, 1, None, None).await.unwrap();
    }
    assert!(tasks[0].is_kept());

    let (_, mut kept) = Journal::open(store, true).await.unwrap();
    assert_eq!(kept.len(), 2);
    assert!(matches!(kept.pop().unwrap().stage, Stage::Waiting(_)));
    let first = kept.pop().unwrap();
    assert_eq!(first.spec.id, tasks[0].spec.id);
    let Stage::Ended { log, .. } = first.stage else { panic!("it would be run again") };
    let Some((_, Event::End(end))) = log.progress().ended else { panic!("no end") };
    assert_eq!((end.finish_reason, log.last_id()), (FinishReason::Canceled, tasks[0].log.last_id()));
}

#[tokio::test]
async fn what_is_forgotten_before_its_time_is_unknown_to_the_next_process() {
    let store = Store::open(&Location::Memory, &Lifecycle::new()).await.unwrap();
    let (journal, _) = Journal::open(store.clone(), true).await.unwrap();
    let registry = Registry::with_journal(RETENTION, journal.clone());
    let tasks: Vec<_> = (0..2).map(|_| registry.create(spec(), home(), Ties::default()).unwrap()).collect();
    for task in &tasks {
        journal.accept(task, BODY, 1, None, None).await.unwrap();
        assert!(registry.remove(task.spec.id).is_none(), "it has not ended");
        task.cancel();
        task.log.ended().await;
    }
    registry.remove(tasks[0].spec.id).unwrap().await.unwrap();
    assert!(registry.remove(tasks[0].spec.id).is_none());
    let (_, kept) = Journal::open(store.clone(), true).await.unwrap();
    assert_eq!(kept.iter().map(|task| task.spec.id).collect::<Vec<_>>(), [tasks[1].spec.id]);
    store.close().await;
    registry.remove(tasks[1].spec.id).unwrap().await.unwrap_err();
    assert!(registry.is_empty());
    registry.sweep(Instant::now() + RETENTION.time);
}

#[tokio::test]
async fn a_task_whose_end_is_just_shown_can_be_forgotten() {
    let registry = Registry::new(RETENTION);
    let task = registry.create(spec(), home(), Ties::default()).unwrap();
    let failed = ErrorEnvelope::new(ErrorCode::Internal, "it failed");
    // Whoever waits for the end may be faster than the retention that begins with it.
    task.log.seal().unwrap().end(Event::Error(Arc::new(failed)), Instant::now());
    assert!(registry.remove(task.spec.id).is_none());
    assert!(registry.get(task.spec.id).is_none());
    registry.drained().await;
}

#[tokio::test]
async fn an_output_of_an_earlier_process_takes_its_memory_once() {
    let store = Store::open(&Location::Memory, &Lifecycle::new()).await.unwrap();
    let (journal, _) = Journal::open(store.clone(), true).await.unwrap();
    let registry = Registry::with_journal(RETENTION, journal.clone());
    let task = registry.create(spec(), home(), Ties::default()).unwrap();
    journal.accept(&task, BODY, 1, None, None).await.unwrap();
    let (kind, text) = (TokenKind::Text, "a".repeat(10_000).into());
    task.log
        .append(Event::Token(Token { choice: 0, index: 0, text, kind, logprobs: None, tool: None }), Instant::now())
        .unwrap();
    task.cancel();
    task.log.ended().await;
    let (journal, mut kept) = Journal::open(store, true).await.unwrap();
    let again = Registry::with_journal(RETENTION, journal).take_in(kept.pop().unwrap(), home(), Ties::default());
    let again = again.unwrap();
    assert_eq!(again.view(None).output.len(), 10_000);
    assert!((10_000..15_000).contains(&again.bytes()), "{}", again.bytes());
}
