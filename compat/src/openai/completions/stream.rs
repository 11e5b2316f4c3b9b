//! The events of the tasks of one request as chunks of one answer.

use super::logprobs::{Logprobs, characters};
use super::{CompletionContext, canceled, finish_reason};
use crate::native::{End, ErrorEnvelope, Event, FinishReason, Token};
use crate::openai::chat::ChunkMeta;
use crate::openai::chunk;
use crate::openai::usage::Usage;
use crate::sse;

const TEXT: &[u8] = b",\"text\":";
const NOT_FINISHED: &[u8] = b",\"finish_reason\":null}]";

/// Writes the events of each prompt's task as the chunks of one answer.
///
/// What all chunks share is prepared once: a token without log-probabilities costs a few copies and the escaping of its
/// text.
#[derive(Debug, Clone)]
pub struct ChunkEncoder {
    /// From `data: ` to the opening bracket of `choices`.
    head: Vec<u8>,
    /// From the closing bracket of `choices` to the end of the event, in every chunk but that of the usage.
    tail: &'static [u8],
    include_usage: bool,
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
}

impl ChunkEncoder {
    pub fn new(context: &CompletionContext, meta: &ChunkMeta) -> Self {
        Self {
            head: chunk::head("text_completion", &context.model, meta, None),
            tail: if context.include_usage { b",\"usage\":null}\n\n" } else { b"}\n\n" },
            include_usage: context.include_usage,
            choices: context.choices(),
            echoes: context.echoes.clone(),
            written: vec![0; context.prompts() * context.choices()],
            ended: vec![false; context.prompts()],
            usage: None,
            over: false,
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
            Event::End(end) if end.finish_reason == FinishReason::Canceled => self.fail(&canceled(), out),
            Event::End(end) => self.end(prompt, end, out),
            Event::Error(error) => self.fail(error, out),
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
            out.extend_from_slice(NOT_FINISHED);
            out.extend_from_slice(self.tail);
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
        out.extend_from_slice(NOT_FINISHED);
        out.extend_from_slice(self.tail);
    }

    fn end(&mut self, prompt: usize, end: &End, out: &mut Vec<u8>) {
        // There may have been no token.
        self.echo(prompt, out);
        let choices = self.choices_of(prompt);
        for choice in choices.clone() {
            self.begin(choice, out);
            out.extend_from_slice(b"\"\",\"logprobs\":null,\"finish_reason\":\"");
            out.extend_from_slice(finish_reason(end, choice - choices.start).as_bytes());
            out.extend_from_slice(b"\"}]");
            out.extend_from_slice(self.tail);
        }
        let own = Usage::new(end, 0);
        self.usage = Some(self.usage.map_or(own, |usage| usage.and(own)));
        self.ended[prompt] = true;
        if self.ended.contains(&false) {
            return;
        }
        if self.include_usage {
            out.extend_from_slice(&self.head);
            out.extend_from_slice(b"],\"usage\":");
            sse::json(&self.usage, out);
            out.extend_from_slice(b"}\n\n");
        }
        out.extend_from_slice(sse::DONE);
        self.over = true;
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
        out.extend_from_slice(&self.head);
        out.extend_from_slice(b"{\"index\":");
        out.extend_from_slice(itoa::Buffer::new().format(choice).as_bytes());
        out.extend_from_slice(TEXT);
    }
}
