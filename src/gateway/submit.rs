//! Letting tasks in.

use std::sync::{Arc, Weak};

use sluicegate_compat::native::{ErrorCode, ErrorEnvelope, PreviewResponse, TaskRequest, detail};

use super::Gateway;
use super::idempotency::{First, Once};
use crate::admission::{Accepted, Admitted, Caller, Pools};
use crate::tasks::{Owner, Task};

/// A task that ends when nobody holds its owner any more.
pub struct Owned {
    pub task: Arc<Task>,
    /// `None` where it has ended already.
    pub owner: Option<Arc<Owner>>,
}

impl Gateway {
    /// Lets a task in, or refuses it.
    ///
    /// # Errors
    ///
    /// What the client is told, but for the correlation id.
    pub async fn submit(&self, request: TaskRequest, caller: &Caller) -> Result<Admitted, ErrorEnvelope> {
        let serving =
            self.serving(&request.model_ref).inspect_err(|error| self.metrics.rejected(None, error.code.as_str()))?;
        let known = |id: &str| self.pools.iter().any(|pool| pool.id().as_str() == id);
        let reference = request.model_ref.clone();
        let admitted = self.admission.admit(request, &Pools { serving: &serving, known: &known }, caller).await?;
        // The model may have been found changed, or been retired, while its prompt was counted.
        if let Err(error) = self.usable(&reference) {
            admitted.task.fail(error.clone());
            return Err(error);
        }
        Ok(admitted)
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
        caller: &Caller,
    ) -> Result<Accepted, ErrorEnvelope> {
        let accepted = |admitted: &Admitted| Accepted { id: admitted.task.spec.id, place: admitted.place };
        let Some(once) = once else { return Ok(accepted(&self.submit(request, caller).await?)) };
        let entry = self.idempotency.entry(&caller.share.tenant, &once);
        let mut first = entry.lock().await;
        if let Some(first) = first.as_ref() {
            first.check(&once)?;
            return Ok(Accepted { id: first.id, place: first.place });
        }
        let Accepted { id, place } = accepted(&self.submit(request, caller).await?);
        *first = Some(First::new(&once, id, place, None));
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
        caller: &Caller,
    ) -> Result<Owned, ErrorEnvelope> {
        let owned = |task: Arc<Task>| Owned { owner: Some(Owner::of(Arc::clone(&task))), task };
        let Some(once) = once else { return Ok(owned(self.submit(request, caller).await?.task)) };
        let entry = self.idempotency.entry(&caller.share.tenant, &once);
        let mut first = entry.lock().await;
        if let Some(first) = first.as_ref()
            && let Some(owned) = self.join(first, &once)?
        {
            return Ok(owned);
        }
        let Admitted { task, place } = self.submit(request, caller).await?;
        let owner = Owner::of(Arc::clone(&task));
        *first = Some(First::new(&once, task.spec.id, place, Some(Arc::downgrade(&owner))));
        Ok(Owned { task, owner: Some(owner) })
    }

    /// Another client of a task; `None` where its clients have hung up and it was cancelled for that.
    fn join(&self, first: &First, once: &Once) -> Result<Option<Owned>, ErrorEnvelope> {
        first.check(once)?;
        let gone = || {
            let message = "the answer to this `Idempotency-Key` is no longer kept; take a new key";
            ErrorEnvelope::new(ErrorCode::Conflict, message).with_detail(detail::IDEMPOTENCY_CONFLICT)
        };
        let task = self.registry.get(first.id).ok_or_else(gone)?;
        let owner = first.owner.as_ref().and_then(Weak::upgrade);
        let ended = task.log.progress().ended.is_some();
        // Without an owner and not at its end yet, it is being cancelled just now.
        let abandoned = task.was_abandoned() || (owner.is_none() && !ended);
        Ok((!abandoned).then_some(Owned { task, owner }))
    }

    /// What would become of a request, with nothing queued.
    pub async fn preview(&self, request: TaskRequest, caller: &Caller) -> PreviewResponse {
        let known = |id: &str| self.pools.iter().any(|pool| pool.id().as_str() == id);
        let admission = &self.admission;
        let foreseen = match self.serving(&request.model_ref) {
            Ok(serving) => admission.preview(request, &Pools { serving: &serving, known: &known }, caller).await,
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
                error: Some(error.with_correlation_id(caller.correlation_id.as_str())),
            },
        }
    }
}
