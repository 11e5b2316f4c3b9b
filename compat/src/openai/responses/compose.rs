//! Output items out of a task's tokens.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;
use uuid::Uuid;

use super::item::{self, Item, Part, Place, Status};
use super::record::{Moment, Record, Response, failure};
use crate::native::{ErrorCode, ErrorEnvelope, Event, FinishReason, Role, Token, TokenKind, ToolDelta};
use crate::openai::chat::Logprobs;

/// Something that has come of an answer; `index` is the place of its item in the output.
pub(super) enum News<'a> {
    /// An item begins; of a message or of reasoning its part as well.
    Begun { index: usize, item: &'a Item },
    /// More text of a message or of reasoning.
    Text { index: usize, item: &'a Item, delta: &'a str, logprobs: &'a [Value] },
    /// More of a call's arguments.
    Arguments { index: usize, item: &'a Item, delta: &'a str },
    /// An item is whole.
    Done { index: usize, item: &'a Item },
}

/// The output so far. The same tokens make the same items with the same ids.
#[derive(Debug)]
pub(super) struct Composer {
    task: Uuid,
    logprobs: bool,
    pub items: Vec<Item>,
    /// The item that the next token may belong to.
    open: Option<usize>,
    /// Calls by their index in the answer: their items.
    calls: BTreeMap<u32, usize>,
    pub reasoning_tokens: u64,
}

impl Composer {
    pub fn new(task: Uuid, logprobs: bool) -> Self {
        Self { task, logprobs, items: Vec::new(), open: None, calls: BTreeMap::new(), reasoning_tokens: 0 }
    }

    pub fn token(&mut self, token: &Token, tell: &mut impl FnMut(News<'_>)) {
        match (&token.tool, token.kind) {
            (Some(tool), _) => self.tool(tool, tell),
            (None, TokenKind::Reasoning) => {
                self.reasoning_tokens += 1;
                self.text(token, true, tell);
            }
            (None, _) => self.text(token, false, tell),
        }
    }

    fn text(&mut self, token: &Token, reasoning: bool, tell: &mut impl FnMut(News<'_>)) {
        let wanted = token.logprobs.as_ref().filter(|_| self.logprobs && !reasoning);
        if token.text.is_empty() && wanted.is_none() {
            return;
        }
        let goes_on = |index: &usize| match &self.items[*index] {
            Item::Message { .. } => !reasoning,
            Item::Reasoning { .. } => reasoning,
            Item::FunctionCall { .. } | Item::FunctionCallOutput { .. } => false,
        };
        let index = match self.open.filter(goes_on) {
            Some(index) => index,
            None => self.begin(|task, place| if reasoning { thought(task, place) } else { said(task, place) }, tell),
        };
        let values: Vec<Value> = wanted.map(|logprobs| Logprobs::value(logprobs)).into_iter().collect();
        if let Some(part) = self.items[index].parts_mut().and_then(|parts| parts.last_mut()) {
            match part {
                Part::OutputText { text, logprobs, .. } => {
                    text.push_str(&token.text);
                    logprobs.extend(values.iter().cloned());
                }
                Part::ReasoningText { text } => text.push_str(&token.text),
                _ => {}
            }
        }
        tell(News::Text { index, item: &self.items[index], delta: &token.text, logprobs: &values });
    }

    fn tool(&mut self, tool: &ToolDelta, tell: &mut impl FnMut(News<'_>)) {
        if tool.is_empty() {
            return;
        }
        let index = match self.calls.get(&tool.index) {
            Some(index) => *index,
            None => {
                let call_id = tool.id.clone().unwrap_or_default();
                let name = tool.name.clone().unwrap_or_default();
                let index = self.begin(|task, place| call(task, place, call_id, name), tell);
                self.calls.insert(tool.index, index);
                index
            }
        };
        if let Item::FunctionCall { arguments, .. } = &mut self.items[index] {
            arguments.push_str(&tool.arguments);
        }
        if !tool.arguments.is_empty() {
            tell(News::Arguments { index, item: &self.items[index], delta: &tool.arguments });
        }
    }

    fn begin(&mut self, make: impl FnOnce(Uuid, Place) -> Item, tell: &mut impl FnMut(News<'_>)) -> usize {
        self.close(Status::Completed, tell);
        let index = self.items.len();
        self.items.push(make(self.task, Place::Output(index)));
        self.open = Some(index);
        tell(News::Begun { index, item: &self.items[index] });
        index
    }

    fn close(&mut self, status: Status, tell: &mut impl FnMut(News<'_>)) {
        if let Some(index) = self.open.take() {
            *self.items[index].status_mut() = status;
            tell(News::Done { index, item: &self.items[index] });
        }
    }

    /// Closes the last item. An answer of nothing is an empty message.
    pub fn end(&mut self, reason: FinishReason, tell: &mut impl FnMut(News<'_>)) {
        let whole = matches!(reason, FinishReason::Stop | FinishReason::ToolCalls);
        if self.items.is_empty() && whole {
            self.begin(said, tell);
        }
        self.close(if whole { Status::Completed } else { Status::Incomplete }, tell);
    }
}

fn said(task: Uuid, place: Place) -> Item {
    let (id, status) = (item::id("msg", task, place), Status::InProgress);
    Item::Message { id, role: Role::Assistant, status, content: vec![Part::output()] }
}

fn thought(task: Uuid, place: Place) -> Item {
    let content = vec![Part::ReasoningText { text: String::new() }];
    let (id, status) = (item::id("rs", task, place), Status::InProgress);
    Item::Reasoning { id, summary: Vec::new(), content, encrypted_content: None, status }
}

fn call(task: Uuid, place: Place, call_id: String, name: String) -> Item {
    let (id, status) = (item::id("fc", task, place), Status::InProgress);
    Item::FunctionCall { id, call_id, name, arguments: String::new(), status }
}

/// Collects the events of one task. Says what [`EventEncoder`](super::EventEncoder) streams.
#[derive(Debug)]
pub struct Answer {
    record: Arc<Record>,
    created_ms: u64,
    composer: Composer,
    moment: Moment,
}

impl Answer {
    /// Of the task that was made at `created_ms` (Unix time).
    pub fn new(record: Arc<Record>, created_ms: u64) -> Self {
        let composer = Composer::new(record.task_id, record.logprobs);
        Self { record, created_ms, composer, moment: Moment::Queued }
    }

    /// Takes the next event; those after the last one of a task change nothing.
    pub fn push(&mut self, event: &Event) {
        if matches!(self.moment, Moment::Over(_)) {
            return;
        }
        match event {
            Event::Started(_) => self.moment = Moment::InProgress,
            Event::Token(token) => self.composer.token(token, &mut |_| ()),
            Event::Result(_) | Event::Metrics(_) => {}
            Event::End(end) => self.composer.end(end.finish_reason, &mut |_| ()),
            Event::Error(_) => self.composer.end(FinishReason::Canceled, &mut |_| ()),
        }
        if event.is_last() {
            self.moment = Moment::Over(event.clone());
        }
    }

    /// The response as it is now: in whatever state it is.
    pub fn response(&self) -> Response<'_> {
        let Composer { items, reasoning_tokens, .. } = &self.composer;
        self.record.response(self.created_ms, &self.moment, items, *reasoning_tokens)
    }

    /// The response of a task that has ended by itself.
    ///
    /// # Errors
    ///
    /// What the task ended with where it failed or somebody cancelled it; INTERNAL where it has not ended.
    pub fn finished(&self) -> Result<Response<'_>, ErrorEnvelope> {
        let Moment::Over(last) = &self.moment else {
            return Err(ErrorEnvelope::new(ErrorCode::Internal, "The task has not ended."));
        };
        failure(last).map_or_else(|| Ok(self.response()), Err)
    }

    pub(super) const fn moment(&self) -> &Moment {
        &self.moment
    }

    /// The conversation up to the end of the answer.
    pub(super) fn conversation(&self) -> impl Iterator<Item = &Item> {
        self.record.items.iter().chain(&self.composer.items)
    }

    /// An item of what the model was shown, or has answered.
    pub(super) fn item(&self, place: Place) -> Option<&Item> {
        match place {
            Place::Input(index) => self.record.items.get(index),
            Place::Output(index) => self.composer.items.get(index),
        }
    }

    pub(super) fn into_parts(self) -> (Arc<Record>, u64, Composer, Moment) {
        (self.record, self.created_ms, self.composer, self.moment)
    }
}
