//! What is kept of accepted tasks, so that they outlive the process: written as they go, and read when it starts again.
//!
//! A task is filed before its client hears that it was accepted, and its start before an engine gets it. Its last event is
//! shown once it is durable: what a client has seen of an end is never taken back. What is filed goes with the task's
//! retention.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Shared};
use serde::{Deserialize, Serialize};
use sluicegate_compat::native::{Determinism, End, ErrorEnvelope, Event, Priority, Started, TaskRequest, Workload};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::log::EventLog;
use super::task::millis;
use super::{Clock, Limits, Passage, Progress, Task, TaskSpec};
use crate::budgets::Amounts;
use crate::ids::{CorrelationId, PoolId, ReplicaId, TaskId, TenantId};
use crate::store::{EndedRow, HoldRow, KeyRow, SessionRow, SpentRow, Store, StoreError, TaskRow, signed};

/// Becomes `Ok` once what was filed is durable. Any number of parties may wait for it.
pub type Durable = Shared<BoxFuture<'static, Result<(), StoreError>>>;

/// What is filed of a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Extent {
    /// Everything: it outlives the process.
    Task,
    /// What it holds of its session's budgets: it ends with the process, and what it has used is charged all the same.
    Spending,
}

/// What a task has used in the end.
#[derive(Debug, Clone, Copy)]
pub(super) struct Spent {
    pub amounts: Amounts,
    /// Whether its session has a turn more.
    pub turn: bool,
}

/// How a task ended.
#[derive(Debug, Clone)]
pub(super) struct Ending {
    /// With the last event.
    pub progress: Progress,
    /// Of that event.
    pub last_id: u64,
    /// Where it counts for a session.
    pub spent: Option<Spent>,
}

/// What the journal knows of a task.
#[derive(Default)]
pub(super) enum Filing {
    /// Nothing: it is not filed yet, or neither outlives the process nor counts for a session.
    #[default]
    Nothing,
    Kept(Journal, Extent),
    /// Nothing, and it has ended. Should it be filed all the same, its end has to follow.
    Missed(Box<Ending>),
}

impl Filing {
    pub fn journal(&self) -> Option<(Journal, Extent)> {
        if let Self::Kept(journal, extent) = self { Some((journal.clone(), *extent)) } else { None }
    }
}

/// Files tasks. Cheap to clone.
#[derive(Clone)]
pub struct Journal {
    store: Store,
    /// The position of the next task.
    next: Arc<AtomicI64>,
}

/// A key that a request was sent with, and what tells its body from others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    pub name: String,
    pub fingerprint: String,
}

/// A task that the journal knows, as it was when the process ended.
pub struct Kept {
    pub spec: TaskSpec,
    pub created: Clock,
    pub pool_id: PoolId,
    pub replica_id: Option<ReplicaId>,
    /// The tenant's weight beside others.
    pub weight: u32,
    pub stage: Stage,
}

/// How far a task had come.
pub enum Stage {
    Waiting(Box<TaskRequest>),
    /// An engine had it.
    Started(Arc<EventLog>),
    Ended {
        log: Arc<EventLog>,
        outputs: Vec<String>,
        /// Of a task with a memo.
        passages: Vec<Passage>,
        ago: Duration,
    },
}

/// What is known of a task beside its prompt and its output, but for what a memo may say of the first.
#[derive(Serialize, Deserialize)]
struct Facts {
    created_at_ms: u64,
    correlation_id: String,
    tenant: String,
    weight: u32,
    session_id: Option<uuid::Uuid>,
    workload: Workload,
    model_ref: String,
    priority: Priority,
    determinism: Determinism,
    metadata: std::collections::BTreeMap<String, String>,
    prompt_tokens: u32,
    max_tokens: u32,
    choices: u16,
    alone: bool,
    expected_tokens: Option<u32>,
    deadline_at_ms: Option<u64>,
    pool_id: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    memo: Option<String>,
}

/// The start of a task.
#[derive(Serialize, Deserialize)]
struct Start {
    at_ms: u64,
    event: Started,
}

/// The end of a task.
#[derive(Serialize, Deserialize)]
struct Outcome {
    last: Last,
    /// Of the last event.
    id: u64,
    start: Option<Start>,
    first_token_at_ms: Option<u64>,
    tokens: u64,
    outputs: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    passages: Vec<Passage>,
    pool_id: String,
}

#[derive(Serialize, Deserialize)]
enum Last {
    End(End),
    Error(ErrorEnvelope),
}

impl Journal {
    /// Over what the store has, which is returned beside it in the order in which the tasks were accepted.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    pub async fn open(store: Store) -> Result<(Self, Vec<Kept>), StoreError> {
        let rows = store.tasks().await?;
        let next = rows.last().map_or(0, |row| row.position + 1);
        let journal = Self { store, next: Arc::new(AtomicI64::new(next)) };
        let now = Clock::now();
        let mut kept = Vec::with_capacity(rows.len());
        for row in rows {
            let (id, position) = (row.id.clone(), row.position);
            match read(row, now) {
                Some(task) => kept.push(task),
                None => tracing::error!(task_id = id, position, "the journal has a task that cannot be read"),
            }
        }
        Ok((journal, kept))
    }

    /// Files a task that has not started, with the body of its request, which another process can read again, its key, and
    /// what it has reserved of its session's budgets; from then on the journal hears what becomes of it.
    pub fn accept(
        &self,
        task: &Task,
        body: &[u8],
        weight: u32,
        key: Option<Key>,
        session: Option<SessionRow>,
    ) -> Durable {
        let key = key.map(|key| KeyRow {
            tenant: task.spec.tenant_id.to_string(),
            name: key.name,
            fingerprint: key.fingerprint,
            task_id: task.spec.id.to_string(),
            answer: None,
            created_at_ms: signed(task.created.unix_ms),
        });
        let row = TaskRow {
            position: self.next.fetch_add(1, Ordering::Relaxed),
            id: task.spec.id.to_string(),
            facts: json(&facts(task, weight)),
            // What was read as JSON is UTF-8.
            request: Some(String::from_utf8_lossy(body).into_owned()),
            started: None,
            ended_at_ms: None,
            outcome: None,
        };
        let session = session.and_then(|session| hold(task, session));
        let accepted = durable(|told| self.store.task_accepted(row, key, session, told));
        self.keep(task, Extent::Task);
        accepted
    }

    /// Files what a task has reserved of its session's budgets that ends with the process, and that the session is in use.
    pub fn reserve(&self, task: &Task, session: SessionRow) {
        if let Some((session, hold)) = hold(task, session) {
            self.store.hold_taken(session, hold);
            self.keep(task, Extent::Spending);
        }
    }

    /// From now on hears what becomes of a task that was just filed. One that somebody has cancelled meanwhile has its end
    /// filed as well, or the next process would run it.
    fn keep(&self, task: &Task, extent: Extent) {
        if let Some(ending) = task.keep_in(self.clone(), extent) {
            self.ended(task, extent, &ending, || ());
        }
    }

    /// Files the answer that a task's request got, for the key that it was sent with.
    pub fn answered(&self, id: TaskId, answer: &impl Serialize) {
        self.store.task_answered(id.to_string(), json(answer));
    }

    /// Forgets a task that was refused after it was filed.
    pub fn withdraw(&self, id: TaskId) {
        self.store.task_withdrawn(id.to_string());
    }

    /// Files the start of a task. From its first token on it must never be run again, so that waits for this.
    pub(super) fn started(&self, id: TaskId, at_ms: u64, event: &Started) -> Durable {
        durable(|told| self.store.task_started(id.to_string(), json(&Start { at_ms, event: event.clone() }), told))
    }

    /// Files the start of a task that ends with the process. From its first token on it has to be charged for what it uses,
    /// so that waits for this.
    pub(super) fn spending_started(&self, id: TaskId, at_ms: u64) -> Durable {
        durable(|told| self.store.hold_started(id.to_string(), signed(at_ms), told))
    }

    /// Files what a task of an earlier process is charged for that ended with it.
    pub fn settled(&self, id: TaskId, at_ms: u64, amounts: Amounts) {
        self.store.hold_settled(spent_row(id, at_ms, Spent { amounts, turn: false }), |_| ());
    }

    /// Files the end of a task and what it has used, both together, so that whoever has seen the end never finds the other
    /// given back; and calls back when it may be shown.
    pub(super) fn ended(&self, task: &Task, extent: Extent, ending: &Ending, show: impl FnOnce() + Send + 'static) {
        let Ending { progress, last_id, spent } = ending;
        let Some((at, last)) = &progress.ended else { return show() };
        let (id, ended_at_ms) = (task.spec.id, task.created.unix_ms_at(*at));
        let spent = spent.map(|spent| spent_row(id, ended_at_ms, spent));
        if extent == Extent::Spending {
            return match spent {
                Some(spent) => self.store.hold_settled(spent, shown(id, show)),
                None => show(),
            };
        }
        let at_ms = |instant: Instant| task.created.unix_ms_at(instant);
        let started = progress.started.as_ref();
        let passages = task.spec.memo.as_ref().map_or_else(Vec::new, |_| task.passages());
        let outcome = Outcome {
            last: match last {
                Event::Error(error) => Last::Error(error.as_ref().clone()),
                Event::End(end) => Last::End(end.as_ref().clone()),
                _ => return show(),
            },
            id: *last_id,
            start: started.map(|(at, event)| Start { at_ms: at_ms(*at), event: event.as_ref().clone() }),
            first_token_at_ms: progress.first_token.map(at_ms),
            tokens: progress.tokens,
            // The text is in one of them.
            outputs: if passages.is_empty() { task.outputs() } else { Vec::new() },
            passages,
            pool_id: task.pool_id().to_string(),
        };
        let row = EndedRow { id: id.to_string(), ended_at_ms: signed(ended_at_ms), outcome: json(&outcome) };
        self.store.task_ended(row, spent, shown(id, show));
    }

    /// Deletes tasks.
    pub(super) fn forget(&self, ids: impl Iterator<Item = TaskId>) -> Durable {
        durable(|told| self.store.tasks_forgotten(ids.map(|id| id.to_string()).collect(), told))
    }

    /// Deletes keys that are older than `ttl`.
    pub fn forget_keys(&self, ttl: Duration) {
        self.store.keys_forgotten(signed(Clock::now().unix_ms.saturating_sub(millis(ttl))));
    }

    /// All keys, the oldest first.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    pub async fn keys(&self) -> Result<Vec<KeyRow>, StoreError> {
        self.store.keys().await
    }
}

/// Hands something over with a callback, and makes a future of that.
fn durable(hand_over: impl FnOnce(Box<dyn FnOnce(Result<(), StoreError>) + Send>)) -> Durable {
    let (told, result) = oneshot::channel();
    // Nobody waits any more where sending fails.
    hand_over(Box::new(|result| _ = told.send(result)));
    async { result.await.unwrap_or(Err(StoreError::Closed)) }.boxed().shared()
}

/// Shows an end once it was tried to store it.
fn shown(id: TaskId, show: impl FnOnce() + Send + 'static) -> impl FnOnce(Result<(), StoreError>) + Send + 'static {
    move |result| {
        if let Err(error) = result {
            // Nobody is helped by a stream that never ends.
            tracing::error!(task_id = %id, %error, "the end of a task is shown and could not be stored");
        }
        show();
    }
}

/// What a task has reserved, beside its session; `None` where it counts for none.
fn hold(task: &Task, session: SessionRow) -> Option<(SessionRow, HoldRow)> {
    let held = json(&task.spending.as_ref()?.hold());
    let (task_id, number) = (task.spec.id.to_string(), session.number);
    Some((session, HoldRow { task_id, session: number, held, started_at_ms: None }))
}

fn spent_row(id: TaskId, at_ms: u64, Spent { amounts, turn }: Spent) -> SpentRow {
    SpentRow {
        task_id: id.to_string(),
        tokens: signed(amounts.tokens),
        time_ms: signed(amounts.time_ms),
        cost: signed(amounts.cost),
        turn,
        ended_at_ms: signed(at_ms),
    }
}

fn facts(task: &Task, weight: u32) -> Facts {
    let TaskSpec { correlation_id, tenant_id, session_id, workload, model_ref, priority, .. } = &task.spec;
    let limits = &task.spec.limits;
    Facts {
        created_at_ms: task.created.unix_ms,
        correlation_id: correlation_id.to_string(),
        tenant: tenant_id.to_string(),
        weight,
        session_id: *session_id,
        workload: *workload,
        model_ref: model_ref.clone(),
        priority: *priority,
        determinism: task.spec.determinism,
        metadata: task.spec.metadata.clone(),
        prompt_tokens: limits.prompt_tokens,
        max_tokens: limits.max_tokens,
        choices: limits.choices,
        alone: limits.alone,
        expected_tokens: limits.expected_tokens,
        deadline_at_ms: limits.deadline.map(|deadline| task.created.unix_ms_at(deadline)),
        pool_id: task.pool_id().to_string(),
        memo: task.spec.memo.as_deref().map(str::to_owned),
    }
}

/// A row as a task; `None` where it is not one.
fn read(row: TaskRow, now: Clock) -> Option<Kept> {
    let facts: Facts = serde_json::from_str(&row.facts).ok()?;
    let id = TaskId::parse(&row.id)?;
    let created = Clock { instant: now.instant_at(facts.created_at_ms), unix_ms: facts.created_at_ms };
    let start = row.started.map(|start| serde_json::from_str::<Start>(&start)).transpose().ok()?;
    let mut replica_id = start.as_ref().map(|start| ReplicaId::from(start.event.replica_id.as_str()));
    let mut pool_id = PoolId::from(facts.pool_id.as_str());
    let stage = match (row.outcome, start, row.request) {
        (Some(outcome), _, _) => {
            let mut outcome: Outcome = serde_json::from_str(&outcome).ok()?;
            pool_id = PoolId::from(outcome.pool_id.as_str());
            replica_id = outcome.start.as_ref().map(|start| ReplicaId::from(start.event.replica_id.as_str()));
            let ended_at_ms = row.ended_at_ms?.cast_unsigned();
            let ago = Duration::from_millis(now.unix_ms.saturating_sub(ended_at_ms));
            let outputs = std::mem::take(&mut outcome.outputs);
            let passages = std::mem::take(&mut outcome.passages);
            Stage::Ended { log: ended_log(outcome, ended_at_ms, now), outputs, passages, ago }
        }
        (None, Some(start), _) => {
            let started = (now.instant_at(start.at_ms), Arc::new(start.event));
            // Its `started` event, and whatever came after it, is not repeated.
            Stage::Started(EventLog::kept(1, Progress { started: Some(started), ..Progress::default() }))
        }
        (None, None, Some(request)) => Stage::Waiting(Box::new(TaskRequest::parse(request.as_bytes()).ok()?)),
        (None, None, None) => return None,
    };
    let weight = facts.weight;
    Some(Kept { spec: spec(id, facts, now), created, pool_id, replica_id, weight, stage })
}

fn spec(id: TaskId, facts: Facts, now: Clock) -> TaskSpec {
    TaskSpec {
        id,
        correlation_id: CorrelationId::from(facts.correlation_id),
        tenant_id: TenantId::from(facts.tenant),
        session_id: facts.session_id,
        workload: facts.workload,
        model_ref: facts.model_ref,
        priority: facts.priority,
        determinism: facts.determinism,
        metadata: facts.metadata,
        memo: facts.memo.map(Into::into),
        limits: Limits {
            prompt_tokens: facts.prompt_tokens,
            max_tokens: facts.max_tokens,
            choices: facts.choices,
            alone: facts.alone,
            expected_tokens: facts.expected_tokens,
            deadline: facts
                .deadline_at_ms
                .map(|at| now.instant + Duration::from_millis(at.saturating_sub(now.unix_ms))),
        },
    }
}

/// A log whose events but the last are gone.
fn ended_log(outcome: Outcome, ended_at_ms: u64, now: Clock) -> Arc<EventLog> {
    let last = match outcome.last {
        Last::End(end) => Event::End(Arc::new(end)),
        Last::Error(error) => Event::Error(Arc::new(error)),
    };
    let progress = Progress {
        started: outcome.start.map(|start| (now.instant_at(start.at_ms), Arc::new(start.event))),
        first_token: outcome.first_token_at_ms.map(|at| now.instant_at(at)),
        tokens: outcome.tokens,
        ..Progress::default()
    };
    let log = EventLog::kept(outcome.id.saturating_sub(1), progress);
    if let Some(seal) = log.seal() {
        seal.end(last, now.instant_at(ended_at_ms));
    }
    log
}

/// None of what is filed can fail to be JSON: names and numbers only, and maps whose keys are strings.
fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}
