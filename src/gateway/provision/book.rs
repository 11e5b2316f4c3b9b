//! Which models are being made ready, who waits for each, and which pools are being given one.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use sluicegate_compat::native::{ErrorCode, ErrorEnvelope, Preparation, TaskRequest};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::super::recover::Waiting;
use super::metrics::ProvisionMetrics;
use super::steps::Steps;
use crate::ids::{PoolId, TaskId};
use crate::tasks::{Ended, Observer, Task};

/// What the configuration says about it.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The pools that are given models, in the order of the configuration; without any, nothing is prepared.
    pub targets: Vec<PoolId>,
    /// Tasks that wait for models at most.
    pub most_waiting: usize,
    /// Models at most that tasks bring.
    pub most_guests: usize,
    /// From the first task that asks for a model until it serves.
    pub deadline: Duration,
}

/// Which models are being prepared, and who waits.
pub struct Provision {
    pub settings: Settings,
    pub metrics: ProvisionMetrics,
    /// Held while a model that a task brings is taken in.
    pub guests: tokio::sync::Mutex<()>,
    /// A plain mutex, held for a look or a change.
    state: Mutex<State>,
}

#[derive(Default)]
pub(super) struct State {
    /// By the id of the model.
    pub models: HashMap<String, Awaited>,
    /// By the id of the model: tasks that wait for it in a moment, which have their places already.
    coming: HashMap<String, usize>,
    /// When models that tasks have brought were asked for last.
    pub used: HashMap<String, Instant>,
    /// Pools that are being given a model, until its tasks are in their queues.
    pub claimed: HashSet<PoolId>,
    /// The targets, the one that was given a model most recently last.
    pub order: VecDeque<PoolId>,
}

/// A model that is being prepared.
pub(super) struct Awaited {
    pub steps: Arc<Steps>,
    /// Somebody waits no longer.
    pub left: Arc<Notify>,
    pub waiting: Vec<Waiting>,
}

impl Provision {
    pub fn new(settings: Settings, metrics: ProvisionMetrics) -> Arc<Self> {
        let order = settings.targets.iter().cloned().collect();
        Arc::new(Self {
            settings,
            metrics,
            guests: tokio::sync::Mutex::default(),
            state: Mutex::new(State { order, ..State::default() }),
        })
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn is_full(&self) -> bool {
        self.lock().places() >= self.settings.most_waiting
    }

    /// Places for so many more tasks that wait for a model; `None` where there are not as many.
    pub(super) fn keep_places(self: &Arc<Self>, model: &str, tasks: usize) -> Option<Vec<Coming>> {
        let mut state = self.lock();
        let fit = state.places().saturating_add(tasks) <= self.settings.most_waiting;
        fit.then(|| (0..tasks).map(|_| self.come(&mut state, model)).collect())
    }

    /// A place for a task that was accepted, and has to have one.
    pub(super) fn make_place(self: &Arc<Self>, model: &str) -> Coming {
        self.come(&mut self.lock(), model)
    }

    fn come(self: &Arc<Self>, state: &mut State, model: &str) -> Coming {
        *state.coming.entry(model.to_owned()).or_default() += 1;
        Coming { provision: Arc::clone(self), model: model.to_owned() }
    }

    /// A task has ended while it waited.
    pub(super) fn leave(&self, id: TaskId) {
        let mut state = self.lock();
        for awaited in state.models.values_mut() {
            let before = awaited.waiting.len();
            awaited.waiting.retain(|waiting| waiting.task.spec.id != id);
            if awaited.waiting.len() < before {
                awaited.left.notify_one();
            }
        }
    }

    /// Returns once nobody waits for a model any more, and takes it out in that moment.
    pub(super) async fn abandoned(&self, model: &str, left: &Notify) {
        loop {
            left.notified().await;
            let mut state = self.lock();
            if state.models.get(model).is_some_and(|awaited| awaited.waiting.is_empty()) {
                state.models.remove(model);
                return;
            }
        }
    }

    /// Those who wait for a model; from now on nobody does.
    pub(super) fn close(&self, model: &str) -> Vec<Waiting> {
        self.lock().models.remove(model).map(|awaited| awaited.waiting).unwrap_or_default()
    }

    /// Takes out those who wait for a model and are `served`; whether nobody is left, and from then on nobody waits for it.
    pub(super) fn take(&self, model: &str, served: impl Fn(&TaskRequest) -> bool) -> (Vec<Waiting>, bool) {
        let mut state = self.lock();
        let Some(awaited) = state.models.get_mut(model) else { return (Vec::new(), true) };
        let (taken, left): (Vec<_>, Vec<_>) =
            std::mem::take(&mut awaited.waiting).into_iter().partition(|waiting| served(&waiting.request));
        let all = left.is_empty();
        awaited.waiting = left;
        if all {
            state.models.remove(model);
        }
        (taken, all)
    }

    /// The tasks that wait for a model.
    pub(super) fn waiting(&self, model: &str) -> Vec<Arc<Task>> {
        let state = self.lock();
        let waiting = state.models.get(model).into_iter().flat_map(|awaited| &awaited.waiting);
        waiting.map(|waiting| Arc::clone(&waiting.task)).collect()
    }

    /// What a task waits for; nothing where its model is ready.
    pub fn preparation_of(&self, id: TaskId) -> Preparation {
        let state = self.lock();
        let mine = |awaited: &&Awaited| awaited.waiting.iter().any(|waiting| waiting.task.spec.id == id);
        state.models.values().find(mine).map(|awaited| awaited.steps.list()).unwrap_or_default()
    }

    /// What a task for a model would wait for, and how many before it.
    pub fn foresee(&self, model: &str, load_ms: u64) -> (Preparation, u64) {
        match self.lock().models.get(model) {
            Some(awaited) => (awaited.steps.list(), u64::try_from(awaited.waiting.len()).unwrap_or(u64::MAX)),
            None => (Steps::new(model, load_ms, self.metrics.clone()).list(), 0),
        }
    }
}

impl State {
    /// Tasks that wait, or will in a moment.
    fn places(&self) -> usize {
        let waiting: usize = self.models.values().map(|awaited| awaited.waiting.len()).sum();
        waiting + self.coming.values().sum::<usize>()
    }

    /// Whether a task waits for a model, or will in a moment.
    pub fn is_wanted(&self, model: &str) -> bool {
        self.models.contains_key(model) || self.coming.contains_key(model)
    }
}

/// A place of a task that waits for a model in a moment. Until this is dropped the model stays.
pub(super) struct Coming {
    provision: Arc<Provision>,
    model: String,
}

impl Drop for Coming {
    fn drop(&mut self) {
        let mut state = self.provision.lock();
        if let Some(coming) = state.coming.get_mut(&self.model) {
            *coming -= 1;
            if *coming == 0 {
                state.coming.remove(&self.model);
            }
        }
    }
}

/// Hears of the end of a task that waits for a model.
pub(super) struct Leaving {
    pub provision: Weak<Provision>,
    /// That of the pool that is named as the task's.
    pub pool: Arc<dyn Observer>,
}

impl Observer for Leaving {
    fn ended(&self, task: &Task, how: &Ended) {
        if let Some(provision) = self.provision.upgrade() {
            provision.leave(task.spec.id);
        }
        self.pool.ended(task, how);
    }
}

/// A pool that is being given a model: until this is dropped nobody gives it another one.
pub(super) struct Claim {
    pub provision: Arc<Provision>,
    pub pool: PoolId,
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut state = self.provision.lock();
        state.claimed.remove(&self.pool);
        state.order.retain(|pool| *pool != self.pool);
        state.order.push_back(self.pool.clone());
    }
}

/// The end of a preparation: what reads files for it ends, and those who wait yet, where it panics.
pub(super) struct Unfinished<'a> {
    pub provision: &'a Provision,
    pub model: &'a str,
    pub steps: &'a Arc<Steps>,
}

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        self.steps.stop();
        let mine = |awaited: &Awaited| Arc::ptr_eq(&awaited.steps, self.steps);
        if !self.provision.lock().models.get(self.model).is_some_and(mine) {
            return;
        }
        for Waiting { task, .. } in self.provision.close(self.model) {
            task.fail(ErrorEnvelope::new(ErrorCode::Internal, "the preparation of the model was cut short"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::metrics::tests::fresh;
    use super::*;
    use crate::catalog::Progress as _;

    #[test]
    fn what_reads_files_for_a_preparation_ends_with_it() {
        let settings = Settings { targets: Vec::new(), most_waiting: 1, most_guests: 0, deadline: Duration::ZERO };
        let (provision, steps) = (Provision::new(settings, fresh()), Arc::new(Steps::new("m", 0, fresh())));
        let unfinished = Unfinished { provision: &provision, model: "m", steps: &steps };
        assert!(!steps.canceled());
        drop(unfinished);
        assert!(steps.canceled());
    }
}
