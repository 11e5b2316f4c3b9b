//! Bringing an engine up, and back.
//!
//! After a failure the replica takes nothing until a real generation has worked again. The engine may heal by itself (a
//! probe or two get lost first); if it does not, it is abandoned and built anew; if that fails too, the pool has failed
//! and tries again at intervals, which grow.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use super::rates::Measured;
use super::replica::{Health, Seat};
use super::state::Stay;
use super::{Pool, Refused, Reload};
use crate::engine::{Engine, LoadError, Loader, loader_for};
use crate::ids::{ModelId, ReplicaId};
use crate::lifecycle::OnPanic;
use crate::tasks::Clock;
use sluicegate_compat::native::{EngineName, ErrorCode, ErrorEnvelope};

/// A probe that takes longer has failed.
const PROBE_DEADLINE: Duration = Duration::from_secs(30);

/// Probes before the engine is given up; two are lost where it reboots itself.
const PROBES: u32 = 5;

/// Prompt tokens of a probe: one to see whether the engine works. Before a replica takes tasks, others show how much more
/// longer prompts take, so that the first predictions are no guesses: the next of them where the one before was quick.
const SHORT_PROBE: u32 = 1;
const LONG_PROBES: [u32; 2] = [64, 512];
const QUICK: Duration = Duration::from_millis(50);

/// How long the start of the gateway waits for a server elsewhere.
const START_PATIENCE: Duration = Duration::from_secs(1);

/// The pause before the first repeated probe; it doubles each time.
const PROBE_PAUSE: Duration = Duration::from_millis(20);

/// How long an engine may take to end.
const RELEASE_DEADLINE: Duration = Duration::from_secs(15);

/// Rebuilds before the pool has failed.
const REBUILDS: u32 = 3;

/// The pause after the first rebuild; it doubles each time, up to the longest. To ask a server elsewhere costs little, so that
/// pause stays as it is.
const REBUILD_PAUSE: Duration = Duration::from_secs(5);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

impl Pool {
    /// A new engine of `loader`'s model, or of the pool's own.
    pub(super) async fn load_and_probe(self: &Arc<Self>, loader: &Arc<dyn Loader>) -> Result<Fresh, LoadError> {
        let loaded = self.load_in_time(loader).await?;
        self.probe_new(loaded).await
    }

    /// Sees whether an engine that was just loaded generates, and how fast it is.
    pub(super) async fn probe_new(&self, Loaded { engine, began }: Loaded) -> Result<Fresh, LoadError> {
        let mut measured = Vec::new();
        for prompt_tokens in [SHORT_PROBE].into_iter().chain(LONG_PROBES) {
            let probe_began = Instant::now();
            let Some(speed) = probe(engine.as_ref(), prompt_tokens).await else {
                let why = engine.trouble();
                release(engine).await;
                let why = why.unwrap_or_else(|| "the model was loaded but does not generate".to_owned());
                return Err(LoadError(format!("pool {}: {why}", self.spec.id)));
            };
            measured.push(speed);
            if prompt_tokens > SHORT_PROBE && probe_began.elapsed() >= QUICK {
                break;
            }
        }
        self.lock().load_time = began.elapsed();
        Ok(Fresh { engine, measured })
    }

    /// Takes a working engine into service, unless the pool has got others since it had this `stay`.
    pub(super) async fn install(self: &Arc<Self>, number: usize, fresh: Fresh, stay: Stay) {
        let Fresh { engine, measured } = fresh;
        let id = {
            let mut state = self.lock();
            if state.stay(number) == stay {
                measured.into_iter().for_each(|measured| state.rates.measure_speed(measured));
                let replica = &mut state.replicas[number];
                replica.install(Arc::clone(&engine));
                replica.health = Health::Ready;
                Some(replica.id.clone())
            } else {
                None
            }
        };
        match id {
            Some(id) => self.metrics.add_engine(self, &id, engine.info()),
            None => release(engine).await,
        }
        self.health_changed();
    }

    /// The first engine; its files may have to be fetched, however long that takes.
    pub(super) async fn load_first(&self, loader: &Arc<dyn Loader>) -> Result<Fresh, LoadError> {
        let permit = loader.ready().await?;
        let began = Instant::now();
        let engine = loader.load(&permit).await?;
        drop(permit);
        self.probe_new(Loaded { engine, began }).await
    }

    /// The first engine of the model that an earlier process has reloaded the pool with. Where that cannot be had, the pool's
    /// health says why, and it goes on with the model of the configuration.
    pub(super) async fn load_again(&self, model: &ModelId) -> Option<Fresh> {
        let started_at_ms = Clock::now().unix_ms;
        let loader = self.lock().loader.of_model(model.as_str());
        let loaded = match &loader {
            Ok(loader) => self.load_first(&loader_for(loader, 0)).await,
            Err(error) => Err(error.clone()),
        };
        let mut state = self.lock();
        match loader.and_then(|loader| Ok((loader, loaded?))) {
            Ok((loader, fresh)) => {
                (state.model, state.loader) = (model.clone(), loader);
                Some(fresh)
            }
            Err(error) => {
                let (pool, configured) = (&self.spec.id, &self.configured);
                tracing::error!(%pool, %model, %configured, %error, "the model of an earlier process cannot be loaded again");
                state.reload = Some(Reload::failed(model.clone(), started_at_ms, error.to_string()));
                None
            }
        }
    }

    /// Looks whether a server elsewhere answers, and goes on trying where it does not: no other pool waits for it.
    pub(super) async fn start_elsewhere(
        self: &Arc<Self>,
        loader: &Arc<dyn Loader>,
        stay: Stay,
    ) -> Result<(), LoadError> {
        let permit = loader.ready().await?;
        let engine = loader.load(&permit).await?;
        let probing = self.probe_new(Loaded { engine: Arc::clone(&engine), began: Instant::now() });
        match timeout(START_PATIENCE, probing).await {
            Ok(Ok(fresh)) => self.install(0, fresh, stay).await,
            Ok(Err(error)) => self.away(0, loader.load(&permit).await?, &error),
            Err(_) => {
                let why = engine.trouble().unwrap_or_else(|| "the server does not answer yet".to_owned());
                self.away(0, engine, &LoadError(format!("pool {}: {why}", self.spec.id)));
            }
        }
        Ok(())
    }

    /// Notes that a server elsewhere does not answer yet, and goes on trying. Prompts are counted meanwhile, and tasks wait.
    pub(super) fn away(self: &Arc<Self>, number: usize, engine: Arc<dyn Engine>, error: &LoadError) {
        let id = {
            let mut state = self.lock();
            let replica = &mut state.replicas[number];
            replica.install(Arc::clone(&engine));
            replica.id.clone()
        };
        self.metrics.add_engine(self, &id, engine.info());
        self.not_loaded(number, error);
    }

    /// Notes that a replica beside others could not be loaded, and goes on trying.
    pub(super) fn not_loaded(self: &Arc<Self>, number: usize, error: &LoadError) {
        let (id, stay) = {
            let mut state = self.lock();
            let stay = state.stay(number);
            let replica = &mut state.replicas[number];
            replica.health = Health::Recovering;
            replica.last_error = Some(error.to_string());
            (replica.id.clone(), stay)
        };
        tracing::error!(pool = %self.spec.id, replica = %id, %error, "a replica cannot be loaded");
        let pool = Arc::clone(self);
        self.lifecycle.spawn("recovery", OnPanic::Shutdown, async move { pool.recover(number, &id, stay).await });
    }

    /// Notes that the engine failed under a task, and starts to bring it back unless that is under way.
    pub(super) fn engine_failed(self: &Arc<Self>, seat: &Seat) {
        let number = seat.replica;
        let (id, stay) = {
            let mut state = self.lock();
            let stay = state.stay(number);
            let replica = &mut state.replicas[number];
            // One that was replaced meanwhile is nobody's concern.
            if replica.health != Health::Ready || !replica.has(&seat.engine) {
                return;
            }
            replica.health = Health::Recovering;
            replica.last_error = Some("the engine failed under a task".to_owned());
            (replica.id.clone(), stay)
        };
        tracing::warn!(pool = %self.spec.id, replica = %id, "the engine failed; probing it");
        let pool = Arc::clone(self);
        self.lifecycle.spawn("recovery", OnPanic::Shutdown, async move { pool.recover(number, &id, stay).await });
    }

    /// Brings a replica's engine back, unless the pool gets others meanwhile: then it is not this one's to change any more.
    pub(super) async fn recover(self: Arc<Self>, number: usize, id: &ReplicaId, stay: Stay) {
        let engine = self.lock().replicas[number].engine.clone();
        if let Some(engine) = engine
            && let Some(speed) = probe(engine.as_ref(), SHORT_PROBE).await
        {
            tracing::info!(pool = %self.spec.id, replica = %id, "the engine works again");
            self.lock().rates.measure_speed(speed);
            return self.set_health(number, Health::Ready, stay);
        }
        let longest = if self.spec.engine.is(EngineName::Remote) { REBUILD_PAUSE } else { LONGEST_PAUSE };
        let (mut attempt, mut pause) = (0, REBUILD_PAUSE);
        while !self.lifecycle.draining().is_cancelled() {
            attempt += 1;
            let Some(loader) = self.abandon(number, stay).await else { return };
            match self.load_and_probe(&loader).await {
                Ok(fresh) => {
                    tracing::info!(pool = %self.spec.id, replica = %id, attempt, "the engine was built anew");
                    return self.install(number, fresh, stay).await;
                }
                Err(error) => {
                    tracing::error!(pool = %self.spec.id, replica = %id, attempt, %error, "the engine cannot be built anew");
                    let mut state = self.lock();
                    if state.stay(number) != stay {
                        return;
                    }
                    state.replicas[number].last_error = Some(error.to_string());
                }
            }
            if attempt == REBUILDS {
                self.give_up(number, stay);
            }
            tokio::select! {
                () = sleep(pause) => {}
                () = self.lifecycle.draining().cancelled() => {}
            }
            pause = (pause * 2).min(longest);
        }
    }

    /// Ends an engine that does not work, so that its memory is free before the next one is loaded; returns what loads that.
    async fn abandon(&self, number: usize, stay: Stay) -> Option<Arc<dyn Loader>> {
        let (engine, loader) = {
            let mut state = self.lock();
            if state.stay(number) != stay {
                return None;
            }
            (state.replicas[number].engine.take(), state.loader_of(number))
        };
        if let Some(engine) = engine {
            release(engine).await;
        }
        Some(loader)
    }

    /// The replica has failed; with the last one the queue cannot be served any more.
    fn give_up(self: &Arc<Self>, number: usize, stay: Stay) {
        self.set_health(number, Health::Failed, stay);
        self.fail_waiting();
    }

    /// Ends what waits where no replica is left that could run it.
    pub(super) fn fail_waiting(self: &Arc<Self>) {
        let jobs = {
            let mut state = self.lock();
            if state.health().rank() >= Health::Failed.rank() { state.leave_all() } else { Vec::new() }
        };
        self.metrics.queue_changed(self);
        for job in jobs {
            let error = ErrorEnvelope::new(ErrorCode::ReplicaExhausted, Refused::Exhausted.to_string());
            job.task.fail(error.with_pool(self.spec.id.as_str()));
        }
    }

    fn set_health(&self, number: usize, health: Health, stay: Stay) {
        {
            let mut state = self.lock();
            if state.stay(number) == stay {
                let replica = &mut state.replicas[number];
                replica.health = health;
                if health == Health::Ready {
                    replica.last_error = None;
                }
            }
        }
        self.health_changed();
    }

    /// Wakes whoever waits for a replica.
    pub(super) fn health_changed(&self) {
        self.changed.notify_one();
        self.recovered.notify_waiters();
    }
}

/// An engine that was just loaded.
pub(super) struct Loaded {
    pub engine: Arc<dyn Engine>,
    /// When loading it began, its files being there and nothing else being loaded.
    pub began: Instant,
}

/// An engine that was just loaded and works, with how fast it was.
pub(super) struct Fresh {
    pub engine: Arc<dyn Engine>,
    pub measured: Vec<Measured>,
}

/// A real generation, several times if need be.
async fn probe(engine: &dyn Engine, prompt_tokens: u32) -> Option<Measured> {
    let mut pause = PROBE_PAUSE;
    for _ in 0..PROBES {
        if let Ok(Ok(finished)) = timeout(PROBE_DEADLINE, engine.probe(prompt_tokens)).await {
            let (tokens_out, prefill, decode) = (finished.tokens_out, finished.prefill, finished.decode);
            let tokens_in = prompt_tokens.saturating_sub(finished.cached_tokens);
            return Some(Measured { tokens_in, tokens_out, prefill, decode, occupancy: 1.0 });
        }
        sleep(pause).await;
        pause *= 2;
    }
    None
}

/// Ends an engine. One that hangs is left to itself after a while; what it holds stays with it.
pub(super) async fn release(engine: Arc<dyn Engine>) {
    if timeout(RELEASE_DEADLINE, engine.unload()).await.is_err() {
        tracing::error!("an engine does not end; its memory is lost until the process ends");
    }
}
