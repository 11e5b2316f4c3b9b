//! Tasks that somebody ends between their creation and their filing: their id is known by then.

use std::sync::Arc;
use std::time::Duration;

use sluicegate::ids::{CorrelationId, PoolId, TaskId, TenantId};
use sluicegate::lifecycle::Lifecycle;
use sluicegate::store::{Location, Store};
use sluicegate::tasks::{Ended, Home, Journal, Limits, Observer, Registry, Retention, Stage, Task, TaskSpec, Ties};
use sluicegate_compat::native::{Determinism, FinishReason, Priority, Workload};

struct Nobody;

impl Observer for Nobody {
    fn ended(&self, _: &Task, _: &Ended) {}
}

fn spec() -> TaskSpec {
    TaskSpec {
        id: TaskId::new(),
        correlation_id: CorrelationId::from("c"),
        tenant_id: TenantId::from("default"),
        session_id: None,
        workload: Workload::Completion,
        model_ref: "builtin".into(),
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

#[tokio::test]
async fn a_task_that_is_cancelled_before_it_is_filed_has_ended_for_the_next_process_too() {
    let store = Store::open(&Location::Memory, &Lifecycle::new()).await.unwrap();
    let (journal, _) = Journal::open(store.clone()).await.unwrap();
    let retention = Retention { time: Duration::from_secs(600), bytes: 1 << 20 };
    let registry = Registry::with_journal(retention, journal.clone());
    let home = || Home { pool_id: PoolId::from("default"), observer: Arc::new(Nobody) };
    let tasks: Vec<_> = (0..2).map(|_| registry.create(spec(), home(), Ties::default()).unwrap()).collect();
    tasks[0].cancel();
    for task in &tasks {
        let body = br#"{"model_ref": "builtin", "prompt": "hi"}"#;
        journal.accept(task, body, 1, None, None).await.unwrap();
    }
    assert!(tasks[0].is_kept());

    let (_, mut kept) = Journal::open(store).await.unwrap();
    assert_eq!(kept.len(), 2);
    assert!(matches!(kept.pop().unwrap().stage, Stage::Waiting(_)));
    let first = kept.pop().unwrap();
    assert_eq!(first.spec.id, tasks[0].spec.id);
    let Stage::Ended { log, .. } = first.stage else { panic!("it would be run again") };
    let Some((_, sluicegate_compat::native::Event::End(end))) = log.progress().ended else { panic!("no end") };
    assert_eq!((end.finish_reason, log.last_id()), (FinishReason::Canceled, tasks[0].log.last_id()));
}
