//! The Messages API as Anthropic's clients see it, over the scripted engine.

use std::time::Duration;

use axum::body::Body;
use axum::http::StatusCode;
use insta::assert_snapshot;
use serde_json::{Value, json};
use sluicegate::engine::scripted::{Failure, FailureKind, Script};

use crate::harness::{Gate, masked, read, read_until, request, says};

const PATH: &str = "/v1/messages";
const COUNT: &str = "/v1/messages/count_tokens";

fn ask(change: &Value) -> String {
    let mut body = json!({"model": "builtin", "max_tokens": 500, "messages": [{"role": "user", "content": "say it"}]});
    body.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
    body.to_string()
}

fn weather() -> Value {
    json!([{"name": "weather", "description": "Tells it", "input_schema": {"type": "object"}}])
}

/// An answer with reasoning, text and two calls.
fn eloquent() -> Script {
    says(&[
        "<think>\n",
        "Hm",
        "\n</think>",
        "\n\n",
        "Wait.",
        "<tool_call>{\"name\": \"weather\", \"arguments\": {\"city\": ",
        "\"Rome\"}}</tool_call>",
        "\n",
        "<tool_call>{\"name\": \"weather\"}</tool_call>",
    ])
}

/// `text` with every id of a call as `toolu_<id>`.
fn without_ids(text: &str) -> String {
    let mut parts = text.split("toolu_");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |text, part| text + "toolu_<id>" + &part[24..])
}

#[tokio::test(start_paused = true)]
async fn a_whole_answer() {
    let gate = Gate::scripted(says(&["one ", "two"])).await;
    let answer = gate.post(PATH, &ask(&json!({"system": "Be brief."}))).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.body);
    assert_snapshot!(masked(&answer.body), @r#"{"id":"msg_<uuid>","type":"message","role":"assistant","model":"builtin","content":[{"type":"text","citations":null,"text":"one two"}],"stop_reason":"end_turn","stop_sequence":null,"usage":{"input_tokens":4,"cache_creation_input_tokens":0,"cache_read_input_tokens":0,"cache_creation":{"ephemeral_5m_input_tokens":0,"ephemeral_1h_input_tokens":0},"output_tokens":3,"output_tokens_details":{"thinking_tokens":0},"server_tool_use":null,"service_tier":"standard"}}"#);
    let id = answer.header("x-task-id").to_owned();
    assert_eq!((answer.header("x-queue-wait-ms"), answer.header("x-sluicegate-ignored")), ("0", ""));
    assert_eq!(answer.header("request-id"), answer.header("x-request-id"));
    assert!(!answer.header("request-id").is_empty());
    assert_eq!(gate.get(&format!("/v2/tasks/msg_{id}")).await.json()["output"], "one two");
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn a_streamed_answer() {
    let gate = Gate::scripted(says(&["one ", "two"])).await;
    let answer = gate.post(PATH, &ask(&json!({"stream": true}))).await;
    assert_eq!(answer.header("content-type"), "text/event-stream; charset=utf-8");
    assert_snapshot!(masked(&answer.body), @r#"
    event: message_start
    data: {"type":"message_start","message":{"id":"msg_<uuid>","type":"message","role":"assistant","model":"builtin","content":[],"stop_reason":null,"stop_sequence":null,"usage":{"input_tokens":2,"cache_creation_input_tokens":0,"cache_read_input_tokens":0,"cache_creation":{"ephemeral_5m_input_tokens":0,"ephemeral_1h_input_tokens":0},"output_tokens":0,"output_tokens_details":{"thinking_tokens":0},"server_tool_use":null,"service_tier":"standard"}}}

    event: content_block_start
    data: {"type":"content_block_start","index":0,"content_block":{"type":"text","citations":null,"text":""}}

    event: content_block_delta
    data: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"one "}}

    event: content_block_delta
    data: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"two"}}

    event: content_block_stop
    data: {"type":"content_block_stop","index":0}

    event: message_delta
    data: {"type":"message_delta","delta":{"stop_reason":"end_turn","stop_sequence":null},"usage":{"input_tokens":2,"cache_creation_input_tokens":0,"cache_read_input_tokens":0,"cache_creation":{"ephemeral_5m_input_tokens":0,"ephemeral_1h_input_tokens":0},"output_tokens":3,"output_tokens_details":{"thinking_tokens":0},"server_tool_use":null,"service_tier":"standard"}}

    event: message_stop
    data: {"type":"message_stop"}
    "#);
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn reasoning_text_and_calls_are_blocks() {
    let gate = Gate::scripted(eloquent()).await;
    let thinking =
        json!({"tools": weather(), "thinking": {"type": "enabled", "budget_tokens": 1024}, "max_tokens": 2000});
    let answer = gate.post(PATH, &ask(&thinking)).await.json();
    assert_snapshot!(masked(&without_ids(&answer["content"].to_string())), @r#"[{"type":"thinking","thinking":"Hm\n","signature":"msg_<uuid>"},{"type":"text","citations":null,"text":"Wait."},{"type":"tool_use","id":"toolu_<id>","name":"weather","input":{"city":"Rome"}},{"type":"tool_use","id":"toolu_<id>","name":"weather","input":{}}]"#);
    assert_eq!(answer["stop_reason"], "tool_use");
    assert_eq!(answer["usage"]["output_tokens_details"]["thinking_tokens"], 2);
    let mut streamed = thinking.clone();
    streamed["stream"] = true.into();
    assert_snapshot!(masked(&without_ids(&gate.post(PATH, &ask(&streamed)).await.body)), @r#"
    event: message_start
    data: {"type":"message_start","message":{"id":"msg_<uuid>","type":"message","role":"assistant","model":"builtin","content":[],"stop_reason":null,"stop_sequence":null,"usage":{"input_tokens":2,"cache_creation_input_tokens":0,"cache_read_input_tokens":0,"cache_creation":{"ephemeral_5m_input_tokens":0,"ephemeral_1h_input_tokens":0},"output_tokens":0,"output_tokens_details":{"thinking_tokens":0},"server_tool_use":null,"service_tier":"standard"}}}

    event: content_block_start
    data: {"type":"content_block_start","index":0,"content_block":{"type":"thinking","thinking":"","signature":""}}

    event: content_block_delta
    data: {"type":"content_block_delta","index":0,"delta":{"type":"thinking_delta","thinking":"Hm"}}

    event: content_block_delta
    data: {"type":"content_block_delta","index":0,"delta":{"type":"thinking_delta","thinking":"\n"}}

    event: content_block_delta
    data: {"type":"content_block_delta","index":0,"delta":{"type":"signature_delta","signature":"msg_<uuid>"}}

    event: content_block_stop
    data: {"type":"content_block_stop","index":0}

    event: content_block_start
    data: {"type":"content_block_start","index":1,"content_block":{"type":"text","citations":null,"text":""}}

    event: content_block_delta
    data: {"type":"content_block_delta","index":1,"delta":{"type":"text_delta","text":"Wait."}}

    event: content_block_stop
    data: {"type":"content_block_stop","index":1}

    event: content_block_start
    data: {"type":"content_block_start","index":2,"content_block":{"type":"tool_use","id":"toolu_<id>","name":"weather","input":{}}}

    event: content_block_delta
    data: {"type":"content_block_delta","index":2,"delta":{"type":"input_json_delta","partial_json":"{\"city\": "}}

    event: content_block_delta
    data: {"type":"content_block_delta","index":2,"delta":{"type":"input_json_delta","partial_json":"\"Rome\"}"}}

    event: content_block_stop
    data: {"type":"content_block_stop","index":2}

    event: content_block_start
    data: {"type":"content_block_start","index":3,"content_block":{"type":"tool_use","id":"toolu_<id>","name":"weather","input":{}}}

    event: content_block_delta
    data: {"type":"content_block_delta","index":3,"delta":{"type":"input_json_delta","partial_json":"{}"}}

    event: content_block_stop
    data: {"type":"content_block_stop","index":3}

    event: message_delta
    data: {"type":"message_delta","delta":{"stop_reason":"tool_use","stop_sequence":null},"usage":{"input_tokens":2,"cache_creation_input_tokens":0,"cache_read_input_tokens":0,"cache_creation":{"ephemeral_5m_input_tokens":0,"ephemeral_1h_input_tokens":0},"output_tokens":10,"output_tokens_details":{"thinking_tokens":2},"server_tool_use":null,"service_tier":"standard"}}

    event: message_stop
    data: {"type":"message_stop"}
    "#);
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn reasoning_is_shown_to_those_who_have_asked_for_it() {
    let gate = Gate::scripted(says(&["<think>\n", "Hm", "\n</think>", "\n\n", "Yes."])).await;
    let omitted = json!({"thinking": {"type": "adaptive", "display": "omitted"}});
    for (change, content) in [
        (json!({}), r#"[{"type":"text","citations":null,"text":"Yes."}]"#),
        (json!({"thinking": {"type": "disabled"}}), r#"[{"type":"text","citations":null,"text":"Yes."}]"#),
        (
            omitted,
            r#"[{"type":"thinking","thinking":"","signature":"msg_<uuid>"},{"type":"text","citations":null,"text":"Yes."}]"#,
        ),
    ] {
        let answer = gate.post(PATH, &ask(&change)).await;
        assert!(masked(&answer.body).contains(content), "{}", answer.body);
    }
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn a_conversation_with_calls_goes_on() {
    let gate = Gate::scripted(says(&["It is ", "sunny."])).await;
    let messages = json!([
        {"role": "user", "content": "Weather?"},
        {"role": "assistant", "content": [
            {"type": "thinking", "thinking": "Hm", "signature": "x"},
            {"type": "text", "text": "Wait."},
            {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"city": "Rome"}}]},
        {"role": "user", "content": [
            {"type": "tool_result", "tool_use_id": "toolu_1", "content": [{"type": "text", "text": "sunny"}]},
            {"type": "text", "text": "And?", "cache_control": {"type": "ephemeral"}}]},
    ]);
    let answer = gate.post(PATH, &ask(&json!({"messages": messages, "tools": weather()}))).await;
    assert_eq!(answer.json()["content"][0]["text"], "It is sunny.", "{}", answer.body);
    assert_eq!(answer.json()["stop_reason"], "end_turn");
    assert_eq!(answer.header("x-sluicegate-ignored"), "messages[].content[].cache_control");
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_was_begun_goes_on_where_the_engine_can() {
    let gate = Gate::scripted(says(&["sunny."])).await;
    let begun =
        json!({"messages": [{"role": "user", "content": "Weather?"}, {"role": "assistant", "content": "It is"}]});
    let answer = gate.post(PATH, &ask(&begun)).await.json();
    assert_eq!((&answer["content"][0]["text"], &answer["usage"]["input_tokens"]), (&json!("sunny."), &json!(3)));
    gate.finish().await;
    let remote = r#"{ base_url = "http://127.0.0.1:1/v1", model = "m" }"#;
    let elsewhere = format!(r#"[{{ id = "elsewhere", engine = "remote", remote = {remote} }}]"#);
    let gate = Gate::configured(&[("SLUICEGATE_POOLS", &elsewhere)]).await;
    let refused = gate.post(PATH, &ask(&begun)).await;
    assert_snapshot!(refused.json()["error"].to_string(), @r#"{"type":"invalid_request_error","message":"A message of the assistant cannot be continued here: the last of the messages must be the user's.","param":"messages"}"#);
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn an_answer_says_why_it_ended() {
    let gate = Gate::scripted(says(&["one t", "wo thr", "ee four"])).await;
    for (change, reason, stop, text) in [
        (json!({"stop_sequences": ["four", "two three"]}), "stop_sequence", json!("two three"), "one "),
        (json!({"stop_sequences": ["never"]}), "end_turn", Value::Null, "one two three four"),
        (json!({"max_tokens": 1}), "max_tokens", Value::Null, "one t"),
    ] {
        let whole = gate.post(PATH, &ask(&change)).await.json();
        assert_eq!((&whole["stop_reason"], &whole["stop_sequence"]), (&reason.into(), &stop));
        assert_eq!(whole["content"][0]["text"], text);
        let mut streamed = change.clone();
        streamed["stream"] = true.into();
        let stream = gate.post(PATH, &ask(&streamed)).await.body;
        let delta = format!(r#""delta":{{"stop_reason":"{reason}","stop_sequence":{stop}}}"#);
        assert!(stream.contains(&delta), "{stream}");
    }
    // The native events tell it too.
    let id = gate.submit(r#"{"model_ref": "builtin", "prompt": "hi", "stop": ["thr"]}"#).await;
    let events = gate.events(&id).await;
    assert!(events.contains(r#""finish_reason":"stop","matched_stop":"thr""#), "{events}");
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn tokens_are_counted_as_admission_counts_them() {
    let gate = Gate::scripted(says(&["hi"])).await;
    let mut body = json!({"model": "builtin", "system": "Be brief.", "tools": weather(),
        "messages": [{"role": "user", "content": [{"type": "text", "text": "What is "}, {"type": "text", "text": "it?"}]}]});
    let counted = gate.post(COUNT, &body.to_string()).await;
    assert_eq!(counted.status, StatusCode::OK, "{}", counted.body);
    body["max_tokens"] = 5.into();
    let answer = gate.post(PATH, &body.to_string()).await.json();
    assert_snapshot!(counted.body, @r#"{"input_tokens":5}"#);
    assert_eq!(counted.json()["input_tokens"], answer["usage"]["input_tokens"]);
    assert_eq!((counted.header("x-task-id"), counted.header("x-sluicegate-ignored")), ("", ""));
    // What says nothing about the prompt is named, and a prompt may be longer than the context.
    let body = ask(&json!({"why": 1, "messages": [{"role": "user", "content": "word ".repeat(9000)}]}));
    let counted = gate.post(COUNT, &body).await;
    assert_eq!(
        (counted.body.as_str(), counted.header("x-sluicegate-ignored")),
        (r#"{"input_tokens":9000}"#, "why, max_tokens")
    );
    assert_eq!(gate.get("/v2/tasks").await.json()["tasks"].as_array().unwrap().len(), 1);
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn failures_are_anthropics_error_object() {
    let gate = Gate::scripted(says(&["hi"])).await;
    let messages = |messages: Value| ask(&json!({"messages": messages}));
    let user = json!({"role": "user", "content": "hi"});
    let bodies = [
        "{".to_owned(),
        ask(&json!({"max_tokens": null})),
        ask(&json!({"max_tokens": 0})),
        ask(&json!({"max_tokens": 99_999})),
        ask(&json!({"temperature": 1.5})),
        ask(&json!({"model": "claude-9"})),
        ask(&json!({"stop_sequences": [""]})),
        ask(&json!({"thinking": {"type": "enabled", "budget_tokens": 500}})),
        ask(&json!({"tools": [{"type": "web_search_20250305", "name": "web_search"}]})),
        ask(&json!({"tools": [{"name": "a b", "input_schema": {}}]})),
        ask(&json!({"tool_choice": {"type": "any"}})),
        ask(&json!({"output_config": {"format": {"type": "json_schema", "schema": {"not": {}}}}})),
        messages(json!([{"role": "system", "content": "Be brief."}, user])),
        messages(json!([user, {"role": "assistant", "content": "The answer is "}])),
        messages(json!([{"role": "user", "content": [{"type": "image", "source": {"type": "url", "url": "x"}}]}])),
        messages(json!([{"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t"}]}])),
    ];
    let mut lines = String::new();
    for body in bodies {
        let answer = gate.post(PATH, &body).await;
        let answered = answer.json();
        let error = &answered["error"];
        assert_eq!(
            (&answered["type"], &answered["request_id"]),
            (&"error".into(), &answer.header("request-id").into())
        );
        lines += &format!("{} {} | {}\n", answer.status.as_u16(), error["type"].as_str().unwrap(), error["message"]);
    }
    assert_snapshot!(lines, @r#"
    400 invalid_request_error | "We could not parse the JSON body of your request: EOF while parsing an object at line 1 column 1."
    400 invalid_request_error | "Missing required parameter: 'max_tokens'."
    400 invalid_request_error | "`max_tokens`: at least 1"
    400 invalid_request_error | "max_tokens: the model's context is 8192 tokens; the prompt has 2 and 99999 are asked for as output"
    400 invalid_request_error | "Invalid value for 'temperature': 0 to 1."
    404 not_found_error | "no model is called \"claude-9\" here"
    400 invalid_request_error | "`stop_sequences`: a stop string is not empty"
    400 invalid_request_error | "Invalid value for 'thinking.budget_tokens': it is less than 'max_tokens'."
    400 invalid_request_error | "Invalid value for 'tools[0].type': the only type of tool that is served is 'custom': those that Anthropic's service runs or defines, such as web search, are not there."
    400 invalid_request_error | "`tools[0].name`: 1 to 128 letters, digits, underscores and hyphens"
    400 invalid_request_error | "`tool_choice`: there are no tools to choose from"
    400 invalid_request_error | "`output_config.format.schema.not`: an answer cannot be held to this keyword"
    400 invalid_request_error | "messages[0].role: Unexpected role \"system\". The Messages API accepts a top-level `system` parameter, not \"system\" as an input message role."
    400 invalid_request_error | "Invalid value for 'messages[1].content': the beginning of an answer does not end with white space."
    400 invalid_request_error | "`messages[0].content[0]`: a data: URL, or an address that begins with https://"
    400 invalid_request_error | "Invalid value for 'messages[0].content[0].tool_use_id': no 'tool_use' block of the message before has this id, or it has its result already."
    "#);
    let put = read(gate.send(request("PUT", PATH, Body::empty())).await).await;
    assert_eq!(
        (put.status, &put.json()["error"]["type"]),
        (StatusCode::METHOD_NOT_ALLOWED, &"invalid_request_error".into())
    );
    let nowhere = gate.get("/v1/messages/nowhere").await;
    assert_eq!((nowhere.status, &nowhere.json()["error"]["type"]), (StatusCode::NOT_FOUND, &"not_found_error".into()));
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn a_full_queue_is_an_overload_and_no_limit_of_the_caller() {
    let script = Script { slots: 1, ..Script::default() };
    let gate = Gate::with(script, &[("SLUICEGATE_POOLS__0__QUEUE__CAPACITY", "1")]).await;
    let long = r#"{"model_ref": "builtin", "prompt": "say it", "max_tokens": 500}"#;
    let tasks = [gate.submit(long).await, gate.submit(long).await];
    let answer = gate.post(PATH, &ask(&json!({}))).await;
    assert_eq!((answer.status.as_u16(), &answer.json()["error"]["type"]), (529, &"overloaded_error".into()));
    assert!(answer.header("retry-after").parse::<u64>().unwrap() > 0 && answer.header("x-should-retry").is_empty());
    for id in tasks.iter().rev() {
        gate.post(&format!("/v2/tasks/{id}/cancel"), "").await;
    }
    gate.finish().await;
    let gate = Gate::with(says(&["hi"]), &[("SLUICEGATE_LIMITS", "{ requests_per_minute = 1 }")]).await;
    assert_eq!(gate.post(PATH, &ask(&json!({}))).await.status, StatusCode::OK);
    let answer = gate.post(PATH, &ask(&json!({}))).await;
    assert_eq!((answer.status.as_u16(), &answer.json()["error"]["type"]), (429, &"rate_limit_error".into()));
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn a_client_that_hangs_up_cancels_its_task() {
    let gate = Gate::scripted(Script { slots: 1, ..Script::default() }).await;
    let stream = gate.send(request("POST", PATH, Body::from(ask(&json!({"stream": true}))))).await;
    let id = stream.headers()["x-task-id"].to_str().unwrap().to_owned();
    let mut body = stream.into_body();
    read_until(&mut body, "scripted").await;
    let whole = ask(&json!({}));
    let waiting = gate.post(PATH, &whole);
    assert!(tokio::time::timeout(Duration::from_secs(1), waiting).await.is_err());
    assert_eq!(gate.app.pools[0].queue_depth(), 0);
    drop(body);
    // Its end is seen once it is in the ledger.
    gate.until(&format!("/v2/tasks/{id}"), |task| task["state"] == "canceled").await;
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn what_fails_under_way_is_an_event_and_the_end() {
    let script =
        Script { failure: Some(Failure { after: 1, kind: FailureKind::Reset, times: u32::MAX }), ..Script::default() };
    let gate = Gate::scripted(script).await;
    let stream = gate.post(PATH, &ask(&json!({"stream": true}))).await;
    let (_, last) = stream.body.trim_end().rsplit_once("\n\n").unwrap();
    assert_snapshot!(masked(last), @r#"
    event: error
    data: {"type":"error","error":{"type":"api_error","message":"the engine failed while it ran the task; try again","retry_after_ms":1000},"request_id":"<uuid>"}
    "#);
    assert!(last.contains(stream.header("request-id")));
    gate.recovered().await;
    gate.finish().await;
    let gate = Gate::scripted(Script::default()).await;
    let stream = gate.send(request("POST", PATH, Body::from(ask(&json!({"stream": true}))))).await;
    let id = stream.headers()["x-task-id"].to_str().unwrap().to_owned();
    let mut body = stream.into_body();
    read_until(&mut body, "scripted").await;
    gate.post(&format!("/v2/tasks/{id}/cancel"), "").await;
    read_until(&mut body, "event: error").await;
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn a_silent_stream_pings() {
    let gate = Gate::scripted(Script { slots: 1, ..Script::default() }).await;
    gate.submit(r#"{"model_ref": "builtin", "prompt": "hi", "max_tokens": 4000}"#).await;
    // Behind one that takes 40 s.
    let stream = gate.post(PATH, &ask(&json!({"stream": true, "max_tokens": 1}))).await.body;
    let ping = "event: ping\ndata: {\"type\":\"ping\"}\n\n";
    assert!(stream.starts_with(ping) && stream.matches(ping).count() == 2, "{stream}");
    gate.finish().await;
}
