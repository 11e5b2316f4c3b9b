//! The registry that all metrics are in.

use prometheus::Registry;

use crate::api::HttpMetrics;
use crate::budgets::BudgetMetrics;
use crate::catalog::CatalogMetrics;
use crate::gateway::ProvisionMetrics;
use crate::pools::PoolMetrics;
use crate::sessions::SessionMetrics;
use crate::store::StoreMetrics;

/// Two metrics have the same name; a test rules it out.
#[derive(Debug, thiserror::Error)]
#[error("the metrics do not fit together: {0}")]
pub struct MetricsError(#[from] prometheus::Error);

/// What each part moves.
pub(super) struct All {
    pub pools: PoolMetrics,
    pub catalog: CatalogMetrics,
    pub sessions: SessionMetrics,
    pub store: StoreMetrics,
    pub provision: ProvisionMetrics,
    pub http: HttpMetrics,
    pub budgets: BudgetMetrics,
}

/// Makes all series.
pub(super) fn register() -> Result<All, MetricsError> {
    let registry = Registry::new();
    Ok(All {
        pools: PoolMetrics::register(&registry)?,
        catalog: CatalogMetrics::register(&registry)?,
        sessions: SessionMetrics::register(&registry)?,
        store: StoreMetrics::register(&registry)?,
        provision: ProvisionMetrics::register(&registry)?,
        http: HttpMetrics::register(&registry)?,
        budgets: BudgetMetrics::register(&registry)?,
    })
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_names_of_all_metrics_differ() {
        super::register().unwrap();
    }
}
