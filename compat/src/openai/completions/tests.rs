//! Of the request, whole answers and streams, without a server.

use std::sync::Arc;

use serde_json::{Value, json};
use uuid::Uuid;

use super::*;
use crate::native::{ChoiceEnd, Event, Input, Token, TokenKind, TokenLogprobs};
use crate::openai::chunk::ChunkMeta;

fn parsed(body: &Value) -> Result<(Vec<crate::native::TaskRequest>, CompletionContext), ErrorEnvelope> {
    parse(body.to_string().as_bytes())
}

fn context(body: &Value) -> CompletionContext {
    parsed(body).unwrap().1
}

fn token(choice: u16, bytes: &[u8], logprob: f32) -> Event {
    let logprobs = TokenLogprobs { logprob, bytes: bytes.into(), top: Box::default() };
    let text = str::from_utf8(bytes).unwrap_or_default().into();
    let (kind, logprobs) = (TokenKind::Text, Some(Arc::new(logprobs)));
    Event::Token(Token { choice, index: 0, text, kind, logprobs, tool: None })
}

fn end(choices: u16) -> Event {
    let ends = (0..choices).map(|choice| ChoiceEnd { choice, finish_reason: FinishReason::Length, tokens_out: 1 });
    Event::End(Arc::new(End {
        tokens_in: 2,
        cached_tokens: 0,
        tokens_out: u64::from(choices),
        queue_ms: 0,
        first_token_ms: None,
        decode_ms: 0,
        finish_reason: FinishReason::Length,
        matched_stop: None,
        choices: if choices > 1 { ends.collect() } else { Vec::new() },
        policy_label: None,
        canceled_by: None,
    }))
}

fn answered(body: &Value, events: &[(usize, Event)]) -> Value {
    let context = context(body);
    let mut answer = Answer::new(&context, ChunkMeta::of_completion(Uuid::nil(), 1, None));
    events.iter().for_each(|(prompt, event)| answer.push(*prompt, event));
    serde_json::to_value(answer.finish().unwrap()).unwrap()
}

#[test]
fn each_prompt_is_a_task() {
    let prompts = [
        (json!("a"), vec![Input::from("a")]),
        (json!([1, 2]), vec![Input::Tokens(vec![1, 2])]),
        (json!(["a", "b"]), vec!["a".into(), "b".into()]),
        (json!([[1], [2, 3]]), vec![Input::Tokens(vec![1]), Input::Tokens(vec![2, 3])]),
    ];
    for (prompt, wanted) in prompts {
        let (tasks, context) = parsed(&json!({"model": "m", "prompt": prompt, "seed": 3, "why": 1})).unwrap();
        assert_eq!(tasks.iter().map(|task| task.prompt.clone().unwrap()).collect::<Vec<_>>(), wanted);
        assert!(tasks.iter().all(|task| task.seed == Some(3) && task.max_tokens == Some(16)));
        assert_eq!(context.ignored, ["why"]);
    }
}

#[test]
fn what_cannot_be_is_refused_by_name() {
    let cases = [
        (json!({}), "prompt"),
        (json!({"prompt": []}), "prompt"),
        (json!({"prompt": vec!["a"; 129]}), "prompt"),
        (json!({"prompt": ["a", 1]}), "prompt"),
        (json!({"prompt": "a", "suffix": "b"}), "suffix"),
        (json!({"prompt": "a", "n": 3, "best_of": 2}), "best_of"),
        (json!({"prompt": "a", "best_of": 2, "stream": true}), "best_of"),
        (json!({"prompt": "a", "echo": true, "logprobs": 1}), "echo"),
        (json!({"prompt": "a", "stream_options": {"include_usage": true}}), "stream_options"),
        (json!({"prompt": ["a", "b"], "sluicegate": {"task_id": Uuid::nil()}}), "sluicegate.task_id"),
        (json!({"prompt": "a", "logit_bias": {"x": 1}}), "logit_bias"),
    ];
    for (mut body, param) in cases {
        body["model"] = "m".into();
        assert_eq!(parsed(&body).unwrap_err().param.as_deref(), Some(param), "{body}");
    }
    assert_eq!(parsed(&json!({"prompt": "a"})).unwrap_err().param.as_deref(), Some("model"));
}

#[test]
fn fields_are_named_as_the_client_named_them() {
    let one = context(&json!({"model": "m", "prompt": "a", "best_of": 17}));
    let many = context(&json!({"model": "m", "prompt": ["a", "b"]}));
    let renamed = |context: &CompletionContext, native: &'static str| {
        let envelope = context.rename(Some(1), ErrorEnvelope::invalid(native, format!("`{native}` is odd")));
        (envelope.param.unwrap(), envelope.message)
    };
    assert_eq!(renamed(&one, "n"), ("best_of".into(), "`best_of` is odd".into()));
    assert_eq!(renamed(&one, "prompt").0, "prompt");
    assert_eq!(renamed(&many, "prompt").0, "prompt[1]");
    assert_eq!(many.rename(None, ErrorEnvelope::invalid("prompt", "why")).param.unwrap(), "prompt");
    assert_eq!(renamed(&many, "n").0, "n");
    assert_eq!(renamed(&many, "top_logprobs").0, "logprobs");
    assert_eq!(renamed(&many, "model_ref").0, "model");
    assert_eq!(renamed(&many, "deadline_ms").0, "sluicegate.deadline_ms");
}

#[test]
fn offsets_count_characters_and_parts_of_them_are_bytes() {
    let body = json!({"model": "m", "prompt": "a", "logprobs": 0});
    let euro = "€".as_bytes();
    let events = [
        (0, token(0, "é".as_bytes(), -0.5)),
        (0, token(0, &euro[..1], f32::NEG_INFINITY)),
        (0, token(0, &euro[1..], -0.25)),
        (0, token(0, b"x", -1.0)),
        (0, end(1)),
    ];
    let answer = answered(&body, &events);
    let logprobs = &answer["choices"][0]["logprobs"];
    assert_eq!(logprobs["text_offset"], json!([0, 1, 1, 2]));
    assert_eq!(logprobs["tokens"], json!(["é", "bytes:\\xe2", "bytes:\\x82\\xac", "x"]));
    assert_eq!(logprobs["token_logprobs"], json!([-0.5, -9999.0, -0.25, -1.0]));
    assert_eq!(logprobs["top_logprobs"][3], json!({"x": -1.0}));
}

#[test]
fn the_best_are_those_with_the_highest_mean() {
    let body = json!({"model": "m", "prompt": ["a", "b"], "n": 2, "best_of": 3});
    let mut events = Vec::new();
    for prompt in 0..2 {
        events.extend([
            (prompt, token(0, b"a", -0.5)),
            (prompt, token(0, b"a", -0.5)),
            (prompt, token(1, b"b", -0.75)),
            (prompt, token(2, b"c", -0.25)),
            (prompt, end(3)),
        ]);
    }
    let answer = answered(&body, &events);
    let choices: Vec<_> = answer["choices"]
        .as_array()
        .unwrap()
        .iter()
        .map(|choice| (choice["index"].clone(), choice["text"].clone()))
        .collect();
    assert_eq!(json!(choices), json!([[0, "c"], [1, "aa"], [2, "c"], [3, "aa"]]));
    assert_eq!(answer["choices"][0]["logprobs"], Value::Null);
    assert_eq!((&answer["usage"]["prompt_tokens"], &answer["usage"]["completion_tokens"]), (&json!(4), &json!(6)));
}

#[test]
fn a_stream_ends_with_the_last_of_its_tasks_or_the_first_that_fails() {
    let body = json!({"model": "m", "prompt": ["a", "b"], "echo": true, "stream": true,
        "stream_options": {"include_usage": true}});
    let meta = ChunkMeta::of_completion(Uuid::nil(), 1, None);
    let mut encoder = ChunkEncoder::new(&context(&body), &meta);
    let mut out = Vec::new();
    encoder.encode(1, &end(1), &mut out);
    assert!(!encoder.is_over());
    encoder.encode(1, &end(1), &mut out);
    encoder.encode(0, &token(0, b"x", -1.0), &mut out);
    encoder.encode(0, &end(1), &mut out);
    assert!(encoder.is_over());
    let text = String::from_utf8(out).unwrap();
    assert_eq!(
        (text.matches("\"finish_reason\":\"length\"").count(), text.matches("[DONE]").count()),
        (2, 1),
        "{text}"
    );
    assert!(text.contains("\"prompt_tokens\":4") && text.ends_with("data: [DONE]\n\n"), "{text}");
    assert_eq!((text.matches("\"text\":\"a\"").count(), text.matches("\"text\":\"b\"").count()), (1, 1), "{text}");
    let mut encoder = ChunkEncoder::new(&context(&body), &meta);
    let mut out = Vec::new();
    encoder.encode(0, &Event::Error(Arc::new(ErrorEnvelope::invalid("prompt", "no"))), &mut out);
    assert!(encoder.is_over());
    encoder.encode(1, &end(1), &mut out);
    assert_eq!(String::from_utf8(out).unwrap().matches("data: ").count(), 2);
}
