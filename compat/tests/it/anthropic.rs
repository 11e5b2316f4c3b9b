//! The Messages API: what becomes of bodies, and what holds for every answer.

use std::sync::Arc;

use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::{Value, json};
use sluicegate_compat::anthropic::{
    Answer, ErrorBody, EventEncoder, MessageMeta, MessagesContext, Thinking, parse, parse_count,
};
use sluicegate_compat::native::{
    Content, ErrorEnvelope, Event, FinishReason, Message, OutputMode, Priority, ReasoningEffort, Role, TaskRequest,
    ToolChoice,
};

use crate::events::{any_events, end, ended, reasoning, token, tool};
use crate::request_laws::{any_json_of, check_error};

const FIELDS: [&str; 36] = [
    "model",
    "messages",
    "system",
    "max_tokens",
    "stop_sequences",
    "temperature",
    "top_p",
    "top_k",
    "stream",
    "metadata",
    "user_id",
    "service_tier",
    "tools",
    "tool_choice",
    "thinking",
    "output_config",
    "output_format",
    "format",
    "sluicegate",
    "container",
    "mcp_servers",
    "role",
    "content",
    "type",
    "text",
    "signature",
    "data",
    "id",
    "name",
    "input",
    "tool_use_id",
    "is_error",
    "input_schema",
    "budget_tokens",
    "schema",
    "colour",
];

const WORDS: [&str; 12] = [
    "user",
    "assistant",
    "system",
    "text",
    "tool_use",
    "tool_result",
    "thinking",
    "image",
    "enabled",
    "auto",
    "any",
    "json_schema",
];

fn with(more: &Value) -> Value {
    let mut body = json!({"model": "m", "max_tokens": 5000, "messages": [{"role": "user", "content": "hi"}]});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

fn read(more: &Value) -> (TaskRequest, MessagesContext) {
    let (task, context) = parse(with(more).to_string().as_bytes()).unwrap_or_else(|error| panic!("{error:?}"));
    task.check().unwrap();
    (task, context)
}

fn refused(more: &Value) -> (String, String) {
    let error = parse(with(more).to_string().as_bytes()).expect_err("it is refused");
    (error.param.unwrap_or_default(), error.message)
}

fn meta() -> MessageMeta {
    MessageMeta { id: "msg_1".into(), request_id: "r-1".into(), tokens_in: 11 }
}

fn whole(context: &MessagesContext, events: &[Event]) -> Result<Value, ErrorEnvelope> {
    let mut answer = Answer::new(context, meta());
    events.iter().for_each(|event| answer.push(event));
    answer.finish().map(|message| serde_json::to_value(message).unwrap())
}

/// The events of a stream, each by its name, which is also its type.
fn stream(context: &MessagesContext, events: &[Event]) -> Vec<Value> {
    let mut encoder = EventEncoder::new(context, meta());
    let mut out = Vec::new();
    events.iter().for_each(|event| encoder.encode(event, &mut out));
    let text = String::from_utf8(out).unwrap();
    let event = |event: &str| {
        let (name, data) = event.split_once('\n').unwrap();
        let data: Value = serde_json::from_str(data.strip_prefix("data: ").unwrap()).unwrap();
        assert_eq!(name.strip_prefix("event: ").unwrap(), data["type"]);
        data
    };
    text.split_terminator("\n\n").map(event).collect()
}

/// What a client makes of a stream, the arguments of calls as they were written.
fn accumulated(events: &[Value]) -> Value {
    let mut message = Value::Null;
    let push =
        |text: &mut Value, more: &Value| *text = format!("{}{}", text.as_str().unwrap(), more.as_str().unwrap()).into();
    for event in events {
        let index = event["index"].as_u64().unwrap_or_default() as usize;
        match event["type"].as_str().unwrap() {
            "message_start" => message = event["message"].clone(),
            "content_block_start" => {
                let blocks = message["content"].as_array_mut().unwrap();
                assert_eq!(blocks.len(), index);
                blocks.push(event["content_block"].clone());
                if event["content_block"]["type"] == "tool_use" {
                    message["content"][index]["input"] = "".into();
                }
            }
            "content_block_delta" => {
                let (block, delta) = (&mut message["content"][index], &event["delta"]);
                match delta["type"].as_str().unwrap() {
                    "text_delta" => push(&mut block["text"], &delta["text"]),
                    "thinking_delta" => push(&mut block["thinking"], &delta["thinking"]),
                    "signature_delta" => push(&mut block["signature"], &delta["signature"]),
                    "input_json_delta" => push(&mut block["input"], &delta["partial_json"]),
                    other => panic!("{other}"),
                }
            }
            "message_delta" => {
                message["stop_reason"] = event["delta"]["stop_reason"].clone();
                message["stop_sequence"] = event["delta"]["stop_sequence"].clone();
                message["usage"] = event["usage"].clone();
            }
            "content_block_stop" | "message_stop" => {}
            other => panic!("{other}"),
        }
    }
    message
}

#[test]
fn a_body_says_what_is_to_be_done() {
    let (task, context) = read(&json!({
        "system": [{"type": "text", "text": "Be "}, {"type": "text", "text": "brief.", "cache_control": {}}],
        "temperature": 0.5, "top_p": 0, "top_k": 0, "stop_sequences": ["."], "stream": true,
        "metadata": {"user_id": "me"}, "service_tier": "auto", "thinking": {"type": "enabled", "budget_tokens": 2000},
        "output_config": {"format": {"type": "json_schema", "schema": {"type": "object"}}},
        "sluicegate": {"priority": "batch", "deadline_ms": 5}, "colour": "red",
    }));
    assert_eq!((task.temperature, task.top_p, task.top_k), (Some(0.5), Some(f32::MIN_POSITIVE), None));
    assert_eq!((task.max_tokens, task.stop, task.deadline_ms), (Some(5000), vec![".".to_owned()], Some(5)));
    assert_eq!((task.reasoning_effort, task.priority), (Some(ReasoningEffort::Low), Some(Priority::Batch)));
    assert_eq!((task.output_mode, task.json_schema), (OutputMode::Json, Some(json!({"type": "object"}))));
    assert_eq!(task.chat_template_kwargs.unwrap()["enable_thinking"], true);
    assert_eq!(task.metadata["user_id"], "me");
    let messages = task.messages.unwrap();
    assert_eq!(messages[0].role, Role::System);
    assert_eq!(messages[0].content.clone().unwrap().into_text(), "Be brief.");
    assert!(context.stream && context.thinking == Thinking::Shown && context.priority == Priority::Batch);
    assert_eq!(context.ignored, ["system[].cache_control", "colour"]);
}

#[test]
fn turns_of_one_role_are_one_and_results_stand_before_what_is_said() {
    let (task, context) = read(&json!({"messages": [
        {"role": "user", "content": "one"},
        {"role": "user", "content": [{"type": "text", "text": "two"}]},
        {"role": "assistant", "content": [
            {"type": "redacted_thinking", "data": "x"}, {"type": "thinking", "thinking": "Hm", "signature": "s"},
            {"type": "tool_use", "id": "toolu_1", "name": "f", "input": {"a": 1}}]},
        {"role": "assistant", "content": [{"type": "tool_use", "id": "toolu_2", "name": "g", "input": {}}]},
        {"role": "user", "content": [
            {"type": "tool_result", "tool_use_id": "toolu_2", "is_error": true, "content": "no"},
            {"type": "text", "text": "And?"},
            {"type": "tool_result", "tool_use_id": "toolu_1"}]},
    ]}));
    let messages = task.messages.unwrap();
    let said = |message: &Message| (message.role, message.content.clone().map(Content::into_text));
    let said: Vec<_> = messages.iter().map(said).collect();
    let of = |role, text: &str| (role, Some(text.to_owned()));
    assert_eq!(
        said,
        [
            of(Role::User, "onetwo"),
            (Role::Assistant, None),
            of(Role::Tool, "Error: no"),
            of(Role::Tool, ""),
            of(Role::User, "And?"),
        ]
    );
    let calls: Vec<_> = messages[1].tool_calls.iter().map(|call| call.function.arguments.as_str()).collect();
    assert_eq!((calls, messages[1].reasoning_content.as_deref()), (vec![r#"{"a":1}"#, "{}"], Some("Hm")));
    assert_eq!(messages[2].tool_call_id.as_deref(), Some("toolu_2"));
    assert_eq!(context.ignored, ["messages[].content[].redacted_thinking"]);
}

#[test]
fn each_of_very_many_calls_has_one_result() {
    let numbers = 0..30_000;
    let call = |number| json!({"type": "tool_use", "id": format!("toolu_{number}"), "name": "f", "input": {}});
    let result = |number| json!({"type": "tool_result", "tool_use_id": format!("toolu_{number}")});
    let calls: Vec<_> = numbers.clone().map(call).collect();
    let asks = |calls: &[Value], results: &[Value]| {
        let messages = json!([{"role": "user", "content": "a"}, {"role": "assistant", "content": calls},
            {"role": "user", "content": results}]);
        parse(with(&json!({"messages": messages})).to_string().as_bytes())
    };
    let results: Vec<_> = numbers.clone().rev().map(result).collect();
    let (task, _) = asks(&calls, &results).unwrap();
    assert_eq!(task.messages.unwrap().len(), 2 + numbers.len());
    let twice = [call(1), call(1)];
    let error = asks(&twice, &[result(1)]).unwrap_err();
    assert_eq!(error.param.as_deref(), Some("messages[1].content[1].id"));
}

#[test]
fn a_last_turn_of_the_assistant_is_the_beginning_of_its_answer() {
    let messages = json!([{"role": "user", "content": "a"}, {"role": "assistant", "content": "It"},
        {"role": "assistant", "content": [{"type": "text", "text": " is"}]}]);
    let (task, context) = read(&json!({"messages": messages}));
    assert!(task.continue_final_message && !read(&json!({})).0.continue_final_message);
    assert_eq!(task.messages.unwrap().pop().unwrap().content.map(Content::into_text).as_deref(), Some("It is"));
    let format = json!({"messages": messages, "output_config": {"format": {"type": "json_schema", "schema": {}}}});
    let held = parse(with(&format).to_string().as_bytes()).unwrap().0.check().unwrap_err();
    assert_eq!(held.param, "continue_final_message");
    let error = context.rename(ErrorEnvelope::invalid("continue_final_message", held.message));
    assert_eq!(error.param.as_deref(), Some("messages"));
    assert!(error.message.contains("cannot be continued here"), "{}", error.message);
}

#[test]
fn tools_and_the_choice_among_them() {
    let tools = json!([{"name": "f", "input_schema": {"type": "object"}, "strict": true, "cache_control": {}}]);
    for (choice, wanted) in [
        (json!({"type": "auto"}), ToolChoice::Auto),
        (json!({"type": "any", "disable_parallel_tool_use": true}), ToolChoice::Required),
        (json!({"type": "tool", "name": "f"}), ToolChoice::Function("f".into())),
        (json!({"type": "none"}), ToolChoice::None),
    ] {
        let (task, context) = read(&json!({"tools": tools, "tool_choice": choice}));
        assert_eq!(task.parallel_tool_calls, choice.get("disable_parallel_tool_use").map(|_| false));
        assert_eq!(task.tool_choice, Some(wanted));
        assert_eq!(task.tools.unwrap()[0].function.strict, Some(true));
        assert_eq!(context.ignored, ["tools[].cache_control"]);
    }
    assert_eq!(read(&json!({"tools": [], "tool_choice": {"type": "auto"}})).0.tools, None);
}

#[test]
fn what_is_refused_is_named() {
    let message = |content: Value| json!({"messages": [{"role": "user", "content": content}]});
    let call = json!({"role": "assistant", "content": [{"type": "tool_use", "id": "a", "name": "f", "input": {}}]});
    let cases = [
        (json!({"max_tokens": null}), "max_tokens"),
        (json!({"model": null}), "model"),
        (json!({"messages": []}), "messages"),
        (json!({"system": "a", "messages": []}), "messages"),
        (json!({"temperature": 1.1}), "temperature"),
        (json!({"service_tier": "flex"}), "service_tier"),
        (json!({"container": "c"}), "container"),
        (json!({"mcp_servers": [{}]}), "mcp_servers"),
        (json!({"thinking": {"type": "enabled"}}), "thinking.budget_tokens"),
        (json!({"thinking": {"type": "enabled", "budget_tokens": 1023}}), "thinking.budget_tokens"),
        (json!({"thinking": {"type": "enabled", "budget_tokens": 5000}}), "thinking.budget_tokens"),
        (json!({"thinking": {"type": "adaptive", "budget_tokens": 2000}}), "thinking.budget_tokens"),
        (json!({"thinking": {"type": "deep"}}), "thinking.type"),
        (json!({"output_config": {"effort": "some"}}), "output_config.effort"),
        (json!({"output_format": {"type": "xml"}}), "output_format.type"),
        (json!({"output_config": {"format": {"type": "json_schema"}}}), "output_config.format.schema"),
        (json!({"tools": [{"type": "bash_20250124", "name": "bash"}]}), "tools[0].type"),
        (json!({"tools": [{"name": "f"}]}), "tools[0].input_schema"),
        (json!({"tool_choice": {"type": "tool"}}), "tool_choice.name"),
        (json!({"system": [{"type": "image"}]}), "system[0]"),
        (message(json!("")), "messages[0].content"),
        (message(json!([])), "messages[0].content"),
        (message(json!([{"type": "document", "source": {}}])), "messages[0].content[0]"),
        (message(json!([{"type": "thinking", "thinking": ""}])), "messages[0].content[0].type"),
        (message(json!([{"type": "tool_use", "id": "a", "name": "f", "input": 1}])), "messages[0].content[0].input"),
        (message(json!([{"type": "tool_result", "tool_use_id": "a"}])), "messages[0].content[0].tool_use_id"),
        (json!({"messages": [{"role": "system", "content": "a"}]}), "messages[0].role"),
        (json!({"messages": [{"role": "tool", "content": "a"}]}), "messages[0].role"),
        (json!({"messages": [call, {"role": "user", "content": "a"}]}), "messages[1].content"),
        (json!({"messages": [call]}), "messages[0].content"),
        (json!({"messages": [{"role": "assistant", "content": "It is "}]}), "messages[0].content"),
        (
            json!({"messages": [{"role": "assistant", "content": [{"type": "thinking", "thinking": "Hm"}]}]}),
            "messages[0].content",
        ),
    ];
    for (more, param) in cases {
        let (named, message) = refused(&more);
        assert_eq!(named, param, "{more}: {message}");
    }
}

#[test]
fn a_count_needs_no_limit_and_names_what_it_does_not_read() {
    let body = json!({"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": true, "top_k": 1});
    let (task, context) = parse_count(body.to_string().as_bytes()).unwrap();
    assert_eq!((task.max_tokens, context.ignored), (None, vec!["top_k".to_owned(), "stream".to_owned()]));
}

#[test]
fn errors_of_the_gateway_have_the_clients_words() {
    let context = read(&json!({"output_format": {"type": "json_schema", "schema": {}}})).1;
    for (native, own) in [
        ("model_ref", "model"),
        ("stop", "stop_sequences"),
        ("tools[1].function.parameters.properties.a", "tools[1].input_schema.properties.a"),
        ("tools[1].function.name", "tools[1].name"),
        ("json_schema.properties.a", "output_format.schema.properties.a"),
        ("reasoning_effort", "thinking"),
        ("deadline_ms", "sluicegate.deadline_ms"),
        ("messages[0].content", "messages"),
        ("temperature", "temperature"),
    ] {
        let own = if native.starts_with("messages") { native } else { own };
        assert_eq!(context.param(native), own);
    }
    let threaded = with(&json!({"thread": {"type": "create"}}));
    let refused = parse(threaded.to_string().as_bytes()).unwrap_err();
    assert_eq!(
        serde_json::to_value(ErrorBody::from(&refused)).unwrap()["error"]["details"],
        json!({"error_code": "thread_unsupported_request", "unsupported": ["thread"]})
    );
    let error = ErrorEnvelope::invalid("top_k", "too small").with_correlation_id("r-1");
    assert_eq!(
        serde_json::to_value(ErrorBody::from(&error)).unwrap(),
        json!({"type": "error", "request_id": "r-1",
            "error": {"type": "invalid_request_error", "message": "top_k: too small", "param": "top_k"}})
    );
}

#[test]
fn white_space_alone_is_no_block_unless_there_is_nothing_else() {
    let context = MessagesContext::new("m");
    let call = tool(0, Some(("call_1", "f")), "{}");
    let other = tool(1, Some(("abcdefghi", "g")), "{\"a\": [1, 2");
    let events = [token(0, 0, "\n"), call, token(0, 1, " \n"), other, ended(FinishReason::Length)];
    let content = whole(&context, &events).unwrap()["content"].clone();
    assert_eq!(
        content,
        json!([{"type": "tool_use", "id": "toolu_1", "name": "f", "input": {}},
            {"type": "tool_use", "id": "toolu_abcdefghi", "name": "g", "input": {"a": [1]}}])
    );
    let blank = [token(0, 0, "\n"), token(0, 1, " "), ended(FinishReason::Stop)];
    assert_eq!(whole(&context, &blank).unwrap()["content"][0]["text"], "\n ");
    let spoken = [token(0, 0, "\n"), token(0, 1, "a"), token(0, 2, " "), ended(FinishReason::Stop)];
    assert_eq!(whole(&context, &spoken).unwrap()["content"][0]["text"], "\na ");
}

#[test]
fn usage_tells_apart_what_came_from_a_cache() {
    let stopped = sluicegate_compat::native::End { matched_stop: Some("x".into()), ..end(FinishReason::Stop) };
    let events = [reasoning(0, "Hm"), Event::End(Arc::new(stopped))];
    let answer = whole(&MessagesContext::new("m"), &events).unwrap();
    assert_eq!((&answer["usage"]["input_tokens"], &answer["usage"]["cache_read_input_tokens"]), (&json!(3), &json!(8)));
    assert_eq!((&answer["stop_reason"], &answer["stop_sequence"]), (&json!("stop_sequence"), &json!("x")));
    assert_eq!(
        (&answer["content"], &answer["usage"]["output_tokens_details"]["thinking_tokens"]),
        (&json!([]), &json!(1))
    );
}

fn any_thinking() -> impl Strategy<Value = Thinking> {
    proptest::sample::select(&[Thinking::Hidden, Thinking::Omitted, Thinking::Shown][..])
}

fn check(body: &[u8]) -> Result<(), TestCaseError> {
    for read in [parse, parse_count] {
        match read(body) {
            Ok((task, context)) => {
                prop_assert!(context.ignored.iter().all(|name| name.bytes().all(|byte| byte.is_ascii_graphic())));
                // Whatever was understood can be checked.
                let _ = task.check();
            }
            Err(error) => check_error(&error)?,
        }
    }
    Ok(())
}

proptest! {
    #[test]
    fn a_stream_says_what_a_whole_answer_says(events in any_events(), thinking in any_thinking()) {
        let context = MessagesContext { thinking, ..MessagesContext::new("m") };
        let streamed = stream(&context, &events);
        match whole(&context, &events) {
            Ok(mut message) => {
                let mut read = accumulated(&streamed);
                prop_assert_eq!(&streamed.last().unwrap()["type"], "message_stop");
                let pairs = read["content"].as_array_mut().unwrap().iter_mut().zip(message["content"].as_array_mut().unwrap());
                for (streamed, whole) in pairs.filter(|(block, _)| block["type"] == "tool_use") {
                    // As the clients read it, where it is an object.
                    if let Ok(input @ Value::Object(_)) = serde_json::from_str(streamed["input"].as_str().unwrap()) {
                        prop_assert_eq!(&whole["input"], &input);
                    }
                    streamed["input"] = whole["input"].take();
                    whole["input"] = streamed["input"].clone();
                }
                prop_assert_eq!(read, message);
            }
            Err(error) => {
                let last = streamed.last().unwrap();
                prop_assert_eq!((&last["type"], &last["request_id"]), (&json!("error"), &json!("r-1")));
                prop_assert_eq!(&last["error"]["message"], &json!(error.message));
            }
        }
    }

    #[test]
    fn no_bytes_make_it_panic(body in vec(any::<u8>(), 0..200)) {
        check(&body)?;
    }

    #[test]
    fn no_json_makes_it_panic(body in any_json_of(&FIELDS, &WORDS)) {
        check(body.to_string().as_bytes())?;
    }

    #[test]
    fn no_field_makes_it_panic(field in proptest::sample::select(&FIELDS[..]), value in any_json_of(&FIELDS, &WORDS)) {
        check(with(&json!({field: value})).to_string().as_bytes())?;
    }

    #[test]
    fn no_block_makes_it_panic(blocks in vec(any_json_of(&FIELDS, &WORDS), 0..4), role in proptest::sample::select(&WORDS[..])) {
        check(with(&json!({"messages": [{"role": role, "content": blocks}]})).to_string().as_bytes())?;
    }

    #[test]
    fn an_unknown_field_is_named_unless_it_is_null(name in "[a-z]{18,20}", value in any_json_of(&FIELDS, &WORDS)) {
        let expected: &[String] = if value.is_null() { &[] } else { std::slice::from_ref(&name) };
        let (_, context) = parse(with(&json!({name.clone(): value})).to_string().as_bytes()).unwrap();
        prop_assert_eq!(context.ignored, expected);
    }

    #[test]
    fn every_text_arrives_as_it_was_sent(texts in vec("(?s).{1,20}", 1..5)) {
        let blocks: Vec<_> = texts.iter().map(|text| json!({"type": "text", "text": text})).collect();
        let (task, _) = read(&json!({"messages": [{"role": "user", "content": blocks}]}));
        let read = task.messages.unwrap().remove(0).content.map(Content::into_text);
        prop_assert_eq!(read, Some(texts.concat()));
    }
}
