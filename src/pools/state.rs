//! The state of a pool, and every decision on it. No waiting, no I/O.

use std::collections::HashMap;
use std::sync::Arc;

use sha2::{Digest as _, Sha256};
use sluicegate_compat::native::Priority;
use tokio::time::Instant;

use super::job::{slots, work};
use super::predict::{Forecast, Prediction, Running};
use super::queue::{Floor, Queue, Share, Ticket, Work};
use super::rates::Rates;
use super::{Job, Pool};
use crate::engine::{Engine, EngineInfo};
use crate::ids::TaskId;
use crate::tasks::{Limits, Task};

/// Above this share of its capacity a queue asks clients to slow down.
const PRESSURE: f64 = 0.75;

/// So many tasks ahead are foreseen one by one; more are spread over the slots together.
const ONE_BY_ONE: u64 = 64;

/// What happens to a task that comes to a full queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// It is refused.
    Reject,
    /// The one that has waited longest in the lowest class goes; a batch task never takes an interactive one's place.
    DropLru,
    /// A batch task is refused; for an interactive one the batch task that came last goes.
    ShedBatch,
}

impl Policy {
    /// The name in the configuration, and the `policy` label of metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Reject => "reject",
            Self::DropLru => "drop-lru",
            Self::ShedBatch => "shed-batch",
        }
    }
}

/// Whether a replica can run tasks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    /// The engine is being loaded for the first time.
    Starting,
    Ready,
    /// The engine failed and is probed, or rebuilt; tasks wait.
    Recovering,
    /// Rebuilding failed too; tried again every so often.
    Failed,
}

impl Health {
    /// The word for it in answers.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Ready => "ready",
            Self::Recovering => "recovering",
            Self::Failed => "failed",
        }
    }
}

/// Why a pool does not take a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("the queue is full")]
    QueueFull {
        /// When the next place in the queue is expected to be free.
        retry_after_ms: u64,
    },
    #[error("the queue is full, and batch tasks are the first to be refused")]
    BatchShed {
        /// As above.
        retry_after_ms: u64,
    },
    #[error("the pool is not ready")]
    NotReady,
    #[error("every replica of the pool has failed")]
    Exhausted,
}

/// Where a waiting task stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Tasks that will start before it.
    pub position: u64,
    pub prediction: Prediction,
    pub queue_depth: u64,
    /// How long a client with more work should wait.
    pub backoff_ms: u64,
    /// Whether it has to wait at all.
    pub waits: bool,
}

pub(super) struct State {
    pub queue: Queue<Waiting>,
    tickets: HashMap<TaskId, Ticket>,
    running: HashMap<TaskId, RunningTask>,
    pub engine: Option<Arc<dyn Engine>>,
    /// Of the engine: see [`fingerprint`].
    pub fingerprint: Option<String>,
    /// Of the engine that was loaded last; `none` before the first.
    pub engine_version: String,
    pub health: Health,
    pub rates: Rates,
    pub slots_total: u32,
    slots_used: u32,
    /// Slots in use, summed up over time.
    busy: Busy,
    capacity: usize,
    policy: Policy,
}

pub(super) struct Waiting {
    job: Job,
    work: Work,
    /// The position its client knows.
    told: u64,
}

struct RunningTask {
    task: Arc<Task>,
    share: Share,
    /// What its tenant was charged for.
    work: Work,
    /// Per choice.
    expected_tokens: u32,
    slots: u32,
}

/// What became of a submission that was taken.
pub(super) struct Submitted {
    pub place: Place,
    /// The task that had to go for it, with what it is told.
    pub evicted: Option<(Arc<Task>, Eviction)>,
}

/// Why a waiting task had to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Eviction {
    /// The longest waiting of the lowest class, for a newer one.
    DropLru,
    /// A batch task, for an interactive one.
    ShedBatch,
}

impl State {
    pub fn new(capacity: usize, policy: Policy, floor: Floor) -> Self {
        Self {
            queue: Queue::new(capacity, floor),
            tickets: HashMap::new(),
            running: HashMap::new(),
            engine: None,
            fingerprint: None,
            engine_version: super::metrics::NONE.to_owned(),
            health: Health::Starting,
            rates: Rates::default(),
            slots_total: 0,
            slots_used: 0,
            busy: Busy::default(),
            capacity,
            policy,
        }
    }

    pub fn slots_used(&self) -> u32 {
        self.slots_used
    }

    pub fn submit(&mut self, job: Job, now: Instant) -> Result<Submitted, Refused> {
        match self.health {
            Health::Starting => return Err(Refused::NotReady),
            Health::Failed => return Err(Refused::Exhausted),
            Health::Ready | Health::Recovering => {}
        }
        let priority = job.task.spec.priority;
        let evicted = if self.queue.len() >= self.capacity { Some(self.make_room(priority)?) } else { None };
        let work = self.work(&job.task.spec.limits);
        let (id, share) = (job.task.spec.id, job.share.clone());
        let Ok(ticket) = self.queue.push(priority, &share, work, Waiting { job, work, told: u64::MAX }) else {
            return Err(self.full(false));
        };
        self.tickets.insert(id, ticket);
        let place = self.place_at(ticket);
        if let Some(waiting) = self.queue.get_mut(ticket) {
            waiting.told = place.position;
            waiting.job.admitted = Some((now, place));
        }
        Ok(Submitted { place, evicted })
    }

    /// Takes a task out of the full queue for one of `priority`, where the policy has one that may go.
    fn make_room(&mut self, priority: Priority) -> Result<(Arc<Task>, Eviction), Refused> {
        let batch_waits = self.queue.depth(Priority::Batch) > 0;
        let (ticket, eviction) = match (self.policy, priority) {
            (Policy::DropLru, _) if batch_waits => (self.queue.oldest(Priority::Batch), Eviction::DropLru),
            (Policy::DropLru, Priority::Interactive) => (self.queue.oldest(priority), Eviction::DropLru),
            (Policy::ShedBatch, Priority::Interactive) if batch_waits => {
                (self.queue.newest(Priority::Batch), Eviction::ShedBatch)
            }
            (policy, priority) => return Err(self.full(policy == Policy::ShedBatch && priority == Priority::Batch)),
        };
        let Some(waiting) = ticket.and_then(|ticket| self.queue.remove(ticket)) else { return Err(self.full(false)) };
        self.tickets.remove(&waiting.job.task.spec.id);
        Ok((waiting.job.task, eviction))
    }

    fn full(&self, shed: bool) -> Refused {
        let retry_after_ms = self.next_free_ms();
        if shed { Refused::BatchShed { retry_after_ms } } else { Refused::QueueFull { retry_after_ms } }
    }

    /// The next task and the slots it takes, if it can start now.
    pub fn take_next(&mut self, now: Instant) -> Option<(Job, u32)> {
        if self.health != Health::Ready {
            return None;
        }
        let count = slots(&self.queue.peek()?.job.task.spec.limits, self.slots_total);
        if self.slots_used + count > self.slots_total {
            return None;
        }
        let Waiting { job, work, .. } = self.queue.pop()?;
        self.tickets.remove(&job.task.spec.id);
        self.use_slots(now, |used| used + count);
        let choices = u64::from(job.task.spec.limits.choices);
        let expected_tokens = u32::try_from(work.decode_tokens / choices).unwrap_or(u32::MAX);
        let task = Arc::clone(&job.task);
        let share = job.share.clone();
        self.running.insert(task.spec.id, RunningTask { task, share, work, expected_tokens, slots: count });
        Some((job, count))
    }

    /// Takes a task out of the queue, if it is there.
    pub fn leave(&mut self, id: TaskId) -> Option<Job> {
        let ticket = self.tickets.remove(&id)?;
        Some(self.queue.remove(ticket)?.job)
    }

    /// Takes every task out of the queue.
    pub fn leave_all(&mut self) -> Vec<Job> {
        let tickets = std::mem::take(&mut self.tickets);
        tickets.into_values().filter_map(|ticket| self.queue.remove(ticket)).map(|waiting| waiting.job).collect()
    }

    /// Notes that a running task holds its slots no longer, and what it has used.
    pub fn stopped(&mut self, id: TaskId) {
        let Some(RunningTask { task, share, work, .. }) = self.running.remove(&id) else { return };
        let used = task.spec.limits.prompt_tokens as u64 + task.log.progress().tokens;
        self.queue.settle(task.spec.priority, &share, work, used);
    }

    pub fn free_slots(&mut self, now: Instant, count: u32) {
        self.use_slots(now, |used| used.saturating_sub(count));
    }

    fn use_slots(&mut self, now: Instant, change: impl FnOnce(u32) -> u32) {
        self.busy.add_up(now, self.slots_used);
        self.slots_used = change(self.slots_used);
    }

    /// A moment from which [`occupancy`](Self::occupancy) is measured.
    pub fn moment(&mut self, now: Instant) -> Moment {
        self.busy.add_up(now, self.slots_used);
        Moment { at: now, slot_seconds: self.busy.slot_seconds }
    }

    /// Slots in use since then, on average; at least 1, as the asker has one.
    pub fn occupancy(&mut self, since: Moment, now: Instant) -> f64 {
        let slot_seconds = self.moment(now).slot_seconds - since.slot_seconds;
        let seconds = now.saturating_duration_since(since.at).as_secs_f64();
        if seconds > 0.0 { (slot_seconds / seconds).max(1.0) } else { f64::from(self.slots_used).max(1.0) }
    }

    pub fn place(&self, id: TaskId) -> Option<Place> {
        let ticket = *self.tickets.get(&id)?;
        Some(self.place_at(ticket))
    }

    /// When a task with these limits would start and end if it came last.
    pub fn foresee(&self, limits: Limits) -> Prediction {
        let mut forecast = self.forecast();
        self.fast_forward(&mut forecast, self.queue.total());
        forecast.next(self.work(&limits))
    }

    /// The first waiting tasks whose position is not the one they were told.
    pub fn moved(&mut self, at_most: usize) -> Vec<(Arc<Task>, Place)> {
        let mut forecast = self.forecast();
        let rest = self.place_without(0, Prediction { start_ms: 0, end_ms: 0 });
        let upcoming = self.queue.upcoming().take(at_most).zip(0..);
        let mut moved = Vec::new();
        for ((ticket, work, waiting), position) in upcoming {
            let prediction = forecast.next(*work);
            if waiting.told != position {
                moved.push((ticket, Arc::clone(&waiting.job.task), Place { position, prediction, ..rest }));
            }
        }
        let tell = |(ticket, task, place): (Ticket, Arc<Task>, Place)| {
            if let Some(waiting) = self.queue.get_mut(ticket) {
                waiting.told = place.position;
            }
            (task, place)
        };
        moved.into_iter().map(tell).collect()
    }

    fn place_at(&self, ticket: Ticket) -> Place {
        let own = self.queue.get(ticket).map(|waiting| waiting.work).unwrap_or_default();
        let ahead = self.queue.ahead(ticket).unwrap_or_default();
        let mut forecast = self.forecast();
        self.fast_forward(&mut forecast, ahead);
        self.place_without(ahead.tasks, forecast.next(own))
    }

    fn place_without(&self, position: u64, prediction: Prediction) -> Place {
        Place {
            position,
            prediction,
            queue_depth: self.queue.len() as u64,
            backoff_ms: self.backoff_ms(),
            waits: position > 0 || self.slots_used >= self.slots_total || self.health != Health::Ready,
        }
    }

    fn work(&self, limits: &Limits) -> Work {
        work(limits, self.slots_total, |max_tokens| self.rates.expected_tokens(max_tokens))
    }

    fn forecast(&self) -> Forecast<'_> {
        Forecast::new(&self.rates, self.slots_total, &self.sequences(), !self.queue.is_empty())
    }

    /// Puts what is ahead of a task on the slots: one by one where it is little, and otherwise all at once.
    fn fast_forward(&self, forecast: &mut Forecast<'_>, ahead: Work) {
        if ahead.tasks <= ONE_BY_ONE {
            for (_, work, _) in self.queue.upcoming().take(ahead.tasks as usize) {
                forecast.next(*work);
            }
        } else {
            forecast.many(ahead);
        }
    }

    /// 0 while the queue is less than three quarters full; else the time until it is expected to be so again.
    fn backoff_ms(&self) -> u64 {
        let depth = self.queue.len() as f64;
        let excess = depth - PRESSURE * self.capacity as f64;
        if excess <= 0.0 || depth < 1.0 {
            return 0;
        }
        let mut forecast = self.forecast();
        forecast.many(self.queue.total().share(excess / depth));
        forecast.next(Work::default()).start_ms.max(1)
    }

    /// When everything that waits is expected to have started; at least 1 ms.
    pub fn drained_ms(&self) -> u64 {
        let mut forecast = self.forecast();
        self.fast_forward(&mut forecast, self.queue.total());
        forecast.next(Work::default()).start_ms.max(1)
    }

    /// When the next task is expected to start, which frees a place; at least 1 ms.
    fn next_free_ms(&self) -> u64 {
        self.forecast().next(Work::default()).start_ms.max(1)
    }

    /// What holds the slots now.
    fn sequences(&self) -> Vec<Running> {
        let mut sequences = Vec::with_capacity(self.slots_used as usize);
        for running in self.running.values() {
            let limits = &running.task.spec.limits;
            let progress = running.task.log.progress();
            let made = u32::try_from(progress.tokens / u64::from(limits.choices)).unwrap_or(u32::MAX);
            // One that has outlived its expectation will go on for a while more, the longer the longer it has.
            let outlived = (made / 10).clamp(1, limits.max_tokens.saturating_sub(made).max(1));
            let decode_tokens = running.expected_tokens.saturating_sub(made).max(outlived);
            let prefill_tokens = if progress.first_token.is_some() { 0 } else { limits.prompt_tokens };
            let sequence = Running { prefill_tokens, decode_tokens };
            sequences.extend(std::iter::repeat_n(sequence, running.slots as usize));
        }
        sequences.truncate(self.slots_total as usize);
        sequences
    }
}

/// How busy the slots were, over time.
#[derive(Debug, Default)]
struct Busy {
    slot_seconds: f64,
    until: Option<Instant>,
}

/// A moment in the history of a pool's slots.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moment {
    at: Instant,
    slot_seconds: f64,
}

impl Busy {
    fn add_up(&mut self, now: Instant, used: u32) {
        let since = self.until.replace(now).map_or(0.0, |until| now.saturating_duration_since(until).as_secs_f64());
        self.slot_seconds += since * f64::from(used);
    }
}

/// Slots of a pool; given back on drop.
pub(super) struct Slots {
    pool: Arc<Pool>,
    count: u32,
}

impl Slots {
    pub fn new(pool: Arc<Pool>, count: u32) -> Self {
        Self { pool, count }
    }

    pub fn count(&self) -> u32 {
        self.count
    }
}

impl Drop for Slots {
    fn drop(&mut self) {
        self.pool.lock().free_slots(Instant::now(), self.count);
        self.pool.metrics.queue_changed(&self.pool);
        self.pool.changed.notify_one();
    }
}

/// A hash of everything but the request that tokens depend on.
pub(super) fn fingerprint(info: &EngineInfo) -> String {
    let mut hash = Sha256::new();
    for part in [&info.model_digest, &info.engine_version, &info.sampler_profile_version, &info.device] {
        hash.update(part.as_bytes());
        hash.update([0]);
    }
    let digest = hash.finalize();
    format!("fp_{:02x}{:02x}{:02x}{:02x}{:02x}", digest[0], digest[1], digest[2], digest[3], digest[4])
}
