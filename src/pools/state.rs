//! The state of a pool, and every decision on it. No waiting, no I/O.

use std::collections::HashMap;
use std::sync::Arc;

use sha2::{Digest as _, Sha256};
use sluicegate_compat::native::Priority;
use tokio::time::Instant;

use super::job::{slots, work};
use super::predict::{Prediction, Running, predict};
use super::queue::{Queue, Ticket, Work};
use super::rates::Rates;
use super::{Job, Pool};
use crate::engine::{Engine, EngineInfo};
use crate::ids::TaskId;
use crate::tasks::{Limits, Task};

/// Above this share of its capacity a queue asks clients to slow down.
const PRESSURE: f64 = 0.75;

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
    pub slots_used: u32,
    capacity: usize,
    /// Waiting tasks by class, in the order of `Priority::ALL`.
    depths: [u64; 2],
}

pub(super) struct Waiting {
    job: Job,
    work: Work,
    /// The position its client knows.
    told: u64,
}

struct RunningTask {
    task: Arc<Task>,
    /// Per choice.
    expected_tokens: u32,
    slots: u32,
}

impl State {
    pub fn new(capacity: usize) -> Self {
        Self {
            queue: Queue::new(capacity),
            tickets: HashMap::new(),
            running: HashMap::new(),
            engine: None,
            fingerprint: None,
            engine_version: super::metrics::NONE.to_owned(),
            health: Health::Starting,
            rates: Rates::default(),
            slots_total: 0,
            slots_used: 0,
            capacity,
            depths: [0; 2],
        }
    }

    pub fn depths(&self) -> [u64; 2] {
        self.depths
    }

    fn depth_of(&mut self, task: &Task) -> &mut u64 {
        &mut self.depths[usize::from(task.spec.priority == Priority::Batch)]
    }

    pub fn submit(&mut self, job: Job) -> Result<Place, Refused> {
        match self.health {
            Health::Starting => return Err(Refused::NotReady),
            Health::Failed => return Err(Refused::Exhausted),
            Health::Ready | Health::Recovering => {}
        }
        let id = job.task.spec.id;
        let work = work(&job.task.spec.limits, self.slots_total, |max_tokens| self.rates.expected_tokens(max_tokens));
        let told = self.queue.len() as u64;
        let task = Arc::clone(&job.task);
        match self.queue.push(work, Waiting { job, work, told }) {
            Ok(ticket) => {
                self.tickets.insert(id, ticket);
                *self.depth_of(&task) += 1;
                let place = self.place_at(ticket);
                if let Some(waiting) = self.queue.get_mut(ticket) {
                    waiting.job.admitted = Some((Instant::now(), place));
                }
                Ok(place)
            }
            Err(_full) => Err(Refused::QueueFull { retry_after_ms: self.next_free_ms() }),
        }
    }

    /// The head of the queue and the slots it takes, if it can start now.
    pub fn take_next(&mut self) -> Option<(Job, u32)> {
        if self.health != Health::Ready {
            return None;
        }
        let count = slots(&self.queue.peek()?.job.task.spec.limits, self.slots_total);
        if self.slots_used + count > self.slots_total {
            return None;
        }
        let Waiting { job, work, .. } = self.queue.pop()?;
        self.tickets.remove(&job.task.spec.id);
        *self.depth_of(&job.task) -= 1;
        self.slots_used += count;
        let choices = u64::from(job.task.spec.limits.choices);
        let expected_tokens = u32::try_from(work.decode_tokens / choices).unwrap_or(u32::MAX);
        self.running
            .insert(job.task.spec.id, RunningTask { task: Arc::clone(&job.task), expected_tokens, slots: count });
        Some((job, count))
    }

    /// Takes a task out of the queue, if it is there.
    pub fn leave(&mut self, id: TaskId) -> Option<Job> {
        let ticket = self.tickets.remove(&id)?;
        let job = self.queue.remove(ticket)?.job;
        *self.depth_of(&job.task) -= 1;
        Some(job)
    }

    /// Takes every task out of the queue.
    pub fn leave_all(&mut self) -> Vec<Job> {
        self.tickets.clear();
        self.depths = [0; 2];
        std::iter::from_fn(|| self.queue.pop()).map(|waiting| waiting.job).collect()
    }

    /// Notes that a running task holds its slots no longer.
    pub fn stopped(&mut self, id: TaskId) {
        self.running.remove(&id);
    }

    pub fn place(&self, id: TaskId) -> Option<Place> {
        let ticket = *self.tickets.get(&id)?;
        Some(self.place_at(ticket))
    }

    pub fn foresee(&self, limits: Limits) -> Prediction {
        let own = work(&limits, self.slots_total, |max_tokens| self.rates.expected_tokens(max_tokens));
        predict(&self.rates, self.slots_total, &self.sequences(), self.queue.total(), own)
    }

    /// The first waiting tasks whose position is not the one they were told.
    pub fn moved(&mut self, at_most: usize) -> Vec<(Arc<Task>, Place)> {
        let tickets: Vec<_> = self
            .queue
            .iter()
            .take(at_most)
            .enumerate()
            .filter(|(position, (_, waiting))| waiting.told != *position as u64)
            .map(|(_, (ticket, _))| ticket)
            .collect();
        let mut moved = Vec::with_capacity(tickets.len());
        for ticket in tickets {
            let place = self.place_at(ticket);
            if let Some(waiting) = self.queue.get_mut(ticket) {
                waiting.told = place.position;
                moved.push((Arc::clone(&waiting.job.task), place));
            }
        }
        moved
    }

    fn place_at(&self, ticket: Ticket) -> Place {
        let own = self.queue.get(ticket).map(|waiting| waiting.work).unwrap_or_default();
        let ahead = self.queue.ahead(ticket).unwrap_or_default();
        let prediction = predict(&self.rates, self.slots_total, &self.sequences(), ahead, own);
        Place {
            position: ahead.tasks,
            prediction,
            queue_depth: self.queue.len() as u64,
            backoff_ms: self.backoff_ms(),
            waits: ahead.tasks > 0 || self.slots_used >= self.slots_total || self.health != Health::Ready,
        }
    }

    /// 0 while the queue is less than three quarters full; else the time until it is expected to be so again.
    fn backoff_ms(&self) -> u64 {
        let depth = self.queue.len() as f64;
        let excess = depth - PRESSURE * self.capacity as f64;
        if excess <= 0.0 || depth < 1.0 {
            return 0;
        }
        let ahead = self.queue.total().share(excess / depth);
        predict(&self.rates, self.slots_total, &self.sequences(), ahead, Work::default()).start_ms.max(1)
    }

    /// When the head of the queue is expected to start, which frees a place; at least 1 ms.
    fn next_free_ms(&self) -> u64 {
        predict(&self.rates, self.slots_total, &self.sequences(), Work::default(), Work::default()).start_ms.max(1)
    }

    /// What holds the slots now.
    fn sequences(&self) -> Vec<Running> {
        let mut sequences = Vec::with_capacity(self.slots_used as usize);
        for running in self.running.values() {
            let limits = &running.task.spec.limits;
            let progress = running.task.log.progress();
            let made = u32::try_from(progress.tokens / u64::from(limits.choices)).unwrap_or(u32::MAX);
            // One that has outlived its expectation may end with any token.
            let decode_tokens = running.expected_tokens.saturating_sub(made).max(1);
            let prefill_tokens = if progress.first_token.is_some() { 0 } else { limits.prompt_tokens };
            let sequence = Running { prefill_tokens, decode_tokens };
            sequences.extend(std::iter::repeat_n(sequence, running.slots as usize));
        }
        sequences.truncate(self.slots_total as usize);
        sequences
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
        self.pool.lock().slots_used -= self.count;
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
