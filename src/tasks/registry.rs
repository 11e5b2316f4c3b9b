//! All tasks that can be asked about, and for how long.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::{Home, Journal, Kept, Stage, Task, TaskSpec, Ties};
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
    tasks: HashMap<TaskId, Arc<Task>>,
    /// In the order in which they were made, by a number that is never used twice.
    made: BTreeMap<u64, TaskId>,
    next_number: u64,
    /// Ended tasks in the order they ended, with the bytes of each.
    ended: VecDeque<(Instant, TaskId, usize)>,
    ended_bytes: usize,
    /// Tasks that have not ended.
    live: usize,
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
            journal.forget(std::iter::once(kept.spec.id));
            return None;
        }
        let mut state = self.lock();
        let number = state.next_number;
        let task = Task::again(kept, number, home, ties, (Arc::downgrade(self), journal));
        state.next_number += 1;
        state.made.insert(number, task.spec.id);
        state.tasks.insert(task.spec.id, Arc::clone(&task));
        match ended {
            None => state.live += 1,
            Some(ago) => {
                let now = Instant::now();
                let bytes = size_of::<Task>() + task.bytes();
                state.ended.push_back((now.checked_sub(ago).unwrap_or(now), task.spec.id, bytes));
                state.ended_bytes += bytes;
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
                Arc::clone(vacant.insert(Task::new(spec, number, home, ties, Arc::downgrade(self))))
            }
        };
        state.made.insert(number, id);
        state.next_number += 1;
        state.live += 1;
        Ok(task)
    }

    pub fn get(&self, id: TaskId) -> Option<Arc<Task>> {
        self.lock().tasks.get(&id).cloned()
    }

    /// Up to `at_most` tasks that were made before the one with number `before` (all, where that is `None`), newest first.
    pub fn made_before(&self, before: Option<u64>, at_most: usize) -> Vec<Arc<Task>> {
        let state = self.lock();
        let made = state.made.range(..before.unwrap_or(u64::MAX)).rev().take(at_most);
        made.filter_map(|(_, id)| state.tasks.get(id).cloned()).collect()
    }

    /// Forgets a task that was never let in.
    pub fn withdraw(&self, id: TaskId) {
        let mut state = self.lock();
        // One that was cancelled in the meantime has ended like any other, and stays for its retention.
        if state.tasks.get(&id).is_some_and(|task| !task.log.is_sealed()) {
            state.forget(id);
            self.one_less(&mut state);
        }
    }

    /// Forgets a task that has ended before its retention is over, and whatever is kept of it.
    pub fn remove(&self, id: TaskId) {
        let mut state = self.lock();
        let Some(at) = state.ended.iter().position(|(_, ended, _)| *ended == id) else { return };
        if let Some((_, _, bytes)) = state.ended.remove(at) {
            state.ended_bytes -= bytes;
        }
        let removed = state.forget(id);
        drop(state);
        self.forget(removed.as_slice());
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
        state.tasks.values().filter(|task| task.log.progress().ended.is_none()).cloned().collect()
    }

    /// How many tasks are known, ended ones included.
    pub fn len(&self) -> usize {
        self.lock().tasks.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Starts the retention of a task that has ended, and drops the oldest where memory runs over.
    pub(super) fn ended(&self, id: TaskId) {
        let mut state = self.lock();
        let Some(task) = state.tasks.get(&id) else { return };
        let bytes = size_of::<Task>() + task.bytes();
        state.ended.push_back((Instant::now(), id, bytes));
        state.ended_bytes += bytes;
        self.one_less(&mut state);
        let mut dropped = Vec::new();
        while state.ended_bytes > self.retention.bytes {
            let Some(task) = state.drop_oldest() else { break };
            dropped.push(task);
        }
        drop(state);
        self.forget(&dropped);
    }

    /// Drops the tasks whose retention has ended. Called every few seconds.
    pub fn sweep(&self, now: Instant) {
        // Freed after the lock: a log may be large.
        let mut dropped = Vec::new();
        let mut state = self.lock();
        while state.ended.front().is_some_and(|(at, _, _)| now.saturating_duration_since(*at) >= self.retention.time) {
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
            journal.forget(kept);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl State {
    fn drop_oldest(&mut self) -> Option<Arc<Task>> {
        let (_, id, bytes) = self.ended.pop_front()?;
        self.ended_bytes -= bytes;
        self.forget(id)
    }

    fn forget(&mut self, id: TaskId) -> Option<Arc<Task>> {
        let task = self.tasks.remove(&id)?;
        self.made.remove(&task.number);
        Some(task)
    }
}
