//! The answer to `POST /v1/responses/input_tokens`.

use serde::Serialize;

/// Tokens of the prompt that a request makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct InputTokens {
    object: &'static str,
    input_tokens: u64,
}

impl InputTokens {
    pub const fn new(input_tokens: u64) -> Self {
        Self { object: "response.input_tokens", input_tokens }
    }
}
