//! The models that a key may use, as `GET /v1/models` and `GET /v1/models/{id}` show them.

use serde::Serialize;

use crate::native::{Modality, Workload};

/// The body of `GET /v1/models`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ModelList {
    object: &'static str,
    pub data: Vec<Model>,
}

impl ModelList {
    pub const fn new(data: Vec<Model>) -> Self {
        Self { object: "list", data }
    }
}

/// One model: an element of the list, or the body of `GET /v1/models/{id}`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Model {
    /// What a request's `model` may say; may hold slashes.
    pub id: String,
    object: &'static str,
    /// Unix time in s.
    pub created: u64,
    pub owned_by: String,
    /// What OpenAI's object has no room for.
    pub sluicegate: ModelFacts,
}

impl Model {
    pub fn new(id: impl Into<String>, created: u64, owned_by: impl Into<String>, sluicegate: ModelFacts) -> Self {
        Self { id: id.into(), object: "model", created, owned_by: owned_by.into(), sluicegate }
    }
}

/// Facts about a model that only this gateway tells.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ModelFacts {
    /// Tokens of prompt and output together; null while no engine has said.
    pub context_length: Option<u32>,
    /// The state of the best pool that serves it (`ready`, `draining`, …); null where none does.
    pub pool_state: Option<String>,
    pub workloads: Vec<Workload>,
    /// What messages to it may hold.
    pub modalities: Vec<Modality>,
}
