//! A replica: one engine of a pool, with its slots and its health.

use std::sync::Arc;

use sha2::{Digest as _, Sha256};
use sluicegate_compat::native::{Quantization, ReplicaView};
use tokio::time::Instant;

use super::Pool;
use super::job::{Capacity, Need};
use crate::engine::{Engine, EngineInfo, Loader};
use crate::ids::ReplicaId;
use crate::placement;
use crate::tasks::Limits;

/// Whether a replica can run tasks; of a pool, whether any of its replicas can.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    /// The engine is being loaded for the first time.
    Starting,
    Ready,
    /// The engine failed and is probed, or rebuilt; tasks wait.
    Recovering,
    /// Rebuilding failed too; tried again every so often.
    Failed,
    /// The model was purged; a reload brings one back.
    Unloaded,
    /// The place of a server that is registered no longer.
    Vacant,
}

impl Health {
    /// The less the better.
    pub const fn rank(self) -> u8 {
        match self {
            Self::Ready => 0,
            Self::Recovering => 1,
            Self::Starting => 2,
            Self::Failed => 3,
            Self::Unloaded => 4,
            Self::Vacant => 5,
        }
    }

    /// The word for it in answers.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Ready => "ready",
            Self::Recovering => "recovering",
            Self::Failed => "failed",
            Self::Unloaded => "unloaded",
            Self::Vacant => "vacant",
        }
    }
}

/// Guarded by the pool's lock.
pub(super) struct Replica {
    pub id: ReplicaId,
    pub health: Health,
    pub engine: Option<Arc<dyn Engine>>,
    /// Makes its engine, where that is not the pool's to make.
    pub loader: Option<Arc<dyn Loader>>,
    /// Counts those who had the place.
    pub tenure: u64,
    /// Of the engine: see [`fingerprint`].
    pub fingerprint: Option<String>,
    /// Of the engine that was loaded last; `none` before the first.
    pub engine_version: String,
    /// Of the engine that was loaded last: `cpu`, `cuda:0`, …
    pub device: Option<String>,
    /// Why it failed last, in words for the operator.
    pub last_error: Option<String>,
    pub capacity: Capacity,
    /// By what runs, as far as the pool knows.
    used: Need,
    busy: Busy,
}

impl Replica {
    /// One that is starting.
    pub fn new(id: ReplicaId) -> Self {
        Self {
            id,
            health: Health::Starting,
            engine: None,
            loader: None,
            tenure: 0,
            fingerprint: None,
            engine_version: super::metrics::NONE.to_owned(),
            device: None,
            last_error: None,
            capacity: Capacity::default(),
            used: Need::default(),
            busy: Busy::default(),
        }
    }

    /// Takes a working engine into service.
    pub fn install(&mut self, engine: Arc<dyn Engine>) {
        let info = engine.info();
        self.capacity = Capacity { slots: info.slots, cache: info.cache };
        self.fingerprint = Some(fingerprint(info));
        self.engine_version.clone_from(&info.engine_version);
        self.device = Some(info.device.clone());
        self.engine = Some(engine);
    }

    /// Whether another server may have its place.
    pub fn is_vacant(&self) -> bool {
        self.health == Health::Vacant && self.used.slots == 0
    }

    /// Gives the place to a server. It is starting.
    pub fn occupy(&mut self, engine: Arc<dyn Engine>, loader: Arc<dyn Loader>) {
        self.install(engine);
        self.health = Health::Starting;
        self.last_error = None;
        self.loader = Some(loader);
        self.tenure += 1;
    }

    /// Takes the place from whoever has it.
    pub fn vacate(&mut self) -> Option<Arc<dyn Engine>> {
        self.health = Health::Vacant;
        self.loader = None;
        self.capacity = Capacity::default();
        self.fingerprint = None;
        self.tenure += 1;
        self.engine.take()
    }

    /// Whether it has this very engine.
    pub fn has(&self, engine: &Arc<dyn Engine>) -> bool {
        self.engine.as_ref().is_some_and(|its| Arc::ptr_eq(its, engine))
    }

    pub fn view(&self) -> ReplicaView {
        ReplicaView {
            replica_id: self.id.to_string(),
            state: self.health.as_str(),
            device: self.device.clone(),
            slots_total: self.capacity.slots,
            slots_active: self.used.slots,
            last_error: self.last_error.clone(),
        }
    }

    pub fn slots_used(&self) -> u32 {
        self.used.slots
    }

    /// Tokens of the shared cache that nobody has taken; the most there can be where there is none.
    pub fn cache_free(&self) -> u64 {
        self.capacity.cache.map_or(u64::MAX, |cache| cache.tokens.saturating_sub(self.used.cache))
    }

    /// Whether a task that needs so much can start now.
    pub fn has_room(&self, need: Need) -> bool {
        let slots = self.used.slots.saturating_add(need.slots) <= self.capacity.slots;
        self.health == Health::Ready && slots && need.cache <= self.cache_free()
    }

    /// Its slots, as far as the cache has room for more sequences like those that run.
    pub fn slots(&self) -> super::predict::SlotUse {
        let (all, used) = (self.capacity.slots, self.used.slots);
        let fitting = |tokens: u64| tokens.saturating_mul(u64::from(used)).checked_div(self.used.cache);
        let fitting = self.capacity.cache.and_then(|cache| fitting(cache.tokens));
        let at_once = fitting.map_or(all, |fitting| u32::try_from(fitting).unwrap_or(u32::MAX)).max(used);
        super::predict::SlotUse { all, at_once, used }
    }

    /// Whether it runs on one of these devices; see [`placement::devices`].
    pub fn is_on(&self, mask: Option<&str>) -> bool {
        placement::is_on(self.device.as_deref(), mask)
    }

    pub fn take(&mut self, now: Instant, need: Need) {
        self.busy.add_up(now, self.used.sequences);
        self.used.slots += need.slots;
        self.used.sequences += need.sequences;
        self.used.cache += need.cache;
    }

    fn free(&mut self, now: Instant, need: Need) {
        self.busy.add_up(now, self.used.sequences);
        self.used.slots = self.used.slots.saturating_sub(need.slots);
        self.used.sequences = self.used.sequences.saturating_sub(need.sequences);
        self.used.cache = self.used.cache.saturating_sub(need.cache);
    }

    /// A moment from which [`occupancy`](Self::occupancy) is measured.
    pub fn moment(&mut self, now: Instant) -> Moment {
        self.busy.add_up(now, self.used.sequences);
        Moment { at: now, sequence_seconds: self.busy.sequence_seconds }
    }

    /// Sequences that have run since then, on average; at least 1, the asker's own.
    pub fn occupancy(&mut self, since: Moment, now: Instant) -> f64 {
        let sequence_seconds = self.moment(now).sequence_seconds - since.sequence_seconds;
        let seconds = now.saturating_duration_since(since.at).as_secs_f64();
        if seconds > 0.0 { (sequence_seconds / seconds).max(1.0) } else { f64::from(self.used.sequences).max(1.0) }
    }
}

/// How many sequences ran, over time.
#[derive(Debug, Default)]
struct Busy {
    sequence_seconds: f64,
    until: Option<Instant>,
}

/// A moment in the history of a replica's sequences.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moment {
    at: Instant,
    sequence_seconds: f64,
}

impl Busy {
    fn add_up(&mut self, now: Instant, sequences: u32) {
        let since = self.until.replace(now).map_or(0.0, |until| now.saturating_duration_since(until).as_secs_f64());
        self.sequence_seconds += since * f64::from(sequences);
    }
}

/// So much of a replica, and the engine that it had when they were taken.
#[derive(Clone)]
pub(super) struct Seat {
    /// The number of the replica in its pool.
    pub replica: usize,
    pub need: Need,
    pub engine: Arc<dyn Engine>,
}

/// Slots of one replica; given back on drop.
pub(super) struct Slots {
    pool: Arc<Pool>,
    pub seat: Seat,
}

impl Slots {
    /// For slots that were just taken from the replica.
    pub fn new(pool: Arc<Pool>, seat: Seat) -> Self {
        Self { pool, seat }
    }

    /// Takes what the task needs now that it was prepared for another model, whatever else has been given away meanwhile.
    pub fn refit(&mut self, limits: &Limits) {
        let (now, seat) = (Instant::now(), &mut self.seat);
        let mut state = self.pool.lock();
        let replica = &mut state.replicas[seat.replica];
        replica.free(now, seat.need);
        seat.need = Need::of(limits, replica.capacity);
        replica.take(now, seat.need);
    }
}

impl Drop for Slots {
    fn drop(&mut self) {
        let Seat { replica, need, .. } = self.seat;
        self.pool.lock().replicas[replica].free(Instant::now(), need);
        self.pool.metrics.queue_changed(&self.pool);
        self.pool.changed.notify_one();
    }
}

/// A hash of everything but the request that tokens depend on.
fn fingerprint(info: &EngineInfo) -> String {
    let mut hash = Sha256::new();
    let quantization = info.quantization.map_or("", Quantization::as_str);
    let parts = [&*info.model_digest, &*info.engine_version, &*info.sampler_profile_version, &*info.device];
    for part in parts.into_iter().chain(Some(quantization).filter(|name| !name.is_empty())) {
        hash.update(part.as_bytes());
        hash.update([0]);
    }
    let digest = hash.finalize();
    format!("fp_{:02x}{:02x}{:02x}{:02x}{:02x}", digest[0], digest[1], digest[2], digest[3], digest[4])
}
