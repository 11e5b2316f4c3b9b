//! The registry that all metrics are in.

use prometheus::Registry;

use crate::api::HttpMetrics;
use crate::catalog::CatalogMetrics;
use crate::pools::PoolMetrics;

/// Two metrics have the same name; a test rules it out.
#[derive(Debug, thiserror::Error)]
#[error("the metrics do not fit together: {0}")]
pub struct MetricsError(#[from] prometheus::Error);

/// Makes all series.
pub(super) fn register() -> Result<(PoolMetrics, CatalogMetrics, HttpMetrics), MetricsError> {
    let registry = Registry::new();
    let (pools, catalog) = (PoolMetrics::register(&registry)?, CatalogMetrics::register(&registry)?);
    Ok((pools, catalog, HttpMetrics::register(&registry)?))
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_names_of_all_metrics_differ() {
        super::register().unwrap();
    }
}
