//! What operators did to pools that outlives the process: which model they were reloaded with, and that they drain.

use std::collections::HashMap;
use std::time::Duration;

use sluicegate_compat::native::EngineName;

use super::Gateway;
use crate::ids::{ModelId, PoolId};
use crate::pools::Pool;
use crate::store::{PoolRow, Store, StoreError};
use crate::tasks::Clock;

/// A pool as the configuration has it.
#[derive(Debug, Clone)]
pub struct Configured {
    pub id: PoolId,
    pub model: ModelId,
    pub engine: EngineName,
}

/// What an earlier process has left of a pool.
#[derive(Debug, Clone, Default)]
pub struct KeptPool {
    /// The model that it was reloaded with.
    pub model: Option<ModelId>,
    /// It drains; so long it is until the deadline.
    pub draining: Option<Duration>,
}

/// Takes in what an earlier process has filed of pools. What no longer goes with the configuration is forgotten, and said in
/// the log: whoever has changed the configuration wants what stands there.
///
/// # Errors
///
/// [`StoreError`].
pub async fn take_in_pools(configured: &[Configured], store: &Store) -> Result<HashMap<PoolId, KeptPool>, StoreError> {
    let mut kept = HashMap::new();
    let now_ms = Clock::now().unix_ms;
    for row in store.pools().await? {
        let Some(pool) = configured.iter().find(|pool| pool.id.as_str() == row.id) else {
            tracing::warn!(
                pool = row.id,
                "the configuration has this pool no longer; what was done to it is forgotten"
            );
            store.forget_pool(row.id).await?;
            continue;
        };
        let model = match model_of(&row, pool, configured) {
            Ok(model) => model,
            Err(why) => {
                let (reloaded, model) = (row.model.as_deref(), pool.model.as_str());
                tracing::warn!(
                    pool = row.id,
                    reloaded,
                    model,
                    why,
                    "the pool has the model of the configuration again"
                );
                store.put_pool_model(row.id, model.to_owned(), None).await?;
                None
            }
        };
        let left = |until_ms: i64| Duration::from_millis(until_ms.cast_unsigned().saturating_sub(now_ms));
        kept.insert(pool.id.clone(), KeptPool { model, draining: row.draining_until_ms.map(left) });
    }
    Ok(kept)
}

/// The model that a pool was reloaded with, unless the configuration says otherwise by now.
fn model_of(row: &PoolRow, pool: &Configured, all: &[Configured]) -> Result<Option<ModelId>, &'static str> {
    let Some(model) = row.model.as_deref() else { return Ok(None) };
    if row.configured.as_deref() != Some(pool.model.as_str()) {
        return Err("the configuration has another model for it than when it was reloaded");
    }
    if all.iter().any(|other| other.model.as_str() == model && other.engine != pool.engine) {
        return Err("pools of one model have one engine, and another pool has this model with another engine");
    }
    Ok(Some(ModelId::from(model)))
}

impl Gateway {
    /// Files which model a pool has from now on, and returns once that is durable.
    pub(super) async fn keep_pool_model(&self, pool: &Pool, model: &ModelId) {
        let configured = pool.configured_model();
        let other = (model != configured).then(|| model.to_string());
        let filed = self.store.put_pool_model(pool.id().to_string(), configured.to_string(), other);
        if let Err(error) = filed.await {
            tracing::error!(pool = %pool.id(), %model, %error, "the model of the pool does not outlive the process");
        }
    }
}
