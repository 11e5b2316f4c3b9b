//! What translation costs: a request's body, and a token's event in each dialect.

use std::hint::black_box;
use std::sync::Arc;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use sluicegate_compat::anthropic::{self, EventEncoder, MessageMeta, MessagesContext};
use sluicegate_compat::native::{Event, Token, TokenKind, encode};
use sluicegate_compat::openai::ChunkMeta;
use sluicegate_compat::openai::chat::{ChatContext, ChunkEncoder, parse};
use sluicegate_compat::openai::responses::{self, Answer, Prior};

/// A chat of about `bytes` bytes, in messages of at most 4 KB, as the SDKs write it.
fn body(bytes: usize) -> Vec<u8> {
    let text = "The quick brown fox says \"hello\" to the lazy dog, and walks on.\n".repeat(bytes.min(4096) / 72);
    let messages: Vec<_> = (0..(bytes / 4096).max(1))
        .map(|index| {
            let role = if index % 2 == 0 { "user" } else { "assistant" };
            serde_json::json!({"role": role, "content": text})
        })
        .collect();
    let body = serde_json::json!({
        "messages": messages, "model": "builtin", "temperature": 0.7, "max_completion_tokens": 256, "stream": true,
        "stream_options": {"include_usage": true}, "seed": 7, "stop": ["\n\n"], "user": "bench"
    });
    body.to_string().into_bytes()
}

/// Nothing was said before.
struct Nothing;

impl Prior for Nothing {
    fn answer(&self, _: uuid::Uuid) -> Option<Answer> {
        None
    }
}

/// The same as the input of a response.
fn response_body(bytes: usize) -> Vec<u8> {
    let mut chat: serde_json::Value = serde_json::from_slice(&body(bytes)).expect("it is JSON");
    let body = serde_json::json!({"model": "builtin", "max_output_tokens": 256, "input": chat["messages"].take()});
    body.to_string().into_bytes()
}

fn requests(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("parse and into_task");
    for (name, bytes) in [("1 KB", 1024), ("100 KB", 100 * 1024)] {
        let body = body(bytes);
        group.throughput(Throughput::Bytes(body.len() as u64));
        group.bench_function(name, |bencher| {
            bencher.iter(|| parse(black_box(&body)).expect("the body is right").into_task());
        });
    }
    group.finish();
    let mut group = criterion.benchmark_group("parse a message");
    for (name, bytes) in [("1 KB", 1024), ("100 KB", 100 * 1024)] {
        let mut body: serde_json::Value = serde_json::from_slice(&body(bytes)).expect("it is JSON");
        let end = serde_json::json!({"role": "user", "content": [{"type": "text", "text": "And?"}]});
        body["messages"].as_array_mut().expect("it has messages").push(end);
        body["max_tokens"] = 256.into();
        let body = body.to_string().into_bytes();
        group.throughput(Throughput::Bytes(body.len() as u64));
        group.bench_function(name, |bencher| {
            bencher.iter(|| anthropic::parse(black_box(&body)).expect("the body is right"));
        });
    }
    group.finish();
}

fn responses(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("parse a response and write its record");
    for (name, bytes) in [("1 KB", 1024), ("100 KB", 100 * 1024)] {
        let body = response_body(bytes);
        group.throughput(Throughput::Bytes(body.len() as u64));
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let asked = responses::parse(black_box(&body)).expect("the body is right");
                let (_, record) = asked.into_task(uuid::Uuid::nil(), &Nothing).expect("it is a conversation");
                serde_json::to_string(&record)
            });
        });
    }
    group.finish();
}

fn tokens(criterion: &mut Criterion) {
    let event = |text: &str| {
        Event::Token(Token {
            choice: 0,
            index: 12,
            text: text.into(),
            kind: TokenKind::Text,
            logprobs: None,
            tool: None,
        })
    };
    let mut group = criterion.benchmark_group("token");
    let mut out = Vec::with_capacity(1 << 12);
    for (name, event) in [("word", event(" hello")), ("escaped", event("\"a\"\n"))] {
        group.bench_function(format!("native {name}"), |bencher| {
            bencher.iter(|| {
                out.clear();
                encode(black_box(12), black_box(&event), &mut out);
            });
        });
        let meta = ChunkMeta::new(uuid::Uuid::nil(), 1_700_000_000, Some("fp_0123456789".to_owned()));
        let mut encoder = ChunkEncoder::new(&ChatContext::new("builtin"), meta);
        group.bench_function(format!("chunk {name}"), |bencher| {
            bencher.iter(|| {
                out.clear();
                encoder.encode(black_box(&event), &mut out);
            });
        });
        let asked = responses::parse(&response_body(1024)).expect("the body is right");
        let (_, record) = asked.into_task(uuid::Uuid::nil(), &Nothing).expect("it is a conversation");
        let mut encoder = responses::EventEncoder::new(Arc::new(record), 1_700_000_000_000, None);
        group.bench_function(format!("response {name}"), |bencher| {
            bencher.iter(|| {
                out.clear();
                encoder.encode(black_box(&event), &mut out);
            });
        });
        let meta = MessageMeta::new(uuid::Uuid::nil(), "bench", 12);
        let mut encoder = EventEncoder::new(&MessagesContext::new("builtin"), meta);
        group.bench_function(format!("message {name}"), |bencher| {
            bencher.iter(|| {
                out.clear();
                encoder.encode(black_box(&event), &mut out);
            });
        });
    }
    group.finish();
}

criterion_group!(benches, requests, responses, tokens);
criterion_main!(benches);
