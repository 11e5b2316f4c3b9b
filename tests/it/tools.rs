//! Calls of tools and reasoning, as clients of both APIs see them, over the scripted engine.

use axum::http::StatusCode;
use insta::assert_snapshot;
use serde_json::{Value, json};
use sluicegate::engine::scripted::Script;
use sluicegate::engine::text::{CallFormat, Markup};

use crate::harness::{Answer, Gate, masked, says};

const CALL: [&str; 6] = [
    "Wait.\n",
    "<tool_call>\n",
    "{\"name\": \"weather\", ",
    "\"arguments\": {\"city\":",
    " \"Berlin\"}}",
    "\n</tool_call>",
];

fn chat(extra: &Value) -> String {
    let mut body = json!({
        "model": "builtin",
        "messages": [{"role": "user", "content": "say it"}],
        "tools": [tool("weather"), tool("now")],
    });
    body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    body.to_string()
}

fn native(extra: &Value) -> String {
    let mut body: Value = serde_json::from_str(&chat(extra)).unwrap();
    let model = body.as_object_mut().unwrap().remove("model").unwrap();
    body["model_ref"] = model;
    body.to_string()
}

fn tool(name: &str) -> Value {
    json!({"type": "function", "function": {"name": name, "parameters": {"type": "object"}}})
}

/// The transcript with ids of calls as `call_<id>`.
fn shown(text: &str) -> String {
    let mut parts = text.split("\"call_");
    let first = parts.next().unwrap_or_default().to_owned();
    // Before all other masks: an id may look like a time.
    let shown = parts.fold(first, |shown, part| {
        let (id, rest) = part.split_at(24);
        assert!(id.bytes().all(|byte| byte.is_ascii_hexdigit()), "{id}");
        shown + "\"call_<id>" + rest
    });
    masked(&shown)
}

/// What the chunks of a stream say of their choices.
fn said(stream: &str) -> String {
    let said = |line: &str| line.split_once("\"choices\":[").map(|(_, said)| shown(said) + "\n");
    stream.lines().filter_map(said).collect()
}

#[tokio::test(start_paused = true)]
async fn a_call_in_a_whole_answer() {
    let gate = Gate::scripted(says(&CALL)).await;
    let answer = gate.post("/v1/chat/completions", &chat(&json!({}))).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.body);
    assert_snapshot!(shown(&answer.json()["choices"][0].to_string()), @r#"{"index":0,"message":{"role":"assistant","content":"Wait.","refusal":null,"annotations":[],"tool_calls":[{"id":"call_<id>","type":"function","function":{"name":"weather","arguments":"{\"city\": \"Berlin\"}"}}]},"logprobs":null,"finish_reason":"tool_calls"}"#);
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn stop_strings_cut_no_call() {
    let gate = Gate::scripted(says(&CALL)).await;
    for stop in ["}", "\n", "<tool_call>", "Berlin"] {
        let answer = gate.post("/v1/chat/completions", &chat(&json!({"stop": stop}))).await.json();
        let (choice, call) = (&answer["choices"][0], &answer["choices"][0]["message"]["tool_calls"][0]["function"]);
        assert_eq!(
            (&call["name"], &call["arguments"]),
            (&json!("weather"), &json!("{\"city\": \"Berlin\"}")),
            "{stop}"
        );
        assert_eq!((&choice["message"]["content"], &choice["finish_reason"]), (&json!("Wait."), &json!("tool_calls")));
        let id = gate.submit(&native(&json!({"stop": [stop]}))).await;
        let events = gate.events(&id).await;
        assert!(events.contains("\"finish_reason\":\"tool_calls\"") && !events.contains("matched_stop"), "{events}");
    }
    let answer = gate.post("/v1/chat/completions", &chat(&json!({"stop": "it."}))).await.json();
    let message = &answer["choices"][0]["message"];
    assert_eq!((&message["content"], message.get("tool_calls")), (&json!("Wa"), None));
    assert_eq!(answer["choices"][0]["finish_reason"], "stop");
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn a_call_in_a_stream_of_chunks() {
    let gate = Gate::scripted(says(&CALL)).await;
    let answer = gate.post("/v1/chat/completions", &chat(&json!({"stream": true}))).await;
    assert_snapshot!(said(&answer.body), @r#"
    {"index":0,"delta":{"role":"assistant","content":"","refusal":null},"logprobs":null,"finish_reason":null}]}
    {"index":0,"delta":{"content":"Wait."},"logprobs":null,"finish_reason":null}]}
    {"index":0,"delta":{"tool_calls":[{"index":0,"id":"call_<id>","type":"function","function":{"name":"weather","arguments":"{\"city\":"}}]},"logprobs":null,"finish_reason":null}]}
    {"index":0,"delta":{"tool_calls":[{"index":0,"function":{"arguments":" \"Berlin\"}"}}]},"logprobs":null,"finish_reason":null}]}
    {"index":0,"delta":{},"logprobs":null,"finish_reason":"tool_calls"}]}
    "#);
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn a_call_in_the_events_of_a_task() {
    let gate = Gate::scripted(says(&CALL)).await;
    let id = gate.submit(&native(&json!({}))).await;
    let events = gate.events(&id).await;
    let tokens: String =
        events.lines().filter(|line| line.contains("\"t\":")).map(|line| line.to_owned() + "\n").collect();
    assert_snapshot!(shown(&tokens), @r#"
    data: {"t":"Wait.","i":0}
    data: {"t":"","i":1,"kind":"tool","tool":{"index":0,"id":"call_<id>","name":"weather","arguments":"{\"city\":"}}
    data: {"t":"","i":2}
    data: {"t":"","i":3}
    data: {"t":"","i":4}
    data: {"t":"","i":5,"kind":"tool","tool":{"index":0,"arguments":" \"Berlin\"}"}}
    data: {"t":"","i":6}
    "#);
    assert!(events.contains("\"finish_reason\":\"tool_calls\""), "{events}");
    let task = gate.get(&format!("/v2/tasks/{id}")).await.json();
    assert_eq!((&task["output"], &task["finish_reason"]), (&json!("Wait."), &json!("tool_calls")));
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn a_call_alone_has_no_content() {
    let gate = Gate::scripted(says(&CALL[1..])).await;
    let answer = gate.post("/v1/chat/completions", &chat(&json!({}))).await.json();
    assert_eq!(answer["choices"][0]["message"]["content"], Value::Null);
    // Each token that was sampled is counted, also those that are only punctuation.
    assert_eq!(answer["usage"]["completion_tokens"], 6);
    let stream = gate.post("/v1/chat/completions", &chat(&json!({"stream": true}))).await.body;
    assert!(said(&stream).starts_with(r#"{"index":0,"delta":{"role":"assistant","content":null,"#), "{stream}");
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn what_looks_like_a_call_is_text_where_there_is_nothing_to_call() {
    let gate = Gate::scripted(says(&CALL)).await;
    for body in [chat(&json!({"tools": null})), chat(&json!({"tool_choice": "none"}))] {
        let answer = gate.post("/v1/chat/completions", &body).await.json();
        assert_eq!(answer["choices"][0]["message"]["content"], CALL.concat());
        assert_eq!(answer["choices"][0]["finish_reason"], "stop");
    }
    let others = chat(&json!({"tools": [tool("other")]}));
    let answer = gate.post("/v1/chat/completions", &others).await.json();
    assert_eq!(answer["choices"][0]["message"]["content"], CALL.concat());
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn several_calls_or_one_as_the_client_wants() {
    let gate = Gate::scripted(says(&[
        "<tool_call>{\"name\": \"now\"}</tool_call>",
        "\n",
        "<tool_call>{\"name\": \"weather\"}</tool_call>",
    ]))
    .await;
    let calls = |answer: &Answer| answer.json()["choices"][0]["message"]["tool_calls"].as_array().unwrap().clone();
    let both = calls(&gate.post("/v1/chat/completions", &chat(&json!({}))).await);
    assert_eq!(both.len(), 2);
    assert_ne!(both[0]["id"], both[1]["id"]);
    let answer = gate.post("/v1/chat/completions", &chat(&json!({"parallel_tool_calls": false}))).await;
    assert_eq!(calls(&answer).len(), 1);
    assert_eq!(answer.json()["choices"][0]["finish_reason"], "tool_calls");
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn functions_are_called_in_the_older_form() {
    let gate = Gate::scripted(says(&CALL[1..])).await;
    let body = json!({"tools": null, "functions": [{"name": "weather"}], "function_call": "auto"});
    let answer = gate.post("/v1/chat/completions", &chat(&body)).await;
    assert_snapshot!(answer.json()["choices"][0].to_string(), @r#"{"index":0,"message":{"role":"assistant","content":null,"refusal":null,"annotations":[],"function_call":{"name":"weather","arguments":"{\"city\": \"Berlin\"}"}},"logprobs":null,"finish_reason":"function_call"}"#);
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_cut_ends_with_length() {
    let gate = Gate::scripted(says(&CALL)).await;
    let answer = gate.post("/v1/chat/completions", &chat(&json!({"max_tokens": 4}))).await.json();
    let choice = &answer["choices"][0];
    assert_eq!(choice["finish_reason"], "length");
    assert_eq!(choice["message"]["tool_calls"][0]["function"]["arguments"], "{\"city\":");
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn each_model_calls_in_its_own_format() {
    let llama = Markup { calls: Some(CallFormat::Llama), reasoning: false };
    let call = ["{\"name\": \"weather\", ", "\"parameters\": {\"city\": \"Rome\"}}"];
    let gate = Gate::scripted(Script { markup: llama, ..says(&call) }).await;
    let answer = gate.post("/v1/chat/completions", &chat(&json!({}))).await.json();
    assert_eq!(answer["choices"][0]["message"]["tool_calls"][0]["function"]["arguments"], "{\"city\": \"Rome\"}");
    gate.finish().await;
    let none = Markup { calls: None, reasoning: false };
    let gate = Gate::scripted(Script { markup: none, ..says(&call) }).await;
    let refused = gate.post("/v1/chat/completions", &chat(&json!({}))).await;
    assert_eq!(refused.status, StatusCode::BAD_REQUEST);
    assert_snapshot!(refused.body, @r#"{"error":{"message":"`tools` cannot be followed by the engine that serves this model","type":"invalid_request_error","param":"tools","code":"unsupported_parameter"}}"#);
    // Where none is to be called, nobody has to know how.
    let answer = gate.post("/v1/chat/completions", &chat(&json!({"tool_choice": "none", "max_tokens": 2}))).await;
    assert_eq!(answer.json()["choices"][0]["message"]["content"], call.concat(), "{}", answer.body);
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn tools_that_are_none_are_refused_by_name() {
    let gate = Gate::scripted(says(&["a"])).await;
    let bodies = [
        json!({"tools": [tool("a"), tool("a")]}),
        json!({"tools": [tool("a b")]}),
        json!({"tools": [{"type": "custom", "custom": {"name": "a"}}]}),
        json!({"tools": [{"type": "function"}]}),
        json!({"tool_choice": {"type": "function", "function": {"name": "other"}}}),
        json!({"tools": null, "tool_choice": "required"}),
        json!({"tools": null, "functions": [{"name": ""}]}),
    ];
    let mut lines = String::new();
    for body in bodies {
        let answer = gate.post("/v1/chat/completions", &chat(&body)).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{}", answer.body);
        let error = &answer.json()["error"];
        lines += &format!("{} | {} | {}\n", error["param"], error["code"], error["message"]);
    }
    assert_snapshot!(lines, @r#"
    "tools[1].function.name" | "invalid_value" | "`tools[1].function.name`: another tool has this name"
    "tools[0].function.name" | "invalid_value" | "`tools[0].function.name`: 1 to 128 letters, digits, underscores and hyphens"
    "tools[0].type" | "unsupported_value" | "Unsupported value: 'tools[0].type': the only tools that are served are those of the type 'function'."
    "tools[0].function" | "missing_required_parameter" | "Missing required parameter: 'tools[0].function'."
    "tool_choice" | "invalid_value" | "`tool_choice`: no tool has this name"
    "tool_choice" | "invalid_value" | "`tool_choice`: there are no tools to choose from"
    "functions[0].name" | "invalid_value" | "`functions[0].name`: 1 to 128 letters, digits, underscores and hyphens"
    "#);
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn reasoning_stands_apart_from_the_answer() {
    let gate = Gate::scripted(says(&["<think>\n", "Hm", ".\n</think>", "\n\n", "Yes."])).await;
    let plain = json!({"tools": null});
    let answer = gate.post("/v1/chat/completions", &chat(&plain)).await.json();
    assert_snapshot!(answer["choices"][0]["message"].to_string(), @r#"{"role":"assistant","content":"Yes.","refusal":null,"annotations":[],"reasoning_content":"Hm.\n"}"#);
    assert_eq!(answer["usage"]["completion_tokens_details"]["reasoning_tokens"], 2);
    let stream = gate.post("/v1/chat/completions", &chat(&json!({"tools": null, "stream": true}))).await.body;
    assert_snapshot!(said(&stream), @r#"
    {"index":0,"delta":{"role":"assistant","content":"","refusal":null},"logprobs":null,"finish_reason":null}]}
    {"index":0,"delta":{"reasoning_content":"Hm"},"logprobs":null,"finish_reason":null}]}
    {"index":0,"delta":{"reasoning_content":".\n"},"logprobs":null,"finish_reason":null}]}
    {"index":0,"delta":{"content":"Yes."},"logprobs":null,"finish_reason":null}]}
    {"index":0,"delta":{},"logprobs":null,"finish_reason":"stop"}]}
    "#);
    let id = gate.submit(&native(&json!({"tools": null}))).await;
    let events = gate.events(&id).await;
    assert!(events.contains(r#"{"t":"Hm","i":1,"kind":"reasoning"}"#), "{events}");
    // A completion is text and nothing else.
    let id = gate.submit(r#"{"model_ref": "builtin", "prompt": "go on"}"#).await;
    gate.events(&id).await;
    let output = gate.get(&format!("/v2/tasks/{id}")).await.json()["output"].clone();
    assert_eq!(output, "<think>\nHm.\n</think>\n\nYes.");
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn log_probabilities_are_those_of_the_content() {
    let gate = Gate::scripted(says(&["<think>", "Hm", "</think>", "Yes", "<tool_call>", "{\"name\": \"now\"}"])).await;
    let answer = gate.post("/v1/chat/completions", &chat(&json!({"logprobs": true}))).await.json();
    let tokens = answer["choices"][0]["logprobs"]["content"].as_array().unwrap().clone();
    assert_eq!(tokens.iter().map(|token| &token["token"]).collect::<Vec<_>>(), ["Yes"]);
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn a_conversation_with_calls_goes_on() {
    let gate = Gate::scripted(says(&["It is ", "sunny."])).await;
    let messages = json!([
        {"role": "user", "content": "Weather in Berlin?"},
        {"role": "assistant", "content": null, "tool_calls": [
            {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": "{\"city\": \"Berlin\"}"}}]},
        {"role": "tool", "tool_call_id": "call_1", "content": "sunny"},
    ]);
    let answer = gate.post("/v1/chat/completions", &chat(&json!({"messages": messages}))).await.json();
    assert_eq!(answer["choices"][0]["message"]["content"], "It is sunny.");
    assert_eq!(answer["choices"][0]["finish_reason"], "stop");
    gate.finish().await;
}
