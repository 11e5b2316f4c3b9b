//! Tells the parts of an answer apart as it comes: text, reasoning, calls of tools, and the marks around them.
//!
//! Every character of the answer becomes part of exactly one [`Segment`], in order. What looks like the beginning of a call
//! is kept back until it is one; where it turns out to be none (it is malformed, or names a tool that is not there) it is
//! text, with nothing lost. The arguments of a call are handed on as they come. Once a call has been announced it stands:
//! what no longer fits it is text after it.
//!
//! How the answer is cut into pieces changes when a segment is known, but neither the text, nor the reasoning, nor the calls.

mod elements;
mod named;
mod object;

use std::collections::VecDeque;
use std::sync::Arc;

use sluicegate_compat::native::ToolDelta;

use super::markup::{CallFormat, END_OF_THINKING, Markup, THINK};
use super::stop::overlap;
use crate::engine::Calling;
use elements::ElementsCall;
use named::NamedCall;
use object::ObjectCall;

/// Bytes of what may be a call that are kept back until it is known to be one.
const LONGEST_DOUBT: usize = 64 << 10;

/// Bytes of white space that are kept back because a call may follow, around which it has no meaning.
const LONGEST_GAP: usize = 64;

/// What a stretch of an answer is.
#[derive(Debug, Clone, PartialEq)]
pub struct Segment {
    /// Bytes of the answer.
    pub length: usize,
    pub class: Class,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Class {
    Text,
    Reasoning,
    /// Marks, and white space around them.
    Hidden,
    /// What the stretch adds to a call.
    Call(Arc<ToolDelta>),
}

/// Reads one answer.
#[derive(Debug)]
pub struct AnswerReader {
    /// What may be called, and in which format the model does it.
    calling: Option<(Arc<Calling>, CallFormat)>,
    phase: Phase,
    /// What is not told apart yet.
    pending: String,
    segments: VecDeque<Segment>,
    /// Calls announced.
    calls: u32,
    over: bool,
}

#[derive(Debug)]
enum Phase {
    /// Reasoning may come.
    Start,
    /// White space that belongs to a mark.
    Gap(After),
    Reasoning,
    /// `fresh`: nothing of it has come yet.
    Text {
        fresh: bool,
    },
    Call(Call),
    /// `</tool_call>` should follow.
    Tail,
    /// Another call of a list may follow.
    List,
}

#[derive(Debug, Clone, Copy)]
enum After {
    Reasoning,
    Text,
}

/// A call that is being read, or may be one.
#[derive(Debug)]
struct Call {
    scanner: Scanner,
    draft: Draft,
    announced: bool,
    /// Bytes of the pending text that opened it.
    opening: usize,
    /// Bytes of the pending text that the scanner has seen.
    seen: usize,
}

/// What is known of a call.
#[derive(Debug, Default)]
pub struct Draft {
    name: Option<String>,
    /// Those that are not handed on yet.
    arguments: String,
    /// Whether there are arguments.
    begun: bool,
}

#[derive(Debug)]
enum Scanner {
    Object(ObjectCall),
    Elements(ElementsCall),
    Named(NamedCall),
}

/// What a character means for a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    More,
    /// The call is whole.
    Closed,
    /// So is a call of a list that may go on.
    ClosedInList,
    /// The character is no part of a call.
    Bad,
}

const TAIL: &str = "</tool_call>";

impl AnswerReader {
    /// `thinking`: the prompt has already begun the reasoning.
    pub fn new(markup: Markup, calling: Option<Arc<Calling>>, thinking: bool) -> Self {
        let phase = match markup.reasoning {
            true if thinking => Phase::Gap(After::Reasoning),
            true => Phase::Start,
            false => Phase::Text { fresh: true },
        };
        let calling = calling.zip(markup.calls);
        Self { calling, phase, pending: String::new(), segments: VecDeque::new(), calls: 0, over: false }
    }

    /// Takes the next piece of the answer.
    pub fn push(&mut self, text: &str) {
        self.pending.push_str(text);
        while !self.over && !self.pending.is_empty() && self.advance() {}
    }

    /// The answer has ended: what was kept back is told apart.
    pub fn finish(&mut self) {
        let blank = self.pending.trim().is_empty();
        let class = match &self.phase {
            _ if self.over => Class::Hidden,
            Phase::Call(call) if call.announced => Class::Hidden,
            Phase::Tail | Phase::List => Class::Hidden,
            Phase::Text { .. } if blank && self.calls > 0 => Class::Hidden,
            Phase::Reasoning => Class::Reasoning,
            Phase::Start | Phase::Gap(_) | Phase::Text { .. } | Phase::Call(_) => Class::Text,
        };
        self.tell(self.pending.len(), class);
    }

    /// The next stretch that is told apart.
    pub fn pop(&mut self) -> Option<Segment> {
        self.segments.pop_front()
    }

    /// Whether nothing more is wanted: the one call that is allowed has been made.
    pub fn is_over(&self) -> bool {
        self.over
    }

    /// Whether what came last is a call, or may become one.
    pub fn is_in_call(&self) -> bool {
        matches!(self.phase, Phase::Call(_))
    }

    /// One step; false where more text is needed.
    fn advance(&mut self) -> bool {
        match &self.phase {
            Phase::Start => self.start(),
            Phase::Gap(after) => {
                let after = *after;
                let blank = self.pending.len() - self.pending.trim_start().len();
                self.tell(blank, Class::Hidden);
                if !self.pending.is_empty() {
                    self.phase = match after {
                        After::Reasoning => Phase::Reasoning,
                        After::Text => Phase::Text { fresh: true },
                    };
                }
                true
            }
            Phase::Reasoning => self.reasoning(),
            Phase::Text { fresh } => self.text(*fresh),
            Phase::Call(_) => self.call(),
            Phase::Tail => self.tail(),
            Phase::List => self.list(),
        }
    }

    fn start(&mut self) -> bool {
        let rest = self.pending.trim_start();
        if rest.starts_with(THINK) {
            let length = self.pending.len() - rest.len() + THINK.len();
            self.tell(length, Class::Hidden);
            self.phase = Phase::Gap(After::Reasoning);
            return true;
        }
        if THINK.starts_with(rest) && self.pending.len() <= LONGEST_GAP {
            return false;
        }
        self.phase = Phase::Text { fresh: true };
        true
    }

    fn reasoning(&mut self) -> bool {
        match self.pending.find(END_OF_THINKING) {
            Some(at) => {
                self.tell(at, Class::Reasoning);
                self.tell(END_OF_THINKING.len(), Class::Hidden);
                self.phase = Phase::Gap(After::Text);
                true
            }
            None => {
                let kept = overlap(self.pending.as_bytes(), END_OF_THINKING.as_bytes());
                self.tell(self.pending.len() - kept, Class::Reasoning);
                false
            }
        }
    }

    fn text(&mut self, fresh: bool) -> bool {
        let Some((_, format)) = self.calling.as_ref() else {
            self.tell(self.pending.len(), Class::Text);
            return false;
        };
        let format = *format;
        // Calls of Llama are parted by it.
        let parts = format == CallFormat::Llama && self.calls > 0;
        let between = |character: char| character.is_whitespace() || parts && character == ';';
        if fresh && format == CallFormat::Llama {
            let rest = self.pending.trim_start_matches(between);
            if rest.starts_with('{') {
                let blank = self.pending.len() - rest.len();
                self.phase = Phase::Call(Call::new(format, blank + 1, blank));
                return true;
            }
            if rest.is_empty() && self.pending.len() <= LONGEST_GAP {
                return false;
            }
        }
        let opening = format.opening();
        if let Some(at) = self.pending.find(opening) {
            let before = self.pending[..at].trim_end_matches(between).len();
            self.tell(before, Class::Text);
            let opened = at - before + opening.len();
            self.phase = Phase::Call(Call::new(format, opened, opened));
            return true;
        }
        let marked = self.pending.len() - overlap(self.pending.as_bytes(), opening.as_bytes());
        let trimmed = self.pending[..marked].trim_end().len();
        let known = if marked - trimmed <= LONGEST_GAP { trimmed } else { marked };
        if known > 0 {
            self.tell(known, Class::Text);
            self.phase = Phase::Text { fresh: false };
        }
        false
    }

    fn call(&mut self) -> bool {
        let (Phase::Call(call), Some((calling, format))) = (&mut self.phase, &self.calling) else { return false };
        let (parallel, format) = (calling.parallel, *format);
        let step = call.scan(&self.pending, calling);
        let announced = call.announced;
        let delta = call.delta(self.calls, format);
        let (length, opening) = (std::mem::take(&mut call.seen), std::mem::take(&mut call.opening));
        self.calls += u32::from(call.announced && !announced);
        let class = match delta {
            Some(delta) => Class::Call(Arc::new(delta)),
            None if announced => Class::Hidden,
            None if step == Step::More && self.pending.len() <= LONGEST_DOUBT => {
                (call.seen, call.opening) = (length, opening);
                return false;
            }
            // No call: its opening is text, and the rest is looked at again.
            None => {
                self.tell(if opening > 0 { opening } else { self.pending.len() }, Class::Text);
                self.phase = Phase::Text { fresh: false };
                return true;
            }
        };
        self.tell(length, class);
        if step == Step::More {
            return false;
        }
        self.over = !parallel;
        self.phase = match (step, format) {
            (Step::ClosedInList, _) => Phase::List,
            (Step::Closed, CallFormat::Hermes | CallFormat::QwenCoder) => Phase::Tail,
            _ => Phase::Text { fresh: true },
        };
        true
    }

    fn tail(&mut self) -> bool {
        let rest = self.pending.trim_start();
        if !rest.starts_with(TAIL) {
            if TAIL.starts_with(rest) && self.pending.len() <= LONGEST_GAP {
                return false;
            }
            self.phase = Phase::Text { fresh: true };
            return true;
        }
        self.tell(self.pending.len() - rest.len() + TAIL.len(), Class::Hidden);
        self.phase = Phase::Text { fresh: true };
        true
    }

    fn list(&mut self) -> bool {
        let rest = self.pending.trim_start();
        let length = self.pending.len() - rest.len() + 1;
        self.phase = match rest.chars().next() {
            None if self.pending.len() <= LONGEST_GAP => return false,
            Some(',') => Phase::Call(Call::of(Scanner::Named(NamedCall::item()), length)),
            Some(']') => {
                self.tell(length, Class::Hidden);
                Phase::Text { fresh: true }
            }
            _ => Phase::Text { fresh: true },
        };
        true
    }

    /// The next `length` bytes are this.
    fn tell(&mut self, length: usize, class: Class) {
        self.pending.drain(..length);
        if length > 0 || matches!(class, Class::Call(_)) {
            self.segments.push_back(Segment { length, class });
        }
    }
}

impl Call {
    fn new(format: CallFormat, opening: usize, seen: usize) -> Self {
        let scanner = match format {
            CallFormat::Hermes => Scanner::Object(ObjectCall::new(true)),
            CallFormat::Llama => Scanner::Object(ObjectCall::new(false)),
            CallFormat::QwenCoder => Scanner::Elements(ElementsCall::default()),
            CallFormat::Mistral => Scanner::Named(NamedCall::Start),
        };
        Self { seen, ..Self::of(scanner, opening) }
    }

    fn of(scanner: Scanner, opening: usize) -> Self {
        Self { scanner, draft: Draft::default(), announced: false, opening, seen: opening }
    }

    /// Looks at what is new of the pending text.
    fn scan(&mut self, pending: &str, calling: &Calling) -> Step {
        while let Some(character) = pending[self.seen..].chars().next() {
            let nameless = self.draft.name.is_none();
            let step = match &mut self.scanner {
                Scanner::Object(object) => object.feed(character, &mut self.draft),
                Scanner::Elements(elements) => elements.feed(character, &mut self.draft, |name| calling.function(name)),
                Scanner::Named(named) => named.feed(character, &mut self.draft),
            };
            let unknown = |name: &String| nameless && calling.function(name).is_none();
            if self.draft.name.as_ref().is_some_and(unknown) {
                self.draft = Draft::default();
                return Step::Bad;
            }
            if step == Step::Bad {
                if self.draft.begun && matches!(self.scanner, Scanner::Elements(_)) {
                    // What was said of the arguments is a whole object.
                    self.draft.arguments.push('}');
                }
                return Step::Bad;
            }
            self.seen += character.len_utf8();
            if step != Step::More {
                return step;
            }
        }
        Step::More
    }

    /// What it adds to call number `index`; nothing as long as it may be none.
    fn delta(&mut self, index: u32, format: CallFormat) -> Option<ToolDelta> {
        let arguments = std::mem::take(&mut self.draft.arguments);
        if self.announced {
            let index = index.saturating_sub(1);
            return (!arguments.is_empty()).then_some(ToolDelta { index, id: None, name: None, arguments });
        }
        if !self.draft.begun || self.draft.name.is_none() {
            self.draft.arguments = arguments;
            return None;
        }
        self.announced = true;
        Some(ToolDelta { index, id: Some(format.new_id()), name: self.draft.name.clone(), arguments })
    }
}

#[cfg(test)]
mod tests;
