//! What a token costs in memory: nothing, once the buffer has grown.

use std::sync::Arc;

use sluicegate_compat::anthropic::{EventEncoder, MessageMeta, MessagesContext};
use sluicegate_compat::native::{Event, Token, TokenKind, TokenLogprobs, TopLogprob, encode};
use sluicegate_compat::openai::ChunkMeta;
use sluicegate_compat::openai::chat::{ChatContext, ChunkEncoder};

const TOKENS: u32 = 1000;

fn event(index: u32, kind: TokenKind, logprobs: Option<Arc<TokenLogprobs>>) -> Event {
    Event::Token(Token {
        choice: 0,
        index,
        text: " a \"token\"\n of text that is not inline 😀".into(),
        kind,
        logprobs,
        tool: None,
    })
}

fn logprobs() -> Arc<TokenLogprobs> {
    let top = TopLogprob { bytes: b"\xf0\x9f".as_slice().into(), logprob: -1.5 };
    Arc::new(TokenLogprobs { logprob: -0.5, bytes: b" a".as_slice().into(), top: [top].into() })
}

/// Allocations of writing each event once, after each has been written once to warm up.
fn allocations(events: &[Event], mut write: impl FnMut(&Event, &mut Vec<u8>)) -> u64 {
    let mut out = Vec::new();
    events.iter().for_each(|event| write(event, &mut out));
    out.clear();
    allocation_counter::measure(|| events.iter().for_each(|event| write(event, &mut out))).count_total
}

#[test]
fn a_token_costs_no_allocation_in_any_dialect() {
    let events: Vec<_> = (0..TOKENS)
        .map(|index| event(index, if index % 3 == 0 { TokenKind::Reasoning } else { TokenKind::Text }, None))
        .collect();
    assert_eq!(allocations(&events, |event, out| encode(7, event, out)), 0);
    let meta = ChunkMeta::new(uuid::Uuid::nil(), 0, None);
    let mut encoder = ChunkEncoder::new(&ChatContext { include_usage: true, ..ChatContext::new("m") }, meta);
    assert_eq!(allocations(&events, |event, out| encoder.encode(event, out)), 0);
    let mut encoder = EventEncoder::new(&MessagesContext::new("m"), MessageMeta::new(uuid::Uuid::nil(), "r", 1));
    assert_eq!(allocations(&events, |event, out| encoder.encode(event, out)), 0);
}

#[test]
fn log_probabilities_cost_none_either_in_chunks() {
    let events: Vec<_> = (0..TOKENS).map(|index| event(index, TokenKind::Text, Some(logprobs()))).collect();
    let meta = ChunkMeta::new(uuid::Uuid::nil(), 0, None);
    let mut encoder = ChunkEncoder::new(&ChatContext::new("m"), meta);
    assert_eq!(allocations(&events, |event, out| encoder.encode(event, out)), 0);
}

#[test]
fn the_counter_counts() {
    assert!(allocation_counter::measure(|| drop(std::hint::black_box(vec![1u8; 100]))).count_total > 0);
}
