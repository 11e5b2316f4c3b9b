//! What an answer cost, as OpenAI's clients read it.

use serde::Serialize;

use crate::native::End;

/// The `usage` object of an answer. All in tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Usage {
    pub prompt_tokens: u64,
    pub completion_tokens: u64,
    pub total_tokens: u64,
    pub prompt_tokens_details: PromptTokensDetails,
    pub completion_tokens_details: CompletionTokensDetails,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct PromptTokensDetails {
    pub cached_tokens: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct CompletionTokensDetails {
    pub reasoning_tokens: u64,
}

impl Usage {
    /// The usage that `end` settled; `reasoning_tokens` are those of its output that were counted as reasoning.
    pub const fn new(end: &End, reasoning_tokens: u64) -> Self {
        Self {
            prompt_tokens: end.tokens_in,
            completion_tokens: end.tokens_out,
            total_tokens: end.tokens_in.saturating_add(end.tokens_out),
            prompt_tokens_details: PromptTokensDetails { cached_tokens: end.cached_tokens },
            completion_tokens_details: CompletionTokensDetails { reasoning_tokens },
        }
    }
}
