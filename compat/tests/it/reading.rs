//! What clients make of an answer, in every dialect: the events that the bytes of a stream say however the network cuts
//! them, and the answer that their deltas add up to; and what a whole answer says. The gateway's own tests read by it too.

use std::collections::BTreeMap;
use std::convert::Infallible;

use eventsource_stream::Eventsource;
use futures_util::{FutureExt as _, StreamExt as _, stream};
use serde_json::Value;

/// One server-sent event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerSent {
    pub id: String,
    pub name: String,
    pub data: String,
}

impl ServerSent {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.data).unwrap_or_else(|error| panic!("{error}: {}", self.data))
    }
}

/// The events that a client reads from `bytes`, which arrive in pieces that end at `cuts`.
pub fn read(bytes: &[u8], cuts: &[usize]) -> Vec<ServerSent> {
    let mut cuts: Vec<_> = cuts.iter().map(|cut| cut % (bytes.len() + 1)).chain([0, bytes.len()]).collect();
    cuts.sort_unstable();
    let pieces: Vec<_> = cuts.windows(2).map(|ends| Ok::<_, Infallible>(bytes[ends[0]..ends[1]].to_vec())).collect();
    let events = stream::iter(pieces).eventsource().map(|event| event.unwrap());
    let events: Vec<_> = events.collect().now_or_never().expect("a stream of pieces at hand never waits");
    events.into_iter().map(|event| ServerSent { id: event.id, name: event.event, data: event.data }).collect()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    Native,
    Chat,
    Completions,
    Responses,
    Messages,
}

/// What one choice of an answer says, in no dialect's words but for `finish`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Spoken {
    pub text: String,
    pub reasoning: String,
    /// In the order in which they were made.
    pub calls: Vec<Call>,
    /// Why it ended, in the dialect's words.
    pub finish: Value,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Call {
    pub id: String,
    pub name: String,
    /// As the model wrote them, but for messages: there they are an object, written here as compact JSON.
    pub arguments: String,
}

impl Dialect {
    pub const ALL: [Self; 5] = [Self::Native, Self::Chat, Self::Completions, Self::Responses, Self::Messages];

    /// Whether a stream of it ends with an event that is no JSON.
    pub const fn says_done(self) -> bool {
        matches!(self, Self::Chat | Self::Completions)
    }

    /// What the events of a stream that ends as it should add up to.
    ///
    /// # Panics
    ///
    /// Where an event is none of the dialect's, or is out of its place.
    pub fn joined(self, events: &[ServerSent]) -> Vec<Spoken> {
        let events = match (self.says_done(), events.split_last()) {
            (true, Some((last, events))) => {
                assert_eq!(last.data, "[DONE]");
                events
            }
            (true, None) => panic!("an empty stream"),
            (false, _) => events,
        };
        let mut choices = Choices::default();
        for event in events {
            let data = event.json();
            match self {
                Self::Native => choices.native(&event.name, &data),
                Self::Chat => data["choices"].as_array().unwrap().iter().for_each(|part| choices.chunk(part)),
                Self::Completions => data["choices"].as_array().unwrap().iter().for_each(|part| choices.piece(part)),
                Self::Responses => choices.response_event(&event.name, &data),
                Self::Messages => choices.message_event(&event.name, &data),
            }
        }
        choices.finished(self)
    }

    /// What a whole answer says; of a native task, its texts alone.
    pub fn whole(self, body: &Value) -> Vec<Spoken> {
        let list = |value: &Value| value.as_array().unwrap_or_else(|| panic!("no list in {body}")).clone();
        match self {
            Self::Native => {
                let outputs = body.get("outputs").map_or_else(|| vec![body["output"].clone()], list);
                let text = |output: &Value| Spoken { text: text(output), ..Spoken::default() };
                outputs.iter().map(text).collect()
            }
            Self::Chat => list(&body["choices"]).iter().map(chat_choice).collect(),
            Self::Completions => {
                let choice = |choice: &Value| Spoken {
                    text: text(&choice["text"]),
                    finish: choice["finish_reason"].clone(),
                    ..Spoken::default()
                };
                list(&body["choices"]).iter().map(choice).collect()
            }
            Self::Responses => {
                let mut spoken = Spoken { finish: body["status"].clone(), ..Spoken::default() };
                list(&body["output"]).iter().for_each(|item| spoken.add_item(item));
                vec![spoken]
            }
            Self::Messages => {
                let mut spoken = Spoken { finish: body["stop_reason"].clone(), ..Spoken::default() };
                list(&body["content"]).iter().for_each(|block| spoken.add_block(block));
                vec![spoken]
            }
        }
    }
}

/// The choices of a stream so far, each with its calls by their place in it.
#[derive(Debug, Default)]
struct Choices(BTreeMap<u64, (Spoken, BTreeMap<u64, Call>)>);

impl Choices {
    fn of(&mut self, choice: &Value) -> (&mut Spoken, &mut BTreeMap<u64, Call>) {
        let (spoken, calls) = self.0.entry(choice.as_u64().unwrap_or_default()).or_default();
        (spoken, calls)
    }

    fn native(&mut self, name: &str, data: &Value) {
        match name {
            "token" => {
                let (spoken, calls) = self.of(&data["c"]);
                match data["kind"].as_str() {
                    None => spoken.text.push_str(&text(&data["t"])),
                    Some("reasoning") => spoken.reasoning.push_str(&text(&data["t"])),
                    Some("tool") => {
                        let tool = &data["tool"];
                        let call = calls.entry(tool["index"].as_u64().unwrap()).or_default();
                        call.add(&tool["id"], &tool["name"], &tool["arguments"]);
                    }
                    Some(kind) => panic!("a token of the kind {kind}"),
                }
            }
            "end" => {
                // A choice that said nothing is here alone.
                let several = data["choices"].as_array().cloned();
                for end in several.unwrap_or_else(|| vec![data.clone()]) {
                    self.of(&end["choice"]).0.end(&end["finish_reason"]);
                }
            }
            "started" | "metrics" => {}
            other => panic!("an event {other}"),
        }
    }

    fn chunk(&mut self, part: &Value) {
        let (spoken, calls) = self.of(&part["index"]);
        let delta = &part["delta"];
        spoken.text.push_str(&text(&delta["content"]));
        spoken.reasoning.push_str(&text(&delta["reasoning_content"]));
        for call in delta["tool_calls"].as_array().into_iter().flatten() {
            let function = &call["function"];
            let place = calls.entry(call["index"].as_u64().unwrap()).or_default();
            place.add(&call["id"], &function["name"], &function["arguments"]);
        }
        spoken.end(&part["finish_reason"]);
    }

    fn piece(&mut self, part: &Value) {
        let (spoken, _) = self.of(&part["index"]);
        spoken.text.push_str(&text(&part["text"]));
        spoken.end(&part["finish_reason"]);
    }

    fn response_event(&mut self, name: &str, data: &Value) {
        assert_eq!(data["type"], name);
        let (spoken, calls) = self.of(&Value::Null);
        let index = data["output_index"].as_u64().unwrap_or_default();
        match name {
            "response.output_item.added" if data["item"]["type"] == "function_call" => {
                let item = &data["item"];
                let call = Call { id: text(&item["call_id"]), name: text(&item["name"]), ..Call::default() };
                assert_eq!(calls.insert(index, call), None);
            }
            "response.output_text.delta" => spoken.text.push_str(&text(&data["delta"])),
            "response.reasoning_text.delta" => spoken.reasoning.push_str(&text(&data["delta"])),
            "response.function_call_arguments.delta" => {
                calls.get_mut(&index).unwrap().arguments.push_str(&text(&data["delta"]));
            }
            "response.completed" | "response.incomplete" => spoken.finish = data["response"]["status"].clone(),
            "error" | "response.failed" => panic!("{data}"),
            _ => {}
        }
    }

    fn message_event(&mut self, name: &str, data: &Value) {
        assert_eq!(data["type"], name);
        let (spoken, calls) = self.of(&Value::Null);
        let index = data["index"].as_u64().unwrap_or_default();
        match name {
            "content_block_start" if data["content_block"]["type"] == "tool_use" => {
                let block = &data["content_block"];
                let call = Call { id: text(&block["id"]), name: text(&block["name"]), ..Call::default() };
                assert_eq!(calls.insert(index, call), None);
            }
            "content_block_delta" => match data["delta"]["type"].as_str().unwrap() {
                "text_delta" => spoken.text.push_str(&text(&data["delta"]["text"])),
                "thinking_delta" => spoken.reasoning.push_str(&text(&data["delta"]["thinking"])),
                "input_json_delta" => {
                    calls.get_mut(&index).unwrap().arguments.push_str(&text(&data["delta"]["partial_json"]));
                }
                "signature_delta" => {}
                other => panic!("a delta {other}"),
            },
            "message_delta" => spoken.finish = data["delta"]["stop_reason"].clone(),
            "message_start" | "content_block_start" | "content_block_stop" | "message_stop" | "ping" => {}
            other => panic!("an event {other}"),
        }
    }

    fn finished(self, dialect: Dialect) -> Vec<Spoken> {
        let finished = |(mut spoken, calls): (Spoken, BTreeMap<u64, Call>)| {
            spoken.calls = calls.into_values().collect();
            if dialect == Dialect::Messages {
                spoken.calls.iter_mut().for_each(|call| call.arguments = compact(&call.arguments));
            }
            spoken
        };
        self.0.into_values().map(finished).collect()
    }
}

impl Spoken {
    fn end(&mut self, reason: &Value) {
        if !reason.is_null() {
            assert!(self.finish.is_null(), "a choice that ends twice");
            self.finish = reason.clone();
        }
    }

    fn add_item(&mut self, item: &Value) {
        let said = || item["content"].as_array().into_iter().flatten().map(|part| text(&part["text"]));
        match item["type"].as_str().unwrap() {
            "message" => self.text.extend(said()),
            "reasoning" => self.reasoning.extend(said()),
            "function_call" => self.calls.push(Call {
                id: text(&item["call_id"]),
                name: text(&item["name"]),
                arguments: text(&item["arguments"]),
            }),
            other => panic!("an item {other}"),
        }
    }

    fn add_block(&mut self, block: &Value) {
        match block["type"].as_str().unwrap() {
            "text" => self.text.push_str(&text(&block["text"])),
            "thinking" => self.reasoning.push_str(&text(&block["thinking"])),
            "tool_use" => self.calls.push(Call {
                id: text(&block["id"]),
                name: text(&block["name"]),
                arguments: block["input"].to_string(),
            }),
            other => panic!("a block {other}"),
        }
    }

    /// The same as every dialect says it: without what is a dialect's own way to write it.
    pub fn plain(mut self) -> Self {
        // Where it is all that there is beside calls or reasoning, it is no block of a message.
        if self.text.trim().is_empty() {
            self.text.clear();
        }
        for call in &mut self.calls {
            call.id = call.id.replace("toolu_", "call_");
            call.arguments = compact(&call.arguments);
        }
        self.finish = Value::Null;
        self
    }
}

impl Call {
    fn add(&mut self, id: &Value, name: &Value, arguments: &Value) {
        for (field, more) in [(&mut self.id, id), (&mut self.name, name), (&mut self.arguments, arguments)] {
            field.push_str(&text(more));
        }
    }
}

fn chat_choice(choice: &Value) -> Spoken {
    let message = &choice["message"];
    let call = |call: &Value| Call {
        id: text(&call["id"]),
        name: text(&call["function"]["name"]),
        arguments: text(&call["function"]["arguments"]),
    };
    Spoken {
        text: text(&message["content"]),
        reasoning: text(&message["reasoning_content"]),
        calls: message["tool_calls"].as_array().into_iter().flatten().map(call).collect(),
        finish: choice["finish_reason"].clone(),
    }
}

/// Arguments as clients read them: none are an empty object.
fn compact(arguments: &str) -> String {
    let read = || serde_json::from_str::<Value>(arguments).unwrap_or_else(|error| panic!("{error}: {arguments}"));
    if arguments.is_empty() { "{}".to_owned() } else { read().to_string() }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}
