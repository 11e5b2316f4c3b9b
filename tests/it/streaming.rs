//! Streams of every dialect through the whole gateway: however the network cuts them, a client puts together the whole answer
//! of the same seed.

use axum::http::StatusCode;
use serde_json::{Value, json};

use self::reading::{Dialect, ServerSent, Spoken, read};
use crate::harness::{Gate, says};

#[path = "../../compat/tests/it/reading.rs"]
mod reading;

/// The model has no answer by heart.
const QUESTION: &str = "Tell me a story about a very long queue.";

/// What is asked for, besides a text.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Case {
    Text,
    /// A tool has to be called.
    Call,
    /// Two choices.
    Several,
}

impl Case {
    /// Whether a client can ask so in this dialect.
    fn is_of(self, dialect: Dialect) -> bool {
        match self {
            Self::Text => true,
            Self::Call => dialect != Dialect::Completions,
            Self::Several => !matches!(dialect, Dialect::Responses | Dialect::Messages),
        }
    }
}

/// Where a request goes, and its body. Without a seed, as two of the APIs have none, the likeliest tokens are taken.
fn asked(dialect: Dialect, case: Case) -> (&'static str, Value) {
    let messages = json!([{"role": "user", "content": QUESTION}]);
    let parameters = json!({"type": "object", "required": ["city"], "additionalProperties": false,
        "properties": {"city": {"type": "string", "maxLength": 12}}});
    let function = json!({"name": "weather", "parameters": parameters});
    let (path, mut body) = match dialect {
        Dialect::Native => {
            ("/v2/tasks", json!({"model_ref": "builtin", "messages": messages, "seed": 7, "temperature": 2}))
        }
        Dialect::Chat => {
            ("/v1/chat/completions", json!({"model": "builtin", "messages": messages, "seed": 7, "temperature": 2}))
        }
        Dialect::Completions => {
            let prompts = ["A pool is", "A queue is"];
            ("/v1/completions", json!({"model": "builtin", "prompt": prompts, "seed": 7, "temperature": 2}))
        }
        Dialect::Responses => ("/v1/responses", json!({"model": "builtin", "input": QUESTION, "temperature": 0})),
        Dialect::Messages => ("/v1/messages", json!({"model": "builtin", "messages": messages, "temperature": 0})),
    };
    let limit = if dialect == Dialect::Responses { "max_output_tokens" } else { "max_tokens" };
    body[limit] = json!(60);
    if dialect == Dialect::Messages {
        body["max_tokens"] = json!(2000);
        body["thinking"] = json!({"type": "enabled", "budget_tokens": 1024});
    }
    if case == Case::Call {
        let (tool, choice) = match dialect {
            Dialect::Responses => {
                (json!({"type": "function", "name": "weather", "parameters": parameters}), json!("required"))
            }
            Dialect::Messages => (json!({"name": "weather", "input_schema": parameters}), json!({"type": "any"})),
            _ => (json!({"type": "function", "function": function}), json!("required")),
        };
        (body["tools"], body["tool_choice"]) = (json!([tool]), choice);
    }
    if case == Case::Several {
        body["n"] = json!(2);
    }
    (path, body)
}

/// The whole answer, and the bytes of the stream.
async fn both(gate: &Gate, dialect: Dialect, case: Case) -> (Value, Vec<u8>) {
    let (path, mut body) = asked(dialect, case);
    if dialect == Dialect::Native {
        let id = gate.submit(&body.to_string()).await;
        let stream = gate.events(&id).await;
        return (gate.get(&format!("{path}/{id}")).await.json(), stream.into_bytes());
    }
    let whole = gate.post(path, &body.to_string()).await;
    assert_eq!(whole.status, StatusCode::OK, "{}", whole.body);
    body["stream"] = json!(true);
    let stream = gate.post(path, &body.to_string()).await;
    assert_eq!(stream.header("content-type"), "text/event-stream; charset=utf-8", "{}", stream.body);
    (whole.json(), stream.body.into_bytes())
}

/// The events of a stream, which are the same however it is cut.
fn events(bytes: &[u8]) -> Vec<ServerSent> {
    let events = read(bytes, &[]);
    for step in [1, 2, 3, 5, 7, 64] {
        let cuts: Vec<_> = (0..bytes.len()).step_by(step).collect();
        assert!(read(bytes, &cuts) == events, "other events in pieces of {step} bytes");
    }
    events
}

/// Ids of calls are new each time.
fn without_ids(mut choices: Vec<Spoken>) -> Vec<Spoken> {
    for call in choices.iter_mut().flat_map(|choice| &mut choice.calls) {
        assert!(!call.id.is_empty());
        call.id.clear();
    }
    choices
}

/// What the stream of each dialect says, having checked that it is the whole answer.
async fn said(gate: &Gate, case: Case) -> Vec<(Dialect, Vec<Spoken>)> {
    let mut said = Vec::new();
    for dialect in Dialect::ALL.into_iter().filter(|dialect| case.is_of(*dialect)) {
        let (whole, stream) = both(gate, dialect, case).await;
        let joined = without_ids(dialect.joined(&events(&stream)));
        let whole = without_ids(dialect.whole(&whole));
        if dialect == Dialect::Native {
            let texts = |choices: &[Spoken]| choices.iter().map(|choice| choice.text.clone()).collect::<Vec<_>>();
            assert_eq!(texts(&joined), texts(&whole));
        } else {
            assert_eq!(joined, whole, "{dialect:?}");
        }
        said.push((dialect, joined));
    }
    said
}

#[tokio::test]
async fn streams_of_the_real_engine_add_up_to_the_whole_answer_of_the_same_seed() {
    let gate = Gate::configured(&[]).await;
    for (dialect, choices) in said(&gate, Case::Text).await {
        assert!(choices.iter().all(|choice| !choice.text.is_empty()), "{dialect:?}: {choices:?}");
    }
    for (dialect, choices) in said(&gate, Case::Call).await {
        assert_eq!(choices[0].calls[0].name, "weather", "{dialect:?}");
        let arguments: Value = serde_json::from_str(&choices[0].calls[0].arguments).unwrap();
        assert!(arguments["city"].is_string(), "{dialect:?}: {arguments}");
    }
    for (dialect, choices) in said(&gate, Case::Several).await {
        let prompts = if dialect == Dialect::Completions { 2 } else { 1 };
        assert_eq!(choices.len(), 2 * prompts, "{dialect:?}");
        assert_ne!(choices[0].text, choices[1].text, "{dialect:?}");
    }
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn reasoning_a_text_and_a_call_add_up_in_every_dialect() {
    let call = [
        "<tool_call>\n",
        "{\"name\": \"weather\", ",
        "\"arguments\": {\"city\":",
        " \"Köln \u{2764}\"}}",
        "\n</tool_call>",
    ];
    let words = ["<think>\n", "Hm", " \u{1f914}", ".\n</think>", "\n\n", "Grüße", "\r\n: ", "data: [DONE]\n\n"];
    let gate = Gate::scripted(says(&[&words[..], &call].concat())).await;
    let said_in_each = said(&gate, Case::Call).await;
    let first = said_in_each[0].1.clone().remove(0).plain();
    assert_eq!((first.text.trim_end(), first.reasoning.trim_end()), ("Grüße\r\n: data: [DONE]", "Hm \u{1f914}."));
    assert_eq!(first.calls[0].arguments, json!({"city": "Köln \u{2764}"}).to_string());
    for (dialect, mut choices) in said_in_each {
        assert_eq!((choices.len(), choices.remove(0).plain()), (1, first.clone()), "{dialect:?}");
    }
    for (_, choices) in said(&gate, Case::Several).await {
        assert_eq!(choices[0], choices[1]);
    }
    gate.finish().await;
}
