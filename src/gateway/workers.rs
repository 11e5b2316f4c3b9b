//! Servers elsewhere that register with a pool, and stay as long as they go on doing so.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use sluicegate_compat::native::{ErrorCode, ErrorEnvelope, RegisterWorker, WorkerView};
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep_until};

use super::Gateway;
use crate::admission::shutting_down;
use crate::engine::remote::{Place, Secret, base_url};
use crate::lifecycle::OnPanic;
use crate::pools::{Attached, Health, NotAttached, Pool};

/// How long a registration holds that does not say it, in ms.
const TTL_MS: u64 = 30_000;

/// Of all pools together: each is a label of metrics.
const MOST_REPLICAS: usize = 1024;

/// The servers that are registered, by their own names; no more than there are replicas.
pub(super) type Workers = Mutex<HashMap<String, Worker>>;

pub(super) struct Worker {
    pool: Arc<Pool>,
    place: Place,
    attached: Attached,
    /// It is gone then.
    until: Instant,
}

impl Gateway {
    /// Attaches a server to a pool, or renews its registration. With another address, model, key or number of slots under the
    /// same name it takes the place of what was registered before.
    ///
    /// # Errors
    ///
    /// NOT_FOUND for the pool, INVALID_PARAMS, CONFLICT where there is no place for more, POOL_UNREADY while the gateway
    /// shuts down.
    pub async fn register_worker(self: &Arc<Self>, request: RegisterWorker) -> Result<WorkerView, ErrorEnvelope> {
        let ttl_ms = request.ttl_ms.unwrap_or(TTL_MS);
        let pool = self.pool_named(&request.pool_id);
        let pool = pool.map_err(|error| ErrorEnvelope { param: Some("pool_id".into()), ..error })?;
        let place = place(&request, pool)?;
        if self.lifecycle.draining().is_cancelled() {
            return Err(shutting_down());
        }
        let until = Instant::now() + Duration::from_millis(ttl_ms);
        let mut workers = self.workers.lock().await;
        let known = workers.get_mut(&request.worker_id);
        let attached = match known.filter(|worker| worker.place == place && Arc::ptr_eq(&worker.pool, pool)) {
            Some(worker) => {
                worker.until = until;
                worker.attached.clone()
            }
            None => {
                if let Some(before) = workers.remove(&request.worker_id) {
                    before.pool.detach(&before.attached);
                }
                if self.pools.iter().map(|pool| pool.places()).sum::<usize>() >= MOST_REPLICAS {
                    let message = format!("there are {MOST_REPLICAS} replicas, and no more are taken");
                    return Err(ErrorEnvelope::new(ErrorCode::Conflict, message));
                }
                let attached = pool.attach(&place).await.map_err(not_attached)?;
                let worker = Worker { pool: Arc::clone(pool), place, attached: attached.clone(), until };
                workers.insert(request.worker_id.clone(), worker);
                self.watch_worker(request.worker_id.clone(), attached.clone(), until);
                attached
            }
        };
        Ok(WorkerView {
            worker_id: request.worker_id,
            pool_id: pool.id().to_string(),
            replica_id: attached.replica.to_string(),
            state: pool.health_of(&attached).map_or(Health::Failed.as_str(), Health::as_str),
            ttl_ms,
            heartbeat_ms: ttl_ms / 3,
        })
    }

    /// Takes a server out once it has not registered again in time.
    fn watch_worker(self: &Arc<Self>, id: String, attached: Attached, mut until: Instant) {
        let gateway = Arc::clone(self);
        self.lifecycle.spawn("worker", OnPanic::Continue, async move {
            let forced = gateway.lifecycle.forced().clone();
            while forced.run_until_cancelled(sleep_until(until)).await.is_some() {
                let mut workers = gateway.workers.lock().await;
                match workers.get(&id).filter(|worker| worker.attached == attached) {
                    None => return,
                    Some(worker) if worker.until > Instant::now() => until = worker.until,
                    Some(worker) => {
                        worker.pool.detach(&attached);
                        workers.remove(&id);
                        return;
                    }
                }
            }
        });
    }
}

fn place(request: &RegisterWorker, pool: &Pool) -> Result<Place, ErrorEnvelope> {
    if request.engine.is_some_and(|engine| engine != pool.spec().engine) {
        return Err(ErrorEnvelope::invalid("engine", "`engine`: the pool has another engine"));
    }
    let base_url = base_url(&request.base_url).ok_or_else(|| {
        let message = "`base_url`: an address such as http://127.0.0.1:9000/v1, without user or password";
        ErrorEnvelope::invalid("base_url", message)
    })?;
    Ok(Place {
        base_url,
        model: request.model.clone(),
        api_key: request.api_key.clone().map(Secret),
        slots: request.slots,
    })
}

fn not_attached(error: NotAttached) -> ErrorEnvelope {
    match error {
        NotAttached::NotRemote => ErrorEnvelope::invalid("pool_id", error.to_string()),
        NotAttached::Full => ErrorEnvelope::new(ErrorCode::Conflict, error.to_string()),
        NotAttached::Load(error) => {
            tracing::error!(%error, "a server that has registered cannot be used");
            ErrorEnvelope::new(ErrorCode::Internal, "the tokenizer of the pool cannot be read")
        }
    }
}
