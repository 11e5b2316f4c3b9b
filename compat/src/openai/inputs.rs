//! What embeddings and rerank have in common: how a task ends that has one result, and what it cost.

use std::sync::Arc;

use serde::Serialize;

use super::{canceled, extension};
use crate::native::{End, ErrorCode, ErrorEnvelope, Event, FinishReason, PolicyLabel, TaskResult};

/// Collects the events of one task.
#[derive(Debug, Default)]
pub struct Outcome {
    result: Option<Arc<TaskResult>>,
    end: Option<Result<Arc<End>, ErrorEnvelope>>,
}

impl Outcome {
    /// Takes the next event.
    pub fn push(&mut self, event: &Event) {
        match event {
            Event::Result(result) => self.result = Some(Arc::clone(result)),
            Event::End(end) => self.end = Some(Ok(Arc::clone(end))),
            Event::Error(error) => self.end = Some(Err(error.as_ref().clone())),
            Event::Started(_) | Event::Token(_) | Event::Metrics(_) => {}
        }
    }

    /// The result, and how the task ended that has it.
    ///
    /// # Errors
    ///
    /// Why there is none: half of a result is of no use to anybody.
    pub fn finish(self) -> Result<(Arc<TaskResult>, Arc<End>), ErrorEnvelope> {
        let unfinished = || Err(ErrorEnvelope::new(ErrorCode::Internal, "The task has not ended."));
        let end = self.end.unwrap_or_else(unfinished)?;
        match (self.result, end.finish_reason) {
            (_, FinishReason::Canceled) => Err(canceled()),
            (Some(result), _) => Ok((result, end)),
            (None, FinishReason::Deadline) => {
                Err(ErrorEnvelope::new(ErrorCode::DeadlineUnmet, "The deadline came before the result."))
            }
            (None, _) => {
                let label = end.policy_label.unwrap_or(PolicyLabel::BudgetTime);
                Err(ErrorEnvelope::rejected(label, "The budget was used up before the result came."))
            }
        }
    }
}

/// `envelope` with its `param` in the client's words; `inputs` says what stands for `inputs` with this place behind it.
#[must_use]
pub fn rename(mut envelope: ErrorEnvelope, inputs: impl FnOnce(&str) -> String) -> ErrorEnvelope {
    let renamed = |native: String| match native.strip_prefix("inputs") {
        Some(place) => inputs(place),
        None if matches!(native.as_str(), "model_ref" | "workload") => "model".to_owned(),
        None if native == "priority" => "sluicegate.priority".to_owned(),
        None => extension::param(&native).unwrap_or(native),
    };
    envelope.param = envelope.param.map(renamed);
    envelope
}

/// The `usage` of an answer without output. All in tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct InputUsage {
    pub prompt_tokens: u64,
    pub total_tokens: u64,
}

impl From<&End> for InputUsage {
    fn from(end: &End) -> Self {
        Self { prompt_tokens: end.tokens_in, total_tokens: end.tokens_in.saturating_add(end.tokens_out) }
    }
}
