//! What an earlier process left: tasks that were accepted, and the keys they were sent with.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use sluicegate_compat::native::{ErrorCode, ErrorEnvelope, TaskRequest};

use super::Gateway;
use crate::admission::interrupted;
use crate::ids::PoolId;
use crate::store::KeyRow;
use crate::tasks::{Ended, Home, Kept, Observer, Registry, Stage, Task};

/// A task that has to be queued again.
pub struct Waiting {
    task: Arc<Task>,
    request: TaskRequest,
    weight: u32,
}

/// Hears of the end of a task that is in no pool.
struct Nobody;

impl Observer for Nobody {
    fn ended(&self, _task: &Task, _how: &Ended) {}
}

/// Takes in the tasks of an earlier process, in the order in which they were accepted. Those that ran end now, because
/// their engine is gone; those that waited are returned.
pub fn take_in(registry: &Arc<Registry>, mut kept: Vec<Kept>) -> Vec<Waiting> {
    let mut waiting = Vec::new();
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
        let Some(task) = registry.take_in(task, home) else { continue };
        if ran {
            task.fail(interrupted());
        }
        waiting.extend(request.map(|request| Waiting { task, request, weight }));
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

    /// Queues tasks of an earlier process, in this order, and then lets new ones in. One that no pool takes any more ends
    /// with the reason.
    pub async fn queue_again(&self, waiting: Vec<Waiting>) {
        let known = |id: &str| self.pools.iter().any(|pool| pool.id().as_str() == id);
        for Waiting { task, request, weight } in waiting {
            if task.log.is_sealed() {
                continue;
            }
            let queued = match self.serving(&request.model_ref) {
                Ok(serving) => {
                    let pools = serving.pools(&known);
                    self.admission.admit_again(&task, request, weight, &pools).await
                }
                Err(error) => Err(error),
            };
            // While the gateway ends it stays in the journal.
            if let Err(error) = queued
                && !self.lifecycle.draining().is_cancelled()
            {
                task.fail(error);
            }
        }
        self.open.store(true, Ordering::Release);
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
