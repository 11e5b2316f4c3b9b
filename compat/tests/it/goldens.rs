//! What becomes of requests as real clients send them: `tests/golden/CLIENT/CASE.json`, recorded from the clients themselves.
//! Nothing in them is dropped in silence.

use std::fs;
use std::path::Path;

use serde_json::Value;
use sluicegate_compat::native::{ErrorEnvelope, TaskRequest};
use sluicegate_compat::openai::responses::{self, Prior, Record};
use sluicegate_compat::openai::{chat, completions, embeddings};
use sluicegate_compat::{anthropic, native::Event};
use uuid::Uuid;

use crate::events;

const CHAT: &str = "/v1/chat/completions";
const COMPLETIONS: &str = "/v1/completions";
const EMBEDDINGS: &str = "/v1/embeddings";
const MESSAGES: &str = "/v1/messages";
const RESPONSES: &str = "/v1/responses";

/// Members that may be there or not, to the same effect: where, which, and why.
const OF_NO_EFFECT: [(&str, &str, &str); 21] = [
    (CHAT, "messages[].annotations", "an earlier answer has an empty list of them"),
    (CHAT, "messages[].tool_calls[].type", "functions are all there is to call"),
    (CHAT, "modalities", "text is what an answer is made of"),
    (CHAT, "response_format.json_schema.description", "the schema is enforced, whatever it is for"),
    (CHAT, "response_format.json_schema.strict", "the schema is enforced either way"),
    (CHAT, "stream", "false is the default"),
    (CHAT, "tools[].type", "functions are all there is to call"),
    (COMPLETIONS, "max_tokens", "16 is the default"),
    (COMPLETIONS, "n", "1 is the default"),
    (COMPLETIONS, "stream", "false is the default"),
    (EMBEDDINGS, "encoding_format", "floats are the default"),
    (MESSAGES, "messages[].content[].is_error", "false is the default"),
    (MESSAGES, "messages[].content[].signature", "nobody has to prove where reasoning comes from"),
    (MESSAGES, "service_tier", "both of its values come to the only tier"),
    (MESSAGES, "stream", "false is the default"),
    (MESSAGES, "tools[].type", "a tool of the client is the default"),
    (RESPONSES, "input[].content[].detail", "auto is the default"),
    (RESPONSES, "input[].status", "every item that comes back is whole"),
    (RESPONSES, "input[].type", "an item with a role is a message"),
    (RESPONSES, "stream", "false is the default"),
    (RESPONSES, "truncation", "what does not fit is refused by default"),
];

/// A request as it was recorded.
#[derive(Debug, Clone)]
pub struct Golden {
    /// `CLIENT/CASE`.
    pub name: String,
    pub path: String,
    pub body: Value,
}

/// All goldens, by their names.
pub fn all() -> Vec<Golden> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let mut goldens = Vec::new();
    for client in fs::read_dir(&folder).unwrap() {
        for file in fs::read_dir(client.unwrap().path()).unwrap() {
            let path = file.unwrap().path();
            let name = path.strip_prefix(&folder).unwrap().with_extension("").display().to_string();
            let mut request: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
            assert_eq!(request["method"], "POST", "{name}");
            goldens.push(Golden {
                name,
                path: request["path"].as_str().unwrap().to_owned(),
                body: request["body"].take(),
            });
        }
    }
    goldens.sort_by(|one, other| one.name.cmp(&other.name));
    goldens
}

/// All that the gateway and the answer will know of a request.
#[derive(Debug, Clone, PartialEq)]
pub struct Understood {
    pub tasks: Vec<TaskRequest>,
    /// What the answer knows, the ignored fields included.
    pub context: String,
    pub ignored: Vec<String>,
}

impl Understood {
    /// Whether the member at this place is named as ignored, or one that it is part of.
    pub fn names(&self, place: &str) -> bool {
        let part = |name: &String| {
            place.strip_prefix(name.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        };
        self.ignored.iter().any(part)
    }
}

/// What becomes of a request, or why it is refused, in the client's words.
pub fn translated(path: &str, body: &[u8]) -> Result<Understood, ErrorEnvelope> {
    let held = |task: &TaskRequest| task.check().map_err(|wrong| ErrorEnvelope::invalid(wrong.param, wrong.message));
    match path {
        CHAT => {
            let (task, context) = chat::parse(body)?.into_task();
            held(&task).map_err(|error| context.rename(error))?;
            let shown = format!("{context:?}");
            Ok(Understood { tasks: vec![task], context: shown, ignored: context.ignored })
        }
        COMPLETIONS => {
            let (tasks, context) = completions::parse(body)?;
            for (prompt, task) in tasks.iter().enumerate() {
                held(task).map_err(|error| context.rename(Some(prompt), error))?;
            }
            let shown = format!("{context:?}");
            Ok(Understood { tasks, context: shown, ignored: context.ignored })
        }
        EMBEDDINGS => {
            let (task, context) = embeddings::parse(body)?;
            held(&task).map_err(|error| context.rename(error))?;
            let shown = format!("{context:?}");
            Ok(Understood { tasks: vec![task], context: shown, ignored: context.ignored })
        }
        RESPONSES => {
            let asked = responses::parse(body)?;
            let (stream, ignored) = (asked.stream, asked.ignored.clone());
            let (task, record) = asked.into_task(Uuid::nil(), &Greeted)?;
            held(&task).map_err(Record::rename)?;
            let context = format!("{stream} {ignored:?} {record:?}");
            Ok(Understood { tasks: vec![task], context, ignored })
        }
        MESSAGES | "/v1/messages/count_tokens" => {
            let read = if path == MESSAGES { anthropic::parse } else { anthropic::parse_count };
            let (task, context) = read(body)?;
            held(&task).map_err(|error| context.rename(error))?;
            let shown = format!("{context:?}");
            Ok(Understood { tasks: vec![task], context: shown, ignored: context.ignored })
        }
        other => panic!("no golden goes to {other}"),
    }
}

/// The response that goldens go on with.
struct Greeted;

impl Prior for Greeted {
    fn answer(&self, task: Uuid) -> Option<responses::Answer> {
        let greeting = responses::parse(br#"{"model": "builtin", "input": "Hello!"}"#).ok()?;
        let (_, record) = greeting.into_task(task, self).ok()?;
        let mut answer = responses::Answer::new(std::sync::Arc::new(record), 7000);
        let events: [Event; 2] =
            [events::token(0, 0, "Hello."), events::ended(sluicegate_compat::native::FinishReason::Stop)];
        events.iter().for_each(|event| answer.push(event));
        Some(answer)
    }
}

/// JSON pointers to the members of all objects in `value`, the deepest first.
pub fn members(value: &Value) -> Vec<String> {
    fn add(value: &Value, at: &str, found: &mut Vec<String>) {
        match value {
            Value::Object(members) => {
                for (name, value) in members {
                    let at = format!("{at}/{}", name.replace('~', "~0").replace('/', "~1"));
                    add(value, &at, found);
                    found.push(at);
                }
            }
            Value::Array(elements) => {
                elements.iter().enumerate().for_each(|(index, value)| add(value, &format!("{at}/{index}"), found));
            }
            _ => {}
        }
    }
    let mut found = Vec::new();
    add(value, "", &mut found);
    found
}

/// `value` without the member at `pointer`.
pub fn without(value: &Value, pointer: &str) -> Value {
    let (parent, name) = pointer.rsplit_once('/').unwrap();
    let mut value = value.clone();
    let name = name.replace("~1", "/").replace("~0", "~");
    value.pointer_mut(parent).unwrap().as_object_mut().unwrap().remove(&name).unwrap();
    value
}

/// `/messages/0/name` as the header of ignored fields has it: `messages[].name`.
pub fn place(pointer: &str) -> String {
    let segments = pointer.split('/').skip(1).map(|segment| segment.replace("~1", "/").replace("~0", "~"));
    segments.fold(String::new(), |place, segment| match segment.parse::<usize>() {
        Ok(_) => place + "[]",
        Err(_) if place.is_empty() => segment,
        Err(_) => format!("{place}.{segment}"),
    })
}

#[test]
fn each_golden_is_served_or_refused_by_name() {
    let (mut served, mut others) = (0, String::new());
    for golden in all() {
        let outcome = match translated(&golden.path, golden.body.to_string().as_bytes()) {
            Ok(understood) if understood.ignored.is_empty() => {
                served += 1;
                continue;
            }
            Ok(understood) => format!("served but for {}", understood.ignored.join(" ")),
            Err(error) => format!("refused: {}", error.param.expect("a refusal names its field")),
        };
        others += &format!("{} {outcome}\n", golden.name);
    }
    assert!(served >= 100, "{served}");
    insta::assert_snapshot!(others, @"
    anthropic-node/messages_tool_runner refused: thread
    anthropic-python/messages_options served but for cache_control system[].cache_control
    anthropic-python/messages_tool_runner refused: thread
    anthropic-python/messages_web_search refused: tools[0].type
    openai-python/chat_options served but for moderation prompt_cache_retention verbosity
    openai-python/chat_web_search refused: web_search_options
    openai-python/responses_options served but for prompt_cache_retention include.reasoning.encrypted_content reasoning.summary text.verbosity
    openai-python/responses_web_search refused: tools[0].type
    ");
}

#[test]
fn no_member_of_a_golden_is_dropped_in_silence() {
    let mut silent = Vec::new();
    let mut used = vec![false; OF_NO_EFFECT.len()];
    for golden in all() {
        let Ok(understood) = translated(&golden.path, golden.body.to_string().as_bytes()) else { continue };
        for pointer in members(&golden.body) {
            // A null is nothing.
            if golden.body.pointer(&pointer).is_some_and(Value::is_null) {
                continue;
            }
            let less = translated(&golden.path, without(&golden.body, &pointer).to_string().as_bytes());
            if less.as_ref() != Ok(&understood) {
                continue;
            }
            let place = place(&pointer);
            if understood.names(&place) {
                continue;
            }
            let known = |(path, member, _): &(&str, &str, &str)| *path == golden.path && *member == place;
            match OF_NO_EFFECT.iter().position(known) {
                Some(index) => used[index] = true,
                None => silent.push(format!("{} {place} ({})", golden.path, golden.name)),
            }
        }
    }
    silent.sort();
    assert!(silent.is_empty(), "nobody hears of\n{}", silent.join("\n"));
    let unused = OF_NO_EFFECT.iter().zip(used).find(|(_, used)| !used).map(|(member, _)| member);
    assert_eq!(unused, None, "it has an effect, or no golden has it");
}
