//! What the gateway can do, per pool.

use std::collections::BTreeSet;

use serde::Serialize;
use sluicegate_compat::native::{EngineName, Modality, Quantization, RateLimits, Workload};

use super::Gateway;
use crate::admission::{Caller, Standing};
use crate::engine::GpuUse;
use crate::pools::Pool;

/// The body of `GET /v2/meta/capabilities`.
#[derive(Debug, Clone, Serialize)]
pub struct Capabilities {
    pub api_version: &'static str,
    pub gateway_version: &'static str,
    pub pools: Vec<PoolCapabilities>,
}

#[derive(Debug, Clone, Serialize)]
pub struct PoolCapabilities {
    pub pool_id: String,
    pub model_ref: String,
    pub engine: &'static str,
    pub health: &'static str,
    /// None until the engine is loaded.
    pub workloads: Vec<Workload>,
    /// What messages may hold; none until the engine is loaded.
    pub modalities: Vec<Modality>,
    /// What a task may use of the contract's optional features.
    pub features: Vec<&'static str>,
    pub queue_capacity: usize,
    /// What is let in of one caller, over all pools; null where there is no limit.
    pub rate_limits: RateLimits,
    /// Absent until the engine is loaded.
    #[serde(flatten)]
    pub engine_facts: Option<EngineFacts>,
}

#[derive(Debug, Clone, Serialize)]
pub struct EngineFacts {
    pub engine_version: String,
    pub sampler_profile_version: String,
    pub model_digest: String,
    /// Of the first replica.
    pub device: String,
    /// Where replicas run, each once.
    pub devices: Vec<String>,
    /// Of these, the GPUs whose driver says.
    pub gpus: Vec<GpuFacts>,
    /// What the weights were turned into when they were loaded; null: they are as in the files.
    pub quantization: Option<Quantization>,
    pub context_length: u32,
    /// Output tokens at most: the context less one token of prompt; 0 where the model gives no text.
    pub max_output_tokens: u32,
    pub slots: u32,
    /// Tokens that the cache of a replica has room for, where its sequences share one; null where each slot has room of its own.
    pub cache_tokens: Option<u64>,
    /// As in the health of the pool.
    pub prefill_tokens_per_s: f64,
    pub decode_tokens_per_s: f64,
}

/// A GPU as it is now.
#[derive(Debug, Clone, Serialize)]
pub struct GpuFacts {
    pub device: String,
    /// By all programs.
    pub vram_used_bytes: u64,
    pub vram_total_bytes: u64,
}

const FEATURES: [&str; 9] =
    ["sse", "resume", "cancel", "seed", "strict_determinism", "logprobs", "choices", "json_output", "deadline"];

/// What a model has for whatever is asked of it.
const ALWAYS: [&str; 4] = ["sse", "resume", "cancel", "deadline"];

fn has(engine: EngineName, workloads: &[Workload], feature: &str) -> bool {
    match feature {
        // What it promises, no server elsewhere can.
        "strict_determinism" => !engine.is(EngineName::Remote),
        _ => ALWAYS.contains(&feature) || workloads.is_empty() || workloads.contains(&Workload::Completion),
    }
}

impl GpuFacts {
    fn of(device: String, gpu: &GpuUse) -> Self {
        Self { device, vram_used_bytes: gpu.vram_used_bytes, vram_total_bytes: gpu.vram_total_bytes }
    }
}

impl PoolCapabilities {
    fn of(pool: &Pool, limits: RateLimits) -> Self {
        let (rates, workloads) = (pool.rates(), pool.workloads());
        let completes = workloads.contains(&Workload::Completion);
        let engine_facts = pool.info().map(|info| EngineFacts {
            max_output_tokens: if completes { info.context_length.saturating_sub(1) } else { 0 },
            engine_version: info.engine_version,
            sampler_profile_version: info.sampler_profile_version,
            model_digest: info.model_digest,
            device: info.device,
            devices: pool.candidate().devices.into_iter().collect::<BTreeSet<_>>().into_iter().collect(),
            gpus: pool.gpus().into_iter().map(|(device, gpu)| GpuFacts::of(device, &gpu)).collect(),
            quantization: info.quantization,
            context_length: info.context_length,
            slots: info.slots,
            cache_tokens: info.cache.map(|cache| cache.tokens),
            prefill_tokens_per_s: rates.prefill_tokens_per_s(),
            decode_tokens_per_s: rates.decode_tokens_per_s(),
        });
        Self {
            pool_id: pool.id().to_string(),
            model_ref: pool.model().to_string(),
            engine: pool.spec().engine.as_str(),
            health: pool.status().as_str(),
            features: FEATURES.into_iter().filter(|feature| has(pool.spec().engine, &workloads, feature)).collect(),
            workloads,
            modalities: pool.modalities(),
            queue_capacity: pool.spec().queue_capacity,
            rate_limits: limits,
            engine_facts,
        }
    }
}

impl Gateway {
    /// How the limits on a caller's requests and tokens stand, where there are such.
    pub fn rates(&self, caller: &Caller) -> [Option<Standing>; 2] {
        self.admission.limiter.standing(&caller.scopes(self.admission.default_limits, None))
    }

    /// What the gateway can do, per pool.
    pub fn capabilities(&self, api_version: &'static str, caller: &Caller) -> Capabilities {
        let limits = caller.rights.limits(self.admission.default_limits);
        Capabilities {
            api_version,
            gateway_version: env!("CARGO_PKG_VERSION"),
            pools: self.pools.iter().map(|pool| PoolCapabilities::of(pool, limits)).collect(),
        }
    }
}
