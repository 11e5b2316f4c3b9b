//! Letting a task in a second time, whose queue was not to be had the first time: an earlier process had accepted it, or its
//! model had to be made ready. What it may use was decided then.

use std::num::NonZeroU32;
use std::sync::Arc;

use sluicegate_compat::native::{ErrorCode, ErrorEnvelope, ModelPrice, TaskRequest};

use super::recipe::Asked;
use super::translate::job;
use super::{
    Admission, Caller, Charge, Life, Look, Pools, allowed, by_start, nowhere, shutting_down, submit, violation,
    worst_case,
};
use crate::placement;
use crate::pools::{Job, Share};
use crate::tasks::{Durable, Home, Limits, Task, Ties};

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

/// What a request takes of limits and budgets whose model is not there yet. Given back on drop, unless a task is made of it.
pub struct Reserved {
    limits: Limits,
    ties: Ties,
    charge: Charge,
}

impl Admission {
    /// Queues a task that was accepted before. Its prompt is counted, to see that it fits, and to correct the `guess` that it
    /// was let in with by this process.
    ///
    /// # Errors
    ///
    /// With what the task is to end.
    pub async fn admit_again(
        &self,
        task: &Arc<Task>,
        request: TaskRequest,
        weight: u32,
        guess: Option<Charge>,
        pools: &Pools<'_>,
    ) -> Result<(), ErrorEnvelope> {
        let weight = NonZeroU32::new(weight).unwrap_or(NonZeroU32::MIN);
        let share = Share { tenant: task.spec.tenant_id.clone(), weight };
        let caller = Caller { correlation_id: task.spec.correlation_id.clone(), share };
        let (asked, fitted, tiers) = self.fit(request, pools).await?;
        task.refit(fitted.limits.prompt_tokens, fitted.limits.max_tokens).map_err(|label| {
            ErrorEnvelope::rejected(label, "the budget does not cover the task with the model that is served now")
        })?;
        if let Some(guess) = guess {
            guess.correct(worst_case(&task.limits()));
        }
        // No engine that is there now has kept anything for it.
        let order = by_start(tiers, asked.request.priority, &caller.share, &task.limits(), None, Look::Needed);
        let job = Job { allowed: allowed(&asked.request, &order, pools.serving), ..job(&asked, task, &caller, fitted) };
        submit(job, pools.model, order.iter().map(|(pool, _)| pool)).map(drop)
    }

    /// What can be checked of a request while there is no engine of its model. `known` says whether a pool of a name exists.
    ///
    /// # Errors
    ///
    /// What the client is told.
    pub fn check_unprepared(&self, request: &TaskRequest, known: impl Fn(&str) -> bool) -> Result<(), ErrorEnvelope> {
        request.check().map_err(violation)?;
        request.placement.as_ref().map_or(Ok(()), |wish| placement::check(wish, known)).map_err(nowhere)?;
        if self.lifecycle.draining().is_cancelled() { Err(shutting_down()) } else { Ok(()) }
    }

    /// Takes what a request needs of limits and budgets that was [checked](Self::check_unprepared). Nobody can say yet how
    /// long its prompt is, so this is a guess, and of its budgets it never uses more than that.
    ///
    /// # Errors
    ///
    /// What the client is told.
    pub fn reserve_unprepared(
        &self,
        request: &TaskRequest,
        caller: &Caller,
        price: ModelPrice,
    ) -> Result<Reserved, ErrorEnvelope> {
        let (limits, mut ties) = self.reserve(request, caller, self.guess(request), price)?;
        let (charge, at_once) = self.limiter.admit(worst_case(&limits), task_ms)?;
        ties.held.push(Box::new(at_once));
        Ok(Reserved { limits, ties, charge })
    }

    /// As [`reserve_unprepared`](Self::reserve_unprepared), with nothing taken.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn foresee_unprepared(
        &self,
        request: &TaskRequest,
        caller: &Caller,
        price: ModelPrice,
    ) -> Result<(), ErrorEnvelope> {
        let limits = self.affordable(request, caller, self.guess(request), price)?;
        self.limiter.check(worst_case(&limits), task_ms)
    }

    fn guess(&self, request: &TaskRequest) -> Limits {
        Asked::new(request.clone(), self.default_max_tokens).guess()
    }

    /// Makes the task of a request, to be let in [again](Self::admit_again) once its model is ready.
    ///
    /// # Errors
    ///
    /// What the client is told.
    pub fn admit_unprepared(
        &self,
        request: &TaskRequest,
        reserved: Reserved,
        home: Home,
        caller: &Caller,
        life: Life,
    ) -> Result<(Arc<Task>, Charge, Option<Durable>), ErrorEnvelope> {
        let Reserved { limits, ties, charge } = reserved;
        let task = self.create(request, caller, limits, home, (ties, life.memo.clone()))?;
        let durable = self.file(&task, caller, life);
        self.watch_deadline(&task);
        Ok((task, charge.keep_guess(), durable))
    }
}

/// How long a task takes of a model that nobody has measured yet, in ms.
fn task_ms() -> u64 {
    1000
}
