//! A task's events as one whole answer.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::ser::SerializeStruct;
use serde::{Serialize, Serializer};

use super::logprobs::Logprobs;
use super::{CallStyle, ChatContext, ChunkMeta, ServiceTier, canceled, finish_reason};
use crate::native::{
    End, ErrorCode, ErrorEnvelope, Event, FinishReason, FunctionCall, FunctionTag, Token, TokenKind, TokenLogprobs,
    ToolCall, ToolDelta,
};
use crate::openai::usage::Usage;

/// Collects the events of one task. Says the same text and usage as [`ChunkEncoder`](super::ChunkEncoder) streams.
#[derive(Debug)]
pub struct Answer {
    meta: ChunkMeta,
    model: String,
    service_tier: ServiceTier,
    calls: CallStyle,
    /// Whether log-probabilities were asked for.
    logprobs: bool,
    choices: Vec<Collected>,
    reasoning_tokens: u64,
    outcome: Option<Result<Arc<End>, ErrorEnvelope>>,
}

#[derive(Debug, Clone, Default)]
struct Collected {
    content: String,
    reasoning: String,
    logprobs: Vec<Arc<TokenLogprobs>>,
    /// By their index.
    calls: BTreeMap<u32, ToolCall>,
}

impl Collected {
    fn add(&mut self, delta: &ToolDelta) {
        if delta.is_empty() {
            return;
        }
        let call = self.calls.entry(delta.index).or_insert_with(|| ToolCall {
            id: String::new(),
            r#type: FunctionTag::Function,
            function: FunctionCall { name: String::new(), arguments: String::new() },
        });
        call.id.extend(delta.id.as_deref());
        call.function.name.extend(delta.name.as_deref());
        call.function.arguments.push_str(&delta.arguments);
    }

    /// Only calls have no content beside them.
    fn message(self, style: CallStyle) -> AssistantMessage {
        let mut calls = self.calls.into_values();
        let silent = self.content.is_empty() && calls.len() > 0;
        let function_call = if style == CallStyle::Function { calls.next().map(|call| call.function) } else { None };
        AssistantMessage {
            role: "assistant",
            content: Some(self.content).filter(|_| !silent),
            refusal: None,
            annotations: [],
            reasoning_content: Some(self.reasoning).filter(|text| !text.is_empty()),
            tool_calls: if style == CallStyle::Tools { calls.collect() } else { Vec::new() },
            function_call,
        }
    }
}

impl Answer {
    pub fn new(context: &ChatContext, meta: ChunkMeta) -> Self {
        Self {
            meta,
            model: context.model.clone(),
            service_tier: context.service_tier,
            calls: context.calls,
            logprobs: context.logprobs,
            choices: vec![Collected::default(); context.choices()],
            reasoning_tokens: 0,
            outcome: None,
        }
    }

    /// Takes the next event; those after the last one of a task change nothing.
    pub fn push(&mut self, event: &Event) {
        if self.outcome.is_some() {
            return;
        }
        match event {
            Event::Started(_) | Event::Result(_) | Event::Metrics(_) => {}
            Event::Token(token) => self.token(token),
            Event::End(end) if end.finish_reason == FinishReason::Canceled => self.outcome = Some(Err(canceled(end))),
            Event::End(end) => self.outcome = Some(Ok(Arc::clone(end))),
            Event::Error(error) => self.outcome = Some(Err(error.as_ref().clone())),
        }
    }

    /// The body of the answer.
    ///
    /// # Errors
    ///
    /// What the task ended with where it failed or somebody cancelled it; INTERNAL where it has not ended.
    pub fn finish(self) -> Result<ChatCompletion, ErrorEnvelope> {
        let unfinished = || Err(ErrorEnvelope::new(ErrorCode::Internal, "The task has not ended."));
        let end = self.outcome.unwrap_or_else(unfinished)?;
        let choice = |(index, collected): (usize, Collected)| Choice {
            index,
            finish_reason: finish_reason(&end, index, self.calls),
            logprobs: self.logprobs.then(|| collected.logprobs.clone()),
            message: collected.message(self.calls),
        };
        Ok(ChatCompletion {
            id: self.meta.id,
            object: "chat.completion",
            created: self.meta.created,
            model: self.model,
            choices: self.choices.into_iter().enumerate().map(choice).collect(),
            usage: Usage::new(&end, self.reasoning_tokens),
            service_tier: self.service_tier,
            system_fingerprint: self.meta.system_fingerprint,
        })
    }

    fn token(&mut self, token: &Token) {
        let choice = usize::from(token.choice);
        if choice >= self.choices.len() {
            self.choices.resize_with(choice + 1, Collected::default);
        }
        let collected = &mut self.choices[choice];
        match token.kind {
            TokenKind::Text => {
                collected.content.push_str(&token.text);
                collected.logprobs.extend(token.logprobs.clone());
            }
            TokenKind::Reasoning => {
                collected.reasoning.push_str(&token.text);
                self.reasoning_tokens += 1;
            }
            TokenKind::Tool => token.tool.iter().for_each(|delta| collected.add(delta)),
        }
    }
}

/// The body of a whole answer.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ChatCompletion {
    id: String,
    object: &'static str,
    created: u64,
    model: String,
    choices: Vec<Choice>,
    usage: Usage,
    service_tier: ServiceTier,
    system_fingerprint: Option<String>,
}

#[derive(Debug, Clone, PartialEq)]
struct Choice {
    index: usize,
    message: AssistantMessage,
    logprobs: Option<Vec<Arc<TokenLogprobs>>>,
    finish_reason: &'static str,
}

impl Serialize for Choice {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut choice = serializer.serialize_struct("Choice", 4)?;
        choice.serialize_field("index", &self.index)?;
        choice.serialize_field("message", &self.message)?;
        choice.serialize_field("logprobs", &self.logprobs.as_deref().map(Logprobs))?;
        choice.serialize_field("finish_reason", self.finish_reason)?;
        choice.end()
    }
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct AssistantMessage {
    role: &'static str,
    content: Option<String>,
    /// A refusal that the model wrote as such; none of those served does.
    refusal: Option<String>,
    /// Citations of a web search; there is none.
    annotations: [(); 0],
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning_content: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tool_calls: Vec<ToolCall>,
    #[serde(skip_serializing_if = "Option::is_none")]
    function_call: Option<FunctionCall>,
}
