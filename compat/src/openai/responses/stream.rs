//! A task's events as OpenAI's typed events of a response.

use std::sync::Arc;

use serde::Serialize;
use serde_json::Value;

use super::compose::{Answer, Composer, News};
use super::item::{Item, Part};
use super::record::{Moment, Record, Response, event_code, failure};
use crate::native::{ErrorEnvelope, Event, FinishReason};
use crate::sse;

/// Writes the events of one task as typed events with sequence numbers. The same task gives the same events each time
/// that it is told, so a stream can be taken up where it broke off.
#[derive(Debug)]
pub struct EventEncoder {
    record: Arc<Record>,
    created_ms: u64,
    composer: Composer,
    moment: Moment,
    voice: Voice,
    opened: bool,
}

/// Numbers the events, and leaves out those that the client has had.
#[derive(Debug)]
struct Voice {
    next: u64,
    /// The last event that the client has had.
    after: Option<u64>,
}

#[derive(Serialize)]
struct Whole<'a> {
    response: Response<'a>,
}

#[derive(Serialize)]
struct Failure<'a> {
    code: &'static str,
    message: &'a str,
    param: Option<&'a str>,
}

#[derive(Serialize)]
struct OfItem<'a> {
    output_index: usize,
    item: &'a Item,
}

#[derive(Serialize)]
struct OfPart<'a> {
    item_id: &'a str,
    output_index: usize,
    content_index: usize,
    part: &'a Part,
}

#[derive(Serialize)]
struct Delta<'a> {
    item_id: &'a str,
    output_index: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    content_index: Option<usize>,
    delta: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    logprobs: Option<&'a [Value]>,
}

#[derive(Serialize)]
struct Text<'a> {
    item_id: &'a str,
    output_index: usize,
    content_index: usize,
    text: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    logprobs: Option<&'a [Value]>,
}

#[derive(Serialize)]
struct Arguments<'a> {
    item_id: &'a str,
    output_index: usize,
    name: &'a str,
    arguments: &'a str,
}

impl EventEncoder {
    /// Of the task that was made at `created_ms` (Unix time), for a client that has had the events up to `after`.
    pub fn new(record: Arc<Record>, created_ms: u64, after: Option<u64>) -> Self {
        let composer = Composer::new(record.task_id, record.logprobs);
        let voice = Voice { next: 0, after };
        Self { record, created_ms, composer, moment: Moment::InProgress, voice, opened: false }
    }

    /// Appends what `event` means to a client: nothing, or typed events. After the last event of a task further ones write
    /// nothing.
    pub fn encode(&mut self, event: &Event, out: &mut Vec<u8>) {
        if matches!(self.moment, Moment::Over(_)) {
            return;
        }
        if !std::mem::replace(&mut self.opened, true) {
            self.open(out);
        }
        let Self { composer, voice, .. } = self;
        let mut tell = |news: News<'_>| voice.tell(&news, out);
        match event {
            Event::Started(_) if self.record.echo.background => {
                self.moment = Moment::InProgress;
                self.whole("response.in_progress", out);
            }
            Event::Token(token) => composer.token(token, &mut tell),
            Event::Started(_) | Event::Result(_) | Event::Metrics(_) => {}
            Event::End(end) => composer.end(end.finish_reason, &mut tell),
            Event::Error(_) => composer.end(FinishReason::Canceled, &mut tell),
        }
        if event.is_last() {
            self.moment = Moment::Over(event.clone());
            self.close(out);
        }
    }

    /// Writes how a response ended whose events are not known any more, for a client that has had those up to `after`.
    pub fn conclude(answer: Answer, after: Option<u64>, out: &mut Vec<u8>) {
        let (record, created_ms, composer, moment) = answer.into_parts();
        let voice = Voice { next: after.map_or(0, |after| after.saturating_add(1)), after };
        Self { record, created_ms, composer, moment, voice, opened: true }.close(out);
    }

    /// How many events a client is told of what its task has told up to now.
    pub fn count<'a>(record: Arc<Record>, created_ms: u64, told: impl IntoIterator<Item = &'a Event>) -> u64 {
        let mut encoder = Self::new(record, created_ms, Some(u64::MAX));
        let mut nothing = Vec::new();
        told.into_iter().for_each(|event| encoder.encode(event, &mut nothing));
        encoder.voice.next
    }

    fn open(&mut self, out: &mut Vec<u8>) {
        let waits = self.record.echo.background;
        self.moment = if waits { Moment::Queued } else { Moment::InProgress };
        self.whole("response.created", out);
        self.whole(if waits { "response.queued" } else { "response.in_progress" }, out);
    }

    fn close(&mut self, out: &mut Vec<u8>) {
        let Moment::Over(last) = &self.moment else { return };
        if let Some(error) = failure(last) {
            let ErrorEnvelope { message, param, .. } = &error;
            self.voice.say("error", Failure { code: event_code(&error), message, param: param.as_deref() }, out);
            return self.whole("response.failed", out);
        }
        let limited = matches!(last, Event::End(end)
            if matches!(end.finish_reason, FinishReason::Length | FinishReason::Deadline));
        self.whole(if limited { "response.incomplete" } else { "response.completed" }, out);
    }

    fn whole(&mut self, name: &'static str, out: &mut Vec<u8>) {
        let Composer { items, reasoning_tokens, .. } = &self.composer;
        let response = self.record.response(self.created_ms, &self.moment, items, *reasoning_tokens);
        self.voice.say(name, Whole { response }, out);
    }
}

impl Voice {
    /// `said` is an object with members of its own, beside those that every event has.
    fn say<T: Serialize>(&mut self, name: &'static str, said: T, out: &mut Vec<u8>) {
        let sequence_number = self.next;
        self.next += 1;
        if self.after.is_some_and(|after| sequence_number <= after) {
            return;
        }
        sse::event_name(name, out);
        out.extend_from_slice(b"data: {\"type\":\"");
        out.extend_from_slice(name.as_bytes());
        out.extend_from_slice(b"\",\"sequence_number\":");
        out.extend_from_slice(itoa::Buffer::new().format(sequence_number).as_bytes());
        let members = out.len();
        sse::json(&said, out);
        // In the place of its opening brace.
        out[members] = b',';
        out.extend_from_slice(b"\n\n");
    }

    fn tell(&mut self, news: &News<'_>, out: &mut Vec<u8>) {
        match *news {
            News::Begun { index, item } => self.begun(index, item, out),
            News::Text { index, item, delta, logprobs } => {
                let (item_id, output_index, content_index) = (item.id(), index, Some(0));
                let (name, logprobs) = match item {
                    Item::Reasoning { .. } => ("response.reasoning_text.delta", None),
                    _ => ("response.output_text.delta", Some(logprobs)),
                };
                self.say(name, Delta { item_id, output_index, content_index, delta, logprobs }, out);
            }
            News::Arguments { index, item, delta } => {
                let delta =
                    Delta { item_id: item.id(), output_index: index, content_index: None, delta, logprobs: None };
                self.say("response.function_call_arguments.delta", delta, out);
            }
            News::Done { index, item } => self.done(index, item, out),
        }
    }

    fn begun(&mut self, output_index: usize, item: &Item, out: &mut Vec<u8>) {
        // Its parts are told one by one.
        let mut bare = item.clone();
        let parts = bare.parts_mut().map(std::mem::take).unwrap_or_default();
        self.say("response.output_item.added", OfItem { output_index, item: &bare }, out);
        for (content_index, part) in parts.iter().enumerate() {
            let part = OfPart { item_id: item.id(), output_index, content_index, part };
            self.say("response.content_part.added", part, out);
        }
    }

    fn done(&mut self, output_index: usize, item: &Item, out: &mut Vec<u8>) {
        let item_id = item.id();
        match item {
            Item::Message { content, .. } | Item::Reasoning { content, .. } => {
                for (content_index, part) in content.iter().enumerate() {
                    let (name, logprobs) = match part {
                        Part::OutputText { logprobs, .. } => ("response.output_text.done", Some(logprobs.as_slice())),
                        _ => ("response.reasoning_text.done", None),
                    };
                    let text = Text { item_id, output_index, content_index, text: part.text(), logprobs };
                    self.say(name, text, out);
                    let part = OfPart { item_id, output_index, content_index, part };
                    self.say("response.content_part.done", part, out);
                }
            }
            Item::FunctionCall { name, arguments, .. } => {
                let arguments = Arguments { item_id, output_index, name, arguments };
                self.say("response.function_call_arguments.done", arguments, out);
            }
            Item::FunctionCallOutput { .. } => {}
        }
        self.say("response.output_item.done", OfItem { output_index, item }, out);
    }
}
