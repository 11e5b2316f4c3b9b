//! From the tokens of a task to the blocks of an answer, one after the other. Streams and whole answers are both made here.

use super::Thinking;
use crate::native::{Token, TokenKind, ToolDelta};

/// What the tokens come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part<'a> {
    BeginThinking,
    BeginText,
    BeginCall {
        id: &'a str,
        name: &'a str,
    },
    /// More of the block that was begun last.
    Thinking(&'a str),
    /// The same.
    Text(&'a str),
    /// The same: of the arguments of a call.
    Json(&'a str),
    EndThinking,
    /// Of a text or a call.
    End,
}

/// The blocks of one answer so far.
#[derive(Debug, Clone)]
pub struct Blocks {
    thinking: Thinking,
    open: Option<Open>,
    /// Blocks that were begun.
    begun: usize,
    /// Calls that were begun, by their number in the task.
    calls: u32,
    /// White space that becomes part of a text, if one follows.
    space: String,
    pub thinking_tokens: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Open {
    Thinking,
    Text,
    /// By its number.
    Call(u32),
}

impl Blocks {
    pub const fn new(thinking: Thinking) -> Self {
        Self { thinking, open: None, begun: 0, calls: 0, space: String::new(), thinking_tokens: 0 }
    }

    /// Takes a token, and tells what it adds, each part with the index of its block.
    pub fn token(&mut self, token: &Token, mut tell: impl FnMut(usize, Part<'_>)) {
        match (&token.tool, token.kind) {
            (Some(tool), _) => self.call(tool, &mut tell),
            (None, TokenKind::Reasoning) => self.thought(&token.text, &mut tell),
            (None, _) => self.text(&token.text, &mut tell),
        }
    }

    /// Ends the block that is open. An answer that is nothing but white space has that.
    pub fn end(&mut self, mut tell: impl FnMut(usize, Part<'_>)) {
        if self.begun == 0 && !self.space.is_empty() {
            self.begin(Open::Text, Part::BeginText, &mut tell);
            tell(0, Part::Text(&self.space));
        }
        self.close(&mut tell);
    }

    fn thought(&mut self, text: &str, tell: &mut impl FnMut(usize, Part<'_>)) {
        self.thinking_tokens += 1;
        if self.thinking == Thinking::Hidden || text.is_empty() {
            return;
        }
        if self.open != Some(Open::Thinking) {
            self.begin(Open::Thinking, Part::BeginThinking, tell);
        }
        if self.thinking == Thinking::Shown {
            tell(self.begun - 1, Part::Thinking(text));
        }
    }

    /// What is only white space begins no block, such as what stands between two calls.
    fn text(&mut self, text: &str, tell: &mut impl FnMut(usize, Part<'_>)) {
        if text.is_empty() {
            return;
        }
        if self.open != Some(Open::Text) {
            if text.trim().is_empty() {
                return self.space.push_str(text);
            }
            let space = std::mem::take(&mut self.space);
            self.begin(Open::Text, Part::BeginText, tell);
            if !space.is_empty() {
                tell(self.begun - 1, Part::Text(&space));
            }
        }
        tell(self.begun - 1, Part::Text(text));
    }

    /// Calls come one after the other: nothing is added to one that another block has followed.
    fn call(&mut self, delta: &ToolDelta, tell: &mut impl FnMut(usize, Part<'_>)) {
        if delta.is_empty() {
            return;
        }
        if self.open != Some(Open::Call(delta.index)) {
            if delta.index < self.calls {
                return;
            }
            self.calls = delta.index.saturating_add(1);
            let (id, name) = (delta.id.as_deref().unwrap_or_default(), delta.name.as_deref().unwrap_or_default());
            self.begin(Open::Call(delta.index), Part::BeginCall { id, name }, tell);
        }
        if !delta.arguments.is_empty() {
            tell(self.begun - 1, Part::Json(&delta.arguments));
        }
    }

    fn begin(&mut self, open: Open, part: Part<'_>, tell: &mut impl FnMut(usize, Part<'_>)) {
        self.close(tell);
        if open != Open::Text {
            self.space.clear();
        }
        self.open = Some(open);
        self.begun += 1;
        tell(self.begun - 1, part);
    }

    fn close(&mut self, tell: &mut impl FnMut(usize, Part<'_>)) {
        match self.open.take() {
            None => {}
            Some(Open::Thinking) => tell(self.begun - 1, Part::EndThinking),
            Some(Open::Text | Open::Call(_)) => tell(self.begun - 1, Part::End),
        }
    }
}

/// The id of a call as Anthropic's clients know them. It comes back as it is.
pub struct CallId<'a>(pub &'a str);

impl serde::Serialize for CallId<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("toolu_{}", self.0.trim_start_matches("call_")))
    }
}
