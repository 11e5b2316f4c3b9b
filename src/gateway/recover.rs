//! What an earlier process left: tasks that were accepted, and the keys they were sent with.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use sluicegate_compat::native::{ErrorCode, ErrorEnvelope, TaskRequest};

use super::{Gateway, KeptPool};
use crate::admission::{Charge, interrupted};
use crate::ids::PoolId;
use crate::lifecycle::{OnPanic, contained};
use crate::pools::Pool;
use crate::sessions::{Holds, Sessions};
use crate::store::KeyRow;
use crate::tasks::{Ended, Home, Kept, Observer, Registry, Stage, Task};

/// A task that was accepted and has to be queued yet.
pub struct Waiting {
    pub(super) task: Arc<Task>,
    pub(super) request: TaskRequest,
    pub(super) weight: u32,
    /// What it was counted for when this process let it in.
    pub(super) guess: Option<Charge>,
}

/// A task whose model no pool serves, with what it is told in the end.
pub(super) type Aside = (Waiting, ErrorEnvelope);

/// How long a task waits for a pool that serves its model, from the start of the process.
const ASIDE_FOR: Duration = Duration::from_secs(60 * 60);

/// Hears of the end of a task that is in no pool.
struct Nobody;

impl Observer for Nobody {
    fn ended(&self, _task: &Task, _how: &Ended) {}
}

/// Takes in the tasks of an earlier process, in the order in which they were accepted, with what they hold of their
/// sessions. Those that ran end now, because their engine is gone; those that waited are returned.
pub fn take_in(registry: &Arc<Registry>, sessions: &Arc<Sessions>, mut kept: Vec<Kept>, holds: Holds) -> Vec<Waiting> {
    let mut waiting = Vec::new();
    let mut ties = registry.journal().map(|journal| sessions.resume(holds, &kept, journal)).unwrap_or_default();
    // The ones that ended go by the time of their end, because their retention does.
    kept.sort_by_key(|task| match &task.stage {
        Stage::Ended { ago, .. } => std::cmp::Reverse(Some(*ago)),
        _ => std::cmp::Reverse(None),
    });
    for mut task in kept {
        let (home, weight) = (nowhere(&task.pool_id), task.weight);
        let request = match &mut task.stage {
            Stage::Waiting(request) => Some(std::mem::replace(request.as_mut(), TaskRequest::new(""))),
            _ => None,
        };
        let ran = matches!(task.stage, Stage::Started(_));
        let ties = ties.remove(&task.spec.id).unwrap_or_default();
        let Some(task) = registry.take_in(task, home, ties) else { continue };
        if ran {
            task.fail(interrupted());
        }
        waiting.extend(request.map(|request| Waiting { task, request, weight, guess: None }));
    }
    waiting
}

fn nowhere(pool_id: &PoolId) -> Home {
    Home { pool_id: pool_id.clone(), observer: Arc::new(Nobody) }
}

impl Gateway {
    /// Remembers the keys of an earlier process, the oldest first.
    pub fn remember(&self, keys: &[KeyRow]) {
        for key in keys {
            self.idempotency.remember(key);
        }
    }

    /// Queues tasks of an earlier process, in this order, and then lets new ones in. Those whose model no pool serves are put
    /// aside until one does, for an hour at most; those that no pool takes for another reason end with it. Pools that were
    /// draining go on: where the deadline has not come, what they had is theirs until then, as far as no other pool takes it.
    pub async fn queue_again(self: &Arc<Self>, waiting: Vec<Waiting>, kept: &HashMap<PoolId, KeptPool>) {
        let left = |pool: &Arc<Pool>| kept.get(pool.id()).and_then(|kept| kept.draining);
        let drains = self.pools.iter().filter_map(|pool| Some((pool, left(pool)?)));
        let (over, going): (Vec<_>, Vec<_>) = drains.partition(|(_, left)| left.is_zero());
        for (pool, left) in over {
            pool.drain(left);
        }
        for Waiting { task, .. } in waiting.iter().filter(|waiting| !waiting.task.log.is_sealed()) {
            self.admission.watch_deadline(task);
        }
        self.queue_all(waiting).await;
        for (pool, left) in going {
            pool.drain(left);
            self.hand_on(pool);
        }
        self.open.store(true, Ordering::Release);
        let gateway = Arc::clone(self);
        self.lifecycle.spawn("tasks put aside", OnPanic::Continue, async move {
            let patience = tokio::time::sleep(ASIDE_FOR);
            if gateway.lifecycle.draining().clone().run_until_cancelled(patience).await.is_some() {
                let left = gateway.aside().take();
                for (waiting, error) in left.unwrap_or_default() {
                    gateway.refuse(&waiting.task, error);
                }
            }
        });
    }

    /// Queues what was put aside and is served by now.
    pub(super) async fn queue_what_was_aside(self: &Arc<Self>) {
        let aside = self.aside().as_mut().map(std::mem::take);
        self.queue_all(aside.unwrap_or_default().into_iter().map(|(waiting, _)| waiting)).await;
    }

    /// Queues tasks that were accepted, in this order, but for those that have ended. Where the prompt of one makes the code
    /// of its model panic, that task ends, and the others are queued.
    pub(super) async fn queue_all(self: &Arc<Self>, waiting: impl IntoIterator<Item = Waiting>) {
        for waiting in waiting {
            let task = Arc::clone(&waiting.task);
            if task.log.is_sealed() {
                continue;
            }
            if contained("queue a task", self.queue_one(waiting)).await.is_err() {
                let message = "the gateway failed while it prepared the task";
                self.refuse(&task, ErrorEnvelope::new(ErrorCode::Internal, message));
            }
        }
    }

    /// Keeps a task of an earlier process whose model no pool serves, for a reload that brings it.
    fn put_aside(&self, waiting: Waiting, error: ErrorEnvelope) -> Result<(), ErrorEnvelope> {
        let lost = matches!(error.code, ErrorCode::PoolUnavailable | ErrorCode::NotFound);
        match self.aside().as_mut().filter(|_| lost && waiting.task.is_kept()) {
            None => Err(error),
            Some(aside) => {
                let why = error.message.as_str();
                tracing::warn!(task_id = %waiting.task.spec.id, why, "a task waits for a reload that brings its model");
                aside.push((waiting, error));
                Ok(())
            }
        }
    }

    fn aside(&self) -> MutexGuard<'_, Option<Vec<Aside>>> {
        self.aside.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a task that was accepted into the queue of a pool, or lets it wait until one has its model.
    async fn queue_one(self: &Arc<Self>, waiting: Waiting) {
        let known = |id: &str| self.has_pool(id);
        let task = Arc::clone(&waiting.task);
        let queued = match self.serving(&waiting.request.model_ref) {
            Ok(serving) => {
                let Waiting { request, weight, guess, .. } = waiting;
                task.prepares(false);
                self.admission.admit_again(&task, request, weight, guess, &serving.pools(&known)).await
            }
            Err(error) => match self.provisionable(&waiting.request.model_ref, error).await {
                Ok(entry) => self.wait_again(entry, waiting).await,
                Err(error) => self.put_aside(waiting, error),
            },
        };
        if let Err(error) = queued {
            self.refuse(&task, error);
        }
    }

    /// Ends a task that was accepted. One that outlives the process stays in the journal while the gateway ends.
    pub(super) fn refuse(&self, task: &Task, error: ErrorEnvelope) {
        if !(task.is_kept() && self.lifecycle.draining().is_cancelled()) {
            task.fail(error);
        }
    }

    /// # Errors
    ///
    /// POOL_UNREADY while what an earlier process left is not queued.
    pub(super) fn check_open(&self) -> Result<(), ErrorEnvelope> {
        let starting =
            || ErrorEnvelope::new(ErrorCode::PoolUnready, "the gateway is starting").with_retry_after_ms(1000);
        self.is_open().then_some(()).ok_or_else(starting)
    }
}
