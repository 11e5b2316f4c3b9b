//! Calls of tools by the built-in model: read where it makes them, and made where it has to.

use std::sync::Arc;

use serde_json::{Value, json};
use sluicegate::engine::{Calling, Chat, Choice, Finish, Generation, Prompt, Reading};
use sluicegate_compat::native::{Message, Role, TokenKind, Tool};

use super::{MistralEngine, collect, engine, greedy, seeded};

fn weather(choice: Choice, parallel: bool) -> Calling {
    let parameters = json!({"type": "object", "required": ["city"], "additionalProperties": false,
        "properties": {"city": {"type": "string", "maxLength": 12}, "unit": {"type": "string", "enum": ["celsius"]}}});
    let function = json!({"name": "get_weather", "description": "Get the weather in a city", "parameters": parameters});
    let now = json!({"name": "now", "parameters": {"type": "object", "properties": {}, "additionalProperties": false}});
    let tool = |function: Value| -> Tool {
        serde_json::from_value(json!({"type": "function", "function": function})).expect("a tool")
    };
    Calling { tools: vec![tool(function), tool(now)], parallel, choice }
}

fn prompt(engine: &MistralEngine, text: &str, calling: &Calling) -> Arc<[u32]> {
    let (messages, tools) = (vec![Message::text(Role::User, text)], calling.tools.clone());
    engine.tokenize(&Prompt::Chat(Chat { messages, tools, ..Chat::default() })).expect("tokenizes")
}

/// The calls of an answer as (name, arguments), and why it ended.
async fn calls(engine: &MistralEngine, generation: Generation) -> (Vec<(String, String)>, Finish) {
    let (pieces, finished) = collect(engine, generation).await;
    let finished = finished.expect("finishes");
    assert!(pieces.len() as u32 <= finished.tokens_out);
    let mut calls: Vec<(String, String)> = Vec::new();
    for piece in pieces {
        assert_eq!(piece.kind == TokenKind::Tool, piece.tool.is_some());
        let Some(delta) = piece.tool else { continue };
        if let Some(name) = &delta.name {
            calls.push((name.clone(), String::new()));
        }
        calls[delta.index as usize].1.push_str(&delta.arguments);
    }
    (calls, finished.finish)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_model_calls_a_tool_when_it_is_asked_what_that_knows() {
    let engine = engine().await;
    let calling = weather(Choice::Free, true);
    let prompt = prompt(&engine, "What is the weather in Berlin?", &calling);
    let reading = Reading::Answer(Some(Arc::new(calling)));
    let (calls, finish) = calls(&engine, Generation { reading, ..greedy(prompt, 100) }).await;
    assert_eq!(finish, Finish::ToolCalls);
    assert_eq!(calls[0].0, "get_weather");
    let arguments: Value = serde_json::from_str(&calls[0].1).expect("JSON");
    assert_eq!(arguments["city"], "Berlin");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_has_to_be_made_is_made_whatever_the_dice_say() {
    let engine = engine().await;
    for (seed, choice) in (0..8).zip([Choice::Required, Choice::Named("get_weather".into())].into_iter().cycle()) {
        let calling = weather(choice.clone(), false);
        let prompt = prompt(&engine, "Hello, who are you?", &calling);
        let reading = Reading::Answer(Some(Arc::new(calling)));
        let (calls, finish) = calls(&engine, Generation { reading, ..seeded(prompt, 400, 1.5, seed) }).await;
        assert_eq!((finish, calls.len()), (Finish::ToolCalls, 1), "{choice:?} {calls:?}");
        let arguments: Value = serde_json::from_str(&calls[0].1).unwrap_or_else(|error| panic!("{error}: {calls:?}"));
        match calls[0].0.as_str() {
            "get_weather" => assert!(arguments["city"].is_string(), "{calls:?}"),
            _ => assert_eq!((&choice, &arguments), (&Choice::Required, &json!({}))),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_has_to_call_stops_when_it_has() {
    let engine = engine().await;
    let calling = weather(Choice::Required, true);
    let prompt = prompt(&engine, "What is the weather in Berlin?", &calling);
    let reading = Reading::Answer(Some(Arc::new(calling)));
    let (calls, finish) = calls(&engine, Generation { reading, ..greedy(prompt, 400) }).await;
    assert_eq!((finish, calls.len()), (Finish::ToolCalls, 1), "its own end token ends the calls: {calls:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_strict_function_binds_the_arguments_of_calls_that_the_model_makes_by_itself() {
    let engine = engine().await;
    let mut calling = weather(Choice::Free, true);
    calling.tools[0].function.strict = Some(true);
    let prompt = prompt(&engine, "What is the weather in Berlin?", &calling);
    let reading = Reading::Answer(Some(Arc::new(calling)));
    let (found, finish) = calls(&engine, Generation { reading: reading.clone(), ..greedy(prompt.clone(), 100) }).await;
    assert_eq!((finish, found[0].1.as_str()), (Finish::ToolCalls, "{\"city\": \"Berlin\"}"));
    for seed in 0..4 {
        let wild = Generation { reading: reading.clone(), ..seeded(prompt.clone(), 300, 1.2, seed) };
        let (calls, finish) = calls(&engine, wild).await;
        if finish == Finish::ToolCalls {
            assert!(calls.iter().all(|(_, arguments)| serde_json::from_str::<Value>(arguments).is_ok()), "{calls:?}");
        }
    }
}
