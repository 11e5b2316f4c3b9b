//! What engines hold and their devices do, looked at when somebody asks for the metrics.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{GaugeVec, Opts, Registry};

use super::NONE;
use crate::engine::{Engine, GpuUse};
use crate::pools::Pool;
use crate::pools::replica::Replica;

const REPLICA: [&str; 4] = ["engine", "engine_version", "pool_id", "replica_id"];
const DEVICE: [&str; 5] = ["engine", "engine_version", "pool_id", "replica_id", "device"];

/// Name, help, and value of a gauge.
type GpuGauge = (&'static str, &'static str, fn(&GpuUse) -> f64);

/// What a GPU does, as gauges with the device as a label.
const GPU: [GpuGauge; 5] = [
    ("gpu_utilization", "Part of the time that the replica's GPU computes; 0 without one.", |gpu| gpu.utilization),
    ("vram_used_bytes", "Memory in use on the replica's GPU, by all programs; 0 without one.", |gpu| {
        gpu.vram_used_bytes as f64
    }),
    ("vram_total_bytes", "Memory of the replica's GPU; 0 without one.", |gpu| gpu.vram_total_bytes as f64),
    (
        "gpu_temperature_celsius",
        "Temperature of the replica's GPU; 0 without one, and where its driver does not say.",
        |gpu| gpu.temperature_celsius.unwrap_or_default().into(),
    ),
    (
        "gpu_power_watts",
        "What the replica's GPU draws, by all programs; 0 without one, and where its driver does not say.",
        |gpu| gpu.power_watts.unwrap_or_default(),
    ),
];

/// The gauges of all replicas. Cheap to clone: all clones are the same series.
#[derive(Clone)]
pub struct EngineGauges {
    kv_cache_usage: GaugeVec,
    /// In the order of [`GPU`].
    gpu: Vec<GaugeVec>,
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
            "Part of the cache that sequences hold: their tokens over those that it has room for. 0 for servers elsewhere, \
             which do not say.",
        );
        let kv_cache_usage = GaugeVec::new(options, &REPLICA)?;
        let gpu = GPU.into_iter().map(|(name, help, _)| GaugeVec::new(Opts::new(name, help), &DEVICE));
        let gauges = Self { kv_cache_usage, gpu: gpu.collect::<Result<_, _>>()?, pools: Arc::default() };
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
            let tokens = engine.as_ref().map_or(0, |engine| {
                let info = engine.info();
                info.cache.map_or(u64::from(info.slots) * u64::from(info.context_length), |cache| cache.tokens)
            });
            let usage = if tokens > 0 { stats.kv_tokens as f64 / tokens as f64 } else { 0.0 };
            self.kv_cache_usage.with_label_values(&[kind, version, id, replica]).set(usage);
            let gpu = stats.gpu.unwrap_or_default();
            let labels = [kind, version, id, replica, device.as_deref().unwrap_or(NONE)];
            for (gauge, (.., value)) in self.gpu.iter().zip(GPU) {
                gauge.with_label_values(&labels).set(value(&gpu));
            }
        }
    }

    fn all(&self) -> impl Iterator<Item = &GaugeVec> {
        std::iter::once(&self.kv_cache_usage).chain(&self.gpu)
    }

    fn pools(&self) -> MutexGuard<'_, Vec<Weak<Pool>>> {
        self.pools.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Collector for EngineGauges {
    fn desc(&self) -> Vec<&Desc> {
        self.all().flat_map(GaugeVec::desc).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        // Held to the end, so that two who ask at once do not empty each other's series.
        let mut pools = self.pools();
        self.all().for_each(GaugeVec::reset);
        pools.retain(|pool| pool.upgrade().inspect(|pool| self.look(pool)).is_some());
        self.all().flat_map(GaugeVec::collect).collect()
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
