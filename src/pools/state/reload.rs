//! What a reload asks of the state of a pool, and changes in it.

use std::sync::{Arc, Weak};

use tokio_util::sync::CancellationToken;

use super::{LONGEST_RETRY_MS, State};
use crate::engine::Engine;
use crate::ids::TaskId;
use crate::pools::replica::{Health, Replica};
use crate::pools::{Busy, Job, Purge, Recipe};
use crate::tasks::Task;

impl State {
    /// Until what runs is expected to have ended, and another model to be loaded; at least 1 ms.
    pub(super) fn reloaded_by_ms(&self) -> u64 {
        let load_ms = u64::try_from(self.load_time.as_millis()).unwrap_or(u64::MAX);
        self.free_ms(1).saturating_add(load_ms).min(LONGEST_RETRY_MS)
    }

    /// Whether a task runs on this engine, or has not given its slots back.
    pub fn is_used(&self, engine: &Arc<dyn Engine>) -> bool {
        self.running.values().any(|running| Arc::ptr_eq(&running.seat.engine, engine))
    }

    pub fn nothing_runs(&self) -> bool {
        self.running.is_empty()
    }

    pub fn has_no_tasks(&self) -> bool {
        self.nothing_runs() && self.queue.is_empty()
    }

    /// Whether another model may be put in the place of this one, or this one taken out.
    pub fn check_not_busy(&self) -> Result<(), Busy> {
        if self.purge.as_ref().is_some_and(Purge::is_under_way) {
            return Err(Busy::Purging);
        }
        if self.reload_under_way().is_some() {
            return Err(Busy::Reloading);
        }
        let starting = self.replicas.iter().any(|replica| replica.health == Health::Starting);
        if starting { Err(Busy::Starting) } else { Ok(()) }
    }

    /// Whether another model may be put in the place of this one with nobody noticing.
    pub fn check_exchangeable(&self) -> Result<(), Busy> {
        self.check_not_busy()?;
        let idle = self.has_no_tasks() && self.draining.is_none() && !self.has_given_up_load();
        if idle { Ok(()) } else { Err(Busy::Working) }
    }

    /// What ends the reload that is under way.
    pub fn reload_under_way(&self) -> Option<CancellationToken> {
        self.reload.as_ref().filter(|reload| reload.is_under_way()).map(|reload| reload.stop.clone())
    }

    /// Whether no reload is under way, and none has left engines that have tasks yet.
    pub fn nothing_is_replaced(&self) -> bool {
        self.retiring.is_empty() && self.reload_under_way().is_none()
    }

    /// Whether a model is still being loaded that nobody waits for any more.
    pub fn has_given_up_load(&self) -> bool {
        self.loads.iter().filter_map(Weak::upgrade).any(|load| load.is_given_up())
    }

    /// Takes all engines out, to be released; whoever is bringing one of them back gives up.
    pub fn take_engines(&mut self, health: Health) -> Vec<Arc<dyn Engine>> {
        self.epoch += 1;
        let take = |replica: &mut Replica| {
            replica.health = health;
            replica.engine.take()
        };
        let occupied = self.replicas.iter_mut().filter(|replica| replica.health != Health::Vacant);
        occupied.filter_map(take).collect()
    }

    /// The waiting tasks whose prompts were prepared for another model than that of this digest.
    pub fn misfits(&self, model_digest: &str) -> Vec<(TaskId, Arc<dyn Recipe>)> {
        let waiting = self.queue.upcoming().map(|(_, _, waiting)| &waiting.job);
        let misfits = waiting.filter(|job| job.fitted.model_digest != model_digest);
        misfits.map(|job| (job.task.spec.id, Arc::clone(&job.recipe))).collect()
    }

    /// A waiting job, if it still waits.
    pub fn waiting_mut(&mut self, id: TaskId) -> Option<&mut Job> {
        let ticket = *self.tickets.get(&id)?;
        Some(&mut self.queue.get_mut(ticket)?.job)
    }

    /// The engine that a running task's replica has now, if it works: the one that failed under it may have been built anew.
    pub fn engine_again(&mut self, task: &Task, replica: usize) -> Option<Arc<dyn Engine>> {
        let Replica { health: Health::Ready, engine: Some(engine), .. } = &self.replicas[replica] else { return None };
        if let Some(running) = self.running.get_mut(&task.spec.id) {
            running.seat.engine = Arc::clone(engine);
        }
        Some(Arc::clone(engine))
    }
}
