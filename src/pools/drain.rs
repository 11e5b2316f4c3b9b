//! Taking a pool out of service and back.
//!
//! A pool that drains takes no new tasks. What waits may be handed on to another pool; what is left fails at once where the
//! operator wants that, or is served as before until the deadline, and then cancelled. A reload that was under way when it began goes on until then, too.

use std::sync::Arc;
use std::time::Duration;

use sluicegate_compat::native::{CanceledBy, ErrorCode, ErrorEnvelope};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::Pool;
use super::state::{Draining, Refused};
use crate::lifecycle::OnPanic;

impl Pool {
    /// Stops admitting. A drain that is under way gets the new deadline.
    pub fn drain(self: &Arc<Self>, deadline: Duration) {
        let over = CancellationToken::new();
        let draining = Draining { over: over.clone(), deadline: Instant::now().checked_add(deadline) };
        let mut state = self.lock();
        if let Some(earlier) = state.draining.replace(draining) {
            earlier.over.cancel();
        }
        let reload = state.reload_under_way();
        drop(state);
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
                pool.cancel_all(&over, reload.as_ref());
            }
        });
    }

    /// Takes tasks again. Does nothing where the pool does not drain.
    pub fn resume(&self) {
        let mut state = self.lock();
        let Some(draining) = state.draining.take() else { return };
        draining.over.cancel();
        drop(state);
        tracing::info!(pool = %self.spec.id, "taking tasks again");
    }

    /// Hands what waits on to `others`, each task to the first that may run it and has a place for it. What nobody takes
    /// goes on waiting.
    pub fn hand_on(self: &Arc<Self>, others: &[Arc<Pool>]) {
        for other in others {
            while self.hand_one_on(other) {}
        }
        self.metrics.queue_changed(self);
    }

    /// Fails what waits, so that its clients look for another place at once. Does nothing where the drain was undone.
    pub fn turn_away(self: &Arc<Self>) {
        let (retry_after_ms, jobs) = {
            let mut state = self.lock();
            let Err(Refused::Draining { retry_after_ms }) = state.open() else { return };
            (retry_after_ms, state.leave_all())
        };
        self.metrics.queue_changed(self);
        for job in jobs {
            let error = ErrorEnvelope::new(ErrorCode::PoolUnready, "the pool drains, and no other one took the task");
            job.task.fail(error.with_pool(self.spec.id.as_str()).with_retry_after_ms(retry_after_ms));
        }
    }

    /// Moves one task, under both locks: it is never in no queue.
    fn hand_one_on(self: &Arc<Self>, other: &Arc<Pool>) -> bool {
        // In the same order whoever hands on to whom.
        let (mut mine, mut theirs) = if self.spec.id < other.spec.id {
            let mine = self.lock();
            (mine, other.lock())
        } else {
            let theirs = other.lock();
            (self.lock(), theirs)
        };
        let job = if theirs.has_place() { mine.leave_first_for(&other.spec.id) } else { None };
        let Some(job) = job else { return false };
        let task = Arc::clone(&job.task);
        task.move_to(other.home());
        let moved = theirs.enqueue(job, Instant::now());
        drop((mine, theirs));
        match moved {
            Ok(submitted) => _ = other.queued(&task, submitted),
            // There was a place under the same lock; should that ever be untrue, the client is told.
            Err(_) => task.fail(ErrorEnvelope::new(ErrorCode::PoolUnready, "the queue is full")),
        }
        true
    }

    /// The end of the drain that is over with `over`, unless somebody has just ended it in another way.
    fn cancel_all(&self, over: &CancellationToken, reload: Option<&CancellationToken>) {
        let left = {
            let state = self.lock();
            // Whoever ends or replaces a drain says so under this lock, so no task that came after it is cancelled here.
            if over.is_cancelled() {
                return;
            }
            state.tasks()
        };
        if let Some(reload) = reload {
            reload.cancel();
        }
        tracing::info!(pool = %self.spec.id, tasks = left.len(), "the deadline of the drain has come");
        for task in left {
            task.cancel_for(CanceledBy::Drain);
        }
    }
}
