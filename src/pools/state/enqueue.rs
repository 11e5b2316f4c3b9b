//! Who gets into the queue of a pool, and who has to leave it for that.

use std::sync::Arc;

use sluicegate_compat::native::Priority;
use tokio::time::Instant;

use super::{Eviction, Policy, Refused, State, Submitted, Waiting};
use crate::ids::ModelId;
use crate::pools::Job;
use crate::pools::queue::{Full, Ticket};
use crate::tasks::Task;

impl State {
    /// Whether the pool takes tasks for `model`, which it had when their prompts were counted.
    pub fn takes(&self, model: &ModelId) -> Result<(), Refused> {
        self.open()?;
        if self.model == *model { Ok(()) } else { Err(Refused::Exchanged) }
    }

    /// How many tasks of `priority` the queue takes now, those included that others have to leave for.
    pub fn room_for(&self, priority: Priority) -> usize {
        let waits = |priority| usize::try_from(self.queue.depth(priority)).unwrap_or(usize::MAX);
        let may_go = match (self.policy, priority) {
            (Policy::Reject, _) | (Policy::ShedBatch, Priority::Batch) => 0,
            (Policy::DropLru, Priority::Batch) | (Policy::ShedBatch, Priority::Interactive) => waits(Priority::Batch),
            (Policy::DropLru, Priority::Interactive) => self.queue.len(),
        };
        self.capacity.saturating_sub(self.queue.len()).saturating_add(may_go)
    }

    /// Why no task of `priority` is taken for which there is no [room](Self::room_for), where so many places are missing.
    pub fn full(&self, priority: Priority, missing: usize) -> Refused {
        let retry_after_ms = self.free_ms(missing);
        match (self.policy, priority) {
            (Policy::ShedBatch, Priority::Batch) => Refused::BatchShed { retry_after_ms },
            _ => Refused::QueueFull { retry_after_ms },
        }
    }

    /// Queues a task whether or not the pool takes new ones.
    ///
    /// # Errors
    ///
    /// The task, where there is no [room](Self::room_for) for it.
    pub fn enqueue(&mut self, job: Job, now: Instant) -> Result<Submitted, Box<Job>> {
        let priority = job.task.spec.priority;
        let evicted = match self.make_room(priority) {
            Ok(evicted) => evicted,
            Err(NoRoom) => return Err(Box::new(job)),
        };
        let work = self.work(&job.task.limits());
        let (id, share) = (job.task.spec.id, job.share.clone());
        let waiting = Waiting { job, work, told: u64::MAX, tellings: 0, tell_from: now };
        let ticket = match self.queue.push(priority, &share, work, waiting) {
            Ok(ticket) => ticket,
            Err(Full(Waiting { job, .. })) => return Err(Box::new(job)),
        };
        self.tickets.insert(id, ticket);
        let place = self.place_at(ticket);
        if let Some(waiting) = self.queue.get_mut(ticket) {
            waiting.told = place.position;
            waiting.job.admitted = Some((now, place));
        }
        Ok(Submitted { place, evicted })
    }

    /// Takes a task out of the queue for one of `priority` where the queue is full and the policy has one that may go.
    fn make_room(&mut self, priority: Priority) -> Result<Option<(Arc<Task>, Eviction)>, NoRoom> {
        if self.queue.len() < self.capacity {
            return Ok(None);
        }
        let (ticket, eviction) = self.who_goes_for(priority).ok_or(NoRoom)?;
        let waiting = self.queue.remove(ticket).ok_or(NoRoom)?;
        self.tickets.remove(&waiting.job.task.spec.id);
        Ok(Some((waiting.job.task, eviction)))
    }

    /// The task that leaves a full queue for one of `priority`, by the policy.
    fn who_goes_for(&self, priority: Priority) -> Option<(Ticket, Eviction)> {
        let batch_waits = self.queue.depth(Priority::Batch) > 0;
        let (ticket, eviction) = match (self.policy, priority) {
            (Policy::DropLru, _) if batch_waits => (self.queue.oldest(Priority::Batch), Eviction::DropLru),
            (Policy::DropLru, Priority::Interactive) => (self.queue.oldest(priority), Eviction::DropLru),
            (Policy::ShedBatch, Priority::Interactive) if batch_waits => {
                (self.queue.newest(Priority::Batch), Eviction::ShedBatch)
            }
            _ => return None,
        };
        Some((ticket?, eviction))
    }
}

/// Nobody may go for a task.
struct NoRoom;
