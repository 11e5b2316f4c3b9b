//! How pools stand, and taking them out of service and back.

use std::sync::Arc;
use std::time::Duration;

use sluicegate_compat::native::{ErrorCode, ErrorEnvelope, PoolFigures, PoolList, PoolView};

use super::Gateway;
use crate::ids::ModelId;
use crate::pools::{Health, Pool};

impl Gateway {
    /// Every pool, in the order of the configuration.
    pub fn pools(&self) -> PoolList {
        PoolList { pools: self.pools.iter().map(|(model, pool)| pool_view(model, pool)).collect() }
    }

    /// One pool.
    ///
    /// # Errors
    ///
    /// NOT_FOUND.
    pub fn pool(&self, id: &str) -> Result<PoolView, ErrorEnvelope> {
        let (model, pool) = self.pool_named(id)?;
        Ok(pool_view(model, pool))
    }

    /// Stops admitting to a pool. What waits there goes to other pools of its model that take tasks, as far as they have
    /// room; the rest is served until the deadline, and then cancelled.
    ///
    /// # Errors
    ///
    /// NOT_FOUND.
    pub fn drain(&self, id: &str, deadline: Duration) -> Result<PoolView, ErrorEnvelope> {
        let (model, pool) = self.pool_named(id)?;
        pool.drain(deadline);
        let others = self.pools.iter().filter(|(theirs, other)| theirs == model && other.id() != pool.id());
        pool.hand_on(&others.map(|(_, other)| Arc::clone(other)).collect::<Vec<_>>());
        Ok(pool_view(model, pool))
    }

    /// Takes a pool back into service.
    ///
    /// # Errors
    ///
    /// NOT_FOUND.
    pub fn resume(&self, id: &str) -> Result<PoolView, ErrorEnvelope> {
        let (model, pool) = self.pool_named(id)?;
        pool.resume();
        Ok(pool_view(model, pool))
    }

    fn pool_named(&self, id: &str) -> Result<(&ModelId, &Arc<Pool>), ErrorEnvelope> {
        let found = self.pools.iter().find(|(_, pool)| pool.id().as_str() == id);
        let unknown = || ErrorEnvelope::new(ErrorCode::NotFound, "there is no such pool");
        found.map(|(model, pool)| (model, pool)).ok_or_else(unknown)
    }
}

fn pool_view(model: &ModelId, pool: &Pool) -> PoolView {
    let (status, rates, stats) = (pool.status(), pool.rates(), pool.stats());
    PoolView {
        pool_id: pool.id().to_string(),
        live: status.health != Health::Failed,
        ready: status.is_ready(),
        draining: status.draining,
        reloading: false,
        engine: pool.spec().engine,
        model_ref: model.to_string(),
        model_digest: pool.info().map(|info| info.model_digest),
        last_error: status.replicas.iter().find_map(|replica| replica.last_error.clone()),
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
