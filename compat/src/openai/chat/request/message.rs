//! Messages: OpenAI's shapes, older ones included, to the one that templates see. Texts are moved, not copied.

use super::body::{CallBody, MessageBody, PartBody, ToolCallBody};
use super::tools;
use crate::dialect::pass_over;
use crate::json::{Object, StringOrList, invalid, missing, one_of, unsupported_value};
use crate::native::{Content, ContentPart, ErrorEnvelope, Message, Role, ToolCall};
use crate::openai::fields;

/// Adds to `ignored` what the model will not be shown.
///
/// # Errors
///
/// The first message that is malformed, or holds what is not served.
pub fn translate(messages: Vec<Object<MessageBody>>, ignored: &mut Vec<String>) -> Result<Vec<Message>, ErrorEnvelope> {
    let annotated = |Object(body): &Object<MessageBody>| body.annotations.as_ref().is_some_and(|list| !list.is_empty());
    if messages.iter().any(annotated) {
        ignored.push("messages[].annotations".to_owned());
    }
    let messages = messages.into_iter().enumerate();
    messages.map(|(index, Object(body))| message(body, &format!("messages[{index}]"), ignored)).collect()
}

/// A message's role; `function` is what `tool` was called before 2023-12.
#[derive(Clone, Copy)]
enum Author {
    Now(Role),
    Function,
}

fn message(body: MessageBody, path: &str, ignored: &mut Vec<String>) -> Result<Message, ErrorEnvelope> {
    let author = author(body.role.as_deref().ok_or_else(|| missing(format!("{path}.role")))?, path)?;
    if body.audio.is_some() {
        return Err(unsupported_value(format!("{path}.audio"), "audio"));
    }
    let role = match author {
        Author::Now(role) => role,
        Author::Function => Role::Tool,
    };
    let content = body.content.map(|content| contents(content, role, path, ignored)).transpose()?;
    // What the assistant said when it refused is what it said.
    let content = content.or(body.refusal.map(Content::Text));
    if content.is_none() && role != Role::Assistant {
        return Err(missing(format!("{path}.content")));
    }
    let mut tool_calls = calls(body.tool_calls.unwrap_or_default(), path)?;
    if let Some(Object(legacy)) = body.function_call {
        tool_calls.push(legacy_call(legacy, path)?);
    }
    let tool_call_id = match author {
        Author::Function => body.name.as_deref().map(legacy_id),
        Author::Now(_) => body.tool_call_id,
    };
    Ok(Message { role, content, name: body.name, reasoning_content: body.reasoning_content, tool_calls, tool_call_id })
}

fn author(word: &str, path: &str) -> Result<Author, ErrorEnvelope> {
    let words = [
        ("system", Author::Now(Role::System)),
        ("developer", Author::Now(Role::Developer)),
        ("user", Author::Now(Role::User)),
        ("assistant", Author::Now(Role::Assistant)),
        ("tool", Author::Now(Role::Tool)),
        ("function", Author::Function),
    ];
    one_of(format!("{path}.role"), word, &words)
}

fn contents(
    content: StringOrList<Object<PartBody>>,
    role: Role,
    path: &str,
    ignored: &mut Vec<String>,
) -> Result<Content, ErrorEnvelope> {
    match content {
        StringOrList::String(text) => Ok(Content::Text(text)),
        StringOrList::List(parts) => {
            let parts = parts.into_iter().enumerate();
            let parts =
                parts.map(|(index, Object(body))| part(body, role, format!("{path}.content[{index}]"), ignored));
            parts.collect::<Result<_, _>>().map(Content::Parts)
        }
    }
}

fn part(body: PartBody, role: Role, path: String, ignored: &mut Vec<String>) -> Result<ContentPart, ErrorEnvelope> {
    let text = |text: Option<String>, field: &str| {
        text.map(|text| ContentPart::Text { text }).ok_or_else(|| missing(format!("{path}.{field}")))
    };
    // Read whatever the part is, so that what is no image is refused wherever it stands.
    let image = body.image_url.map(|Object(image)| {
        fields::image(image.url, image.detail.as_deref(), (path.clone(), ["image_url.url", "image_url.detail"]))
    });
    let (image, sound) = (image.transpose()?, body.input_audio.map(|sound| fields::recording(sound, path.clone())));
    let sound = sound.transpose()?;
    let kind = body.r#type.as_deref().ok_or_else(|| missing(format!("{path}.type")))?;
    for (name, stray) in [
        ("image_url", image.is_some() && kind != "image_url"),
        ("input_audio", sound.is_some() && kind != "input_audio"),
    ] {
        if stray {
            pass_over(&format!("messages[].content[].{name}"), ignored);
        }
    }
    match kind {
        "text" => text(body.text, "text"),
        "refusal" => text(body.refusal, "refusal"),
        "image_url" => {
            fields::only_by_user(role, &path, "image parts")?;
            image.ok_or_else(|| missing(format!("{path}.image_url")))
        }
        "input_audio" => {
            fields::only_by_user(role, &path, "audio parts")?;
            sound.ok_or_else(|| missing(format!("{path}.input_audio")))
        }
        "file" => Err(unsupported_value(path, "file parts")),
        "video_url" => Err(unsupported_value(path, "video parts")),
        _ => {
            let known = "the parts that are served are 'text', 'refusal', 'image_url' and 'input_audio'";
            Err(invalid(format!("{path}.type"), known))
        }
    }
}

fn calls(calls: Vec<Object<ToolCallBody>>, path: &str) -> Result<Vec<ToolCall>, ErrorEnvelope> {
    let call = |(index, Object(body)): (usize, Object<ToolCallBody>)| {
        let path = format!("{path}.tool_calls[{index}]");
        tools::only_functions(body.r#type.as_deref(), &path)?;
        let Object(function) = body.function.ok_or_else(|| missing(format!("{path}.function")))?;
        Ok(ToolCall {
            id: body.id.ok_or_else(|| missing(format!("{path}.id")))?,
            r#type: Default::default(),
            function: tools::call(function, &format!("{path}.function"))?,
        })
    };
    calls.into_iter().enumerate().map(call).collect()
}

/// A call from when there was one per message, without an id.
fn legacy_call(body: CallBody, path: &str) -> Result<ToolCall, ErrorEnvelope> {
    let function = tools::call(body, &format!("{path}.function_call"))?;
    Ok(ToolCall { id: legacy_id(&function.name), r#type: Default::default(), function })
}

/// Ties the answer of a function to its call.
fn legacy_id(name: &str) -> String {
    format!("call_{name}")
}
