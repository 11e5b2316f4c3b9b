//! Bringing an engine up, and back.
//!
//! After a failure the replica takes nothing until a real generation has worked again. The engine may heal by itself (a
//! probe or two get lost first); if it does not, it is abandoned and built anew; if that fails too, the pool has failed
//! and tries again at intervals.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use super::rates::Measured;
use super::replica::Health;
use super::{Pool, Refused};
use crate::engine::{Engine, LoadError};
use crate::ids::ReplicaId;
use crate::lifecycle::OnPanic;
use sluicegate_compat::native::{ErrorCode, ErrorEnvelope};

/// A probe that takes longer has failed.
const PROBE_DEADLINE: Duration = Duration::from_secs(30);

/// Probes before the engine is given up; two are lost where it reboots itself.
const PROBES: u32 = 5;

/// Prompt tokens of a probe: one to see whether the engine works. Before a replica takes tasks, others show how much more
/// longer prompts take, so that the first predictions are no guesses: the next of them where the one before was quick.
const SHORT_PROBE: u32 = 1;
const LONG_PROBES: [u32; 2] = [64, 512];
const QUICK: Duration = Duration::from_millis(50);

/// The pause before the first repeated probe; it doubles each time.
const PROBE_PAUSE: Duration = Duration::from_millis(20);

/// How long an engine that failed may take to end.
const RELEASE_DEADLINE: Duration = Duration::from_secs(15);

/// Rebuilds before the pool has failed.
const REBUILDS: u32 = 3;

/// The pause between rebuilds, and between the attempts of a pool that has failed.
const REBUILD_PAUSE: Duration = Duration::from_secs(5);

impl Pool {
    pub(super) async fn load_and_probe(&self) -> Result<Arc<dyn Engine>, LoadError> {
        let engine = self.loader.load().await?;
        if self.probe(engine.as_ref(), SHORT_PROBE).await && self.probe_longer(engine.as_ref()).await {
            return Ok(engine);
        }
        release(engine).await;
        Err(LoadError(format!("pool {}: the model was loaded but does not generate", self.spec.id)))
    }

    /// Takes a working engine into service.
    pub(super) fn install(self: &Arc<Self>, replica: usize, engine: Arc<dyn Engine>) {
        let id = {
            let mut state = self.lock();
            let replica = &mut state.replicas[replica];
            replica.install(Arc::clone(&engine));
            replica.id.clone()
        };
        self.metrics.add_engine(self, &id, engine.info());
        self.set_health(replica, Health::Ready);
    }

    /// Notes that a replica beside others could not be loaded, and goes on trying.
    pub(super) fn not_loaded(self: &Arc<Self>, number: usize, error: &LoadError) {
        let id = {
            let mut state = self.lock();
            let replica = &mut state.replicas[number];
            replica.health = Health::Recovering;
            replica.last_error = Some(error.to_string());
            replica.id.clone()
        };
        tracing::error!(pool = %self.spec.id, replica = %id, %error, "a replica cannot be loaded");
        let pool = Arc::clone(self);
        self.lifecycle.spawn("recovery", OnPanic::Shutdown, async move { pool.recover(number, &id).await });
    }

    /// Notes that the engine failed under a task, and starts to bring it back unless that is under way.
    pub(super) fn engine_failed(self: &Arc<Self>, number: usize) {
        let id = {
            let mut state = self.lock();
            let replica = &mut state.replicas[number];
            if replica.health != Health::Ready {
                return;
            }
            replica.health = Health::Recovering;
            replica.last_error = Some("the engine failed under a task".to_owned());
            replica.id.clone()
        };
        tracing::warn!(pool = %self.spec.id, replica = %id, "the engine failed; probing it");
        let pool = Arc::clone(self);
        self.lifecycle.spawn("recovery", OnPanic::Shutdown, async move { pool.recover(number, &id).await });
    }

    async fn recover(self: Arc<Self>, number: usize, id: &ReplicaId) {
        let engine = self.lock().replicas[number].engine.clone();
        if let Some(engine) = engine
            && self.probe(engine.as_ref(), SHORT_PROBE).await
        {
            tracing::info!(pool = %self.spec.id, replica = %id, "the engine works again");
            return self.set_health(number, Health::Ready);
        }
        let mut attempt = 0;
        while !self.lifecycle.draining().is_cancelled() {
            attempt += 1;
            self.abandon(number).await;
            match self.load_and_probe().await {
                Ok(engine) => {
                    tracing::info!(pool = %self.spec.id, replica = %id, attempt, "the engine was built anew");
                    return self.install(number, engine);
                }
                Err(error) => {
                    tracing::error!(pool = %self.spec.id, replica = %id, attempt, %error, "the engine cannot be built anew");
                    self.lock().replicas[number].last_error = Some(error.to_string());
                }
            }
            if attempt == REBUILDS {
                self.give_up(number);
            }
            tokio::select! {
                () = sleep(REBUILD_PAUSE) => {}
                () = self.lifecycle.draining().cancelled() => {}
            }
        }
    }

    async fn probe_longer(&self, engine: &dyn Engine) -> bool {
        for prompt_tokens in LONG_PROBES {
            let began = Instant::now();
            if !self.probe(engine, prompt_tokens).await {
                return false;
            }
            if began.elapsed() >= QUICK {
                break;
            }
        }
        true
    }

    /// A real generation, several times if need be.
    async fn probe(&self, engine: &dyn Engine, prompt_tokens: u32) -> bool {
        let mut pause = PROBE_PAUSE;
        for _ in 0..PROBES {
            if let Ok(Ok(finished)) = timeout(PROBE_DEADLINE, engine.probe(prompt_tokens)).await {
                let (tokens_out, prefill, decode) = (finished.tokens_out, finished.prefill, finished.decode);
                let tokens_in = prompt_tokens.saturating_sub(finished.cached_tokens);
                self.lock().rates.measure_speed(Measured { tokens_in, tokens_out, prefill, decode, occupancy: 1.0 });
                return true;
            }
            sleep(pause).await;
            pause *= 2;
        }
        false
    }

    /// Ends an engine that does not work, so that its memory is free before the next one is loaded.
    async fn abandon(&self, number: usize) {
        let engine = self.lock().replicas[number].engine.take();
        if let Some(engine) = engine {
            release(engine).await;
        }
    }

    /// The replica has failed; with the last one the queue cannot be served any more.
    fn give_up(self: &Arc<Self>, number: usize) {
        self.set_health(number, Health::Failed);
        let jobs = {
            let mut state = self.lock();
            if state.health() == Health::Failed { state.leave_all() } else { Vec::new() }
        };
        self.metrics.queue_changed(self);
        for job in jobs {
            let error = ErrorEnvelope::new(ErrorCode::ReplicaExhausted, Refused::Exhausted.to_string());
            job.task.fail(error.with_pool(self.spec.id.as_str()));
        }
    }

    fn set_health(&self, number: usize, health: Health) {
        self.lock().replicas[number].health = health;
        self.changed.notify_one();
        self.recovered.notify_waiters();
    }
}

/// Ends an engine. One that hangs is left to itself after a while; what it holds stays with it.
async fn release(engine: Arc<dyn Engine>) {
    if timeout(RELEASE_DEADLINE, engine.unload()).await.is_err() {
        tracing::error!("an engine that failed does not end; its memory is lost until the process ends");
    }
}
