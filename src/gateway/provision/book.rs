//! Which models are being made ready, who waits for each, and which pools are being given one.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use sluicegate_compat::native::{ErrorCode, ErrorEnvelope, Preparation};
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
    /// Models at most that tasks bring, and bytes of each.
    pub most_guests: usize,
    pub guest_bytes: u64,
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
        let waiting: usize = self.lock().models.values().map(|awaited| awaited.waiting.len()).sum();
        waiting >= self.settings.most_waiting
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

/// Ends those who wait for a model where its preparation panics.
pub(super) struct Unfinished<'a> {
    pub provision: &'a Provision,
    pub model: &'a str,
    pub steps: &'a Arc<Steps>,
}

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        let mine = |awaited: &Awaited| Arc::ptr_eq(&awaited.steps, self.steps);
        if !self.provision.lock().models.get(self.model).is_some_and(mine) {
            return;
        }
        for Waiting { task, .. } in self.provision.close(self.model) {
            task.fail(ErrorEnvelope::new(ErrorCode::Internal, "the preparation of the model was cut short"));
        }
    }
}
