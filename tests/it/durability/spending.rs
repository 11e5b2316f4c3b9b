//! The law of budgets over any number of crashes: clients never see more used than the budget is, and never find given back
//! what they saw used.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use sluicegate::budgets::{Amounts, Budgets, Left};
use sluicegate::gateway::take_in;
use sluicegate::ids::{CorrelationId, PoolId, SessionId, TaskId, TenantId};
use sluicegate::lifecycle::Lifecycle;
use sluicegate::sessions::{Key, SessionMetrics, Sessions, Settings};
use sluicegate::store::{Location, Store};
use sluicegate::tasks::{
    Ended, Home, Journal, Limits, Observer, Registry, Retention, Spending, Task, TaskSpec, Terms, Ties, Usage,
};
use sluicegate_compat::native::{
    Determinism, Event, FinishReason, ModelPrice, Priority, Started, Token, TokenKind, Workload,
};
use tokio::time::Instant;

const LIMIT: u64 = 300;
const PROMPT: u64 = 2;

struct Nobody;

impl Observer for Nobody {
    fn ended(&self, _: &Task, _: &Ended) {}
}

/// What can happen; tasks are named by their place among those that have not ended.
#[derive(Debug, Clone)]
enum Step {
    /// A task with so much output at most; a native one, or a chat.
    Submit(u64, bool),
    Start(usize),
    Tokens(usize, u64),
    Finish(usize),
    Cancel(usize),
    Crash,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1..40_u64, any::<bool>()).prop_map(|(most, kept)| Step::Submit(most, kept)),
        3 => (0..6_usize).prop_map(Step::Start),
        3 => (0..6_usize, 1..20_u64).prop_map(|(which, count)| Step::Tokens(which, count)),
        2 => (0..6_usize).prop_map(Step::Finish),
        1 => (0..6_usize).prop_map(Step::Cancel),
        2 => Just(Step::Crash),
    ]
}

/// The parts of a gateway that keep accounts.
struct Process {
    store: Store,
    budgets: Budgets,
    sessions: Arc<Sessions>,
    registry: Arc<Registry>,
    live: Vec<Arc<Task>>,
}

fn key() -> Key {
    Key { tenant: TenantId::from("default"), id: SessionId(uuid::Uuid::from_u128(1)) }
}

impl Process {
    async fn open(folder: &Path) -> Self {
        let store = Store::open(&Location::in_folder(folder), &Lifecycle::new()).await.unwrap();
        let (journal, kept) = Journal::open(store.clone(), true).await.unwrap();
        let registry = Registry::with_journal(Retention { time: Duration::from_secs(600), bytes: 1 << 20 }, journal);
        let budgets = Budgets::new();
        let budget = Left { tokens: Some(LIMIT), ..Left::default() };
        let settings = Settings { ttl: Duration::from_secs(3600), most_idle: 10, budget };
        let metrics = SessionMetrics::register(&prometheus::Registry::new()).unwrap();
        let (sessions, holds) = Sessions::open(settings, budgets.clone(), metrics, store.clone()).await.unwrap();
        let waiting = take_in(&registry, &sessions, kept, holds);
        let (live, ended): (Vec<_>, Vec<_>) = registry.live().into_iter().partition(|task| !task.log.is_sealed());
        for task in ended {
            task.log.ended().await;
        }
        assert_eq!(live.len(), waiting.len(), "what ran has ended");
        Self { store, budgets, sessions, registry, live }
    }

    /// Whether the budget had room for it.
    fn submit(&mut self, most: u64, kept: bool) -> bool {
        let turn = self.sessions.enter(key());
        let tokens = Amounts { tokens: PROMPT + most, ..Amounts::default() };
        let reserved = self.budgets.reserve(vec![turn.account()], |_| Ok((tokens, ())));
        let Ok((reservation, ())) = reserved else { return false };
        let terms = Terms { price: ModelPrice::default(), tokens_cost: 0, capped_by: None };
        let spending = Some(Spending::new(&self.budgets, reservation, terms, Some(turn.session())));
        let limits = Limits {
            prompt_tokens: PROMPT as u32,
            max_tokens: most as u32,
            choices: 1,
            alone: false,
            expected_tokens: None,
            deadline: None,
        };
        let spec = TaskSpec {
            id: TaskId::new(),
            correlation_id: CorrelationId::from("trial"),
            tenant_id: key().tenant,
            key_id: None,
            only_pools: None,
            session_id: Some(key().id.0),
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
        let home = Home { pool_id: PoolId::from("default"), observer: Arc::new(Nobody) };
        let task = self.registry.create(spec, home, Ties { held: vec![Box::new(turn)], spending }).unwrap();
        let journal = self.registry.journal().unwrap();
        self.sessions.filing(&task, |session| {
            if kept {
                _ = journal.accept(&task, br#"{"model_ref": "builtin", "prompt": "say it"}"#, 1, None, session);
            } else {
                journal.enter(&task, session);
            }
        });
        self.live.push(task);
        true
    }

    /// What is spent and reserved.
    fn used(&self) -> u64 {
        let (accounts, first) = self.sessions.accounts(&key());
        LIMIT - self.budgets.left(accounts).least(first).tokens.unwrap()
    }
}

fn started() -> Arc<Started> {
    Arc::new(Started {
        queue_position: 0,
        predicted_start_ms: 0,
        engine: "scripted".into(),
        engine_version: String::new(),
        pool_id: "default".into(),
        replica_id: "default-0".into(),
        sampler_profile_version: String::new(),
        model_digest: String::new(),
    })
}

fn token(index: u32) -> Event {
    Event::Token(Token { choice: 0, index, text: "word ".into(), kind: TokenKind::Text, logprobs: None, tool: None })
}

/// What a client has seen a task use: all that was said at its end, or the tokens so far.
fn seen(task: &Task) -> u64 {
    let progress = task.log.progress();
    match &progress.ended {
        Some((_, Event::End(end))) => end.tokens_in + end.tokens_out,
        _ if progress.started.is_some() => PROMPT + progress.tokens,
        _ => 0,
    }
}

async fn run(steps: Vec<Step>) {
    let folder = tempfile::tempdir().unwrap();
    let mut process = Process::open(folder.path()).await;
    // By tasks that clients follow no longer.
    let mut over = 0;
    for step in steps {
        let running = |task: &Arc<Task>| task.log.progress().started.is_some();
        match step {
            Step::Submit(most, kept) => {
                let room = LIMIT - process.used() >= PROMPT + most;
                assert_eq!(process.submit(most, kept), room);
            }
            Step::Start(which) => {
                if let Some(task) = process.live.get(which).filter(|task| !running(task)) {
                    let durable = task.start(started(), Instant::now()).unwrap();
                    durable.unwrap().await.unwrap();
                }
            }
            Step::Tokens(which, count) => {
                if let Some(task) = process.live.get(which).filter(|task| running(task)) {
                    let more = count.min(u64::from(task.limits().max_tokens) - task.log.progress().tokens);
                    (0..more as u32).for_each(|index| task.log.append(token(index), Instant::now()).unwrap());
                }
            }
            Step::Finish(which) if which < process.live.len() && running(&process.live[which]) => {
                let task = process.live.swap_remove(which);
                let usage = Usage { tokens_out: task.log.progress().tokens, cached_tokens: 0 };
                task.finish(task.log.seal().unwrap(), FinishReason::Stop, usage, Vec::new());
                task.log.ended().await;
                over += seen(&task);
            }
            Step::Cancel(which) if which < process.live.len() => {
                let task = process.live.swap_remove(which);
                task.cancel();
                task.log.ended().await;
                over += seen(&task);
            }
            Step::Finish(_) | Step::Cancel(_) => {}
            Step::Crash => {
                over += process.live.iter().map(|task| seen(task)).sum::<u64>();
                process.store.close().await;
                process = Process::open(folder.path()).await;
            }
        }
        let now: u64 = process.live.iter().map(|task| seen(task)).sum();
        assert!(over + now <= process.used(), "{over} and {now} were seen, {} are used", process.used());
        assert!(process.used() <= LIMIT);
    }
    for task in std::mem::take(&mut process.live) {
        task.cancel();
        task.log.ended().await;
        over += seen(&task);
    }
    assert!(process.budgets.is_settled());
    assert_eq!(process.store.holds().await.unwrap(), []);
    let used = process.used();
    assert!(over <= used && used <= LIMIT);
    process.store.close().await;
    assert_eq!(Process::open(folder.path()).await.used(), used);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn over_any_crashes_nothing_is_overspent_and_nothing_that_was_seen_is_given_back(
        steps in proptest::collection::vec(step(), 0..40),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(run(steps));
    }
}
