//! One task: its request, its log and what it holds. How it can end is in `endings`, how it looks to clients in `view`.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLockReadGuard, Weak};
use std::time::Duration;

use sluicegate_compat::native::{
    Determinism, End, Event, FinishReason, Metrics, ModelPrice, PolicyLabel, Priority, Started, Workload,
};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::journal::{Ending, Extent, Filing, Spent, Used};
use super::spending::{label, told};
use super::{Durable, EventLog, Journal, Kept, Progress, Registry, Seal, Sealed, Settled, Spending, Stage, Ties};
use crate::budgets::price::{Tokens, time_cost, tokens_cost};
use crate::budgets::{Amounts, Exceeded, Owners, owners};
use crate::clock::unix_ms;
use crate::ids::{CorrelationId, KeyId, ModelId, PoolId, ReplicaId, TaskId, TenantId};

mod endings;
mod passages;
mod view;

pub use endings::Reason;
pub use passages::Passage;

/// What admission decided about a task. The texts of the prompt are not here: they go with its job, and end with it.
#[derive(Debug, Clone)]
pub struct TaskSpec {
    pub id: TaskId,
    pub correlation_id: CorrelationId,
    pub tenant_id: TenantId,
    /// It was asked for with this key; `None` where there were no keys.
    pub key_id: Option<KeyId>,
    /// The pools that it may run in, where who asked may not use all.
    pub only_pools: Option<Arc<[String]>>,
    pub session_id: Option<uuid::Uuid>,
    pub workload: Workload,
    /// As the client named it.
    pub model_ref: String,
    /// As the catalog has it.
    pub model_id: ModelId,
    /// What it costs, whatever its model costs others later.
    pub price: ModelPrice,
    pub priority: Priority,
    pub determinism: Determinism,
    pub metadata: std::collections::BTreeMap<String, String>,
    /// What its dialect wants to find again beside it; the words of the prompt may be in there.
    pub memo: Option<Arc<str>>,
    /// As they were at admission; [`Task::limits`] are those that hold.
    pub limits: Limits,
}

impl TaskSpec {
    /// Whose budgets it counts for.
    pub fn owners(&self) -> Owners {
        owners(&self.tenant_id, self.key_id.as_ref())
    }
}

/// What a task may use.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Exact, by the model's own tokenizer; an upper bound where that is elsewhere.
    pub prompt_tokens: u32,
    /// Per choice.
    pub max_tokens: u32,
    pub choices: u16,
    /// Runs with nothing beside it.
    pub alone: bool,
    /// Output tokens per choice to plan with.
    pub expected_tokens: Option<u32>,
    pub deadline: Option<Instant>,
}

/// What a task has used, as its engine counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Tokens sampled, over all choices.
    pub tokens_out: u64,
    /// Prompt tokens that came from the engine's cache.
    pub cached_tokens: u64,
}

/// Both clocks at one moment: durations come from the monotonic one, shown times from the other.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    pub instant: Instant,
    pub unix_ms: u64,
}

impl Clock {
    pub fn now() -> Self {
        Self { instant: Instant::now(), unix_ms: unix_ms() }
    }

    /// The Unix time in ms of an instant that is not before this one.
    pub fn unix_ms_at(&self, instant: Instant) -> u64 {
        self.unix_ms.saturating_add(millis(instant.saturating_duration_since(self.instant)))
    }

    /// The instant of a Unix time in ms; of one that is too long ago to say, this one.
    pub fn instant_at(&self, unix_ms: u64) -> Instant {
        let (ago, ahead) = (self.unix_ms.saturating_sub(unix_ms), unix_ms.saturating_sub(self.unix_ms));
        let instant = self.instant.checked_sub(Duration::from_millis(ago)).unwrap_or(self.instant);
        instant + Duration::from_millis(ahead)
    }
}

/// The pool that a task is in, and who hears of its end there.
#[derive(Clone)]
pub struct Home {
    pub pool_id: PoolId,
    pub observer: Arc<dyn Observer>,
}

/// Cancels its task when dropped before the task has ended: for requests whose task is theirs alone.
#[derive(Debug)]
pub struct Owner {
    task: Arc<Task>,
    /// Whether the task is forgotten with its clients.
    forgets: bool,
}

impl Owner {
    pub fn of(task: Arc<Task>, forgets: bool) -> Arc<Self> {
        Arc::new(Self { task, forgets })
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        if self.task.finish_early(FinishReason::Canceled.into()) {
            self.task.abandoned.store(true, Ordering::Release);
        }
        if self.forgets {
            self.task.forget();
        }
    }
}

/// Told once when a task has ended, by whichever way.
pub trait Observer: Send + Sync {
    fn ended(&self, task: &Task, how: &Ended);
}

/// How a task ended.
#[derive(Debug, Clone)]
pub struct Ended {
    pub last: Event,
    pub progress: Progress,
}

impl Ended {
    /// Its `end` event, where nobody has ended it.
    pub fn by_itself(&self) -> Option<&End> {
        let Event::End(end) = &self.last else { return None };
        let reasons = [FinishReason::Stop, FinishReason::Length, FinishReason::ToolCalls];
        reasons.contains(&end.finish_reason).then_some(end)
    }
}

impl std::fmt::Debug for Task {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Task").field("id", &self.spec.id).finish_non_exhaustive()
    }
}

/// One task, from admission to the end of its retention.
pub struct Task {
    pub spec: TaskSpec,
    /// Counts the tasks of this process.
    pub number: u64,
    pub created: Clock,
    pub log: Arc<EventLog>,
    /// Cancelled when the task has ended, by whichever way: then its engine stops, and nobody waits for its deadline.
    pub stop: CancellationToken,
    /// Changes when a draining pool hands it on. A plain mutex, held to copy or to replace it.
    home: Mutex<Home>,
    /// Its turn in a session and the like, until it has ended. As above.
    held: Mutex<Vec<Box<dyn Observer>>>,
    /// What it has reserved of budgets, where it counts for one.
    pub spending: Option<Spending>,
    /// The replica that runs it, or ran it last. As above.
    replica: Mutex<Option<ReplicaId>>,
    abandoned: AtomicBool,
    /// Nobody may find it any more once it has ended.
    forgotten: AtomicBool,
    /// It ran in an earlier process, and nobody knows for how long.
    lost: bool,
    /// Its model is being made ready: it is in no queue yet.
    preparing: AtomicBool,
    /// Where it is kept. A plain mutex, held to copy or to replace it.
    filing: Mutex<Filing>,
    /// The text of each choice, of a task that ended in an earlier process.
    kept_outputs: Vec<String>,
    /// Its answer, of a task with a memo that ended in an earlier process.
    kept_passages: Vec<Passage>,
    /// Change when the pool of a waiting task gets another model. As above.
    limits: Mutex<Limits>,
    registry: Weak<Registry>,
}

impl Task {
    pub(super) fn new(spec: TaskSpec, number: u64, home: Home, ties: Ties, registry: Weak<Registry>) -> Arc<Self> {
        let begun = Self::begun(spec, number, home, registry, Clock::now());
        Arc::new(Self { held: Mutex::new(ties.held), spending: ties.spending, ..begun })
    }

    fn begun(spec: TaskSpec, number: u64, home: Home, registry: Weak<Registry>, created: Clock) -> Self {
        let limits = Mutex::new(spec.limits);
        Self {
            spec,
            number,
            created,
            log: EventLog::new(),
            stop: CancellationToken::new(),
            home: Mutex::new(home),
            held: Mutex::default(),
            spending: None,
            replica: Mutex::default(),
            abandoned: AtomicBool::new(false),
            forgotten: AtomicBool::new(false),
            lost: false,
            preparing: AtomicBool::new(false),
            filing: Mutex::default(),
            kept_outputs: Vec::new(),
            kept_passages: Vec::new(),
            limits,
            registry,
        }
    }

    /// A task of an earlier process.
    pub(super) fn again(
        kept: Kept,
        number: u64,
        home: Home,
        ties: Ties,
        (registry, journal): (Weak<Registry>, Journal),
    ) -> Arc<Self> {
        let begun = Self::begun(kept.spec, number, home, registry, kept.created);
        let mut lost = false;
        let (log, kept_outputs, kept_passages) = match kept.stage {
            Stage::Waiting(_) => (EventLog::new(), Vec::new(), Vec::new()),
            Stage::Started(log) => {
                lost = true;
                (log, Vec::new(), Vec::new())
            }
            Stage::Ended { log, outputs, passages, .. } => (log, outputs, passages),
        };
        let (replica, filing) = (Mutex::new(kept.replica_id), Mutex::new(Filing::Kept(journal, Extent::Task)));
        let (held, spending) = (Mutex::new(ties.held), ties.spending);
        Arc::new(Self { log, kept_outputs, kept_passages, replica, filing, held, spending, lost, ..begun })
    }

    /// From now on `journal` hears what becomes of it, or of what it holds. Returns the end that came before that.
    pub(super) fn keep_in(&self, journal: Journal, extent: Extent) -> Option<Box<Ending>> {
        match std::mem::replace(&mut *self.filing(), Filing::Kept(journal, extent)) {
            Filing::Missed(ending) => Some(ending),
            Filing::Nothing | Filing::Kept(..) => None,
        }
    }

    /// Whether it outlives the process.
    pub fn is_kept(&self) -> bool {
        matches!(&*self.filing(), Filing::Kept(_, Extent::Task))
    }

    fn filing(&self) -> MutexGuard<'_, Filing> {
        self.filing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes the `started` event. What is returned is to be waited for before there is a token.
    ///
    /// # Errors
    ///
    /// [`Sealed`] where the task has ended: it is not to be started.
    pub fn start(&self, started: Arc<Started>, now: Instant) -> Result<Option<Durable>, Sealed> {
        self.log.append(Event::Started(Arc::clone(&started)), now)?;
        let (id, at_ms) = (self.spec.id, self.created.unix_ms_at(now));
        let filing = self.filing().journal();
        Ok(filing.and_then(|(journal, extent)| match extent {
            Extent::Task => Some(journal.started(id, at_ms, &started)),
            Extent::Spending => Some(journal.spending_started(id, at_ms)),
            Extent::Entry => None,
        }))
    }

    /// The pool that it is in.
    pub fn pool_id(&self) -> PoolId {
        self.home().pool_id
    }

    /// Hands a waiting task on to another pool.
    pub fn move_to(&self, home: Home) {
        *self.home.lock().unwrap_or_else(PoisonError::into_inner) = home;
    }

    /// What it may use.
    pub fn limits(&self) -> Limits {
        *self.limits.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Its prompt has so many tokens for the model that it is to run on now. It may use no more output than before.
    ///
    /// # Errors
    ///
    /// What it has reserved of its budgets does not cover the prompt.
    pub fn refit(&self, prompt_tokens: u32, max_tokens: u32) -> Result<(), PolicyLabel> {
        let mut limits = self.limits.lock().unwrap_or_else(PoisonError::into_inner);
        let wanted = max_tokens.min(limits.max_tokens);
        let covered = |spending: &Spending| spending.cover(prompt_tokens, limits.choices, wanted);
        // What is only embedded or scored has no output.
        let max = self.spending.as_ref().map_or(Some(wanted), covered).filter(|max| *max >= wanted.min(1));
        let max = max.ok_or(PolicyLabel::BudgetTokens)?;
        (limits.prompt_tokens, limits.max_tokens) = (prompt_tokens, max);
        Ok(())
    }

    /// Its prompt has so many tokens, as who ran it has counted; no more than were reserved for it.
    pub fn counted(&self, prompt_tokens: u32) {
        let mut limits = self.limits.lock().unwrap_or_else(PoisonError::into_inner);
        limits.prompt_tokens = limits.prompt_tokens.min(prompt_tokens);
    }

    /// Notes the replica that runs it.
    pub fn runs_on(&self, replica: ReplicaId) {
        *self.replica.lock().unwrap_or_else(PoisonError::into_inner) = Some(replica);
    }

    /// The replica that runs it, or ran it last.
    pub fn replica_id(&self) -> Option<ReplicaId> {
        self.replica.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn home(&self) -> Home {
        self.home.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Notes whether its model is being made ready.
    pub fn prepares(&self, preparing: bool) {
        self.preparing.store(preparing, Ordering::Release);
    }

    /// Whether its model is being made ready.
    pub fn is_preparing(&self) -> bool {
        self.preparing.load(Ordering::Acquire)
    }

    /// Whether it was cancelled because its last client had hung up.
    pub fn was_abandoned(&self) -> bool {
        self.abandoned.load(Ordering::Acquire)
    }

    /// Forgets it: now where it has ended, else with its end.
    fn forget(&self) {
        // Before the registry looks: it either finds the end now, or this flag at the end.
        self.forgotten.store(true, Ordering::Release);
        if let Some(registry) = self.registry.upgrade() {
            registry.leave(self);
        }
    }

    /// Whether it is to be forgotten with its end.
    pub(super) fn is_forgotten(&self) -> bool {
        self.forgotten.load(Ordering::Acquire)
    }

    /// Tokens sampled, as far as its events tell: one that is part of two things has two of them.
    fn sampled(&self, progress: &Progress) -> u64 {
        let limits = self.limits();
        progress.tokens.min(u64::from(limits.max_tokens) * u64::from(limits.choices))
    }

    /// When the engine time that it has reserved is over; `None` before its start, and where it counts for no budget.
    pub fn paid_until(&self) -> Option<Instant> {
        let (started, _) = self.log.progress().started?;
        Some(started + self.spending.as_ref()?.time()?)
    }

    /// Reserves the next slice of engine time, and tells its clients what is left.
    ///
    /// # Errors
    ///
    /// The budget that is used up.
    pub fn pay_on(&self) -> Result<(), PolicyLabel> {
        let renewed = self.spending.as_ref().map_or(Ok(()), Spending::renew);
        renewed.map_err(|Exceeded(unit)| label(unit))?;
        self.tell_budget();
        Ok(())
    }

    /// Appends a `metrics` event with what its budgets leave, where they have limits.
    pub fn tell_budget(&self) {
        if let Some(metrics) = self.budget() {
            // One that has ended meanwhile takes none.
            let _ = self.log.append(Event::Metrics(Arc::new(metrics)), Instant::now());
        }
    }

    /// What its budgets leave, where they have limits.
    pub fn budget(&self) -> Option<Metrics> {
        told(&self.spending.as_ref()?.left()?)
    }

    fn end(&self, seal: Seal, last: Event) {
        self.stop.cancel();
        let mut progress = seal.progress();
        let now = Instant::now();
        progress.ended = Some((now, last.clone()));
        // Before the event, so that whoever has seen the end finds the counters settled.
        let ended = Ended { last: last.clone(), progress };
        let tokens = self.used(&ended);
        let engine_ms = self.engine_ms(&ended, now);
        let turn = ended.by_itself().is_some() && self.replica_id().is_some();
        self.home().observer.ended(self, &ended);
        let held = std::mem::take(&mut *self.held.lock().unwrap_or_else(PoisonError::into_inner));
        held.iter().for_each(|held| held.ended(self, &ended));
        drop(held);
        let (registry, id, number) = (Weak::clone(&self.registry), self.spec.id, self.number);
        let show = move || {
            seal.end(last, now);
            if let Some(registry) = registry.upgrade() {
                registry.ended(id, number);
            }
        };
        // What it is charged and the row that says so are on the same side of whoever adds rows up.
        let settling = self.ending();
        let (used, charged) = self.settle(tokens, engine_ms, self.created.unix_ms_at(now));
        let spent = charged.map(|amounts| Spent { amounts, turn });
        let last_id = self.log.last_id() + 1;
        let ending = Ending { progress: ended.progress, last_id, used, spent };
        let filing = {
            let mut filing = self.filing();
            let journal = filing.journal();
            if journal.is_none() {
                *filing = Filing::Missed(Box::new(ending.clone()));
            }
            journal
        };
        if let Some((journal, extent)) = filing {
            return journal.ended(self, extent, &ending, show);
        }
        drop(settling);
        show();
    }

    /// Held from before it settles until its row is handed to the store.
    pub(super) fn ending(&self) -> Option<RwLockReadGuard<'_, ()>> {
        self.spending.as_ref().map(Spending::ending)
    }

    /// Charges what it has used; says what that is, and what was charged of what it had reserved.
    fn settle(&self, tokens: Tokens, engine_ms: u64, at_ms: u64) -> (Used, Option<Amounts>) {
        let settled = self.spending.as_ref().and_then(|spending| spending.settle(tokens, engine_ms, at_ms));
        match settled {
            Some(Settled { charged, reserved, owned }) if reserved => {
                // The row says what was charged: of a task that went with its process, all that was reserved.
                let output = charged.tokens.saturating_sub(tokens.input);
                let tokens = Tokens { output, ..tokens };
                let used = Used { tokens, engine_ms: charged.time_ms, cost: charged.cost, owned };
                (used, Some(charged))
            }
            other => {
                let cost = tokens_cost(&self.spec.price, tokens);
                let cost = cost.saturating_add(time_cost(&self.spec.price, engine_ms));
                let owned = other.is_some_and(|settled| settled.owned);
                (Used { tokens, engine_ms, cost, owned }, None)
            }
        }
    }

    /// What it has used of tokens, as its engine counts them. A task that never started has used nothing.
    pub fn used(&self, how: &Ended) -> Tokens {
        if how.progress.started.is_none() {
            return Tokens::default();
        }
        let (output, cached) = match &how.last {
            Event::End(end) => (end.tokens_out, end.cached_tokens),
            _ => (self.sampled(&how.progress), 0),
        };
        Tokens { input: u64::from(self.limits().prompt_tokens), cached, output }
    }

    /// How long an engine had it, in ms.
    fn engine_ms(&self, how: &Ended, now: Instant) -> u64 {
        let started = how.progress.started.as_ref().filter(|_| !self.lost);
        started.map_or(0, |(started, _)| millis(now.saturating_duration_since(*started)))
    }
}

/// In ms.
pub fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
