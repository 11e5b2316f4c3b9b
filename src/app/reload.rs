//! When files are looked at again: every now and then, and when SIGHUP asks for it.

use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Interval, MissedTickBehavior, interval};

use crate::lifecycle::Lifecycle;

/// How often files are looked at.
const LOOK: Duration = Duration::from_secs(2);

/// Who wants to know of it.
pub(super) struct Reloads {
    lifecycle: Lifecycle,
    /// `None` where the signal cannot be had.
    hang_ups: Option<Signal>,
    ticks: Interval,
}

impl Reloads {
    /// Of `what`, for the log. Asks for the signal from now on.
    pub fn new(what: &'static str, lifecycle: Lifecycle) -> Self {
        let hang_ups = signal(SignalKind::hangup());
        let hang_ups = hang_ups.map_err(|error| tracing::warn!(%error, what, "SIGHUP will not reload this")).ok();
        let mut ticks = interval(LOOK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { lifecycle, hang_ups, ticks }
    }

    /// Waits for the next look, and says whether somebody has asked for it; `None` when the gateway ends.
    pub async fn next(&mut self) -> Option<bool> {
        let hang_up = async {
            match &mut self.hang_ups {
                Some(hang_ups) => hang_ups.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = hang_up => Some(true),
            _ = self.ticks.tick() => Some(false),
            () = self.lifecycle.forced().cancelled() => None,
        }
    }
}
