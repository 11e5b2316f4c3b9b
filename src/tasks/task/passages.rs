//! A task's answer as it is kept where its events are not: tokens of one kind that follow each other are one passage.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sluicegate_compat::native::{Event, Token, TokenKind, ToolDelta};

use super::Task;

/// Tokens of one choice and one kind; of a call, all of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Passage {
    choice: u16,
    kind: TokenKind,
    text: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tool: Option<ToolDelta>,
    tokens: u64,
}

impl Passage {
    fn takes(&self, token: &Token) -> bool {
        let same_call = match (&self.tool, &token.tool) {
            (Some(own), Some(other)) => own.index == other.index,
            (own, other) => own.is_none() && other.is_none(),
        };
        self.choice == token.choice && self.kind == token.kind && same_call
    }

    fn take(&mut self, token: &Token) {
        self.text.push_str(&token.text);
        self.tokens += 1;
        if let (Some(own), Some(other)) = (&mut self.tool, &token.tool) {
            own.arguments.push_str(&other.arguments);
        }
    }

    /// Memory that it takes, in bytes.
    pub fn bytes(&self) -> usize {
        size_of::<Self>() + self.text.len() + self.tool.as_ref().map_or(0, |tool| tool.arguments.len())
    }

    /// As many tokens as it was, of which the first says everything.
    fn tell(&self) -> impl Iterator<Item = Event> {
        let token = |text: &str, tool: Option<&ToolDelta>| Token {
            choice: self.choice,
            index: 0,
            text: text.into(),
            kind: self.kind,
            logprobs: None,
            tool: tool.cloned().map(Arc::new),
        };
        let silent = ToolDelta { index: 0, id: None, name: None, arguments: String::new() };
        let rest = token("", self.tool.as_ref().map(|tool| ToolDelta { index: tool.index, ..silent }).as_ref());
        let rest = std::iter::repeat_n(rest, usize::try_from(self.tokens.saturating_sub(1)).unwrap_or(0));
        std::iter::once(token(&self.text, self.tool.as_ref())).chain(rest).map(Event::Token)
    }
}

impl Task {
    /// Its answer so far, without log-probabilities.
    pub(in crate::tasks) fn passages(&self) -> Vec<Passage> {
        let mut passages = Vec::<Passage>::new();
        for event in self.told() {
            let Event::Token(token) = event else { continue };
            match passages.last_mut().filter(|passage| passage.takes(&token)) {
                Some(passage) => passage.take(&token),
                None => {
                    let Token { choice, kind, .. } = token;
                    let tool = token.tool.as_deref().cloned();
                    passages.push(Passage { choice, kind, text: token.text.into(), tool, tokens: 1 });
                }
            }
        }
        passages
    }

    /// Its events so far. Of a task that ended in an earlier process, only its tokens and its end, where they are kept.
    pub fn told(&self) -> Vec<Event> {
        let said = self.log.inspect(<[Event]>::to_vec);
        if self.log.is_whole() {
            return said;
        }
        let kept = self.kept_passages.iter().flat_map(Passage::tell);
        kept.chain(said.into_iter().filter(Event::is_last)).collect()
    }
}
