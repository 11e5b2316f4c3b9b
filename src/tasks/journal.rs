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
use sluicegate_compat::native::{
    Determinism, End, ErrorEnvelope, Event, ModelPrice, Priority, Started, TaskRequest, Workload,
};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::log::EventLog;
use super::task::millis;
use super::{Clock, Passage, Progress, Task, TaskSpec};
use crate::budgets::Amounts;
use crate::budgets::price::Tokens;
use crate::ids::{KeyId, PoolId, ReplicaId, TaskId};
use crate::store::{EndedRow, HoldRow, KeyRow, LedgerRow, SessionRow, SpentRow, Store, StoreError, TaskRow, signed};

mod kept;

use kept::read;

/// Becomes `Ok` once what was filed is durable. Any number of parties may wait for it.
pub type Durable = Shared<BoxFuture<'static, Result<(), StoreError>>>;

/// What is filed of a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Extent {
    /// Everything: it outlives the process.
    Task,
    /// What it holds of its session's budgets: it ends with the process, and what it has used is charged all the same.
    Spending,
    /// What it has used, once it has ended.
    Entry,
}

/// What a task has used, for the ledger.
#[derive(Debug, Clone, Copy)]
pub(super) struct Used {
    pub tokens: Tokens,
    pub engine_ms: u64,
    /// Micro-units.
    pub cost: u64,
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
    pub used: Used,
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
    /// The number of the next row of the ledger; `None` where there is none.
    next_entry: Option<Arc<AtomicI64>>,
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
    #[serde(default, skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    only_pools: Option<Vec<String>>,
    weight: u32,
    session_id: Option<uuid::Uuid>,
    workload: Workload,
    model_ref: String,
    /// Of the catalog; empty of a task of an earlier version, as the price.
    #[serde(default)]
    model: String,
    #[serde(default)]
    price: ModelPrice,
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
    /// Over what the store has, which is returned beside it in the order in which the tasks were accepted. `ledger`: what tasks
    /// use is entered there.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    pub async fn open(store: Store, ledger: bool) -> Result<(Self, Vec<Kept>), StoreError> {
        let rows = store.tasks().await?;
        let next = rows.last().map_or(0, |row| row.position + 1);
        let next_entry = match ledger {
            true => Some(Arc::new(AtomicI64::new(store.ledger_last().await? + 1))),
            false => None,
        };
        let journal = Self { store, next: Arc::new(AtomicI64::new(next)), next_entry };
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

    /// Enters what a task has used into the ledger once it has ended, which its last event waits for.
    pub fn enter(&self, task: &Task) {
        if self.next_entry.is_some() {
            self.keep(task, Extent::Entry);
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
        self.store.hold_settled(spent_row(id, at_ms, Spent { amounts, turn: false }), None, |_| ());
    }

    /// Files the end of a task and what it has used, both together, so that whoever has seen the end never finds the other
    /// given back; and calls back when it may be shown.
    pub(super) fn ended(&self, task: &Task, extent: Extent, ending: &Ending, show: impl FnOnce() + Send + 'static) {
        let Ending { progress, last_id, used, spent } = ending;
        let Some((at, last)) = &progress.ended else { return show() };
        let (id, ended_at_ms) = (task.spec.id, task.created.unix_ms_at(*at));
        let spent = spent.map(|spent| spent_row(id, ended_at_ms, spent));
        let number = self.next_entry.as_ref().map(|next| next.fetch_add(1, Ordering::Relaxed));
        let entry = number.map(|number| entry(number, task, progress, used, (ended_at_ms, last)));
        if extent != Extent::Task {
            return match (spent, entry) {
                (Some(spent), entry) => self.store.hold_settled(spent, entry, shown(id, show)),
                (None, Some(entry)) => self.store.ledger_entered(entry, shown(id, show)),
                (None, None) => show(),
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
        self.store.task_ended(row, spent, entry, shown(id, show));
    }

    /// Deletes tasks.
    pub(super) fn forget(&self, ids: impl Iterator<Item = TaskId>) -> Durable {
        durable(|told| self.store.tasks_forgotten(ids.map(|id| id.to_string()).collect(), told))
    }

    /// Deletes keys that are older than `ttl`.
    pub fn forget_keys(&self, ttl: Duration) {
        self.store.keys_forgotten(signed(Clock::now().unix_ms.saturating_sub(millis(ttl))));
    }

    /// Deletes entries of the ledger of tasks that ended longer ago.
    pub fn forget_entries(&self, retention: Duration) {
        self.store.ledger_forgotten(signed(Clock::now().unix_ms.saturating_sub(millis(retention))));
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

fn entry(
    number: i64,
    task: &Task,
    progress: &Progress,
    Used { tokens, engine_ms, cost }: &Used,
    (ended_ms, last): (u64, &Event),
) -> LedgerRow {
    let started = progress.started.as_ref().map(|(at, _)| *at);
    let waited_until = started.or(progress.ended.as_ref().map(|(at, _)| *at));
    let waited = waited_until.map(|until| until.saturating_duration_since(task.created.instant));
    LedgerRow {
        number,
        task_id: task.spec.id.to_string(),
        tenant: task.spec.tenant_id.to_string(),
        api_key: task.spec.key_id.as_ref().map(KeyId::to_string).unwrap_or_default(),
        model: task.spec.model_id.to_string(),
        pool: task.pool_id().to_string(),
        tokens_in: signed(tokens.input),
        tokens_cached: signed(tokens.cached.min(tokens.input)),
        tokens_out: signed(tokens.output),
        queue_ms: signed(waited.map_or(0, millis)),
        engine_ms: signed(*engine_ms),
        cost: signed(*cost),
        outcome: match last {
            Event::End(end) => end.finish_reason.as_str(),
            Event::Error(error) => error.code.as_str(),
            _ => "",
        }
        .to_owned(),
        ended_ms: signed(ended_ms),
    }
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
        key: task.spec.key_id.as_ref().map(KeyId::to_string),
        only_pools: task.spec.only_pools.as_deref().map(<[String]>::to_vec),
        weight,
        session_id: *session_id,
        workload: *workload,
        model_ref: model_ref.clone(),
        model: task.spec.model_id.to_string(),
        price: task.spec.price,
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

/// None of what is filed can fail to be JSON: names and numbers only, and maps whose keys are strings.
fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}
