//! The only place that spawns: every task of the runtime has a name and an exit policy, and shutdown has phases.
//!
//! Shutdown is two tokens: [`Lifecycle::draining`] (take no new work, let what runs end) and [`Lifecycle::forced`] (end
//! now, with a terminal event for every task). [`shutdown`](Lifecycle::shutdown) starts the first; the drain deadline or
//! a second signal starts the second.

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::task::{Context, Waker};

use futures_util::FutureExt as _;
use sluicegate_compat::native::{ErrorCode, ErrorEnvelope};
use thread_priority::{ThreadPriority, ThreadPriorityValue, set_current_thread_priority};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// The priority of threads that compute, where 99 is the highest: niceness 10 on Linux.
const COMPUTING: u8 = 22;

/// More bytes are worked on off the reactor: prompts are tokenized at some 10 MB/s, and vectors written at some 50, so that
/// this is a few ms at most.
const INLINE_BYTES: usize = 32 * 1024;

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
    /// What goes to its end, whoever waits for it.
    begun: TaskTracker,
    draining: CancellationToken,
    forced: CancellationToken,
    failed: CancellationToken,
}

/// The outcome of work that panicked; the panic itself is in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the work panicked")]
pub struct Panicked;

impl From<Panicked> for ErrorEnvelope {
    /// What a client sees of it.
    fn from(panicked: Panicked) -> Self {
        Self::new(ErrorCode::Internal, panicked.to_string())
    }
}

impl Lifecycle {
    pub fn new() -> Self {
        Self::default()
    }

    /// Runs `future` to its end under `name`, which the log shows when it panics.
    pub fn spawn<F>(&self, name: &'static str, on_panic: OnPanic, future: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.tracker.spawn(self.guarded(name, on_panic, future));
    }

    /// As [`spawn`](Self::spawn), but begins at once: `future` runs here until it first has to wait.
    pub fn spawn_begun<F>(&self, name: &'static str, on_panic: OnPanic, future: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let mut run = Box::pin(self.guarded(name, on_panic, future));
        // Nobody needs to be woken: a task that is spawned is polled.
        if run.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending() {
            self.tracker.spawn(run);
        }
    }

    fn guarded<F>(&self, name: &'static str, on_panic: OnPanic, future: F) -> impl Future<Output = ()> + use<F>
    where
        F: Future<Output = ()>,
    {
        let lifecycle = self.clone();
        async move {
            if contained(name, future).await.is_err() && on_panic == OnPanic::Shutdown {
                lifecycle.fail();
            }
        }
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

    /// Runs something to its end, also when nobody waits for it any more.
    ///
    /// # Errors
    ///
    /// [`Panicked`].
    pub async fn to_the_end<T: Send + 'static>(
        &self,
        name: &'static str,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Result<T, Panicked> {
        self.begun.spawn(contained(name, work)).await.unwrap_or(Err(Panicked))
    }

    /// Waits until what was begun [to go to its end](Self::to_the_end) is there.
    pub async fn wait_for_begun(&self) {
        self.begun.close();
        self.begun.wait().await;
    }

    /// Runs work on so many bytes here where they are few, else [off the reactor](Self::blocking).
    ///
    /// # Errors
    ///
    /// As [`blocking`](Self::blocking).
    pub async fn sized<T: Send + 'static>(
        &self,
        name: &'static str,
        bytes: usize,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Panicked> {
        if bytes <= INLINE_BYTES { Ok(work()) } else { self.blocking(name, work).await }
    }

    /// Cancelled when the gateway takes no more work.
    pub fn draining(&self) -> &CancellationToken {
        &self.draining
    }

    /// Cancelled when what still runs has to end at once.
    pub fn forced(&self) -> &CancellationToken {
        &self.forced
    }

    /// Whether something that the gateway cannot work without has ended.
    pub fn failed(&self) -> bool {
        self.failed.is_cancelled()
    }

    /// Starts a graceful shutdown because of something that the gateway cannot work without. Idempotent.
    pub fn fail(&self) {
        self.failed.cancel();
        self.shutdown();
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

/// Runs `future` here, under `name`, and keeps a panic of it from whoever waits.
///
/// # Errors
///
/// [`Panicked`].
pub async fn contained<T>(name: &'static str, future: impl Future<Output = T>) -> Result<T, Panicked> {
    AssertUnwindSafe(future).catch_unwind().await.map_err(|panic| {
        tracing::error!(task = name, panic = panic_message(panic.as_ref()), "a task of the gateway panicked");
        Panicked
    })
}

/// Runs blocking work on a thread of its own that yields to the gateway's other threads: what serves clients goes before
/// what computes. Threads that it starts inherit this.
///
/// # Errors
///
/// [`Panicked`], or no thread could be started.
pub async fn low_priority<T: Send + 'static>(
    name: &'static str,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Panicked> {
    let (done, result) = oneshot::channel();
    let run = move || {
        if let Ok(priority) = ThreadPriorityValue::try_from(COMPUTING)
            && let Err(error) = set_current_thread_priority(ThreadPriority::Crossplatform(priority))
        {
            tracing::debug!(thread = name, ?error, "cannot lower the priority of a thread");
        }
        // Nobody waits any more where this fails.
        let _ = done.send(std::panic::catch_unwind(AssertUnwindSafe(work)));
    };
    let started = std::thread::Builder::new().name(name.to_owned()).spawn(run);
    started.map_err(|error| tracing::error!(thread = name, %error, "cannot start a thread")).map_err(|()| Panicked)?;
    let result = result.await.map_err(|_| Panicked)?;
    result.map_err(|panic| {
        tracing::error!(thread = name, panic = panic_message(panic.as_ref()), "a thread of the gateway panicked");
        Panicked
    })
}

/// What a panic said, for the log.
pub fn panic_message(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Niceness is the nineteenth field of the thread's status; the second, its name, ends with the last parenthesis.
    #[cfg(target_os = "linux")]
    fn niceness() -> i32 {
        let status = std::fs::read_to_string("/proc/thread-self/stat").expect("proc");
        let (_, fields) = status.rsplit_once(')').expect("a name");
        fields.split_whitespace().nth(16).and_then(|nice| nice.parse().ok()).expect("a number")
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn what_computes_yields_to_what_serves_and_so_do_its_own_threads() {
        let here = niceness();
        #[expect(clippy::disallowed_methods, reason = "as an engine does, out of our sight")]
        let there = low_priority("computing", || std::thread::spawn(niceness).join().expect("no panic")).await;
        assert_eq!(there, Ok((here + 10).min(19)));
        assert_eq!(niceness(), here);
        assert_eq!(low_priority("failing", || -> u8 { panic!("lost") }).await, Err(Panicked));
    }

    #[tokio::test]
    async fn much_is_worked_on_elsewhere_and_little_here() {
        let (lifecycle, here) = (Lifecycle::new(), std::thread::current().id());
        let place = |bytes| lifecycle.sized("work", bytes, || std::thread::current().id());
        assert_eq!(place(INLINE_BYTES).await, Ok(here));
        assert_ne!(place(INLINE_BYTES + 1).await, Ok(here));
    }

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
