//! Bodies as real clients send them, and what becomes of them.

use std::collections::BTreeMap;

use async_openai::types::chat::{
    ChatCompletionRequestSystemMessage, ChatCompletionRequestUserMessage, CreateChatCompletionRequestArgs,
    ResponseFormat, ResponseFormatJsonSchema,
};
use serde_json::json;
use sluicegate_compat::native::{
    Content, ContentPart, Message, OutputMode, Placement, PlacementMode, Priority, ReasoningEffort, Role, TaskRequest,
    ToolChoice,
};
use sluicegate_compat::openai::chat::{ChatContext, ChatRequest, ServiceTier, openai_param, parse};

fn read(body: serde_json::Value) -> ChatRequest {
    parse(body.to_string().as_bytes()).unwrap_or_else(|error| panic!("{error:?}"))
}

fn split(body: serde_json::Value) -> (TaskRequest, ChatContext) {
    read(body).into_task()
}

/// A body with one user message and the members of `more`.
fn with(more: serde_json::Value) -> serde_json::Value {
    let mut body = json!({"model": "builtin", "messages": [{"role": "user", "content": "hi"}]});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

#[test]
fn the_python_sdk_says_the_least() {
    let (task, context) = split(with(json!({})));
    let messages = Some(vec![Message::text(Role::User, "hi")]);
    assert_eq!(task, TaskRequest { messages, ..TaskRequest::new("builtin") });
    assert_eq!(context, ChatContext::new("builtin"));
    task.check().unwrap();
}

#[test]
fn langchain_streams_and_wants_usage() {
    let (task, context) = split(json!({
        "messages": [{"content": "Be brief.", "role": "system"}, {"content": "hi", "role": "user"}],
        "model": "builtin", "stream": true, "stream_options": {"include_usage": true}, "temperature": 0.7, "n": 1
    }));
    assert_eq!(task.temperature, Some(0.7));
    assert!(context.stream && context.include_usage && context.ignored.is_empty());
}

#[test]
fn the_vercel_sdk_sends_parts() {
    let (task, _) = split(json!({
        "model": "builtin", "max_tokens": 64, "temperature": 0,
        "messages": [{"role": "user", "content": [{"type": "text", "text": "one "}, {"type": "text", "text": "two"}]}]
    }));
    let part = |text: &str| ContentPart::Text { text: text.into() };
    let content = task.messages.unwrap().remove(0).content;
    assert_eq!(content, Some(Content::Parts(vec![part("one "), part("two")])));
}

#[test]
fn a_body_full_of_nulls_asks_for_nothing() {
    let fields = [
        "max_tokens",
        "max_completion_tokens",
        "temperature",
        "top_p",
        "n",
        "stop",
        "seed",
        "presence_penalty",
        "frequency_penalty",
        "logit_bias",
        "logprobs",
        "top_logprobs",
        "stream",
        "stream_options",
        "response_format",
        "user",
        "safety_identifier",
        "metadata",
        "service_tier",
        "prompt_cache_key",
        "top_k",
        "min_p",
        "store",
        "repetition_penalty",
        "chat_template_kwargs",
        "sluicegate",
        "reasoning_effort",
        "tools",
        "tool_choice",
        "parallel_tool_calls",
        "functions",
        "function_call",
        "modalities",
        "audio",
        "web_search_options",
        "prediction",
        "never_heard_of",
    ];
    let nulls = fields.iter().map(|field| ((*field).to_owned(), json!(null))).collect();
    assert_eq!(read(with(serde_json::Value::Object(nulls))), read(with(json!({}))));
}

#[test]
fn an_earlier_answer_can_be_sent_back_as_it_came() {
    let request = read(json!({"model": "builtin", "messages": [
        {"role": "user", "content": "2 + 2?"},
        {"role": "assistant", "content": "4", "refusal": null, "annotations": [], "audio": null, "function_call": null,
         "tool_calls": null, "reasoning_content": "easy"},
        {"role": "assistant", "content": null, "refusal": "No.", "annotations": [{"type": "url_citation"}]},
        {"role": "user", "name": "ann", "content": "why?"}
    ]}));
    assert_eq!(request.ignored(), ["messages[].annotations"]);
    let messages = request.into_task().0.messages.unwrap();
    assert_eq!(messages[1].reasoning_content.as_deref(), Some("easy"));
    assert_eq!(messages[2].content, Some(Content::Text("No.".into())));
    assert_eq!(messages[3].name.as_deref(), Some("ann"));
}

#[test]
fn calls_of_tools_stay_in_the_history_in_both_spellings() {
    let (task, _) = split(json!({"model": "builtin", "messages": [
        {"role": "developer", "content": "Use tools."},
        {"role": "assistant", "content": null,
         "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "add", "arguments": "{}"}}]},
        {"role": "tool", "tool_call_id": "c1", "content": "4"},
        {"role": "assistant", "content": null, "function_call": {"name": "sub", "arguments": "{\"a\":1}"}},
        {"role": "function", "name": "sub", "content": "0"}
    ]}));
    let messages = task.messages.unwrap();
    assert_eq!(messages[1].tool_calls[0].function.name, "add");
    assert_eq!(messages[2].tool_call_id.as_deref(), Some("c1"));
    assert_eq!(messages[3].tool_calls[0].function.arguments, "{\"a\":1}");
    assert_eq!((messages[4].role, messages[4].tool_call_id.as_deref()), (Role::Tool, Some("call_sub")));
    assert_eq!(messages[3].tool_calls[0].id, "call_sub");
}

#[test]
fn every_knob_reaches_the_task() {
    let (task, context) = split(with(json!({
        "max_completion_tokens": 9, "max_tokens": 9, "temperature": 0.5, "top_p": 0.9, "n": 2, "stop": ["a", "b"],
        "seed": -7, "presence_penalty": 1, "frequency_penalty": -1, "logit_bias": {"5": 1, "6": -100},
        "logprobs": true, "top_logprobs": 3, "user": "u", "safety_identifier": "s", "metadata": {"k": "v"},
        "prompt_cache_key": "key", "top_k": 40, "min_p": 0.1, "repetition_penalty": 1.1,
        "chat_template_kwargs": {"enable_thinking": false}, "reasoning_effort": "xhigh", "parallel_tool_calls": true
    })));
    let expected = TaskRequest {
        messages: Some(vec![Message::text(Role::User, "hi")]),
        max_tokens: Some(9),
        temperature: Some(0.5),
        top_p: Some(0.9),
        n: 2,
        stop: vec!["a".into(), "b".into()],
        seed: Some(-7),
        presence_penalty: Some(1.0),
        frequency_penalty: Some(-1.0),
        logit_bias: [(5, 1.0), (6, -100.0)].into(),
        logprobs: true,
        top_logprobs: Some(3),
        metadata: [("k", "v"), ("safety_identifier", "s"), ("user", "u")].map(|(k, v)| (k.into(), v.into())).into(),
        top_k: Some(40),
        min_p: Some(0.1),
        repetition_penalty: Some(1.1),
        chat_template_kwargs: Some([("enable_thinking".into(), json!(false))].into()),
        reasoning_effort: Some(ReasoningEffort::Xhigh),
        parallel_tool_calls: Some(true),
        affinity: Some("key".into()),
        ..TaskRequest::new("builtin")
    };
    assert_eq!(task, expected);
    task.check().unwrap();
    assert_eq!((context.n, context.logprobs), (2, true));
}

#[test]
fn one_stop_string_may_stand_alone() {
    assert_eq!(split(with(json!({"stop": "\n\n"}))).0.stop, ["\n\n"]);
}

#[test]
fn response_formats_become_output_modes() {
    let of = |format: serde_json::Value| {
        let (task, _) = split(with(json!({"response_format": format})));
        task.check().unwrap();
        (task.output_mode, task.json_schema)
    };
    let schema = json!({"type": "object", "properties": {"a": {"type": "integer"}}});
    let strict = json!({"type": "json_schema", "json_schema": {"name": "n", "strict": true, "schema": schema}});
    assert_eq!(of(json!({"type": "text"})), (OutputMode::Text, None));
    assert_eq!(of(json!({"type": "json_object"})), (OutputMode::Json, None));
    assert_eq!(of(strict), (OutputMode::Json, Some(schema)));
    assert_eq!(of(json!({"type": "json_schema", "json_schema": {"name": "n"}})), (OutputMode::Json, None));
}

#[test]
fn flex_is_batch_priority_unless_the_extension_says_otherwise() {
    let of = |more: serde_json::Value| {
        let (task, context) = split(with(more));
        (task.priority, context.service_tier)
    };
    assert_eq!(of(json!({"service_tier": "flex"})), (Some(Priority::Batch), ServiceTier::Flex));
    assert_eq!(of(json!({"service_tier": "auto"})), (None, ServiceTier::Default));
    assert_eq!(of(json!({"sluicegate": {"priority": "batch"}})), (Some(Priority::Batch), ServiceTier::Default));
    let both = json!({"service_tier": "flex", "sluicegate": {"priority": "interactive"}});
    assert_eq!(of(both), (Some(Priority::Interactive), ServiceTier::Default));
}

#[test]
fn the_extension_speaks_the_native_words() {
    let id = uuid::Uuid::from_u128(7);
    let (task, context) = split(with(json!({"sluicegate": {
        "deadline_ms": 1500, "session_id": id, "task_id": id,
        "placement": {"mode": "pin", "pin_pool_id": "p", "prefer_pools": null, "avoid_pools": ["q"], "colour": 1}
    }})));
    let placement = Placement {
        mode: PlacementMode::Pin,
        pin_pool_id: Some("p".into()),
        avoid_pools: vec!["q".into()],
        ..Placement::default()
    };
    assert_eq!((task.deadline_ms, task.session_id, task.task_id), (Some(1500), Some(id), Some(id)));
    assert_eq!(task.placement, Some(placement));
    assert_eq!(context.ignored, ["sluicegate.placement.colour"]);
}

#[test]
fn tools_that_are_none_are_no_tools() {
    for more in [
        json!({"tools": [], "tool_choice": "none"}),
        json!({"tools": [], "tool_choice": "auto"}),
        json!({"functions": [], "function_call": "none"}),
    ] {
        let (task, _) = split(with(more));
        assert_eq!((&task.tools, &task.tool_choice), (&None, &None));
        task.check().unwrap();
    }
}

#[test]
fn allowed_tools_are_all_that_the_model_is_shown() {
    let tool = |name: &str| json!({"type": "function", "function": {"name": name}});
    let choose = |mode: &str, name: &str| {
        let allowed = json!({"mode": mode, "tools": [tool(name)]});
        with(json!({
            "tools": [tool("weather"), tool("now")],
            "tool_choice": {"type": "allowed_tools", "allowed_tools": allowed},
        }))
    };
    for (mode, wanted) in [("auto", ToolChoice::Auto), ("required", ToolChoice::Required)] {
        let (task, _) = split(choose(mode, "now"));
        let names: Vec<_> = task.tools.iter().flatten().map(|tool| tool.function.name.as_str()).collect();
        assert_eq!((names, &task.tool_choice), (vec!["now"], &Some(wanted)));
        task.check().unwrap();
    }
    let error = parse(&serde_json::to_vec(&choose("auto", "tomorrow")).unwrap()).unwrap_err();
    assert_eq!(error.param.as_deref(), Some("tool_choice.allowed_tools.tools[0].function.name"));
}

#[test]
fn whose_request_it_is_is_noted_where_there_is_room() {
    let full: BTreeMap<String, String> = (0..16).map(|number| (number.to_string(), "v".to_owned())).collect();
    for (more, ignored) in [
        (json!({"user": "u"}), vec![]),
        (json!({"user": "u".repeat(513)}), vec!["user"]),
        (json!({"user": "u", "metadata": {"user": "mine"}}), vec!["user"]),
        (json!({"user": "u", "safety_identifier": "s", "metadata": full}), vec!["user", "safety_identifier"]),
    ] {
        let (task, context) = split(with(more));
        assert_eq!(context.ignored, ignored);
        task.check().unwrap();
    }
}

#[test]
fn what_has_no_effect_is_named_once() {
    let body = r#"{
        "model": "builtin", "store": true, "verbosity": "low", "x, y\r\n": 1, "a/b~c": 1, "": 1, "absent": null,
        "stream": true, "stream_options": {"include_obfuscation": true},
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "a", "cache_control": {}}]},
            {"role": "user", "content": [{"type": "text", "text": "b", "cache_control": {}}], "weight": 1, "gone": null, "": 1}
        ]
    }"#;
    let request = parse(body.as_bytes()).unwrap();
    let expected = [
        "verbosity",
        "x??y??",
        "a/b~c",
        "\"\"",
        "messages[].content[].cache_control",
        "messages[].weight",
        "messages[].\"\"",
        "store",
        "stream_options.include_obfuscation",
    ];
    assert_eq!(request.ignored(), expected);
}

#[test]
fn a_range_that_is_broken_is_named_in_the_clients_words() {
    for (more, param) in [
        (json!({"max_tokens": 0}), "max_tokens"),
        (json!({"max_completion_tokens": 0}), "max_completion_tokens"),
        (json!({"max_tokens": 0, "max_completion_tokens": 0}), "max_completion_tokens"),
        (json!({"model": ""}), "model"),
        (json!({"messages": []}), "messages"),
        (json!({"temperature": 2.5}), "temperature"),
        (json!({"n": 17}), "n"),
        (json!({"top_logprobs": 1}), "top_logprobs"),
        (json!({"tool_choice": "required"}), "tool_choice"),
        (json!({"function_call": {"name": "f"}}), "function_call"),
        (
            json!({"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": 1}}}),
            "response_format.json_schema.schema",
        ),
        (json!({"sluicegate": {"deadline_ms": 0}}), "sluicegate.deadline_ms"),
    ] {
        let request = read(with(more));
        let violation = request.clone().into_task().0.check().unwrap_err();
        assert_eq!(openai_param(&violation.param, &request), param);
    }
    let request = read(with(json!({"service_tier": "flex"})));
    assert_eq!(openai_param("priority", &request), "service_tier");
    assert_eq!(openai_param("messages[0].content", &request), "messages[0].content");
    assert_eq!(openai_param("placement.pin_pool_id", &request), "sluicegate.placement.pin_pool_id");
}

#[test]
fn what_async_openai_writes_is_read() {
    let format = ResponseFormatJsonSchema {
        description: None,
        name: "answer".into(),
        schema: json!({"type": "object"}),
        strict: Some(true),
    };
    let request = CreateChatCompletionRequestArgs::default()
        .model("builtin")
        .messages([
            ChatCompletionRequestSystemMessage::from("Be brief.").into(),
            ChatCompletionRequestUserMessage::from("hi").into(),
        ])
        .max_completion_tokens(12u32)
        .response_format(ResponseFormat::JsonSchema { json_schema: format })
        .build()
        .unwrap();
    let (task, context) = split(serde_json::to_value(&request).unwrap());
    assert_eq!(task.messages.unwrap(), [Message::text(Role::System, "Be brief."), Message::text(Role::User, "hi")]);
    assert_eq!((task.max_tokens, task.output_mode), (Some(12), OutputMode::Json));
    assert_eq!(context.ignored, Vec::<String>::new());
}
