//! A task's events as OpenAI's chunks: what one `data:` line each says, and what a token costs.

use serde::Serialize;

use super::logprobs::Logprobs;
use super::{CallStyle, ChatContext, ChunkMeta, canceled, finish_reason};
use crate::native::{End, Event, FinishReason, Token, TokenKind, ToolDelta};
use crate::openai::chunk::{self, Frame};
use crate::openai::usage::Usage;
use crate::sse;

const CONTENT: &[u8] = b",\"delta\":{\"content\":";
const REASONING: &[u8] = b",\"delta\":{\"reasoning_content\":";
const ROLE: &[u8] = b",\"delta\":{\"role\":\"assistant\",\"content\":\"\",\"refusal\":null},\"logprobs\":null";
/// Of a choice that begins with a call.
const SILENT_ROLE: &[u8] = b",\"delta\":{\"role\":\"assistant\",\"content\":null,\"refusal\":null},\"logprobs\":null";

/// Writes the events of one task as the chunks of one answer.
///
/// What all chunks share is prepared once: a token without log-probabilities costs a few copies and the escaping of its
/// text, and allocates nothing once the buffer has grown.
#[derive(Debug, Clone)]
pub struct ChunkEncoder {
    frame: Frame,
    /// For the names of fields in what goes wrong.
    context: ChatContext,
    calls: CallStyle,
    /// For each choice, whether its role has been said.
    opened: Vec<bool>,
    reasoning_tokens: u64,
    ended: bool,
}

impl ChunkEncoder {
    pub fn new(context: &ChatContext, meta: ChunkMeta) -> Self {
        Self {
            frame: Frame::new(
                "chat.completion.chunk",
                &context.model,
                &meta,
                Some(context.service_tier),
                context.include_usage,
            ),
            context: context.clone(),
            calls: context.calls,
            opened: vec![false; context.choices()],
            reasoning_tokens: 0,
            ended: false,
        }
    }

    /// Appends what `event` means to an OpenAI client: nothing, or server-sent events. After the last event of a task,
    /// `[DONE]` has been written, and further events write nothing.
    pub fn encode(&mut self, event: &Event, out: &mut Vec<u8>) {
        if self.ended {
            return;
        }
        self.ended = event.is_last();
        match event {
            Event::Started(_) | Event::Result(_) | Event::Metrics(_) => {}
            Event::Token(token) => self.token(token, out),
            Event::End(end) if end.finish_reason == FinishReason::Canceled => chunk::fail(&canceled(end), out),
            Event::End(end) => self.end(end, out),
            Event::Error(error) => chunk::fail(&self.context.rename(error.as_ref().clone()), out),
        }
    }

    fn token(&mut self, token: &Token, out: &mut Vec<u8>) {
        let choice = usize::from(token.choice);
        if choice >= self.opened.len() {
            self.opened.resize(choice + 1, false);
        }
        if let Some(tool) = &token.tool {
            return self.tool(choice, tool, out);
        }
        let reasoning = token.kind == TokenKind::Reasoning;
        self.reasoning_tokens += u64::from(reasoning);
        let logprobs = token.logprobs.as_ref().filter(|_| !reasoning);
        if token.text.is_empty() && logprobs.is_none() {
            return;
        }
        self.open(choice, ROLE, out);
        self.frame.begin(choice, out);
        out.extend_from_slice(if reasoning { REASONING } else { CONTENT });
        sse::json(token.text.as_str(), out);
        out.extend_from_slice(b"},\"logprobs\":");
        match logprobs {
            None => out.extend_from_slice(b"null"),
            Some(logprobs) => sse::json(&Logprobs(std::slice::from_ref(logprobs)), out),
        }
        self.frame.go_on(out);
    }

    fn tool(&mut self, choice: usize, tool: &ToolDelta, out: &mut Vec<u8>) {
        if tool.is_empty() {
            return;
        }
        self.open(choice, SILENT_ROLE, out);
        self.frame.begin(choice, out);
        match self.calls {
            CallStyle::Tools => {
                out.extend_from_slice(b",\"delta\":{\"tool_calls\":[");
                sse::json(&CallDelta::from(tool), out);
                out.extend_from_slice(b"]},\"logprobs\":null");
            }
            CallStyle::Function => {
                out.extend_from_slice(b",\"delta\":{\"function_call\":");
                sse::json(&FunctionDelta::from(tool), out);
                out.extend_from_slice(b"},\"logprobs\":null");
            }
        }
        self.frame.go_on(out);
    }

    fn end(&mut self, end: &End, out: &mut Vec<u8>) {
        for choice in 0..self.opened.len() {
            self.open(choice, ROLE, out);
            self.frame.begin(choice, out);
            out.extend_from_slice(b",\"delta\":{},\"logprobs\":null");
            self.frame.finish(finish_reason(end, choice, self.calls), out);
        }
        self.frame.end(&Usage::new(end, self.reasoning_tokens), out);
    }

    /// Writes the chunk with the role, where `choice` has had none.
    fn open(&mut self, choice: usize, role: &[u8], out: &mut Vec<u8>) {
        if !std::mem::replace(&mut self.opened[choice], true) {
            self.frame.begin(choice, out);
            out.extend_from_slice(role);
            self.frame.go_on(out);
        }
    }
}

/// What a chunk adds to a call.
#[derive(Serialize)]
struct CallDelta<'a> {
    index: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    r#type: Option<&'static str>,
    function: FunctionDelta<'a>,
}

#[derive(Serialize)]
struct FunctionDelta<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    arguments: &'a str,
}

impl<'a> From<&'a ToolDelta> for CallDelta<'a> {
    fn from(tool: &'a ToolDelta) -> Self {
        let id = tool.id.as_deref();
        Self { index: tool.index, id, r#type: id.map(|_| "function"), function: tool.into() }
    }
}

impl<'a> From<&'a ToolDelta> for FunctionDelta<'a> {
    fn from(tool: &'a ToolDelta) -> Self {
        Self { name: tool.name.as_deref(), arguments: &tool.arguments }
    }
}
