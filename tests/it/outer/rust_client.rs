//! async-openai against the real engine: streamed, whole, models, errors.

use async_openai::Client;
use async_openai::config::OpenAIConfig;
use async_openai::error::OpenAIError;
use async_openai::types::chat::{CreateChatCompletionRequest, FinishReason};
use futures_util::StreamExt as _;
use serde_json::{Value, json};

use super::running::{Running, in_time};

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
