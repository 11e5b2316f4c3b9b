//! What real clients send, as `compat/tests/golden` keeps it: recorded again from the pinned clients, and the same.
//!
//! `SLUICEGATE_GOLDENS=renew cargo test --test it goldens` writes what they send now.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use async_openai::Client;
use async_openai::config::OpenAIConfig;
use async_openai::types::chat::{
    ChatCompletionRequestAssistantMessageArgs, ChatCompletionRequestMessage, ChatCompletionRequestToolMessageArgs,
    ChatCompletionRequestUserMessageArgs, ChatCompletionStreamOptions, ChatCompletionTool, ChatCompletionTools,
    CreateChatCompletionRequestArgs, FunctionObjectArgs, ResponseFormat, ResponseFormatJsonSchema,
};
use async_openai::types::embeddings::{CreateEmbeddingRequestArgs, EncodingFormat};
use async_openai::types::responses::CreateResponseArgs;
use futures_util::StreamExt as _;
use serde_json::Value;

use super::recorder::Recorder;
use super::rust_client::WEATHER;
use super::sdks::{installed_by_npm, installed_by_pip, left_out, sources, succeeds};

const RENEW: &str = "SLUICEGATE_GOLDENS=renew cargo test --test it goldens";

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("compat/tests/golden")
}

/// The goldens of these clients, by `CLIENT/CASE`.
fn kept(clients: &[&str]) -> BTreeMap<String, Value> {
    let mut kept = BTreeMap::new();
    for client in clients {
        for file in fs::read_dir(folder().join(client)).into_iter().flatten() {
            let path = file.unwrap().path();
            let case = path.file_name().unwrap().to_str().unwrap().strip_suffix(".json").expect("a golden").to_owned();
            kept.insert(format!("{client}/{case}"), serde_json::from_slice(&fs::read(&path).unwrap()).unwrap());
        }
    }
    kept
}

/// Compares, or renews, the goldens of these clients.
fn hold(clients: &[&str], sent: &BTreeMap<String, Value>) {
    let foreign = sent.keys().find(|name| !clients.iter().any(|client| name.starts_with(&format!("{client}/"))));
    assert_eq!(foreign, None, "a client that is not named here");
    if std::env::var("SLUICEGATE_GOLDENS").is_ok_and(|value| value == "renew") {
        clients.iter().for_each(|client| drop(fs::remove_dir_all(folder().join(client))));
        for (name, request) in sent {
            let path = folder().join(format!("{name}.json"));
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, serde_json::to_string_pretty(request).unwrap() + "\n").unwrap();
        }
        return;
    }
    let kept = kept(clients);
    let mut differences = String::new();
    for name in kept.keys().chain(sent.keys().filter(|name| !kept.contains_key(*name))) {
        let show = |request: Option<&Value>| request.map_or_else(|| "nothing".to_owned(), Value::to_string);
        let (old, new) = (kept.get(name), sent.get(name));
        if old != new {
            differences += &format!("{name}\n  kept: {}\n  sent: {}\n", show(old), show(new));
        }
    }
    assert!(
        differences.is_empty(),
        "The clients send something else than the goldens say. If they were renewed, renew these too, and look at what has \
         become of them:\n\n    {RENEW}\n\n{differences}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_python_clients_send_what_the_goldens_say() {
    if left_out() {
        return;
    }
    let recorder = Recorder::start().await;
    let mut python = Command::new(installed_by_pip("python").join("bin/python"));
    python.arg("-B").arg(sources("python").join("record.py")).env("RECORDER_URL", recorder.url());
    succeeds("recording the Python clients", &mut python);
    hold(&["openai-python", "anthropic-python"], &recorder.noted());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_frameworks_of_python_send_what_the_goldens_say() {
    if left_out() {
        return;
    }
    let recorder = Recorder::start().await;
    let mut python = Command::new(installed_by_pip("frameworks").join("bin/python"));
    python.arg("-B").arg(sources("frameworks").join("record.py")).env("RECORDER_URL", recorder.url());
    succeeds("recording the frameworks", &mut python);
    hold(&["langchain", "llama-index", "pydantic-ai", "instructor"], &recorder.noted());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_node_clients_send_what_the_goldens_say() {
    if left_out() {
        return;
    }
    let recorder = Recorder::start().await;
    let mut node = Command::new("node");
    node.arg("record.mjs").current_dir(installed_by_npm()).env("RECORDER_URL", recorder.url());
    succeeds("recording the Node clients", &mut node);
    hold(&["openai-node", "anthropic-node", "vercel-ai"], &recorder.noted());
}

#[tokio::test(flavor = "multi_thread")]
async fn async_openai_sends_what_the_goldens_say() {
    let recorder = Recorder::start().await;
    let client = |case: &str| {
        let address = format!("{}/async-openai/{case}/v1", recorder.url());
        Client::with_config(OpenAIConfig::new().with_api_base(address).with_api_key("any"))
    };
    let question: ChatCompletionRequestMessage = ChatCompletionRequestUserMessageArgs::default()
        .content("What is the weather in Berlin?")
        .build()
        .unwrap()
        .into();
    let chat = || {
        let mut arguments = CreateChatCompletionRequestArgs::default();
        arguments.model("builtin").messages([question.clone()]);
        arguments
    };
    let plain = chat().temperature(0.5).max_completion_tokens(100_u32).seed(7).build().unwrap();
    client("chat").chat().create(plain).await.unwrap();
    let usage = ChatCompletionStreamOptions { include_usage: Some(true), include_obfuscation: None };
    let streamed = chat().stream_options(usage).build().unwrap();
    drop(client("chat_stream").chat().create_stream(streamed).await.unwrap().collect::<Vec<_>>().await);

    let parameters: Value = serde_json::from_str(WEATHER).unwrap();
    let function = FunctionObjectArgs::default().name("get_weather").parameters(parameters.clone()).build().unwrap();
    let tools = vec![ChatCompletionTools::Function(ChatCompletionTool { function })];
    let first = client("chat_tools").chat().create(chat().tools(tools.clone()).build().unwrap()).await.unwrap();
    let calls = first.choices[0].message.tool_calls.clone().unwrap();
    let said = ChatCompletionRequestAssistantMessageArgs::default().tool_calls(calls).build().unwrap();
    let result = ChatCompletionRequestToolMessageArgs::default().tool_call_id("call_1").content("21").build().unwrap();
    let told = chat().messages([question.clone(), said.into(), result.into()]).tools(tools).build().unwrap();
    client("chat_tools").chat().create(told).await.unwrap();

    let schema = ResponseFormatJsonSchema {
        name: "weather".to_owned(),
        description: None,
        schema: parameters,
        strict: Some(true),
    };
    let structured = chat().response_format(ResponseFormat::JsonSchema { json_schema: schema }).build().unwrap();
    client("chat_json").chat().create(structured).await.unwrap();

    let mut embed = CreateEmbeddingRequestArgs::default();
    embed.model("builtin-embedding").input(["What is a pool?", "And a queue?"]);
    client("embeddings").embeddings().create(embed.build().unwrap()).await.unwrap();
    let base64 = embed.encoding_format(EncodingFormat::Base64).build().unwrap();
    client("embeddings").embeddings().create_base64(base64).await.unwrap();

    let respond = || {
        let mut arguments = CreateResponseArgs::default();
        arguments.model("builtin").input("What is the weather in Berlin?");
        arguments
    };
    let plain = respond().instructions("Be brief.").max_output_tokens(100_u32).build().unwrap();
    client("responses").responses().create(plain).await.unwrap();
    let streamed = client("responses_stream").responses().create_stream(respond().build().unwrap()).await.unwrap();
    drop(streamed.collect::<Vec<_>>().await);
    hold(&["async-openai"], &recorder.noted());
}
