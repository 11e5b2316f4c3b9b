//! Text machinery that every engine of tokens needs: chat templates, tokenizing, decoding, stop strings, sampling.
//!
//! Pure: no clock but the one that templates may ask for the date, no I/O, no locks. An engine's adapter owns one
//! [`TextModel`] per model and one [`Output`] and one [`Sampler`] per sequence.

mod answer;
mod bytes;
mod decode;
mod markup;
mod noise;
mod output;
mod prompt;
mod sampler;
mod shield;
mod stop;
mod template;

pub use answer::{AnswerReader, Class, Segment};
pub use bytes::TokenBytes;
pub use decode::Utf8Decoder;
pub use markup::{CallFormat, END_OF_THINKING, Markup, THINK};
pub use output::Output;
pub use prompt::TextModel;
#[cfg(test)]
pub use prompt::tests::byte_level;
pub use sampler::{Choice, Sampler};
pub use stop::{Scan, StopMatcher};
pub use template::{ChatTemplate, TemplateError};

/// Names the way from logits to a token. Changes with every change that would give other tokens for the same logits
/// and seed: the noise, the order of penalties and truncations, the breaking of ties.
pub const SAMPLER_PROFILE_VERSION: &str = "gumbel-1";
