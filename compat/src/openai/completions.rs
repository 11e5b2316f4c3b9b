//! `POST /v1/completions`.
//!
//! [`parse`] reads the body: each of its prompts is a task of its own, and all of them are one answer, which is either
//! streamed ([`ChunkEncoder`]) or whole ([`Answer`]).

mod answer;
mod logprobs;
mod request;
mod stream;

pub use answer::{Answer, Completion};
pub use request::parse;
pub use stream::ChunkEncoder;

use super::canceled;
use super::extension;
use crate::native::{End, ErrorEnvelope, FinishReason};

/// The part of a request that shapes its answer.
#[derive(Debug, Clone, PartialEq)]
pub struct CompletionContext {
    /// The model as the client named it.
    pub model: String,
    pub stream: bool,
    /// Whether a stream tells its usage at the end.
    include_usage: bool,
    /// Choices of each prompt that the answer has.
    n: u32,
    /// Choices of each prompt that are made; the best `n` of them are the answer.
    made: u32,
    /// Whether log-probabilities were asked for.
    logprobs: bool,
    /// What the choices of each prompt begin with.
    echoes: Vec<String>,
    /// Prompts of token ids that are to be echoed, by their index: their texts are to be [told](Self::echo).
    pub unread: Vec<(usize, Vec<u32>)>,
    /// `prompt` is one prompt, and no array of them.
    one: bool,
    /// Fields of the body that have no effect, for the header `x-sluicegate-ignored`.
    pub ignored: Vec<String>,
}

impl CompletionContext {
    /// `envelope`, about the prompt with this index or about all of them, with its `param` in the client's words, also in its
    /// message.
    #[must_use]
    pub fn rename(&self, prompt: Option<usize>, envelope: ErrorEnvelope) -> ErrorEnvelope {
        super::rename(envelope, |native| match native {
            "model_ref" | "workload" => "model".to_owned(),
            "prompt" | "messages" => match prompt.filter(|_| !self.one) {
                Some(prompt) => format!("prompt[{prompt}]"),
                None => "prompt".to_owned(),
            },
            "n" if self.made > self.n => "best_of".to_owned(),
            "top_logprobs" => "logprobs".to_owned(),
            "priority" => "sluicegate.priority".to_owned(),
            same => extension::param(same).unwrap_or_else(|| same.to_owned()),
        })
    }

    /// What the choices of the prompt with this index begin with.
    pub fn echo(&mut self, prompt: usize, text: String) {
        if let Some(echo) = self.echoes.get_mut(prompt) {
            *echo = text;
        }
    }

    fn prompts(&self) -> usize {
        self.echoes.len()
    }

    /// Of each prompt; admission lets through no more than 16.
    fn choices(&self) -> usize {
        usize::try_from(self.made).unwrap_or(usize::MAX).clamp(1, 16)
    }
}

/// The `finish_reason` of one choice. A deadline is a limit like `max_tokens`, and so `length`.
fn finish_reason(end: &End, choice: usize) -> &'static str {
    match end.reason_of(choice) {
        FinishReason::Stop | FinishReason::ToolCalls => "stop",
        FinishReason::Length | FinishReason::Deadline | FinishReason::Canceled => "length",
    }
}

#[cfg(test)]
mod tests;
