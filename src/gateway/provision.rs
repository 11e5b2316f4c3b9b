//! Models that are made ready because tasks ask for them.
//!
//! ```text
//! task -> preparation of its model, one for all its tasks -> fetch -> a pool for it, once one is idle -> load
//!      -> the queue of that pool, as if the task had just come
//! ```
//!
//! The pools that get such models are those that the configuration says it of. So memory and the number of models in it are
//! bounded by the configuration as ever; a model goes from memory when its pool is idle and another one is asked for.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::select_all;
use sluicegate_compat::native::{ErrorCode, ErrorEnvelope, ModelTrust, PolicyLabel, Preparation, TaskRequest};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::recover::Waiting;
use super::{Gateway, no_such_model};
use crate::admission::{Admitted, Caller, Life, Refusal, Unprepared, never_queued, shutting_down};
use crate::catalog::verify::differ;
use crate::catalog::{Entry, FetchProblem, PrepareError, Unusable, prepare};
use crate::ids::{ModelId, PoolId};
use crate::lifecycle::OnPanic;
use crate::placement::{self, Candidate};
use crate::pools::{Place, Pool, Prediction, Reloading};
use crate::tasks::Home;

mod book;
mod guests;
mod metrics;
mod steps;

pub(super) use book::Provision;
pub use book::Settings;
use book::{Awaited, Claim, Coming, Leaving, Unfinished};
use metrics::Outcome;
pub use metrics::ProvisionMetrics;
use steps::{Step, Steps};

/// Waiting tasks are told how it goes after this pause, which grows by as much each time, so often at most.
const TELL_AFTER: Duration = Duration::from_millis(500);
const TELL_LATER: Duration = Duration::from_millis(25);
const MOST_TELLINGS: u32 = 1000;

/// A pool can become idle without anybody saying so.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Between two attempts to get a pool that is idle.
const TRY_AGAIN: Duration = Duration::from_millis(20);

/// When somebody should come back who was refused.
const RETRY_AFTER_MS: u64 = 5000;

/// Why a model is not made ready.
enum Failed {
    /// Nobody waits any more.
    Abandoned,
    /// The gateway shuts down.
    Interrupted,
    /// Those who wait are told.
    With(ErrorEnvelope),
}

impl Gateway {
    /// The model of a reference that no pool serves, where it can be made ready.
    ///
    /// # Errors
    ///
    /// `error`, which says that it is not served.
    pub(super) async fn provisionable(&self, reference: &str, error: ErrorEnvelope) -> Result<Entry, ErrorEnvelope> {
        let Ok(model) = self.catalog.resolve(reference) else { return self.guest(reference).await?.ok_or(error) };
        let ready = match model.usable(self.catalog.policy()) {
            Ok(()) => error.code == ErrorCode::PoolUnavailable,
            // What is pinned is compared before it is served.
            Err(Unusable::Unverified(_)) => model.entry.digest.is_some(),
            Err(_) => false,
        };
        if ready && !self.provision.settings.targets.is_empty() { Ok(model.entry) } else { Err(error) }
    }

    /// The pools that may be given a model, in the order in which they are to be tried.
    fn targets(&self) -> Vec<Arc<Pool>> {
        let order: Vec<_> = self.provision.lock().order.iter().cloned().collect();
        order.iter().filter_map(|id| self.pools.iter().find(|pool| pool.id() == id)).map(Arc::clone).collect()
    }

    /// Those that some task allows that waits for a model.
    fn targets_of_waiting(&self, model: &str) -> Vec<Arc<Pool>> {
        let mut targets = self.targets();
        let state = self.provision.lock();
        let waiting = state.models.get(model).map(|awaited| awaited.waiting.as_slice()).unwrap_or_default();
        targets.retain(|pool| waiting.iter().any(|waiting| allows(&waiting.request, pool)));
        drop(state);
        // Pools of one model have one engine.
        let serving = self.pools_of(model);
        targets.retain(|pool| serving.iter().all(|other| other.spec().engine == pool.spec().engine));
        targets
    }

    /// Whether a pool has a model by now that some task allows which waits for it.
    fn serves_waiting(&self, model: &str) -> bool {
        let Ok(serving) = self.serving(model) else { return false };
        let state = self.provision.lock();
        let waiting = state.models.get(model).map(|awaited| awaited.waiting.as_slice()).unwrap_or_default();
        waiting.iter().any(|waiting| serving.allow(&waiting.request))
    }

    /// What would become of a request whose model is to be made ready first.
    ///
    /// # Errors
    ///
    /// As [`let_in_waiting`](Self::let_in_waiting).
    pub(super) fn foresee_waiting(
        &self,
        entry: &Entry,
        request: &TaskRequest,
        caller: &Caller,
    ) -> Result<(PoolId, Place, Preparation), ErrorEnvelope> {
        self.admission.check_unprepared(request, |id| self.has_pool(id))?;
        let (home, load_ms) = self.home_of_waiting(request)?;
        if self.provision.is_full() {
            return Err(too_many());
        }
        self.admission.foresee_unprepared(request, caller, entry)?;
        let (preparation, position) = self.provision.foresee(&entry.id, load_ms);
        Ok((home.pool_id, unqueued(position, load_ms), preparation))
    }

    /// Lets tasks in whose model is to be made ready first, all of them or none.
    ///
    /// # Errors
    ///
    /// Why none of them is let in.
    pub(super) async fn let_in_waiting(
        self: &Arc<Self>,
        entry: Entry,
        requests: Vec<(TaskRequest, Life)>,
        caller: &Caller,
    ) -> Result<Vec<Admitted>, Refusal> {
        self.check_open()?;
        let mut homes = Vec::with_capacity(requests.len());
        for (number, (request, _)) in requests.iter().enumerate() {
            let checked = self.admission.check_unprepared(request, |id| self.has_pool(id));
            let home = checked.and_then(|()| self.home_of_waiting(request));
            homes.push(home.map_err(|error| Refusal { of: Some(number), error })?);
        }
        let most = self.provision.settings.most_waiting;
        if requests.len() > most.max(1) {
            return Err(never_queued("prompt", requests.len(), most).into());
        }
        let coming = self.provision.keep_places(&entry.id, requests.len()).ok_or_else(too_many)?;
        // Nothing goes for a guest that is not let in.
        let reserved = self.admission.reserve_unprepared(&requests, caller, &entry)?;
        self.take_in_guest(&entry).await?;
        let (homes, loads_ms): (Vec<_>, Vec<_>) = homes.into_iter().unzip();
        let requests = requests.into_iter().zip(homes).map(|((request, life), home)| (request, life, home));
        let let_in = self.admission.admit_unprepared(requests.collect(), reserved, caller, &entry)?;
        let admit = |((unprepared, coming), load_ms)| {
            let Unprepared { task, request, guess, durable } = unprepared;
            let waiting =
                Waiting { task: Arc::clone(&task), request, weight: caller.share.weight.get(), guess: Some(guess) };
            let position = self.wait_for(entry.clone(), waiting, load_ms, coming);
            Admitted { task, place: unqueued(position, load_ms), durable }
        };
        Ok(let_in.into_iter().zip(coming).zip(loads_ms).map(admit).collect())
    }

    /// The home of a task until its model is ready: that of the pool that is the first to be tried; and how long loading took
    /// there the last time, in ms.
    fn home_of_waiting(&self, request: &TaskRequest) -> Result<(Home, u64), ErrorEnvelope> {
        let Some(pool) = self.targets().into_iter().find(|pool| allows(request, pool)) else {
            let message = "no pool serves the model, and the request allows none of those that can be given it";
            return Err(unavailable(message.to_owned()));
        };
        let (home, provision) = (pool.home(), Arc::downgrade(&self.provision));
        let load_ms = u64::try_from(pool.load_time().as_millis()).unwrap_or(u64::MAX);
        Ok((Home { observer: Arc::new(Leaving { provision, pool: home.observer }), ..home }, load_ms))
    }

    /// Takes in a task that an earlier process had accepted.
    ///
    /// # Errors
    ///
    /// With what the task is to end.
    pub(super) async fn wait_again(self: &Arc<Self>, entry: Entry, waiting: Waiting) -> Result<(), ErrorEnvelope> {
        let coming = self.provision.make_place(&entry.id);
        let (home, load_ms) = self.home_of_waiting(&waiting.request)?;
        self.take_in_guest(&entry).await?;
        waiting.task.move_to(home);
        self.wait_for(entry, waiting, load_ms, coming);
        Ok(())
    }

    /// Lets a task wait for a model, whose preparation begins unless it has; returns how many tasks wait before it.
    fn wait_for(self: &Arc<Self>, entry: Entry, waiting: Waiting, load_ms: u64, coming: Coming) -> u64 {
        let task = Arc::clone(&waiting.task);
        task.prepares(true);
        let (position, steps, left, begins) = {
            let mut state = self.provision.lock();
            let begins = !state.models.contains_key(&entry.id);
            let awaited = state.models.entry(entry.id.clone()).or_insert_with(|| Awaited {
                steps: Arc::new(Steps::new(&entry.id, load_ms, self.provision.metrics.clone())),
                left: Arc::default(),
                waiting: Vec::new(),
            });
            let position = u64::try_from(awaited.waiting.len()).unwrap_or(u64::MAX);
            awaited.waiting.push(waiting);
            (position, Arc::clone(&awaited.steps), Arc::clone(&awaited.left), begins)
        };
        drop(coming);
        steps.tell(&task);
        if begins {
            let gateway = Arc::clone(self);
            self.lifecycle.spawn("prepare a model", OnPanic::Continue, async move {
                gateway.provide(&entry, &steps, &left).await;
            });
        }
        // One that was cancelled between its creation and now has told its observer too early.
        if task.log.is_sealed() {
            self.provision.leave(task.spec.id);
        }
        position
    }

    /// Makes a model ready, and hands the tasks that wait for it on to its pools.
    async fn provide(self: &Arc<Self>, entry: &Entry, steps: &Arc<Steps>, left: &Notify) {
        let _unfinished = Unfinished { provision: &self.provision, model: &entry.id, steps };
        let underway = self.provision.metrics.begin();
        let outcome = tokio::select! {
            outcome = self.serve_waiting(entry, steps, left) => outcome,
            never = self.keep_telling(&entry.id, steps) => match never {},
        };
        // Before anybody hears of it, so that whoever does finds the counters settled.
        underway.end(match &outcome {
            Ok(_) => Outcome::Ready,
            Err(Failed::Abandoned) => Outcome::Abandoned,
            Err(Failed::Interrupted) => Outcome::Interrupted,
            Err(Failed::With(_)) => Outcome::Failed,
        });
        let error = match outcome {
            Ok((last, _claim)) => return self.queue_all(last).await,
            // Whoever asks for the model from now on has a preparation of their own.
            Err(Failed::Abandoned) => return tracing::info!(model = entry.id, "nobody waits for the model any more"),
            Err(Failed::Interrupted) => shutting_down(),
            Err(Failed::With(error)) => error,
        };
        tracing::warn!(model = entry.id, why = error.message, "a model was not made ready");
        for Waiting { task, .. } in self.provision.close(&entry.id) {
            self.refuse(&task, error.clone());
        }
    }

    /// Gives a model to one pool after the other until everybody is served who waits for it: mostly that is one pool. Returns
    /// those who are yet to be queued, with the claim to the last pool.
    async fn serve_waiting(
        self: &Arc<Self>,
        entry: &Entry,
        steps: &Arc<Steps>,
        left: &Notify,
    ) -> Result<(Vec<Waiting>, Option<Claim>), Failed> {
        let by = Instant::now() + self.provision.settings.deadline;
        let mut claim = None;
        loop {
            // First of all a pool may have got it between their look for one and now.
            let (waiting, all) = self.take_served(&entry.id, claim.is_some());
            if all {
                return Ok((waiting, claim));
            }
            self.queue_all(waiting).await;
            drop(claim.take());
            claim = self.make_ready(entry, steps, left, by).await?;
        }
    }

    /// Takes out those who wait for a model and allow a pool that has it; and whether nobody is left who waits.
    fn take_served(&self, model: &str, made: bool) -> (Vec<Waiting>, bool) {
        let serving = match self.serving(model) {
            Ok(serving) => Some(serving),
            // It was retired or replaced as soon as it was there: each of them is told, or waits once more.
            Err(_) if made => None,
            Err(_) => return (Vec::new(), false),
        };
        let served = |request: &TaskRequest| serving.as_ref().is_none_or(|serving| serving.allow(request));
        self.provision.take(model, served)
    }

    /// Gives a model to a pool that somebody allows who waits for it; `None` where one has it meanwhile.
    async fn make_ready(
        &self,
        entry: &Entry,
        steps: &Arc<Steps>,
        left: &Notify,
        by: Instant,
    ) -> Result<Option<Claim>, Failed> {
        let found = async {
            if !steps.is_done(Step::Fetch) {
                self.fetch_model(entry, steps).await?;
                steps.done(Step::Fetch);
            }
            steps.begin(Step::Engine, "waiting for an idle pool");
            Ok(self.take_target(entry).await)
        };
        let found = tokio::select! {
            biased;
            () = self.lifecycle.draining().cancelled() => return Err(Failed::Interrupted),
            () = self.provision.abandoned(&entry.id, left) => return Err(Failed::Abandoned),
            found = timeout_at(by, found) => found,
        };
        let late = || {
            let limit = self.provision.settings.deadline.as_secs();
            unavailable(format!("the model was not ready within {limit} s"))
        };
        let Some((claim, reloading)) = found.unwrap_or_else(|_| Err(late())).map_err(Failed::With)? else {
            return Ok(None);
        };
        steps.done(Step::Engine);
        steps.begin(Step::Warmup, "loading the model");
        // It has limits of its own. In another process the model comes when it is asked for again.
        if reloading.run(|_| (), std::future::ready(())).await.is_err() {
            let message =
                format!("the model could not be loaded; the health of the pool {:?} says why", claim.pool.as_str());
            return Err(Failed::With(unavailable(message).with_pool(claim.pool.as_str())));
        }
        steps.done(Step::Warmup);
        tracing::info!(model = entry.id, pool = %claim.pool, "a model was made ready");
        Ok(Some(claim))
    }

    /// Brings the files of a model onto the disk, and compares them with what is known of them.
    async fn fetch_model(&self, entry: &Entry, steps: &Arc<Steps>) -> Result<(), ErrorEnvelope> {
        steps.begin(Step::Fetch, "looking for the files");
        let files = loop {
            match prepare(entry, &self.storage, Arc::clone(steps) as Arc<_>, &self.lifecycle).await {
                // A pool or another process gets it just now.
                Err(PrepareError::Fetch { problem: FetchProblem::Busy, .. }) => sleep(LOOK_AGAIN).await,
                fetched => break fetched.map_err(|error| not_fetched(entry, &error))?,
            }
        };
        let known = self.catalog.get(&entry.id).map_err(|_| no_such_model(&entry.id))?;
        if let Some(why) = differ(&known.facts.files, &files.files).and_then(|finding| finding.words()) {
            return Err(untrusted(format!("{why} since the model was loaded or verified last")));
        }
        if known.facts.trust != ModelTrust::Failed {
            self.catalog.loaded(&entry.id, &files);
        }
        Ok(())
    }

    /// Waits until one of the pools is idle that may be given a model, and begins to give it this one; `None` where a pool
    /// has it by now that will do.
    async fn take_target(&self, entry: &Entry) -> Option<(Claim, Reloading)> {
        loop {
            if self.serves_waiting(&entry.id) {
                return None;
            }
            let targets = self.targets_of_waiting(&entry.id);
            for pool in &targets {
                if let Some(taken) = self.try_target(pool, entry) {
                    return Some(taken);
                }
            }
            let idle: Vec<_> = targets.iter().map(|pool| Box::pin(pool.exchangeable())).collect();
            if idle.is_empty() {
                sleep(LOOK_AGAIN).await;
            } else if timeout(LOOK_AGAIN, select_all(idle)).await.is_ok() {
                // It may be claimed for another model yet.
                sleep(TRY_AGAIN).await;
            }
        }
    }

    fn try_target(&self, pool: &Arc<Pool>, entry: &Entry) -> Option<(Claim, Reloading)> {
        if !self.provision.lock().claimed.insert(pool.id().clone()) {
            return None;
        }
        match pool.begin_exchange(ModelId::from(entry.id.as_str())) {
            Ok(reloading) => {
                let claim = Claim { provision: Arc::clone(&self.provision), pool: pool.id().clone() };
                Some((claim, reloading))
            }
            Err(_busy) => {
                self.provision.lock().claimed.remove(pool.id());
                None
            }
        }
    }

    /// Tells those who wait how it goes.
    async fn keep_telling(&self, model: &str, steps: &Steps) -> std::convert::Infallible {
        let mut pause = TELL_AFTER;
        for _ in 0..MOST_TELLINGS {
            sleep(pause).await;
            pause += TELL_LATER;
            if steps.has_changed() {
                self.provision.waiting(model).iter().for_each(|task| steps.tell(task));
            }
        }
        std::future::pending().await
    }
}

/// The place of a task that so many others wait before. It does not start before its model is loaded; how much later nobody
/// can say.
fn unqueued(position: u64, load_ms: u64) -> Place {
    let prediction = Prediction { start_ms: load_ms, end_ms: load_ms };
    Place { position, prediction, waits: true, ..Place::default() }
}

/// Whether a request may run in a pool, whatever that serves. One that it avoids is never given a model for it.
pub(super) fn allows(request: &TaskRequest, pool: &Pool) -> bool {
    if !request.may_run_in(pool.id().as_str()) {
        return false;
    }
    let mut wish = request.placement.clone().unwrap_or_default();
    if wish.avoid_pools.iter().any(|avoided| avoided == pool.id().as_str()) {
        return false;
    }
    // What another model can be asked, and where an empty pool will run, nobody knows yet.
    let candidate = Candidate { workloads: None, open: true, ..pool.candidate() };
    if candidate.devices.is_empty() {
        wish.require_device_mask = None;
    }
    placement::rank(&wish, (request.workload, request.engine), &[candidate], |_| true).is_ok()
}

fn too_many() -> ErrorEnvelope {
    let message = "too many tasks wait for models that are being prepared; try again later";
    ErrorEnvelope::rejected(PolicyLabel::QueueReject, message).with_retry_after_ms(RETRY_AFTER_MS)
}

fn unavailable(message: String) -> ErrorEnvelope {
    ErrorEnvelope::new(ErrorCode::PoolUnavailable, message).with_retry_after_ms(RETRY_AFTER_MS)
}

fn untrusted(message: String) -> ErrorEnvelope {
    ErrorEnvelope { param: Some("model_ref".into()), ..ErrorEnvelope::new(ErrorCode::UntrustedArtifact, message) }
}

/// What those are told who wait for a model whose files cannot be had. Paths of this machine go into the log alone.
fn not_fetched(entry: &Entry, error: &PrepareError) -> ErrorEnvelope {
    tracing::warn!(model = entry.id, %error, "the files of a model cannot be made ready");
    let id = &entry.id;
    match error {
        PrepareError::Fetch { problem, .. } => match problem {
            FetchProblem::Private(_)
            | FetchProblem::Plain(_)
            | FetchProblem::TooLarge(_)
            | FetchProblem::BadAnswer(_) => untrusted(format!("the model {id:?} is not taken from there: {problem}")),
            FetchProblem::NotFound
            | FetchProblem::NoSuchFile(_)
            | FetchProblem::NoWeights
            | FetchProblem::OnlyGguf(_) => {
                ErrorEnvelope { message: format!("the model {id:?} is not there: {problem}"), ..no_such_model(id) }
            }
            FetchProblem::Disk { .. } => unavailable(format!("the files of the model {id:?} cannot be stored")),
            _ => unavailable(format!("the model {id:?} cannot be fetched: {problem}")),
        },
        PrepareError::File { .. } => unavailable(format!("the files of the model {id:?} cannot be read")),
        PrepareError::Digest { .. } | PrepareError::Damaged { .. } => {
            untrusted(format!("the files of the model {id:?} do not have the digest that they should have"))
        }
        PrepareError::NotAModel { why, .. } => untrusted(format!("the files of {id:?} make no model: {why}")),
        PrepareError::Interrupted => ErrorEnvelope::new(ErrorCode::Internal, error.to_string()),
    }
}
