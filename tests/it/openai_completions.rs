//! Completions of plain prompts as an OpenAI client sees them, over the scripted engine.

use axum::body::Body;
use axum::http::StatusCode;
use insta::assert_snapshot;
use serde_json::{Value, json};
use sluicegate::engine::scripted::Script;

use crate::harness::{Gate, masked, read, read_until, request, says};

const PATH: &str = "/v1/completions";

fn ask(change: &Value) -> String {
    let mut body = json!({"model": "builtin", "prompt": "say it"});
    body.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
    body.to_string()
}

#[tokio::test(start_paused = true)]
async fn a_whole_answer() {
    let gate = Gate::scripted(says(&["one ", "two"])).await;
    let answer = gate.post(PATH, &ask(&json!({"echo": true}))).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.body);
    assert_snapshot!(masked(&answer.body), @r#"{"id":"cmpl-<uuid>","object":"text_completion","created":<time>,"model":"builtin","choices":[{"text":"say itone two","index":0,"logprobs":null,"finish_reason":"stop"}],"usage":{"prompt_tokens":2,"completion_tokens":3,"total_tokens":5,"prompt_tokens_details":{"cached_tokens":0},"completion_tokens_details":{"reasoning_tokens":0}},"system_fingerprint":"fp_6d38afad65"}"#);
    let id = answer.header("x-task-id").to_owned();
    assert_eq!(answer.header("x-queue-wait-ms"), "0");
    assert_eq!(gate.get(&format!("/v2/tasks/cmpl-{id}")).await.json()["output"], "one two");
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn several_prompts_are_one_stream_with_one_end() {
    let gate = Gate::scripted(says(&["one"])).await;
    let body = json!({"prompt": ["a b", "c"], "stream": true, "stream_options": {"include_usage": true}});
    let answer = gate.post(PATH, &ask(&body)).await;
    assert_eq!(answer.header("content-type"), "text/event-stream; charset=utf-8");
    assert_snapshot!(masked(&answer.body), @r#"
    data: {"id":"cmpl-<uuid>","object":"text_completion","created":<time>,"model":"builtin","system_fingerprint":"fp_6d38afad65","choices":[{"index":0,"text":"one","logprobs":null,"finish_reason":null}],"usage":null}

    data: {"id":"cmpl-<uuid>","object":"text_completion","created":<time>,"model":"builtin","system_fingerprint":"fp_6d38afad65","choices":[{"index":1,"text":"one","logprobs":null,"finish_reason":null}],"usage":null}

    data: {"id":"cmpl-<uuid>","object":"text_completion","created":<time>,"model":"builtin","system_fingerprint":"fp_6d38afad65","choices":[{"index":0,"text":"","logprobs":null,"finish_reason":"stop"}],"usage":null}

    data: {"id":"cmpl-<uuid>","object":"text_completion","created":<time>,"model":"builtin","system_fingerprint":"fp_6d38afad65","choices":[{"index":1,"text":"","logprobs":null,"finish_reason":"stop"}],"usage":null}

    data: {"id":"cmpl-<uuid>","object":"text_completion","created":<time>,"model":"builtin","system_fingerprint":"fp_6d38afad65","choices":[],"usage":{"prompt_tokens":3,"completion_tokens":4,"total_tokens":7,"prompt_tokens_details":{"cached_tokens":0},"completion_tokens_details":{"reasoning_tokens":0}}}

    data: [DONE]
    "#);
    assert_eq!(gate.get("/v2/tasks").await.json()["tasks"].as_array().unwrap().len(), 2);
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn log_probabilities_stand_in_four_lists() {
    let gate = Gate::scripted(says(&["one ", "two"])).await;
    let answer = gate.post(PATH, &ask(&json!({"prompt": [1, 2], "n": 2, "logprobs": 1, "max_tokens": 2}))).await.json();
    assert_eq!(answer["choices"].as_array().unwrap().len(), 2);
    assert_snapshot!(answer["choices"][1]["logprobs"], @r#"{"text_offset":[0,4],"token_logprobs":[0.0,0.0],"tokens":["one ","two"],"top_logprobs":[{"one ":0.0},{"two":0.0}]}"#);
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn the_output_is_short_where_nothing_is_said() {
    let gate = Gate::scripted(Script::default()).await;
    let answer = gate.post(PATH, &ask(&json!({}))).await.json();
    assert_eq!(
        (&answer["usage"]["completion_tokens"], &answer["choices"][0]["finish_reason"]),
        (&16.into(), &"length".into())
    );
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn a_prompt_that_is_refused_takes_the_others_with_it() {
    let gate = Gate::scripted(Script { slots: 1, ..Script::default() }).await;
    let body = ask(&json!({"prompt": ["a", "b", ""], "max_tokens": 500}));
    let refused = gate.post(PATH, &body).await;
    assert_eq!(refused.status, StatusCode::BAD_REQUEST);
    assert_snapshot!(refused.body, @r#"{"error":{"message":"the prompt has no tokens","type":"invalid_request_error","param":"prompt[2]","code":"invalid_value"}}"#);
    // Nothing of it goes on.
    let list = gate.get("/v2/tasks").await.json();
    for task in list["tasks"].as_array().unwrap() {
        let events = gate.events(task["task_id"].as_str().unwrap()).await;
        assert!(events.contains(r#""finish_reason":"canceled""#), "{events}");
    }
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn hanging_up_cancels_every_prompt() {
    let gate = Gate::scripted(Script::default()).await;
    let body = ask(&json!({"prompt": ["a", "b"], "max_tokens": 500, "stream": true}));
    let mut stream = gate.send(request("POST", PATH, Body::from(body))).await.into_body();
    read_until(&mut stream, "\"index\":1").await;
    drop(stream);
    let list = gate.get("/v2/tasks").await.json();
    assert_eq!(list["tasks"].as_array().unwrap().len(), 2);
    for task in list["tasks"].as_array().unwrap() {
        let events = gate.events(task["task_id"].as_str().unwrap()).await;
        assert!(events.contains(r#""finish_reason":"canceled""#), "{events}");
    }
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn a_key_stands_for_all_of_its_prompts() {
    let gate = Gate::scripted(says(&["one"])).await;
    let keyed = |body: &str| {
        let mut keyed = request("POST", PATH, Body::from(body.to_owned()));
        keyed.headers_mut().insert("idempotency-key", "k".parse().unwrap());
        keyed
    };
    let body = ask(&json!({"prompt": ["a", "b"]}));
    let first = read(gate.send(keyed(&body)).await).await;
    let again = read(gate.send(keyed(&body)).await).await;
    assert_eq!((first.status, &first.body), (again.status, &again.body));
    assert_eq!(gate.get("/v2/tasks").await.json()["tasks"].as_array().unwrap().len(), 2);
    let other = read(gate.send(keyed(&ask(&json!({"prompt": ["a", "c"]})))).await).await;
    assert_eq!(other.status, StatusCode::UNPROCESSABLE_ENTITY);
    gate.finish().await;
}
