//! Pools as clients and operators see them.

use serde::{Deserialize, Serialize};

use super::{EngineName, ErrorEnvelope};

/// The body of `GET /v2/pools`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PoolList {
    pub pools: Vec<PoolView>,
}

/// The body of `GET /v2/pools/{id}/health`, and of every answer to an operation on a pool.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PoolView {
    pub pool_id: String,
    /// At least one replica has not failed.
    pub live: bool,
    /// It takes tasks.
    pub ready: bool,
    /// It takes no new tasks; what it has is served until the deadline of the drain.
    pub draining: bool,
    /// A new model is being loaded beside the one that is served.
    pub reloading: bool,
    pub engine: EngineName,
    pub model_ref: String,
    /// Null until an engine is loaded.
    pub model_digest: Option<String>,
    /// What went wrong last in the first replica where anything did, in words for the operator.
    /// A reload that failed comes first, until one succeeds.
    pub last_error: Option<String>,
    /// The reload that is under way, or the last one.
    pub reload: Option<ReloadView>,
    /// The purge that is under way, or the last one.
    pub purge: Option<PurgeView>,
    pub metrics: PoolFigures,
    pub replicas: Vec<ReplicaView>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PoolFigures {
    /// Tasks that wait.
    pub queue_depth: u64,
    /// Sequences that run at once at most, over all replicas.
    pub slots_total: u32,
    pub slots_active: u32,
    /// Of one sequence, for the prompts that go best; 0 while nothing was measured.
    pub prefill_tokens_per_s: f64,
    /// Of all sequences of a replica, at the occupancy that goes best; 0 while nothing was measured.
    pub decode_tokens_per_s: f64,
    /// Sampled in the last seconds, over all replicas.
    pub tokens_per_s: f64,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ReplicaView {
    pub replica_id: String,
    /// `starting`, `ready`, `recovering`, `failed` or `unloaded`.
    pub state: &'static str,
    /// `cpu`, `cuda:0`, …; null until its engine is loaded.
    pub device: Option<String>,
    pub slots_total: u32,
    pub slots_active: u32,
    pub last_error: Option<String>,
}

/// How a reload stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ReloadView {
    /// `running`, `succeeded` or `failed`.
    pub state: &'static str,
    /// What it does, or did last: `verifying`, `draining`, `loading`, `probing` or `restoring`.
    pub phase: &'static str,
    /// The id of the new model.
    pub new_model_ref: String,
    /// Why it failed.
    pub error: Option<String>,
    /// Unix time in ms.
    pub started_at_ms: u64,
    /// Unix time in ms.
    pub ended_at_ms: Option<u64>,
}

/// How a purge stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PurgeView {
    /// `running`, `succeeded` or `failed`.
    pub state: &'static str,
    /// What it does, or did last: `draining`, `unloading` or `deleting`.
    pub phase: &'static str,
    /// The ids of what is purged.
    pub models: Vec<String>,
    /// Of files that were deleted.
    pub freed_bytes: u64,
    /// Why it failed.
    pub error: Option<String>,
    /// Unix time in ms.
    pub started_at_ms: u64,
    /// Unix time in ms.
    pub ended_at_ms: Option<u64>,
}

/// The body of `POST /v2/pools/{id}/purge`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default)]
pub struct PurgeRequest {
    /// Let what the pool has end first, where its own model is purged; not together with `force`.
    pub drain_first: bool,
    /// Any names of models of the catalog; absent: the pool's own.
    pub purge_models: Option<Vec<String>>,
    /// Delete the folders below the data folder that the models are kept in.
    pub delete_cache_dirs: bool,
    /// Cancel what the pool has, where its own model is purged.
    pub force: bool,
}

impl PurgeRequest {
    /// Models of one purge at most.
    pub const MOST_MODELS: usize = 64;

    /// Reads a body. A field that the contract does not have is refused by name.
    ///
    /// # Errors
    ///
    /// INVALID_PARAMS with the path of the field.
    pub fn parse(body: &[u8]) -> Result<Self, ErrorEnvelope> {
        let request: Self = crate::json::parse_known(body)?;
        if request.drain_first && request.force {
            let message = "`force` cancels the tasks that `drain_first` lets end; say one of them";
            let error = ErrorEnvelope::invalid("force", message);
            return Err(error.with_detail(super::detail::PARAMETER_COMBINATION));
        }
        let count = request.purge_models.as_ref().map_or(1, Vec::len);
        if (1..=Self::MOST_MODELS).contains(&count) {
            return Ok(request);
        }
        let message = format!("`purge_models` has 1 to {} models; leave it out for the pool's own", Self::MOST_MODELS);
        Err(ErrorEnvelope::invalid("purge_models", message))
    }
}

/// The body of `POST /v2/pools/{id}/reload`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct ReloadRequest {
    /// Any name of a model of the catalog.
    pub new_model_ref: String,
}

impl ReloadRequest {
    /// Reads a body. A field that the contract does not have is refused by name.
    ///
    /// # Errors
    ///
    /// INVALID_PARAMS with the path of the field.
    pub fn parse(body: &[u8]) -> Result<Self, ErrorEnvelope> {
        crate::json::parse_known(body)
    }
}

/// The body of `POST /v2/pools/{id}/drain`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub struct DrainRequest {
    /// From now, in ms; then what is left is cancelled.
    pub deadline_ms: u64,
    /// What becomes of waiting tasks that no other pool takes.
    #[serde(default)]
    pub waiting: WhenDrained,
}

/// What a drain does with the waiting tasks that no other pool takes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WhenDrained {
    /// They are served as before, until the deadline.
    #[default]
    Serve,
    /// They fail at once, and their clients may try elsewhere.
    Fail,
}

impl DrainRequest {
    /// Reads a body. A field that the contract does not have is refused by name.
    ///
    /// # Errors
    ///
    /// INVALID_PARAMS with the path of the field.
    pub fn parse(body: &[u8]) -> Result<Self, ErrorEnvelope> {
        crate::json::parse_known(body)
    }
}
