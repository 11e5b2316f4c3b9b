//! Bodies that are refused: each error names its field, and none repeats a prompt.

use serde_json::json;
use sluicegate_compat::native::{ErrorCode, ErrorEnvelope};
use sluicegate_compat::openai::chat::parse;

fn refuse(body: &str) -> ErrorEnvelope {
    let error = parse(body.as_bytes()).expect_err(body);
    assert_eq!(error.code, ErrorCode::InvalidParams);
    error
}

fn line(body: &str) -> String {
    let error = refuse(body);
    format!("{} | {} | {}", error.param.as_deref().unwrap_or("-"), error.detail.unwrap_or("-"), error.message)
}

/// One line for each of `members`, which are added to a body that is otherwise right.
fn lines(members: &[serde_json::Value]) -> String {
    let mut lines = Vec::new();
    for member in members {
        let mut body = json!({"model": "m", "messages": [{"role": "user", "content": "hi"}]});
        body.as_object_mut().unwrap().extend(member.as_object().unwrap().clone());
        lines.push(line(&body.to_string()));
    }
    lines.join("\n")
}

#[test]
fn good_json_with_a_value_that_no_type_takes_is_about_its_field() {
    let bodies = [r#"{"seed": 1e999}"#, r#"{"model": "\ud800"}"#];
    insta::assert_snapshot!(bodies.map(line).join("\n"), @r#"
    seed | invalid_value | Invalid value for 'seed': number out of range.
    model | invalid_value | Invalid value for 'model': unexpected end of hex escape.
    "#);
    let native = sluicegate_compat::native::TaskRequest::parse(br#"{"model_ref": "m", "logit_bias": {"01": 1}}"#);
    let native = native.unwrap_err();
    assert_eq!((native.param.as_deref(), native.code), (Some("logit_bias"), ErrorCode::InvalidParams), "{native:?}");
}

#[test]
fn a_body_that_is_not_a_json_object() {
    let bodies = ["", "{", "nope", "[]", "\"x\"", "null", "{} {}", "{\"model\": \"a\u{0}\"}"];
    insta::assert_snapshot!(bodies.map(line).join("\n"), @r#"
    - | - | We could not parse the JSON body of your request: EOF while parsing a value at line 1 column 0.
    - | - | We could not parse the JSON body of your request: EOF while parsing an object at line 1 column 1.
    - | - | We could not parse the JSON body of your request: expected ident at line 1 column 2.
    - | invalid_type | Invalid type for the body: expected an object, but got an array instead.
    - | invalid_type | Invalid type for the body: expected an object, but got a string instead.
    - | invalid_type | Invalid type for the body: expected an object, but got null instead.
    - | - | We could not parse the JSON body of your request: trailing characters at line 1 column 4.
    - | - | We could not parse the JSON body of your request: control character (\u0000-\u001F) found while parsing a string at line 1 column 13.
    "#);
    let error = parse(b"{\"model\": \"\xff\"}").unwrap_err();
    insta::assert_snapshot!(error.message, @"We could not parse the JSON body of your request: invalid unicode code point at line 1 column 12.");
}

#[test]
fn what_must_be_there() {
    let bodies = [
        r#"{}"#,
        r#"{"model": null, "messages": []}"#,
        r#"{"model": "m"}"#,
        r#"{"model": "m", "messages": [{"content": "hi"}]}"#,
        r#"{"model": "m", "messages": [{"role": "user"}]}"#,
        r#"{"model": "m", "messages": [{"role": "user", "content": [{"text": "hi"}]}]}"#,
        r#"{"model": "m", "messages": [{"role": "user", "content": [{"type": "text"}]}]}"#,
        r#"{"model": "m", "messages": [{"role": "assistant", "tool_calls": [{"id": "1"}]}]}"#,
        r#"{"model": "m", "messages": [{"role": "assistant", "function_call": {"name": "f"}}]}"#,
    ];
    insta::assert_snapshot!(bodies.map(line).join("\n"), @r#"
    model | missing_required_parameter | Missing required parameter: 'model'.
    model | missing_required_parameter | Missing required parameter: 'model'.
    messages | missing_required_parameter | Missing required parameter: 'messages'.
    messages[0].role | missing_required_parameter | Missing required parameter: 'messages[0].role'.
    messages[0].content | missing_required_parameter | Missing required parameter: 'messages[0].content'.
    messages[0].content[0].type | missing_required_parameter | Missing required parameter: 'messages[0].content[0].type'.
    messages[0].content[0].text | missing_required_parameter | Missing required parameter: 'messages[0].content[0].text'.
    messages[0].tool_calls[0].function | missing_required_parameter | Missing required parameter: 'messages[0].tool_calls[0].function'.
    messages[0].function_call.arguments | missing_required_parameter | Missing required parameter: 'messages[0].function_call.arguments'.
    "#);
}

#[test]
fn values_of_the_wrong_type() {
    let members = [
        json!({"model": 1}),
        json!({"messages": "hi"}),
        json!({"messages": ["hi"]}),
        json!({"messages": [["user", "hi"]]}),
        json!({"messages": [{"role": "user", "content": 7}]}),
        json!({"messages": [{"role": "user", "content": ["hi"]}]}),
        json!({"messages": [{"role": true, "content": "hi"}]}),
        json!({"temperature": "warm"}),
        json!({"max_tokens": -1}),
        json!({"max_tokens": 1.5}),
        json!({"top_logprobs": 300}),
        json!({"stream": "yes"}),
        json!({"stop": {}}),
        json!({"stop": ["a", 1]}),
        json!({"logit_bias": {"5": "x"}}),
        json!({"metadata": {"k": 1}}),
        json!({"response_format": "json"}),
        json!({"sluicegate": {"session_id": "x"}}),
        json!({"tools": {}}),
        json!({"tool_choice": "perhaps"}),
        json!({"function_call": 1}),
    ];
    insta::assert_snapshot!(lines(&members), @r#"
    model | invalid_type | Invalid type for 'model': expected a string, but got an integer instead.
    messages | invalid_type | Invalid type for 'messages': expected an array, but got a string instead.
    messages[0] | invalid_type | Invalid type for 'messages[0]': expected an object, but got a string instead.
    messages[0] | invalid_type | Invalid type for 'messages[0]': expected an object, but got an array instead.
    messages[0].content | invalid_type | Invalid type for 'messages[0].content': expected a string or an array, but got an integer instead.
    messages[0].content[0] | invalid_type | Invalid type for 'messages[0].content[0]': expected an object, but got a string instead.
    messages[0].role | invalid_type | Invalid type for 'messages[0].role': expected a string, but got a boolean instead.
    temperature | invalid_type | Invalid type for 'temperature': expected a number, but got a string instead.
    max_tokens | invalid_value | Invalid value for 'max_tokens': expected a non-negative integer in range.
    max_tokens | invalid_type | Invalid type for 'max_tokens': expected a non-negative integer in range, but got a decimal number instead.
    top_logprobs | invalid_value | Invalid value for 'top_logprobs': expected a non-negative integer in range.
    stream | invalid_type | Invalid type for 'stream': expected a boolean, but got a string instead.
    stop | invalid_type | Invalid type for 'stop': expected a string or an array, but got an object instead.
    stop[1] | invalid_type | Invalid type for 'stop[1]': expected a string, but got an integer instead.
    logit_bias.5 | invalid_type | Invalid type for 'logit_bias.5': expected a number, but got a string instead.
    metadata.k | invalid_type | Invalid type for 'metadata.k': expected a string, but got an integer instead.
    response_format | invalid_type | Invalid type for 'response_format': expected an object, but got a string instead.
    sluicegate.session_id | invalid_value | Invalid value for 'sluicegate.session_id': UUID parsing failed: invalid character: found `x` at 0.
    tools | invalid_type | Invalid type for 'tools': expected an array, but got an object instead.
    tool_choice | invalid_value | Invalid value for 'tool_choice': the words are 'none', 'auto' and 'required'.
    function_call | invalid_type | Invalid type for 'function_call': expected "none", "auto" or {"name": …}, but got an integer instead.
    "#);
}

#[test]
fn values_that_do_not_exist() {
    let members = [
        json!({"messages": [{"role": "king", "content": "hi"}]}),
        json!({"messages": [{"role": "user", "content": [{"type": "smell"}]}]}),
        json!({"logit_bias": {"the": 1}}),
        json!({"response_format": {"type": "xml"}}),
        json!({"response_format": {}}),
        json!({"response_format": {"type": "json_schema"}}),
        json!({"response_format": {"type": "json_schema", "json_schema": {}}}),
        json!({"reasoning_effort": "heroic"}),
        json!({"service_tier": "gold"}),
        json!({"sluicegate": {"priority": "now"}}),
        json!({"sluicegate": {"placement": {"mode": "there"}}}),
        json!({"function_call": "perhaps"}),
        json!({"stream_options": {"include_usage": true}}),
        json!({"max_tokens": 1, "max_completion_tokens": 2}),
        json!({"modalities": ["video"]}),
    ];
    insta::assert_snapshot!(lines(&members), @"
    messages[0].role | invalid_value | Invalid value: 'king'. Supported values are: 'system', 'developer', 'user', 'assistant', 'tool', 'function'.
    messages[0].content[0].type | invalid_value | Invalid value for 'messages[0].content[0].type': the parts that are served are 'text', 'refusal', 'image_url' and 'input_audio'.
    logit_bias | invalid_value | Invalid value for 'logit_bias': each key is the id of a token, as a string of digits.
    response_format.type | invalid_value | Invalid value: 'xml'. Supported values are: 'text', 'json_object', 'json_schema'.
    response_format.type | missing_required_parameter | Missing required parameter: 'response_format.type'.
    response_format.json_schema | missing_required_parameter | Missing required parameter: 'response_format.json_schema'.
    response_format.json_schema.name | missing_required_parameter | Missing required parameter: 'response_format.json_schema.name'.
    reasoning_effort | invalid_value | Invalid value: 'heroic'. Supported values are: 'none', 'minimal', 'low', 'medium', 'high', 'xhigh', 'max'.
    service_tier | invalid_value | Invalid value: 'gold'. Supported values are: 'auto', 'default', 'flex', 'priority', 'fast', 'scale', 'ultrafast'.
    sluicegate.priority | invalid_value | Invalid value: 'now'. Supported values are: 'interactive', 'batch'.
    sluicegate.placement.mode | invalid_value | Invalid value: 'there'. Supported values are: 'pin', 'prefer', 'auto'.
    function_call | invalid_value | Invalid value: 'perhaps'. Supported values are: 'none', 'auto'.
    stream_options | invalid_value | Invalid value for 'stream_options': it is only allowed together with 'stream': true.
    max_tokens | invalid_parameter_combination | Setting 'max_tokens' and 'max_completion_tokens' to different values is not supported.
    modalities | invalid_value | Invalid value: 'video'. Supported values are: 'text', 'audio'.
    ");
}

#[test]
fn what_is_understood_and_not_served() {
    let part = |part: serde_json::Value| {
        let content = [json!({"type": "text", "text": "a"}), part];
        json!({"messages": [{"role": "user", "content": content}]})
    };
    let members = [
        json!({"messages": [{"role": "system", "content": [{"type": "image_url", "image_url": {"url": "data:"}}]}]}),
        part(json!({"type": "video_url", "video_url": {}})),
        part(json!({"type": "file", "file": {}})),
        json!({"messages": [{"role": "assistant", "audio": {"id": "a"}}]}),
        json!({"modalities": ["text", "audio"]}),
        json!({"audio": {"voice": "x"}}),
        json!({"web_search_options": {}}),
        json!({"prediction": {"type": "content", "content": ""}}),
    ];
    insta::assert_snapshot!(lines(&members), @"
    messages[0].content[0] | unsupported_value | Unsupported value: 'messages[0].content[0]': image parts stand in messages of the user only.
    messages[0].content[1] | unsupported_value | Unsupported value: 'messages[0].content[1]' does not support video parts with this model.
    messages[0].content[1] | unsupported_value | Unsupported value: 'messages[0].content[1]' does not support file parts with this model.
    messages[0].audio | unsupported_value | Unsupported value: 'messages[0].audio' does not support audio with this model.
    modalities | unsupported_value | Unsupported value: 'modalities' does not support audio output with this model.
    audio | unsupported_parameter | Unsupported parameter: 'audio' is not supported by this gateway.
    web_search_options | unsupported_parameter | Unsupported parameter: 'web_search_options' is not supported by this gateway.
    prediction | unsupported_parameter | Unsupported parameter: 'prediction' is not supported by this gateway.
    ");
}

#[test]
fn too_deep_is_said_so_wherever_it_is() {
    let deep = format!("{}{}", "[".repeat(200), "]".repeat(200));
    let known = format!(r#"{{"model": "m", "messages": [], "chat_template_kwargs": {{"a": {deep}}}}}"#);
    let unknown = format!(r#"{{"model": "m", "messages": [], "colour": {deep}}}"#);
    insta::assert_snapshot!([known, unknown].map(|body| line(&body)).join("\n"), @r#"
    chat_template_kwargs | invalid_value | The JSON body is nested too deeply: at most 127 levels are allowed.
    colour | invalid_value | The JSON body is nested too deeply: at most 127 levels are allowed.
    "#);
}

#[test]
fn a_field_said_twice_is_refused() {
    insta::assert_snapshot!(line(r#"{"model": "m", "model": "n", "messages": []}"#), @"model | invalid_value | Invalid value for 'model': duplicate field `model`.");
    let maps = [
        r#"{"model": "m", "messages": [{"role": "user", "content": "hi"}], "metadata": {"a": "b", "a": "c"}}"#,
        r#"{"model": "m", "messages": [{"role": "user", "content": "hi"}], "logit_bias": {"1": 1, "1": 1}}"#,
        r#"{"model": "m", "messages": [{"role": "user", "content": "hi"}], "colour": [{"a": {"b": 1, "b": 1}}]}"#,
    ];
    insta::assert_snapshot!(maps.map(line).join("\n"), @r#"
    metadata.a | invalid_value | Invalid value for 'metadata.a': duplicate field `a`.
    logit_bias.1 | invalid_value | Invalid value for 'logit_bias.1': duplicate field `1`.
    colour[0].a.b | invalid_value | Invalid value for 'colour[0].a.b': duplicate field `b`.
    "#);
}

#[test]
fn no_message_repeats_what_may_be_a_prompt() {
    let secret = "my secret, expected u8 at line 1";
    let bodies = [
        json!({"model": "m", "messages": secret}),
        json!({"model": "m", "messages": [secret]}),
        json!({"model": "m", "messages": [{"role": "user", "content": [secret]}]}),
        json!({"model": "m", "messages": [], "n": secret}),
        json!({"model": "m", "messages": [], "chat_template_kwargs": secret}),
        json!({"model": "m", "messages": [], "tool_choice": secret}),
        json!({"model": "m", "messages": [], "sluicegate": {"task_id": secret}}),
        json!(secret),
    ];
    for body in bodies {
        let error = refuse(&body.to_string());
        assert!(!error.message.contains("secret"), "{}", error.message);
    }
}

#[test]
fn what_excludes_each_other_and_what_is_said_twice_is_named() {
    let bodies = [
        r#""functions": [{"name": "a"}], "tools": [{"type": "function", "function": {"name": "a"}}]"#,
        r#""function_call": "auto", "tool_choice": "auto""#,
        r#""logit_bias": {"10": 1, "010": -1}"#,
        r#""logit_bias": {"+10": 1}"#,
        r#""max_tokens": 99999999999999999999"#,
        r#""seed": -99999999999999999999"#,
        r#""max_tokens": 1.5"#,
        r#""tools": [{"type": "custom"}]"#,
        r#""tool_choice": {"type": "custom"}"#,
    ];
    let body =
        |fields: &str| format!(r#"{{"model": "m", "messages": [{{"role": "user", "content": "a"}}], {fields}}}"#);
    let said = bodies.map(|fields| line(&body(fields))).join("\n");
    insta::assert_snapshot!(said, @"
    functions | invalid_parameter_combination | Setting 'functions' and 'tools' together is not supported: 'functions' is the older form of 'tools'.
    function_call | invalid_parameter_combination | Setting 'function_call' and 'tool_choice' together is not supported: 'function_call' is the older form of 'tool_choice'.
    logit_bias | invalid_value | Invalid value for 'logit_bias': the token 10 has two biases.
    logit_bias | invalid_value | Invalid value for 'logit_bias': each key is the id of a token, as a string of digits.
    max_tokens | invalid_type | Invalid type for 'max_tokens': expected a non-negative integer in range, but got an integer out of range instead.
    seed | invalid_type | Invalid type for 'seed': expected an integer in range, but got an integer out of range instead.
    max_tokens | invalid_type | Invalid type for 'max_tokens': expected a non-negative integer in range, but got a decimal number instead.
    tools[0].type | unsupported_value | Unsupported value: 'tools[0].type': the only tools that are served are those of the type 'function'.
    tool_choice.type | unsupported_value | Unsupported value: 'tool_choice.type': the only tools that are served are those of the type 'function'.
    ");
}
