//! Anthropic's dialect, the Messages API: wire types of our own, and their translation to and from the native ones.
//!
//! [`parse`] reads the body of `POST /v1/messages` and [`parse_count`] that of `POST /v1/messages/count_tokens`: the task
//! for the gateway, and the [`MessagesContext`] for the answer, which is either streamed ([`EventEncoder`]) or whole
//! ([`Answer`]). Both are made of the same `blocks`, so they say the same.

mod answer;
mod blocks;
mod context;
pub mod error;
mod request;
mod stream;
mod usage;

pub use answer::{Answer, Message, TokenCount};
pub use context::{MessageMeta, MessagesContext, Names, Thinking};
pub use error::ErrorBody;
pub use request::{parse, parse_count};
pub use stream::{EventEncoder, PING};

use crate::dialect::{canceled, rename};
use crate::extension;
use crate::native::{End, FinishReason};

/// The `stop_reason` and the `stop_sequence` of an answer. A deadline is a limit like `max_tokens`.
fn stop_reason(end: &End) -> (&'static str, Option<&str>) {
    match (end.finish_reason, end.matched_stop.as_deref()) {
        (FinishReason::Stop, Some(stop)) => ("stop_sequence", Some(stop)),
        (FinishReason::Stop, None) => ("end_turn", None),
        (FinishReason::ToolCalls, _) => ("tool_use", None),
        (FinishReason::Length | FinishReason::Deadline | FinishReason::Canceled, _) => ("max_tokens", None),
    }
}
