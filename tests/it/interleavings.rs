//! The event log under every order of events that a scheduler can think of.
//!
//! The log's own source is compiled here once more, with the lock of the model checker (shuttle) in the place of the real
//! one. The checker then decides at each lock, spawn, join and wait who goes on: at random, and by the method of
//! S. Burckhardt et al., "A Randomized Scheduler with Probabilistic Guarantees of Finding Bugs" (2010), which finds any bug
//! that takes up to [`DEPTH`] unlucky switches. A reader that sleeps for ever is a deadlock, which the checker reports; a
//! failure prints the schedule that led to it, for `shuttle::replay`.

use std::sync::Arc;
use std::task::{Context, Waker};

use shuttle::future::block_on;
use shuttle::sync::atomic::{AtomicBool, Ordering};
use shuttle::thread::{self, JoinHandle};
use sluicegate_compat::native::{End, Event, FinishReason, Token, TokenKind};
use tokio::time::Instant;

use log::{EventLog, Read, Reader, Seal};

#[allow(dead_code, reason = "the test needs a part of the module")]
#[path = "../../src/tasks/log.rs"]
mod log;
#[allow(dead_code, reason = "the test needs a part of the module")]
#[path = "../../src/tasks/progress.rs"]
mod progress;
/// What `tasks::sync` is in the program.
mod sync {
    pub use shuttle::sync::Mutex;
}

/// Schedules of each kind for each law.
const SCHEDULES: usize = 3000;
const DEPTH: usize = 3;

/// Runs `scenario` under many schedules.
fn check(scenario: fn()) {
    shuttle::check_random(scenario, SCHEDULES);
    shuttle::check_pct(scenario, SCHEDULES, DEPTH);
}

fn token(index: u32) -> Event {
    Event::Token(Token { choice: 0, index, text: "word ".into(), kind: TokenKind::Text, logprobs: None, tool: None })
}

fn end(seal: Seal, finish_reason: FinishReason) {
    let tokens_out = seal.progress().tokens;
    let end = End {
        tokens_in: 1,
        cached_tokens: 0,
        tokens_out,
        queue_ms: 0,
        first_token_ms: None,
        decode_ms: 0,
        finish_reason,
        matched_stop: None,
        choices: Vec::new(),
        policy_label: None,
        canceled_by: None,
    };
    seal.end(Event::End(Arc::new(end)), Instant::now());
}

/// Appends up to so many tokens, and returns how many the log took.
fn append(log: &EventLog, tokens: u32) -> u32 {
    (0..tokens).take_while(|index| log.append(token(*index), Instant::now()).is_ok()).count() as u32
}

/// Ends the log as the engine's side does when the sequence has ended, and says whether it was the first to do so.
fn finish(log: &Arc<EventLog>, finish_reason: FinishReason) -> bool {
    log.seal().map(|seal| end(seal, finish_reason)).is_some()
}

/// Everything that a reader sees to the end, with ids.
async fn follow(mut reader: Reader) -> Vec<(u64, Event)> {
    let mut seen = Vec::new();
    let mut events = Vec::new();
    while let Read::Events { first_id } = reader.read(&mut events).await {
        seen.extend((first_id..).zip(events.drain(..)));
    }
    seen
}

fn spawn_reader(log: &Arc<EventLog>, after: u64) -> JoinHandle<Vec<(u64, Event)>> {
    let log = Arc::clone(log);
    thread::spawn(move || block_on(follow(log.reader(after))))
}

/// The whole log, with ids.
fn whole(log: &EventLog) -> Vec<(u64, Event)> {
    log.inspect(|events| (1..).zip(events.iter().cloned()).collect())
}

#[test]
fn no_token_is_appended_once_the_log_is_sealed() {
    check(|| {
        let log = EventLog::new();
        let sealed = Arc::new(AtomicBool::new(false));
        let appenders = [(); 2].map(|()| {
            let (log, sealed) = (Arc::clone(&log), Arc::clone(&sealed));
            thread::spawn(move || {
                for index in 0..3 {
                    let too_late = sealed.load(Ordering::SeqCst);
                    let appended = log.append(token(index), Instant::now()).is_ok();
                    assert!(!(too_late && appended), "a token after the seal");
                }
            })
        });
        let canceller = {
            let (log, sealed) = (Arc::clone(&log), Arc::clone(&sealed));
            thread::spawn(move || {
                let seal = log.seal().expect("nobody else seals");
                sealed.store(true, Ordering::SeqCst);
                let tokens = seal.progress().tokens;
                end(seal, FinishReason::Canceled);
                tokens
            })
        };
        let at_cancel = canceller.join().unwrap();
        appenders.into_iter().for_each(|appender| appender.join().unwrap());
        assert_eq!(log.progress().tokens, at_cancel);
        let events = whole(&log);
        assert_eq!(events.len() as u64, at_cancel + 1);
        assert!(events.last().is_some_and(|(_, event)| event.is_last()));
    });
}

#[test]
fn of_all_who_want_to_end_a_task_exactly_one_does() {
    check(|| {
        let log = EventLog::new();
        let engine = {
            let log = Arc::clone(&log);
            thread::spawn(move || {
                append(&log, 2);
                finish(&log, FinishReason::Stop)
            })
        };
        let others = [FinishReason::Canceled, FinishReason::Deadline, FinishReason::Canceled].map(|reason| {
            let log = Arc::clone(&log);
            thread::spawn(move || finish(&log, reason))
        });
        let ended = others.map(|other| other.join().unwrap()).into_iter().chain([engine.join().unwrap()]);
        assert_eq!(ended.filter(|ended| *ended).count(), 1);
        let last: Vec<_> = log.inspect(|events| events.iter().map(Event::is_last).collect());
        assert_eq!(last.iter().filter(|last| **last).count(), 1);
        assert_eq!(last.last(), Some(&true));
        assert!(log.progress().ended.is_some());
    });
}

#[test]
fn a_reader_sees_each_event_once_in_order_and_always_the_last() {
    check(|| {
        let log = EventLog::new();
        let readers = [0, 1, 0].map(|after| (after, spawn_reader(&log, after)));
        let engine = {
            let log = Arc::clone(&log);
            thread::spawn(move || {
                append(&log, 3);
                finish(&log, FinishReason::Stop);
            })
        };
        let canceller = {
            let log = Arc::clone(&log);
            thread::spawn(move || finish(&log, FinishReason::Canceled))
        };
        engine.join().unwrap();
        canceller.join().unwrap();
        let whole = whole(&log);
        for (after, reader) in readers {
            let seen = reader.join().unwrap();
            // One that asked for events after the first may have come before there was any; then it starts where it came.
            let from = whole.len() - seen.len();
            assert!(from <= after as usize, "{} events were not seen", from);
            assert_eq!(seen, whole[from..]);
        }
        assert_eq!(block_on(follow(log.reader(0))), whole, "a late reader sees the same");
    });
}

#[test]
fn a_reader_that_moves_to_another_waker_or_goes_away_leaves_nobody_asleep() {
    check(|| {
        let log = EventLog::new();
        let moved = {
            let log = Arc::clone(&log);
            thread::spawn(move || {
                let mut reader = log.reader(0);
                let mut events = Vec::new();
                // Polled by a task that is never polled again, as when a connection hands its stream on.
                let _ = reader.poll_read(&mut Context::from_waker(Waker::noop()), &mut events);
                events.len() + block_on(follow(reader)).len()
            })
        };
        let gone = {
            let log = Arc::clone(&log);
            thread::spawn(move || {
                let _ = log.reader(0).poll_read(&mut Context::from_waker(Waker::noop()), &mut Vec::new());
            })
        };
        let stays = spawn_reader(&log, 0);
        append(&log, 2);
        finish(&log, FinishReason::Stop);
        gone.join().unwrap();
        assert_eq!(moved.join().unwrap(), 3);
        assert_eq!(stays.join().unwrap().len(), 3);
    });
}
