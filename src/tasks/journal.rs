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
use super::{Clock, Hold, Passage, Progress, Task, TaskSpec};
use crate::budgets::price::Tokens;
use crate::budgets::{Amounts, Budgets};
use crate::clock::unix_ms;
use crate::ids::{PoolId, ReplicaId, TaskId};
use crate::store::{EndedRow, HeldRows, HoldRow, KeyRow, SessionRow, Store, StoreError, TaskRow, signed};

mod kept;
mod rows;

use kept::read;
use rows::{entry, facts, holder, json, lost_entry, spent_row};

/// Becomes `Ok` once what was filed is durable. Any number of parties may wait for it.
pub type Durable = Shared<BoxFuture<'static, Result<(), StoreError>>>;

/// What is filed of a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Extent {
    /// Everything: it outlives the process.
    Task,
    /// What it holds of budgets: it ends with the process, and what it has used is charged all the same.
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
    /// Whether it counts for a budget of its tenant or its key, which is counted from the ledger.
    pub owned: bool,
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

/// Rows of the ledger that are added up in one step, so that nobody waits much longer than for others: a few ms.
const SUMMED_AT_ONCE: usize = 5000;

/// Rows that are added up each time: more than come in a second, and not so many that an old ledger holds up others.
const SUMMED_IN_A_TURN: i64 = 50_000;

/// Files tasks. Cheap to clone.
#[derive(Clone)]
pub struct Journal {
    store: Store,
    /// The position of the next task.
    next: Arc<AtomicI64>,
    /// Whether each task gets a row of the ledger, and not only those that count for a budget of their tenant or their key.
    enters_all: bool,
    /// The number of the next row of the ledger.
    next_entry: Arc<AtomicI64>,
    /// Rows up to this number are added up, or are about to be.
    summed: Arc<AtomicI64>,
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
    /// Over what the store has, which is returned beside it in the order in which the tasks were accepted. `enters_all`: what any
    /// task uses is entered into the ledger.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    pub async fn open(store: Store, enters_all: bool) -> Result<(Self, Vec<Kept>), StoreError> {
        let rows = store.tasks().await?;
        let next = rows.last().map_or(0, |row| row.position + 1);
        let (last, summed) = (store.ledger_last().await?, store.ledger_summed().await?);
        let journal = Self {
            store,
            next: Arc::new(AtomicI64::new(next)),
            enters_all,
            next_entry: Arc::new(AtomicI64::new(last + 1)),
            summed: Arc::new(AtomicI64::new(summed)),
        };
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
    /// what it has reserved of budgets; from then on the journal hears what becomes of it.
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
        let held = HeldRows { session, hold: self.hold(task) };
        let accepted = durable(|told| self.store.task_accepted(row, key, held, told));
        self.keep(task, Extent::Task);
        accepted
    }

    /// Files what a task has reserved of budgets that ends with the process, and that its session is in use; of one that has
    /// reserved nothing, what it has used once it has ended, which its last event waits for.
    pub fn enter(&self, task: &Task, session: Option<SessionRow>) {
        match self.hold(task) {
            Some(hold) => {
                self.store.hold_taken(session, hold);
                self.keep(task, Extent::Spending);
            }
            None => self.keep(task, Extent::Entry),
        }
    }

    /// What a task has reserved; `None` where that is nothing.
    fn hold(&self, task: &Task) -> Option<HoldRow> {
        let spending = task.spending.as_ref().filter(|spending| spending.is_counted())?;
        let enters = self.enters_all || spending.is_owned();
        let hold = Hold { holder: enters.then(|| holder(task)), ..spending.hold() };
        let session = spending.session().map(signed);
        Some(HoldRow { task_id: task.spec.id.to_string(), session, held: json(&hold), started_at_ms: None })
    }

    /// From now on hears what becomes of a task that was just filed. One that somebody has cancelled meanwhile has its end
    /// filed as well, or the next process would run it.
    fn keep(&self, task: &Task, extent: Extent) {
        if let Some(ending) = task.keep_in(self.clone(), extent) {
            let _ending = task.ending();
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

    /// Files what a task of an earlier process is charged for that ended with it; `started_ms` of one that had started.
    pub fn settled(&self, id: TaskId, at_ms: u64, amounts: Amounts, (hold, started_ms): (&Hold, Option<u64>)) {
        let entry = hold.holder.as_ref().zip(started_ms).map(|(holder, started_ms)| {
            let number = self.next_entry.fetch_add(1, Ordering::Relaxed);
            lost_entry(number, id, (at_ms, amounts), holder, started_ms)
        });
        self.store.hold_settled(spent_row(id, at_ms, Spent { amounts, turn: false }), entry, |_| ());
    }

    /// Files the end of a task and what it has used, both together, so that whoever has seen the end never finds the other
    /// given back; and calls back when it may be shown.
    pub(super) fn ended(&self, task: &Task, extent: Extent, ending: &Ending, show: impl FnOnce() + Send + 'static) {
        let Ending { progress, last_id, used, spent } = ending;
        let Some((at, last)) = &progress.ended else { return show() };
        let (id, ended_at_ms) = (task.spec.id, task.created.unix_ms_at(*at));
        let spent = spent.map(|spent| spent_row(id, ended_at_ms, spent));
        let entry = (self.enters_all || used.owned).then(|| {
            let number = self.next_entry.fetch_add(1, Ordering::Relaxed);
            entry(number, task, progress, used, (ended_at_ms, last))
        });
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

    /// Adds up what has come to the ledger, so that it is quickly told what somebody has spent. Called every second or so.
    pub fn sum_up(&self, budgets: &Budgets) {
        // Each number that was given by then is in the hands of the store.
        let last = budgets.between_ends(|| self.next_entry.load(Ordering::Relaxed)) - 1;
        let summed = self.summed.load(Ordering::Relaxed);
        let last = last.min(summed.saturating_add(SUMMED_IN_A_TURN));
        for step in (summed..last).step_by(SUMMED_AT_ONCE) {
            self.store.ledger_sum_up(last.min(step.saturating_add(SUMMED_AT_ONCE as i64)));
        }
        self.summed.store(last, Ordering::Relaxed);
    }

    /// Notes that the process lives: whoever finds later that it was killed knows how long its tasks can have run. Called every
    /// second or so while there are any.
    pub fn lives(&self) {
        self.store.alive(signed(unix_ms()));
    }

    /// Deletes entries of the ledger of tasks that ended longer ago.
    pub fn forget_entries(&self, retention: Duration) {
        let now_ms = unix_ms();
        self.store.ledger_forgotten(signed(now_ms.saturating_sub(millis(retention))), signed(now_ms));
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
