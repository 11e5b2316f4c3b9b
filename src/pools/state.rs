//! The state of a pool, and every decision on it. No waiting, no I/O.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use sluicegate_compat::native::Priority;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Job;
use super::job::{Capacity, Need};
use super::loading::Load;
use super::predict::Prediction;
use super::purge::Purge;
use super::queue::{Floor, Queue, Share, Ticket, Work};
use super::rates::Rates;
use super::reload::Reload;
use super::replica::{Health, Replica, Seat};
use crate::engine::{Engine, Loader, loader_for};
use crate::ids::{ModelId, PoolId, ReplicaId, TaskId};
use crate::tasks::{Limits, Task};

mod enqueue;
mod foresee;
mod reload;

use foresee::Own;

/// Above this share of its capacity a queue asks clients to slow down.
const PRESSURE: f64 = 0.75;

/// So many tasks ahead are foreseen one by one; more are spread over the slots together.
const ONE_BY_ONE: u64 = 64;

/// So many waiting tasks are looked at for one that can start before the one whose turn it is.
const LOOK_PAST: usize = 64;

/// Nobody is told to come back later than this.
const LONGEST_RETRY_MS: u64 = 3_600_000;

/// A task is told at most so many new positions, each time this much later than the time before.
const MOST_TELLINGS: u32 = 1000;
const TELLING_PAUSE: Duration = Duration::from_millis(25);

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
    #[error("the pool is draining and takes no new tasks")]
    Draining {
        /// When the drain's deadline comes.
        retry_after_ms: u64,
    },
    #[error("the pool is getting another model")]
    Reloading {
        /// When it is expected to have it.
        retry_after_ms: u64,
    },
    #[error("the pool's model was purged, and it has got no other one yet")]
    Unloaded,
    #[error("the pool has just got another model; send the task again")]
    Exchanged,
    #[error("every replica of the pool has failed")]
    Exhausted,
}

/// A task that might come.
#[derive(Debug, Clone, Copy)]
pub struct Coming<'a> {
    pub priority: Priority,
    pub share: &'a Share,
    pub limits: &'a Limits,
    /// See [`Job::devices`].
    pub devices: Option<&'a str>,
}

/// Where a waiting task stands.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
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

impl Place {
    /// How long it is thought to run.
    pub fn duration_ms(&self) -> u64 {
        self.prediction.end_ms.saturating_sub(self.prediction.start_ms)
    }
}

pub(super) struct State {
    pub queue: Queue<Waiting>,
    tickets: HashMap<TaskId, Ticket>,
    running: HashMap<TaskId, RunningTask>,
    /// At least one; none is ever taken out.
    pub replicas: Vec<Replica>,
    pub rates: Rates,
    /// While no new tasks are taken.
    pub draining: Option<Draining>,
    /// What is served: all replicas have it.
    pub model: ModelId,
    /// Makes engines of it.
    pub loader: Arc<dyn Loader>,
    /// Counts the times that the engines were taken out for others, so that whoever was bringing one of them back knows
    /// that it is too late.
    pub epoch: u64,
    /// The reload that is under way, or the last one.
    pub reload: Option<Reload>,
    /// The purge that is under way, or the last one.
    pub purge: Option<Purge>,
    /// Nothing is admitted, because the model is to be purged once its tasks have ended.
    pub closing: bool,
    /// Nothing starts and nothing is admitted: the engines have to go before others can be loaded.
    pub held: bool,
    /// The reload that is under way has the pool to itself.
    pub exchanging: bool,
    /// Engines that were replaced and have tasks yet.
    pub retiring: Vec<Arc<dyn Engine>>,
    /// Models that are being loaded.
    pub loads: Vec<Weak<Load>>,
    /// How long loading took the last time.
    pub load_time: Duration,
    capacity: usize,
    policy: Policy,
}

/// See [`State::stay`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stay {
    epoch: u64,
    tenure: u64,
}

pub(super) struct Waiting {
    job: Job,
    work: Work,
    /// The position its client knows.
    told: u64,
    /// How often it was told a new one, and when it may be told the next.
    tellings: u32,
    tell_from: Instant,
}

struct RunningTask {
    task: Arc<Task>,
    share: Share,
    /// What its tenant was charged for.
    work: Work,
    /// Per choice.
    expected_tokens: u32,
    seat: Seat,
    /// As the job has them.
    devices: Option<Arc<str>>,
}

/// What became of a submission that was taken.
pub(super) struct Submitted {
    pub place: Place,
    /// The task that had to go for it, with what it is told.
    pub evicted: Option<(Arc<Task>, Eviction)>,
}

/// A drain under way.
pub(super) struct Draining {
    /// Cancelled when it is over.
    pub over: CancellationToken,
    /// `None`: so far away that no clock holds it.
    pub deadline: Option<Instant>,
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
    pub fn new(
        replicas: Vec<Replica>,
        (capacity, policy, floor): (usize, Policy, Floor),
        (model, loader): (ModelId, Arc<dyn Loader>),
    ) -> Self {
        Self {
            model,
            loader,
            epoch: 0,
            reload: None,
            purge: None,
            closing: false,
            held: false,
            exchanging: false,
            retiring: Vec::new(),
            loads: Vec::new(),
            load_time: Duration::ZERO,
            queue: Queue::new(capacity, floor),
            tickets: HashMap::new(),
            running: HashMap::new(),
            replicas,
            rates: Rates::default(),
            draining: None,
            capacity,
            policy,
        }
    }

    /// That of the replica that does best.
    pub fn health(&self) -> Health {
        let healths = self.replicas.iter().map(|replica| replica.health);
        healths.min_by_key(|health| health.rank()).unwrap_or(Health::Failed)
    }

    /// Whether the pool takes tasks.
    pub fn open(&self) -> Result<(), Refused> {
        match self.health() {
            _ if self.draining.is_some() => Err(Refused::Draining { retry_after_ms: self.drained_by_ms() }),
            _ if self.held => Err(Refused::Reloading { retry_after_ms: self.reloaded_by_ms() }),
            Health::Unloaded => Err(Refused::Unloaded),
            _ if self.closing => Err(Refused::Unloaded),
            Health::Starting => Err(Refused::NotReady),
            Health::Failed | Health::Vacant => Err(Refused::Exhausted),
            Health::Ready | Health::Recovering => Ok(()),
        }
    }

    /// Until the deadline of the drain; at least 1 ms.
    fn drained_by_ms(&self) -> u64 {
        let deadline = self.draining.as_ref().and_then(|draining| draining.deadline);
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        left.map_or(u64::MAX, |left| u64::try_from(left.as_millis()).unwrap_or(u64::MAX)).clamp(1, LONGEST_RETRY_MS)
    }

    /// Makes the engine of a replica.
    pub fn loader_of(&self, number: usize) -> Arc<dyn Loader> {
        self.replicas[number].loader.clone().unwrap_or_else(|| loader_for(&self.loader, number))
    }

    /// What somebody who works on a replica holds it by: other engines, or another server in its place, make it another one.
    pub fn stay(&self, number: usize) -> Stay {
        Stay { epoch: self.epoch, tenure: self.replicas[number].tenure }
    }

    /// An engine of the pool; they all have the same model.
    pub fn engine(&self) -> Option<&Arc<dyn Engine>> {
        self.replicas.iter().find_map(|replica| replica.engine.as_ref())
    }

    /// Of the engine that was loaded last; `none` before the first.
    pub fn engine_version(&self) -> &str {
        self.replicas.first().map_or(super::metrics::NONE, |replica| &replica.engine_version)
    }

    pub fn slots_used(&self) -> u32 {
        self.replicas.iter().map(Replica::slots_used).sum()
    }

    pub fn slots_total(&self) -> u32 {
        self.replicas.iter().map(|replica| replica.capacity.slots).sum()
    }

    /// The replicas that can run tasks; where there are none now, all that may again.
    fn usable(&self) -> impl Iterator<Item = (usize, &Replica)> {
        let any_ready = self.replicas.iter().any(|replica| replica.health == Health::Ready);
        let usable = move |replica: &Replica| !any_ready || replica.health == Health::Ready;
        self.replicas.iter().enumerate().filter(move |(_, replica)| usable(replica))
    }

    /// What one task can have at most.
    fn widest(&self) -> Capacity {
        let all = self.usable().map(|(_, replica)| replica.capacity);
        all.max_by_key(|capacity| (capacity.slots, capacity.cache.map(|cache| cache.tokens))).unwrap_or_default()
    }

    /// The next task that can start now, with what it takes.
    pub fn take_next(&mut self, now: Instant) -> Option<(Job, Seat)> {
        let (passing, seat) = self.next_to_start()?;
        let Waiting { job, work, .. } = match passing {
            None => self.queue.pop()?,
            Some((ticket, share)) => self.queue.take(ticket, &share)?,
        };
        self.tickets.remove(&job.task.spec.id);
        self.replicas[seat.replica].take(now, seat.need);
        let choices = u64::from(job.task.limits().choices);
        let expected_tokens = u32::try_from(work.decode_tokens / choices).unwrap_or(u32::MAX);
        let task = Arc::clone(&job.task);
        let (share, seat_of_it, devices) = (job.share.clone(), seat.clone(), job.devices.clone());
        let running = RunningTask { task, share, work, expected_tokens, seat: seat_of_it, devices };
        self.running.insert(running.task.spec.id, running);
        Some((job, seat))
    }

    /// The seat of the task whose turn it is. Where that waits for some devices, or for a replica that is large enough for it, the
    /// first one after it that can start: with its ticket.
    fn next_to_start(&self) -> Option<(Option<(Ticket, Share)>, Seat)> {
        let next = &self.queue.peek()?.job;
        if let Some(seat) = self.seat_of(next) {
            return Some((None, seat));
        }
        if self.keeps_others(next) {
            return None;
        }
        for (ticket, _, Waiting { job, .. }) in self.queue.upcoming().skip(1).take(LOOK_PAST) {
            if let Some(seat) = self.seat_of(job) {
                return Some((Some((ticket, job.share.clone())), seat));
            }
            if self.keeps_others(job) {
                break;
            }
        }
        None
    }

    /// Whether nobody may start before a task that waits for room.
    fn keeps_others(&self, job: &Job) -> bool {
        let limits = job.task.limits();
        let ready = |replica: &&Replica| replica.health == Health::Ready;
        job.devices.is_none() && self.replicas.iter().filter(ready).any(|replica| replica.capacity.holds(&limits))
    }

    fn seat_of(&self, job: &Job) -> Option<Seat> {
        self.seat_for(&job.task.limits(), job.near.as_ref(), job.devices.as_deref())
    }

    /// What a task with these limits would take now: of the replicas with room, on one of its devices, of the one that is
    /// `near`, then of the one with the most free cache, then of the one with the fewest slots in use, then of the first.
    fn seat_for(&self, limits: &Limits, near: Option<&ReplicaId>, devices: Option<&str>) -> Option<Seat> {
        if self.held {
            return None;
        }
        let on_its_devices = self.replicas.iter().enumerate().filter(|(_, replica)| replica.is_on(devices));
        let with_room = on_its_devices.filter_map(|(number, replica)| {
            let need = Need::of(limits, replica.capacity);
            let far = near != Some(&replica.id);
            let fits = replica.capacity.holds(limits) && replica.has_room(need);
            fits.then(|| (far, Reverse(replica.cache_free()), replica.slots_used(), number, need))
        });
        let (.., replica, need) = with_room.min_by_key(|(far, free, used, number, _)| (*far, *free, *used, *number))?;
        Some(Seat { replica, need, engine: self.replicas[replica].engine.clone()? })
    }

    /// Moves a running task to another replica with room, if there is one.
    pub fn move_running(&mut self, now: Instant, task: &Task, from: usize) -> Option<Seat> {
        let limits = &task.limits();
        let devices = self.running.get(&task.spec.id).and_then(|running| running.devices.clone());
        let seat = self.seat_for(limits, None, devices.as_deref()).filter(|seat| seat.replica != from)?;
        self.replicas[seat.replica].take(now, seat.need);
        if let Some(running) = self.running.get_mut(&task.spec.id) {
            running.seat = seat.clone();
        }
        Some(seat)
    }

    /// Takes a task out of the queue, if it is there.
    pub fn leave(&mut self, id: TaskId) -> Option<Job> {
        let ticket = self.tickets.remove(&id)?;
        Some(self.queue.remove(ticket)?.job)
    }

    /// Whether a task would be taken, and nobody would have to go for it.
    pub fn has_place(&self) -> bool {
        self.open().is_ok() && self.queue.len() < self.capacity
    }

    /// All tasks that wait or run.
    pub fn tasks(&self) -> Vec<Arc<Task>> {
        let waiting = self.queue.upcoming().map(|(_, _, waiting)| Arc::clone(&waiting.job.task));
        waiting.chain(self.running.values().map(|running| Arc::clone(&running.task))).collect()
    }

    /// Takes the first task out of the queue that the pool `other` may run.
    pub fn leave_first_for(&mut self, other: &PoolId) -> Option<Job> {
        let may_go = |job: &Job| job.allowed.as_ref().is_none_or(|allowed| allowed.contains(other));
        let (ticket, _, _) = self.queue.upcoming().find(|(_, _, waiting)| may_go(&waiting.job))?;
        let job = self.queue.remove(ticket)?.job;
        self.tickets.remove(&job.task.spec.id);
        Some(job)
    }

    /// Takes every task out of the queue.
    ///
    /// In the order in which they would have been served.
    pub fn leave_all(&mut self) -> Vec<Job> {
        self.tickets.clear();
        let upcoming: Vec<_> = self.queue.upcoming().map(|(ticket, _, _)| ticket).collect();
        upcoming.into_iter().filter_map(|ticket| self.queue.remove(ticket)).map(|waiting| waiting.job).collect()
    }

    /// Notes that a running task holds its slots no longer, and what it has used.
    pub fn stopped(&mut self, id: TaskId) {
        let Some(RunningTask { task, share, work, .. }) = self.running.remove(&id) else { return };
        let (limits, progress) = (&task.limits(), task.log.progress());
        // As it was charged: a prompt for each choice.
        let prompts = u64::from(limits.prompt_tokens) * u64::from(limits.choices);
        let used = if progress.started.is_some() { prompts + progress.tokens } else { 0 };
        self.queue.settle(task.spec.priority, &share, work, used);
    }

    pub fn place(&self, id: TaskId) -> Option<Place> {
        let ticket = *self.tickets.get(&id)?;
        Some(self.place_at(ticket))
    }

    /// Where a task would stand if it came now, and when it would start and end.
    ///
    /// # Errors
    ///
    /// Why it would not be taken.
    pub fn foresee(&self, coming: &Coming<'_>) -> Result<Place, Refused> {
        let Coming { priority, share, limits, devices } = *coming;
        self.open()?;
        if self.room_for(priority) == 0 {
            return Err(self.full(priority, 1));
        }
        let own = Own { work: self.work(limits), devices };
        let ahead = self.queue.ahead_of_new(priority, share, own.work);
        Ok(self.place_without(ahead.tasks, own, self.predict(ahead, own)))
    }

    /// The first waiting tasks whose position is not the one they were told. The more often a task was told, the longer it
    /// waits for the next time, so that its log grows with the root of its wait and never beyond [`MOST_TELLINGS`].
    pub fn moved(&mut self, at_most: usize, now: Instant) -> Vec<(Arc<Task>, Place)> {
        let mut forecast = self.forecast();
        let rest = self.place_without(0, Own::default(), Prediction::default());
        let upcoming = self.queue.upcoming().take(at_most).zip(0..);
        let mut moved = Vec::new();
        for ((ticket, work, waiting), position) in upcoming {
            let own = Own { work: *work, devices: waiting.job.devices.as_deref() };
            let prediction = forecast.next(own.work, own.devices);
            if waiting.told != position && now >= waiting.tell_from && waiting.tellings < MOST_TELLINGS {
                let place = Place { position, prediction, waits: self.waits(position, own), ..rest };
                moved.push((ticket, Arc::clone(&waiting.job.task), place));
            }
        }
        let tell = |(ticket, task, place): (Ticket, Arc<Task>, Place)| {
            if let Some(waiting) = self.queue.get_mut(ticket) {
                waiting.told = place.position;
                waiting.tellings += 1;
                waiting.tell_from = now + TELLING_PAUSE * waiting.tellings;
            }
            (task, place)
        };
        moved.into_iter().map(tell).collect()
    }
}
