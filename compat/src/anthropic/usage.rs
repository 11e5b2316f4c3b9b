//! What an answer cost, as Anthropic's clients read it.

use serde::Serialize;

use crate::native::{End, Priority};

/// The `usage` object of an answer. All in tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Usage {
    /// Those that came from no cache.
    input_tokens: u64,
    /// Nothing is charged for what a cache keeps.
    cache_creation_input_tokens: u64,
    cache_read_input_tokens: u64,
    cache_creation: CacheCreation,
    output_tokens: u64,
    output_tokens_details: OutputDetails,
    /// There are no tools that the gateway runs itself.
    server_tool_use: Option<()>,
    service_tier: &'static str,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
struct CacheCreation {
    ephemeral_5m_input_tokens: u64,
    ephemeral_1h_input_tokens: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
struct OutputDetails {
    thinking_tokens: u64,
}

impl Usage {
    /// At the beginning of a stream.
    pub fn at_start(tokens_in: u64, priority: Priority) -> Self {
        Self::of(tokens_in, 0, 0, 0, priority)
    }

    /// The usage that `end` settled; `thinking_tokens` are those of its output that were counted as reasoning.
    pub fn new(end: &End, thinking_tokens: u64, priority: Priority) -> Self {
        Self::of(end.tokens_in, end.cached_tokens, end.tokens_out, thinking_tokens, priority)
    }

    fn of(tokens_in: u64, cached: u64, output_tokens: u64, thinking_tokens: u64, priority: Priority) -> Self {
        Self {
            input_tokens: tokens_in.saturating_sub(cached),
            cache_creation_input_tokens: 0,
            cache_read_input_tokens: cached,
            cache_creation: CacheCreation::default(),
            output_tokens,
            output_tokens_details: OutputDetails { thinking_tokens },
            server_tool_use: None,
            service_tier: match priority {
                Priority::Interactive => "standard",
                Priority::Batch => "batch",
            },
        }
    }
}
