//! `POST /v1/chat/completions`.
//!
//! [`parse`] reads the body; [`ChatRequest::into_task`] splits it into the task for the gateway and the
//! [`ChatContext`] for the answer, which is either streamed ([`ChunkEncoder`]) or whole ([`Answer`]).

mod answer;
mod context;
mod logprobs;
mod request;
mod stream;

pub use answer::{Answer, ChatCompletion};
pub(super) use logprobs::sayable;

pub use context::{CallStyle, ChatContext, ChunkMeta, ParamNames, ServiceTier};
pub use request::{ChatRequest, openai_param, parse};
pub use stream::ChunkEncoder;

use super::canceled;
use crate::native::{End, FinishReason};

/// The `finish_reason` of one choice. A deadline is a limit like `max_tokens`, and so `length`.
fn finish_reason(end: &End, choice: usize, calls: CallStyle) -> &'static str {
    let own = end.choices.iter().find(|ended| usize::from(ended.choice) == choice);
    match own.map_or(end.finish_reason, |ended| ended.finish_reason) {
        FinishReason::Stop => "stop",
        FinishReason::ToolCalls if calls == CallStyle::Function => "function_call",
        FinishReason::ToolCalls => "tool_calls",
        FinishReason::Length | FinishReason::Deadline | FinishReason::Canceled => "length",
    }
}
