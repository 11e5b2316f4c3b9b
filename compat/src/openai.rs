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
//! | [`responses`] | `POST /v1/responses` and what is kept of an answer |
//! | [`tokens`] | `POST /tokenize` and `POST /detokenize` |
//! | [`models`] | `GET /v1/models` and `GET /v1/models/{id}` |
//! | [`error`] | the error body, its status, and whether a retry can help |

pub mod chat;
mod chunk;
pub mod completions;
pub mod embeddings;
pub mod error;
mod fields;
mod inputs;
pub mod models;
pub mod rerank;
pub mod responses;
pub mod tokens;
mod usage;

pub use chunk::ChunkMeta;
pub use error::ErrorBody;
pub use inputs::Outcome;
pub use models::{Model, ModelFacts, ModelList};

pub use crate::dialect::pass_over;
use crate::dialect::{canceled, rename};
use crate::extension;
