//! Admission: from a request as a client sent it to a task in a queue, or a refusal that says why.
//!
//! The checks come in the order of their cost: the request by itself, the model, what the pool serves, the prompt in exact
//! tokens, the queue. Nothing is kept of a request that any of them refuses.

use std::sync::Arc;

use bytes::Bytes;
use sluicegate_compat::native::{
    AdmissionResponse, Determinism, EngineName, ErrorCode, ErrorEnvelope, KvHint, ModelPrice, PolicyLabel, Preparation,
    RateLimits, Scope, Streams, TaskRequest, Workload,
};

use crate::budgets::{Budgets, Exceeded, Holders, Left, Owners, owners};
use crate::engine::Engine;
use crate::ids::{CorrelationId, KeyId, ModelId, PoolId, ReplicaId, SessionId, TaskId, TenantId};
use crate::lifecycle::Lifecycle;
use crate::placement::{self, NoPlace};
use crate::pools::{Coming, Fitted, Place, Pool, PoolMetrics, Share, prepare};
use crate::sessions::{Good, Key as SessionKey, Sessions};
use crate::tasks::{Durable, Home, Key, Limits, Registry, Task, Ties};
use crate::tenants::{Identity, Rights};

mod accounts;
mod again;
mod batch;
mod grant;
mod limits;
mod order;
mod recipe;
mod refusal;
mod together;
mod translate;

pub use accounts::{Accounts, BudgetUnknown};
pub use again::{Reserved, Unprepared, interrupted, not_kept};
use grant::grant;
pub use limits::{AtOnce, Charge, Limiter, NoRoom, ScopeId, Scopes, Standing};
use order::{Choice, Look, by_start, in_time, submit};
pub use recipe::check_shown;
use recipe::{Asked, Counted, check_engine};
pub use refusal::violation;
use refusal::{field, nowhere, over_budget, refused, wanted};
pub use together::{Refusal, never_queued};
use translate::{device_mask, spec};

/// Who asks.
#[derive(Debug, Clone)]
pub struct Caller {
    pub correlation_id: CorrelationId,
    /// The tenant, and its weight beside others.
    pub share: Share,
    /// Nobody's while there are no keys.
    pub key: Option<KeyId>,
    /// What it may ask for.
    pub rights: Rights,
    /// What is everybody's is its business too.
    pub is_admin: bool,
}

impl Caller {
    pub fn new(correlation_id: CorrelationId, identity: &Identity) -> Self {
        let share = Share { tenant: identity.tenant.clone(), weight: identity.weight };
        let is_admin = identity.may(Scope::Admin);
        Self { correlation_id, share, key: identity.key.clone(), rights: identity.rights.clone(), is_admin }
    }

    /// Gives a request the priority and the pools that the caller may have.
    pub fn grade(&self, request: &mut TaskRequest) {
        request.priority = Some(self.rights.tenant.priority(request.priority));
        request.only_pools = self.rights.pools().map(<[String]>::to_vec);
    }

    /// Whose budgets the caller's tasks count for.
    pub fn owners(&self) -> Owners {
        owners(&self.share.tenant, self.key.as_ref())
    }

    /// The limits that the caller's tasks count for, where nobody says otherwise those of `default`; and those of their model.
    pub fn scopes(&self, default: RateLimits, model: Option<(&ModelId, RateLimits)>) -> Scopes {
        let Rights { tenant, key } = &self.rights;
        let own = key.limits;
        let key = self.key.clone().map(|id| (ScopeId::Key(id), own));
        let tenant = (ScopeId::Tenant(self.share.tenant.clone()), tenant.limits.or(default.but(own)));
        let model = model.map(|(id, limits)| (ScopeId::Model(id.clone()), limits));
        key.into_iter().chain([tenant]).chain(model).filter(|(_, limits)| !limits.is_none()).collect()
    }
}

/// Decides what is let in. Built once.
pub struct Admission {
    pub registry: Arc<Registry>,
    pub sessions: Arc<Sessions>,
    pub budgets: Budgets,
    pub accounts: Accounts,
    pub limiter: Arc<Limiter>,
    /// Of a tenant, where neither it nor the key says otherwise.
    pub default_limits: RateLimits,
    pub lifecycle: Lifecycle,
    pub metrics: PoolMetrics,
    /// Output tokens where the client names none.
    pub default_max_tokens: u32,
}

/// A task that is in its queue, with the place it has there.
pub struct Admitted {
    pub task: Arc<Task>,
    pub place: Place,
    /// Of a task that outlives the process: the client hears of it once this is `Ok`.
    pub durable: Option<Durable>,
}

/// How long a task lives, and what is kept beside it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Life {
    /// `None`: it ends with the process.
    pub kept: Option<Lasting>,
    /// For whoever asks about the task later.
    pub memo: Option<Arc<str>>,
    /// Nothing is kept of it once its clients have the answer, or are gone. For tasks that end with their clients.
    pub forget: bool,
}

/// A task that lives until it has ended, whatever happens to the process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lasting {
    /// Of its request.
    pub body: Bytes,
    pub key: Option<Key>,
}

/// The id of a task that was let in, with the place that it had then.
#[derive(Debug, Clone)]
pub struct Accepted {
    pub id: TaskId,
    pub place: Place,
    /// What it waits for before it is in a queue.
    pub preparation: Preparation,
}

impl Accepted {
    /// The body of a 202.
    pub fn response(self) -> AdmissionResponse {
        let id = self.id.0;
        AdmissionResponse {
            task_id: id,
            queue_position: self.place.position,
            predicted_start_ms: self.place.prediction.start_ms,
            predicted_end_ms: self.place.prediction.end_ms,
            backoff_ms: self.place.backoff_ms,
            streams: Streams::of(id),
            preparation: self.preparation,
        }
    }
}

/// A request that only its place in a queue is missing.
struct Checked {
    asked: Arc<Asked>,
    fitted: Fitted,
    /// With what its budgets leave now.
    limits: Limits,
    /// The replica that its session ran on last, where that went well.
    near: Option<ReplicaId>,
    /// The pools that may run it, the best first.
    order: Vec<Choice>,
}

/// Pools that may run a request, those in one tier as good as each other.
type Tiers = Vec<Vec<Arc<Pool>>>;

/// The pools that there are for a request.
pub struct Pools<'a> {
    /// Those of its model, in the order of the configuration.
    pub serving: &'a [Arc<Pool>],
    /// Its model.
    pub model: &'a ModelId,
    /// Whether a pool of this name exists, whatever it serves.
    pub known: &'a (dyn Fn(&str) -> bool + Sync),
    /// Of its model, as the limits.
    pub price: ModelPrice,
    pub limits: RateLimits,
}

impl Pools<'_> {
    /// Those that may run the request, in tiers; at least one.
    fn rank(&self, request: &TaskRequest) -> Result<Tiers, ErrorEnvelope> {
        let serving: Vec<_> = self.serving.iter().filter(|pool| request.may_run_in(pool.id().as_str())).collect();
        if serving.is_empty() && !self.serving.is_empty() {
            let message = "the API key may use no pool that serves the model";
            return Err(ErrorEnvelope::new(ErrorCode::Forbidden, message));
        }
        let candidates: Vec<_> = serving.iter().map(|pool| pool.candidate()).collect();
        let wish = request.placement.clone().unwrap_or_default();
        match placement::rank(&wish, (request.workload, request.engine), &candidates, self.known) {
            Ok(tiers) => {
                Ok(tiers.into_iter().map(|tier| tier.into_iter().map(|at| Arc::clone(serving[at])).collect()).collect())
            }
            // Of a single pool without a wish there is more to tell than that it is not ready.
            Err(NoPlace::Unready { pool }) => Err(serving
                .iter()
                .find(|candidate| *candidate.id() == pool)
                .and_then(|pool| Some(refused(pool.available().err()?, pool)))
                .unwrap_or_else(|| nowhere(NoPlace::Unready { pool }))),
            Err(reason) => Err(nowhere(reason)),
        }
    }
}

impl Admission {
    fn create(
        &self,
        request: &TaskRequest,
        caller: &Caller,
        model: (&ModelId, ModelPrice),
        limits: Limits,
        home: Home,
        (ties, memo): (Ties, Option<Arc<str>>),
    ) -> Result<Arc<Task>, ErrorEnvelope> {
        let task = self.registry.create(spec(request, caller, model, limits, memo), home, ties);
        let task = task.map_err(|taken| ErrorEnvelope::new(ErrorCode::Conflict, taken.to_string()))?;
        // A drain that began meanwhile may have found nothing to wait for.
        if self.lifecycle.draining().is_cancelled() {
            self.registry.withdraw(task.spec.id);
            return Err(shutting_down());
        }
        Ok(task)
    }

    /// Files a task that outlives the process; of one that does not, what it has reserved, and what it has used in the end.
    fn file(&self, task: &Task, caller: &Caller, life: Life) -> Option<Durable> {
        let journal = self.registry.journal()?;
        self.sessions.filing(task, |session| match (life.kept, session) {
            (Some(Lasting { body, key }), session) => {
                Some(journal.accept(task, &body, caller.share.weight.get(), key, session))
            }
            (None, session) => {
                journal.enter(task, session);
                None
            }
        })
    }

    fn withdraw(&self, task: &Task) {
        self.registry.withdraw(task.spec.id);
        if let Some(journal) = self.registry.journal() {
            journal.withdraw(task.spec.id);
        }
    }

    /// The same checks and the same prediction as [`admit_all`](Self::admit_all), with nothing queued.
    ///
    /// # Errors
    ///
    /// As [`admit_all`](Self::admit_all), but for an id that is taken.
    pub async fn preview(
        &self,
        request: TaskRequest,
        pools: &Pools<'_>,
        caller: &Caller,
    ) -> Result<(Arc<Pool>, Place), ErrorEnvelope> {
        let checked = self.check(request, pools, caller, Look::Always).await?;
        let mut refusal = None;
        for (pool, place) in checked.order {
            match place {
                Some(Ok(place)) => {
                    let scopes = caller.scopes(self.default_limits, Some((pools.model, pools.limits)));
                    let room = self.limiter.check(&scopes, worst_case(&checked.limits), || place.duration_ms());
                    let field = |label, bound| field(&[(&checked.asked, checked.limits)], label, bound);
                    room.map_err(|no_room| no_room.refusal(field))?;
                    return Ok((pool, place));
                }
                None => {}
                Some(Err(reason)) => _ = refusal.get_or_insert_with(|| refused(reason, &pool)),
            }
        }
        Err(refusal.unwrap_or_else(|| nowhere(NoPlace::Unavailable("no pool"))))
    }

    /// A request's prompt in tokens, whatever may be left of the context: as for [`admit_all`](Self::admit_all), with nothing
    /// queued or charged; and the engine that it was prepared for. `bare`: a text without what the model's makers want around it.
    ///
    /// # Errors
    ///
    /// What the client is told whose request no pool could serve.
    pub async fn read(
        &self,
        request: TaskRequest,
        pools: &Pools<'_>,
        bare: bool,
    ) -> Result<(Fitted, Arc<dyn Engine>), ErrorEnvelope> {
        request.check().map_err(violation)?;
        let (engine, _) = able(pools.rank(&request)?, &request)?;
        let counted = Arc::new(Counted { asked: Asked::new(request, self.default_max_tokens), bare });
        let fitted = prepare(&counted, &engine, &self.lifecycle).await?;
        Ok((fitted, engine))
    }

    /// Every check that comes before the queue.
    async fn check(
        &self,
        request: TaskRequest,
        pools: &Pools<'_>,
        caller: &Caller,
        look: Look,
    ) -> Result<Checked, ErrorEnvelope> {
        request.check().map_err(violation)?;
        if self.lifecycle.draining().is_cancelled() {
            return Err(shutting_down());
        }
        let (priority, deadline_ms) = (request.priority.unwrap_or_default(), request.deadline_ms);
        let (asked, fitted, tiers) = self.fit(request, pools).await?;
        let last = self.last_good(&asked.request, caller);
        let near = last.as_ref().map(|last| &last.pool_id);
        // Who only asks wants to know of every pool.
        let refused = look == Look::Needed;
        let limits = self.affordable(&asked, caller, fitted.limits, pools.price, refused)?;
        let look = if deadline_ms.is_some() { Look::Always } else { look };
        let devices = device_mask(&asked.request);
        let coming = Coming { priority, share: &caller.share, limits: &limits, devices };
        let order = by_start(tiers, &coming, near, look);
        let order = in_time(order, deadline_ms)?;
        let near = last.map(|last| last.replica_id);
        Ok(Checked { asked, fitted, limits, near, order })
    }

    /// What budgets leave to a task of a tenant, a session and these owners.
    pub fn left(&self, tenant: &TenantId, session: Option<SessionId>, owners: Owners) -> Left {
        let (holders, first) = self.holders(tenant, session, owners);
        self.budgets.left(holders).least(first)
    }

    /// What such a task counts for, and what the session will begin with where it is not there yet.
    fn holders(&self, tenant: &TenantId, session: Option<SessionId>, owners: Owners) -> (Holders, Left) {
        let of = |id| self.sessions.accounts(&SessionKey { tenant: tenant.clone(), id });
        let (accounts, first) = session.map(of).unwrap_or_default();
        (Holders { accounts, owners }, first)
    }

    /// Sees to it that the budgets of a caller are as they are to be, with what was spent of them before.
    ///
    /// # Errors
    ///
    /// What the client is told where the store does not say that.
    pub async fn ready(&self, caller: &Caller) -> Result<(), ErrorEnvelope> {
        Ok(self.accounts.ready(&caller.owners()).await?)
    }

    /// What a task may use with what its budgets leave now; nothing is reserved. Where that is too little, the owner of the budget
    /// is told if the task is `refused` for it, and not only foreseen.
    fn affordable(
        &self,
        asked: &Asked,
        caller: &Caller,
        limits: Limits,
        price: ModelPrice,
        refused: bool,
    ) -> Result<Limits, ErrorEnvelope> {
        let session = asked.request.session_id.map(SessionId);
        let left = self.left(&caller.share.tenant, session, caller.owners());
        let granted = grant(&limits, asked.request.max_tokens.is_some(), &left, price);
        let granted = granted.map_err(|Exceeded(unit)| {
            let wanted = refused.then(|| wanted(unit, &[(asked, limits)], &price));
            let binding = self.budgets.binding(&caller.owners(), unit, &left, wanted);
            over_budget(unit, &[(asked, limits)], (&left, binding))
        })?;
        Ok(Limits { max_tokens: granted.max_tokens, ..limits })
    }

    /// Where the session of a request ran last. A task that wants nothing from earlier caches has no reason to go there.
    fn last_good(&self, request: &TaskRequest, caller: &Caller) -> Option<Good> {
        let cold = request.determinism == Determinism::Strict || request.kv_hint == Some(KvHint::Cold);
        let key = session_of(request, caller).filter(|_| !cold)?;
        self.sessions.look(&key)?.last
    }

    /// Prepares a request for the best of the pools that can run it; those that cannot are left out.
    async fn fit(&self, request: TaskRequest, pools: &Pools<'_>) -> Result<(Arc<Asked>, Fitted, Tiers), ErrorEnvelope> {
        let (engine, mut tiers) = able(pools.rank(&request)?, &request)?;
        let asked = Arc::new(Asked::new(request, self.default_max_tokens));
        // All pools of a model have its tokenizer and its context, but that servers elsewhere may run it with a shorter one.
        let fitted = prepare(&asked, &engine, &self.lifecycle).await?;
        if engine.info().engine.is(EngineName::Remote) {
            let needed = fitted.context();
            let fits = |pool: &Arc<Pool>| pool.info().is_some_and(|info| needed <= u64::from(info.context_length));
            tiers.iter_mut().for_each(|tier| tier.retain(fits));
        }
        Ok((asked, fitted, tiers))
    }

    /// Ends the task when its deadline comes, wherever it is then.
    pub fn watch_deadline(&self, task: &Arc<Task>) {
        let Some(deadline) = task.spec.limits.deadline else { return };
        let task = Arc::clone(task);
        self.lifecycle.spawn("deadline", crate::lifecycle::OnPanic::Continue, async move {
            if task.stop.run_until_cancelled(tokio::time::sleep_until(deadline)).await.is_some() {
                task.expire();
            }
        });
    }
}

/// Why a request was refused, in the word that metrics have for it.
pub fn reason(error: &ErrorEnvelope) -> &'static str {
    error.policy_label.map_or(error.code.as_str(), PolicyLabel::as_str)
}

/// What a request gets, and what ends a task that is left, when the gateway goes down.
pub fn shutting_down() -> ErrorEnvelope {
    ErrorEnvelope::new(ErrorCode::PoolUnready, "the gateway is shutting down").with_retry_after_ms(1000)
}

/// The pools whose engine can follow a request, and the engine of the best of them.
fn able(mut tiers: Tiers, request: &TaskRequest) -> Result<(Arc<dyn Engine>, Tiers), ErrorEnvelope> {
    let (mut best, mut refusal) = (None, None);
    let mut keep = |pool: &Arc<Pool>| {
        let engine = pool.available().map_err(|reason| refused(reason, pool));
        match engine.and_then(|engine| check_engine(request, engine.info()).map(|()| engine)) {
            Ok(engine) => _ = best.get_or_insert(engine),
            Err(error) => {
                // The best pool's reason is the one to tell.
                refusal.get_or_insert(error);
                return false;
            }
        }
        true
    };
    tiers.iter_mut().for_each(|tier| tier.retain(&mut keep));
    match best {
        Some(engine) => Ok((engine, tiers)),
        None => Err(refusal.unwrap_or_else(|| nowhere(NoPlace::Unavailable("no pool")))),
    }
}

/// The tokens that a task may take: its prompt, and all of its output.
fn worst_case(limits: &Limits) -> u64 {
    u64::from(limits.prompt_tokens) + u64::from(limits.choices.max(1)) * u64::from(limits.max_tokens)
}

/// The pools that may run a task, where not all of its model may.
fn allowed(request: &TaskRequest, order: &[Choice], serving: &[Arc<Pool>]) -> Option<Arc<[PoolId]>> {
    // What servers elsewhere can follow differs from pool to pool, and so may what can be asked of the model.
    let elsewhere = order.iter().any(|(pool, _)| pool.spec().engine.is(EngineName::Remote));
    let lacks = |workloads: Vec<Workload>| !workloads.is_empty() && !workloads.contains(&request.workload);
    let unlike = serving.iter().any(|pool| lacks(pool.workloads()));
    let wish = elsewhere || unlike || request.placement.is_some() || request.engine.is_some();
    let wish = wish || request.only_pools.is_some();
    wish.then(|| order.iter().map(|(pool, _)| pool.id().clone()).collect())
}

fn session_of(request: &TaskRequest, caller: &Caller) -> Option<SessionKey> {
    let tenant = caller.share.tenant.clone();
    request.session_id.map(|id| SessionKey { tenant, id: SessionId(id) })
}
