//! What holds for every body.

use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use serde_json::{Value, json};
use sluicegate_compat::native::{Content, ErrorCode, ErrorEnvelope};
use sluicegate_compat::openai::chat::parse;

const FIELDS: [&str; 52] = [
    "model",
    "messages",
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
    "include_usage",
    "response_format",
    "type",
    "json_schema",
    "name",
    "schema",
    "reasoning_effort",
    "service_tier",
    "prompt_cache_key",
    "user",
    "safety_identifier",
    "metadata",
    "store",
    "tools",
    "tool_choice",
    "function",
    "functions",
    "function_call",
    "arguments",
    "parallel_tool_calls",
    "top_k",
    "min_p",
    "repetition_penalty",
    "chat_template_kwargs",
    "sluicegate",
    "priority",
    "deadline_ms",
    "placement",
    "modalities",
    "audio",
    "role",
    "content",
    "text",
    "tool_calls",
    "id",
    "colour",
];

const WORDS: [&str; 12] =
    ["user", "assistant", "tool", "function", "text", "image_url", "json_schema", "none", "flex", "batch", "auto", "m"];

fn any_json() -> impl Strategy<Value = Value> {
    any_json_of(&FIELDS, &WORDS)
}

/// Any JSON, most of it with these names and words in it.
pub fn any_json_of(fields: &'static [&'static str], words: &'static [&'static str]) -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        proptest::sample::select(words).prop_map(Value::from),
        any::<String>().prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 60, 6, move |inner| {
        let key = prop_oneof![9 => proptest::sample::select(fields).prop_map(str::to_owned), 1 => any::<String>()];
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(Value::from),
            btree_map(key, inner, 0..8).prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

/// Bodies that would do, with one field set to anything.
fn nearly_right() -> impl Strategy<Value = Value> {
    (proptest::sample::select(&FIELDS[..]), any_json()).prop_map(|(field, value)| {
        let mut body = json!({"model": "m", "messages": [{"role": "user", "content": "hi"}]});
        body[field] = value;
        body
    })
}

fn check(body: &[u8]) -> Result<(), TestCaseError> {
    match parse(body) {
        Ok(request) => {
            prop_assert!(request.ignored().iter().all(|name| name.bytes().all(|byte| byte.is_ascii_graphic())));
            // Whatever was understood can be checked.
            let _ = request.into_task().0.check();
        }
        Err(error) => check_error(&error)?,
    }
    Ok(())
}

/// What holds of every refusal of a body.
pub fn check_error(error: &ErrorEnvelope) -> Result<(), TestCaseError> {
    prop_assert_eq!(error.code, ErrorCode::InvalidParams);
    prop_assert!(!error.message.is_empty());
    prop_assert!(error.message.len() < 600, "{}", error.message);
    Ok(())
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(body in vec(any::<u8>(), 0..200)) {
        check(&body)?;
    }

    #[test]
    fn no_json_makes_it_panic(body in any_json()) {
        check(body.to_string().as_bytes())?;
    }

    #[test]
    fn no_field_makes_it_panic(body in nearly_right()) {
        check(body.to_string().as_bytes())?;
    }

    #[test]
    fn a_body_cut_short_is_refused(body in nearly_right(), cut in any::<prop::sample::Index>()) {
        let body = body.to_string();
        prop_assert!(parse(&body.as_bytes()[..cut.index(body.len())]).is_err());
    }

    #[test]
    fn an_unknown_field_is_named_unless_it_is_null(name in "[a-z]{12,20}", value in any_json()) {
        let mut body = json!({"model": "m", "messages": [{"role": "user", "content": "hi"}]});
        body[&name] = value.clone();
        let request = parse(body.to_string().as_bytes()).unwrap();
        let expected: &[String] = if value.is_null() { &[] } else { &[name] };
        prop_assert_eq!(request.ignored(), expected);
    }

    #[test]
    fn every_text_arrives_as_it_was_sent(texts in vec(any::<String>(), 1..5)) {
        let messages: Vec<_> = texts.iter().map(|text| json!({"role": "user", "content": text})).collect();
        let body = json!({"model": "m", "messages": messages}).to_string();
        let task = parse(body.as_bytes()).unwrap().into_task().0;
        let read: Vec<_> = task.messages.unwrap().into_iter().map(|message| message.content.map(Content::into_text)).collect();
        prop_assert_eq!(read, texts.into_iter().map(Some).collect::<Vec<_>>());
    }
}

proptest! {
    #[test]
    fn a_name_that_is_there_twice_is_refused_however_many_there_are(
        names in proptest::collection::hash_set("[a-z\"\\\\é]{0,30}", 1..60),
        place in any::<proptest::sample::Index>(),
        field in proptest::sample::select(&["metadata", "chat_template_kwargs", "colour"][..]),
    ) {
        let names: Vec<_> = names.into_iter().collect();
        let body = |names: &[String]| {
            let members: Vec<_> = names.iter().map(|name| format!("{}:\"\"", Value::from(name.as_str()))).collect();
            let members = members.join(",");
            format!(r#"{{"model":"m","messages":[{{"role":"user","content":"hi"}}],"{field}":{{{members}}}}}"#)
        };
        prop_assert!(parse(body(&names).as_bytes()).is_ok());
        let twice = [names.clone(), vec![names[place.index(names.len())].clone()]].concat();
        let error = parse(body(&twice).as_bytes()).unwrap_err();
        prop_assert_eq!(error.code, ErrorCode::InvalidParams);
        prop_assert!(error.param.is_some_and(|param| param.starts_with(field)));
        prop_assert!(error.message.contains("duplicate field"), "{}", error.message);
    }
}
