//! The metrics of the catalog.

use prometheus::{IntCounterVec, IntGaugeVec, Opts, Registry};
use sluicegate_compat::native::ModelState;

use super::verify::Finding;

/// Counters and gauges; the help texts are the documentation. Cheap to clone: all clones are the same series.
#[derive(Clone)]
pub struct CatalogMetrics {
    verifications: IntCounterVec,
    model_state: IntGaugeVec,
}

impl CatalogMetrics {
    /// Makes the series and registers them.
    ///
    /// # Errors
    ///
    /// When a name is taken in `registry`.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let verifications = IntCounterVec::new(
            Opts::new("catalog_verifications_total", "Verifications of models that have ended, by what they found."),
            &["result", "reason", "engine"],
        )?;
        let model_state = IntGaugeVec::new(
            Opts::new("model_state", "1 for the state that a model of the catalog is in, 0 for the others."),
            &["model_id", "state"],
        )?;
        registry.register(Box::new(verifications.clone()))?;
        registry.register(Box::new(model_state.clone()))?;
        Ok(Self { verifications, model_state })
    }

    /// A verification has ended; `engine` is that of the model's first pool, or `none`.
    pub(super) fn verified(&self, finding: &Finding, engine: &str) {
        self.verifications.with_label_values(&[finding.result(), finding.reason(), engine]).inc();
    }

    /// A model is in this state from now on.
    pub(super) fn state(&self, model_id: &str, state: ModelState) {
        for each in ModelState::ALL {
            self.model_state.with_label_values(&[model_id, each.as_str()]).set(i64::from(each == state));
        }
    }

    /// A model is no longer in the catalog. Nothing is left of it, so there are never more series than models.
    pub(super) fn removed(&self, model_id: &str) {
        for state in ModelState::ALL {
            // It was there, or has gone already.
            let _ = self.model_state.remove_label_values(&[model_id, state.as_str()]);
        }
    }
}
