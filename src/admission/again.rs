//! Letting a task in a second time, whose queue was not to be had the first time: an earlier process had accepted it, or its
//! model had to be made ready. What it may use was decided then.

use std::num::NonZeroU32;
use std::sync::Arc;

use sluicegate_compat::native::{ErrorCode, ErrorEnvelope, TaskRequest};

use super::recipe::Asked;
use super::together::{Fresh, Taken};
use super::translate::{device_mask, job};
use super::{
    Admission, Caller, Charge, Life, Look, Pools, Scopes, allowed, by_start, field, nowhere, shutting_down, submit,
    violation, worst_case,
};
use crate::catalog::Entry;
use crate::ids::ModelId;
use crate::placement;
use crate::pools::{Coming, Job, Share};
use crate::tasks::{Durable, Home, Task};
use crate::tenants::Rights;

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

/// What requests take of limits and budgets whose model is not there yet. Given back on drop, unless tasks are made of them.
pub struct Reserved(Vec<Taken>);

/// A task that is let in and whose model is not there yet.
pub struct Unprepared {
    pub task: Arc<Task>,
    pub request: TaskRequest,
    /// What it was charged for a guess of its tokens.
    pub guess: Charge,
    pub durable: Option<Durable>,
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
        let caller = Caller {
            correlation_id: task.spec.correlation_id.clone(),
            share,
            key: task.spec.key_id.clone(),
            // It was let in with what it asked for.
            rights: Rights::default(),
            is_admin: false,
        };
        let (asked, fitted, tiers) = self.fit(request, pools).await?;
        task.refit(fitted.limits.prompt_tokens, fitted.limits.max_tokens).map_err(|label| {
            ErrorEnvelope::rejected(label, "the budget does not cover the task with the model that is served now")
        })?;
        if let Some(guess) = guess {
            guess.correct(worst_case(&task.limits()));
        }
        // No engine that is there now has kept anything for it.
        let (limits, devices) = (task.limits(), device_mask(&asked.request));
        let coming = Coming { priority: task.spec.priority, share: &caller.share, limits: &limits, devices };
        let order = by_start(tiers, &coming, None, Look::Needed);
        let job = Job { allowed: allowed(&asked.request, &order, pools.serving), ..job(&asked, task, &caller, fitted) };
        let order: Vec<_> = order.into_iter().map(|(pool, _)| pool).collect();
        submit(vec![job], pools.model, &order).map(drop)
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

    /// Takes what requests need of limits and budgets that were [checked](Self::check_unprepared), of all of them or of none.
    /// Nobody can say yet how long their prompts are, so this is a guess, and of its budgets none ever uses more than that.
    ///
    /// # Errors
    ///
    /// What the client is told.
    pub fn reserve_unprepared(
        &self,
        requests: &[(TaskRequest, Life)],
        caller: &Caller,
        model: &Entry,
    ) -> Result<Reserved, ErrorEnvelope> {
        let asked: Vec<_> = requests.iter().map(|(request, _)| self.asked(request)).collect();
        let wanted: Vec<_> = asked.iter().map(|asked| (asked, asked.guess())).collect();
        let scopes = self.scopes_of(caller, model);
        self.take_all(&wanted, caller, (model.price, &scopes), |_, _| task_ms()).map(Reserved)
    }

    /// As [`reserve_unprepared`](Self::reserve_unprepared) for one, with nothing taken.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn foresee_unprepared(
        &self,
        request: &TaskRequest,
        caller: &Caller,
        model: &Entry,
    ) -> Result<(), ErrorEnvelope> {
        let asked = self.asked(request);
        let limits = self.affordable(&asked, caller, asked.guess(), model.price, false)?;
        let room = self.limiter.check(&self.scopes_of(caller, model), worst_case(&limits), task_ms);
        room.map_err(|no_room| no_room.refusal(|label, bound| field(&[(&asked, limits)], label, bound)))
    }

    fn scopes_of(&self, caller: &Caller, model: &Entry) -> Scopes {
        caller.scopes(self.default_limits, Some((&ModelId::from(model.id.as_str()), model.limits)))
    }

    fn asked(&self, request: &TaskRequest) -> Asked {
        Asked::new(request.clone(), self.default_max_tokens)
    }

    /// Makes the tasks of requests, to be let in [again](Self::admit_again) once their model is ready: all of them or none.
    ///
    /// # Errors
    ///
    /// What the client is told.
    pub fn admit_unprepared(
        &self,
        requests: Vec<(TaskRequest, Life, Home)>,
        Reserved(taken): Reserved,
        caller: &Caller,
        model: &Entry,
    ) -> Result<Vec<Unprepared>, ErrorEnvelope> {
        let mut fresh = Fresh { admission: self, tasks: Vec::with_capacity(requests.len()) };
        let mut let_in = Vec::with_capacity(requests.len());
        let model_id = ModelId::from(model.id.as_str());
        for ((request, life, home), Taken { limits, ties, charge }) in requests.into_iter().zip(taken) {
            let task =
                self.create(&request, caller, (&model_id, model.price), limits, home, (ties, life.memo.clone()))?;
            fresh.tasks.push(Arc::clone(&task));
            let durable = self.file(&task, caller, life);
            let_in.push((task, request, charge, durable));
        }
        fresh.keep().iter().for_each(|task| self.watch_deadline(task));
        let kept = |(task, request, charge, durable): (_, _, Charge, _)| Unprepared {
            task,
            request,
            guess: charge.keep(),
            durable,
        };
        Ok(let_in.into_iter().map(kept).collect())
    }
}

/// How long a task takes of a model that nobody has measured yet, in ms.
fn task_ms() -> u64 {
    1000
}
