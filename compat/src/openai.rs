//! OpenAI's dialect: wire types of our own, and their translation to and from the native ones.
//!
//! One folder per endpoint; what endpoints share lies beside them.
//!
//! | module | holds |
//! | --- | --- |
//! | [`chat`] | `POST /v1/chat/completions`: the request, the stream of chunks, the whole answer |
//! | [`models`] | `GET /v1/models` and `GET /v1/models/{id}` |
//! | [`error`] | the error body, its status, and whether a retry can help |

pub mod chat;
pub mod error;
pub mod models;
mod usage;

pub use error::ErrorBody;
pub use models::{Model, ModelFacts, ModelList};
