//! Pools: a queue in front of the replicas of one model, the dispatcher that feeds them, and what was measured of them.
//!
//! ```text
//! admission -> submit_all() -> Queue -> dispatch() -> run() -> Engine::generate -> the task's event log
//!                                ^           ^          |
//!                                |           +-- slots -+   freed when the engine has let go
//!                                +-- a task that ends while it waits leaves at once
//! ```
//!
//! One mutex guards a pool's queue, slots, health and rates (`State`); every operation under it is short. The dispatcher
//! is one task per pool that sleeps until something has changed. Where several pools are locked at once (a drain hands tasks
//! on, tasks are queued together), the one with the lower id is locked first.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::Duration;

use sluicegate_compat::native::{EngineName, Event, Metrics, Modality, ReplicaView, Workload};
use tokio::sync::Notify;
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::engine::{Engine, EngineInfo, EngineStats, GpuUse, Loader, loader_for};
use crate::ids::{ModelId, PoolId, ReplicaId};
use crate::lifecycle::{Lifecycle, OnPanic};
use crate::placement::Candidate;
use crate::tasks::{Ended, Home, Observer, Task};

mod affinity;
mod attach;
mod drain;
mod job;
mod loading;
mod metrics;
mod predict;
mod purge;
mod queue;
mod rates;
mod recovery;
mod reload;
mod replica;
mod run;
mod state;
mod submit;

pub use attach::{Attached, NotAttached};
pub use job::{Fitted, Job, Recipe, prepare};
pub use metrics::PoolMetrics;
pub use predict::{Bench, Forecast, Prediction, Running, SlotUse};
pub use purge::{Purge, PurgePhase, Purging, Tasks};
pub use queue::{Floor, Full, Queue, Share, Ticket, Work};
pub use rates::{Measured, Rates};
pub use reload::{Busy, Conclusion, Phase, Reload, Reloading};
pub use replica::Health;
use replica::{Replica, Slots};
use state::State;
pub use state::{Coming, Eviction, Place, Policy, Refused};
pub use submit::submit_all;

/// How often waiting tasks are told their new position and prediction, where those changed.
const POSITION_UPDATES: Duration = Duration::from_millis(500);

/// How many tasks at the head of the queue are told.
const POSITION_READERS: usize = 256;

/// What a pool is, from the configuration.
#[derive(Debug, Clone)]
pub struct PoolSpec {
    pub id: PoolId,
    pub engine: EngineName,
    /// Engines of their own, each with its slots.
    pub replicas: usize,
    /// Waiting tasks at most.
    pub queue_capacity: usize,
    /// When it is full.
    pub queue_policy: Policy,
    /// Part of the work that batch tasks get while interactive ones wait.
    pub batch_floor: Floor,
    pub watchdog: Watchdog,
}

/// Limits on what an engine may take.
#[derive(Debug, Clone, Copy)]
pub struct Watchdog {
    /// For a task, from start to end.
    pub wall: Duration,
    /// For a task, without a token.
    pub idle: Duration,
    /// For loading a model whose files are there, once the pool has started.
    pub load: Duration,
}

/// A look at a pool.
#[derive(Debug, Clone)]
pub struct PoolStatus {
    pub health: Health,
    pub draining: bool,
    /// It has no engine, or waits for what runs to end, because there is no room for another model beside its own.
    pub held: bool,
    /// What is served, or will be first.
    pub model: ModelId,
    /// The reload that is under way, or the last one.
    pub reload: Option<Reload>,
    /// The purge that is under way, or the last one.
    pub purge: Option<Purge>,
    /// Its tasks are to end, because its model is purged.
    pub closing: bool,
    pub queue_depth: u64,
    pub replicas: Vec<ReplicaView>,
}

impl PoolStatus {
    /// Whether the pool takes tasks.
    pub fn is_ready(&self) -> bool {
        self.health == Health::Ready && !self.draining && !self.held && !self.closing
    }

    /// The word for it in answers: its health, `draining`, or `reloading` where it takes no tasks for that.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self { draining: true, .. } | Self { closing: true, .. } => "draining",
            Self { held: true, .. } => "reloading",
            Self { health, .. } => health.as_str(),
        }
    }
}

/// A pool with its replicas.
pub struct Pool {
    spec: PoolSpec,
    /// The model of the configuration.
    configured: ModelId,
    lifecycle: Lifecycle,
    metrics: PoolMetrics,
    /// Observed for each token.
    inter_token_ms: metrics::InterToken,
    state: Mutex<State>,
    /// Something that the dispatcher looks at has changed.
    changed: Notify,
    /// The engine works again, or was given up.
    recovered: Notify,
    /// A task has given its slots back or left the queue, or an engine was freed.
    stopped: Notify,
}

impl Pool {
    /// A pool that is starting: it has no engine and takes no tasks until [`start`](Pool::start) has loaded one.
    pub fn new(
        spec: PoolSpec,
        model: ModelId,
        loader: Arc<dyn Loader>,
        lifecycle: Lifecycle,
        metrics: PoolMetrics,
    ) -> Arc<Self> {
        let ids = (0..spec.replicas.max(1)).map(|number| ReplicaId::from(format!("{}-{number}", spec.id)));
        let replicas: Vec<_> = ids.inspect(|id| metrics.add_replica(&spec, id)).map(Replica::new).collect();
        let queue = (spec.queue_capacity, spec.queue_policy, spec.batch_floor);
        let configured = model.clone();
        let state = State::new(replicas, queue, (model, loader));
        metrics.add_pool(&spec);
        let inter_token_ms = metrics.inter_token(&spec);
        let gauges = metrics.engines().clone();
        let pool = Arc::new(Self {
            spec,
            configured,
            lifecycle,
            metrics,
            inter_token_ms,
            state: Mutex::new(state),
            changed: Notify::new(),
            recovered: Notify::new(),
            stopped: Notify::new(),
        });
        gauges.watch(&pool);
        pool
    }

    /// Loads the engine, probes it with a real generation, and starts to take tasks. With `kept`, the model that the pool was
    /// reloaded with in an earlier process, it has that one, if it can be loaded.
    ///
    /// # Errors
    ///
    /// In words for the operator: the model cannot be loaded, or does not answer.
    pub async fn start(self: &Arc<Self>, kept: Option<&ModelId>) -> Result<(), crate::engine::LoadError> {
        // The pool opens with its first replica; one of the others that cannot be loaded is tried again, and so is a server
        // elsewhere that does not answer yet.
        let again = match kept {
            Some(model) => self.load_again(model).await,
            None => None,
        };
        let (loader, stay) = {
            let state = self.lock();
            (Arc::clone(&state.loader), state.stay(0))
        };
        if let Some(fresh) = again {
            self.install(0, fresh, stay).await;
        } else if self.spec.engine.is(EngineName::Remote) {
            self.start_elsewhere(&loader, stay).await?;
        } else {
            let fresh = self.load_first(&loader_for(&loader, 0)).await?;
            self.install(0, fresh, stay).await;
        }
        let pool = Arc::clone(self);
        self.lifecycle.spawn("dispatcher", OnPanic::Shutdown, async move { pool.dispatch().await });
        let pool = Arc::clone(self);
        self.lifecycle.spawn("queue positions", OnPanic::Shutdown, async move { pool.tell_positions().await });
        for replica in 1..self.spec.replicas.max(1) {
            match self.load_and_probe(&loader_for(&loader, replica)).await {
                Ok(fresh) => self.install(replica, fresh, stay).await,
                Err(error) => self.not_loaded(replica, &error),
            }
        }
        Ok(())
    }

    pub fn id(&self) -> &PoolId {
        &self.spec.id
    }

    pub fn spec(&self) -> &PoolSpec {
        &self.spec
    }

    /// The model that the configuration has for it.
    pub fn configured_model(&self) -> &ModelId {
        &self.configured
    }

    /// The model that it serves, or will serve first.
    pub fn model(&self) -> ModelId {
        self.lock().model.clone()
    }

    /// An engine, once one is loaded; all of the pool have the same model.
    pub fn engine(&self) -> Option<Arc<dyn Engine>> {
        self.lock().engine().cloned()
    }

    /// The engine to count a prompt with, where the pool takes tasks.
    ///
    /// # Errors
    ///
    /// [`Refused::NotReady`], [`Refused::Draining`] or [`Refused::Exhausted`].
    pub fn available(&self) -> Result<Arc<dyn Engine>, Refused> {
        let state = self.lock();
        state.open()?;
        state.engine().cloned().ok_or(Refused::NotReady)
    }

    pub fn info(&self) -> Option<EngineInfo> {
        self.engine().map(|engine| engine.info().clone())
    }

    /// What can be asked of its model; nothing until an engine is loaded.
    pub fn workloads(&self) -> Vec<Workload> {
        self.lock().engine().map_or_else(Vec::new, |engine| engine.info().workloads.clone())
    }

    /// What messages to its model may hold; nothing until an engine is loaded.
    pub fn modalities(&self) -> Vec<Modality> {
        self.lock().engine().map_or_else(Vec::new, |engine| engine.info().modalities.clone())
    }

    /// Changes whenever the same seed can give other tokens: OpenAI's `system_fingerprint`. None until the engine is loaded.
    pub fn fingerprint(&self) -> Option<String> {
        self.lock().replicas.iter().find_map(|replica| replica.fingerprint.clone())
    }

    /// The engines of all its replicas that have one.
    pub fn engines(&self) -> Vec<Arc<dyn Engine>> {
        self.lock().replicas.iter().filter_map(|replica| replica.engine.clone()).collect()
    }

    /// What the engines do now, all together.
    pub fn stats(&self) -> EngineStats {
        self.engines().iter().map(|engine| engine.stats()).fold(EngineStats::default(), |sum, stats| EngineStats {
            slots: sum.slots + stats.slots,
            running: sum.running + stats.running,
            tokens_total: sum.tokens_total + stats.tokens_total,
            tokens_per_s: sum.tokens_per_s + stats.tokens_per_s,
            kv_tokens: sum.kv_tokens + stats.kv_tokens,
            // Each replica's is its own.
            gpu: None,
        })
    }

    /// The GPUs that its engines run on, each once, where the driver says what they do.
    pub fn gpus(&self) -> BTreeMap<String, GpuUse> {
        let each: BTreeMap<_, _> =
            self.engines().into_iter().map(|engine| (engine.info().device.clone(), engine)).collect();
        each.into_iter().filter_map(|(device, engine)| Some((device, engine.stats().gpu?))).collect()
    }

    pub fn health(&self) -> Health {
        self.lock().health()
    }

    /// What placement looks at.
    pub fn candidate(&self) -> Candidate {
        let state = self.lock();
        let devices = state.replicas.iter().filter_map(|replica| replica.device.clone());
        Candidate {
            id: self.spec.id.clone(),
            engine: self.spec.engine,
            devices: devices.collect(),
            workloads: state.engine().map(|engine| engine.info().workloads.clone()),
            open: state.open().is_ok() && state.engine().is_some(),
        }
    }

    /// How it stands, all of one moment.
    pub fn status(&self) -> PoolStatus {
        let state = self.lock();
        PoolStatus {
            health: state.health(),
            draining: state.draining.is_some(),
            held: state.held,
            model: state.model.clone(),
            reload: state.reload.clone(),
            purge: state.purge.clone(),
            closing: state.closing,
            queue_depth: state.queue.total().tasks,
            replicas: state
                .replicas
                .iter()
                .filter(|replica| replica.health != Health::Vacant)
                .map(Replica::view)
                .collect(),
        }
    }

    /// How long loading a model took here the last time.
    pub fn load_time(&self) -> Duration {
        self.lock().load_time
    }

    pub fn rates(&self) -> Rates {
        self.lock().rates
    }

    /// Tasks that wait.
    pub fn queue_depth(&self) -> usize {
        self.lock().queue.len()
    }

    /// Slots in use, and all of them.
    pub fn slots(&self) -> (u32, u32) {
        let state = self.lock();
        (state.slots_used(), state.slots_total())
    }

    /// Where a waiting task stands; `None` once it has left the queue.
    pub fn place(&self, task: &Task) -> Option<Place> {
        self.lock().place(task.spec.id)
    }

    /// Where a task would stand, and when it would start and end, if it were queued now.
    ///
    /// # Errors
    ///
    /// [`Refused`], as [`submit_all`].
    pub fn foresee(&self, coming: &Coming<'_>) -> Result<Place, Refused> {
        self.lock().foresee(coming)
    }

    /// This pool as the home of a task: it is told when the task has ended.
    pub fn home(self: &Arc<Self>) -> Home {
        Home { pool_id: self.spec.id.clone(), observer: Arc::new(PoolObserver(Arc::downgrade(self))) }
    }

    /// Frees the engine's memory. Call once nothing runs any more.
    pub async fn unload(&self) {
        let engines: Vec<_> = {
            let mut state = self.lock();
            let retiring = std::mem::take(&mut state.retiring);
            state.replicas.iter_mut().filter_map(|replica| replica.engine.take()).chain(retiring).collect()
        };
        futures_util::future::join_all(engines.iter().map(|engine| engine.unload())).await;
    }

    /// Takes a task out of the queue if it is there.
    fn forget(&self, task: &Task) {
        let job = self.lock().leave(task.spec.id);
        if job.is_some() {
            self.metrics.queue_changed(self);
            self.changed.notify_one();
            self.stopped.notify_waiters();
        }
    }

    /// Starts whatever can start, whenever something has changed, until the gateway ends.
    async fn dispatch(self: Arc<Self>) {
        loop {
            self.start_ready();
            tokio::select! {
                () = self.changed.notified() => {}
                () = self.lifecycle.forced().cancelled() => return,
            }
        }
    }

    /// Starts tasks from the head of the queue while there are slots for them.
    fn start_ready(self: &Arc<Self>) {
        while let Some((job, slots)) = self.take_next() {
            let pool = Arc::clone(self);
            // Begun here, so that the engine works on it while its client is still being answered.
            self.lifecycle.spawn_begun("task", OnPanic::Continue, async move { pool.run(job, slots).await });
        }
    }

    fn take_next(self: &Arc<Self>) -> Option<(Job, Slots)> {
        let (job, seat) = self.lock().take_next(Instant::now())?;
        let slots = Slots::new(Arc::clone(self), seat);
        self.metrics.queue_changed(self);
        Some((job, slots))
    }

    /// Tells waiting tasks when their place has changed.
    async fn tell_positions(self: Arc<Self>) {
        let mut ticks = interval(POSITION_UPDATES);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = self.lifecycle.forced().cancelled() => return,
            }
            let moved = self.lock().moved(POSITION_READERS, Instant::now());
            for (task, place) in moved {
                tell(&task, &place);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// Appends a `metrics` event with the task's place. A task that has ended meanwhile takes none, which is right.
fn tell(task: &Task, place: &Place) {
    let metrics = Metrics {
        queue_position: Some(place.position),
        predicted_start_ms: Some(place.prediction.start_ms),
        queue_depth: Some(place.queue_depth),
        ..task.budget().unwrap_or_default()
    };
    let _ = task.log.append(Event::Metrics(Arc::new(metrics)), Instant::now());
}

struct PoolObserver(Weak<Pool>);

impl Observer for PoolObserver {
    fn ended(&self, task: &Task, how: &Ended) {
        if let Some(pool) = self.0.upgrade() {
            pool.forget(task);
            pool.metrics.ended(&pool, task, how);
        }
    }
}
