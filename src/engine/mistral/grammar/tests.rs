//! What the grammars let through, byte by byte, with the engine's own compiler.

use std::sync::Arc;

use mistralrs::llguidance::Matcher;
use mistralrs::llguidance::toktrie::ApproximateTokEnv;
use sluicegate_compat::native::{Input, OutputMode, TaskRequest, Tool};

use super::*;
use crate::engine::text::{ChatTemplate, byte_level};

const HERMES: &str = "{{ tools }}<tool_call></think>";

fn model(template: &str) -> TextModel {
    let template = ChatTemplate::new(&Value::from(template), &Value::Null).expect("parses");
    TextModel::new(byte_level(), Some(template), 259)
}

fn calling(choice: Choice, parallel: bool, strict: bool) -> Calling {
    let tool = |name: &str, parameters: Value| -> Tool {
        let function = json!({"name": name, "parameters": parameters, "strict": strict});
        serde_json::from_value(json!({"type": "function", "function": function})).expect("a tool")
    };
    let city = json!({"type": "object", "additionalProperties": false, "required": ["city"], "properties": {
        "city": {"type": "string"}, "unit": {"type": "string", "enum": ["C", "F"]}, "days": {"type": "integer"}}});
    let nothing = json!({"type": "object", "properties": {}, "additionalProperties": false});
    Calling { tools: vec![tool("weather", city), tool("now", nothing)], parallel, choice }
}

/// Whether an answer is whole under the grammar; `None` where no answer can begin so.
fn verdict(text: &TextModel, calling: Calling, grammar: Option<Grammar>, prompt: &str, answer: &str) -> Option<bool> {
    let prompt = text.tokenize(&crate::engine::Prompt::Text(prompt.into())).expect("tokenizes");
    let reading = Reading::Answer(Some(Arc::new(calling)));
    let thinking = text.is_thinking(&reading, &prompt);
    let grammar = match constraint(text, &[], grammar.as_ref(), &reading, thinking) {
        Constraint::Lark(lark) => TopLevelGrammar::from_lark(lark),
        Constraint::JsonSchema(schema) => TopLevelGrammar::from_json_schema(schema),
        _ => return Some(true),
    };
    let mut matcher = Matcher::new(factory().create_parser(grammar));
    assert_eq!(matcher.get_error(), None);
    let tokens: Vec<u32> = answer.bytes().map(u32::from).collect();
    let taken = matcher.try_consume_tokens(&tokens).unwrap_or(0);
    (taken == tokens.len()).then(|| matcher.is_accepting().unwrap_or(true))
}

#[test]
fn a_forced_call_is_a_call_in_each_format() {
    let city = "{\"city\": \"Rome\"}";
    let cases = [
        (HERMES, format!("<tool_call>\n{{\"name\": \"weather\", \"arguments\": {city}}}\n</tool_call>")),
        ("{{ tools }}[TOOL_CALLS]", format!("[TOOL_CALLS][{{\"name\": \"weather\", \"arguments\": {city}}}]")),
        ("{{ tools }}<|python_tag|>", format!("{{\"name\": \"weather\", \"parameters\": {city}}}")),
        (
            "{{ tools }}<tool_call><function=",
            "<tool_call>\n<function=weather>\n<parameter=city>\nRome\n</parameter>\n\
            <parameter=unit>\nC\n</parameter>\n<parameter=days>\n3\n</parameter>\n</function>\n</tool_call>"
                .into(),
        ),
    ];
    for (template, call) in cases {
        let text = model(template);
        for choice in [Choice::Required, Choice::Named("weather".into())] {
            assert_eq!(verdict(&text, calling(choice, true, false), None, "x", &call), Some(true), "{call}");
        }
        let other = calling(Choice::Named("now".into()), true, false);
        assert_eq!(verdict(&text, other, None, "x", &call), None, "{call}");
        let required = || calling(Choice::Required, true, false);
        assert_eq!(verdict(&text, required(), None, "x", "Rome"), None);
        assert_eq!(verdict(&text, required(), None, "x", &call[..call.len() - 3]), Some(false));
        assert_eq!(verdict(&text, required(), None, "x", &call.replace("weather", "unknown")), None);
    }
}

#[test]
fn arguments_keep_to_their_schema() {
    let call =
        |arguments: &str| format!("<tool_call>\n{{\"name\": \"weather\", \"arguments\": {arguments}}}\n</tool_call>");
    let judged =
        |arguments: &str| verdict(&model(HERMES), calling(Choice::Required, true, false), None, "x", &call(arguments));
    assert_eq!(judged("{\"city\": \"Rome\", \"unit\": \"C\"}"), Some(true));
    for wrong in
        ["{}", "{\"city\": 7}", "{\"city\": \"Rome\", \"unit\": \"K\"}", "{\"city\": \"Rome\", \"more\": 1}", "7"]
    {
        assert_eq!(judged(wrong), None, "{wrong}");
    }
}

#[test]
fn arguments_are_an_object_whatever_else_their_schema_allows() {
    let object = json!({"properties": {"a": {"type": "integer"}}});
    let schemas = [
        json!(true),
        json!({}),
        json!({"type": ["object", "null", "string"]}),
        json!({"enum": [1, {"a": 1}, "x"]}),
        json!({"anyOf": [{"type": "string"}, object]}),
        json!({"$ref": "#/$defs/either", "$defs": {"either": {"oneOf": [{"type": "integer"}, object]}}}),
        json!({"allOf": [{"type": ["object", "integer"]}, object]}),
    ];
    for schema in schemas {
        let mut calling = calling(Choice::Required, true, false);
        calling.tools[1].function.parameters = Some(schema.clone());
        let judged = |arguments: &str| {
            let call = format!("<tool_call>\n{{\"name\": \"now\", \"arguments\": {arguments}}}\n</tool_call>");
            verdict(&model(HERMES), calling.clone(), None, "x", &call)
        };
        assert_eq!(judged("{\"a\": 1}"), Some(true), "{schema}");
        for wrong in ["1", "\"x\"", "null"] {
            assert_eq!(judged(wrong), None, "{schema}: {wrong}");
        }
    }
    let mut none = calling(Choice::Required, true, false);
    none.tools[1].function.parameters = None;
    for (arguments, verdict_) in [("{}", Some(true)), ("{\"a\": 1}", None)] {
        let call = format!("<tool_call>\n{{\"name\": \"now\", \"arguments\": {arguments}}}\n</tool_call>");
        assert_eq!(verdict(&model(HERMES), none.clone(), None, "x", &call), verdict_, "it takes no arguments");
    }
}

#[test]
fn several_calls_only_where_they_are_allowed() {
    let one = "<tool_call>\n{\"name\": \"now\", \"arguments\": {}}\n</tool_call>";
    let two = format!("{one}\n{one}");
    let judged =
        |choice, parallel, answer: &str| verdict(&model(HERMES), calling(choice, parallel, false), None, "x", answer);
    assert_eq!(judged(Choice::Required, true, &two), Some(true));
    assert_eq!(judged(Choice::Required, false, &two), None);
    assert_eq!(judged(Choice::Required, false, one), Some(true));
    assert_eq!(judged(Choice::Named("now".into()), true, &two), None);
}

#[test]
fn strict_functions_leave_the_text_free_and_bind_the_calls() {
    let call = |arguments: &str| {
        format!("Wait.\n<tool_call>\n{{\"name\": \"weather\", \"arguments\": {arguments}}}\n</tool_call>")
    };
    let judged = |answer: &str| verdict(&model(HERMES), calling(Choice::Free, true, true), None, "x", answer);
    assert_eq!(judged("It is sunny, and < 3 degrees."), Some(true));
    assert_eq!(judged(&call("{\"city\": \"Rome\"}")), Some(true));
    assert_eq!(judged(&call("{\"city\": 7}")), None);
    assert_eq!(judged("<tool_call>oops"), None);
    let free = verdict(&model(HERMES), calling(Choice::Free, true, false), None, "x", &call("{\"city\": 7}"));
    assert_eq!(free, Some(true));
}

#[test]
fn json_or_a_call_where_both_may_be() {
    let judged = |answer: &str| {
        verdict(&model(HERMES), calling(Choice::Free, true, false), Some(Grammar::JsonObject), "x", answer)
    };
    assert_eq!(judged("{\"a\": [1]}"), Some(true));
    assert_eq!(judged("<tool_call>\n{\"name\": \"now\", \"arguments\": {}}\n</tool_call>"), Some(true));
    assert_eq!(judged("text"), None);
}

#[test]
fn reasoning_that_the_prompt_has_begun_comes_first() {
    let call = "Hm {\n</think>\n\n<tool_call>\n{\"name\": \"now\", \"arguments\": {}}\n</tool_call>";
    let judged = |prompt: &str, answer: &str| {
        verdict(&model(HERMES), calling(Choice::Required, true, false), None, prompt, answer)
    };
    assert_eq!(judged("x<think>\n", call), Some(true));
    assert_eq!(judged("x", call), None);
    assert_eq!(judged("x", &format!("<think>{call}")), Some(true));
    let free = calling(Choice::Free, true, false);
    let json = verdict(&model(HERMES), free, Some(Grammar::JsonObject), "x<think>", "Hm</think>{\"a\": 1}");
    assert_eq!(json, Some(true));
}

fn factory() -> ParserFactory {
    ParserFactory::new_simple(&ApproximateTokEnv::single_byte_env()).expect("a factory")
}

#[test]
fn a_schema_that_no_grammar_is_made_of_is_named() {
    let text = model(HERMES);
    let checked = |grammar: Option<Grammar>, calling: Option<Calling>| {
        check(&factory(), &text, grammar.as_ref(), &Reading::Answer(calling.map(Arc::new)))
            .err()
            .map(|unheld| unheld.param)
    };
    assert_eq!(checked(Some(Grammar::JsonObject), None), None);
    let odd = json!({"type": "string", "pattern": "(?=a)b"});
    assert_eq!(checked(Some(Grammar::JsonSchema(odd.clone())), None).as_deref(), Some("json_schema"));
    let mut tools = calling(Choice::Required, true, true);
    assert_eq!(checked(None, Some(tools.clone())), None);
    tools.tools[1].function.parameters = Some(json!({"properties": {"x": odd}}));
    assert_eq!(checked(None, Some(tools.clone())).as_deref(), Some("tools[1].function.parameters"));
    assert_eq!(checked(None, Some(Calling { choice: Choice::Free, ..calling(Choice::Free, true, false) })), None);
}

#[test]
fn what_is_not_strict_is_held_as_far_as_it_can_be() {
    let text = model(HERMES);
    let mut tools = calling(Choice::Required, true, false);
    tools.tools[1].function.parameters = Some(json!({"type": "object", "not": {"required": ["a"]}}));
    let reading = Reading::Answer(Some(Arc::new(tools)));
    check(&factory(), &text, None, &reading).unwrap();
}

/// A schema as wide as one may be at one place can be followed there: what is bounded is what the compiler would not follow.
#[test]
fn what_passes_the_bounds_of_a_schema_can_be_followed() {
    let object = |tag: &str, optional: usize, required: usize| {
        let name = |n| format!("{tag}{n:03}");
        let properties: Map<_, _> = (0..required + optional).map(|n| (name(n), json!({"type": "string"}))).collect();
        let required: Vec<_> = (0..required).map(name).collect();
        json!({"type": "object", "properties": properties, "required": required})
    };
    let any = |members: Vec<Value>| json!({"anyOf": members});
    let tags = |count: usize| (0..count).map(|n| format!("m{n:03}_"));
    let cases = [
        (object("p", 448, 0), r#"{"p447": "x", "more": 1}"#.to_owned()),
        (object("p", 448, 1), r#"{"p000": "x", "p448": "x"}"#.to_owned()),
        (json!({"items": object("p", 448, 0)}), r#"[{"p447": "x"}, {"p000": "x"}]"#.to_owned()),
        (any(tags(4).map(|tag| object(&tag, 110, 0)).collect()), r#"{"m003_109": "x"}"#.to_owned()),
        (any(tags(75).map(|tag| object(&tag, 4, 0)).collect()), r#"{"m074_003": "x"}"#.to_owned()),
        (any(tags(150).map(|tag| object(&tag, 1, 0)).collect()), r#"{"m149_000": "x"}"#.to_owned()),
        (any(tags(225).map(|tag| object(&tag, 0, 1)).collect()), r#"{"m224_000": "x"}"#.to_owned()),
        (
            any(tags(225).map(|tag| json!({"prefixItems": [{"const": tag}], "type": "array"})).collect()),
            r#"["m224_"]"#.to_owned(),
        ),
        (json!({"enum": tags(225).map(|tag| json!({"a": tag})).collect::<Vec<_>>()}), r#"{"a":"m224_"}"#.to_owned()),
    ];
    let factory = factory();
    for (number, (schema, answer)) in cases.into_iter().enumerate() {
        let request = TaskRequest { output_mode: OutputMode::Json, json_schema: Some(schema.clone()), ..asked() };
        request.check().expect("it is as wide as it may be");
        let grammar = TopLevelGrammar::from_json_schema(bounded(schema, false));
        let mut matcher = Matcher::new(factory.create_parser(grammar));
        for (at, byte) in answer.bytes().enumerate() {
            matcher.compute_mask().unwrap_or_else(|error| panic!("{number}, byte {at}: {error}"));
            matcher.consume_token(u32::from(byte)).unwrap_or_else(|error| panic!("{number}, byte {at}: {error}"));
        }
        assert!(matcher.is_accepting().expect("can be asked"), "{number}");
    }
}

fn asked() -> TaskRequest {
    TaskRequest { prompt: Some(Input::Text("a".into())), ..TaskRequest::new("m") }
}
