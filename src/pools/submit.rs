//! Into the queue: tasks that come together are queued in one step, or none of them is.

use std::sync::{Arc, MutexGuard};

use sluicegate_compat::native::{ErrorCode, ErrorEnvelope, PolicyLabel};
use tokio::time::Instant;

use super::state::{State, Submitted};
use super::{Coming, Eviction, Job, Place, Pool, Refused, tell};
use crate::ids::ModelId;
use crate::tasks::Task;

/// Queues tasks of one priority for `model`, all of them in one step or none, each in the one of `pools` where it starts
/// soonest. The first task goes to the first pool that has room, since that was looked at. They start as soon as slots are free.
///
/// # Errors
///
/// [`Refused`] by the first of the pools: there is no room for all of them, or it cannot run anything now, or has another model
/// meanwhile.
pub fn submit_all(jobs: Vec<Job>, model: &ModelId, pools: &[Arc<Pool>]) -> Result<Vec<Place>, Refused> {
    let mut states = lock_all(pools);
    let mut rooms = match rooms(&states, &jobs, model) {
        Ok(rooms) => rooms,
        Err((reason, full)) => {
            drop(states);
            full.into_iter().for_each(|at| pools[at].metrics.full(&pools[at]));
            return Err(reason);
        }
    };
    let now = Instant::now();
    let mut queued = Vec::with_capacity(jobs.len());
    for (number, job) in jobs.into_iter().enumerate() {
        let at = choose(&states, &rooms, &job, number == 0);
        rooms[at] -= 1;
        let task = Arc::clone(&job.task);
        task.move_to(pools[at].home());
        queued.push((at, task, states[at].enqueue(job, now)));
    }
    drop(states);
    // Each is told its place before the first of them starts, which may be any.
    let mut places = Vec::with_capacity(queued.len());
    let mut entered = Vec::with_capacity(queued.len());
    for (at, task, submitted) in queued {
        match submitted {
            Ok(submitted) => {
                places.push(pools[at].entered(&task, submitted));
                entered.push((at, task));
            }
            // There was room under the same lock; should that ever be untrue, the client is told.
            Err(_) => {
                task.fail(ErrorEnvelope::new(ErrorCode::PoolUnready, "the queue is full"));
                places.push(Place::default());
            }
        }
    }
    entered.iter().for_each(|(at, task)| pools[*at].may_start(task));
    Ok(places)
}

/// The states of `pools`, locked in the order that every other place locks them in.
fn lock_all(pools: &[Arc<Pool>]) -> Vec<MutexGuard<'_, State>> {
    let mut by_id: Vec<_> = pools.iter().enumerate().collect();
    by_id.sort_by_key(|(_, pool)| pool.id());
    let mut states: Vec<_> = by_id.into_iter().map(|(at, pool)| (at, pool.lock())).collect();
    states.sort_by_key(|(at, _)| *at);
    states.into_iter().map(|(_, state)| state).collect()
}

/// How many of the tasks each pool has room for, where together they have room for all; else why not, and whose queues are
/// full.
fn rooms(states: &[MutexGuard<'_, State>], jobs: &[Job], model: &ModelId) -> Result<Vec<usize>, (Refused, Vec<usize>)> {
    let (Some(job), Some(best)) = (jobs.first(), states.first()) else { return Err((Refused::NotReady, Vec::new())) };
    let priority = job.task.spec.priority;
    let room = |state: &MutexGuard<'_, State>| state.takes(model).map(|()| state.room_for(priority));
    let rooms: Vec<_> = states.iter().map(room).collect();
    let room = rooms.iter().flatten().fold(0, |sum: usize, room| sum.saturating_add(*room));
    let missing = jobs.len().saturating_sub(room);
    if missing == 0 {
        return Ok(rooms.into_iter().map(|room| room.unwrap_or(0)).collect());
    }
    let reason = best.takes(model).err().unwrap_or_else(|| best.full(priority, missing));
    let full = rooms.iter().enumerate().filter(|(_, room)| room.is_ok()).map(|(at, _)| at);
    Err((reason, full.collect()))
}

/// Of the pools with room the one where a task starts soonest; of the `first` task that was found out before.
fn choose(states: &[MutexGuard<'_, State>], rooms: &[usize], job: &Job, first: bool) -> usize {
    let with_room = (0..rooms.len()).filter(|at| rooms[*at] > 0);
    let start_ms = |at: &usize| {
        let (priority, share, limits) = (job.task.spec.priority, &job.share, &job.task.limits());
        let foreseen = states[*at].foresee(&Coming { priority, share, limits, devices: job.devices.as_deref() });
        foreseen.map_or(u64::MAX, |place| place.prediction.start_ms)
    };
    let chosen = if first || rooms.len() == 1 { with_room.min() } else { with_room.min_by_key(start_ms) };
    chosen.unwrap_or(0)
}

impl Pool {
    /// What follows once a task is in the queue.
    pub(super) fn queued(self: &Arc<Self>, task: &Arc<Task>, submitted: Submitted) -> Place {
        let place = self.entered(task, submitted);
        self.may_start(task);
        place
    }

    /// Says so to whoever it concerns.
    fn entered(&self, task: &Arc<Task>, Submitted { place, evicted }: Submitted) -> Place {
        if let Some((evicted, eviction)) = evicted {
            self.metrics.full(self);
            self.metrics.dropped(self, eviction);
            evicted.fail(self.evicted(eviction));
        }
        self.metrics.enqueued(self, task);
        if place.waits {
            tell(task, &place);
        }
        place
    }

    /// Has it start where a slot is free.
    fn may_start(self: &Arc<Self>, task: &Arc<Task>) {
        // Here and not by the dispatcher, so that a free slot is taken before the next submission looks at the queue.
        self.start_ready();
        // A task that was cancelled between its creation and now has told its observer too early.
        if task.log.is_sealed() {
            self.forget(task);
        }
    }

    /// What a task is told that had to leave the queue.
    fn evicted(&self, eviction: Eviction) -> ErrorEnvelope {
        let error = match eviction {
            Eviction::DropLru => {
                ErrorEnvelope::new(ErrorCode::QueueFullDropLru, "dropped from a full queue for a newer task")
            }
            Eviction::ShedBatch => ErrorEnvelope::rejected(
                PolicyLabel::QueueShedBatch,
                "dropped from a full queue: interactive tasks go before batch tasks",
            ),
        };
        error.with_pool(self.spec.id.as_str()).with_retry_after_ms(self.lock().drained_ms())
    }
}
