//! The events of the tasks of one request as one whole answer.

use std::sync::Arc;

use serde::ser::SerializeStruct;
use serde::{Serialize, Serializer};

use super::logprobs::{Logprobs, characters};
use super::{CompletionContext, canceled, finish_reason};
use crate::native::{End, ErrorCode, ErrorEnvelope, Event, FinishReason, Token, TokenLogprobs};
use crate::openai::chunk::ChunkMeta;
use crate::openai::usage::Usage;

/// Collects the events of each prompt's task. Says the same text and usage as [`ChunkEncoder`](super::ChunkEncoder)
/// streams.
#[derive(Debug)]
pub struct Answer {
    meta: ChunkMeta,
    model: String,
    /// Choices of each prompt that it has: the best ones, where more are made.
    n: usize,
    /// Whether log-probabilities were asked for.
    logprobs: bool,
    /// One for each prompt.
    tasks: Vec<Collected>,
}

#[derive(Debug)]
struct Collected {
    /// Characters of the prompt that its choices begin with.
    echoed: usize,
    choices: Vec<Text>,
    outcome: Option<Result<Arc<End>, ErrorEnvelope>>,
}

#[derive(Debug, Clone, Default)]
struct Text {
    text: String,
    logprobs: Vec<Arc<TokenLogprobs>>,
}

impl Text {
    /// The mean over its tokens: what is better whatever its length.
    fn mean_logprob(&self) -> f32 {
        let sum: f32 = self.logprobs.iter().map(|token| token.logprob).sum();
        if self.logprobs.is_empty() { f32::NEG_INFINITY } else { sum / self.logprobs.len() as f32 }
    }
}

impl Answer {
    pub fn new(context: &CompletionContext, meta: ChunkMeta) -> Self {
        let collected = |echo: &String| {
            let begun = Text { text: echo.clone(), logprobs: Vec::new() };
            let echoed = characters(echo.as_bytes());
            Collected { echoed, choices: vec![begun; context.choices()], outcome: None }
        };
        Self {
            meta,
            model: context.model.clone(),
            n: usize::try_from(context.n).unwrap_or(usize::MAX),
            logprobs: context.logprobs,
            tasks: context.echoes.iter().map(collected).collect(),
        }
    }

    /// Takes the next event of the task of the prompt with this index; those after the last one of a task change nothing.
    pub fn push(&mut self, prompt: usize, event: &Event) {
        let Some(task) = self.tasks.get_mut(prompt).filter(|task| task.outcome.is_none()) else { return };
        match event {
            Event::Started(_) | Event::Result(_) | Event::Metrics(_) => {}
            Event::Token(token) => task.token(token),
            Event::End(end) if end.finish_reason == FinishReason::Canceled => task.outcome = Some(Err(canceled(end))),
            Event::End(end) => task.outcome = Some(Ok(Arc::clone(end))),
            Event::Error(error) => task.outcome = Some(Err(error.as_ref().clone())),
        }
    }

    /// Whether a task has failed, or was cancelled by somebody.
    pub fn has_failed(&self) -> bool {
        self.tasks.iter().any(|task| matches!(task.outcome, Some(Err(_))))
    }

    /// The body of the answer.
    ///
    /// # Errors
    ///
    /// What the first task ended with that failed or was cancelled by somebody, and the index of its prompt; INTERNAL where
    /// one has not ended.
    pub fn finish(self) -> Result<Completion, (usize, ErrorEnvelope)> {
        let mut choices = Vec::new();
        let mut usage: Option<Usage> = None;
        for (prompt, task) in self.tasks.into_iter().enumerate() {
            let unfinished = || Err(ErrorEnvelope::new(ErrorCode::Internal, "The task has not ended."));
            let end = task.outcome.unwrap_or_else(unfinished).map_err(|error| (prompt, error))?;
            let own = Usage::new(&end, 0);
            usage = Some(usage.map_or(own, |usage| usage.and(own)));
            let mut made: Vec<_> = task.choices.into_iter().enumerate().collect();
            if made.len() > self.n {
                made.sort_by(|(_, one), (_, other)| other.mean_logprob().total_cmp(&one.mean_logprob()));
                made.truncate(self.n);
            }
            choices.extend(made.into_iter().map(|(choice, text)| Choice {
                finish_reason: finish_reason(&end, choice),
                logprobs: self.logprobs,
                text,
                echoed: task.echoed,
            }));
        }
        Ok(Completion {
            id: self.meta.id,
            object: "text_completion",
            created: self.meta.created,
            model: self.model,
            choices: Choices(choices),
            usage,
            system_fingerprint: self.meta.system_fingerprint,
        })
    }
}

impl Collected {
    fn token(&mut self, token: &Token) {
        let choice = usize::from(token.choice);
        if choice >= self.choices.len() {
            self.choices.resize_with(choice + 1, Text::default);
        }
        self.choices[choice].text.push_str(&token.text);
        self.choices[choice].logprobs.extend(token.logprobs.clone());
    }
}

/// The body of a whole answer.
#[derive(Debug, Serialize)]
pub struct Completion {
    id: String,
    object: &'static str,
    created: u64,
    model: String,
    choices: Choices,
    usage: Option<Usage>,
    system_fingerprint: Option<String>,
}

#[derive(Debug)]
struct Choices(Vec<Choice>);

#[derive(Debug)]
struct Choice {
    text: Text,
    /// Characters of the prompt before it.
    echoed: usize,
    logprobs: bool,
    finish_reason: &'static str,
}

impl Serialize for Choices {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().enumerate().map(|(index, choice)| Indexed { index, choice }))
    }
}

struct Indexed<'a> {
    index: usize,
    choice: &'a Choice,
}

impl Serialize for Indexed<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self { index, choice } = self;
        let logprobs = choice.logprobs.then_some(Logprobs { tokens: &choice.text.logprobs, offset: choice.echoed });
        let mut fields = serializer.serialize_struct("Choice", 4)?;
        fields.serialize_field("text", &choice.text.text)?;
        fields.serialize_field("index", index)?;
        fields.serialize_field("logprobs", &logprobs)?;
        fields.serialize_field("finish_reason", choice.finish_reason)?;
        fields.end()
    }
}
