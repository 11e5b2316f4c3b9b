//! The endpoints whose requests are published: a good request of each, and what its fields need to be good.

use serde_json::{Value, json};
use sluicegate_compat::openai::{chat, completions, embeddings, responses};
use sluicegate_compat::{anthropic, native};

use super::record::Good;
use super::trial::Translated;

pub struct Endpoint {
    /// In the record.
    pub name: &'static str,
    pub path: &'static str,
    /// Of the request, in the OpenAPI document.
    pub schema: &'static str,
    pub base: fn() -> Value,
    pub good: Good,
    /// Adds to a body what the field at a path, or an object that stands there, goes with; and follows the object in the
    /// pointer to it.
    pub complete: fn(&str, Option<&str>, &mut Value, &mut String),
    pub translate: fn(&[u8]) -> Translated,
    /// What is taken, is not named, and changes nothing, each with the reason for which nothing is lost.
    pub exceptions: &'static [(&'static str, &'static str)],
}

impl Endpoint {
    pub fn exception(&self, subject: &str) -> Option<&'static str> {
        self.exceptions.iter().map(|(known, _)| *known).find(|known| *known == subject)
    }
}

/// Tasks of two responses that are stored before, so that requests can go on from them.
pub const STORED: [&str; 2] = ["01a20a7d-a21e-77b5-a166-c2154022f8c7", "01a20a7d-a21e-77b5-a166-c2154022f8c8"];

const IMAGE: &str = "data:image/png;base64,iVBORw0KGgo=";

fn two(one: impl Into<Value>, other: impl Into<Value>) -> Option<Vec<Value>> {
    Some(vec![one.into(), other.into()])
}

fn schemas() -> Option<Vec<Value>> {
    two(json!({"type": "object"}), json!({"type": "object", "required": ["a"]}))
}

/// Adds the fields that a body has not.
fn extend(body: &mut Value, fields: Value) {
    for (name, field) in fields.as_object().unwrap() {
        body.as_object_mut().unwrap().entry(name).or_insert_with(|| field.clone());
    }
}

/// Puts elements around the last one of a list.
fn surround(list: &mut Value, before: Value, after: Value) {
    let last = list.as_array_mut().unwrap().pop().unwrap();
    *list = Value::from_iter([before.as_array().unwrap().as_slice(), &[last], after.as_array().unwrap()].concat());
}

/// Sets a field wherever it is.
fn set_all(value: &mut Value, name: &str, to: &Value) {
    match value {
        Value::Object(fields) => fields.iter_mut().for_each(|(key, field)| match key == name {
            true => *field = to.clone(),
            false => set_all(field, name, to),
        }),
        Value::Array(list) => list.iter_mut().for_each(|element| set_all(element, name, to)),
        _ => {}
    }
}

fn user() -> Value {
    json!([{"role": "user", "content": "hi"}])
}

const ONE_TIER: (&str, &str) = ("service_tier", "there is one tier beside `flex`, and the answer says so");

pub const CHAT: Endpoint = Endpoint {
    name: "chat/completions",
    path: "/v1/chat/completions",
    schema: "ChatRequest",
    base: || json!({"model": "builtin", "messages": user()}),
    good: |place| match place {
        "model" => two("builtin", "second"),
        "logit_bias" => two(json!({"1": 1}), json!({"1": 2})),
        "ImageURL.url" => Some(vec![json!(IMAGE)]),
        "JSONSchema.schema" | "FunctionDefinition.parameters" => schemas(),
        "ChatCompletionAllowedToolsParam.tools" => {
            let tool = |name| json!([{"type": "function", "function": {"name": name}}]);
            two(tool("one"), tool("two"))
        }
        _ => None,
    },
    complete: |path, object, body, _| match (path, object) {
        ("top_logprobs", _) => extend(body, json!({"logprobs": true})),
        ("stream_options", _) => extend(body, json!({"stream": true})),
        ("tool_choice", _) => {
            let tool = |name| json!({"type": "function", "function": {"name": name}});
            extend(body, json!({"tools": [tool("one"), tool("two")]}));
        }
        ("function_call", _) => extend(body, json!({"functions": [{"name": "one"}, {"name": "two"}]})),
        ("messages", Some("ChatCompletionAssistantMessageParam")) => {
            surround(&mut body["messages"], user(), json!([]));
        }
        _ => {}
    },
    translate: |body| {
        let (task, mut context) = chat::parse(body)?.into_task();
        let ignored = std::mem::take(&mut context.ignored);
        // What errors call a field is no effect of it.
        context.names = Default::default();
        Ok((format!("{task:?} {context:?}"), ignored))
    },
    exceptions: &[
        ("modalities", "text is what is written anyway"),
        ("response_format.json_schema.description", "a schema is held to, whatever it is for"),
        ("response_format.json_schema.name", "a schema is known by nothing but itself"),
        ("response_format.json_schema.strict", "a schema is held to either way"),
        ONE_TIER,
    ],
};

pub const COMPLETIONS: Endpoint = Endpoint {
    name: "completions",
    path: "/v1/completions",
    schema: "CompletionRequest",
    base: || json!({"model": "builtin", "prompt": "hi"}),
    good: |place| match place {
        "model" => two("builtin", "second"),
        "logit_bias" => two(json!({"1": 1}), json!({"1": 2})),
        _ => None,
    },
    complete: |path, _, body, _| {
        if path == "stream_options" {
            extend(body, json!({"stream": true}));
        }
    },
    translate: |body| {
        let (tasks, mut context) = completions::parse(body)?;
        let ignored = std::mem::take(&mut context.ignored);
        Ok((format!("{tasks:?} {context:?}"), ignored))
    },
    exceptions: &[],
};

pub const EMBEDDINGS: Endpoint = Endpoint {
    name: "embeddings",
    path: "/v1/embeddings",
    schema: "EmbeddingRequest",
    base: || json!({"model": "builtin", "input": "hi"}),
    good: |place| if place == "model" { two("builtin", "second") } else { None },
    complete: |_, _, _, _| {},
    translate: |body| {
        let (task, mut context) = embeddings::parse(body)?;
        let ignored = std::mem::take(&mut context.ignored);
        Ok((format!("{task:?} {context:?}"), ignored))
    },
    exceptions: &[("encoding_format: float", "it is the default")],
};

pub const RESPONSES: Endpoint = Endpoint {
    name: "responses",
    path: "/v1/responses",
    schema: "ResponseRequest",
    base: || json!({"model": "builtin", "input": "hi"}),
    good: |place| match place {
        "model" => two("builtin", "second"),
        "previous_response_id" => two(format!("resp_{}", STORED[0]), format!("resp_{}", STORED[1])),
        "ItemReference.id" => {
            let [one, other] = STORED.map(|id| format!("msg_{}o0", id.replace('-', "")));
            two(one, other)
        }
        "ResponseFormatTextJSONSchemaConfigParam.schema" | "FunctionToolParam.parameters" => schemas(),
        "ToolChoiceAllowedParam.tools" => {
            let tool = |name| json!([{"type": "function", "name": name}]);
            two(tool("one"), tool("two"))
        }
        "ResponseOutputTextParam.annotations" => {
            two(json!([]), json!([{"type": "file_path", "file_id": "one", "index": 1}]))
        }
        "ResponseReasoningItemParam.summary" => two(json!([]), json!([{"type": "summary_text", "text": "one"}])),
        _ => None,
    },
    complete: |path, object, body, pointer| match (path, object) {
        ("stream_options", _) => extend(body, json!({"stream": true})),
        ("tool_choice", _) => {
            let tool = |name| json!({"type": "function", "name": name});
            extend(body, json!({"tools": [tool("one"), tool("two")]}));
        }
        ("input", Some("ResponseFunctionToolCallParam")) => {
            let output = json!([{"type": "function_call_output", "call_id": "one", "output": "one"}]);
            surround(&mut body["input"], user(), output);
        }
        ("input", Some("FunctionCallOutput")) => {
            let call = json!({"type": "function_call", "call_id": "one", "name": "one", "arguments": "{}"});
            body["input"][0]["call_id"] = json!("one");
            surround(&mut body["input"], json!([user()[0], call]), json!([]));
        }
        ("input", Some(_)) => surround(&mut body["input"], user(), json!([])),
        ("input[].content", Some("ResponseInputImageParam")) => {
            body.pointer_mut(pointer).unwrap()["content"][0]["image_url"] = json!(IMAGE);
        }
        ("input[].call_id", _) => {
            let id = body.pointer(pointer).unwrap()["call_id"].clone();
            set_all(body, "call_id", &id);
        }
        _ => {}
    },
    translate: |body| {
        let mut asked = responses::parse(body)?;
        let ignored = std::mem::take(&mut asked.ignored);
        Ok((format!("{asked:?}"), ignored))
    },
    exceptions: &[
        ("input[].status", "an item that comes back is whole"),
        ("include: message.input_image.image_url", "images are there always"),
        ("text.verbosity: medium", "it is the default"),
        ("truncation: disabled", "it is the default"),
        ONE_TIER,
    ],
};

pub const MESSAGES: Endpoint = Endpoint {
    name: "messages",
    path: "/v1/messages",
    schema: "MessagesRequest",
    base: || json!({"model": "builtin", "max_tokens": 6000, "messages": user()}),
    good: message_values,
    complete: complete_message,
    translate: |body| translated(anthropic::parse(body)?),
    exceptions: &[
        ("messages[].content[].signature", "nobody has to prove where reasoning comes from"),
        ("service_tier", "there is one tier"),
        ("thinking.display: summarized", "it is the default"),
    ],
};

pub const COUNT: Endpoint = Endpoint {
    name: "messages/count_tokens",
    path: "/v1/messages/count_tokens",
    schema: "CountRequest",
    base: || json!({"model": "builtin", "messages": user()}),
    translate: |body| translated(anthropic::parse_count(body)?),
    exceptions: &[
        ("messages[].content[].signature", "nobody has to prove where reasoning comes from"),
        ("thinking.display: summarized", "it is the default"),
    ],
    ..MESSAGES
};

fn translated((task, mut context): (native::TaskRequest, anthropic::MessagesContext)) -> Translated {
    let ignored = std::mem::take(&mut context.ignored);
    context.names = anthropic::MessagesContext::new("any").names;
    Ok((format!("{task:?} {context:?}"), ignored))
}

fn message_values(place: &str) -> Option<Vec<Value>> {
    match place {
        "model" => two("builtin", "second"),
        "max_tokens" => two(6000, 7000),
        "ThinkingConfigEnabledParam.budget_tokens" => two(1024, 5000),
        "ToolParam.input_schema" | "JSONOutputFormatParam.schema" => schemas(),
        _ => None,
    }
}

fn complete_message(path: &str, object: Option<&str>, body: &mut Value, pointer: &mut String) {
    let call = |id: &str| json!([{"type": "tool_use", "id": id, "name": "one", "input": {}}]);
    match (path, object) {
        ("tool_choice", _) => {
            let tool = |name| json!({"name": name, "input_schema": {"type": "object"}});
            extend(body, json!({"tools": [tool("one"), tool("two")]}));
        }
        ("messages", Some("AssistantMessageParam")) => surround(&mut body["messages"], user(), user()),
        ("messages[].content", Some("ToolUseBlockParam")) if pointer == "/messages/1" => {
            body["messages"][2]["content"] = json!([{"type": "tool_result", "tool_use_id": "one"}]);
        }
        ("messages[].content", Some("ToolResultBlockParam")) if pointer == "/messages/0" => {
            let assistant = json!({"role": "assistant", "content": call("one")});
            surround(&mut body["messages"], json!([user()[0], assistant]), json!([]));
            *pointer = "/messages/2".to_owned();
        }
        ("messages[].content[].tool_use_id", _) => {
            let id = body.pointer(pointer).unwrap()["tool_use_id"].clone();
            body["messages"][1]["content"][0]["id"] = id;
        }
        ("messages[].content[].id", _) => {
            let id = body.pointer(pointer).unwrap()["id"].clone();
            set_all(body, "tool_use_id", &id);
        }
        _ => {}
    }
}
