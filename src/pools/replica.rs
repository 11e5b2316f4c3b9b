//! A replica: one engine of a pool, with its slots and its health.

use std::sync::Arc;

use sha2::{Digest as _, Sha256};
use sluicegate_compat::native::ReplicaView;
use tokio::time::Instant;

use super::Pool;
use crate::engine::{Engine, EngineInfo};
use crate::ids::ReplicaId;

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

/// Guarded by the pool's lock.
pub(super) struct Replica {
    pub id: ReplicaId,
    pub health: Health,
    pub engine: Option<Arc<dyn Engine>>,
    /// Of the engine: see [`fingerprint`].
    pub fingerprint: Option<String>,
    /// Of the engine that was loaded last; `none` before the first.
    pub engine_version: String,
    /// Why it failed last, in words for the operator.
    pub last_error: Option<String>,
    pub slots_total: u32,
    slots_used: u32,
    busy: Busy,
}

impl Replica {
    /// One that is starting.
    pub fn new(id: ReplicaId) -> Self {
        Self {
            id,
            health: Health::Starting,
            engine: None,
            fingerprint: None,
            engine_version: super::metrics::NONE.to_owned(),
            last_error: None,
            slots_total: 0,
            slots_used: 0,
            busy: Busy::default(),
        }
    }

    /// Takes a working engine into service.
    pub fn install(&mut self, engine: Arc<dyn Engine>) {
        let info = engine.info();
        self.slots_total = info.slots;
        self.fingerprint = Some(fingerprint(info));
        self.engine_version.clone_from(&info.engine_version);
        self.engine = Some(engine);
    }

    pub fn view(&self) -> ReplicaView {
        ReplicaView {
            replica_id: self.id.to_string(),
            state: self.health.as_str(),
            device: self.engine.as_ref().map(|engine| engine.info().device.clone()),
            slots_total: self.slots_total,
            slots_active: self.slots_used,
            last_error: self.last_error.clone(),
        }
    }

    pub fn slots_used(&self) -> u32 {
        self.slots_used
    }

    /// Whether a task that needs so many slots can start now.
    pub fn has_room(&self, slots: u32) -> bool {
        self.health == Health::Ready && self.slots_used + slots <= self.slots_total
    }

    pub fn take_slots(&mut self, now: Instant, count: u32) {
        self.busy.add_up(now, self.slots_used);
        self.slots_used += count;
    }

    pub fn free_slots(&mut self, now: Instant, count: u32) {
        self.busy.add_up(now, self.slots_used);
        self.slots_used = self.slots_used.saturating_sub(count);
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
}

/// How busy the slots were, over time.
#[derive(Debug, Default)]
struct Busy {
    slot_seconds: f64,
    until: Option<Instant>,
}

/// A moment in the history of a replica's slots.
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

/// Slots of one replica; given back on drop.
pub(super) struct Slots {
    pool: Arc<Pool>,
    replica: usize,
    count: u32,
}

impl Slots {
    /// For slots that were just taken from the replica.
    pub fn new(pool: Arc<Pool>, replica: usize, count: u32) -> Self {
        Self { pool, replica, count }
    }

    /// The number of the replica in its pool.
    pub fn replica(&self) -> usize {
        self.replica
    }

    pub fn count(&self) -> u32 {
        self.count
    }
}

impl Drop for Slots {
    fn drop(&mut self) {
        self.pool.lock().replicas[self.replica].free_slots(Instant::now(), self.count);
        self.pool.metrics.queue_changed(&self.pool);
        self.pool.changed.notify_one();
    }
}

/// A hash of everything but the request that tokens depend on.
fn fingerprint(info: &EngineInfo) -> String {
    let mut hash = Sha256::new();
    for part in [&info.model_digest, &info.engine_version, &info.sampler_profile_version, &info.device] {
        hash.update(part.as_bytes());
        hash.update([0]);
    }
    let digest = hash.finalize();
    format!("fp_{:02x}{:02x}{:02x}{:02x}{:02x}", digest[0], digest[1], digest[2], digest[3], digest[4])
}
