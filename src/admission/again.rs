//! Letting a task in a second time, whose queue was not to be had the first time: an earlier process had accepted it, or its
//! model had to be made ready. What it may use was decided then.

use std::num::NonZeroU32;
use std::sync::Arc;

use sluicegate_compat::native::{ErrorCode, ErrorEnvelope, ModelPrice, TaskRequest};

use super::recipe::Asked;
use super::translate::job;
use super::{Admission, Caller, Life, Look, Pools, allowed, by_start, shutting_down, submit, violation, worst_case};
use crate::pools::{Job, Share};
use crate::tasks::{Durable, Home, Task};

/// What a task is told that cannot be kept: nothing is accepted that could be lost.
pub fn not_kept() -> ErrorEnvelope {
    let message = "the gateway cannot store the task, and takes none that it could lose; try again later";
    ErrorEnvelope::new(ErrorCode::PoolUnready, message).with_retry_after_ms(5000)
}

/// What a task is told whose engine went with the process.
pub fn interrupted() -> ErrorEnvelope {
    let message = "the gateway ended while the task ran; send it again";
    ErrorEnvelope::new(ErrorCode::WorkerReset, message).with_retry_after_ms(0)
}

impl Admission {
    /// Queues a task that was accepted before. Its prompt is counted, to see that it fits.
    ///
    /// # Errors
    ///
    /// With what the task is to end.
    pub async fn admit_again(
        &self,
        task: &Arc<Task>,
        request: TaskRequest,
        weight: u32,
        pools: &Pools<'_>,
    ) -> Result<(), ErrorEnvelope> {
        let weight = NonZeroU32::new(weight).unwrap_or(NonZeroU32::MIN);
        let share = Share { tenant: task.spec.tenant_id.clone(), weight };
        let caller = Caller { correlation_id: task.spec.correlation_id.clone(), share };
        let (asked, fitted, tiers) = self.fit(request, pools).await?;
        task.refit(fitted.limits.prompt_tokens, fitted.limits.max_tokens).map_err(|label| {
            ErrorEnvelope::rejected(label, "the budget does not cover the task with the model that is served now")
        })?;
        // No engine that is there now has kept anything for it.
        let order = by_start(tiers, asked.request.priority, &caller.share, &task.limits(), None, Look::Needed);
        let job = Job { allowed: allowed(&asked.request, &order, pools.serving), ..job(&asked, task, &caller, fitted) };
        submit(job, order.iter().map(|(pool, _)| pool)).map(drop)
    }

    /// What can be checked of a request while there is no engine of its model.
    ///
    /// # Errors
    ///
    /// What the client is told.
    pub fn check_unprepared(&self, request: &TaskRequest) -> Result<(), ErrorEnvelope> {
        request.check().map_err(violation)?;
        if self.lifecycle.draining().is_cancelled() { Err(shutting_down()) } else { Ok(()) }
    }

    /// Makes the task of a request that was [checked](Self::check_unprepared), to be let in [again](Self::admit_again) once
    /// its model is ready. Until then nobody can say how long its prompt is, so its budgets reserve for a guess, and it never
    /// uses more than that.
    ///
    /// # Errors
    ///
    /// What the client is told.
    pub fn admit_unprepared(
        &self,
        request: &TaskRequest,
        home: Home,
        price: ModelPrice,
        caller: &Caller,
        life: Life,
    ) -> Result<(Arc<Task>, Option<Durable>), ErrorEnvelope> {
        let guess = Asked::new(request.clone(), self.default_max_tokens).guess();
        let (limits, mut ties) = self.reserve(request, caller, guess, price)?;
        // How long tasks take nobody knows yet.
        let (charge, at_once) = self.limiter.admit(worst_case(&limits), || 1000)?;
        ties.held.push(Box::new(at_once));
        let task = self.create(request, caller, limits, home, ties)?;
        charge.keep();
        let durable = self.file(&task, caller, life);
        self.watch_deadline(&task);
        Ok((task, durable))
    }
}
