//! What a server says: one chunk of the OpenAI API becomes pieces, an end or usage. Pure.

use std::sync::Arc;

use serde::Deserialize;
use sluicegate_compat::native::{TokenKind, TokenLogprobs, TopLogprob};
use smol_str::SmolStr;

use super::calls::{Call, Calls, Function, Taken};
use crate::engine::{Finish, Piece};

/// What OpenAI's API has for the log of a probability that is as good as none; JSON has no infinity.
const UNLIKELY: f32 = -9999.0;

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
    #[serde(default)]
    pub completion_tokens: Option<u64>,
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
    /// One is all that was asked for.
    #[serde(default)]
    index: u32,
    #[serde(default)]
    delta: Option<Delta>,
    /// Of `/completions`.
    #[serde(default)]
    text: Option<String>,
    #[serde(default)]
    logprobs: Option<Logprobs>,
    #[serde(default)]
    finish_reason: Option<String>,
    /// vLLM: the stop string that was found, or the id of a token.
    #[serde(default)]
    stop_reason: Option<serde_json::Value>,
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
    /// What a model says that does not want to answer.
    #[serde(default)]
    refusal: Option<String>,
    #[serde(default)]
    tool_calls: Option<Vec<Call>>,
    /// Of the older API.
    #[serde(default)]
    function_call: Option<Function>,
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
    #[serde(default)]
    logprob: Option<f32>,
    #[serde(default)]
    bytes: Option<Vec<u8>>,
    #[serde(default)]
    top_logprobs: Option<Vec<Top>>,
}

#[derive(Debug, Deserialize)]
struct Top {
    token: String,
    #[serde(default)]
    logprob: Option<f32>,
    #[serde(default)]
    bytes: Option<Vec<u8>>,
}

/// How a sequence ends with a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The server says so; its usage may follow.
    Told(Finish),
    /// It has all that is wanted, whatever the server goes on to say.
    Enough(Finish),
}

impl Chunk {
    /// The stop string that ended the text, where the server says so.
    pub fn matched_stop(&self) -> Option<&str> {
        self.choices.iter().find(|choice| choice.index == 0)?.stop_reason.as_ref()?.as_str()
    }

    /// Hands over its pieces, in order, and says why the sequence ended if it did.
    ///
    /// # Errors
    ///
    /// A reason to end that has no meaning here.
    pub fn pieces(self, calls: &mut Calls, mut take: impl FnMut(Piece)) -> Result<Option<End>, String> {
        let Some(choice) = self.choices.into_iter().find(|choice| choice.index == 0) else { return Ok(None) };
        let delta = choice.delta.unwrap_or_default();
        let reasoning = delta.reasoning_content.or(delta.reasoning).unwrap_or_default();
        let text: String = [delta.content.or(choice.text), delta.refusal].into_iter().flatten().collect();
        let mut of_reasoning = choice.logprobs.map(Logprobs::tokens).unwrap_or_default();
        let all = text.is_empty() && !reasoning.is_empty();
        let at = if all { of_reasoning.len() } else { leading(&reasoning, &of_reasoning) };
        let mut of_text = of_reasoning.split_off(at);
        let called = delta.function_call.map(|function| Call { function: Some(function), ..Call::default() });
        let mut called = delta.tool_calls.unwrap_or_default().into_iter().chain(called).peekable();
        let ends = choice.finish_reason.is_some();
        // What is no text is part of a call, or the token at the end.
        let mut of_call = None;
        if text.is_empty() && (ends || called.peek().is_some()) {
            of_call = of_text.drain(..).next().map(|(_, logprobs)| Arc::new(logprobs));
        }
        for (part, kind, tokens) in [(reasoning, TokenKind::Reasoning, of_reasoning), (text, TokenKind::Text, of_text)]
        {
            pieces(&part, kind, tokens).for_each(&mut take);
        }
        for call in called {
            match calls.take(call) {
                Taken::Nothing => {}
                Taken::TooMany => return Ok(Some(End::Enough(Finish::ToolCalls))),
                Taken::Delta(delta) => take(Piece {
                    text: SmolStr::default(),
                    kind: TokenKind::Tool,
                    logprobs: of_call.take(),
                    tool: Some(Arc::new(delta)),
                }),
            }
        }
        let finish = match choice.finish_reason.as_deref() {
            None => return Ok(None),
            // Servers say this of some calls too. A filter that withholds the rest has ended the answer.
            Some("stop" | "eos_token" | "stop_sequence" | "content_filter" | "tool_calls" | "function_call") => {
                if calls.any() { Finish::ToolCalls } else { Finish::Stop }
            }
            Some("length") => Finish::Length,
            Some(other) => return Err(other.chars().take(64).collect()),
        };
        Ok(Some(End::Told(finish)))
    }
}

type Token = (String, TokenLogprobs);

/// The pieces of a text: one for each token where its tokens are known.
fn pieces(text: &str, kind: TokenKind, tokens: Vec<Token>) -> impl Iterator<Item = Piece> {
    let plain = (tokens.is_empty() && !text.is_empty()).then(|| (SmolStr::from(text), None));
    let told = shared_out(text, tokens).into_iter().map(|(text, logprobs)| (text, Some(Arc::new(logprobs))));
    plain.into_iter().chain(told).map(move |(text, logprobs)| Piece { text, kind, logprobs, tool: None })
}

/// How many of the tokens make up this text, which others follow; 0 where none do.
fn leading(text: &str, tokens: &[Token]) -> usize {
    let mut rest = text;
    for (at, (token, _)) in tokens.iter().enumerate() {
        match rest.strip_prefix(token.as_str()) {
            _ if rest.is_empty() => return at,
            Some(more) => rest = more,
            None => return 0,
        }
    }
    0
}

/// Each token with its part of the text. Where the tokens do not add up to the text, all of it comes with the first.
fn shared_out(text: &str, tokens: Vec<Token>) -> Vec<(SmolStr, TokenLogprobs)> {
    let rest = tokens.iter().try_fold(text, |rest, (token, _)| rest.strip_prefix(token.as_str()));
    let whole = rest.is_some_and(str::is_empty);
    let part = |(at, (token, logprobs)): (usize, Token)| match (whole, at) {
        (true, _) => (SmolStr::from(token), logprobs),
        (false, 0) => (SmolStr::from(text), logprobs),
        (false, _) => (SmolStr::default(), logprobs),
    };
    tokens.into_iter().enumerate().map(part).collect()
}

impl Logprobs {
    fn tokens(self) -> Vec<Token> {
        if let Some(content) = self.content {
            return content.into_iter().map(Entry::token).collect();
        }
        let mut tops = self.top_logprobs.unwrap_or_default().into_iter();
        let tokens = self.tokens.into_iter().zip(self.token_logprobs);
        let token = |(token, logprob): (String, Option<f32>)| {
            let top = tops.next().flatten().unwrap_or_default();
            let mut top: Vec<_> = top
                .into_iter()
                .map(|(token, logprob)| TopLogprob { bytes: token.into_bytes().into(), logprob: likely(Some(logprob)) })
                .collect();
            top.sort_by(|a, b| b.logprob.total_cmp(&a.logprob));
            let bytes = token.as_bytes().into();
            (token, TokenLogprobs { logprob: likely(logprob), bytes, top: top.into() })
        };
        tokens.map(token).collect()
    }
}

impl Entry {
    fn token(self) -> Token {
        let bytes = |token: &str, bytes: Option<Vec<u8>>| bytes.unwrap_or_else(|| token.as_bytes().to_vec()).into();
        let alternative = |top: Top| TopLogprob { bytes: bytes(&top.token, top.bytes), logprob: likely(top.logprob) };
        let top = self.top_logprobs.unwrap_or_default().into_iter().map(alternative).collect();
        let own = bytes(&self.token, self.bytes);
        (self.token, TokenLogprobs { logprob: likely(self.logprob), bytes: own, top })
    }
}

fn likely(logprob: Option<f32>) -> f32 {
    logprob.filter(|logprob| logprob.is_finite()).unwrap_or(UNLIKELY)
}
