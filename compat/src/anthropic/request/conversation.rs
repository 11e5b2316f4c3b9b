//! Messages of blocks to the messages that templates see: the results of calls as messages of their own, and messages of
//! one role that follow each other as one. Texts are moved, not copied.

use std::collections::HashSet;

use serde_json::Value;

use super::body::{BlockBody, MessageBody, SourceBody};
use crate::dialect::pass_over;
use crate::json::{
    Held, Object, StringOrList, StringOrObject, invalid, missing, not_served, one_of, unsupported_value,
};
use crate::native::{Content, ContentPart, ErrorEnvelope, FunctionCall, Image, Message, Role, ToolCall, detail};

/// What stands before the result of a call that has failed: templates know no other way to say so.
const FAILED: &str = "Error: ";

/// The messages, and whether the answer goes on from the last one. Adds to `ignored` what the model will not be shown.
///
/// # Errors
///
/// The first block that is malformed, out of its place, or not served.
pub fn translate(
    system: Option<StringOrList<Object<BlockBody>>>,
    messages: Vec<Object<MessageBody>>,
    ignored: &mut Vec<String>,
) -> Result<(Vec<Message>, bool), ErrorEnvelope> {
    let mut conversation = Conversation { done: Vec::new(), turn: None, unanswered: HashSet::new(), ignored };
    if let Some(system) = system {
        let parts = texts(system, "system")?;
        if !parts.is_empty() {
            conversation.done.push(said(Role::System, Some(content(parts))));
        }
    }
    if messages.is_empty() {
        return Err(invalid("messages", "at least one message is needed"));
    }
    for (index, Object(body)) in messages.into_iter().enumerate() {
        conversation.message(body, index)?;
    }
    conversation.finish()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Author {
    User,
    Assistant,
}

/// Messages of one author that follow each other.
struct Turn {
    author: Author,
    /// The first of them.
    index: usize,
    parts: Vec<ContentPart>,
    reasoning: Option<String>,
    calls: Vec<ToolCall>,
    /// What earlier calls have come to.
    results: Vec<Message>,
}

struct Conversation<'a> {
    done: Vec<Message>,
    turn: Option<Turn>,
    /// Ids of the calls whose results are missing.
    unanswered: HashSet<String>,
    ignored: &'a mut Vec<String>,
}

impl Conversation<'_> {
    fn message(&mut self, body: MessageBody, index: usize) -> Result<(), ErrorEnvelope> {
        let path = format!("messages[{index}]");
        let author = author(body.role.as_deref().ok_or_else(|| missing(format!("{path}.role")))?, &path)?;
        let content = body.content.ok_or_else(|| missing(format!("{path}.content")))?;
        if self.turn.as_ref().is_none_or(|turn| turn.author != author) {
            self.end_turn()?;
            let (parts, calls, results) = (Vec::new(), Vec::new(), Vec::new());
            self.turn = Some(Turn { author, index, parts, reasoning: None, calls, results });
        }
        let Some(turn) = &mut self.turn else { return Ok(()) };
        match content {
            StringOrList::String(text) if text.is_empty() => Err(empty(&path)),
            StringOrList::String(text) => {
                turn.parts.push(ContentPart::Text { text });
                Ok(())
            }
            StringOrList::List(blocks) if blocks.is_empty() => Err(empty(&path)),
            StringOrList::List(blocks) => blocks.into_iter().enumerate().try_for_each(|(index, Object(block))| {
                turn.add(block, &format!("{path}.content[{index}]"), &mut self.unanswered, self.ignored)
            }),
        }
    }

    /// A turn of the assistant at the end is the beginning of its answer.
    fn finish(mut self) -> Result<(Vec<Message>, bool), ErrorEnvelope> {
        let begun = self.turn.as_ref().filter(|turn| turn.author == Author::Assistant);
        let continues = begun.map(Turn::check_beginning).transpose()?.is_some();
        self.end_turn()?;
        Ok((self.done, continues))
    }

    fn end_turn(&mut self) -> Result<(), ErrorEnvelope> {
        let Some(turn) = self.turn.take() else { return Ok(()) };
        match turn.author {
            Author::User => {
                if !self.unanswered.is_empty() {
                    return Err(unanswered_call(format!("messages[{}].content", turn.index)));
                }
                self.done.extend(turn.results);
                if !turn.parts.is_empty() {
                    self.done.push(said(Role::User, Some(content(turn.parts))));
                }
            }
            Author::Assistant => {
                let silent = turn.parts.is_empty() && !turn.calls.is_empty();
                self.done.push(Message {
                    reasoning_content: turn.reasoning,
                    tool_calls: turn.calls,
                    ..said(Role::Assistant, (!silent).then(|| content(turn.parts)))
                });
            }
        }
        Ok(())
    }
}

impl Turn {
    /// Whether an answer can go on from it.
    fn check_beginning(&self) -> Result<(), ErrorEnvelope> {
        let path = format!("messages[{}].content", self.index);
        if !self.calls.is_empty() {
            return Err(unanswered_call(path));
        }
        match self.parts.last() {
            Some(ContentPart::Text { text }) if text.ends_with(char::is_whitespace) => {
                Err(invalid(path, "the beginning of an answer does not end with white space"))
            }
            Some(ContentPart::Text { text }) if !text.is_empty() => Ok(()),
            _ => Err(invalid(path, "the beginning of an answer ends with a text")),
        }
    }

    fn add(
        &mut self,
        mut body: BlockBody,
        path: &str,
        unanswered: &mut HashSet<String>,
        ignored: &mut Vec<String>,
    ) -> Result<(), ErrorEnvelope> {
        let kind = body.r#type.as_deref().ok_or_else(|| missing(format!("{path}.type")))?;
        check_content(&body, path)?;
        if !matches!(kind, "document" | "search_result")
            && let Some(source) = body.source.take()
        {
            // Read whatever the block is, so that what is no image is refused wherever it stands.
            let image = image(source, path)?;
            if (kind, self.author) == ("image", Author::User) {
                self.parts.push(image);
                return Ok(());
            }
            if kind != "image" {
                pass_over("messages[].content[].source", ignored);
            }
        }
        match (kind, self.author) {
            ("tool_use", Author::Assistant) => {
                let call = call(body, path)?;
                if !unanswered.insert(call.id.clone()) {
                    return Err(invalid(format!("{path}.id"), "each 'tool_use' block of a turn has an id of its own"));
                }
                self.calls.push(call);
            }
            ("thinking", Author::Assistant) => {
                let text = body.thinking.ok_or_else(|| missing(format!("{path}.thinking")))?;
                self.reasoning.get_or_insert_default().push_str(&text);
            }
            ("redacted_thinking", Author::Assistant) => {
                pass_over("messages[].content[].redacted_thinking", ignored);
            }
            ("tool_result", Author::User) => {
                let result = result(body, path)?;
                if !result.tool_call_id.as_deref().is_some_and(|id| unanswered.remove(id)) {
                    let why = "no 'tool_use' block of the message before has this id, or it has its result already";
                    return Err(invalid(format!("{path}.tool_use_id"), why));
                }
                self.results.push(result);
            }
            ("tool_use" | "thinking" | "redacted_thinking" | "tool_result", author) => {
                let author = if author == Author::User { "user" } else { "assistant" };
                let error = invalid(format!("{path}.type"), format!("no block of the {author} has this type"));
                return Err(error.with_detail(detail::UNSUPPORTED_VALUE));
            }
            ("image", Author::User) => return Err(missing(format!("{path}.source"))),
            _ => self.parts.push(text(body, path)?),
        }
        Ok(())
    }
}

fn author(word: &str, path: &str) -> Result<Author, ErrorEnvelope> {
    let path = format!("{path}.role");
    if word == "system" {
        let message = "Unexpected role \"system\". The Messages API accepts a top-level `system` parameter, not \"system\" \
                       as an input message role.";
        return Err(ErrorEnvelope::invalid(path, message).with_detail(detail::UNSUPPORTED_VALUE));
    }
    one_of(path, word, &[("user", Author::User), ("assistant", Author::Assistant)])
}

fn call(body: BlockBody, path: &str) -> Result<ToolCall, ErrorEnvelope> {
    let input = body.input.ok_or_else(|| missing(format!("{path}.input")))?;
    let name = body.name.ok_or_else(|| missing(format!("{path}.name")))?;
    Ok(ToolCall {
        id: body.id.ok_or_else(|| missing(format!("{path}.id")))?,
        r#type: Default::default(),
        function: FunctionCall { name, arguments: Value::Object(input).to_string() },
    })
}

fn result(body: BlockBody, path: &str) -> Result<Message, ErrorEnvelope> {
    let id = body.tool_use_id.ok_or_else(|| missing(format!("{path}.tool_use_id")))?;
    let path = format!("{path}.content");
    let held = body.content.map(|content| content.known(&path, "a string or an array")).transpose()?;
    let mut parts = held.map(|content| texts(content, &path)).transpose()?;
    if body.is_error == Some(true) {
        parts.get_or_insert_default().insert(0, ContentPart::Text { text: FAILED.to_owned() });
    }
    let content = content(parts.unwrap_or_default());
    Ok(Message { tool_call_id: Some(id), ..said(Role::Tool, Some(content)) })
}

/// Texts, where nothing else may stand.
fn texts(content: StringOrList<Object<BlockBody>>, path: &str) -> Result<Vec<ContentPart>, ErrorEnvelope> {
    match content {
        StringOrList::String(text) if text.is_empty() => Ok(Vec::new()),
        StringOrList::String(text) => Ok(vec![ContentPart::Text { text }]),
        StringOrList::List(blocks) => {
            let blocks = blocks.into_iter().enumerate();
            blocks.map(|(index, Object(block))| text(block, &format!("{path}[{index}]"))).collect()
        }
    }
}

fn text(body: BlockBody, path: &str) -> Result<ContentPart, ErrorEnvelope> {
    check_content(&body, path)?;
    match body.r#type.as_deref() {
        None => Err(missing(format!("{path}.type"))),
        Some("text") => {
            let text = body.text.ok_or_else(|| missing(format!("{path}.text")))?;
            Ok(ContentPart::Text { text })
        }
        Some("image") => Err(not_served(path, "image blocks stand in messages of the user only")),
        Some("document") => Err(unsupported_value(path, "document blocks")),
        Some("search_result") => Err(unsupported_value(path, "search result blocks")),
        Some(_) => Err(invalid(
            format!("{path}.type"),
            "the blocks that are served are 'text', 'image', 'tool_use', 'tool_result' and 'thinking', each in its place",
        )
        .with_detail(detail::UNSUPPORTED_VALUE)),
    }
}

fn image(source: StringOrObject<Object<SourceBody>>, path: &str) -> Result<ContentPart, ErrorEnvelope> {
    let StringOrObject::Object(Object(source)) = source else {
        let path = format!("{path}.source");
        let message = format!("Invalid type for '{path}': expected an object, but got a string instead.");
        return Err(ErrorEnvelope::invalid(path, message).with_detail(detail::INVALID_TYPE));
    };
    let need = |value: Option<String>, field: &str| value.ok_or_else(|| missing(format!("{path}.source.{field}")));
    let url = match source.r#type.as_deref() {
        None => return Err(missing(format!("{path}.source.type"))),
        Some("base64") => {
            let kinds = ["image/jpeg", "image/png", "image/gif", "image/webp"].map(|kind| (kind, kind));
            let kind = need(source.media_type, "media_type")?;
            let kind = one_of(format!("{path}.source.media_type"), &kind, &kinds)?;
            format!("data:{kind};base64,{}", need(source.data, "data")?)
        }
        Some("url") => need(source.url, "url")?,
        Some("file") => return Err(unsupported_value(format!("{path}.source"), "files that were uploaded")),
        Some(_) => return Err(invalid(format!("{path}.source.type"), "'base64' or 'url'")),
    };
    Ok(ContentPart::ImageUrl { image_url: Image { url, detail: None, place: Some(path.to_owned()) } })
}

/// Blocks that are not served hold what they like; they are refused by their type.
fn check_content(body: &BlockBody, path: &str) -> Result<(), ErrorEnvelope> {
    let served = ["text", "image", "tool_use", "tool_result", "thinking", "redacted_thinking"];
    match (&body.content, body.r#type.as_deref()) {
        (Some(Held::Object), Some(kind)) if served.contains(&kind) => {
            Held::Object.known(&format!("{path}.content"), "a string or an array")
        }
        _ => Ok(()),
    }
}

fn unanswered_call(path: String) -> ErrorEnvelope {
    invalid(path, "each 'tool_use' block has a 'tool_result' block in the message after it")
}

fn empty(path: &str) -> ErrorEnvelope {
    invalid(format!("{path}.content"), "a message is not empty")
}

fn content(mut parts: Vec<ContentPart>) -> Content {
    match (parts.len(), parts.pop()) {
        (1, Some(ContentPart::Text { text })) => Content::Text(text),
        (_, None) => Content::Text(String::new()),
        (_, Some(last)) => {
            parts.push(last);
            Content::Parts(parts)
        }
    }
}

fn said(role: Role, content: Option<Content>) -> Message {
    Message { content, ..Message::text(role, "") }
}
