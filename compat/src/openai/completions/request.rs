//! The body of `POST /v1/completions`, and the tasks that it asks for.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::CompletionContext;
use crate::json::{self, Object, StringOrList, invalid, missing, unsupported_parameter, unsupported_value};
use crate::native::{ErrorEnvelope, Input, TaskRequest};
use crate::openai::extension::Extension;
use crate::openai::fields::{self, StreamOptions};
use crate::openai::inputs::InputBody;

/// Prompts of one request.
const MOST_PROMPTS: usize = 128;

/// Where the request names none, as in the OpenAI API.
const DEFAULT_MAX_TOKENS: u32 = 16;

/// The body on the wire. Null is the same as absent.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Body {
    model: Option<String>,
    prompt: Option<InputBody>,
    max_tokens: Option<u32>,
    temperature: Option<f32>,
    top_p: Option<f32>,
    n: Option<u32>,
    best_of: Option<u32>,
    stop: Option<StringOrList<String>>,
    seed: Option<i64>,
    presence_penalty: Option<f32>,
    frequency_penalty: Option<f32>,
    /// Token ids as strings.
    logit_bias: Option<BTreeMap<String, f32>>,
    /// Alternatives to each token.
    logprobs: Option<u8>,
    echo: Option<bool>,
    stream: Option<bool>,
    stream_options: Option<Object<StreamOptions>>,
    user: Option<String>,

    // Extensions that are common among engines.
    top_k: Option<u32>,
    min_p: Option<f32>,
    repetition_penalty: Option<f32>,

    sluicegate: Option<Object<Extension>>,

    /// Understood, and refused: no model that is served writes what stands between two texts.
    suffix: Option<String>,
}

/// Texts of prompts, and the ids of those that come as token ids.
type Echoes = (Vec<String>, Vec<(usize, Vec<u32>)>);

/// Reads a body: the tasks that it asks for, one for each prompt, and what the answer needs to know. Ranges are not checked
/// yet: that is [`TaskRequest::check`]'s.
///
/// # Errors
///
/// INVALID_PARAMS with a path as `param`.
pub fn parse(body: &[u8]) -> Result<(Vec<TaskRequest>, CompletionContext), ErrorEnvelope> {
    let (body, ignored) = json::parse::<Body>(body)?;
    body.into_tasks(ignored)
}

impl Body {
    fn into_tasks(mut self, mut ignored: Vec<String>) -> Result<(Vec<TaskRequest>, CompletionContext), ErrorEnvelope> {
        let model = self.model.take().ok_or_else(|| missing("model"))?;
        if self.suffix.as_ref().is_some_and(|suffix| !suffix.is_empty()) {
            return Err(unsupported_parameter("suffix"));
        }
        let (prompts, one) = match self.prompt.take().ok_or_else(|| missing("prompt"))? {
            InputBody::One(prompt) => (vec![prompt], true),
            InputBody::Many(prompts) => (prompts, false),
        };
        if !(1..=MOST_PROMPTS).contains(&prompts.len()) {
            return Err(invalid("prompt", "an array has 1 to 128 prompts"));
        }
        let stream = self.stream.unwrap_or(false);
        let include_usage = fields::include_usage(stream, self.stream_options.take(), &mut ignored)?;
        let n = self.n.unwrap_or(1);
        let made = self.choices(n, stream)?;
        let logprobs = self.logprobs.is_some();
        let (echoes, unread) = self.echoes(&prompts)?;
        let task = self.into_task(model.clone(), made, made > n, &mut ignored)?;
        let context =
            CompletionContext { model, stream, include_usage, n, made, logprobs, echoes, unread, one, ignored };
        if task.task_id.is_some() && prompts.len() > 1 {
            return Err(invalid("sluicegate.task_id", "several prompts are several tasks"));
        }
        let tasks = prompts.into_iter().map(|prompt| TaskRequest { prompt: Some(prompt), ..task.clone() });
        Ok((tasks.collect(), context))
    }

    /// Choices to make of each prompt.
    fn choices(&self, n: u32, stream: bool) -> Result<u32, ErrorEnvelope> {
        let made = self.best_of.unwrap_or(n);
        if made < n {
            return Err(invalid("best_of", "it is at least 'n'"));
        }
        if made > n && stream {
            return Err(invalid(
                "best_of",
                "which choices are the best is known at the end: it does not go with 'stream'",
            ));
        }
        Ok(made)
    }

    /// What the choices of each prompt begin with; and those that have no text yet.
    fn echoes(&self, prompts: &[Input]) -> Result<Echoes, ErrorEnvelope> {
        let mut echoes = (vec![String::new(); prompts.len()], Vec::new());
        if !self.echo.unwrap_or(false) {
            return Ok(echoes);
        }
        if self.logprobs.is_some() {
            return Err(unsupported_value("echo", "log-probabilities of a prompt's tokens are not served"));
        }
        for (at, prompt) in prompts.iter().enumerate() {
            match prompt {
                Input::Text(text) => echoes.0[at].clone_from(text),
                Input::Tokens(ids) => echoes.1.push((at, ids.clone())),
            }
        }
        Ok(echoes)
    }

    /// The task of each prompt, without it. `judged`: log-probabilities are needed to choose among its choices.
    fn into_task(
        self,
        model: String,
        made: u32,
        judged: bool,
        ignored: &mut Vec<String>,
    ) -> Result<TaskRequest, ErrorEnvelope> {
        let mut task = TaskRequest::new(model);
        task.max_tokens = Some(self.max_tokens.unwrap_or(DEFAULT_MAX_TOKENS));
        task.temperature = self.temperature;
        task.top_p = self.top_p;
        task.top_k = self.top_k;
        task.min_p = self.min_p;
        task.frequency_penalty = self.frequency_penalty;
        task.presence_penalty = self.presence_penalty;
        task.repetition_penalty = self.repetition_penalty;
        task.seed = self.seed;
        task.n = made;
        task.stop = fields::stop_strings(self.stop);
        task.logit_bias = fields::logit_bias(self.logit_bias.unwrap_or_default())?;
        task.logprobs = self.logprobs.is_some() || judged;
        task.top_logprobs = self.logprobs;
        fields::note(&mut task, "user", self.user, ignored);
        if let Some(Object(extension)) = self.sluicegate {
            extension.apply(&mut task)?;
        }
        Ok(task)
    }
}
