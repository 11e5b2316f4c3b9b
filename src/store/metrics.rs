//! The metrics of the store.

use prometheus::{IntGauge, Registry};

/// Two gauges; the help texts are the documentation. Cheap to clone: all clones are the same series.
#[derive(Clone)]
pub struct StoreMetrics {
    available: IntGauge,
    spooled: IntGauge,
}

impl StoreMetrics {
    /// Makes the series and registers them.
    ///
    /// # Errors
    ///
    /// When a name is taken in `registry`.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let available = IntGauge::new("store_available", "1 while the database can be written, 0 while it is away.")?;
        let spooled = IntGauge::new(
            "store_spooled_records",
            "Steps of tasks that are in a file of the data folder, because the database is or was away.",
        )?;
        available.set(1);
        registry.register(Box::new(available.clone()))?;
        registry.register(Box::new(spooled.clone()))?;
        Ok(Self { available, spooled })
    }

    #[cfg(test)]
    pub(super) fn unregistered() -> Self {
        Self::register(&Registry::new()).expect("the names differ")
    }

    pub(super) fn is_away(&self) {
        self.available.set(0);
    }

    pub(super) fn is_back(&self) {
        self.available.set(1);
    }

    pub(super) fn spooled(&self, records: usize) {
        self.spooled.set(i64::try_from(records).unwrap_or(i64::MAX));
    }
}
