//! All tasks that can be asked about, and for how long.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::{Durable, Home, Journal, Kept, Stage, Task, TaskSpec, Ties};
use crate::ids::TaskId;

/// How long, and in how much memory, ended tasks are kept.
#[derive(Debug, Clone, Copy)]
pub struct Retention {
    pub time: Duration,
    /// Over all ended tasks; the ones that ended first go first.
    pub bytes: usize,
}

/// Finds tasks by id. One mutex: it is held for a map operation only.
pub struct Registry {
    retention: Retention,
    /// Where tasks that outlive the process are filed.
    journal: Option<Journal>,
    state: Mutex<State>,
    /// No task is left that has not ended.
    idle: Notify,
}

#[derive(Default)]
struct State {
    tasks: HashMap<TaskId, Known>,
    /// In the order in which they were made, by a number that is never used twice.
    made: BTreeMap<u64, TaskId>,
    next_number: u64,
    /// Ended tasks by their numbers, in the order they ended; also some that are forgotten already.
    ended: VecDeque<(Instant, u64)>,
    ended_bytes: usize,
    /// Tasks that have not ended.
    live: usize,
}

struct Known {
    task: Arc<Task>,
    /// Its memory in bytes, once it is among the ended ones.
    ended: Option<usize>,
}

/// The id is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a task with this id exists")]
pub struct Conflict;

impl Registry {
    pub fn new(retention: Retention) -> Arc<Self> {
        Arc::new(Self { retention, journal: None, state: Mutex::default(), idle: Notify::new() })
    }

    /// As [`new`](Self::new), with a journal for tasks that outlive the process.
    pub fn with_journal(retention: Retention, journal: Journal) -> Arc<Self> {
        Arc::new(Self { retention, journal: Some(journal), state: Mutex::default(), idle: Notify::new() })
    }

    /// Where tasks that outlive the process are filed.
    pub fn journal(&self) -> Option<&Journal> {
        self.journal.as_ref()
    }

    /// Takes in a task of an earlier process, with what it holds again; `None` where its retention is over, and it is
    /// forgotten. Those that had ended are to come in the order in which they ended.
    pub fn take_in(self: &Arc<Self>, kept: Kept, home: Home, ties: Ties) -> Option<Arc<Task>> {
        let journal = self.journal.clone()?;
        let ended = match &kept.stage {
            Stage::Ended { ago, .. } => Some(*ago),
            _ => None,
        };
        if ended.is_some_and(|ago| ago >= self.retention.time) {
            // Nobody waits for it.
            drop(journal.forget(std::iter::once(kept.spec.id)));
            return None;
        }
        let mut state = self.lock();
        let number = state.next_number;
        let task = Task::again(kept, number, home, ties, (Arc::downgrade(self), journal));
        state.next_number += 1;
        state.made.insert(number, task.spec.id);
        state.tasks.insert(task.spec.id, Known { task: Arc::clone(&task), ended: None });
        match ended {
            None => state.live += 1,
            Some(ago) => {
                let now = Instant::now();
                state.end((task.spec.id, number), now.checked_sub(ago).unwrap_or(now));
            }
        }
        Some(task)
    }

    /// Makes a task and files it under its id.
    ///
    /// # Errors
    ///
    /// [`Conflict`] where a task with this id is still known.
    pub fn create(self: &Arc<Self>, spec: TaskSpec, home: Home, ties: Ties) -> Result<Arc<Task>, Conflict> {
        use std::collections::hash_map::Entry;
        let mut state = self.lock();
        let (id, number) = (spec.id, state.next_number);
        let task = match state.tasks.entry(id) {
            Entry::Occupied(_) => return Err(Conflict),
            Entry::Vacant(vacant) => {
                let task = Task::new(spec, number, home, ties, Arc::downgrade(self));
                Arc::clone(&vacant.insert(Known { task, ended: None }).task)
            }
        };
        state.made.insert(number, id);
        state.next_number += 1;
        state.live += 1;
        Ok(task)
    }

    pub fn get(&self, id: TaskId) -> Option<Arc<Task>> {
        self.lock().tasks.get(&id).map(|known| Arc::clone(&known.task))
    }

    /// Up to `at_most` tasks that were made before the one with number `before` (all, where that is `None`), newest first.
    pub fn made_before(&self, before: Option<u64>, at_most: usize) -> Vec<Arc<Task>> {
        let state = self.lock();
        let made = state.made.range(..before.unwrap_or(u64::MAX)).rev().take(at_most);
        made.filter_map(|(_, id)| state.tasks.get(id).map(|known| Arc::clone(&known.task))).collect()
    }

    /// Forgets a task that was never let in.
    pub fn withdraw(&self, id: TaskId) {
        let mut state = self.lock();
        // One that was cancelled in the meantime has ended like any other, and stays for its retention.
        if state.tasks.get(&id).is_some_and(|known| !known.task.log.is_sealed()) {
            state.forget(id);
            self.one_less(&mut state);
        }
    }

    /// Forgets a task that has ended before its retention is over, and whatever is kept of it. What is returned becomes `Ok`
    /// once nothing of it is in the journal.
    pub fn remove(&self, id: TaskId) -> Option<Durable> {
        let removed = self.forget_ended(&mut self.lock(), id)?;
        let journal = self.journal.as_ref().filter(|_| removed.is_kept())?;
        Some(journal.forget(std::iter::once(id)))
    }

    /// Forgets a task that is not kept, where it has ended.
    pub(super) fn leave(&self, task: &Task) {
        let mut state = self.lock();
        let is_it = |known: &Known| known.task.number == task.number;
        if state.tasks.get(&task.spec.id).is_some_and(is_it) {
            let left = self.forget_ended(&mut state, task.spec.id);
            drop(state);
            // Freed after the lock, as its log may be large.
            drop(left);
        }
    }

    fn forget_ended(&self, state: &mut State, id: TaskId) -> Option<Arc<Task>> {
        let Known { task, ended } = state.tasks.get(&id)?;
        if ended.is_none() {
            // Its end was shown an instant ago, and is on its way to here.
            task.log.progress().ended?;
            self.one_less(state);
        }
        state.forget(id)
    }

    /// Returns once no task is left that has not ended.
    pub async fn drained(&self) {
        loop {
            let idle = self.idle.notified();
            if self.lock().live == 0 {
                return;
            }
            idle.await;
        }
    }

    fn one_less(&self, state: &mut State) {
        state.live -= 1;
        if state.live == 0 {
            self.idle.notify_waiters();
        }
    }

    /// Tasks that have not ended.
    pub fn live(&self) -> Vec<Arc<Task>> {
        let state = self.lock();
        let tasks = state.tasks.values().map(|known| &known.task);
        tasks.filter(|task| task.log.progress().ended.is_none()).cloned().collect()
    }

    /// Whether there is any.
    pub fn has_live(&self) -> bool {
        self.lock().live > 0
    }

    /// How many tasks are known, ended ones included.
    pub fn len(&self) -> usize {
        self.lock().tasks.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Starts the retention of a task that has ended, and drops the oldest where memory runs over.
    pub(super) fn ended(&self, id: TaskId, number: u64) {
        let mut state = self.lock();
        if !state.end((id, number), Instant::now()) {
            return;
        }
        self.one_less(&mut state);
        let mut dropped = Vec::new();
        if state.tasks.get(&id).is_some_and(|known| known.task.is_forgotten()) {
            dropped.extend(state.forget(id));
        }
        while state.ended_bytes > self.retention.bytes && !state.ended.is_empty() {
            dropped.extend(state.drop_oldest());
        }
        drop(state);
        self.forget(&dropped);
    }

    /// Drops the tasks whose retention has ended. Called every few seconds.
    pub fn sweep(&self, now: Instant) {
        // Freed after the lock: a log may be large.
        let mut dropped = Vec::new();
        let mut state = self.lock();
        while state.ended.front().is_some_and(|(at, _)| now.saturating_duration_since(*at) >= self.retention.time) {
            dropped.extend(state.drop_oldest());
        }
        drop(state);
        self.forget(&dropped);
    }

    /// Has the journal forget those of these tasks that it knows.
    fn forget(&self, dropped: &[Arc<Task>]) {
        let mut kept = dropped.iter().filter(|task| task.is_kept()).map(|task| task.spec.id).peekable();
        if let Some(journal) = &self.journal
            && kept.peek().is_some()
        {
            // Nobody waits for it.
            drop(journal.forget(kept));
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl State {
    /// Puts a task among the ended ones; false where it is forgotten already, and its id perhaps another's.
    fn end(&mut self, (id, number): (TaskId, u64), at: Instant) -> bool {
        let Some(known) = self.tasks.get_mut(&id).filter(|known| known.task.number == number) else { return false };
        let bytes = size_of::<Task>() + known.task.bytes();
        known.ended = Some(bytes);
        if !known.task.is_forgotten() {
            self.ended.push_back((at, number));
        }
        self.ended_bytes += bytes;
        true
    }

    /// Forgets the task that ended first, where it is not forgotten already.
    fn drop_oldest(&mut self) -> Option<Arc<Task>> {
        let (_, number) = self.ended.pop_front()?;
        let id = *self.made.get(&number)?;
        self.forget(id)
    }

    fn forget(&mut self, id: TaskId) -> Option<Arc<Task>> {
        let Known { task, ended } = self.tasks.remove(&id)?;
        self.made.remove(&task.number);
        self.ended_bytes -= ended.unwrap_or(0);
        Some(task)
    }
}
