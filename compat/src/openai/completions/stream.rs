//! The events of the tasks of one request as chunks of one answer.

use super::logprobs::{Logprobs, characters};
use super::{CompletionContext, canceled, finish_reason};
use crate::native::{End, ErrorEnvelope, Event, FinishReason, Token};
use crate::openai::chunk::{self, ChunkMeta, Frame};
use crate::openai::usage::Usage;
use crate::sse;

const TEXT: &[u8] = b",\"text\":";

/// Writes the events of each prompt's task as the chunks of one answer.
///
/// What all chunks share is prepared once: a token without log-probabilities costs a few copies and the escaping of its
/// text.
#[derive(Debug, Clone)]
pub struct ChunkEncoder {
    frame: Frame,
    /// Choices of each prompt.
    choices: usize,
    /// What the choices of each prompt begin with.
    echoes: Vec<String>,
    /// Characters of each choice so far.
    written: Vec<usize>,
    /// Whether the task of each prompt has ended.
    ended: Vec<bool>,
    usage: Option<Usage>,
    over: bool,
    /// For the names of fields in what goes wrong.
    context: CompletionContext,
}

impl ChunkEncoder {
    pub fn new(context: &CompletionContext, meta: &ChunkMeta) -> Self {
        Self {
            frame: Frame::new("text_completion", &context.model, meta, None, context.include_usage),
            choices: context.choices(),
            echoes: context.echoes.clone(),
            written: vec![0; context.prompts() * context.choices()],
            ended: vec![false; context.prompts()],
            usage: None,
            over: false,
            context: CompletionContext { echoes: Vec::new(), ..context.clone() },
        }
    }

    /// Whether everything has been said: each task has ended, or one has failed.
    pub const fn is_over(&self) -> bool {
        self.over
    }

    /// Appends what `event` of the task of the prompt with this index means to an OpenAI client: nothing, or server-sent
    /// events. After the last one of all `[DONE]` has been written, and further events write nothing.
    pub fn encode(&mut self, prompt: usize, event: &Event, out: &mut Vec<u8>) {
        if self.over || self.ended.get(prompt).is_none_or(|ended| *ended) {
            return;
        }
        match event {
            Event::Started(_) | Event::Result(_) | Event::Metrics(_) => {}
            Event::Token(token) => self.token(prompt, token, out),
            Event::End(end) if end.finish_reason == FinishReason::Canceled => self.fail(&canceled(end), out),
            Event::End(end) => self.end(prompt, end, out),
            Event::Error(error) => self.fail(&self.context.rename(Some(prompt), error.as_ref().clone()), out),
        }
    }

    fn echo(&mut self, prompt: usize, out: &mut Vec<u8>) {
        let echo = std::mem::take(&mut self.echoes[prompt]);
        if echo.is_empty() {
            return;
        }
        for choice in self.choices_of(prompt) {
            self.begin(choice, out);
            sse::json(echo.as_str(), out);
            out.extend_from_slice(b",\"logprobs\":null");
            self.frame.go_on(out);
            self.written[choice] = characters(echo.as_bytes());
        }
    }

    fn token(&mut self, prompt: usize, token: &Token, out: &mut Vec<u8>) {
        let choices = self.choices_of(prompt);
        let choice = choices.start + usize::from(token.choice);
        if !choices.contains(&choice) || (token.text.is_empty() && token.logprobs.is_none()) {
            return;
        }
        self.echo(prompt, out);
        self.begin(choice, out);
        sse::json(token.text.as_str(), out);
        out.extend_from_slice(b",\"logprobs\":");
        match &token.logprobs {
            None => out.extend_from_slice(b"null"),
            Some(logprobs) => {
                let offset = self.written[choice];
                sse::json(&Logprobs { tokens: std::slice::from_ref(logprobs), offset }, out);
                self.written[choice] += characters(&logprobs.bytes);
            }
        }
        self.frame.go_on(out);
    }

    fn end(&mut self, prompt: usize, end: &End, out: &mut Vec<u8>) {
        // There may have been no token.
        self.echo(prompt, out);
        let choices = self.choices_of(prompt);
        for choice in choices.clone() {
            self.begin(choice, out);
            out.extend_from_slice(b"\"\",\"logprobs\":null");
            self.frame.finish(finish_reason(end, choice - choices.start), out);
        }
        let own = Usage::new(end, 0);
        let usage = self.usage.map_or(own, |usage| usage.and(own));
        self.usage = Some(usage);
        self.ended[prompt] = true;
        if !self.ended.contains(&false) {
            self.frame.end(&usage, out);
            self.over = true;
        }
    }

    fn fail(&mut self, error: &ErrorEnvelope, out: &mut Vec<u8>) {
        chunk::fail(error, out);
        self.over = true;
    }

    /// The indices in the answer of the choices of a prompt.
    const fn choices_of(&self, prompt: usize) -> std::ops::Range<usize> {
        prompt * self.choices..(prompt + 1) * self.choices
    }

    fn begin(&self, choice: usize, out: &mut Vec<u8>) {
        self.frame.begin(choice, out);
        out.extend_from_slice(TEXT);
    }
}
