//! Giving a pool another model while it serves.
//!
//! ```text
//! verify the files -> load engines beside the old ones -> a real generation on each -> switch, under the pool's lock
//!                 \-> no memory for both: hold the queue, let running tasks end, unload -> load -> switch, or the old one again
//! ```
//!
//! Until the switch nothing has changed, and whatever fails before it leaves the pool as it was. What runs at the switch ends
//! on its old engine, which is freed then; what waits is prepared again for the new model. Loading has a deadline, and until
//! the switch a drain at its deadline, a purge by force and a shutdown end the reload.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::recovery::{Fresh, release};
use super::replica::Health;
use super::state::State;
use super::{Pool, prepare};
use crate::engine::{Engine, LoadError, Loader, Room, loader_for};
use crate::ids::ModelId;
use crate::tasks::Clock;

/// A reload that is under way or has ended.
#[derive(Debug, Clone)]
pub struct Reload {
    /// The new model.
    pub model: ModelId,
    pub phase: Phase,
    pub started_at_ms: u64,
    pub ended: Option<Conclusion>,
    /// Ends it early, as failed.
    pub stop: CancellationToken,
}

/// How a reload or a purge ended.
#[derive(Debug, Clone)]
pub struct Conclusion {
    pub at_ms: u64,
    /// Why it failed, in words for the operator; a pool whose reload failed has its old model still.
    pub error: Option<String>,
}

/// What a reload does, or did last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// The files are fetched where they are missing, and their digest is verified.
    Verifying,
    /// There is no memory for both: what runs has to end first.
    Draining,
    Loading,
    /// A real generation.
    Probing,
    /// It has failed with the old model unloaded, which is loaded again.
    Restoring,
}

impl Phase {
    /// The word for it in answers.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Verifying => "verifying",
            Self::Draining => "draining",
            Self::Loading => "loading",
            Self::Probing => "probing",
            Self::Restoring => "restoring",
        }
    }
}

/// Why a reload or a purge cannot begin.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Busy {
    #[error("a reload of this pool is under way")]
    Reloading,
    #[error("a purge of this pool is under way")]
    Purging,
    #[error("the pool is starting")]
    Starting,
    #[error(
        "a load that was given up has not ended yet, and cannot be stopped: try again in a moment; where it never ends, restart the gateway"
    )]
    Stuck,
    #[error("the pool has tasks; say drain_first to let them end, or force to cancel them")]
    Working,
    #[error("{0}")]
    Fixed(#[from] LoadError),
}

impl Reload {
    pub fn is_under_way(&self) -> bool {
        self.ended.is_none()
    }

    /// One that did not bring back the model of an earlier process.
    pub(super) fn failed(model: ModelId, started_at_ms: u64, error: String) -> Self {
        let (phase, stop) = (Phase::Loading, CancellationToken::new());
        let mut reload = Self { model, phase, started_at_ms, ended: None, stop };
        reload.end(Some(error));
        reload
    }

    fn end(&mut self, error: Option<String>) {
        self.ended = Some(Conclusion { at_ms: Clock::now().unix_ms, error });
    }
}

/// The right to reload a pool: there is one at a time. Dropped before its end, the reload has failed.
pub struct Reloading {
    pool: Arc<Pool>,
    model: ModelId,
    loader: Arc<dyn Loader>,
    stop: CancellationToken,
    /// Nothing is admitted meanwhile.
    exclusive: bool,
    ended: bool,
}

impl Pool {
    /// Begins a reload: from now on the pool's health shows it, and no other one begins until it has ended.
    ///
    /// # Errors
    ///
    /// [`Busy`].
    pub fn begin_reload(self: &Arc<Self>, model: ModelId) -> Result<Reloading, Busy> {
        self.begin(model, false)
    }

    /// As [`begin_reload`](Self::begin_reload), of a pool without tasks. It gets none until the reload has ended, so that none
    /// is run with another model than it was for.
    ///
    /// # Errors
    ///
    /// [`Busy`], also where the pool drains.
    pub fn begin_exchange(self: &Arc<Self>, model: ModelId) -> Result<Reloading, Busy> {
        self.begin(model, true)
    }

    /// Returns once [`begin_exchange`](Self::begin_exchange) might succeed.
    pub async fn exchangeable(&self) {
        self.wait_until(|state| state.check_exchangeable().is_ok()).await;
    }

    fn begin(self: &Arc<Self>, model: ModelId, exclusive: bool) -> Result<Reloading, Busy> {
        let mut state = self.lock();
        if exclusive {
            state.check_exchangeable()?;
        }
        state.check_not_busy()?;
        if state.has_given_up_load() {
            return Err(Busy::Stuck);
        }
        let loader = state.loader.of_model(model.as_str())?;
        let (started_at_ms, stop) = (Clock::now().unix_ms, CancellationToken::new());
        state.reload = Some(Reload {
            model: model.clone(),
            phase: Phase::Verifying,
            started_at_ms,
            ended: None,
            stop: stop.clone(),
        });
        state.held |= exclusive;
        state.exchanging = exclusive;
        Ok(Reloading { pool: Arc::clone(self), model, loader, stop, exclusive, ended: false })
    }

    /// Whether requests for this model can go there: it has it, and is not about to have another one in its place.
    pub fn serves(&self, id: &str) -> bool {
        let state = self.lock();
        let other = state.reload.as_ref().is_some_and(|reload| reload.is_under_way() && reload.model.as_str() != id);
        state.model.as_str() == id && !(other && state.exchanging)
    }

    /// Whether it has this model, or is getting it.
    pub fn needs_model(&self, id: &str) -> bool {
        let state = self.lock();
        let coming = state.reload.as_ref().is_some_and(|reload| reload.is_under_way() && reload.model.as_str() == id);
        coming || (state.model.as_str() == id && state.health() != Health::Unloaded)
    }

    /// Puts other engines in the place of all that there are, in one step; returns the old ones.
    fn switch(self: &Arc<Self>, model: &ModelId, loader: &Arc<dyn Loader>, fresh: Vec<Fresh>) -> Vec<Arc<dyn Engine>> {
        let mut old = Vec::new();
        let mut installed = Vec::new();
        {
            let mut state = self.lock();
            let State { replicas, rates, .. } = &mut *state;
            *rates = super::Rates::default();
            for (replica, Fresh { engine, measured }) in replicas.iter_mut().zip(fresh) {
                measured.into_iter().for_each(|measured| rates.measure_speed(measured));
                old.extend(replica.engine.take());
                installed.push((replica.id.clone(), Arc::clone(&engine)));
                replica.install(engine);
                replica.health = Health::Ready;
                replica.last_error = None;
            }
            state.model = model.clone();
            state.loader = Arc::clone(loader);
            state.epoch += 1;
            state.held = false;
            state.retiring.extend(old.iter().cloned());
            if let Some(reload) = &mut state.reload {
                reload.end(None);
            }
        }
        for (replica, engine) in installed {
            self.metrics.add_engine(self, &replica, engine.info());
        }
        self.metrics.reloaded(self, true);
        self.metrics.queue_changed(self);
        self.health_changed();
        old
    }

    /// Prepares what waits for the model that the pool has now. What does not fit it ends, and its client is told.
    async fn prepare_waiting(&self) {
        let Some(engine) = self.engine() else { return };
        let misfits = self.lock().misfits(&engine.info().model_digest);
        for (id, recipe) in misfits {
            let fitted = prepare(&recipe, &engine, &self.lifecycle).await;
            let failed = match (self.lock().waiting_mut(id), fitted) {
                // It has started meanwhile, and was prepared then.
                (None, _) => None,
                (Some(job), fitted) => job.refit(fitted).err().map(|error| (Arc::clone(&job.task), error)),
            };
            if let Some((task, error)) = failed {
                task.fail(error.with_pool(self.spec.id.as_str()));
            }
        }
    }

    /// Frees engines that were replaced, each once nothing runs on it any more.
    pub(super) async fn retire(&self, old: Vec<Arc<dyn Engine>>) {
        for engine in old {
            let unused = self.wait_until(|state| !state.is_used(&engine));
            if self.lifecycle.forced().run_until_cancelled(unused).await.is_none() {
                return;
            }
            release(Arc::clone(&engine)).await;
            self.lock().retiring.retain(|other| !Arc::ptr_eq(other, &engine));
            self.stopped.notify_waiters();
        }
    }

    /// Waits for something that comes about when tasks end or engines are freed.
    pub(super) async fn wait_until(&self, is_so: impl Fn(&State) -> bool) {
        loop {
            // Made before the look, so that no change between the two is lost.
            let stopped = self.stopped.notified();
            if is_so(&self.lock()) {
                return;
            }
            stopped.await;
        }
    }
}

impl Reloading {
    /// Reloads the pool, to its end. `hand_on` gives what waits to other pools that have the old model; `keep` is waited for
    /// when nothing can fail any more, right before the switch.
    ///
    /// # Errors
    ///
    /// As the pool's health says it, in words for the operator.
    pub async fn run(
        mut self,
        hand_on: impl Fn(&Arc<Pool>) + Send,
        keep: impl Future<Output = ()> + Send,
    ) -> Result<(), LoadError> {
        let pool = Arc::clone(&self.pool);
        match self.exchange(hand_on, keep).await {
            Ok(old) => {
                self.ended = true;
                tracing::info!(pool = %pool.spec.id, model = %self.model, "reloaded");
                pool.prepare_waiting().await;
                pool.retire(old).await;
                Ok(())
            }
            Err(error) => {
                self.fail(error.to_string());
                Err(error)
            }
        }
    }

    async fn exchange(
        &self,
        hand_on: impl Fn(&Arc<Pool>),
        keep: impl Future<Output = ()>,
    ) -> Result<Vec<Arc<dyn Engine>>, LoadError> {
        let pool = &self.pool;
        let (replicas, old_model, unloaded) = {
            let state = pool.lock();
            (state.replicas.len(), state.model.clone(), state.health() == Health::Unloaded)
        };
        let room = self.unless_ending(self.loader.verify(replicas)).await??;
        // Beside nothing there is as much room as there will be.
        let room = if unloaded { Room::Beside } else { room };
        if room == Room::Instead {
            self.make_room(&hand_on).await?;
        }
        match self.load(replicas).await {
            Ok(fresh) => {
                keep.await;
                if old_model != self.model {
                    hand_on(pool);
                }
                Ok(pool.switch(&self.model, &self.loader, fresh))
            }
            Err(error) => {
                if room == Room::Instead {
                    self.restore().await;
                }
                Err(error)
            }
        }
    }

    /// An engine for each replica, each tried with a real generation.
    async fn load(&self, replicas: usize) -> Result<Vec<Fresh>, LoadError> {
        let mut all = Vec::with_capacity(replicas);
        for replica in 0..replicas {
            match self.load_one(replica).await {
                Ok(fresh) => all.push(fresh),
                Err(error) => {
                    for Fresh { engine, .. } in all {
                        release(engine).await;
                    }
                    return Err(error);
                }
            }
        }
        Ok(all)
    }

    /// An end leaves nothing behind that was loaded: its memory is free before this returns.
    async fn load_one(&self, replica: usize) -> Result<Fresh, LoadError> {
        self.enter(Phase::Loading);
        let loader = loader_for(&self.loader, replica);
        let loaded = self.unless_ending(self.pool.load_in_time(&loader)).await??;
        self.enter(Phase::Probing);
        let engine = Arc::clone(&loaded.engine);
        match self.unless_ending(self.pool.probe_new(loaded)).await {
            Ok(probed) => probed,
            Err(ending) => {
                release(engine).await;
                Err(ending)
            }
        }
    }

    /// Ends what runs and unloads the old engines; what waits goes on waiting, or to another pool.
    async fn make_room(&self, hand_on: impl Fn(&Arc<Pool>)) -> Result<(), LoadError> {
        let pool = &self.pool;
        self.enter(Phase::Draining);
        pool.lock().held = true;
        hand_on(pool);
        let idle = pool.wait_until(|state| state.nothing_runs() && state.retiring.is_empty());
        if let Err(error) = self.unless_ending(idle).await {
            self.let_go();
            return Err(error);
        }
        let engines = pool.lock().take_engines(Health::Starting);
        for engine in engines {
            release(engine).await;
        }
        Ok(())
    }

    /// Loads the old model again. A replica where that fails too goes on trying.
    async fn restore(&self) {
        self.enter(Phase::Restoring);
        let pool = &self.pool;
        let (replicas, loader, stay) = {
            let state = pool.lock();
            (state.replicas.len(), Arc::clone(&state.loader), state.stay(0))
        };
        for replica in 0..replicas {
            match pool.load_and_probe(&loader_for(&loader, replica)).await {
                Ok(fresh) => pool.install(replica, fresh, stay).await,
                Err(error) => pool.not_loaded(replica, &error),
            }
        }
        self.let_go();
    }

    /// The queue goes on.
    fn let_go(&self) {
        self.pool.lock().held = false;
        self.pool.health_changed();
    }

    /// The outcome, unless somebody ends the reload or the gateway begins to shut down first.
    async fn unless_ending<T>(&self, work: impl Future<Output = T>) -> Result<T, LoadError> {
        let why = tokio::select! {
            biased;
            () = self.pool.lifecycle.draining().cancelled() => "the gateway is shutting down",
            () = self.stop.cancelled() => "a drain or a purge of the pool has ended it",
            done = work => return Ok(done),
        };
        Err(LoadError(why.to_owned()))
    }

    fn enter(&self, phase: Phase) {
        if let Some(reload) = &mut self.pool.lock().reload {
            reload.phase = phase;
        }
    }

    fn fail(&mut self, error: String) {
        self.ended = true;
        let pool = &self.pool;
        tracing::error!(pool = %pool.spec.id, model = %self.model, error, "the reload failed; the pool keeps its model");
        if let Some(reload) = &mut pool.lock().reload {
            reload.end(Some(error));
        }
        pool.stopped.notify_waiters();
        if self.exclusive {
            self.let_go();
        }
        pool.metrics.reloaded(pool, false);
    }
}

impl Drop for Reloading {
    fn drop(&mut self) {
        if !self.ended {
            self.let_go();
            self.fail("it was cut short".to_owned());
        }
    }
}
