//! The catalog as clients and operators see it.

use serde::{Deserialize, Serialize};

use super::{ErrorEnvelope, Modality, Workload};

/// The body of `POST /v2/catalog/models`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct CreateModel {
    /// 1 to 256 letters, digits and `. _ : / @ + -`; starts with a letter or a digit.
    pub id: String,
    /// Where its files come from: `hf:org/repo[@rev][/file]` or `file:/abs/path`.
    pub source: String,
    /// Other names for it, as `id`.
    #[serde(default)]
    pub aliases: Vec<String>,
    /// What its files must digest to: `sha256:` and 64 hex digits.
    #[serde(default)]
    pub digest: Option<String>,
    /// What its weights are turned into while they are loaded. Absent: they stay as they are in the files.
    #[serde(default)]
    pub quantization: Option<Quantization>,
    /// Absent: free.
    #[serde(default, deserialize_with = "crate::json::object")]
    pub price: Option<ModelPrice>,
}

impl CreateModel {
    /// Reads a body. A field that the contract does not have is refused by name.
    ///
    /// # Errors
    ///
    /// INVALID_PARAMS with the path of the field.
    pub fn parse(body: &[u8]) -> Result<Self, ErrorEnvelope> {
        crate::json::parse_known(body)
    }
}

/// What weights can be turned into while they are loaded (in-situ quantization), by the names of llama.cpp and HQQ. Fewer bits take
/// less memory, and lose accuracy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Quantization {
    Q2K,
    Q3K,
    #[serde(rename = "q4_0")]
    Q4_0,
    #[serde(rename = "q4_1")]
    Q4_1,
    Q4K,
    #[serde(rename = "q5_0")]
    Q5_0,
    #[serde(rename = "q5_1")]
    Q5_1,
    Q5K,
    Q6K,
    #[serde(rename = "q8_0")]
    Q8_0,
    Hqq4,
    Hqq8,
}

impl Quantization {
    pub const ALL: [Self; 12] = [
        Self::Q2K,
        Self::Q3K,
        Self::Q4_0,
        Self::Q4_1,
        Self::Q4K,
        Self::Q5_0,
        Self::Q5_1,
        Self::Q5K,
        Self::Q6K,
        Self::Q8_0,
        Self::Hqq4,
        Self::Hqq8,
    ];

    /// The word on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Q2K => "q2k",
            Self::Q3K => "q3k",
            Self::Q4_0 => "q4_0",
            Self::Q4_1 => "q4_1",
            Self::Q4K => "q4k",
            Self::Q5_0 => "q5_0",
            Self::Q5_1 => "q5_1",
            Self::Q5K => "q5k",
            Self::Q6K => "q6k",
            Self::Q8_0 => "q8_0",
            Self::Hqq4 => "hqq4",
            Self::Hqq8 => "hqq8",
        }
    }
}

/// What using a model costs, in micro-units; 0 is free.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ModelPrice {
    /// A million tokens of prompts.
    pub input_per_mtok: u64,
    /// A million tokens of prompts that the engine had in its cache.
    pub cached_input_per_mtok: u64,
    /// A million tokens of output.
    pub output_per_mtok: u64,
    /// A second of the engine, from a task's start to its end.
    pub engine_second: u64,
}

impl ModelPrice {
    /// The most that any of them may be: a billion units.
    pub const MOST: u64 = 1_000_000_000_000_000;

    /// The first that is too high, by its name.
    pub fn excess(&self) -> Option<&'static str> {
        let Self { input_per_mtok, cached_input_per_mtok, output_per_mtok, engine_second } = *self;
        let each = [
            ("input_per_mtok", input_per_mtok),
            ("cached_input_per_mtok", cached_input_per_mtok),
            ("output_per_mtok", output_per_mtok),
            ("engine_second", engine_second),
        ];
        each.into_iter().find(|&(_, price)| price > Self::MOST).map(|(name, _)| name)
    }
}

/// Whether a model is served to new requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
pub enum ModelState {
    Active,
    /// New requests are refused with MODEL_DEPRECATED.
    Retired,
}

impl ModelState {
    pub const ALL: [Self; 2] = [Self::Active, Self::Retired];

    /// The word on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Active => "Active",
            Self::Retired => "Retired",
        }
    }
}

/// The body of `POST /v2/catalog/models/{id}/state`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ModelStateRequest {
    pub state: ModelState,
    /// Of a retirement: from now, in ms; what still waits or runs then is ended. Absent: it ends by itself.
    pub deadline_ms: Option<u64>,
}

impl ModelStateRequest {
    /// Reads a body. An unknown field or state is refused by name.
    ///
    /// # Errors
    ///
    /// INVALID_PARAMS with the path of the field.
    pub fn parse(body: &[u8]) -> Result<Self, ErrorEnvelope> {
        #[derive(Deserialize)]
        struct Body {
            state: String,
            #[serde(default)]
            deadline_ms: Option<u64>,
        }
        let Body { state, deadline_ms } = crate::json::parse_known(body)?;
        let state = crate::json::one_of("state", &state, &ModelState::ALL.map(|state| (state.as_str(), state)))?;
        if state == ModelState::Active && deadline_ms.is_some() {
            return Err(ErrorEnvelope::invalid("deadline_ms", "`deadline_ms` goes with the state Retired"));
        }
        Ok(Self { state, deadline_ms })
    }
}

/// What is known about a model's files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ModelTrust {
    /// Nobody has compared them with a pinned digest, and no verification has passed.
    Unverified,
    Verified,
    /// The last verification found them changed; the model is not served.
    Failed,
}

/// The body of `GET /v2/catalog/models`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ModelList {
    pub models: Vec<ModelView>,
}

/// The body of `GET /v2/catalog/models/{id}`, and of every answer to an operation on a model.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ModelView {
    pub id: String,
    pub aliases: Vec<String>,
    pub source: String,
    /// The pinned digest, else the one that was found; null until then.
    pub digest: Option<String>,
    /// What its weights are turned into while they are loaded; null: they stay as they are in the files.
    pub quantization: Option<Quantization>,
    pub price: ModelPrice,
    pub state: ModelState,
    pub trust: ModelTrust,
    /// It comes from the configuration and cannot be deleted.
    pub configured: bool,
    /// As they were loaded or verified last; empty until then.
    pub files: Vec<ModelFileView>,
    pub verification: VerificationView,
    pub created_at_ms: u64,
    pub updated_at_ms: u64,
    pub workloads: Vec<Workload>,
    /// What messages to it may hold, in one of its pools.
    pub modalities: Vec<Modality>,
    /// The pools that serve it.
    pub pools: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ModelFileView {
    /// Relative to the model's folder.
    pub name: String,
    pub bytes: u64,
    /// 64 hex digits, as `sha256sum` prints them.
    pub sha256: String,
}

/// The verification that runs, or the last one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Default)]
pub struct VerificationView {
    /// `never`, `running` or `ended`.
    pub state: &'static str,
    pub started_at_ms: Option<u64>,
    pub ended_at_ms: Option<u64>,
    pub bytes_done: u64,
    pub bytes_total: u64,
    /// `passed`, `failed` or `canceled`; null until it has ended.
    pub outcome: Option<&'static str>,
    /// Why it did not pass, in words for the operator.
    pub reason: Option<String>,
}
