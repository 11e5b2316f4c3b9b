//! What a server says: one chunk of the OpenAI API becomes pieces, an end or usage. Pure.

use std::sync::Arc;

use serde::Deserialize;
use sluicegate_compat::native::{TokenKind, TokenLogprobs, ToolDelta, TopLogprob};
use smol_str::SmolStr;

use crate::engine::{Finish, Piece};

/// One chunk. Fields that are not known are passed over; those that are known must have their type.
#[derive(Debug, Deserialize)]
pub struct Chunk {
    #[serde(default)]
    choices: Vec<Choice>,
    #[serde(default)]
    pub usage: Option<Usage>,
    /// A server that fails in the middle of a stream says so here.
    #[serde(default)]
    pub error: Option<serde_json::Value>,
}

#[derive(Debug, Clone, Copy, Deserialize)]
pub struct Usage {
    pub completion_tokens: u64,
    #[serde(default)]
    pub prompt_tokens_details: Option<PromptDetails>,
}

#[derive(Debug, Clone, Copy, Deserialize)]
pub struct PromptDetails {
    #[serde(default)]
    pub cached_tokens: Option<u64>,
}

#[derive(Debug, Deserialize)]
struct Choice {
    #[serde(default)]
    delta: Option<Delta>,
    /// Of `/completions`.
    #[serde(default)]
    text: Option<String>,
    #[serde(default)]
    logprobs: Option<Logprobs>,
    #[serde(default)]
    finish_reason: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
struct Delta {
    #[serde(default)]
    content: Option<String>,
    /// vLLM, llama.cpp and Sluicegate.
    #[serde(default)]
    reasoning_content: Option<String>,
    /// Newer versions of vLLM.
    #[serde(default)]
    reasoning: Option<String>,
    #[serde(default)]
    tool_calls: Option<Vec<Call>>,
}

/// What a chunk adds to a call.
#[derive(Debug, Deserialize)]
struct Call {
    /// Left out by servers that give each call whole.
    #[serde(default)]
    index: Option<u32>,
    #[serde(default)]
    id: Option<String>,
    #[serde(default)]
    function: Option<Function>,
}

#[derive(Debug, Default, Deserialize)]
struct Function {
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    arguments: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
struct Logprobs {
    /// Of `/chat/completions`.
    #[serde(default)]
    content: Option<Vec<Entry>>,
    /// Of `/completions`.
    #[serde(default)]
    tokens: Vec<String>,
    #[serde(default)]
    token_logprobs: Vec<Option<f32>>,
    #[serde(default)]
    top_logprobs: Option<Vec<Option<std::collections::BTreeMap<String, f32>>>>,
}

#[derive(Debug, Deserialize)]
struct Entry {
    token: String,
    logprob: f32,
    #[serde(default)]
    bytes: Option<Vec<u8>>,
    #[serde(default)]
    top_logprobs: Vec<Top>,
}

#[derive(Debug, Deserialize)]
struct Top {
    token: String,
    logprob: f32,
    #[serde(default)]
    bytes: Option<Vec<u8>>,
}

impl Chunk {
    /// Hands over its pieces, in order, and says why the sequence ended if it did.
    ///
    /// # Errors
    ///
    /// A reason to end that has no meaning here.
    pub fn pieces(self, mut take: impl FnMut(Piece)) -> Result<Option<Finish>, String> {
        let Some(choice) = self.choices.into_iter().next() else { return Ok(None) };
        let delta = choice.delta.unwrap_or_default();
        let mut plain = |text: Option<String>, kind| {
            if let Some(text) = text.filter(|text| !text.is_empty()) {
                take(Piece { text: SmolStr::from(text), kind, logprobs: None, tool: None });
            }
        };
        plain(delta.reasoning_content.or(delta.reasoning), TokenKind::Reasoning);
        let text = delta.content.or(choice.text).unwrap_or_default();
        let tokens = choice.logprobs.map(Logprobs::tokens).unwrap_or_default();
        if tokens.is_empty() {
            plain(Some(text), TokenKind::Text);
        } else {
            for (text, logprobs) in shared_out(&text, tokens) {
                let logprobs = Some(Arc::new(logprobs));
                take(Piece { text, kind: TokenKind::Text, logprobs, tool: None });
            }
        }
        for (place, call) in delta.tool_calls.unwrap_or_default().into_iter().enumerate() {
            take(call.piece(place));
        }
        match choice.finish_reason.as_deref() {
            None => Ok(None),
            // A filter that withholds the rest has ended the answer too.
            Some("stop" | "eos_token" | "stop_sequence" | "content_filter") => Ok(Some(Finish::Stop)),
            Some("length") => Ok(Some(Finish::Length)),
            Some("tool_calls" | "function_call") => Ok(Some(Finish::ToolCalls)),
            Some(other) => Err(other.chars().take(64).collect()),
        }
    }
}

impl Call {
    fn piece(self, place: usize) -> Piece {
        let function = self.function.unwrap_or_default();
        let said = |text: Option<String>| text.filter(|text| !text.is_empty());
        let delta = ToolDelta {
            index: self.index.unwrap_or_else(|| u32::try_from(place).unwrap_or(u32::MAX)),
            id: said(self.id),
            name: said(function.name),
            arguments: function.arguments.unwrap_or_default(),
        };
        Piece { text: SmolStr::default(), kind: TokenKind::Tool, logprobs: None, tool: Some(Arc::new(delta)) }
    }
}

/// Each token with its part of the text. Where the tokens do not add up to the text, all of it comes with the first.
fn shared_out(text: &str, tokens: Vec<(String, TokenLogprobs)>) -> Vec<(SmolStr, TokenLogprobs)> {
    let rest = tokens.iter().try_fold(text, |rest, (token, _)| rest.strip_prefix(token.as_str()));
    let whole = rest.is_some_and(str::is_empty);
    let part = |(at, (token, logprobs)): (usize, (String, TokenLogprobs))| match (whole, at) {
        (true, _) => (SmolStr::from(token), logprobs),
        (false, 0) => (SmolStr::from(text), logprobs),
        (false, _) => (SmolStr::default(), logprobs),
    };
    tokens.into_iter().enumerate().map(part).collect()
}

impl Logprobs {
    fn tokens(self) -> Vec<(String, TokenLogprobs)> {
        if let Some(content) = self.content {
            return content.into_iter().map(Entry::token).collect();
        }
        let mut tops = self.top_logprobs.unwrap_or_default().into_iter();
        let tokens = self.tokens.into_iter().zip(self.token_logprobs);
        let token = |(token, logprob): (String, Option<f32>)| {
            let top = tops.next().flatten().unwrap_or_default();
            let mut top: Vec<_> = top
                .into_iter()
                .map(|(token, logprob)| TopLogprob { bytes: token.into_bytes().into(), logprob })
                .collect();
            top.sort_by(|a, b| b.logprob.total_cmp(&a.logprob));
            let bytes = token.as_bytes().into();
            (token, TokenLogprobs { logprob: logprob.unwrap_or(0.0), bytes, top: top.into() })
        };
        tokens.map(token).collect()
    }
}

impl Entry {
    fn token(self) -> (String, TokenLogprobs) {
        let bytes = |token: &str, bytes: Option<Vec<u8>>| bytes.unwrap_or_else(|| token.as_bytes().to_vec()).into();
        let top = self.top_logprobs.into_iter();
        let top = top.map(|top| TopLogprob { bytes: bytes(&top.token, top.bytes), logprob: top.logprob }).collect();
        let own = bytes(&self.token, self.bytes);
        (self.token, TokenLogprobs { logprob: self.logprob, bytes: own, top })
    }
}
