//! The metrics of sessions.

use prometheus::{IntCounterVec, IntGauge, Opts, Registry};

use super::Departed;

/// Why a session has gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gone {
    /// Nobody used it for its time to live.
    Expired,
    /// A client asked for it.
    Evicted,
    /// There were too many that nothing used.
    Crowded,
}

impl Gone {
    const ALL: [Self; 3] = [Self::Expired, Self::Evicted, Self::Crowded];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Expired => "expired",
            Self::Evicted => "evicted",
            Self::Crowded => "crowded",
        }
    }
}

/// A gauge and a counter; the help texts are the documentation. Cheap to clone: all clones are the same series.
#[derive(Clone)]
pub struct SessionMetrics {
    open: IntGauge,
    ended: IntCounterVec,
}

impl SessionMetrics {
    /// Makes the series and registers them.
    ///
    /// # Errors
    ///
    /// When a name is taken in `registry`.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let open = IntGauge::new("sessions_open", "Sessions that are known.")?;
        let ended = IntCounterVec::new(
            Opts::new("sessions_ended_total", "Sessions that have gone: expired, evicted, or crowded out by others."),
            &["reason"],
        )?;
        registry.register(Box::new(open.clone()))?;
        registry.register(Box::new(ended.clone()))?;
        for reason in Gone::ALL {
            ended.with_label_values(&[reason.as_str()]);
        }
        Ok(Self { open, ended })
    }

    /// These have gone, and so many are there.
    pub(super) fn changed(&self, gone: &[Departed], open: usize) {
        for Departed { why, .. } in gone {
            self.ended.with_label_values(&[why.as_str()]).inc();
        }
        self.open.set(i64::try_from(open).unwrap_or(i64::MAX));
    }
}
