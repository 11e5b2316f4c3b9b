//! Every request field that OpenAI and Anthropic publish is honoured, refused by name, or named as ignored; and the README
//! says which.
//!
//! What is published comes from the makers' own clients (`tests/sdk/published`). Each field is put into a good request with
//! each of its words, and what becomes of it is seen: honoured is what changes the task or the answer, and is documented.

use std::collections::BTreeSet;

mod endpoints;
mod matrix;
mod record;
mod trial;
mod walk;

use axum::http::StatusCode;
use endpoints::{CHAT, COMPLETIONS, COUNT, EMBEDDINGS, Endpoint, MESSAGES, RESPONSES, STORED};
use record::Record;
use serde_json::json;
use sluicegate::engine::scripted::Script;
use sluicegate_compat::native::Workload;

use crate::harness::{Gate, says};
use crate::openapi::documents::Document;

const OPENAI: &str = include_str!("../sdk/published/openai.json");
const ANTHROPIC: &str = include_str!("../sdk/published/anthropic.json");

/// Documented fields of `/v1` that OpenAI does not publish.
const EXTENSIONS: [&str; 14] = [
    "sluicegate",
    "top_k",
    "min_p",
    "repetition_penalty",
    "chat_template_kwargs",
    // Of the answers that clients send back.
    "messages[].annotations",
    "messages[].reasoning_content",
    "input[].output[].annotations",
    "input[].output[].logprobs",
    "input[].output[].refusal",
    // As of chats.
    "input[].content[].input_audio",
    "input[].output[].input_audio",
    // As of `tools`.
    "functions[].strict",
    // Of chats; ignored in responses.
    "stream_options.include_usage",
];

/// Two models, so that naming one makes a difference.
async fn gate() -> Gate {
    let pools =
        r#"[{ id = "default", engine = "scripted" }, { id = "second", model = "second", engine = "scripted" }]"#;
    let models = r#"[{ id = "second", source = "hf:a/b" }]"#;
    let settings = [("SLUICEGATE_POOLS", pools), ("SLUICEGATE_CATALOG__MODELS", models)];
    let gate = Gate::with(Script { workloads: Workload::ALL.to_vec(), ..says(&["{}"]) }, &settings).await;
    for id in STORED {
        let body = json!({"model": "builtin", "input": "hi", "sluicegate": {"task_id": id}});
        assert_eq!(gate.post("/v1/responses", &body.to_string()).await.status, StatusCode::OK);
    }
    gate
}

async fn assert_nothing_is_dropped(service: &str, record: &str, endpoints: &[&Endpoint]) {
    let record = Record::parse(record);
    let gate = gate().await;
    let (mut rows, mut defects) = (String::new(), Vec::new());
    for endpoint in endpoints {
        let report = walk::walk(&gate, &record, endpoint).await;
        rows += &matrix::row(endpoint.path, &report);
        defects.extend(report.defects.iter().map(|defect| format!("{}: {defect}", endpoint.path)));
    }
    assert!(defects.is_empty(), "{}:\n{}", record.source, defects.join("\n"));
    matrix::hold(service, &rows);
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn every_published_field_of_openai_is_honoured_refused_or_named() {
    assert_nothing_is_dropped("OpenAI", OPENAI, &[&CHAT, &COMPLETIONS, &EMBEDDINGS, &RESPONSES]).await;
}

#[tokio::test(start_paused = true)]
async fn every_published_field_of_anthropic_is_honoured_refused_or_named() {
    assert_nothing_is_dropped("Anthropic", ANTHROPIC, &[&MESSAGES, &COUNT]).await;
}

#[test]
fn the_document_is_a_subset_of_what_openai_publishes() {
    let record = Record::parse(OPENAI);
    let [_, document] = Document::both();
    let (mut beyond, mut used) = (Vec::new(), BTreeSet::new());
    for endpoint in [&CHAT, &COMPLETIONS, &EMBEDDINGS, &RESPONSES] {
        let (published, open) = record.paths(endpoint.name);
        let schema = json!({"$ref": format!("#/components/schemas/{}", endpoint.schema)});
        for path in walk::documented_paths(&document, &schema) {
            let is_below = |known: &str| path.strip_prefix(known).is_some_and(|rest| rest.starts_with(['.', '[']));
            let element = path.ends_with("[]");
            if element || published.contains(&path) || open.iter().any(|open| is_below(open)) {
                continue;
            }
            match EXTENSIONS.into_iter().find(|known| path == *known || is_below(known)) {
                Some(extension) => _ = used.insert(extension),
                None => beyond.push(format!("{}: {path}", endpoint.path)),
            }
        }
    }
    assert!(beyond.is_empty(), "documented, not published, and not among the extensions:\n{}", beyond.join("\n"));
    assert_eq!(used.len(), EXTENSIONS.len(), "{used:?}");
}
