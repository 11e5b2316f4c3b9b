//! What the event log costs: to the engine's side per token, with and without readers, and to a reader that comes late.

use std::hint::black_box;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use sluicegate::tasks::{EventLog, Read, Reader};
use sluicegate_compat::native::{Event, Token, TokenKind};
use tokio::time::Instant;

const EVENTS: u32 = 1000;

fn token(index: u32) -> Event {
    Event::Token(Token { choice: 0, index, text: " hello".into(), kind: TokenKind::Text, logprobs: None, tool: None })
}

fn append(log: &EventLog, index: u32, now: Instant) {
    log.append(token(index), now).unwrap_or_else(|sealed| panic!("{sealed}"));
}

/// Takes everything that is there, and leaves the reader's waker in the log.
fn read_all(reader: &mut Reader, events: &mut Vec<Event>) -> usize {
    let mut cx = Context::from_waker(Waker::noop());
    let mut seen = 0;
    while let Poll::Ready(Read::Events { .. }) = reader.poll_read(&mut cx, events) {
        seen += events.len();
        events.clear();
    }
    seen
}

/// A token with everything that happens for it: appended, each reader woken, each reader's copy made.
fn tokens(criterion: &mut Criterion) {
    let now = Instant::now();
    let mut group = criterion.benchmark_group("1,000 tokens, each read at once");
    group.throughput(Throughput::Elements(u64::from(EVENTS)));
    for (name, readers) in [("no reader", 0), ("1 reader", 1), ("100 readers", 100)] {
        group.bench_function(name, |bencher| {
            let begin = || {
                let log = EventLog::new();
                let mut readers: Vec<Reader> = (0..readers).map(|_| log.reader(0)).collect();
                assert_eq!(readers.iter_mut().map(|reader| read_all(reader, &mut Vec::new())).sum::<usize>(), 0);
                (log, readers)
            };
            let run = |(log, mut readers): (Arc<EventLog>, Vec<Reader>)| {
                let mut events = Vec::with_capacity(64);
                for index in 0..EVENTS {
                    append(&log, index, now);
                    for reader in &mut readers {
                        black_box(read_all(reader, &mut events));
                    }
                }
                (log, readers)
            };
            bencher.iter_batched(begin, run, BatchSize::SmallInput);
        });
    }
    group.finish();
}

/// The engine's side alone, while readers sleep: what they cost the engine.
fn wakes(criterion: &mut Criterion) {
    let now = Instant::now();
    let mut group = criterion.benchmark_group("append one token, readers asleep");
    for (name, readers) in [("no reader", 0), ("1 reader", 1), ("100 readers", 100)] {
        group.bench_function(name, |bencher| {
            let log = EventLog::new();
            let mut readers: Vec<Reader> = (0..readers).map(|_| log.reader(0)).collect();
            let mut index = 0;
            let mut events = Vec::with_capacity(64);
            bencher.iter_custom(|rounds| {
                let mut spent = std::time::Duration::ZERO;
                for _ in 0..rounds {
                    for reader in &mut readers {
                        black_box(read_all(reader, &mut events));
                    }
                    let began = std::time::Instant::now();
                    append(&log, index, now);
                    spent += began.elapsed();
                    index += 1;
                }
                spent
            });
        });
    }
    group.finish();
}

fn replay(criterion: &mut Criterion) {
    let now = Instant::now();
    let log = EventLog::new();
    (0..EVENTS).for_each(|index| append(&log, index, now));
    let mut group = criterion.benchmark_group("replay of 1,000 events");
    for (name, readers) in [("1 reader", 1_u32), ("100 readers", 100)] {
        group.throughput(Throughput::Elements(u64::from(EVENTS * readers)));
        group.bench_function(name, |bencher| {
            let mut events = Vec::with_capacity(64);
            bencher.iter(|| {
                for _ in 0..readers {
                    assert_eq!(read_all(&mut log.reader(0), &mut events), EVENTS as usize);
                }
            });
        });
    }
    group.finish();
}

criterion_group!(benches, tokens, wakes, replay);
criterion_main!(benches);
