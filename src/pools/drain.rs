//! Taking a pool out of service and back.
//!
//! A pool that drains takes no new tasks. What waits may be handed on to another pool; what is left is served as before
//! until the deadline, and then cancelled.

use std::sync::Arc;
use std::time::Duration;

use sluicegate_compat::native::{ErrorCode, ErrorEnvelope};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::state::State;
use super::{Job, Pool};
use crate::lifecycle::OnPanic;

impl Pool {
    /// Stops admitting. A drain that is under way gets the new deadline.
    pub fn drain(self: &Arc<Self>, deadline: Duration) {
        let over = CancellationToken::new();
        if let Some(earlier) = self.lock().draining.replace(over.clone()) {
            earlier.cancel();
        }
        tracing::info!(pool = %self.spec.id, deadline_ms = deadline.as_millis(), "draining");
        let pool = Arc::clone(self);
        self.lifecycle.spawn("drain", OnPanic::Continue, async move {
            let waited = async {
                tokio::select! {
                    () = sleep(deadline) => {}
                    () = pool.lifecycle.forced().cancelled() => {}
                }
            };
            if over.run_until_cancelled(waited).await.is_some() {
                pool.cancel_all();
            }
        });
    }

    /// Takes tasks again. Does nothing where the pool does not drain.
    pub fn resume(&self) {
        if let Some(over) = self.lock().draining.take() {
            over.cancel();
            tracing::info!(pool = %self.spec.id, "taking tasks again");
        }
    }

    /// Hands what waits on to `others`, each task to the first that has a place for it. What nobody takes goes on waiting.
    pub fn hand_on(self: &Arc<Self>, others: &[Arc<Pool>]) {
        for other in others {
            while other.lock().has_place() {
                let Some(job) = self.lock().leave_first() else { return };
                self.metrics.queue_changed(self);
                if let Err(job) = other.adopt(job, State::has_place) {
                    // Somebody else was faster; nothing new comes here, so its place is still free.
                    let _ = self.adopt(*job, |_| true);
                    break;
                }
            }
        }
    }

    /// Queues a task that another pool has taken in, if `there_is_room`.
    ///
    /// # Errors
    ///
    /// The task, where there is no place for it.
    fn adopt(self: &Arc<Self>, job: Job, there_is_room: impl FnOnce(&State) -> bool) -> Result<(), Box<Job>> {
        let task = Arc::clone(&job.task);
        let submitted = {
            let mut state = self.lock();
            if !there_is_room(&state) {
                return Err(Box::new(job));
            }
            task.move_to(self.home());
            state.enqueue(job, Instant::now())
        };
        match submitted {
            Ok(submitted) => self.queued(&task, submitted),
            Err(rejected) => task.fail(ErrorEnvelope::new(ErrorCode::PoolUnready, rejected.reason.to_string())),
        }
        Ok(())
    }

    fn cancel_all(&self) {
        let left = self.lock().tasks();
        tracing::info!(pool = %self.spec.id, tasks = left.len(), "the deadline of the drain has come");
        for task in left {
            task.cancel();
        }
    }
}
