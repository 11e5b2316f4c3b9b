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
    /// Of both together.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        let cached_tokens =
            self.prompt_tokens_details.cached_tokens.saturating_add(other.prompt_tokens_details.cached_tokens);
        let reasoning_tokens =
            self.completion_tokens_details.reasoning_tokens + other.completion_tokens_details.reasoning_tokens;
        Self {
            prompt_tokens: self.prompt_tokens.saturating_add(other.prompt_tokens),
            completion_tokens: self.completion_tokens.saturating_add(other.completion_tokens),
            total_tokens: self.total_tokens.saturating_add(other.total_tokens),
            prompt_tokens_details: PromptTokensDetails { cached_tokens },
            completion_tokens_details: CompletionTokensDetails { reasoning_tokens },
        }
    }

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
