//! The use cases, whichever dialect a client speaks. Each fits on a screen.
//!
//! | module | use cases |
//! | --- | --- |
//! | `submit` | let a task in, once for each idempotency key; preview |
//! | `look` | view, list, follow, cancel |
//! | `media` | images and recordings in messages |
//! | `tokens` | texts as tokens, and tokens as texts |
//! | `recover` | what an earlier process left |
//! | `provision` | make models ready that tasks ask for |
//! | `operate` | how pools stand; drain, resume and reload |
//! | `purge` | take models out of memory and off the disk |
//! | `workers` | servers that register with a pool, and go |
//! | `catalog` | add, list, verify, retire and remove models |
//! | `kept_models` | what of the catalog outlives the process |
//! | `kept_pools` | what operators did to pools that outlives it |
//! | `prices` | what models cost |
//! | `artifacts` | documents that are named by their content |
//! | `audit` | what administrators did |
//! | `capabilities` | what the gateway can do |

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sluicegate_compat::native::{
    ErrorCode, ErrorEnvelope, Modality, ModelPrice, RateLimits, TaskRequest, Workload, detail,
};

use crate::admission::{Admission, Caller, Pools};
use crate::catalog::{LiveCatalog, Storage};
use crate::ids::{ModelId, TaskId, TenantId};
use crate::lifecycle::Lifecycle;
use crate::pools::{Health, Pool, PoolMetrics};
use crate::sessions::Sessions;
use crate::store::{Store, StoreError};
use crate::tasks::{Registry, Task};
use crate::tenants::Rights;

mod artifacts;
mod audit;
mod capabilities;
mod catalog;
mod idempotency;
mod kept_models;
mod kept_pools;
mod look;
mod media;
mod operate;
mod prices;
mod provision;
mod purge;
mod recover;
mod sessions;
mod submit;
mod tokens;
mod usage;
mod workers;

pub use artifacts::Filed;
pub use audit::AuditFilter;
pub use capabilities::{Capabilities, EngineFacts, PoolCapabilities};
use idempotency::Idempotency;
pub use idempotency::Once;
pub use kept_models::take_in_models;
pub use kept_pools::{Configured, KeptPool, take_in_pools};
pub use look::{TaskFilter, View, Whose};
use media::Media;
pub use media::MediaSettings;
pub use prices::take_in_prices;
use provision::Provision;
pub use provision::{ProvisionMetrics, Settings as ProvisionSettings};
pub use recover::{Waiting, take_in};
pub use submit::Owned;
pub use tokens::{Tokens, Wanted};
pub use usage::{Grouping, UsageFilter, add_up, usage_rows, usage_table};
use workers::Workers;

/// The gateway without its protocols. Built once.
pub struct Gateway {
    pub lifecycle: Lifecycle,
    catalog: Arc<LiveCatalog>,
    /// Where models are kept, and how they are fetched.
    storage: Storage,
    store: Store,
    /// Held while what is filed of a model is looked at, or a pool begins or ceases to drain, and that is handed to the store.
    filing: Mutex<()>,
    /// Held while the price of a model is changed.
    pricing: tokio::sync::Mutex<()>,
    /// In the order of the configuration. Which model each serves it says itself: that changes when it is reloaded.
    pools: Vec<Arc<Pool>>,
    admission: Admission,
    registry: Arc<Registry>,
    sessions: Arc<Sessions>,
    idempotency: Idempotency,
    workers: Workers,
    provision: Arc<Provision>,
    media: Media,
    metrics: PoolMetrics,
    started_unix_s: u64,
    /// What an earlier process left is queued, and new tasks may come behind it.
    open: AtomicBool,
    /// What it left for models that no pool serves; `None` once nobody waits for those any more. Held to push or to take all.
    aside: Mutex<Option<Vec<recover::Aside>>>,
}

/// What a [`Gateway`] is built from.
pub struct Parts {
    pub lifecycle: Lifecycle,
    pub catalog: Arc<LiveCatalog>,
    /// Where models are kept, and how they are fetched.
    pub storage: Storage,
    /// Which pools are given models that tasks ask for.
    pub provision: ProvisionSettings,
    pub provision_metrics: ProvisionMetrics,
    pub media: MediaSettings,
    pub store: Store,
    pub pools: Vec<Arc<Pool>>,
    pub admission: Admission,
    pub registry: Arc<Registry>,
    pub sessions: Arc<Sessions>,
    /// How long a request's key is remembered.
    pub idempotency_ttl: Duration,
    pub metrics: PoolMetrics,
    pub started_unix_s: u64,
}

/// A model with the pool that serves it.
pub struct ServedModel {
    pub id: ModelId,
    pub aliases: Vec<String>,
    /// What can be asked of it in one of its pools.
    pub workloads: Vec<Workload>,
    /// What its messages may hold in one of its pools.
    pub modalities: Vec<Modality>,
    /// The first of its pools.
    pub pool: Arc<Pool>,
    /// How its pools stand: the word for the one that does best.
    pub pool_state: &'static str,
}

impl Gateway {
    pub fn new(parts: Parts) -> Self {
        let Parts {
            lifecycle,
            catalog,
            storage,
            provision,
            provision_metrics,
            media,
            store,
            pools,
            admission,
            registry,
            sessions,
            idempotency_ttl,
            metrics,
            started_unix_s,
        } = parts;
        let idempotency = Idempotency::new(idempotency_ttl);
        Self {
            lifecycle,
            catalog,
            storage,
            provision: Provision::new(provision, provision_metrics),
            media: Media::new(media),
            store,
            filing: Mutex::default(),
            pricing: tokio::sync::Mutex::default(),
            pools,
            admission,
            registry,
            sessions,
            idempotency,
            workers: Workers::default(),
            metrics,
            started_unix_s,
            open: AtomicBool::new(false),
            aside: Mutex::new(Some(Vec::new())),
        }
    }

    /// The models that pools serve to new requests of who has these rights, in the order of the configuration, each once.
    pub fn models(&self, rights: &Rights) -> Vec<ServedModel> {
        let mut seen = std::collections::HashSet::new();
        let allowed = |model: &str| self.check_model(rights, model).is_ok();
        let usable = |model: &ModelId| self.usable(model.as_str()).is_ok() && allowed(model.as_str());
        let models = self.pools.iter().map(|pool| pool.model());
        let models = models.filter(|model| seen.insert(model.clone()) && usable(model));
        models.filter_map(|model| self.served(model)).collect()
    }

    /// One served model, by any of its names.
    ///
    /// # Errors
    ///
    /// NOT_FOUND.
    pub fn model(&self, reference: &str, rights: &Rights) -> Result<ServedModel, ErrorEnvelope> {
        let serving = self.check_model(rights, reference).and_then(|()| self.serving(reference)).map_err(|error| {
            match error.code {
                // What is not served is not there to be looked at either.
                ErrorCode::UntrustedArtifact => no_such_model(reference),
                _ => error,
            }
        });
        let served = serving?.pools.first().and_then(|pool| self.served(pool.model()));
        served.ok_or_else(|| no_such_model(reference))
    }

    /// Unix time in s of the start.
    pub fn started_unix_s(&self) -> u64 {
        self.started_unix_s
    }

    /// Whether the gateway takes tasks: a pool is ready, its database is not away, and it is not shutting down.
    pub fn ready(&self) -> bool {
        self.is_open()
            && !self.store.is_away()
            && !self.lifecycle.draining().is_cancelled()
            && self.pools.iter().any(|pool| pool.status().is_ready())
    }

    /// Whether it goes on without its database: chats are served, and tasks that are to outlive the process are refused.
    pub fn is_degraded(&self) -> bool {
        self.store.is_away()
    }

    /// Before a change that has to be stored: none is made that could not be.
    ///
    /// # Errors
    ///
    /// POOL_UNREADY where the database is away.
    pub fn check_store(&self) -> Result<(), ErrorEnvelope> {
        let away = self.store.is_away().then(|| StoreError::Away.away()).flatten();
        away.map_or(Ok(()), Err)
    }

    fn is_open(&self) -> bool {
        self.open.load(Ordering::Acquire)
    }

    /// `None` where no pool has it any more.
    fn served(&self, model: ModelId) -> Option<ServedModel> {
        let pools = self.pools_of(model.as_str());
        let statuses = pools.iter().map(|pool| pool.status());
        let best = statuses.min_by_key(|status| (!status.is_ready(), status.health.rank()));
        let pool_state = best.map_or(Health::Failed.as_str(), |status| status.as_str());
        let aliases = self.catalog.resolve(model.as_str()).map(|model| model.entry.aliases).unwrap_or_default();
        let (workloads, modalities) = (workloads_of(&pools), modalities_of(&pools));
        Some(ServedModel { id: model, aliases, workloads, modalities, pool: pools.into_iter().next()?, pool_state })
    }

    /// Every pool, in the order of the configuration.
    pub fn each_pool(&self) -> impl Iterator<Item = &Arc<Pool>> {
        self.pools.iter()
    }

    /// What the tokens of a task depend on beside its request: see [`Pool::fingerprint`].
    pub fn fingerprint(&self, task: &Task) -> Option<String> {
        self.pool_of(task)?.fingerprint()
    }

    /// A task of a tenant. That of another one does not exist for it.
    fn task(&self, tenant: &TenantId, id: Option<TaskId>) -> Result<Arc<Task>, ErrorEnvelope> {
        let found = id.and_then(|id| self.registry.get(id)).filter(|task| task.spec.tenant_id == *tenant);
        found.ok_or_else(no_such_task)
    }

    fn pool_of(&self, task: &Task) -> Option<&Arc<Pool>> {
        self.pools.iter().find(|pool| *pool.id() == task.pool_id())
    }

    /// As [`serving`](Self::serving), of a model that the caller may ask.
    fn serving_for(&self, caller: &Caller, reference: &str) -> Result<Serving, ErrorEnvelope> {
        self.check_model(&caller.rights, reference)?;
        self.serving(reference)
    }

    /// # Errors
    ///
    /// FORBIDDEN for a model that whoever has these rights may not ask, by whatever name.
    fn check_model(&self, rights: &Rights, reference: &str) -> Result<(), ErrorEnvelope> {
        if rights.allow_model(&[reference]) {
            return Ok(());
        }
        let entry = self.catalog.resolve(reference).map(|known| known.entry).ok();
        let names = entry.iter().flat_map(|entry| entry.aliases.iter().chain([&entry.id]));
        let names: Vec<_> = names.map(String::as_str).chain([reference]).collect();
        if rights.allow_model(&names) {
            return Ok(());
        }
        let shown: String = reference.chars().take(128).collect();
        let message = format!("the model {shown:?} is none of those that this API key and its tenant may use");
        Err(ErrorEnvelope { param: Some("model_ref".into()), ..ErrorEnvelope::new(ErrorCode::Forbidden, message) })
    }

    /// The pools of a model, by any of its names; at least one.
    fn serving(&self, reference: &str) -> Result<Serving, ErrorEnvelope> {
        let model = self.usable(reference)?;
        let (price, entry) = (model.price(), model.entry);
        let pools = self.pools_of(&entry.id);
        if pools.is_empty() {
            let message = format!("no pool serves the model {:?}", entry.id);
            return Err(ErrorEnvelope::new(ErrorCode::PoolUnavailable, message).with_retry_after_ms(5000));
        }
        Ok(Serving { pools, model: ModelId::from(entry.id), price, limits: entry.limits })
    }

    fn has_pool(&self, id: &str) -> bool {
        self.pools.iter().any(|pool| pool.id().as_str() == id)
    }

    /// The pools that serve the model of this id now, in the order of the configuration.
    fn pools_of(&self, id: &str) -> Vec<Arc<Pool>> {
        self.pools.iter().filter(|pool| pool.serves(id)).map(Arc::clone).collect()
    }
}

/// The pools that serve a model, and what it costs.
struct Serving {
    pools: Vec<Arc<Pool>>,
    model: ModelId,
    price: ModelPrice,
    limits: RateLimits,
}

impl Serving {
    /// Whether a request may run in one of them.
    fn allow(&self, request: &TaskRequest) -> bool {
        self.pools.iter().any(|pool| provision::allows(request, pool))
    }

    /// `known` says whether a pool of a name exists.
    fn pools<'a>(&'a self, known: &'a (dyn Fn(&str) -> bool + Sync)) -> Pools<'a> {
        Pools { serving: &self.pools, model: &self.model, known, price: self.price, limits: self.limits }
    }
}

/// What can be asked of a model that these pools serve.
fn workloads_of(pools: &[Arc<Pool>]) -> Vec<Workload> {
    let has = |workload: &Workload| pools.iter().any(|pool| pool.workloads().contains(workload));
    Workload::ALL.into_iter().filter(has).collect()
}

/// What messages to a model that these pools serve may hold.
fn modalities_of(pools: &[Arc<Pool>]) -> Vec<Modality> {
    let has = |modality: &Modality| pools.iter().any(|pool| pool.modalities().contains(modality));
    Modality::ALL.into_iter().filter(has).collect()
}

/// Waits until a change of `what` is durable.
///
/// # Errors
///
/// INTERNAL: the change is in effect and does not outlive the process.
async fn stored(what: &str, filed: impl Future<Output = Result<(), StoreError>>) -> Result<(), ErrorEnvelope> {
    filed.await.map_err(|error| {
        tracing::error!(what, %error, "a change does not outlive the process");
        let message = "the change is in effect, and could not be stored: it is gone after a restart";
        ErrorEnvelope::new(ErrorCode::Internal, message)
    })
}

fn no_such_task() -> ErrorEnvelope {
    ErrorEnvelope::new(ErrorCode::NotFound, "no such task, or its retention has ended")
}

fn no_such_model(reference: &str) -> ErrorEnvelope {
    let shown: String = reference.chars().take(128).collect();
    ErrorEnvelope {
        param: Some("model_ref".into()),
        ..ErrorEnvelope::new(ErrorCode::NotFound, format!("no model is called {shown:?} here"))
    }
    .with_detail(detail::MODEL_NOT_FOUND)
}
