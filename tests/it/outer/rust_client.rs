//! async-openai against the real engine: chats whole and streamed, calls of tools, embeddings, responses, models, errors.

use std::path::Path;
use std::process::Command;

use async_openai::Client;
use async_openai::config::OpenAIConfig;
use async_openai::error::OpenAIError;
use async_openai::types::chat::{
    ChatCompletionMessageToolCall, ChatCompletionMessageToolCalls, CreateChatCompletionRequest, FinishReason,
};
use async_openai::types::embeddings::{CreateEmbeddingRequest, EmbeddingInput, EncodingFormat};
use async_openai::types::responses::{CreateResponse, OutputItem, Response, ResponseStreamEvent, Status};
use futures_util::StreamExt as _;
use serde_json::{Value, json};

use super::running::{Running, in_time};

pub(super) const WEATHER: &str = r#"{"type": "object", "properties": {"city": {"type": "string", "maxLength": 20}},
    "required": ["city"], "additionalProperties": false}"#;

fn client(gateway: &Running) -> Client<OpenAIConfig> {
    Client::with_config(OpenAIConfig::new().with_api_base(gateway.url("/v1")).with_api_key("none"))
}

fn request(extra: Value) -> CreateChatCompletionRequest {
    let mut body =
        json!({"model": "builtin", "seed": 5, "messages": [{"role": "user", "content": "What is Sluicegate?"}]});
    body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    serde_json::from_value(body).unwrap()
}

#[tokio::test]
async fn a_stream_and_a_whole_answer_say_the_same() {
    let gateway = Running::real(&[]);
    let client = client(&gateway);
    let whole = in_time("the answer", client.chat().create(request(json!({})))).await.unwrap();
    let usage = whole.usage.unwrap();

    let streamed = request(json!({"stream": true, "stream_options": {"include_usage": true}}));
    let mut stream = in_time("the stream", client.chat().create_stream(streamed)).await.unwrap();
    let (mut text, mut finish, mut streamed_usage) = (String::new(), None, None);
    while let Some(chunk) = in_time("a chunk", stream.next()).await {
        let chunk = chunk.unwrap();
        streamed_usage = chunk.usage.or(streamed_usage);
        for choice in chunk.choices {
            text.push_str(choice.delta.content.as_deref().unwrap_or_default());
            finish = choice.finish_reason.or(finish);
        }
    }
    assert_eq!(whole.choices[0].message.content.as_deref(), Some(text.as_str()));
    assert_eq!(finish, whole.choices[0].finish_reason);
    let streamed_usage = streamed_usage.unwrap();
    assert_eq!(
        (streamed_usage.prompt_tokens, streamed_usage.completion_tokens),
        (usage.prompt_tokens, usage.completion_tokens)
    );

    let short =
        in_time("a short one", client.chat().create(request(json!({"max_completion_tokens": 3})))).await.unwrap();
    assert_eq!(short.choices[0].finish_reason, Some(FinishReason::Length));
}

#[tokio::test]
async fn models_and_errors_are_understood() {
    let gateway = Running::real(&[]);
    let client = client(&gateway);
    let models = in_time("the models", client.models().list()).await.unwrap();
    assert_eq!(models.data[0].id, "builtin");
    assert_eq!(in_time("a model", client.models().retrieve("builtin")).await.unwrap().id, "builtin");

    let cases = [
        (json!({"model": "gpt-9"}), 404, "model", "model_not_found"),
        (
            json!({"temperature": 1.0, "max_completion_tokens": 999_999}),
            400,
            "max_completion_tokens",
            "context_length_exceeded",
        ),
    ];
    for (extra, status, param, code) in cases {
        let error = in_time("the error", client.chat().create(request(extra))).await.unwrap_err();
        let OpenAIError::ApiError(answer) = error else { panic!("{error}") };
        assert_eq!(answer.status_code.as_u16(), status);
        assert_eq!((answer.api_error.param.as_deref(), answer.api_error.code.as_deref()), (Some(param), Some(code)));
    }
}

fn call(calls: Option<Vec<ChatCompletionMessageToolCalls>>) -> ChatCompletionMessageToolCall {
    match calls.unwrap_or_default().pop() {
        Some(ChatCompletionMessageToolCalls::Function(call)) => call,
        other => panic!("no call of a function: {other:?}"),
    }
}

#[tokio::test]
async fn a_tool_is_called_whole_and_streamed_and_its_result_read() {
    let gateway = Running::real(&[]);
    let client = client(&gateway);
    let parameters: Value = serde_json::from_str(WEATHER).unwrap();
    let function = json!({"name": "get_weather", "description": "Get the weather in a city", "parameters": parameters});
    let tools = json!([{"type": "function", "function": function}]);
    let question = json!({"role": "user", "content": "What is the weather in Berlin?"});
    let asked = |more: Value| {
        let mut body = json!({"messages": [question], "tools": tools, "temperature": 0});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        request(body)
    };
    let mut answer = in_time("the call", client.chat().create(asked(json!({})))).await.unwrap();
    let choice = answer.choices.remove(0);
    assert_eq!(choice.finish_reason, Some(FinishReason::ToolCalls));
    let whole = call(choice.message.tool_calls);
    let arguments: Value = serde_json::from_str(&whole.function.arguments).unwrap();
    assert_eq!((whole.function.name.as_str(), arguments), ("get_weather", json!({"city": "Berlin"})));

    let streamed = asked(json!({"stream": true}));
    let mut stream = in_time("the stream", client.chat().create_stream(streamed)).await.unwrap();
    let (mut name, mut arguments) = (String::new(), String::new());
    while let Some(chunk) = in_time("a chunk", stream.next()).await {
        let choices = chunk.unwrap().choices.into_iter();
        let functions = choices.filter_map(|choice| choice.delta.tool_calls).flatten().filter_map(|call| call.function);
        for function in functions {
            name.extend(function.name);
            arguments.extend(function.arguments);
        }
    }
    assert_eq!((name, &arguments), (whole.function.name.clone(), &whole.function.arguments));

    let result = json!({"role": "tool", "tool_call_id": whole.id, "content": "{\"temperature\": 21}"});
    let calls = [ChatCompletionMessageToolCalls::Function(whole)];
    let messages = json!([question, {"role": "assistant", "tool_calls": calls}, result]);
    let answer = in_time("the answer", client.chat().create(asked(json!({"messages": messages})))).await.unwrap();
    assert_eq!(answer.choices[0].finish_reason, Some(FinishReason::Stop));
    assert!(answer.choices[0].message.content.as_ref().is_some_and(|text| !text.is_empty()));
}

#[tokio::test]
async fn texts_are_embedded_as_floats_and_as_base64() {
    let gateway = Running::real(&[]);
    let client = client(&gateway);
    let input = EmbeddingInput::StringArray(vec!["What is a pool?".into(), "What colour is the sky?".into()]);
    let asked =
        CreateEmbeddingRequest { model: "builtin-embedding".into(), input, ..CreateEmbeddingRequest::default() };
    let floats = in_time("the vectors", client.embeddings().create(asked.clone())).await.unwrap();
    assert_eq!(floats.data.iter().map(|item| item.embedding.len()).collect::<Vec<_>>(), [128, 128]);
    assert!(floats.usage.prompt_tokens > 0);
    let asked = CreateEmbeddingRequest { encoding_format: Some(EncodingFormat::Base64), ..asked };
    let base64 = in_time("the vectors", client.embeddings().create_base64(asked)).await.unwrap();
    for (float, base64) in floats.data.into_iter().zip(base64.data) {
        assert_eq!(float.embedding, Vec::<f32>::from(base64.embedding));
    }
}

fn response(more: Value) -> CreateResponse {
    let mut body = json!({"model": "builtin", "input": "What is Sluicegate?", "temperature": 0});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    serde_json::from_value(body).unwrap()
}

fn text(response: &Response) -> String {
    response.output_text().unwrap_or_default()
}

#[tokio::test]
async fn responses_are_whole_streamed_stored_and_gone_on_with() {
    let gateway = Running::real(&[]);
    let client = client(&gateway);
    let whole = in_time("the response", client.responses().create(response(json!({})))).await.unwrap();
    assert_eq!((whole.status.clone(), text(&whole).is_empty()), (Status::Completed, false));
    let again = in_time("the same", client.responses().retrieve(&whole.id)).await.unwrap();
    assert_eq!(text(&again), text(&whole));

    let streamed = response(json!({"stream": true}));
    let mut stream = in_time("the stream", client.responses().create_stream(streamed)).await.unwrap();
    let (mut said, mut done) = (String::new(), None);
    while let Some(event) = in_time("an event", stream.next()).await {
        match event.unwrap() {
            ResponseStreamEvent::ResponseOutputTextDelta(more) => said.push_str(&more.delta),
            ResponseStreamEvent::ResponseCompleted(completed) => done = Some(completed.response),
            _ => {}
        }
    }
    let done = done.expect("the last event");
    assert_eq!((&said, text(&done)), (&text(&whole), text(&whole)));
    let tokens = |response: &Response| response.usage.as_ref().map(|usage| (usage.input_tokens, usage.output_tokens));
    assert_eq!(tokens(&done), tokens(&whole));

    let more = json!({"previous_response_id": whole.id, "input": "How do I cancel a task?"});
    let next = in_time("the next one", client.responses().create(response(more))).await.unwrap();
    assert!(tokens(&next).unwrap().0 > tokens(&whole).unwrap().0 && !text(&next).is_empty());

    let parameters: Value = serde_json::from_str(WEATHER).unwrap();
    let tools = json!([{"type": "function", "name": "get_weather", "parameters": parameters, "strict": true}]);
    let call = json!({"input": "What is the weather in Berlin?", "tools": tools, "tool_choice": "required"});
    let called = in_time("the call", client.responses().create(response(call))).await.unwrap();
    let is_call = |item: &OutputItem| matches!(item, OutputItem::FunctionCall(call) if call.name == "get_weather");
    assert!(called.output.iter().any(is_call), "{:?}", called.output);
}

/// The quick-start of async-openai, as it stands, is built beside the tests.
#[test]
fn the_quick_start_runs() {
    let gateway = Running::real(&[]);
    let programs = Path::new(env!("CARGO_BIN_EXE_sluicegate")).parent().unwrap();
    let mut quick_start = Command::new(programs.join("examples/openai_chat"));
    quick_start.env("OPENAI_BASE_URL", gateway.url("/v1")).env("OPENAI_API_KEY", "none");
    let done = quick_start.output().expect("cargo build --example openai_chat makes it");
    let (stdout, stderr) = (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    assert!(done.status.success() && stdout.contains("Sluicegate is"), "{stdout}\n{stderr}");
}
