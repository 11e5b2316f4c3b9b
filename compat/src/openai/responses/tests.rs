//! Of the request, whole answers and streams, without a server.

use std::sync::Arc;

use proptest::prelude::*;
use serde_json::{Value, json};
use uuid::Uuid;

use super::*;
use crate::native::{
    End, ErrorEnvelope, Event, FinishReason, ReasoningEffort, Role, TaskRequest, Token, TokenKind, TokenLogprobs,
    ToolDelta,
};

struct Nothing;

impl Prior for Nothing {
    fn answer(&self, _: Uuid) -> Option<Answer> {
        None
    }
}

fn parsed(body: &Value) -> Result<(TaskRequest, Record), ErrorEnvelope> {
    parse(body.to_string().as_bytes())?.into_task(Uuid::nil(), &Nothing)
}

fn with(change: &Value) -> Value {
    let mut body = json!({"model": "m", "input": "hello"});
    body.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
    body
}

fn record(change: &Value) -> Arc<Record> {
    Arc::new(parsed(&with(change)).unwrap().1)
}

fn token(kind: TokenKind, text: &str, tool: Option<ToolDelta>) -> Event {
    let logprobs = Some(Arc::new(TokenLogprobs { logprob: -0.5, bytes: text.as_bytes().into(), top: Box::default() }));
    let logprobs = logprobs.filter(|_| kind == TokenKind::Text);
    Event::Token(Token { choice: 0, index: 0, text: text.into(), kind, logprobs, tool: tool.map(Arc::new) })
}

fn call(index: u32, first: bool, arguments: &str) -> Event {
    let named = |text: &str| first.then(|| format!("{text}{index}"));
    let (id, name) = (named("call_"), named("f"));
    token(TokenKind::Tool, "", Some(ToolDelta { index, id, name, arguments: arguments.to_owned() }))
}

fn end(finish_reason: FinishReason) -> Event {
    Event::End(Arc::new(End {
        tokens_in: 2,
        cached_tokens: 1,
        tokens_out: 3,
        queue_ms: 1000,
        first_token_ms: Some(500),
        decode_ms: 2500,
        finish_reason,
        choices: Vec::new(),
        policy_label: None,
        matched_stop: None,
        canceled_by: None,
    }))
}

fn streamed(record: &Arc<Record>, events: &[Event], after: Option<u64>) -> Vec<Value> {
    let (mut encoder, mut out) = (EventEncoder::new(Arc::clone(record), 7000, after), Vec::new());
    events.iter().for_each(|event| encoder.encode(event, &mut out));
    let data = |event: &str| serde_json::from_str(event.split_once("\ndata: ").unwrap().1).unwrap();
    String::from_utf8(out).unwrap().split_terminator("\n\n").map(data).collect()
}

fn answered(record: &Arc<Record>, events: &[Event]) -> Value {
    let mut answer = Answer::new(Arc::clone(record), 7000);
    events.iter().for_each(|event| answer.push(event));
    serde_json::to_value(answer.response()).unwrap()
}

#[test]
fn each_refused_field_is_named() {
    let cases = [
        (json!({"model": null}), "model"),
        (json!({"input": null}), "input"),
        (json!({"input": [{"role": "tool", "content": "x"}]}), "input[0].role"),
        (json!({"input": [{"role": "user"}]}), "input[0].content"),
        (json!({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}), "input[0].content[0].image_url"),
        (json!({"input": [{"role": "user", "content": [{"type": "input_file"}]}]}), "input[0].content[0]"),
        (json!({"input": [{"role": "user", "content": [{"type": "x"}]}]}), "input[0].content[0].type"),
        (json!({"input": [{"type": "web_search_call", "id": "a"}]}), "input[0].type"),
        (json!({"input": [{"type": "function_call", "call_id": "a", "name": "f"}]}), "input[0].arguments"),
        (json!({"input": [{"type": "item_reference"}]}), "input[0].id"),
        (json!({"input": [{"id": "msg_1"}]}), "input[0].id"),
        (json!({"conversation": "c"}), "conversation"),
        (json!({"prompt": {"id": "p"}}), "prompt"),
        (json!({"background": true, "store": false}), "background"),
        (json!({"include": ["x"]}), "include[0]"),
        (json!({"tools": [{"type": "web_search"}]}), "tools[0].type"),
        (json!({"tools": [{"type": "function"}]}), "tools[0].name"),
        (json!({"tool_choice": "always"}), "tool_choice"),
        (json!({"tool_choice": {"type": "mcp"}}), "tool_choice.type"),
        (
            json!({"tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "f"}]}}),
            "tool_choice.tools[0].name",
        ),
        (json!({"text": {"format": {"type": "xml"}}}), "text.format.type"),
        (json!({"text": {"format": {"type": "json_schema", "name": "n"}}}), "text.format.schema"),
        (json!({"text": {"verbosity": "loud"}}), "text.verbosity"),
        (json!({"reasoning": {"effort": "huge"}}), "reasoning.effort"),
        (json!({"service_tier": "gold"}), "service_tier"),
        (json!({"truncation": "cut"}), "truncation"),
        (json!({"stream_options": {}}), "stream_options"),
        (json!({"max_output_tokens": "1"}), "max_output_tokens"),
    ];
    for (change, param) in cases {
        let error = parsed(&with(&change)).expect_err(param);
        assert_eq!(error.param.as_deref(), Some(param), "{change}: {}", error.message);
    }
}

#[test]
fn every_field_finds_its_place() {
    let body = with(&json!({
        "instructions": "be brief", "max_output_tokens": 5, "temperature": 0.5, "top_p": 0.9, "top_logprobs": 2,
        "include": ["message.output_text.logprobs", "reasoning.encrypted_content"], "metadata": {"a": "b"},
        "reasoning": {"effort": "low", "summary": "auto"}, "text": {"format": {"type": "json_object"}, "verbosity": "low"},
        "tools": [{"type": "function", "name": "f"}, {"type": "function", "name": "g"}], "parallel_tool_calls": false,
        "tool_choice": {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "g"}]},
        "service_tier": "flex", "truncation": "auto", "sluicegate": {"deadline_ms": 9}, "prompt_cache_retention": "24h",
    }));
    let asked = parse(body.to_string().as_bytes()).unwrap();
    let mut ignored = asked.ignored.clone();
    ignored.sort_unstable();
    assert_eq!(
        ignored,
        [
            "include.reasoning.encrypted_content",
            "prompt_cache_retention",
            "reasoning.summary",
            "text.verbosity",
            "truncation"
        ]
    );
    let (task, record) = asked.into_task(Uuid::nil(), &Nothing).unwrap();
    let roles: Vec<_> = task.messages.as_ref().unwrap().iter().map(|message| message.role).collect();
    assert_eq!(roles, [Role::System, Role::User]);
    assert_eq!(
        (task.max_tokens, task.top_logprobs, task.logprobs, task.deadline_ms),
        (Some(5), Some(2), true, Some(9))
    );
    assert_eq!(task.tools.as_ref().unwrap().len(), 1);
    assert_eq!(task.parallel_tool_calls, Some(false));
    task.check().unwrap();
    // It is read back as it was kept.
    let kept: Record = serde_json::from_str(&serde_json::to_string(&record).unwrap()).unwrap();
    assert_eq!(kept, record);
}

#[test]
fn what_has_no_effect_is_noted_once() {
    let include = vec!["reasoning.encrypted_content"; 1000];
    let asked = parse(with(&json!({"include": include})).to_string().as_bytes()).unwrap();
    assert_eq!(asked.ignored, ["include.reasoning.encrypted_content"]);
}

#[test]
fn a_choice_among_very_many_functions_is_read() {
    let tools: Vec<_> = (0..20_000).map(|number| json!({"type": "function", "name": format!("f{number}")})).collect();
    let choice = json!({"type": "allowed_tools", "mode": "auto", "tools": tools});
    let (task, _) = parsed(&with(&json!({"tools": tools, "tool_choice": choice}))).unwrap();
    assert_eq!(task.tools.unwrap().len(), tools.len());
}

#[test]
fn an_effort_is_the_most_that_there_is_where_more_is_asked_for() {
    let (task, record) = parsed(&with(&json!({"reasoning": {"effort": "max"}}))).unwrap();
    assert_eq!(task.reasoning_effort, Some(ReasoningEffort::Xhigh));
    assert_eq!(record.echo.reasoning["effort"], "max");
}

#[test]
fn names_of_the_task_are_said_in_the_words_of_the_client() {
    let cases = [
        ("max_tokens", "max_output_tokens"),
        ("messages[0].content", "input"),
        ("model_ref", "model"),
        ("json_schema.properties.x", "text.format.schema.properties.x"),
        ("tools[1].function.parameters.x", "tools[1].parameters.x"),
        ("session_id", "sluicegate.session_id"),
        ("temperature", "temperature"),
    ];
    for (native, own) in cases {
        let error = Record::rename(ErrorEnvelope::invalid(native, format!("`{native}` is wrong")));
        assert_eq!((error.param.as_deref(), error.message), (Some(own), format!("`{own}` is wrong")));
    }
}

#[test]
fn a_response_tells_how_it_ended() {
    let record = record(&json!({}));
    let cases = [
        (FinishReason::Stop, "completed", json!(null), json!(11)),
        (FinishReason::Length, "incomplete", json!({"reason": "max_output_tokens"}), json!(null)),
        (FinishReason::Deadline, "incomplete", json!({"reason": "max_output_tokens"}), json!(null)),
        (FinishReason::Canceled, "cancelled", json!(null), json!(null)),
    ];
    for (reason, status, details, completed_at) in cases {
        let answer = answered(&record, &[token(TokenKind::Text, "a", None), end(reason)]);
        assert_eq!((answer["status"].as_str(), &answer["incomplete_details"]), (Some(status), &details));
        assert_eq!((&answer["created_at"], &answer["completed_at"]), (&json!(7), &completed_at));
        assert_eq!(answer["usage"]["total_tokens"], 5);
    }
    let nothing = answered(&record, &[end(FinishReason::Stop)]);
    assert_eq!(nothing["output"][0]["content"][0]["text"], "");
}

#[test]
fn log_probabilities_are_there_where_they_were_asked_for() {
    let events = [token(TokenKind::Text, "a", None), end(FinishReason::Stop)];
    for (change, wanted) in [(json!({}), 0), (json!({"include": ["message.output_text.logprobs"]}), 1)] {
        let output = answered(&record(&change), &events)["output"][0]["content"][0]["logprobs"].clone();
        assert_eq!(output.as_array().unwrap().len(), wanted);
    }
}

fn said() -> impl Strategy<Value = Vec<Event>> {
    let piece = prop_oneof![
        "[a-z é\n]{0,4}".prop_map(|text| vec![token(TokenKind::Text, &text, None)]),
        "[a-z]{0,4}".prop_map(|text| vec![token(TokenKind::Reasoning, &text, None)]),
        prop::collection::vec("[{}\":a]{0,4}", 1..4).prop_map(|pieces| {
            let first = |at: usize| at == 0;
            pieces.iter().enumerate().map(|(at, piece)| call(0, first(at), piece)).collect()
        }),
    ];
    let reasons = [FinishReason::Stop, FinishReason::Length, FinishReason::ToolCalls, FinishReason::Deadline];
    (prop::collection::vec(piece, 0..12), prop::sample::select(reasons.to_vec())).prop_map(|(pieces, reason)| {
        // Each call gets an index of its own.
        let mut calls = 0;
        let renumber = |mut piece: Vec<Event>| {
            for event in &mut piece {
                if let Event::Token(Token { tool: Some(tool), .. }) = event {
                    let delta = Arc::make_mut(tool);
                    calls += u32::from(delta.id.is_some());
                    delta.index = calls;
                    delta.id = delta.id.take().map(|_| format!("call_{calls}"));
                }
            }
            piece
        };
        pieces.into_iter().flat_map(renumber).chain([end(reason)]).collect()
    })
}

proptest! {
    #[test]
    fn joined_deltas_are_the_whole_answer(events in said()) {
        let record = record(&json!({"include": ["message.output_text.logprobs"]}));
        let whole = answered(&record, &events);
        let stream = streamed(&record, &events, None);
        prop_assert_eq!(&stream.last().unwrap()["response"], &whole);
        let output = whole["output"].as_array().unwrap();
        let mut joined = vec![String::new(); output.len()];
        let mut done = Vec::new();
        for event in &stream {
            if let (Some(index), Some(delta)) = (event["output_index"].as_u64(), event["delta"].as_str()) {
                joined[usize::try_from(index).unwrap()].push_str(delta);
            }
            if event["type"] == "response.output_item.done" {
                done.push(event["item"].clone());
            }
        }
        prop_assert_eq!(&done, output);
        for (item, joined) in output.iter().zip(joined) {
            let text = item["arguments"].as_str().or_else(|| item["content"][0]["text"].as_str());
            prop_assert_eq!(text, Some(joined.as_str()));
        }
        let middle = u64::try_from(stream.len()).unwrap() / 2;
        prop_assert_eq!(&streamed(&record, &events, Some(middle))[..], &stream[usize::try_from(middle).unwrap() + 1..]);
    }

    #[test]
    fn what_comes_out_goes_in_again(events in said()) {
        let record = record(&json!({}));
        let mut input = answered(&record, &events)["output"].as_array().unwrap().clone();
        let results: Vec<_> = input.iter().filter_map(|item| item["call_id"].as_str())
            .map(|id| json!({"type": "function_call_output", "call_id": id, "output": "x"})).collect();
        input.extend(results);
        if !input.is_empty() {
            let (_, again) = parsed(&with(&json!({"input": input}))).unwrap();
            let items = serde_json::to_value(&again.items).unwrap();
            for (own, sent) in items.as_array().unwrap().iter().zip(&input) {
                prop_assert_eq!(&own["type"], &sent["type"]);
                prop_assert!(sent.get("id").is_none_or(|id| *id == own["id"]));
            }
        }
    }

    #[test]
    fn no_body_panics(body in any::<Vec<u8>>()) {
        let _ = parse(&body);
    }

    #[test]
    fn no_item_panics(kind in "[a-z_]{0,20}", id in "\\PC{0,40}", text in "\\PC{0,10}") {
        for kind in [kind.as_str(), "message", "function_call", "function_call_output", "reasoning", "item_reference"] {
            let item = json!({"type": kind, "id": id, "role": "user", "content": text, "call_id": id, "name": "f",
                "arguments": text, "output": text});
            let _ = parsed(&with(&json!({"input": [item], "previous_response_id": id})));
        }
    }
}
