//! The documented requests: every field of the types, and no other; ranges that are those of the gateway.

use std::collections::BTreeSet;

use axum::http::StatusCode;
use serde_json::{Value, json};
use sluicegate::engine::scripted::Script;
use sluicegate_compat::native::{TaskRequest, Workload};

use super::documents::Document;
use crate::harness::{Gate, says};

fn properties(document: &Document, schema: &str) -> BTreeSet<String> {
    document.root["components"]["schemas"][schema]["properties"].as_object().unwrap().keys().cloned().collect()
}

/// The names of the public fields of a struct, from its source.
fn fields(source: &str, name: &str) -> BTreeSet<String> {
    let body = source.split_once(&format!("pub struct {name} {{")).unwrap().1;
    let body = body.split_once("\n}").unwrap().0;
    let fields = body.lines().filter_map(|line| line.trim().strip_prefix("pub ")?.split_once(": "));
    fields.map(|(name, _)| name.trim_start_matches("r#").to_owned()).collect()
}

#[test]
fn the_documented_fields_are_those_of_the_types() {
    let [native, openai] = Document::both();
    let request = serde_json::to_value(TaskRequest::new("m")).unwrap();
    let request: BTreeSet<_> = request.as_object().unwrap().keys().cloned().collect();
    assert_eq!(properties(&native, "TaskRequest"), request);
    let source = include_str!("../../../compat/src/openai/chat/request/body.rs");
    assert_eq!(properties(&openai, "ChatRequest"), fields(source, "Body"));
    assert_eq!(properties(&openai, "Message"), fields(source, "MessageBody"));
    assert_eq!(properties(&openai, "Call"), fields(source, "CallBody"));
    let source = include_str!("../../../compat/src/anthropic/request/body.rs");
    assert_eq!(properties(&openai, "MessagesRequest"), fields(source, "Body"));
    assert_eq!(properties(&openai, "InputMessage"), fields(source, "MessageBody"));
    assert_eq!(properties(&openai, "InputTool"), fields(source, "ToolBody"));
    let source = include_str!("../../../compat/src/native/chat.rs");
    assert_eq!(properties(&native, "Message"), fields(source, "Message"));
    let source = include_str!("../../../compat/src/native/request.rs");
    assert_eq!(properties(&native, "Placement"), fields(source, "Placement"));
    let source = include_str!("../../../compat/src/native/artifact.rs");
    assert_eq!(properties(&native, "CreateArtifact"), fields(source, "CreateArtifact"));
    assert_eq!(properties(&native, "Artifact"), fields(source, "ArtifactView"));
    let source = include_str!("../../../compat/src/native/session.rs");
    for name in ["SessionRequest", "SessionBudget", "SessionView"] {
        assert_eq!(properties(&native, name), fields(source, name), "{name}");
    }
    let source = include_str!("../../../compat/src/native/catalog.rs");
    for name in ["CreateModel", "ModelStateRequest", "ModelList", "ModelView"] {
        assert_eq!(properties(&native, name), fields(source, name), "{name}");
    }
}

#[test]
fn the_documented_defaults_are_those_of_the_types() {
    let [native, _] = Document::both();
    let request = serde_json::to_value(TaskRequest::new("m")).unwrap();
    let properties = native.root["components"]["schemas"]["TaskRequest"]["properties"].as_object().unwrap();
    for (name, property) in properties.iter().filter(|(name, _)| *name != "model_ref") {
        // A field without a default is null, and null is taken for it.
        let default = property.get("default").cloned().unwrap_or(Value::Null);
        assert_eq!(request[name], default, "{name}");
        assert_eq!(native.mistakes(property, &default), Vec::<String>::new(), "{name}");
    }
}

/// A bound of a number's schema with the values just inside and just outside.
struct Bound {
    inside: String,
    outside: String,
}

/// Integers are bounded by their type where by nothing else.
fn bounds(property: &Value) -> Vec<Bound> {
    let kinds = property["type"].to_string();
    let mut bounds = Vec::new();
    for (keyword, outwards) in [("minimum", -1), ("maximum", 1), ("exclusiveMinimum", -1)] {
        let Some(bound) = property.get(keyword).map(Value::to_string) else { continue };
        let exclusive = keyword.starts_with("exclusive");
        bounds.push(if kinds.contains("integer") {
            let bound: i128 = bound.parse().unwrap();
            Bound { inside: bound.to_string(), outside: (bound + outwards).to_string() }
        } else {
            let bound: f64 = bound.parse().unwrap();
            let outside = if exclusive { bound } else { bound + 0.01 * outwards as f64 };
            let inside = if exclusive { bound + 0.01 } else { bound };
            Bound { inside: inside.to_string(), outside: outside.to_string() }
        });
    }
    bounds
}

#[tokio::test(start_paused = true)]
async fn the_documented_ranges_are_those_of_the_gateway() {
    let gate = Gate::scripted(Script { workloads: Workload::ALL.to_vec(), ..says(&["hi"]) }).await;
    let chat = json!({"model": "builtin", "messages": [{"role": "user", "content": "hi"}], "logprobs": true});
    let task = json!({"model_ref": "builtin", "prompt": "hi", "logprobs": true});
    let embedding = json!({"model_ref": "builtin", "workload": "embedding", "inputs": ["hi"]});
    let [native, openai] = Document::both();
    let requests = [
        (&native, "TaskRequest", "/v2/tasks", task, "/param", StatusCode::ACCEPTED),
        (&openai, "ChatRequest", "/v1/chat/completions", chat, "/error/param", StatusCode::OK),
    ];
    for (document, schema, path, base, param, success) in requests {
        let mut tried = 0;
        let properties = document.root["components"]["schemas"][schema]["properties"].as_object().unwrap();
        for (name, property) in properties {
            let base = if name == "dimensions" { &embedding } else { &base };
            for bound in bounds(property) {
                let body = |value: &str| base.to_string().replacen('{', &format!("{{\"{name}\": {value}, "), 1);
                let refused = gate.post(path, &body(&bound.outside)).await;
                assert_eq!(refused.status, StatusCode::BAD_REQUEST, "{name}: {} is taken", bound.outside);
                assert_eq!(refused.json().pointer(param), Some(&name.as_str().into()), "{}", refused.body);
                let taken = gate.post(path, &body(&bound.inside)).await;
                // Well formed, and more than this model has.
                let beyond = ["the model's context is", "the model's vectors have"];
                let beyond_the_model = beyond.iter().any(|words| taken.body.contains(words));
                assert!(taken.status == success || beyond_the_model, "{name}: {}: {}", bound.inside, taken.body);
                if taken.status == StatusCode::ACCEPTED {
                    // So that the next one, which may have a deadline of 1 ms, need not wait.
                    let id = taken.json()["task_id"].as_str().unwrap().to_owned();
                    gate.post(&format!("/v2/tasks/{id}/cancel"), "").await;
                }
                tried += 1;
            }
        }
        assert!(tried > 20, "{tried}");
    }
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn every_word_of_a_documented_list_is_known_and_no_other() {
    let gate = Gate::scripted(says(&["hi"])).await;
    let chat = json!({"model": "builtin", "messages": [{"role": "user", "content": "hi"}]});
    let task = json!({"model_ref": "builtin", "prompt": "hi"});
    let [native, openai] = Document::both();
    for (document, schema, path, base) in
        [(&native, "TaskRequest", "/v2/tasks", task), (&openai, "ChatRequest", "/v1/chat/completions", chat)]
    {
        let properties = document.root["components"]["schemas"][schema]["properties"].as_object().unwrap();
        for (name, property) in properties {
            let Some(words) = property.get("enum").and_then(Value::as_array) else { continue };
            for word in words {
                let mut body = base.clone();
                body[name] = word.clone();
                let answer = gate.post(path, &body.to_string()).await;
                // Some are understood and not served; those are told apart by their messages.
                let misunderstood =
                    answer.body.contains("unknown variant") || answer.body.contains("Supported values are");
                assert!(
                    !misunderstood && answer.status != StatusCode::INTERNAL_SERVER_ERROR,
                    "{name}: {word}: {}",
                    answer.body
                );
            }
            let mut body = base.clone();
            body[name] = "no such word".into();
            assert_eq!(gate.post(path, &body.to_string()).await.status, StatusCode::BAD_REQUEST, "{name}");
        }
    }
    gate.finish().await;
}

/// Values of every kind, some of which fit most fields.
fn samples() -> [Value; 11] {
    let objects = [json!({}), json!({"a": 1}), json!({"1": 1})];
    let lists = [json!([]), json!(["x"]), json!([1])];
    let [a, b, c] = objects;
    let [d, e, f] = lists;
    [Value::Null, json!(true), json!(7), json!(1.5), json!("x"), a, b, c, d, e, f]
}

/// What the documents allow and the gateway refuses: fields that go with others, that depend on the pool, or that are
/// not served yet.
const SCHEMAS_CANNOT_SAY: [&str; 8] = [
    "tools",
    "chat_template_kwargs",
    "continue_final_message",
    "sampler_profile_version",
    "top_logprobs",
    "json_schema",
    "top_logprobs",
    "stream_options",
];

#[tokio::test(start_paused = true)]
async fn the_gateway_takes_what_the_documents_allow_and_nothing_else() {
    let gate = Gate::scripted(says(&["hi"])).await;
    let chat = json!({"model": "builtin", "messages": [{"role": "user", "content": "hi"}]});
    let task = json!({"model_ref": "builtin", "prompt": "hi"});
    let [native, openai] = Document::both();
    let requests =
        [(&native, "TaskRequest", "/v2/tasks", task), (&openai, "ChatRequest", "/v1/chat/completions", chat)];
    let mut only_documented = Vec::new();
    for (document, schema, path, base) in requests {
        let schema = json!({"$ref": format!("#/components/schemas/{schema}")});
        for name in document.resolve(&schema)["properties"].as_object().unwrap().keys() {
            for sample in samples() {
                let mut body = base.clone();
                body[name] = sample;
                let mistakes = document.mistakes(&schema, &body);
                let answer = gate.post(path, &body.to_string()).await;
                match (mistakes.is_empty(), answer.status != StatusCode::BAD_REQUEST) {
                    (true, false) if only_documented.last() == Some(name) => {}
                    (true, false) => only_documented.push(name.clone()),
                    (false, true) => panic!("{body} is taken, and not documented: {mistakes:#?}"),
                    _ => {}
                }
            }
            gate.settle().await;
        }
    }
    assert_eq!(only_documented, SCHEMAS_CANNOT_SAY);
    gate.finish().await;
}
