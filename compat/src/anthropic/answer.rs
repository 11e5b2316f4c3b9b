//! A task's events as one whole answer.

use std::sync::Arc;

use serde::Serialize;
use serde_json::{Map, Value};

use super::blocks::{Blocks, CallId, Part};
use super::usage::Usage;
use super::{MessageMeta, MessagesContext, canceled, stop_reason};
use crate::native::{End, ErrorCode, ErrorEnvelope, Event, FinishReason, Priority};

/// Collects the events of one task. Says the same blocks and usage as [`EventEncoder`](super::EventEncoder) streams.
#[derive(Debug)]
pub struct Answer {
    meta: MessageMeta,
    model: String,
    priority: Priority,
    blocks: Blocks,
    content: Vec<Block>,
    outcome: Option<Result<Arc<End>, ErrorEnvelope>>,
}

impl Answer {
    pub fn new(context: &MessagesContext, meta: MessageMeta) -> Self {
        Self {
            meta,
            model: context.model.clone(),
            priority: context.priority,
            blocks: Blocks::new(context.thinking),
            content: Vec::new(),
            outcome: None,
        }
    }

    /// Takes the next event; those after the last one of a task change nothing.
    pub fn push(&mut self, event: &Event) {
        if self.outcome.is_some() {
            return;
        }
        let Self { meta, blocks, content, outcome, .. } = self;
        match event {
            Event::Started(_) | Event::Result(_) | Event::Metrics(_) => {}
            Event::Token(token) => blocks.token(token, |_, part| take(content, part, meta)),
            Event::End(end) if end.finish_reason == FinishReason::Canceled => *outcome = Some(Err(canceled(end))),
            Event::End(end) => {
                blocks.end(|_, part| take(content, part, meta));
                *outcome = Some(Ok(Arc::clone(end)));
            }
            Event::Error(error) => *outcome = Some(Err(error.as_ref().clone())),
        }
    }

    /// The body of the answer.
    ///
    /// # Errors
    ///
    /// What the task ended with where it failed or somebody cancelled it; INTERNAL where it has not ended.
    pub fn finish(self) -> Result<Message, ErrorEnvelope> {
        let unfinished = || Err(ErrorEnvelope::new(ErrorCode::Internal, "The task has not ended."));
        let end = self.outcome.unwrap_or_else(unfinished)?;
        let (stop_reason, stop_sequence) = stop_reason(&end);
        Ok(Message {
            id: self.meta.id,
            r#type: "message",
            role: "assistant",
            model: self.model,
            content: self.content,
            stop_reason,
            stop_sequence: stop_sequence.map(str::to_owned),
            usage: Usage::new(&end, self.blocks.thinking_tokens, self.priority),
        })
    }
}

fn take(content: &mut Vec<Block>, part: Part<'_>, meta: &MessageMeta) {
    match (part, content.last_mut()) {
        (Part::BeginThinking, _) => content.push(Block::Thinking { thinking: String::new(), signature: String::new() }),
        (Part::BeginText, _) => content.push(Block::Text { citations: None, text: String::new() }),
        (Part::BeginCall { id, name }, _) => {
            content.push(Block::ToolUse { id: id.to_owned(), name: name.to_owned(), input: Arguments::default() });
        }
        (Part::Thinking(more), Some(Block::Thinking { thinking: text, .. }))
        | (Part::Text(more), Some(Block::Text { text, .. }))
        | (Part::Json(more), Some(Block::ToolUse { input: Arguments(text), .. })) => text.push_str(more),
        (Part::EndThinking, Some(Block::Thinking { signature, .. })) => signature.clone_from(&meta.id),
        // What is added is added to what was begun last.
        _ => {}
    }
}

/// The body of a whole answer.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Message {
    id: String,
    r#type: &'static str,
    role: &'static str,
    model: String,
    content: Vec<Block>,
    stop_reason: &'static str,
    stop_sequence: Option<String>,
    usage: Usage,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Block {
    Thinking {
        thinking: String,
        /// The answer that it is from. Nobody has to prove where it comes from.
        signature: String,
    },
    Text {
        /// Of a search; there is none.
        citations: Option<()>,
        text: String,
    },
    ToolUse {
        #[serde(serialize_with = "call_id")]
        id: String,
        name: String,
        input: Arguments,
    },
}

fn call_id<S: serde::Serializer>(id: &str, serializer: S) -> Result<S::Ok, S::Error> {
    CallId(id).serialize(serializer)
}

/// The arguments of a call as the model wrote them, and an object on the wire: where they were cut, what is whole of them.
#[derive(Debug, Clone, PartialEq, Default)]
struct Arguments(String);

impl Serialize for Arguments {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let text = self.0.as_str();
        let object = serde_json::from_str(text).or_else(|_| serde_json::from_str(&whole_part(text)));
        object.unwrap_or_else(|_| Map::<String, Value>::new()).serialize(serializer)
    }
}

/// The members of a cut JSON text that are whole, as JSON.
fn whole_part(text: &str) -> String {
    let (mut whole, mut at_string, mut escaped) = (0, false, false);
    let mut structure = Vec::new();
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if at_string => escaped = true,
            b'"' => at_string = !at_string,
            _ if at_string => {}
            b'{' | b'[' | b'}' | b']' => {
                structure.push((at, byte));
                whole = at + 1;
            }
            b',' => whole = at,
            _ => {}
        }
    }
    let mut open = Vec::new();
    for (_, byte) in structure.into_iter().filter(|(at, _)| *at < whole) {
        match byte {
            b'{' => open.push('}'),
            b'[' => open.push(']'),
            _ => _ = open.pop(),
        }
    }
    text[..whole].chars().chain(open.into_iter().rev()).collect()
}

/// The body of an answer to `count_tokens`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct TokenCount {
    pub input_tokens: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_arguments_that_were_cut_the_whole_members_are_left() {
        let whole = r#"{"a": "x, \"y\" {", "b": [1, {"c": null}], "d": true}"#;
        let up_to = |text: &str| &whole[..whole.find(text).unwrap() + text.len()];
        let cases = [
            ("", "{}"),
            ("{", "{}"),
            (r#"{"a"#, "{}"),
            (r#"{"a": "x, \"y\""#, "{}"),
            (up_to("{\","), r#"{"a":"x, \"y\" {"}"#),
            (up_to("[1,"), r#"{"a":"x, \"y\" {","b":[1]}"#),
            (up_to("{\"c"), r#"{"a":"x, \"y\" {","b":[1,{}]}"#),
            (&whole[..whole.len() - 1], r#"{"a":"x, \"y\" {","b":[1,{"c":null}]}"#),
            (whole, r#"{"a":"x, \"y\" {","b":[1,{"c":null}],"d":true}"#),
            ("nonsense", "{}"),
            ("[1]", "{}"),
        ];
        for (text, object) in cases {
            assert_eq!(serde_json::to_string(&Arguments(text.to_owned())).unwrap(), object, "{text}");
        }
    }
}
