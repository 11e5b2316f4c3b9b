//! The inputs of a task that embeds or scores them: each is counted, and has to fit the model's context by itself.

use std::sync::Arc;

use sluicegate_compat::native::{ErrorEnvelope, TaskRequest};

use super::recipe::{MOST_BYTES_PER_TOKEN, prepared};
use crate::engine::{Batch, Engine, Prepared, Prompt};

/// Tokens of one task's inputs together at most, as in the OpenAI API: it holds a slot until the last one is done.
const MOST_TOKENS: usize = 300_000;

/// The texts of a task.
pub(super) struct Inputs {
    query: Option<Arc<Prompt>>,
    inputs: Vec<Arc<Prompt>>,
}

impl Inputs {
    /// Moves them out of a request.
    pub fn take(request: &mut TaskRequest) -> Self {
        let query = request.query.take().map(|query| Arc::new(Prompt::Text(query)));
        let inputs = request.inputs.take().unwrap_or_default();
        Self { query, inputs: inputs.into_iter().map(|input| Arc::new(input.into())).collect() }
    }

    pub fn bytes(&self) -> usize {
        self.inputs.iter().chain(&self.query).map(|input| bytes(input)).sum()
    }

    /// Counts each of them in the model's own tokens; `bare` as for [`prepared`].
    ///
    /// # Errors
    ///
    /// The first that the model does not take, or that does not fit `context`; too many tokens together.
    pub fn prepare(&self, engine: &dyn Engine, context: u32, bare: bool) -> Result<Batch, ErrorEnvelope> {
        if self.bytes() / MOST_BYTES_PER_TOKEN > MOST_TOKENS {
            return Err(too_many_tokens());
        }
        let instructions = &engine.info().instructions;
        let count = |prompt: &Arc<Prompt>, before: &str, param: &str| {
            count(engine, context, &introduced(prompt, before), bare, param)
        };
        let query = self.query.as_ref().map(|query| count(query, &instructions.query, "query")).transpose()?;
        // Only what is compared with a query is a document.
        let before = if query.is_some() { instructions.document.as_str() } else { "" };
        let mut left = MOST_TOKENS.saturating_sub(query.as_ref().map_or(0, Prepared::len));
        let mut inputs = Vec::with_capacity(self.inputs.len());
        for (at, input) in self.inputs.iter().enumerate() {
            let input = count(input, before, &format!("inputs[{at}]"))?;
            left = left.checked_sub(input.len()).ok_or_else(too_many_tokens)?;
            inputs.push(input);
        }
        Ok(Batch { query, inputs })
    }
}

pub(super) fn too_many_tokens() -> ErrorEnvelope {
    ErrorEnvelope::invalid("inputs", format!("the inputs of one task have at most {MOST_TOKENS} tokens together"))
}

fn bytes(prompt: &Prompt) -> usize {
    match prompt {
        Prompt::Text(text) => text.len(),
        Prompt::Tokens(ids) => ids.len() * size_of::<u32>(),
        Prompt::Chat(_) => 0,
    }
}

/// A text as the model's makers want it introduced. Token ids are taken as they are.
fn introduced(prompt: &Arc<Prompt>, before: &str) -> Arc<Prompt> {
    match prompt.as_ref() {
        Prompt::Text(text) if !before.is_empty() => Arc::new(Prompt::Text(format!("{before}{text}"))),
        _ => Arc::clone(prompt),
    }
}

fn count(
    engine: &dyn Engine,
    context: u32,
    prompt: &Arc<Prompt>,
    bare: bool,
    param: &str,
) -> Result<Prepared, ErrorEnvelope> {
    let too_long = |tokens: Option<usize>| {
        let has = tokens.map_or_else(|| "is longer".to_owned(), |tokens| format!("has {tokens}"));
        let message = format!("the model's context is {context} tokens; this input {has}");
        ErrorEnvelope::invalid(param, message).with_detail("context_length_exceeded")
    };
    if bytes(prompt) / MOST_BYTES_PER_TOKEN > context as usize {
        return Err(too_long(None));
    }
    let prepared = prepared(engine, prompt, bare).map_err(|error| ErrorEnvelope::invalid(param, error.message))?;
    match prepared.len() {
        0 => Err(ErrorEnvelope::invalid(param, "this input has no tokens")),
        tokens if tokens > context as usize => Err(too_long(Some(tokens))),
        _ => Ok(prepared),
    }
}
