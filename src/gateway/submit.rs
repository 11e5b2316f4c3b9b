//! Letting tasks in.

use std::sync::{Arc, Weak};

use bytes::Bytes;
use sluicegate_compat::native::{ErrorCode, ErrorEnvelope, Preparation, PreviewResponse, TaskRequest, detail};

use super::Gateway;
use super::idempotency::{First, Once};
use crate::admission::{Accepted, Admitted, Caller, Lasting, Life, Refusal, not_kept, reason};
use crate::ids::TaskId;
use crate::pools::{Place, Pool};
use crate::tasks::{Durable, Owner, Task};

/// A task that ends when nobody holds its owner any more.
pub struct Owned {
    pub task: Arc<Task>,
    /// `None` where it has ended already.
    pub owner: Option<Arc<Owner>>,
}

impl Gateway {
    /// Lets a task in that ends with the process, or refuses it.
    ///
    /// # Errors
    ///
    /// What the client is told, but for the correlation id.
    pub async fn submit(self: &Arc<Self>, request: TaskRequest, caller: &Caller) -> Result<Admitted, ErrorEnvelope> {
        self.let_in(request, caller, Life::default()).await
    }

    async fn let_in(
        self: &Arc<Self>,
        request: TaskRequest,
        caller: &Caller,
        life: Life,
    ) -> Result<Admitted, ErrorEnvelope> {
        let mut admitted = self.let_in_all(vec![(request, life)], caller).await.map_err(|refusal| refusal.error)?;
        // There is one for each request.
        Ok(admitted.remove(0))
    }

    /// Lets the tasks of one request in, which all ask for the model of the first: all of them or none.
    async fn let_in_all(
        self: &Arc<Self>,
        mut requests: Vec<(TaskRequest, Life)>,
        caller: &Caller,
    ) -> Result<Vec<Admitted>, Refusal> {
        let rejected = |error: &ErrorEnvelope| self.metrics.rejected(None, reason(error));
        let reference = requests.first().map(|(request, _)| request.model_ref.clone()).unwrap_or_default();
        requests.iter_mut().for_each(|(request, _)| caller.grade(request));
        self.check_model(&caller.rights, &reference).inspect_err(rejected)?;
        self.admission.ready(caller).await.inspect_err(rejected)?;
        let serving = match self.serving(&reference) {
            Ok(serving) => serving,
            Err(error) => {
                let entry = self.provisionable(&reference, error).await.inspect_err(rejected)?;
                self.check_open().inspect_err(rejected)?;
                for (request, life) in &mut requests {
                    self.show_kept(request, &[], life).await.inspect_err(rejected)?;
                }
                let admitted = self.let_in_waiting(entry, requests, caller).await;
                return admitted.inspect_err(|refusal| rejected(&refusal.error));
            }
        };
        // Where the pools are not ready themselves they say why.
        if serving.pools.iter().any(|pool| pool.status().is_ready()) {
            self.check_open()?;
        }
        for (request, life) in &mut requests {
            self.show_kept(request, &serving.pools, life).await.inspect_err(rejected)?;
        }
        let known = |id: &str| self.has_pool(id);
        let admitted = self.admission.admit_all(requests, &serving.pools(&known), caller).await?;
        // The model may have been found changed, or been retired, while its prompt was counted.
        if let Err(error) = self.usable(&reference) {
            self.metrics.rejected(None, error.code.as_str());
            admitted.iter().for_each(|admitted| admitted.task.fail(error.clone()));
            return Err(error.into());
        }
        Ok(admitted)
    }

    /// [Shows](Self::show) what a request does. A task that outlives the process is kept with what was got for it.
    async fn show_kept(
        &self,
        request: &mut TaskRequest,
        pools: &[Arc<Pool>],
        life: &mut Life,
    ) -> Result<(), ErrorEnvelope> {
        if self.show(request, pools).await?
            && let Some(kept) = &mut life.kept
        {
            kept.body = serde_json::to_vec(request).map_err(|_| not_kept())?.into();
        }
        Ok(())
    }

    /// Lets a task in that lives on its own, or says again what was said of it before.
    ///
    /// # Errors
    ///
    /// As [`submit`](Self::submit); CONFLICT where the key was used for another request.
    pub async fn submit_once(
        self: &Arc<Self>,
        once: Option<Once>,
        request: TaskRequest,
        body: Bytes,
        caller: &Caller,
    ) -> Result<Accepted, ErrorEnvelope> {
        let (id, place, _) = self.accept(once, request, (body, None), caller).await?;
        Ok(Accepted { id, place, preparation: self.provision.preparation_of(id) })
    }

    /// As [`submit_once`](Self::submit_once), for a client that is told of the task itself. The memo is kept as long as that.
    ///
    /// # Errors
    ///
    /// As there; CONFLICT where the task of this key is kept no longer.
    pub async fn submit_lasting(
        self: &Arc<Self>,
        once: Option<Once>,
        request: TaskRequest,
        kept: (Bytes, Option<Arc<str>>),
        caller: &Caller,
    ) -> Result<Owned, ErrorEnvelope> {
        let (.., task) = self.accept(once, request, kept, caller).await?;
        Ok(Owned { task: task.ok_or_else(kept_no_longer)?, owner: None })
    }

    /// What was let in, and the place it had then; without the task where that is kept no longer.
    async fn accept(
        self: &Arc<Self>,
        once: Option<Once>,
        request: TaskRequest,
        (body, memo): (Bytes, Option<Arc<str>>),
        caller: &Caller,
    ) -> Result<(TaskId, Place, Option<Arc<Task>>), ErrorEnvelope> {
        if self.store.is_away() {
            return Err(not_kept());
        }
        let kept = Life { kept: Some(Lasting { body, key: once.as_ref().map(Once::key) }), memo, forget: false };
        let Some(once) = once else {
            let Admitted { task, place, durable } = self.let_in(request, caller, kept).await?;
            durably(Some(&task), durable).await?;
            return Ok((task.spec.id, place, Some(task)));
        };
        let entry = self.idempotency.entry(&caller.share.tenant, &once);
        let mut first = entry.lock().await;
        if let Some(first) = first.as_ref() {
            first.check(&once)?;
            // The client that was first may have hung up before it was durable.
            durably(None, first.durable.clone()).await?;
            let place = first.place.unwrap_or_else(|| self.place_now(first.id));
            return Ok((first.id, place, self.registry.get(first.id)));
        }
        let Admitted { task, place, durable } = self.let_in(request, caller, kept).await?;
        let id = task.spec.id;
        if let Some(journal) = self.registry.journal() {
            journal.answered(id, &place);
        }
        *first = Some(First::kept(&once, id, place, durable.clone()));
        if let Err(error) = durably(Some(&task), durable).await {
            *first = None;
            return Err(error);
        }
        Ok((id, place, Some(task)))
    }

    /// Lets a task in that ends when its clients hang up, or joins the one that was let in before. The memo is kept as long as
    /// the task; one with a key is kept in any case, for whoever sends that again.
    ///
    /// # Errors
    ///
    /// As [`submit_once`](Self::submit_once); also CONFLICT where the task's retention has ended.
    pub async fn submit_owned(
        self: &Arc<Self>,
        once: Option<Once>,
        request: TaskRequest,
        life: Life,
        caller: &Caller,
    ) -> Result<Owned, ErrorEnvelope> {
        let mut owned = self.own_all(vec![(once, request, life)], caller).await.map_err(|refusal| refusal.error)?;
        // There is one for each request.
        Ok(owned.remove(0))
    }

    /// As [`submit_owned`](Self::submit_owned), for the tasks that one request is, which all ask for one model: all of them are
    /// let in or none.
    ///
    /// # Errors
    ///
    /// As there, with the task that it is about.
    pub async fn submit_all_owned(
        self: &Arc<Self>,
        once: Option<&Once>,
        requests: Vec<TaskRequest>,
        caller: &Caller,
    ) -> Result<Vec<Owned>, Refusal> {
        let part = |(number, request)| (once.map(|once| once.part(number)), request, Life::default());
        self.own_all(requests.into_iter().enumerate().map(part).collect(), caller).await
    }

    async fn own_all(
        self: &Arc<Self>,
        requests: Vec<(Option<Once>, TaskRequest, Life)>,
        caller: &Caller,
    ) -> Result<Vec<Owned>, Refusal> {
        let entry = |once: &Option<Once>| Some(self.idempotency.entry(&caller.share.tenant, once.as_ref()?));
        let entries: Vec<_> = requests.iter().map(|(once, ..)| entry(once)).collect();
        // All of them are held until each has its task: those of one key always come in the same order.
        let mut firsts = Vec::with_capacity(requests.len());
        let (mut all, mut numbers, mut fresh) = (Vec::new(), Vec::new(), Vec::new());
        for (number, ((once, request, life), entry)) in requests.into_iter().zip(&entries).enumerate() {
            let first = match entry {
                Some(entry) => Some(entry.lock().await),
                None => None,
            };
            let joined = match first.as_deref().and_then(Option::as_ref).zip(once.as_ref()) {
                Some((first, once)) => self.join(first, once)?,
                None => None,
            };
            if joined.is_none() {
                numbers.push((number, life.forget && once.is_none()));
                fresh.push((request, life));
            }
            all.push(joined);
            firsts.push(once.zip(first));
        }
        if fresh.is_empty() {
            return Ok(all.into_iter().flatten().collect());
        }
        let admitted = self.let_in_all(fresh, caller).await;
        let admitted = admitted.map_err(|Refusal { of, error }| Refusal { of: of.map(|of| numbers[of].0), error })?;
        for ((number, forgets), Admitted { task, place, .. }) in numbers.into_iter().zip(admitted) {
            let owner = Owner::of(Arc::clone(&task), forgets);
            if let Some((once, first)) = &mut firsts[number] {
                **first = Some(First::owned(once, task.spec.id, place, Arc::downgrade(&owner)));
            }
            all[number] = Some(Owned { task, owner: Some(owner) });
        }
        Ok(all.into_iter().flatten().collect())
    }

    /// Where a task stands now: for a key whose process ended before the first answer was filed.
    fn place_now(&self, id: TaskId) -> Place {
        let task = self.registry.get(id);
        let place = task.and_then(|task| self.pool_of(&task)?.place(&task));
        // It waits for nothing.
        place.unwrap_or_default()
    }

    /// Another client of a task; `None` where its clients have hung up and it was cancelled for that.
    fn join(&self, first: &First, once: &Once) -> Result<Option<Owned>, ErrorEnvelope> {
        first.check(once)?;
        let task = self.registry.get(first.id).ok_or_else(kept_no_longer)?;
        let owner = first.owner.as_ref().and_then(Weak::upgrade);
        let ended = task.log.progress().ended.is_some();
        // Without an owner and not at its end yet, it is being cancelled just now.
        let abandoned = task.was_abandoned() || (owner.is_none() && !ended);
        Ok((!abandoned).then_some(Owned { task, owner }))
    }

    /// Tokens of a request's prompt, with nothing queued.
    ///
    /// # Errors
    ///
    /// What the client is told; POOL_UNAVAILABLE where no pool has the model now.
    pub async fn count(&self, mut request: TaskRequest, caller: &Caller) -> Result<u32, ErrorEnvelope> {
        let known = |id: &str| self.has_pool(id);
        caller.grade(&mut request);
        let serving = self.serving_for(caller, &request.model_ref)?;
        self.show(&mut request, &serving.pools).await?;
        let (fitted, _) = self.admission.read(request, &serving.pools(&known), false).await?;
        Ok(fitted.limits.prompt_tokens)
    }

    /// What would become of a request, with nothing queued.
    pub async fn preview(&self, mut request: TaskRequest, caller: &Caller) -> PreviewResponse {
        let known = |id: &str| self.has_pool(id);
        let admission = &self.admission;
        caller.grade(&mut request);
        let foreseen = match self.serving(&request.model_ref) {
            _ if let Err(error) = self.check_model(&caller.rights, &request.model_ref) => Err(error),
            _ if let Err(error) = admission.ready(caller).await => Err(error),
            Ok(serving) => match self.show(&mut request, &serving.pools).await {
                Ok(_) => {
                    let foreseen = admission.preview(request, &serving.pools(&known), caller).await;
                    foreseen.map(|(pool, place)| (pool.id().clone(), place, Preparation::default()))
                }
                Err(error) => Err(error),
            },
            Err(error) => match self.provisionable(&request.model_ref, error).await {
                Ok(entry) => match self.show(&mut request, &[]).await {
                    Ok(_) => self.foresee_waiting(&entry, &request, caller),
                    Err(error) => Err(error),
                },
                Err(error) => Err(error),
            },
        };
        match foreseen {
            Ok((pool_id, place, preparation)) => PreviewResponse {
                feasible: true,
                error: None,
                queue_position: Some(place.position),
                predicted_start_ms: Some(place.prediction.start_ms),
                predicted_end_ms: Some(place.prediction.end_ms),
                pool_id: Some(pool_id.to_string()),
                preparation,
            },
            Err(error) => PreviewResponse {
                feasible: false,
                queue_position: None,
                predicted_start_ms: None,
                predicted_end_ms: None,
                pool_id: error.pool_id.clone(),
                preparation: Preparation::default(),
                error: Some(error.with_correlation_id(caller.correlation_id.as_str())),
            },
        }
    }
}

fn kept_no_longer() -> ErrorEnvelope {
    let message = "the answer to this `Idempotency-Key` is no longer kept; take a new key";
    ErrorEnvelope::new(ErrorCode::Conflict, message).with_detail(detail::IDEMPOTENCY_CONFLICT)
}

/// Waits until a task is durable. One that cannot be kept ends, and its client is told to come again.
async fn durably(task: Option<&Task>, durable: Option<Durable>) -> Result<(), ErrorEnvelope> {
    let Some(durable) = durable else { return Ok(()) };
    durable.await.map_err(|_reason| {
        if let Some(task) = task {
            task.fail(not_kept());
        }
        not_kept()
    })
}
