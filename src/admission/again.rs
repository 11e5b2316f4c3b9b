//! Letting a task in again that an earlier process had accepted: what it may use was decided then.

use std::num::NonZeroU32;
use std::sync::Arc;

use sluicegate_compat::native::{ErrorCode, ErrorEnvelope, TaskRequest};

use super::translate::job;
use super::{Admission, Caller, Look, Pools, allowed, by_start, submit};
use crate::pools::{Job, Share};
use crate::tasks::Task;

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
    /// Queues a task of an earlier process. Its prompt is counted again, to see that it still fits.
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
        // Its session has gone with the earlier process, and so has whatever an engine kept for it.
        let order = by_start(tiers, asked.request.priority, &caller.share, &task.limits(), None, Look::Needed);
        let job = Job { allowed: allowed(&asked.request, &order, pools.serving), ..job(&asked, task, &caller, fitted) };
        submit(job, order.iter().map(|(pool, _)| pool))?;
        self.watch_deadline(task);
        Ok(())
    }
}
