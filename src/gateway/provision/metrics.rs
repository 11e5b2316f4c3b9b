//! The metrics of preparations.

use prometheus::{HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, Opts, Registry};
use tokio::time::Instant;

/// How a preparation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The model serves.
    Ready,
    Failed,
    /// Nobody waited any more.
    Abandoned,
    /// The gateway went down.
    Interrupted,
}

impl Outcome {
    const ALL: [Self; 4] = [Self::Ready, Self::Failed, Self::Abandoned, Self::Interrupted];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Failed => "failed",
            Self::Abandoned => "abandoned",
            Self::Interrupted => "interrupted",
        }
    }
}

/// In ms: from a model that lies on the disk to one that is downloaded for an hour.
const BUCKETS: [f64; 11] =
    [100.0, 500.0, 1_000.0, 5_000.0, 10_000.0, 30_000.0, 60_000.0, 300_000.0, 900_000.0, 1_800_000.0, 3_600_000.0];

/// The help texts are the documentation. Cheap to clone: all clones are the same series.
#[derive(Clone)]
pub struct ProvisionMetrics {
    active: IntGauge,
    ended: IntCounterVec,
    bytes: IntCounter,
    duration_ms: HistogramVec,
}

impl ProvisionMetrics {
    /// Makes the series and registers them.
    ///
    /// # Errors
    ///
    /// When a name is taken in `registry`.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let active = IntGauge::new("preparations_active", "Models that are being made ready for tasks.")?;
        let ended = IntCounterVec::new(
            Opts::new(
                "preparations_total",
                "Preparations of models that have ended: ready, failed, abandoned by all tasks, or interrupted.",
            ),
            &["outcome"],
        )?;
        let bytes = IntCounter::new(
            "preparation_bytes_total",
            "Bytes of files that preparations have downloaded, and that they have checked.",
        )?;
        let duration_ms = HistogramVec::new(
            HistogramOpts::new(
                "preparation_duration_ms",
                "From the first task that asks for a model to the end, in ms.",
            )
            .buckets(BUCKETS.to_vec()),
            &["outcome"],
        )?;
        registry.register(Box::new(active.clone()))?;
        registry.register(Box::new(ended.clone()))?;
        registry.register(Box::new(bytes.clone()))?;
        registry.register(Box::new(duration_ms.clone()))?;
        for outcome in Outcome::ALL {
            ended.with_label_values(&[outcome.as_str()]);
            duration_ms.with_label_values(&[outcome.as_str()]);
        }
        Ok(Self { active, ended, bytes, duration_ms })
    }

    /// A preparation begins.
    pub(super) fn begin(&self) -> Underway {
        self.active.inc();
        Underway { metrics: self.clone(), began: Instant::now(), outcome: Outcome::Failed }
    }

    /// A preparation has got on by so many bytes.
    pub(super) fn advance(&self, bytes: u64) {
        self.bytes.inc_by(bytes);
    }
}

/// A preparation, until it is dropped. One that panics has failed.
pub(super) struct Underway {
    metrics: ProvisionMetrics,
    began: Instant,
    outcome: Outcome,
}

impl Underway {
    pub fn end(mut self, outcome: Outcome) {
        self.outcome = outcome;
    }
}

impl Drop for Underway {
    fn drop(&mut self) {
        let outcome = [self.outcome.as_str()];
        self.metrics.active.dec();
        self.metrics.ended.with_label_values(&outcome).inc();
        self.metrics.duration_ms.with_label_values(&outcome).observe(self.began.elapsed().as_secs_f64() * 1000.0);
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// Series that nobody reads.
    pub fn fresh() -> ProvisionMetrics {
        ProvisionMetrics::register(&Registry::new()).expect("no name is taken")
    }
}
