//! How pools stand, taking them out of service and back, and giving them other models.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use sluicegate_compat::native::{
    ErrorCode, ErrorEnvelope, PoolFigures, PoolList, PoolView, PurgeView, ReloadRequest, ReloadView, WhenDrained,
};

use super::{Gateway, stored};
use crate::admission::shutting_down;
use crate::audit::Act;
use crate::ids::ModelId;
use crate::lifecycle::OnPanic;
use crate::pools::{Conclusion, Health, Pool, PoolStatus, Purge, Reload};
use crate::store::signed;
use crate::tasks::{Clock, millis};

impl Gateway {
    /// Every pool, in the order of the configuration.
    pub fn pools(&self) -> PoolList {
        PoolList { pools: self.pools.iter().map(|pool| pool_view(pool)).collect() }
    }

    /// One pool.
    ///
    /// # Errors
    ///
    /// NOT_FOUND.
    pub fn pool(&self, id: &str) -> Result<PoolView, ErrorEnvelope> {
        Ok(pool_view(self.pool_named(id)?))
    }

    /// Stops admitting to a pool. What waits there goes to other pools of its model that take tasks, as far as they have
    /// room; the rest fails, or is served like what runs until the deadline, and then cancelled. Also in the next process.
    ///
    /// # Errors
    ///
    /// NOT_FOUND; INTERNAL where it does not outlive the process.
    pub async fn drain(
        &self,
        id: &str,
        deadline: Duration,
        waiting: WhenDrained,
        act: &Arc<Act>,
    ) -> Result<PoolView, ErrorEnvelope> {
        self.check_store()?;
        let pool = self.pool_named(id)?;
        let until_ms = Clock::now().unix_ms.saturating_add(millis(deadline));
        let filed = {
            // What is done last is filed last.
            let _one_at_a_time = self.filing.lock().unwrap_or_else(PoisonError::into_inner);
            pool.drain(deadline);
            self.store.acting(act).put_pool_drain(id.to_owned(), Some(signed(until_ms)))
        };
        self.hand_on(pool);
        match waiting {
            WhenDrained::Serve => {}
            WhenDrained::Fail => pool.turn_away(),
        }
        stored(id, filed).await?;
        Ok(pool_view(pool))
    }

    /// Takes a pool back into service.
    ///
    /// # Errors
    ///
    /// NOT_FOUND; INTERNAL where it does not outlive the process.
    pub async fn resume(&self, id: &str, act: &Arc<Act>) -> Result<PoolView, ErrorEnvelope> {
        self.check_store()?;
        let pool = self.pool_named(id)?;
        let filed = {
            let _one_at_a_time = self.filing.lock().unwrap_or_else(PoisonError::into_inner);
            pool.resume();
            self.store.acting(act).put_pool_drain(id.to_owned(), None)
        };
        stored(id, filed).await?;
        Ok(pool_view(pool))
    }

    /// Gives a pool another model, or its own from files that are verified again. Goes on in the background; until it has
    /// succeeded the pool serves what it has.
    ///
    /// # Errors
    ///
    /// NOT_FOUND for the pool or the model; MODEL_DEPRECATED, UNTRUSTED_ARTIFACT or INVALID_PARAMS where the model is not to
    /// be served; CONFLICT where a reload is under way or the pool starts; POOL_UNREADY while the gateway shuts down.
    pub fn reload(self: &Arc<Self>, id: &str, request: &ReloadRequest) -> Result<PoolView, ErrorEnvelope> {
        let pool = self.pool_named(id)?;
        let named = |error: ErrorEnvelope| match error.param.as_deref() {
            Some("model_ref") => ErrorEnvelope { param: Some("new_model_ref".into()), ..error },
            _ => error,
        };
        let model = ModelId::from(self.usable(&request.new_model_ref).map_err(named)?.entry.id.as_str());
        let engine = pool.spec().engine;
        if self.pools_of(model.as_str()).iter().any(|other| other.spec().engine != engine) {
            let message = "pools of one model have one engine, and another pool has this model with another engine";
            return Err(ErrorEnvelope::invalid("new_model_ref", message));
        }
        if self.lifecycle.draining().is_cancelled() {
            return Err(shutting_down());
        }
        let reloading =
            pool.begin_reload(model.clone()).map_err(|busy| ErrorEnvelope::new(ErrorCode::Conflict, busy.to_string()));
        let (reloading, gateway, reloaded) = (reloading?, Arc::clone(self), Arc::clone(pool));
        self.lifecycle.spawn("reload", OnPanic::Continue, async move {
            // How it went the pool's health says.
            let keep = gateway.keep_pool_model(&reloaded, &model);
            let _ = reloading.run(|pool| gateway.hand_on(pool), keep).await;
            gateway.queue_what_was_aside().await;
        });
        Ok(pool_view(pool))
    }

    /// What waits in a pool goes to others of its model that take tasks, as far as they have room.
    pub(super) fn hand_on(&self, pool: &Arc<Pool>) {
        let mut others = self.pools_of(pool.model().as_str());
        others.retain(|other| other.id() != pool.id());
        pool.hand_on(&others);
    }

    pub(super) fn pool_named(&self, id: &str) -> Result<&Arc<Pool>, ErrorEnvelope> {
        let found = self.pools.iter().find(|pool| pool.id().as_str() == id);
        found.ok_or_else(|| ErrorEnvelope::new(ErrorCode::NotFound, "there is no such pool"))
    }
}

pub(super) fn pool_view(pool: &Pool) -> PoolView {
    let (status, rates, stats) = (pool.status(), pool.rates(), pool.stats());
    PoolView {
        pool_id: pool.id().to_string(),
        live: status.health != Health::Failed,
        ready: status.is_ready(),
        draining: status.draining,
        reloading: status.reload.as_ref().is_some_and(Reload::is_under_way),
        engine: pool.spec().engine,
        model_ref: status.model.to_string(),
        model_digest: pool.info().map(|info| info.model_digest),
        last_error: reload_error(&status).or_else(|| status.replicas.iter().find_map(|it| it.last_error.clone())),
        reload: status.reload.as_ref().map(reload_view),
        purge: status.purge.as_ref().map(purge_view),
        metrics: PoolFigures {
            queue_depth: status.queue_depth,
            slots_total: status.replicas.iter().map(|replica| replica.slots_total).sum(),
            slots_active: status.replicas.iter().map(|replica| replica.slots_active).sum(),
            prefill_tokens_per_s: rates.prefill_tokens_per_s(),
            decode_tokens_per_s: rates.decode_tokens_per_s(),
            tokens_per_s: stats.tokens_per_s,
        },
        replicas: status.replicas,
    }
}

/// Why the pool still has its old model, until a reload succeeds.
fn reload_error(status: &PoolStatus) -> Option<String> {
    let reload = status.reload.as_ref()?;
    let error = reload.ended.as_ref()?.error.as_ref()?;
    Some(format!("the reload with {} failed: {error}", reload.model))
}

fn reload_view(reload: &Reload) -> ReloadView {
    let (state, error, ended_at_ms) = outcome(reload.ended.as_ref());
    ReloadView {
        state,
        phase: reload.phase.as_str(),
        new_model_ref: reload.model.to_string(),
        error,
        started_at_ms: reload.started_at_ms,
        ended_at_ms,
    }
}

fn purge_view(purge: &Purge) -> PurgeView {
    let (state, error, ended_at_ms) = outcome(purge.ended.as_ref());
    PurgeView {
        state,
        phase: purge.phase.as_str(),
        models: purge.models.iter().map(ToString::to_string).collect(),
        freed_bytes: purge.freed_bytes,
        error,
        started_at_ms: purge.started_at_ms,
        ended_at_ms,
    }
}

/// The word for how something stands, why it failed, and when it ended.
fn outcome(ended: Option<&Conclusion>) -> (&'static str, Option<String>, Option<u64>) {
    match ended {
        None => ("running", None, None),
        Some(Conclusion { at_ms, error: None }) => ("succeeded", None, Some(*at_ms)),
        Some(Conclusion { at_ms, error: Some(error) }) => ("failed", Some(error.clone()), Some(*at_ms)),
    }
}
