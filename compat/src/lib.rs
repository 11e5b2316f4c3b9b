//! The contract of Sluicegate as types: what clients send, what they get back, and the translation between dialects.
//!
//! Everything here is pure: no clock, no I/O, no async runtime, no HTTP. The native types are the vocabulary of the whole
//! program; the other dialects translate to and from them.
//!
//! | module | holds |
//! | --- | --- |
//! | [`native`] | [`TaskRequest`](native::TaskRequest), [`Event`](native::Event), [`ErrorEnvelope`](native::ErrorEnvelope) and their JSON |
//! | [`openai`] | OpenAI's wire types; request -> `TaskRequest`, events -> chunks or one whole answer, errors -> OpenAI's body |
//! | [`anthropic`] | the Messages API: request -> `TaskRequest`, events -> its events or one whole answer, errors -> its body |
//! | `dialect`, `extension` | what the dialects share |
//! | `json` | reading a body so that each mistake names its field |
//! | [`sse`] | framing of server-sent events into a caller's buffer |

pub mod anthropic;
mod dialect;
mod extension;
mod json;
pub mod native;
pub mod openai;
pub mod sse;
