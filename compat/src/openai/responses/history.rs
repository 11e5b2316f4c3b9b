//! Items to and from what a model is shown.

use std::collections::HashSet;

use uuid::Uuid;

use super::body::{ItemBody, PartBody};
use super::item::{self, Item, Part, Place, Status};
use crate::dialect::pass_over;
use crate::json::{Held, Object, StringOrList, invalid, missing, one_of, unsupported_value};
use crate::native::{Content, ErrorCode, ErrorEnvelope, FunctionCall, FunctionTag, Message, Role, ToolCall, detail};
use crate::openai::fields;

/// Types of items that belong to tools and services which are not here.
const NOT_SERVED: [&str; 26] = [
    "additional_tools",
    "apply_patch_call",
    "apply_patch_call_output",
    "code_interpreter_call",
    "compaction",
    "compaction_trigger",
    "computer_call",
    "computer_call_output",
    "configuration_update",
    "custom_tool_call",
    "custom_tool_call_output",
    "file_search_call",
    "image_generation_call",
    "local_shell_call",
    "local_shell_call_output",
    "mcp_approval_request",
    "mcp_approval_response",
    "mcp_call",
    "mcp_list_tools",
    "program",
    "program_output",
    "shell_call",
    "shell_call_output",
    "tool_search_call",
    "tool_search_output",
    "web_search_call",
];

/// What a request adds to a conversation.
#[derive(Debug)]
pub enum Added {
    Item(Item),
    /// An item of an earlier response, by its id.
    Reference(String),
}

/// Reads the input of the response that the task `task` makes. Adds to `ignored` what the model will not be shown.
///
/// # Errors
///
/// The first item that is malformed, or is not served.
pub fn read(input: StringOrList<Object<ItemBody>>, ignored: &mut Vec<String>) -> Result<Vec<Added>, ErrorEnvelope> {
    let items = match input {
        StringOrList::String(text) => {
            let content = vec![Part::InputText { text }];
            return Ok(vec![Added::Item(message(None, Role::User, content))]);
        }
        StringOrList::List(items) => items,
    };
    let items = items.into_iter().enumerate();
    items.map(|(index, Object(body))| one(body, &format!("input[{index}]"), ignored)).collect()
}

fn message(id: Option<String>, role: Role, content: Vec<Part>) -> Item {
    Item::Message { id: id.unwrap_or_default(), role, status: Status::Completed, content }
}

#[derive(Clone, Copy)]
enum Kind {
    Message,
    Call,
    Output,
    Reasoning,
    Reference,
}

fn one(body: ItemBody, path: &str, ignored: &mut Vec<String>) -> Result<Added, ErrorEnvelope> {
    let words = [
        ("message", Kind::Message),
        ("function_call", Kind::Call),
        ("function_call_output", Kind::Output),
        ("reasoning", Kind::Reasoning),
        ("item_reference", Kind::Reference),
    ];
    let kind = match body.r#type.as_deref() {
        // The shortest forms of a reference and of a message have no type.
        None if body.id.is_some() && body.role.is_none() && body.content.is_none() => Kind::Reference,
        None => Kind::Message,
        Some(word) if NOT_SERVED.contains(&word) => {
            return Err(unsupported_value(format!("{path}.type"), "items of this type"));
        }
        Some(word) => one_of(format!("{path}.type"), word, &words)?,
    };
    if body.name.is_some() && !matches!(kind, Kind::Call) {
        pass_over("input[].name", ignored);
    }
    let need = |value: Option<String>, field: &str| value.ok_or_else(|| missing(format!("{path}.{field}")));
    // Read whatever the item is, so that what is no content is refused wherever it stands.
    let said_by = match (kind, body.role.as_deref()) {
        (Kind::Message, Some(word)) => role(word, path)?,
        (Kind::Reasoning, _) => Role::Assistant,
        _ => Role::User,
    };
    let content =
        body.content.map(|content| parts(content, said_by, &format!("{path}.content"), ignored)).transpose()?;
    let known = |arguments: Held<_>| arguments.known(&format!("{path}.arguments"), "a string");
    let arguments = body.arguments.map(known).transpose()?;
    let known = |output: Held<_>| output.known(&format!("{path}.output"), "a string or an array");
    let output = body.output.map(known).transpose()?;
    let output = output.map(|output| parts(output, Role::Tool, &format!("{path}.output"), ignored)).transpose()?;
    if content.is_some() && !matches!(kind, Kind::Message | Kind::Reasoning) {
        pass_over("input[].content", ignored);
    }
    if output.is_some() && !matches!(kind, Kind::Output) {
        pass_over("input[].output", ignored);
    }
    let (id, status) = (body.id.unwrap_or_default(), Status::Completed);
    let item = match kind {
        Kind::Message => {
            need(body.role, "role")?;
            message(Some(id), said_by, content.ok_or_else(|| missing(format!("{path}.content")))?)
        }
        Kind::Call => Item::FunctionCall {
            id,
            call_id: need(body.call_id, "call_id")?,
            name: need(body.name, "name")?,
            arguments: need(arguments, "arguments")?,
            status,
        },
        Kind::Output => {
            let output = output.ok_or_else(|| missing(format!("{path}.output")))?;
            let output = output.iter().map(Part::text).collect();
            Item::FunctionCallOutput { id, call_id: need(body.call_id, "call_id")?, output, status }
        }
        Kind::Reasoning => {
            if body.encrypted_content.is_some() {
                pass_over("input[].encrypted_content", ignored);
            }
            if body.summary.as_ref().is_some_and(|summary| !summary.is_empty()) {
                pass_over("input[].summary", ignored);
            }
            let content = content.unwrap_or_default().into_iter();
            let content = content.map(|part| Part::ReasoningText { text: into_text(part) }).collect();
            Item::Reasoning { id, summary: Vec::new(), content, encrypted_content: None, status }
        }
        Kind::Reference if id.is_empty() => return Err(missing(format!("{path}.id"))),
        Kind::Reference => return Ok(Added::Reference(id)),
    };
    Ok(Added::Item(item))
}

fn role(word: &str, path: &str) -> Result<Role, ErrorEnvelope> {
    let words = [
        ("system", Role::System),
        ("developer", Role::Developer),
        ("user", Role::User),
        ("assistant", Role::Assistant),
    ];
    one_of(format!("{path}.role"), word, &words)
}

fn into_text(part: Part) -> String {
    match part {
        Part::InputText { text } | Part::OutputText { text, .. } | Part::ReasoningText { text } => text,
        Part::Refusal { refusal } => refusal,
        Part::InputImage { .. } | Part::InputAudio { .. } => String::new(),
    }
}

fn parts(
    content: StringOrList<Object<PartBody>>,
    role: Role,
    path: &str,
    ignored: &mut Vec<String>,
) -> Result<Vec<Part>, ErrorEnvelope> {
    let said = |text: String| match role {
        Role::Assistant => Part::OutputText { text, annotations: Vec::new(), logprobs: Vec::new() },
        _ => Part::InputText { text },
    };
    let parts = match content {
        StringOrList::String(text) => return Ok(vec![said(text)]),
        StringOrList::List(parts) => parts.into_iter().enumerate(),
    };
    let part = |(index, Object(body)): (usize, Object<PartBody>)| {
        let path = format!("{path}[{index}]");
        if body.annotations.as_ref().is_some_and(|list| !list.is_empty()) {
            pass_over("input[].content[].annotations", ignored);
        }
        if body.logprobs.as_ref().is_some_and(|list| !list.is_empty()) {
            pass_over("input[].content[].logprobs", ignored);
        }
        let need = |value: Option<String>, field: &str| value.ok_or_else(|| missing(format!("{path}.{field}")));
        let kind = body.r#type.as_deref().ok_or_else(|| missing(format!("{path}.type")))?;
        if kind == "input_file" {
            return Err(unsupported_value(path, "file parts"));
        }
        if body.file_id.is_some() {
            return Err(unsupported_value(format!("{path}.file_id"), "files that were uploaded"));
        }
        // Read whatever the part is, so that what is no image is refused wherever it stands.
        let at = || (path.clone(), ["image_url", "detail"]);
        let image = body.image_url.map(|url| fields::image(Some(url), body.detail.as_deref(), at())).transpose()?;
        let sound = body.input_audio.map(|sound| fields::recording(sound, path.clone())).transpose()?;
        for (name, stray) in [
            ("image_url", image.is_some() && kind != "input_image"),
            ("input_audio", sound.is_some() && kind != "input_audio"),
            ("detail", body.detail.is_some() && kind != "input_image"),
        ] {
            if stray {
                pass_over(&format!("input[].content[].{name}"), ignored);
            }
        }
        match kind {
            "input_text" | "output_text" | "text" | "reasoning_text" | "summary_text" => {
                need(body.text, "text").map(said)
            }
            "refusal" => need(body.refusal, "refusal").map(|refusal| Part::Refusal { refusal }),
            "input_image" => {
                fields::only_by_user(role, &path, "image parts")?;
                image.map(Part::from).ok_or_else(|| missing(format!("{path}.image_url")))
            }
            "input_audio" => {
                fields::only_by_user(role, &path, "audio parts")?;
                sound.map(Part::from).ok_or_else(|| missing(format!("{path}.input_audio")))
            }
            "computer_screenshot" => Err(unsupported_value(path, "screenshots")),
            _ => Err(invalid(
                format!("{path}.type"),
                "the parts that are served are 'input_text', 'input_image', 'input_audio', 'output_text' and 'refusal'",
            )),
        }
    };
    parts.map(part).collect()
}

/// Gives the items that came without an id one, from `first` on.
pub fn name(items: &mut [Item], first: usize, task: Uuid) {
    for (index, item) in items.iter_mut().enumerate().skip(first) {
        let (kind, id) = match item {
            Item::Message { id, .. } => ("msg", id),
            Item::FunctionCall { id, .. } => ("fc", id),
            Item::FunctionCallOutput { id, .. } => ("fco", id),
            Item::Reasoning { id, .. } => ("rs", id),
        };
        if id.is_empty() {
            *id = item::id(kind, task, Place::Input(index));
        }
    }
}

/// What the model is shown of a conversation: what the assistant reasoned, said and called between two others is one
/// message.
///
/// # Errors
///
/// An output without its call, or a call without its output: a model cannot make sense of either.
pub fn messages(instructions: Option<&str>, items: &[Item]) -> Result<Vec<Message>, ErrorEnvelope> {
    let mut messages = Vec::with_capacity(items.len() + 1);
    messages.extend(instructions.map(|text| Message::text(Role::System, text)));
    let (mut open, mut called) = (None::<Message>, HashSet::new());
    for item in items {
        match item {
            Item::Message { role: Role::Assistant, content, .. } => {
                // Two in a row are two.
                if open.as_ref().is_some_and(|message| message.content.is_some() || !message.tool_calls.is_empty()) {
                    messages.extend(open.take());
                }
                open.get_or_insert_with(assistant).content = Some(contents(content));
            }
            Item::Reasoning { content, .. } => {
                let text: String = content.iter().map(Part::text).collect();
                if !text.is_empty() {
                    messages.extend(open.take());
                    open.get_or_insert_with(assistant).reasoning_content = Some(text);
                }
            }
            Item::FunctionCall { call_id, name, arguments, .. } => {
                called.insert(call_id.as_str());
                open.get_or_insert_with(assistant).tool_calls.push(ToolCall {
                    id: call_id.clone(),
                    r#type: FunctionTag::Function,
                    function: FunctionCall { name: name.clone(), arguments: arguments.clone() },
                });
            }
            Item::FunctionCallOutput { call_id, output, .. } => {
                if !called.remove(call_id.as_str()) {
                    return Err(unpaired("call found for function call output with", call_id));
                }
                messages.extend(open.take());
                let message = Message::text(Role::Tool, output.as_str());
                messages.push(Message { tool_call_id: Some(call_id.clone()), ..message });
            }
            Item::Message { role, content, .. } => {
                messages.extend(open.take());
                messages.push(Message { content: Some(contents(content)), ..Message::text(*role, "") });
            }
        }
    }
    messages.extend(open);
    let unanswered = items.iter().find_map(|item| match item {
        Item::FunctionCall { call_id, .. } => called.get(call_id.as_str()),
        _ => None,
    });
    unanswered.map_or(Ok(messages), |call_id| Err(unpaired("output found for function call with", call_id)))
}

fn unpaired(what: &str, call_id: &str) -> ErrorEnvelope {
    let shown: String = call_id.chars().take(64).collect();
    let message = format!("No tool {what} call_id {shown}.");
    let error = ErrorEnvelope::new(ErrorCode::InvalidParams, message).with_detail(detail::INVALID_VALUE);
    ErrorEnvelope { param: Some("input".to_owned()), ..error }
}

fn assistant() -> Message {
    Message { content: None, ..Message::text(Role::Assistant, "") }
}

fn contents(parts: &[Part]) -> Content {
    match parts {
        [one] if !one.is_shown() => Content::Text(one.text().to_owned()),
        many => Content::Parts(many.iter().map(Part::content).collect()),
    }
}
