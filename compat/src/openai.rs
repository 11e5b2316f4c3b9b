//! OpenAI's dialect: wire types of our own, and their translation to and from the native ones.
//!
//! One folder per endpoint; what endpoints share lies beside them.
//!
//! | module | holds |
//! | --- | --- |
//! | [`chat`] | `POST /v1/chat/completions`: the request, the stream of chunks, the whole answer |
//! | [`completions`] | `POST /v1/completions`: the same |
//! | [`embeddings`] | `POST /v1/embeddings` |
//! | [`rerank`] | `POST /v1/rerank` |
//! | [`models`] | `GET /v1/models` and `GET /v1/models/{id}` |
//! | [`error`] | the error body, its status, and whether a retry can help |

pub mod chat;
mod chunk;
pub mod completions;
pub mod embeddings;
pub mod error;
mod extension;
mod fields;
mod inputs;
pub mod models;
pub mod rerank;
mod usage;

pub use chunk::ChunkMeta;
pub use error::ErrorBody;
pub use inputs::Outcome;
pub use models::{Model, ModelFacts, ModelList};

use crate::native::{ErrorCode, ErrorEnvelope, detail};

/// `envelope` with its `param` in the client's words, which `own` gives for the native ones, also in its message.
fn rename(mut envelope: ErrorEnvelope, own: impl FnOnce(&str) -> String) -> ErrorEnvelope {
    if let Some(native) = envelope.param.take() {
        let own = own(&native);
        envelope.message = envelope.message.replacen(&format!("`{native}`"), &format!("`{own}`"), 1);
        envelope.param = Some(own);
    }
    envelope
}

/// What a client reads that did not cancel, of a task that somebody else did.
fn canceled() -> ErrorEnvelope {
    ErrorEnvelope::new(ErrorCode::Conflict, "The task was cancelled before it ended.")
        .with_detail(detail::TASK_CANCELED)
}
