//! The only place that spawns: every task of the runtime has a name and an exit policy, and shutdown has phases.
//!
//! Shutdown is two tokens: [`Lifecycle::draining`] (take no new work, let what runs end) and [`Lifecycle::forced`] (end
//! now, with a terminal event for every task). [`shutdown`](Lifecycle::shutdown) starts the first; the drain deadline or
//! a second signal starts the second.

use std::any::Any;
use std::panic::AssertUnwindSafe;

use futures_util::FutureExt as _;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// What it means when a spawned task ends by panicking.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnPanic {
    /// The work of one request or connection is lost; the gateway goes on.
    Continue,
    /// The gateway cannot work without it: shut down.
    Shutdown,
}

/// A handle on the runtime; cheap to clone.
#[derive(Clone, Default)]
pub struct Lifecycle {
    tracker: TaskTracker,
    draining: CancellationToken,
    forced: CancellationToken,
    failed: CancellationToken,
}

/// The outcome of work that panicked; the panic itself is in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the work panicked")]
pub struct Panicked;

impl Lifecycle {
    pub fn new() -> Self {
        Self::default()
    }

    /// Runs `future` to its end under `name`, which the log shows when it panics.
    pub fn spawn<F>(&self, name: &'static str, on_panic: OnPanic, future: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let lifecycle = self.clone();
        let run = async move {
            if let Err(panic) = AssertUnwindSafe(future).catch_unwind().await {
                tracing::error!(task = name, panic = panic_message(panic.as_ref()), "a task of the gateway panicked");
                if on_panic == OnPanic::Shutdown {
                    lifecycle.failed.cancel();
                    lifecycle.shutdown();
                }
            }
        };
        self.tracker.spawn(run);
    }

    /// Runs CPU-bound or blocking work off the reactor.
    ///
    /// # Errors
    ///
    /// [`Panicked`], or the runtime is going down.
    pub async fn blocking<T: Send + 'static>(
        &self,
        name: &'static str,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Panicked> {
        self.tracker.spawn_blocking(work).await.map_err(|error| {
            tracing::error!(task = name, %error, "blocking work did not finish");
            Panicked
        })
    }

    /// Cancelled when the gateway takes no more work.
    pub fn draining(&self) -> &CancellationToken {
        &self.draining
    }

    /// Cancelled when what still runs has to end at once.
    pub fn forced(&self) -> &CancellationToken {
        &self.forced
    }

    /// Whether a task that the gateway cannot work without has panicked.
    pub fn failed(&self) -> bool {
        self.failed.is_cancelled()
    }

    /// Starts a graceful shutdown. Idempotent.
    pub fn shutdown(&self) {
        self.draining.cancel();
    }

    /// Ends the grace. Idempotent.
    pub fn force(&self) {
        self.draining.cancel();
        self.forced.cancel();
    }

    /// Turns the first SIGINT or SIGTERM into a shutdown and the second into a forced one.
    ///
    /// # Errors
    ///
    /// When the handlers cannot be installed.
    pub fn listen_for_signals(&self) -> std::io::Result<()> {
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let lifecycle = self.clone();
        self.spawn("signals", OnPanic::Shutdown, async move {
            loop {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                    () = lifecycle.forced.cancelled() => return,
                }
                if lifecycle.draining.is_cancelled() {
                    tracing::warn!("second signal: ending at once");
                    lifecycle.force();
                    return;
                }
                tracing::info!("shutting down; a second signal ends at once");
                lifecycle.shutdown();
            }
        });
        Ok(())
    }
}

fn panic_message(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_in_a_vital_task_starts_the_shutdown_and_any_other_does_not() {
        let lifecycle = Lifecycle::new();
        lifecycle.spawn("unimportant", OnPanic::Continue, async { panic!("lost") });
        lifecycle.tracker.close();
        lifecycle.tracker.wait().await;
        assert!(!lifecycle.draining().is_cancelled());

        let lifecycle = Lifecycle::new();
        lifecycle.spawn("vital", OnPanic::Shutdown, async { panic!("lost") });
        lifecycle.draining().cancelled().await;
        assert!(lifecycle.failed());
    }
}
