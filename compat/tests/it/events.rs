//! Events as an engine would give them, and ways to read what was written.

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::collection::vec;
use proptest::prelude::*;
use sluicegate_compat::native::{
    ChoiceEnd, End, ErrorCode, ErrorEnvelope, Event, FinishReason, Metrics, Started, Token, TokenKind, TokenLogprobs,
    ToolDelta, TopLogprob,
};
use sluicegate_compat::openai::ChunkMeta;
use sluicegate_compat::openai::chat::{Answer, ChatContext, ChunkEncoder};
use smol_str::SmolStr;

pub fn started() -> Event {
    Event::Started(Arc::new(Started {
        queue_position: 0,
        predicted_start_ms: 0,
        engine: "scripted".into(),
        engine_version: "1".into(),
        pool_id: "p".into(),
        replica_id: "r".into(),
        sampler_profile_version: "1".into(),
        model_digest: "sha256:0".into(),
    }))
}

pub fn token(choice: u16, index: u32, text: &str) -> Event {
    Event::Token(Token { choice, index, text: text.into(), kind: TokenKind::Text, logprobs: None, tool: None })
}

pub fn reasoning(index: u32, text: &str) -> Event {
    Event::Token(Token { choice: 0, index, text: text.into(), kind: TokenKind::Reasoning, logprobs: None, tool: None })
}

pub fn with_logprobs(index: u32, text: &str, bytes: &[u8], logprob: f32) -> Event {
    let top =
        [TopLogprob { bytes: bytes.into(), logprob }, TopLogprob { bytes: b"?".as_slice().into(), logprob: -3.5 }];
    let logprobs = TokenLogprobs { logprob, bytes: bytes.into(), top: top.into() };
    let logprobs = Some(Arc::new(logprobs));
    Event::Token(Token { choice: 0, index, text: text.into(), kind: TokenKind::Text, logprobs, tool: None })
}

pub fn end(finish_reason: FinishReason) -> End {
    End {
        tokens_in: 11,
        cached_tokens: 8,
        tokens_out: 3,
        queue_ms: 1,
        first_token_ms: Some(2),
        decode_ms: 3,
        finish_reason,
        matched_stop: None,
        choices: Vec::new(),
        policy_label: None,
        canceled_by: None,
    }
}

pub fn ended(finish_reason: FinishReason) -> Event {
    Event::End(Arc::new(end(finish_reason)))
}

pub fn meta() -> ChunkMeta {
    ChunkMeta { id: "chatcmpl-1".into(), created: 1_700_000_000, system_fingerprint: Some("fp_1".into()) }
}

/// The stream of `events`, as text.
pub fn stream(context: &ChatContext, events: &[Event]) -> String {
    let mut encoder = ChunkEncoder::new(context, meta());
    let mut out = Vec::new();
    for event in events {
        encoder.encode(event, &mut out);
    }
    String::from_utf8(out).unwrap()
}

/// The JSON of each chunk of a stream, `[DONE]` left out.
pub fn chunks(stream: &str) -> Vec<serde_json::Value> {
    let data = stream.split_terminator("\n\n").map(|event| event.strip_prefix("data: ").unwrap());
    data.filter(|data| *data != "[DONE]").map(|data| serde_json::from_str(data).unwrap()).collect()
}

/// What each chunk of a stream says after the members that all of them share, as it was written.
pub fn said(stream: &str) -> String {
    let chunks = stream.split_terminator("\n\n").filter_map(|event| event.split_once(",\"choices\":"));
    chunks.map(|(_, said)| said).collect::<Vec<_>>().join("\n")
}

/// The whole answer to `events`, as JSON, or what it failed with.
pub fn whole(context: &ChatContext, events: &[Event]) -> Result<serde_json::Value, ErrorEnvelope> {
    let mut answer = Answer::new(context, meta());
    for event in events {
        answer.push(event);
    }
    answer.finish().map(|body| serde_json::from_str(&serde_json::to_string(&body).unwrap()).unwrap())
}

/// Any events in any order, most of them tokens, the last one last.
pub fn any_events() -> impl Strategy<Value = Vec<Event>> {
    (vec(any_event(), 0..40), any_last()).prop_map(|(mut events, last)| {
        events.push(last);
        events
    })
}

/// An answer with so many choices as an engine gives it: of each choice its reasoning, its text and its calls, whole and in
/// this order; the choices run beside each other.
pub fn any_answer(choices: u16) -> impl Strategy<Value = (u32, Vec<Event>)> {
    let turns = vec(0..choices, 0..60);
    (vec(any_choice(), usize::from(choices)), turns, any::<bool>()).prop_map(move |(mut told, turns, calls)| {
        let mut told: Vec<_> = told.drain(..).map(Vec::into_iter).collect();
        let mut events = vec![started()];
        let said = |choice, token| Event::Token(Token { choice, ..token });
        for choice in turns {
            events.extend(told[usize::from(choice)].next().map(|token| said(choice, token)));
        }
        for (choice, rest) in (0..).zip(told) {
            events.extend(rest.map(|token| said(choice, token)));
        }
        let reason = if calls { FinishReason::ToolCalls } else { FinishReason::Stop };
        let end_of = |choice| ChoiceEnd {
            choice,
            finish_reason: [reason, FinishReason::Length][usize::from(choice % 2)],
            tokens_out: 1,
        };
        let own = if choices > 1 { (0..choices).map(end_of).collect() } else { Vec::new() };
        events.push(Event::End(Arc::new(End { choices: own, ..end(reason) })));
        (u32::from(choices), events)
    })
}

fn any_choice() -> impl Strategy<Value = Vec<Token>> {
    let pieces = |kind| {
        vec(any_text(), 0..5).prop_map(move |texts| {
            let token =
                |text: String| Token { choice: 0, index: 0, text: text.into(), kind, logprobs: None, tool: None };
            texts.into_iter().map(token).collect::<Vec<_>>()
        })
    };
    let arguments = proptest::collection::btree_map(any_text(), any_text(), 0..3);
    let calls = vec((any_text(), arguments, 1..9usize), 0..3).prop_map(|calls| {
        let deltas = |(index, (name, arguments, step)): (usize, (String, BTreeMap<String, String>, usize))| {
            let arguments: Vec<_> = serde_json::to_string(&arguments).unwrap().chars().collect();
            let pieces = arguments.chunks(step).map(|piece| piece.iter().collect());
            let head = (Some(format!("call_{index}")), Some(name), String::new());
            let rest = pieces.map(|piece| (None, None, piece));
            let index = u32::try_from(index).unwrap();
            let delta = move |(id, name, arguments)| ToolDelta { index, id, name, arguments };
            std::iter::once(head).chain(rest).map(delta).collect::<Vec<_>>()
        };
        let token = |delta| Token {
            choice: 0,
            index: 0,
            text: SmolStr::default(),
            kind: TokenKind::Tool,
            logprobs: None,
            tool: Some(Arc::new(delta)),
        };
        calls.into_iter().enumerate().flat_map(deltas).map(token).collect::<Vec<_>>()
    });
    (pieces(TokenKind::Reasoning), pieces(TokenKind::Text), calls)
        .prop_map(|parts| [parts.0, parts.1, parts.2].concat())
}

fn any_event() -> impl Strategy<Value = Event> {
    prop_oneof![
        1 => Just(started()),
        1 => Just(Event::Metrics(Arc::new(Metrics::default()))),
        20 => any_token().prop_map(Event::Token),
    ]
}

fn any_token() -> impl Strategy<Value = Token> {
    let kind = prop_oneof![
        6 => Just((TokenKind::Text, None)),
        2 => Just((TokenKind::Reasoning, None)),
        3 => any_delta().prop_map(|delta| (TokenKind::Tool, Some(Arc::new(delta)))),
    ];
    let logprobs = proptest::option::weighted(0.2, any_logprobs());
    (0..4u16, any::<u32>(), any_text(), kind, logprobs).prop_map(|(choice, index, text, (kind, tool), logprobs)| {
        Token {
            choice,
            index,
            text: if tool.is_some() { SmolStr::default() } else { text.into() },
            kind,
            logprobs,
            tool,
        }
    })
}

fn any_delta() -> impl Strategy<Value = ToolDelta> {
    let head = proptest::option::of((any_text(), any_text()));
    (0..3u32, head, any_text()).prop_map(|(index, head, arguments)| {
        let (id, name) = head.unzip();
        ToolDelta { index, id, name, arguments }
    })
}

/// A token of a call; with an id it is the call's first.
pub fn tool(index: u32, head: Option<(&str, &str)>, arguments: &str) -> Event {
    let (id, name) = head.map(|(id, name)| (id.to_owned(), name.to_owned())).unzip();
    let delta = ToolDelta { index, id, name, arguments: arguments.to_owned() };
    let (text, kind) = (SmolStr::default(), TokenKind::Tool);
    Event::Token(Token { choice: 0, index: 0, text, kind, logprobs: None, tool: Some(Arc::new(delta)) })
}

/// Text with everything that JSON or an event stream could trip over.
fn any_text() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<String>(),
        Just(String::new()),
        Just("\r\n\n data: [DONE]\n\n\u{2028}\u{0}\"\\😀\u{feff}".to_owned()),
    ]
}

fn any_logprobs() -> impl Strategy<Value = Arc<TokenLogprobs>> {
    let logprob = prop_oneof![-50.0..0.0f32, Just(f32::NEG_INFINITY), Just(f32::NAN)];
    let bytes = vec(any::<u8>(), 0..6).prop_map(Vec::into_boxed_slice);
    let top = vec((bytes.clone(), logprob.clone()).prop_map(|(bytes, logprob)| TopLogprob { bytes, logprob }), 0..3);
    (bytes, logprob, top)
        .prop_map(|(bytes, logprob, top)| Arc::new(TokenLogprobs { logprob, bytes, top: top.into_boxed_slice() }))
}

fn any_last() -> impl Strategy<Value = Event> {
    let reason = prop_oneof![
        Just(FinishReason::Stop),
        Just(FinishReason::Length),
        Just(FinishReason::ToolCalls),
        Just(FinishReason::Canceled),
        Just(FinishReason::Deadline)
    ];
    let choice = (0..4u16, reason.clone(), 0..9u64);
    let choices = vec(
        choice.prop_map(|(choice, finish_reason, tokens_out)| ChoiceEnd { choice, finish_reason, tokens_out }),
        0..4,
    );
    let ended = (reason, choices, 0..1000u64)
        .prop_map(|(reason, choices, tokens_in)| Event::End(Arc::new(End { choices, tokens_in, ..end(reason) })));
    let failed = Just(Event::Error(Arc::new(ErrorEnvelope::new(ErrorCode::WorkerReset, "the engine \"died\"\n"))));
    prop_oneof![4 => ended, 1 => failed]
}
