//! Taking a pool's model out of memory, until a reload brings one back.

use std::sync::Arc;

use sluicegate_compat::native::{CanceledBy, EngineName};

use super::Pool;
use super::recovery::release;
use super::reload::{Busy, Conclusion};
use super::replica::Health;
use crate::engine::LoadError;
use crate::ids::ModelId;
use crate::tasks::Clock;

/// A purge that is under way or has ended.
#[derive(Debug, Clone)]
pub struct Purge {
    /// What is purged: not always the pool's own.
    pub models: Vec<ModelId>,
    pub phase: PurgePhase,
    /// Bytes of files that were deleted.
    pub freed_bytes: u64,
    pub started_at_ms: u64,
    pub ended: Option<Conclusion>,
}

/// What a purge does, or did last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PurgePhase {
    /// What waits and runs has to end first.
    Draining,
    Unloading,
    /// What is recorded of the models is forgotten, and files are deleted where that was asked for.
    Deleting,
}

impl PurgePhase {
    /// The word for it in answers.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Draining => "draining",
            Self::Unloading => "unloading",
            Self::Deleting => "deleting",
        }
    }
}

/// What becomes of the tasks of a pool whose own model is purged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tasks {
    /// There may be none.
    Refuse,
    /// They end by themselves.
    Drain,
    /// They are cancelled, and a reload that is under way is ended.
    Cancel,
}

/// The right to purge: there is one at a time in a pool, and no reload beside it. Dropped before its end, it has failed.
pub struct Purging {
    pool: Arc<Pool>,
    ended: bool,
}

impl Purge {
    pub fn is_under_way(&self) -> bool {
        self.ended.is_none()
    }
}

impl Pool {
    /// Begins a purge of `models`; with `tasks` the pool's own is among them, and it takes no tasks from now on.
    ///
    /// # Errors
    ///
    /// [`Busy`].
    pub fn begin_purge(self: &Arc<Self>, models: Vec<ModelId>, tasks: Option<Tasks>) -> Result<Purging, Busy> {
        if tasks.is_some() && self.spec.engine.is(EngineName::Remote) {
            let message = "a pool with a remote engine has nothing in memory, and could not get its model back";
            return Err(Busy::Fixed(LoadError(message.to_owned())));
        }
        let mut state = self.lock();
        match (state.check_not_busy(), state.reload_under_way()) {
            // It goes with the tasks.
            (Err(Busy::Reloading), Some(reload)) if tasks == Some(Tasks::Cancel) => reload.cancel(),
            (free, _) => free?,
        }
        if tasks == Some(Tasks::Refuse) && !state.has_no_tasks() {
            return Err(Busy::Working);
        }
        let phase = if tasks.is_some() { PurgePhase::Draining } else { PurgePhase::Deleting };
        let started_at_ms = Clock::now().unix_ms;
        state.purge = Some(Purge { models, phase, freed_bytes: 0, started_at_ms, ended: None });
        state.closing = tasks.is_some();
        Ok(Purging { pool: Arc::clone(self), ended: false })
    }
}

impl Purging {
    /// Takes the model out of memory, once no task is left.
    ///
    /// # Errors
    ///
    /// In words for the operator: the gateway shuts down. The pool serves as before then.
    pub async fn unload(&self, tasks: Tasks) -> Result<(), String> {
        let pool = &self.pool;
        if tasks == Tasks::Cancel {
            let left = pool.lock().tasks();
            left.iter().for_each(|task| task.cancel_for(CanceledBy::Purge));
        }
        let idle = pool.wait_until(|state| state.has_no_tasks() && state.nothing_is_replaced());
        if pool.lifecycle.draining().run_until_cancelled(idle).await.is_none() {
            pool.lock().closing = false;
            return Err("the gateway is shutting down".to_owned());
        }
        self.enter(PurgePhase::Unloading);
        let engines = pool.lock().take_engines(Health::Unloaded);
        for engine in engines {
            release(engine).await;
        }
        self.enter(PurgePhase::Deleting);
        tracing::info!(pool = %pool.spec.id, "the model is unloaded");
        Ok(())
    }

    /// Notes that files were deleted.
    pub fn freed(&self, bytes: u64) {
        if let Some(purge) = &mut self.pool.lock().purge {
            purge.freed_bytes = purge.freed_bytes.saturating_add(bytes);
        }
    }

    /// Notes how it ended.
    pub fn end(mut self, outcome: Result<(), String>) {
        self.conclude(outcome.err());
    }

    fn enter(&self, phase: PurgePhase) {
        if let Some(purge) = &mut self.pool.lock().purge {
            purge.phase = phase;
        }
    }

    fn conclude(&mut self, error: Option<String>) {
        self.ended = true;
        if let Some(error) = &error {
            tracing::error!(pool = %self.pool.spec.id, error, "the purge failed");
        }
        let mut state = self.pool.lock();
        state.closing = false;
        if let Some(purge) = &mut state.purge {
            purge.ended = Some(Conclusion { at_ms: Clock::now().unix_ms, error });
        }
    }
}

impl Drop for Purging {
    fn drop(&mut self) {
        if !self.ended {
            self.conclude(Some("it was cut short".to_owned()));
        }
    }
}
