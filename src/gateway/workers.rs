//! Servers elsewhere that register with a pool, and stay as long as they go on doing so.
//!
//! They are filed, so that a gateway which starts again has them before each has registered again: their registrations run
//! from its start. One that brings a key is not: keys are kept in memory only, and it comes with its next registration.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{BoxFuture, OptionFuture};
use sluicegate_compat::native::{ErrorCode, ErrorEnvelope, RegisterWorker, WorkerView};
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep_until};

use super::Gateway;
use crate::admission::shutting_down;
use crate::audit::Act;
use crate::engine::remote::{Place, Secret, base_url};
use crate::lifecycle::OnPanic;
use crate::pools::{Attached, Health, NotAttached, Pool};
use crate::store::{Store, StoreError, WorkerRow, signed};

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
    /// As the next process finds it, if it does.
    filed: Option<WorkerRow>,
}

/// What a server wants that registers.
struct Wanted {
    id: String,
    pool: Arc<Pool>,
    place: Place,
    ttl_ms: u64,
}

impl Worker {
    /// Whether this is what is registered, and it is renewed.
    fn is(&self, wanted: &Wanted) -> bool {
        self.place == wanted.place && Arc::ptr_eq(&self.pool, &wanted.pool)
    }
}

/// Ready once a server is filed.
type Filed = BoxFuture<'static, Result<(), StoreError>>;

impl Gateway {
    /// Attaches a server to a pool, or renews its registration. With another address, model, key or number of slots under the
    /// same name it takes the place of what was registered before.
    ///
    /// # Errors
    ///
    /// NOT_FOUND for the pool, INVALID_PARAMS, CONFLICT where there is no place for more, POOL_UNREADY while the gateway
    /// shuts down.
    pub async fn register_worker(
        self: &Arc<Self>,
        request: RegisterWorker,
        act: &Arc<Act>,
    ) -> Result<WorkerView, ErrorEnvelope> {
        let wanted = self.wanted(request)?;
        let (pool, worker_id, ttl_ms) = (Arc::clone(&wanted.pool), wanted.id.clone(), wanted.ttl_ms);
        let (attached, filed) = {
            let mut workers = self.workers.lock().await;
            let renews = workers.get(&wanted.id).is_some_and(|known| known.is(&wanted));
            let registered = self.register(&mut workers, wanted, &self.store.acting(act)).await;
            if renews {
                act.changes_nothing();
            }
            registered?
        };
        let state = pool.health_of(&attached).map_or(Health::Failed.as_str(), Health::as_str);
        if let Some(Err(error)) = OptionFuture::from(filed).await {
            // After a restart it comes with its next registration.
            tracing::error!(worker = worker_id, %error, "a server that has registered could not be stored");
        }
        Ok(WorkerView {
            worker_id,
            pool_id: pool.id().to_string(),
            replica_id: attached.replica.to_string(),
            state,
            ttl_ms,
            heartbeat_ms: ttl_ms / 3,
        })
    }

    /// Attaches the servers that were registered with an earlier process, without waiting for that. What cannot be attached
    /// any more is forgotten, and said in the log.
    pub fn register_again(self: &Arc<Self>) {
        let gateway = Arc::clone(self);
        self.lifecycle.spawn("registered workers", OnPanic::Continue, async move {
            let rows = match gateway.store.workers().await {
                Ok(rows) => rows,
                Err(error) => return tracing::error!(%error, "the servers that were registered cannot be read"),
            };
            for row in rows {
                let (worker, mut workers) = (row.id.clone(), gateway.workers.lock().await);
                // What a server has said to this process counts.
                if workers.contains_key(&worker) {
                    continue;
                }
                let registered = match gateway.wanted(request(row)) {
                    Ok(wanted) => gateway.register(&mut workers, wanted, &gateway.store).await.map(drop),
                    Err(error) => Err(error),
                };
                if let Err(ErrorEnvelope { message: why, .. }) = registered {
                    tracing::warn!(worker, why, "a server that was registered with an earlier process is left out");
                    drop(gateway.store.forget_worker(worker));
                }
            }
        });
    }

    fn wanted(&self, request: RegisterWorker) -> Result<Wanted, ErrorEnvelope> {
        let pool = self.pool_named(&request.pool_id);
        let pool = pool.map_err(|error| ErrorEnvelope { param: Some("pool_id".into()), ..error })?;
        let place = place(&request, pool)?;
        if self.lifecycle.draining().is_cancelled() {
            return Err(shutting_down());
        }
        let ttl_ms = request.ttl_ms.unwrap_or(TTL_MS);
        Ok(Wanted { id: request.worker_id, pool: Arc::clone(pool), place, ttl_ms })
    }

    async fn register(
        self: &Arc<Self>,
        workers: &mut HashMap<String, Worker>,
        wanted: Wanted,
        store: &Store,
    ) -> Result<(Attached, Option<Filed>), ErrorEnvelope> {
        let row = row(&wanted);
        let until = Instant::now() + Duration::from_millis(wanted.ttl_ms);
        let known = workers.get_mut(&wanted.id);
        if let Some(worker) = known.filter(|worker| worker.is(&wanted)) {
            worker.until = until;
            let changed = row.clone().filter(|_| worker.filed != row);
            worker.filed = row;
            return Ok((worker.attached.clone(), changed.map(|row| store.put_worker(row))));
        }
        let Wanted { id, pool, place, ttl_ms: _ } = wanted;
        if let Some(before) = workers.remove(&id) {
            before.pool.detach(&before.attached);
            self.forget_worker(&id, &before);
        }
        if self.pools.iter().map(|pool| pool.places()).sum::<usize>() >= MOST_REPLICAS {
            let message = format!("there are {MOST_REPLICAS} replicas, and no more are taken");
            return Err(ErrorEnvelope::new(ErrorCode::Conflict, message));
        }
        let attached = pool.attach(&place).await.map_err(not_attached)?;
        let filed = row.clone().map(|row| store.put_worker(row));
        self.watch_worker(id.clone(), attached.clone(), until);
        workers.insert(id, Worker { pool, place, attached: attached.clone(), until, filed: row });
        Ok((attached, filed))
    }

    /// The next process does not look for a server that has gone. Nobody waits for that: there are no more servers than places.
    fn forget_worker(&self, id: &str, gone: &Worker) {
        if gone.filed.is_some() {
            drop(self.store.forget_worker(id.to_owned()));
        }
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
                        gateway.forget_worker(&id, worker);
                        workers.remove(&id);
                        return;
                    }
                }
            }
        });
    }
}

/// A server as it is filed; `None` for one that brings a key, which is nothing to write to a disk.
fn row(wanted: &Wanted) -> Option<WorkerRow> {
    let Wanted { id, pool, place: Place { base_url, model, api_key, slots }, ttl_ms } = wanted;
    api_key.is_none().then(|| WorkerRow {
        id: id.clone(),
        pool: pool.id().to_string(),
        base_url: base_url.clone(),
        model: model.clone(),
        slots: slots.map(i64::from),
        ttl_ms: signed(*ttl_ms),
    })
}

/// What a server that was filed would say if it registered again.
fn request(row: WorkerRow) -> RegisterWorker {
    RegisterWorker {
        worker_id: row.id,
        pool_id: row.pool,
        base_url: row.base_url,
        model: row.model,
        api_key: None,
        engine: None,
        slots: row.slots.and_then(|slots| u32::try_from(slots).ok()),
        ttl_ms: Some(row.ttl_ms.cast_unsigned()),
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
