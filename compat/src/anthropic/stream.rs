//! A task's events as those of a stream of the Messages API.

use serde::Serialize;

use super::blocks::{Blocks, CallId, Part};
use super::error::ErrorBody;
use super::usage::Usage;
use super::{MessageMeta, MessagesContext, canceled, stop_reason};
use crate::native::{End, ErrorEnvelope, Event, FinishReason};
use crate::sse;

/// Sent after a while of silence, at any time.
pub const PING: &[u8] = b"event: ping\ndata: {\"type\":\"ping\"}\n\n";

/// Writes the events of one task as the events of one answer. A token of text allocates nothing once the buffer has grown.
#[derive(Debug, Clone)]
pub struct EventEncoder {
    meta: MessageMeta,
    context: MessagesContext,
    blocks: Blocks,
    started: bool,
    ended: bool,
}

impl EventEncoder {
    pub fn new(context: &MessagesContext, meta: MessageMeta) -> Self {
        Self { meta, context: context.clone(), blocks: Blocks::new(context.thinking), started: false, ended: false }
    }

    /// Appends what `event` means to the client: nothing, or server-sent events. After the last event of a task further
    /// events write nothing.
    pub fn encode(&mut self, event: &Event, out: &mut Vec<u8>) {
        if self.ended {
            return;
        }
        self.ended = event.is_last();
        match event {
            Event::Result(_) | Event::Metrics(_) => {}
            Event::Started(_) => self.start(out),
            Event::Token(token) => {
                self.start(out);
                let Self { meta, blocks, .. } = self;
                blocks.token(token, |index, part| write(index, part, meta, out));
            }
            Event::End(end) if end.finish_reason == FinishReason::Canceled => self.fail(&canceled(end), out),
            Event::End(end) => self.end(end, out),
            Event::Error(error) => self.fail(&self.context.rename(error.as_ref().clone()), out),
        }
    }

    fn start(&mut self, out: &mut Vec<u8>) {
        if std::mem::replace(&mut self.started, true) {
            return;
        }
        let message = Start {
            id: &self.meta.id,
            r#type: "message",
            role: "assistant",
            model: &self.context.model,
            content: [],
            stop_reason: None,
            stop_sequence: None,
            usage: Usage::at_start(self.meta.tokens_in, self.context.priority),
        };
        sse::event_name("message_start", out);
        out.extend_from_slice(b"data: {\"type\":\"message_start\",\"message\":");
        sse::json(&message, out);
        out.extend_from_slice(b"}\n\n");
    }

    fn end(&mut self, end: &End, out: &mut Vec<u8>) {
        self.start(out);
        let Self { meta, blocks, context, .. } = self;
        blocks.end(|index, part| write(index, part, meta, out));
        let (stop_reason, stop_sequence) = stop_reason(end);
        let usage = Usage::new(end, blocks.thinking_tokens, context.priority);
        sse::event_name("message_delta", out);
        let delta = Stop { stop_reason, stop_sequence };
        sse::data_json(&MessageDelta { r#type: "message_delta", delta, usage }, out);
        out.extend_from_slice(b"event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n");
    }

    fn fail(&self, error: &ErrorEnvelope, out: &mut Vec<u8>) {
        sse::event_name("error", out);
        sse::data_json(&ErrorBody::of(error, &self.meta.request_id), out);
    }
}

fn write(index: usize, part: Part<'_>, meta: &MessageMeta, out: &mut Vec<u8>) {
    match part {
        Part::BeginThinking => begin(index, &Begin::Thinking { thinking: "", signature: "" }, out),
        Part::BeginText => begin(index, &Begin::Text { citations: None, text: "" }, out),
        Part::BeginCall { id, name } => {
            begin(index, &Begin::ToolUse { id: CallId(id), name, input: serde_json::Map::new() }, out);
        }
        Part::Thinking(text) => delta(index, b"{\"type\":\"thinking_delta\",\"thinking\":", text, out),
        Part::Text(text) => delta(index, b"{\"type\":\"text_delta\",\"text\":", text, out),
        Part::Json(text) => delta(index, b"{\"type\":\"input_json_delta\",\"partial_json\":", text, out),
        Part::EndThinking => {
            delta(index, b"{\"type\":\"signature_delta\",\"signature\":", &meta.id, out);
            end(index, out);
        }
        Part::End => end(index, out),
    }
}

fn begin(index: usize, block: &Begin<'_>, out: &mut Vec<u8>) {
    open(b"event: content_block_start\ndata: {\"type\":\"content_block_start\",\"index\":", index, out);
    out.extend_from_slice(b",\"content_block\":");
    sse::json(block, out);
    out.extend_from_slice(b"}\n\n");
}

fn delta(index: usize, head: &[u8], text: &str, out: &mut Vec<u8>) {
    open(b"event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":", index, out);
    out.extend_from_slice(b",\"delta\":");
    out.extend_from_slice(head);
    sse::json(text, out);
    out.extend_from_slice(b"}}\n\n");
}

fn end(index: usize, out: &mut Vec<u8>) {
    open(b"event: content_block_stop\ndata: {\"type\":\"content_block_stop\",\"index\":", index, out);
    out.extend_from_slice(b"}\n\n");
}

fn open(head: &[u8], index: usize, out: &mut Vec<u8>) {
    out.extend_from_slice(head);
    out.extend_from_slice(itoa::Buffer::new().format(index).as_bytes());
}

/// A message as it begins.
#[derive(Serialize)]
struct Start<'a> {
    id: &'a str,
    r#type: &'static str,
    role: &'static str,
    model: &'a str,
    content: [(); 0],
    stop_reason: Option<()>,
    stop_sequence: Option<()>,
    usage: Usage,
}

/// A block as it begins.
#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Begin<'a> {
    Thinking { thinking: &'static str, signature: &'static str },
    Text { citations: Option<()>, text: &'static str },
    ToolUse { id: CallId<'a>, name: &'a str, input: serde_json::Map<String, serde_json::Value> },
}

#[derive(Serialize)]
struct MessageDelta<'a> {
    r#type: &'static str,
    delta: Stop<'a>,
    usage: Usage,
}

#[derive(Serialize)]
struct Stop<'a> {
    stop_reason: &'static str,
    stop_sequence: Option<&'a str>,
}
