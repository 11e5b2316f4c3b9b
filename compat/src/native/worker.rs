//! Servers elsewhere that register with a pool.

use serde::{Deserialize, Serialize};

use super::{EngineName, ErrorEnvelope};

/// The body of `POST /v2/workers/register`. Not `Debug`: it may hold a key.
#[derive(Clone, PartialEq, Eq, Deserialize)]
pub struct RegisterWorker {
    /// Its own name: 1 to 64 letters, digits and `. _ -`. The same one again renews the registration.
    pub worker_id: String,
    /// A pool with a remote engine.
    pub pool_id: String,
    /// Such as `http://127.0.0.1:9000/v1`, without user or password.
    pub base_url: String,
    /// The model's name there; the pool's where it is absent.
    #[serde(default)]
    pub model: Option<String>,
    /// What the server wants as a bearer token; visible ASCII. Never shown.
    #[serde(default)]
    pub api_key: Option<String>,
    /// The program that is there; it has to be the pool's.
    #[serde(default)]
    pub engine: Option<EngineName>,
    /// Tasks at once on it, 1 to 4096; as the pool's first server where it is absent.
    #[serde(default)]
    pub slots: Option<u32>,
    /// Without another registration it is gone after so many ms, 1,000 to 600,000; 30,000 where it is absent.
    #[serde(default)]
    pub ttl_ms: Option<u64>,
}

impl RegisterWorker {
    /// Reads a body. A field that the contract does not have is refused by name.
    ///
    /// # Errors
    ///
    /// INVALID_PARAMS with the path of the field.
    pub fn parse(body: &[u8]) -> Result<Self, ErrorEnvelope> {
        let request: Self = crate::json::parse_known(body)?;
        let Self { worker_id, base_url, model, api_key, slots, ttl_ms, .. } = &request;
        let named = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        let visible = |text: &String| text.bytes().all(|byte| byte.is_ascii_graphic());
        let checks = [
            (
                (1..=64).contains(&worker_id.len()) && worker_id.bytes().all(named),
                "worker_id",
                "1 to 64 letters, digits and . _ -",
            ),
            (base_url.len() <= 2048, "base_url", "2048 bytes at most"),
            (ttl_ms.is_none_or(|ms| (1_000..=600_000).contains(&ms)), "ttl_ms", "1000 to 600000 ms"),
            (slots.is_none_or(|slots| (1..=4096).contains(&slots)), "slots", "1 to 4096"),
            (
                api_key.as_ref().is_none_or(|key| (1..=4096).contains(&key.len()) && visible(key)),
                "api_key",
                "1 to 4096 visible ASCII characters without spaces",
            ),
            (model.as_ref().is_none_or(|model| (1..=256).contains(&model.len())), "model", "1 to 256 bytes"),
        ];
        match checks.into_iter().find(|(sound, ..)| !sound) {
            None => Ok(request),
            Some((_, param, message)) => Err(ErrorEnvelope::invalid(param, format!("`{param}`: {message}"))),
        }
    }
}

/// The answer to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct WorkerView {
    pub worker_id: String,
    pub pool_id: String,
    pub replica_id: String,
    /// `starting` until a generation has worked there; then as in the health of the pool.
    pub state: &'static str,
    /// From now on, in ms.
    pub ttl_ms: u64,
    /// How soon it should register again, in ms.
    pub heartbeat_ms: u64,
}
