//! Streams of every dialect, read by a client's parser however the network cuts them, and what their deltas add up to.

use std::sync::Arc;

use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::{Value, json};
use sluicegate_compat::anthropic::{self, MessageMeta, MessagesContext, PING, Thinking};
use sluicegate_compat::native::{ErrorEnvelope, Event, TokenKind, encode};
use sluicegate_compat::openai::chat::ChatContext;
use sluicegate_compat::openai::responses::{self, Prior, Record};
use sluicegate_compat::openai::{ChunkMeta, completions};
use sluicegate_compat::sse::KEEP_ALIVE;
use uuid::Uuid;

use crate::events::{self, any_answer, any_events, meta};
use crate::reading::{Dialect, ServerSent, Spoken, read};

/// Writes an event, the one with this number of its stream.
type Encode = Box<dyn FnMut(u64, &Event, &mut Vec<u8>)>;

/// The stream of `events` in a dialect, an answer with `n` choices, with something to keep it alive before each event.
fn stream(dialect: Dialect, n: u32, events: &[Event]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut write: Encode = match dialect {
        Dialect::Native => Box::new(encode),
        Dialect::Chat => {
            let context = ChatContext { n, include_usage: true, logprobs: true, ..ChatContext::new("m") };
            let mut encoder = sluicegate_compat::openai::chat::ChunkEncoder::new(&context, meta());
            Box::new(move |_, event, out| encoder.encode(event, out))
        }
        Dialect::Completions => {
            let mut encoder = completions::ChunkEncoder::new(&completion_context(n), &completion_meta());
            Box::new(move |_, event, out| encoder.encode(0, event, out))
        }
        Dialect::Responses => {
            let mut encoder = responses::EventEncoder::new(record(), 7000, None);
            Box::new(move |_, event, out| encoder.encode(event, out))
        }
        Dialect::Messages => {
            let mut encoder = anthropic::EventEncoder::new(&messages_context(), message_meta());
            Box::new(move |_, event, out| encoder.encode(event, out))
        }
    };
    for (id, event) in (1..).zip(events) {
        out.extend_from_slice(KEEP_ALIVE);
        if dialect == Dialect::Messages {
            out.extend_from_slice(PING);
        }
        write(id, event, &mut out);
    }
    out
}

/// The whole answer to `events`, or what it failed with; of a native task there is none without a gateway.
fn whole(dialect: Dialect, n: u32, events: &[Event]) -> Option<Result<Value, ErrorEnvelope>> {
    Some(match dialect {
        Dialect::Native => return None,
        Dialect::Chat => {
            let context = ChatContext { n, include_usage: true, logprobs: true, ..ChatContext::new("m") };
            events::whole(&context, events)
        }
        Dialect::Completions => {
            let mut answer = completions::Answer::new(&completion_context(n), completion_meta());
            events.iter().for_each(|event| answer.push(0, event));
            answer.finish().map(to_value).map_err(|(_, error)| error)
        }
        Dialect::Responses => {
            let mut answer = responses::Answer::new(record(), 7000);
            events.iter().for_each(|event| answer.push(event));
            answer.finished().map(to_value)
        }
        Dialect::Messages => {
            let mut answer = anthropic::Answer::new(&messages_context(), message_meta());
            events.iter().for_each(|event| answer.push(event));
            answer.finish().map(to_value)
        }
    })
}

fn to_value(body: impl serde::Serialize) -> Value {
    serde_json::to_value(body).unwrap()
}

fn completion_context(n: u32) -> completions::CompletionContext {
    let body = json!({"model": "m", "prompt": "a", "n": n, "logprobs": 1, "echo": false, "stream": true,
        "stream_options": {"include_usage": true}});
    completions::parse(body.to_string().as_bytes()).unwrap().1
}

fn completion_meta() -> ChunkMeta {
    ChunkMeta::of_completion(Uuid::nil(), 1_700_000_000, None)
}

fn messages_context() -> MessagesContext {
    MessagesContext { thinking: Thinking::Shown, ..MessagesContext::new("m") }
}

fn message_meta() -> MessageMeta {
    MessageMeta::new(Uuid::nil(), "r-1", 11)
}

fn record() -> Arc<Record> {
    struct Nothing;
    impl Prior for Nothing {
        fn answer(&self, _: Uuid) -> Option<responses::Answer> {
            None
        }
    }
    let body = json!({"model": "m", "input": "a", "include": ["message.output_text.logprobs"]}).to_string();
    let (_, record) = responses::parse(body.as_bytes()).unwrap().into_task(Uuid::nil(), &Nothing).unwrap();
    Arc::new(record)
}

/// With line ends that a server of another make might have.
fn with_line_ends(bytes: &[u8], end: &str) -> Vec<u8> {
    // The bytes of a stream hold no raw line break but those between lines.
    str::from_utf8(bytes).unwrap().replace('\n', end).into_bytes()
}

/// Choices that an answer in this dialect may have.
const fn choices(dialect: Dialect, n: u32) -> u32 {
    match dialect {
        Dialect::Responses | Dialect::Messages => 1,
        Dialect::Native | Dialect::Chat | Dialect::Completions => n,
    }
}

/// The events of a stream of this dialect are well formed: JSON, but for a last `[DONE]`, named and numbered as they are.
fn check_framing(dialect: Dialect, events: &[ServerSent]) -> Result<(), TestCaseError> {
    for (at, event) in events.iter().enumerate() {
        if dialect.says_done() && at + 1 == events.len() {
            prop_assert_eq!(&event.data, "[DONE]");
            continue;
        }
        let data = event.json();
        prop_assert!(data.is_object());
        let id = if dialect == Dialect::Native { (at + 1).to_string() } else { String::new() };
        prop_assert_eq!(&event.id, &id);
        match dialect {
            Dialect::Native => {}
            Dialect::Chat | Dialect::Completions => prop_assert_eq!(&event.name, "message"),
            Dialect::Responses => prop_assert_eq!(&data["sequence_number"], at),
            Dialect::Messages => prop_assert_eq!(&data["type"], &json!(event.name)),
        }
    }
    Ok(())
}

proptest! {
    #[test]
    fn every_stream_is_the_same_however_it_is_cut(
        events in any_events(), n in 1..4u32, cuts in vec(any::<usize>(), 0..60),
    ) {
        for dialect in Dialect::ALL {
            let bytes = stream(dialect, n, &events);
            let whole = read(&bytes, &[]);
            check_framing(dialect, &whole)?;
            prop_assert_eq!(&read(&bytes, &cuts), &whole);
            let crlf = with_line_ends(&bytes, "\r\n");
            prop_assert_eq!(&read(&crlf, &[]), &whole);
            prop_assert_eq!(&read(&crlf, &cuts), &whole);
        }
    }

    #[test]
    fn joined_deltas_are_the_whole_answer(events in (1..4u16).prop_flat_map(any_answer)) {
        let (n, events) = events;
        for dialect in Dialect::ALL.into_iter().filter(|dialect| choices(*dialect, n) == n) {
            let events = if dialect == Dialect::Completions { texts_alone(&events) } else { events.clone() };
            let joined = dialect.joined(&read(&stream(dialect, n, &events), &[]));
            if let Some(whole) = whole(dialect, n, &events) {
                prop_assert_eq!(&joined, &dialect.whole(&whole.unwrap()));
            }
            // And what every other dialect says of the same task.
            let native = Dialect::Native.joined(&read(&stream(Dialect::Native, n, &events), &[]));
            prop_assert_eq!(plain(joined), plain(native));
        }
    }

    #[test]
    fn a_stream_that_fails_says_what_the_whole_answer_is_refused_with(events in any_events(), n in 1..4u32) {
        for dialect in Dialect::ALL {
            if let Some(Err(error)) = whole(dialect, n, &events) {
                let events = read(&stream(dialect, n, &events), &[]);
                let last = match dialect {
                    Dialect::Chat | Dialect::Completions | Dialect::Responses => events.len() - 2,
                    Dialect::Native | Dialect::Messages => events.len() - 1,
                };
                let data = events[last].json();
                let message = if dialect == Dialect::Responses { &data["message"] } else { &data["error"]["message"] };
                prop_assert_eq!(message, &json!(error.message));
            }
        }
    }
}

fn plain(choices: Vec<Spoken>) -> Vec<Spoken> {
    choices.into_iter().map(Spoken::plain).collect()
}

/// Without what there is in a conversation alone.
fn texts_alone(events: &[Event]) -> Vec<Event> {
    let said = |event: &&Event| !matches!(event, Event::Token(token) if token.kind != TokenKind::Text);
    events.iter().filter(said).cloned().collect()
}

#[test]
fn one_byte_at_a_time_is_enough() {
    let mut bytes = KEEP_ALIVE.to_vec();
    encode(1, &events::token(0, 0, "a\r\nb\n\n: c"), &mut bytes);
    for bytes in [with_line_ends(&bytes, "\n"), with_line_ends(&bytes, "\r\n")] {
        let cuts: Vec<_> = (0..bytes.len()).collect();
        let event = ServerSent { id: "1".into(), name: "token".into(), data: r#"{"t":"a\r\nb\n\n: c","i":0}"#.into() };
        assert_eq!(read(&bytes, &cuts), [event]);
    }
}
