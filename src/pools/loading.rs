//! Loading a model within its time.
//!
//! An engine's code cannot be stopped while it loads. So a load that takes too long, or that nobody wants any more, is left to
//! itself, and what comes of it at last is let go.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};

use super::Pool;
use super::recovery::{Loaded, release};
use crate::engine::{Engine, LoadError, Loader};
use crate::lifecycle::{Lifecycle, OnPanic};

/// A model that is being loaded.
#[derive(Debug, Default)]
pub(super) struct Load {
    given_up: AtomicBool,
}

impl Load {
    /// Whether nobody waits for it any more.
    pub fn is_given_up(&self) -> bool {
        self.given_up.load(Ordering::Relaxed)
    }
}

/// Waits for a load; dropped, it has given it up, which no longer matters where the load has ended.
struct Waiting<'a> {
    load: Weak<Load>,
    loaded: oneshot::Receiver<Result<Arc<dyn Engine>, LoadError>>,
    lifecycle: &'a Lifecycle,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if let Some(load) = self.load.upgrade() {
            load.given_up.store(true, Ordering::Relaxed);
        }
        // It may have ended in this very moment.
        self.loaded.close();
        if let Ok(Ok(engine)) = self.loaded.try_recv() {
            self.lifecycle.spawn("release", OnPanic::Continue, release(engine));
        }
    }
}

impl Pool {
    /// Loads an engine, within the time that the pool's watchdog gives it. Dropped, it gives the load up.
    ///
    /// Its files, and what is loaded onto the same device before, have as much time once more; a load that was given up keeps the
    /// others waiting until it ends.
    pub(super) async fn load_in_time(self: &Arc<Self>, loader: &Arc<dyn Loader>) -> Result<Loaded, LoadError> {
        let limit = self.spec.watchdog.load;
        let ready = timeout(limit, loader.ready()).await;
        let permit = ready.map_err(|_| too_long("waiting for the model's files, or for another load,", limit))??;
        let (load, loader) = (Arc::new(Load::default()), Arc::clone(loader));
        let weak = Arc::downgrade(&load);
        {
            let mut state = self.lock();
            state.loads.retain(|load| load.strong_count() > 0);
            state.loads.push(Weak::clone(&weak));
        }
        let began = Instant::now();
        let (hand_over, loaded) = oneshot::channel();
        let mut waiting = Waiting { load: weak, loaded, lifecycle: &self.lifecycle };
        let pool = self.spec.id.clone();
        self.lifecycle.spawn("load", OnPanic::Continue, async move {
            let outcome = loader.load(&permit).await;
            if let Err(outcome) = hand_over.send(outcome) {
                tracing::warn!(%pool, loaded = outcome.is_ok(), "the loading of a model has ended that was given up");
                if let Ok(engine) = outcome {
                    release(engine).await;
                }
            }
            // The memory of one that was given up is free before the next is loaded.
            drop(permit);
            drop(load);
        });
        let outcome = timeout(limit, &mut waiting.loaded).await;
        drop(waiting);
        match outcome {
            Ok(Ok(outcome)) => Ok(Loaded { engine: outcome?, began }),
            Ok(Err(_)) => Err(LoadError("loading the model panicked".to_owned())),
            Err(_) => Err(too_long("loading the model", limit)),
        }
    }
}

fn too_long(what: &str, limit: Duration) -> LoadError {
    LoadError(format!("{what} takes longer than {} s (watchdog.load_ms)", limit.as_secs_f32()))
}
