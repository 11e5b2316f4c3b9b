//! Letting the tasks of one request in: all of them in one step, or none of them, and then nothing that was taken for any is
//! kept.

use std::sync::Arc;

use sluicegate_compat::native::{ErrorEnvelope, ModelPrice, PolicyLabel, Priority, TaskRequest};

use super::grant::{Grant, grant};
use super::limits::{AtOnce, Charge};
use super::recipe::Asked;
use super::refusal;
use super::translate::job;
use super::{
    Admission, Admitted, Caller, Checked, Choice, Life, Look, Pools, Scopes, allowed, field, nowhere, over_budget,
    reason, session_of, submit, worst_case,
};
use crate::budgets::{Exceeded, Holders, Left};
use crate::placement::NoPlace;
use crate::pools::{Coming, Fitted, Job, Pool};
use crate::sessions::Turn;
use crate::tasks::{Limits, Observer, Spending, Task, Ties};

/// Why the tasks of a request are not let in.
#[derive(Debug, Clone, PartialEq)]
pub struct Refusal {
    /// The task that is refused by itself; `None` where it is all of them together.
    pub of: Option<usize>,
    /// What the client gets, but for its correlation id.
    pub error: ErrorEnvelope,
}

impl From<ErrorEnvelope> for Refusal {
    /// Of all of them.
    fn from(error: ErrorEnvelope) -> Self {
        Self { of: None, error }
    }
}

impl Admission {
    /// Lets tasks into `pools`, which all serve their one model, all of them or none. They are of one priority and one session.
    ///
    /// # Errors
    ///
    /// Why none of them is let in.
    pub async fn admit_all(
        &self,
        requests: Vec<(TaskRequest, Life)>,
        pools: &Pools<'_>,
        caller: &Caller,
    ) -> Result<Vec<Admitted>, Refusal> {
        let result = self.try_admit_all(requests, pools, caller).await;
        if let Err(refusal) = &result {
            self.metrics.rejected(pools.serving.first().map(Arc::as_ref), reason(&refusal.error));
        }
        result
    }

    async fn try_admit_all(
        &self,
        requests: Vec<(TaskRequest, Life)>,
        pools: &Pools<'_>,
        caller: &Caller,
    ) -> Result<Vec<Admitted>, Refusal> {
        let mut all = Vec::with_capacity(requests.len());
        for (number, (request, life)) in requests.into_iter().enumerate() {
            let checked = self.check(request, pools, caller, Look::Needed).await;
            all.push((checked.map_err(|error| Refusal { of: Some(number), error })?, life));
        }
        Ok(self.let_in_all(all, pools, caller)?)
    }

    /// What follows when each of them has passed by itself: there is no waiting from here on.
    fn let_in_all(
        &self,
        all: Vec<(Checked, Life)>,
        pools: &Pools<'_>,
        caller: &Caller,
    ) -> Result<Vec<Admitted>, ErrorEnvelope> {
        let shared = common(&all);
        let Some(best) = shared.first() else { return Err(nowhere(NoPlace::Unavailable("no pool"))) };
        fit_the_queue(&all, &shared)?;
        let wanted: Vec<_> = all.iter().map(|(checked, _)| (checked.asked.as_ref(), checked.fitted.limits)).collect();
        let task_ms = |priority, limits: &Limits| {
            // How long it runs does not depend on where.
            let coming = Coming { priority, share: &caller.share, limits, devices: None };
            best.foresee(&coming).map_or(0, |place| place.duration_ms())
        };
        let scopes = caller.scopes(self.default_limits, Some((pools.model, pools.limits)));
        let taken = self.take_all(&wanted, caller, (pools.price, &scopes), task_ms)?;
        let mut fresh = Fresh { admission: self, tasks: Vec::with_capacity(all.len()) };
        let (mut jobs, mut charges, mut durables) = (Vec::new(), Vec::new(), Vec::new());
        for ((checked, life), Taken { limits, ties, charge }) in all.into_iter().zip(taken) {
            let Checked { asked, fitted, near, order, .. } = checked;
            let request = &asked.request;
            let affine = |key| best.replica_for((caller.share.tenant.as_str(), key));
            let near = near.or_else(|| request.affinity.as_deref().and_then(affine));
            let task = self.create(
                request,
                caller,
                (pools.model, pools.price),
                limits,
                best.home(),
                (ties, life.memo.clone()),
            )?;
            fresh.tasks.push(Arc::clone(&task));
            let (allowed, fitted) = (allowed(request, &order, pools.serving), Fitted { limits, ..fitted });
            jobs.push(Job { allowed, near, ..job(&asked, &task, caller, fitted) });
            // Filed before it is queued, so that the journal hears of its start and its end afterwards.
            durables.push(self.file(&task, caller, life));
            charges.push(charge);
        }
        let places = submit(jobs, pools.model, &shared)?;
        charges.into_iter().for_each(|charge| drop(charge.keep()));
        let tasks = fresh.keep();
        tasks.iter().for_each(|task| self.watch_deadline(task));
        let admitted = |((task, place), durable)| Admitted { task, place, durable };
        Ok(tasks.into_iter().zip(places).zip(durables).map(admitted).collect())
    }

    /// Takes what tasks need of budgets and limits, of all of them or of none.
    ///
    /// # Errors
    ///
    /// The budget or the limit that has too little for them.
    pub(super) fn take_all(
        &self,
        wanted: &[(&Asked, Limits)],
        caller: &Caller,
        (price, scopes): (ModelPrice, &Scopes),
        task_ms: impl FnOnce(Priority, &Limits) -> u64,
    ) -> Result<Vec<Taken>, ErrorEnvelope> {
        let reserved = self.reserve(wanted, caller, price)?;
        let tokens: Vec<_> = reserved.iter().map(|(limits, _)| worst_case(limits)).collect();
        let first = wanted.first().zip(reserved.first());
        let first_ms =
            || first.map_or(0, |((asked, _), (limits, _))| task_ms(asked.request.priority.unwrap_or_default(), limits));
        let charges = self.limiter.admit(scopes, &tokens, first_ms);
        let charges = charges.map_err(|no_room| no_room.refusal(|label, bound| field(wanted, label, bound)))?;
        let take = |((limits, mut ties), (charge, at_once)): ((Limits, Ties), (Charge, AtOnce))| {
            ties.held.push(Box::new(at_once));
            Taken { limits, ties, charge }
        };
        Ok(reserved.into_iter().zip(charges).map(take).collect())
    }

    /// Enters the session of tasks, once for each, where they have one, and reserves what they may use of its budgets and of those
    /// of their tenant and key; what one may use is less where they leave less and the client has not said how much it wants.
    fn reserve(
        &self,
        wanted: &[(&Asked, Limits)],
        caller: &Caller,
        price: ModelPrice,
    ) -> Result<Vec<(Limits, Ties)>, ErrorEnvelope> {
        let key = wanted.first().and_then(|(asked, _)| session_of(&asked.request, caller));
        let enter = |_| key.clone().map(|key| self.sessions.enter(key));
        let turns: Vec<_> = wanted.iter().map(enter).collect();
        let owners = caller.owners();
        let holders = |turn: &Option<Turn>| {
            let accounts = turn.as_ref().map(Turn::account).into_iter().collect();
            Holders { accounts, owners: owners.clone() }
        };
        let plans = wanted.iter().zip(&turns).map(|((asked, limits), turn)| {
            let plan = move |left: &Left| {
                let granted = grant(limits, asked.request.max_tokens.is_some(), left, price)?;
                Ok((granted.amounts, granted))
            };
            (holders(turn), plan)
        });
        let reserved = self.budgets.reserve_each(plans).map_err(|Exceeded(unit)| {
            let holders = turns.first().map(holders).unwrap_or_default();
            let left = self.budgets.left(holders);
            let binding = self.budgets.binding(&owners, unit, &left, Some(refusal::wanted(unit, wanted, &price)));
            over_budget(unit, wanted, (&left, binding))
        })?;
        let mut all = Vec::with_capacity(wanted.len());
        for (((_, limits), turn), (reservation, grant)) in wanted.iter().zip(turns).zip(reserved) {
            let Grant { max_tokens, terms, .. } = grant;
            let session = turn.as_ref().map(Turn::session);
            let spending = Some(Spending::new(&self.budgets, reservation, terms, session));
            let held = turn.into_iter().map(|turn| Box::new(turn) as Box<dyn Observer>).collect();
            all.push((Limits { max_tokens, ..*limits }, Ties { held, spending }));
        }
        Ok(all)
    }
}

/// What a task has taken of limits and budgets. Given back on drop, unless it is let in.
pub(super) struct Taken {
    /// With what its budgets leave.
    pub limits: Limits,
    pub ties: Ties,
    pub charge: Charge,
}

/// Tasks that are made, and withdrawn on drop where they are not let in.
pub(super) struct Fresh<'a> {
    pub admission: &'a Admission,
    pub tasks: Vec<Arc<Task>>,
}

impl Fresh<'_> {
    /// They are let in.
    pub fn keep(mut self) -> Vec<Arc<Task>> {
        std::mem::take(&mut self.tasks)
    }
}

impl Drop for Fresh<'_> {
    fn drop(&mut self) {
        self.tasks.iter().for_each(|task| self.admission.withdraw(task));
    }
}

/// The pools that may run every one of them, in the order of the first.
fn common(all: &[(Checked, Life)]) -> Vec<Arc<Pool>> {
    let has = |order: &[Choice], pool: &Arc<Pool>| order.iter().any(|(other, _)| other.id() == pool.id());
    let first = all.first().map_or(&[][..], |(checked, _)| &checked.order);
    let in_all = |pool: &&Arc<Pool>| all.iter().all(|(checked, _)| has(&checked.order, pool));
    first.iter().map(|(pool, _)| pool).filter(in_all).map(Arc::clone).collect()
}

/// Refuses tasks that the queues of their pools never have room for together.
fn fit_the_queue(all: &[(Checked, Life)], pools: &[Arc<Pool>]) -> Result<(), ErrorEnvelope> {
    let capacity = pools.iter().fold(0, |sum: usize, pool| sum.saturating_add(pool.spec().queue_capacity));
    let Some((checked, _)) = all.first().filter(|_| all.len() > capacity) else { return Ok(()) };
    Err(never_queued(checked.asked.field(), all.len(), capacity))
}

/// What a client is told whose tasks never find room to wait together.
pub fn never_queued(field: &str, tasks: usize, capacity: usize) -> ErrorEnvelope {
    let message = format!("`{field}`: it asks for {tasks} tasks, which wait together, and the queue takes {capacity}");
    let refusal = ErrorEnvelope::rejected(PolicyLabel::QueueReject, message);
    ErrorEnvelope { retriable: false, param: Some(field.to_owned()), ..refusal }
}
