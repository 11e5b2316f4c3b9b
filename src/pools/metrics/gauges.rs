//! What engines hold and their devices do, looked at when somebody asks for the metrics.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{GaugeVec, IntGaugeVec, Opts, Registry};

use super::NONE;
use crate::engine::Engine;
use crate::pools::Pool;
use crate::pools::replica::Replica;

const REPLICA: [&str; 4] = ["engine", "engine_version", "pool_id", "replica_id"];
const DEVICE: [&str; 5] = ["engine", "engine_version", "pool_id", "replica_id", "device"];

/// The gauges of all replicas. Cheap to clone: all clones are the same series.
#[derive(Clone)]
pub struct EngineGauges {
    kv_cache_usage: GaugeVec,
    gpu_utilization: GaugeVec,
    vram_used: IntGaugeVec,
    pools: Arc<Mutex<Vec<Weak<Pool>>>>,
}

impl EngineGauges {
    /// Makes the gauges and registers them.
    ///
    /// # Errors
    ///
    /// When a name is taken in `registry`.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let options = Opts::new(
            "kv_cache_usage_ratio",
            "Part of the cache that sequences hold: their tokens over slots times context. 0 for servers elsewhere, which do \
             not say.",
        );
        let kv_cache_usage = GaugeVec::new(options, &REPLICA)?;
        let options = Opts::new("gpu_utilization", "Part of the time that the replica's GPU computes; 0 without one.");
        let gpu_utilization = GaugeVec::new(options, &DEVICE)?;
        let options =
            Opts::new("vram_used_bytes", "Memory in use on the replica's GPU, by all programs; 0 without one.");
        let vram_used = IntGaugeVec::new(options, &DEVICE)?;
        let gauges = Self { kv_cache_usage, gpu_utilization, vram_used, pools: Arc::default() };
        registry.register(Box::new(gauges.clone()))?;
        Ok(gauges)
    }

    /// Shows the replicas of a pool for as long as there is the pool.
    pub fn watch(&self, pool: &Arc<Pool>) {
        self.pools().push(Arc::downgrade(pool));
    }

    /// Looks at a pool. Series of what is no longer there are not kept.
    fn look(&self, pool: &Pool) {
        let (kind, id) = (pool.spec.engine.as_str(), pool.spec.id.as_str());
        for look in pool.look_at_engines() {
            let EngineLook { replica, version, device, engine } = &look;
            let stats = engine.as_ref().map(|engine| engine.stats()).unwrap_or_default();
            let context = engine.as_ref().map_or(0, |engine| engine.info().context_length);
            let capacity = f64::from(stats.slots) * f64::from(context);
            let usage = if capacity > 0.0 { stats.kv_tokens as f64 / capacity } else { 0.0 };
            self.kv_cache_usage.with_label_values(&[kind, version, id, replica]).set(usage);
            let gpu = stats.gpu.unwrap_or_default();
            let labels = [kind, version, id, replica, device.as_deref().unwrap_or(NONE)];
            self.gpu_utilization.with_label_values(&labels).set(gpu.utilization);
            self.vram_used.with_label_values(&labels).set(i64::try_from(gpu.vram_used_bytes).unwrap_or(i64::MAX));
        }
    }

    fn pools(&self) -> MutexGuard<'_, Vec<Weak<Pool>>> {
        self.pools.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Collector for EngineGauges {
    fn desc(&self) -> Vec<&Desc> {
        [self.kv_cache_usage.desc(), self.gpu_utilization.desc(), self.vram_used.desc()].concat()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        // Held to the end, so that two who ask at once do not empty each other's series.
        let mut pools = self.pools();
        self.kv_cache_usage.reset();
        self.gpu_utilization.reset();
        self.vram_used.reset();
        pools.retain(|pool| pool.upgrade().inspect(|pool| self.look(pool)).is_some());
        [self.kv_cache_usage.collect(), self.gpu_utilization.collect(), self.vram_used.collect()].concat()
    }
}

/// A replica as the gauges see it.
struct EngineLook {
    replica: String,
    version: String,
    device: Option<String>,
    engine: Option<Arc<dyn Engine>>,
}

impl Pool {
    fn look_at_engines(&self) -> Vec<EngineLook> {
        let state = self.lock();
        let look = |replica: &Replica| EngineLook {
            replica: replica.id.to_string(),
            version: replica.engine_version.clone(),
            device: replica.device.clone(),
            engine: replica.engine.clone(),
        };
        state.replicas.iter().map(look).collect()
    }
}
