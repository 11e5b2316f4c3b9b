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
pub(super) use logprobs::{Logprobs, sayable};

pub use context::{CallStyle, ChatContext, ParamNames, ServiceTier};
pub use request::{ChatRequest, openai_param, parse};
pub(super) use request::{MessageBody, ToolBody, conversation};
pub use stream::ChunkEncoder;

use super::canceled;
use super::chunk::ChunkMeta;
use crate::native::{End, FinishReason};

/// The `finish_reason` of one choice. A deadline is a limit like `max_tokens`, and so `length`.
fn finish_reason(end: &End, choice: usize, calls: CallStyle) -> &'static str {
    match end.reason_of(choice) {
        FinishReason::Stop => "stop",
        FinishReason::ToolCalls if calls == CallStyle::Function => "function_call",
        FinishReason::ToolCalls => "tool_calls",
        FinishReason::Length | FinishReason::Deadline | FinishReason::Canceled => "length",
    }
}
