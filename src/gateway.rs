//! The use cases, whichever dialect a client speaks: submit, look, follow, cancel, discover. Each fits on a screen.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use serde::Serialize;
use sluicegate_compat::native::{
    ErrorCode, ErrorEnvelope, PoolFigures, PoolList, PoolView, PreviewResponse, TaskList, TaskRequest, TaskState,
    TaskView, Workload, detail,
};
use uuid::Uuid;

use crate::admission::{Accepted, Admission, Admitted, DEFAULT_TENANT, Pools};
use crate::catalog::Catalog;
use crate::ids::{CorrelationId, ModelId, TaskId, TenantId};
use crate::lifecycle::Lifecycle;
use crate::pools::{Health, Pool, PoolMetrics, PoolStatus};
use crate::tasks::{Owner, Reader, Registry, Task};

mod idempotency;

pub use idempotency::Once;
use idempotency::{First, Idempotency};

/// The gateway without its protocols. Built once.
pub struct Gateway {
    pub lifecycle: Lifecycle,
    catalog: Catalog,
    /// In the order of the configuration, each with its model.
    pools: Vec<(ModelId, Arc<Pool>)>,
    /// The pools of each model, in the order of the configuration.
    serving: HashMap<ModelId, Vec<Arc<Pool>>>,
    admission: Admission,
    registry: Arc<Registry>,
    idempotency: Idempotency,
    metrics: PoolMetrics,
    started_unix_s: u64,
}

/// What a [`Gateway`] is built from.
pub struct Parts {
    pub lifecycle: Lifecycle,
    pub catalog: Catalog,
    pub pools: Vec<(ModelId, Arc<Pool>)>,
    pub admission: Admission,
    pub registry: Arc<Registry>,
    /// How long a request's key is remembered.
    pub idempotency_ttl: Duration,
    pub metrics: PoolMetrics,
    pub started_unix_s: u64,
}

/// A task that ends when nobody holds its owner any more.
pub struct Owned {
    pub task: Arc<Task>,
    /// `None` where it has ended already.
    pub owner: Option<Arc<Owner>>,
}

/// Tasks that are looked at under one hold of the registry's lock.
const LIST_CHUNK: usize = 256;

/// Which tasks a list has.
#[derive(Debug, Clone, Default)]
pub struct TaskFilter {
    pub state: Option<TaskState>,
    pub session_id: Option<Uuid>,
    pub pool_id: Option<String>,
    /// Tasks of a page, at least 1.
    pub limit: usize,
    /// Those made before the task with this number.
    pub before: Option<u64>,
}

impl TaskFilter {
    fn fits(&self, task: &Task) -> bool {
        self.session_id.is_none_or(|session| task.spec.session_id == Some(session))
            && self.pool_id.as_ref().is_none_or(|pool| task.pool_id().as_str() == pool)
            && self.state.is_none_or(|state| task.state(&task.log.progress()) == state)
    }
}

/// A model with the pool that serves it.
pub struct ServedModel {
    pub id: ModelId,
    pub aliases: Vec<String>,
    pub pool: Arc<Pool>,
}

impl Gateway {
    pub fn new(parts: Parts) -> Self {
        let Parts { lifecycle, catalog, pools, admission, registry, idempotency_ttl, metrics, started_unix_s } = parts;
        let idempotency = Idempotency::new(idempotency_ttl);
        let mut serving: HashMap<ModelId, Vec<Arc<Pool>>> = HashMap::new();
        for (model, pool) in &pools {
            serving.entry(model.clone()).or_default().push(Arc::clone(pool));
        }
        Self { lifecycle, catalog, pools, serving, admission, registry, idempotency, metrics, started_unix_s }
    }

    /// Lets a task in, or refuses it.
    ///
    /// # Errors
    ///
    /// What the client is told, but for the correlation id.
    pub async fn submit(&self, request: TaskRequest, correlation: &CorrelationId) -> Result<Admitted, ErrorEnvelope> {
        let serving =
            self.serving(&request.model_ref).inspect_err(|error| self.metrics.rejected(None, error.code.as_str()))?;
        let known = |id: &str| self.pools.iter().any(|(_, pool)| pool.id().as_str() == id);
        self.admission.admit(request, &Pools { serving, known: &known }, correlation.clone()).await
    }

    /// Lets a task in that lives on its own, or says again what was said of it before.
    ///
    /// # Errors
    ///
    /// As [`submit`](Self::submit); CONFLICT where the key was used for another request.
    pub async fn submit_once(
        &self,
        once: Option<Once>,
        request: TaskRequest,
        correlation: &CorrelationId,
    ) -> Result<Accepted, ErrorEnvelope> {
        let accepted = |admitted: &Admitted| Accepted { id: admitted.task.spec.id, place: admitted.place };
        let Some(once) = once else { return Ok(accepted(&self.submit(request, correlation).await?)) };
        let entry = self.idempotency.entry(&TenantId::from(DEFAULT_TENANT), once)?;
        let mut first = entry.lock().await;
        if let Some(First { id, place, .. }) = *first {
            return Ok(Accepted { id, place });
        }
        let Accepted { id, place } = accepted(&self.submit(request, correlation).await?);
        *first = Some(First { id, place, owner: None });
        Ok(Accepted { id, place })
    }

    /// Lets a task in that ends when its clients hang up, or joins the one that was let in before.
    ///
    /// # Errors
    ///
    /// As [`submit_once`](Self::submit_once); also CONFLICT where the task's retention has ended.
    pub async fn submit_owned(
        &self,
        once: Option<Once>,
        request: TaskRequest,
        correlation: &CorrelationId,
    ) -> Result<Owned, ErrorEnvelope> {
        let owned = |task: Arc<Task>| Owned { owner: Some(Owner::of(Arc::clone(&task))), task };
        let Some(once) = once else { return Ok(owned(self.submit(request, correlation).await?.task)) };
        let entry = self.idempotency.entry(&TenantId::from(DEFAULT_TENANT), once)?;
        let mut first = entry.lock().await;
        if let Some(first) = first.as_ref()
            && let Some(owned) = self.join(first)?
        {
            return Ok(owned);
        }
        let Admitted { task, place } = self.submit(request, correlation).await?;
        let owner = Owner::of(Arc::clone(&task));
        *first = Some(First { id: task.spec.id, place, owner: Some(Arc::downgrade(&owner)) });
        Ok(Owned { task, owner: Some(owner) })
    }

    /// Another client of a task; `None` where its clients have hung up and it was cancelled for that.
    fn join(&self, first: &First) -> Result<Option<Owned>, ErrorEnvelope> {
        let gone = || {
            let message = "the answer to this `Idempotency-Key` is no longer kept; take a new key";
            ErrorEnvelope::new(ErrorCode::Conflict, message).with_detail(detail::IDEMPOTENCY_CONFLICT)
        };
        let task = self.registry.get(first.id).ok_or_else(gone)?;
        let owner = first.owner.as_ref().and_then(Weak::upgrade);
        let ended_well = matches!(task.state(&task.log.progress()), TaskState::Finished | TaskState::Failed);
        let abandoned = owner.is_none() && !ended_well;
        Ok((!abandoned).then_some(Owned { task, owner }))
    }

    /// What would become of a request, with nothing queued.
    pub async fn preview(&self, request: TaskRequest, correlation: &CorrelationId) -> PreviewResponse {
        let known = |id: &str| self.pools.iter().any(|(_, pool)| pool.id().as_str() == id);
        let admission = &self.admission;
        let foreseen = match self.serving(&request.model_ref) {
            Ok(serving) => admission.preview(request, &Pools { serving, known: &known }).await,
            Err(error) => Err(error),
        };
        match foreseen {
            Ok((pool, place)) => PreviewResponse {
                feasible: true,
                error: None,
                queue_position: Some(place.position),
                predicted_start_ms: Some(place.prediction.start_ms),
                predicted_end_ms: Some(place.prediction.end_ms),
                pool_id: Some(pool.id().to_string()),
            },
            Err(error) => PreviewResponse {
                feasible: false,
                queue_position: None,
                predicted_start_ms: None,
                predicted_end_ms: None,
                pool_id: error.pool_id.clone(),
                error: Some(error.with_correlation_id(correlation.as_str())),
            },
        }
    }

    /// A page of tasks, newest first.
    pub fn list(&self, filter: &TaskFilter) -> TaskList {
        let mut tasks = Vec::new();
        let mut before = filter.before;
        loop {
            let chunk = self.registry.made_before(before, LIST_CHUNK);
            let Some(last) = chunk.last() else { return TaskList { tasks, next_cursor: None } };
            before = Some(last.number);
            for task in chunk {
                if !filter.fits(&task) {
                    continue;
                }
                if tasks.len() == filter.limit {
                    // There is at least this one more.
                    let next_cursor = Some((task.number + 1).to_string());
                    return TaskList { tasks, next_cursor };
                }
                tasks.push(task.summary(self.waiting(&task)));
            }
        }
    }

    /// Cancels a task. Idempotent; once this returns, its log takes no more tokens.
    ///
    /// # Errors
    ///
    /// NOT_FOUND.
    pub fn cancel(&self, id: Option<TaskId>) -> Result<(), ErrorEnvelope> {
        self.task(id)?.cancel();
        Ok(())
    }

    /// A task as clients see it.
    ///
    /// # Errors
    ///
    /// NOT_FOUND.
    pub fn view(&self, id: Option<TaskId>) -> Result<TaskView, ErrorEnvelope> {
        let task = self.task(id)?;
        Ok(task.view(self.waiting(&task)))
    }

    /// The position and the predicted start in ms of a task that waits.
    fn waiting(&self, task: &Task) -> Option<(u64, u64)> {
        let place = self.pool_of(task)?.place(task)?;
        Some((place.position, place.prediction.start_ms))
    }

    /// A task with a reader of its events after the one with id `after`.
    ///
    /// # Errors
    ///
    /// NOT_FOUND.
    pub fn follow(&self, id: Option<TaskId>, after: u64) -> Result<(Arc<Task>, Reader), ErrorEnvelope> {
        let task = self.task(id)?;
        let reader = task.log.reader(after);
        Ok((task, reader))
    }

    /// Tasks waiting in the pool of `task`.
    pub fn queue_depth(&self, task: &Task) -> usize {
        self.pool_of(task).map_or(0, |pool| pool.queue_depth())
    }

    /// The models that pools serve, in the order of the configuration, each once.
    pub fn models(&self) -> Vec<ServedModel> {
        let mut seen = std::collections::HashSet::new();
        let pools = self.pools.iter().filter(|(model, _)| seen.insert(model));
        pools.map(|(model, pool)| self.served(model, pool)).collect()
    }

    /// One served model, by any of its names.
    ///
    /// # Errors
    ///
    /// NOT_FOUND.
    pub fn model(&self, reference: &str) -> Result<ServedModel, ErrorEnvelope> {
        let pool = self.serving(reference)?.first();
        let found = self.pools.iter().find(|(_, other)| pool.is_some_and(|pool| Arc::ptr_eq(other, pool)));
        found.map(|(model, pool)| self.served(model, pool)).ok_or_else(|| no_such_model(reference))
    }

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

    /// Unix time in s of the start.
    pub fn started_unix_s(&self) -> u64 {
        self.started_unix_s
    }

    /// Whether the gateway takes tasks: a pool is ready, and it is not shutting down.
    pub fn ready(&self) -> bool {
        !self.lifecycle.draining().is_cancelled() && self.pools.iter().any(|(_, pool)| pool.health() == Health::Ready)
    }

    /// What the gateway can do, per pool.
    pub fn capabilities(&self, api_version: &'static str) -> Capabilities {
        Capabilities {
            api_version,
            gateway_version: env!("CARGO_PKG_VERSION"),
            pools: self.pools.iter().map(|(model, pool)| PoolCapabilities::of(model, pool)).collect(),
        }
    }

    fn served(&self, model: &ModelId, pool: &Arc<Pool>) -> ServedModel {
        let aliases = self.catalog.resolve(model.as_str()).map(|entry| entry.aliases.clone()).unwrap_or_default();
        ServedModel { id: model.clone(), aliases, pool: Arc::clone(pool) }
    }

    fn task(&self, id: Option<TaskId>) -> Result<Arc<Task>, ErrorEnvelope> {
        let found = id.and_then(|id| self.registry.get(id));
        found.ok_or_else(|| ErrorEnvelope::new(ErrorCode::NotFound, "no such task, or its retention has ended"))
    }

    fn pool_of(&self, task: &Task) -> Option<&Arc<Pool>> {
        self.pools.iter().map(|(_, pool)| pool).find(|pool| *pool.id() == task.pool_id())
    }

    /// The pools of a model, by any of its names; at least one.
    fn serving(&self, reference: &str) -> Result<&[Arc<Pool>], ErrorEnvelope> {
        let entry = self
            .catalog
            .resolve(reference)
            .map_err(|unknown| ErrorEnvelope { message: unknown.to_string(), ..no_such_model(reference) })?;
        self.serving.get(&ModelId::from(entry.id.as_str())).map(Vec::as_slice).ok_or_else(|| {
            let message = format!("no pool serves the model {:?}", entry.id);
            ErrorEnvelope::new(ErrorCode::PoolUnavailable, message).with_retry_after_ms(5000)
        })
    }
}

fn pool_view(model: &ModelId, pool: &Pool) -> PoolView {
    let PoolStatus { health, draining, queue_depth, replicas } = pool.status();
    let (rates, stats) = (pool.rates(), pool.stats());
    PoolView {
        pool_id: pool.id().to_string(),
        live: health != Health::Failed,
        ready: health == Health::Ready && !draining,
        draining,
        reloading: false,
        engine: pool.spec().engine,
        model_ref: model.to_string(),
        model_digest: pool.info().map(|info| info.model_digest),
        last_error: replicas.iter().find_map(|replica| replica.last_error.clone()),
        metrics: PoolFigures {
            queue_depth,
            slots_total: replicas.iter().map(|replica| replica.slots_total).sum(),
            slots_active: replicas.iter().map(|replica| replica.slots_active).sum(),
            prefill_tokens_per_s: rates.prefill_tokens_per_s(),
            decode_tokens_per_s: rates.decode_tokens_per_s(),
            tokens_per_s: stats.tokens_per_s,
        },
        replicas,
    }
}

fn no_such_model(reference: &str) -> ErrorEnvelope {
    let shown: String = reference.chars().take(128).collect();
    ErrorEnvelope {
        param: Some("model_ref".into()),
        ..ErrorEnvelope::new(ErrorCode::NotFound, format!("no model is called {shown:?} here"))
    }
    .with_detail(detail::MODEL_NOT_FOUND)
}

/// The body of `GET /v2/meta/capabilities`.
#[derive(Debug, Clone, Serialize)]
pub struct Capabilities {
    pub api_version: &'static str,
    pub gateway_version: &'static str,
    pub pools: Vec<PoolCapabilities>,
}

#[derive(Debug, Clone, Serialize)]
pub struct PoolCapabilities {
    pub pool_id: String,
    pub model_ref: String,
    pub engine: &'static str,
    pub health: &'static str,
    pub workloads: [Workload; 1],
    /// What a task may use of the contract's optional features.
    pub features: [&'static str; 9],
    pub queue_capacity: usize,
    /// Absent until the engine is loaded.
    #[serde(flatten)]
    pub engine_facts: Option<EngineFacts>,
}

#[derive(Debug, Clone, Serialize)]
pub struct EngineFacts {
    pub engine_version: String,
    pub sampler_profile_version: String,
    pub model_digest: String,
    pub device: String,
    pub context_length: u32,
    /// Output tokens at most: the context less one token of prompt.
    pub max_output_tokens: u32,
    pub slots: u32,
    /// Per sequence, measured; 0 while nothing was.
    pub prefill_tokens_per_s: f64,
    pub decode_tokens_per_s: f64,
}

impl PoolCapabilities {
    fn of(model: &ModelId, pool: &Pool) -> Self {
        let rates = pool.rates();
        let engine_facts = pool.info().map(|info| EngineFacts {
            max_output_tokens: info.context_length.saturating_sub(1),
            engine_version: info.engine_version,
            sampler_profile_version: info.sampler_profile_version,
            model_digest: info.model_digest,
            device: info.device,
            context_length: info.context_length,
            slots: info.slots,
            prefill_tokens_per_s: rates.prefill_tokens_per_s(),
            decode_tokens_per_s: rates.decode_tokens_per_s(),
        });
        Self {
            pool_id: pool.id().to_string(),
            model_ref: model.to_string(),
            engine: pool.spec().engine.as_str(),
            health: pool.health().as_str(),
            workloads: [Workload::Completion],
            features: [
                "sse",
                "resume",
                "cancel",
                "seed",
                "strict_determinism",
                "logprobs",
                "choices",
                "json_output",
                "deadline",
            ],
            queue_capacity: pool.spec().queue_capacity,
            engine_facts,
        }
    }
}
