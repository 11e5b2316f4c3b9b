//! The ways in which a task can end.

use std::sync::Arc;

use sluicegate_compat::native::{
    CanceledBy, ChoiceEnd, End, ErrorCode, ErrorEnvelope, Event, FinishReason, PolicyLabel, Workload,
};
use tokio::time::Instant;

use super::{Task, Usage, millis};
use crate::tasks::{Seal, Spending};

/// Why a task has ended, where that is no error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reason {
    pub finish: FinishReason,
    /// The stop string that was it.
    pub matched_stop: Option<String>,
    /// The budget that was it.
    pub policy_label: Option<PolicyLabel>,
    /// Who has cancelled it, where that was no client.
    pub canceled_by: Option<CanceledBy>,
}

impl From<FinishReason> for Reason {
    fn from(finish: FinishReason) -> Self {
        Self { finish, matched_stop: None, policy_label: None, canceled_by: None }
    }
}

impl Task {
    /// Ends the task as cancelled. Once this returns no token is appended any more. Does nothing where it has ended.
    pub fn cancel(&self) {
        self.finish_early(FinishReason::Canceled.into());
    }

    /// As [`cancel`](Self::cancel), where no client did it.
    pub fn cancel_for(&self, by: CanceledBy) {
        self.finish_early(Reason { canceled_by: Some(by), ..FinishReason::Canceled.into() });
    }

    /// Ends the task because its deadline has come. Does nothing where it has ended.
    pub fn expire(&self) {
        let unmet = || ErrorEnvelope::new(ErrorCode::DeadlineUnmet, "the deadline came before the result");
        self.cut_short(FinishReason::Deadline.into(), unmet);
    }

    /// Ends the task before it is done: with the text that it has, or with an error where it was to have a result, of which
    /// half helps nobody.
    fn cut_short(&self, reason: Reason, error: impl FnOnce() -> ErrorEnvelope) {
        let Some(seal) = self.log.seal() else { return };
        let has_result = || self.log.inspect(|events| events.iter().any(|event| matches!(event, Event::Result(_))));
        if self.spec.workload == Workload::Completion || has_result() {
            let usage = Usage { tokens_out: self.sampled(&seal.progress()), cached_tokens: 0 };
            self.close(seal, reason, usage, Vec::new());
        } else {
            self.end_with(seal, error());
        }
    }

    /// Ends the task because a budget is used up. Does nothing where it has ended.
    pub fn exhaust(&self, label: PolicyLabel) {
        let used_up = || ErrorEnvelope::rejected(label, "the budget was used up before the result came");
        self.cut_short(Reason { policy_label: Some(label), ..FinishReason::Length.into() }, used_up);
    }

    /// Ends the task with an error. Does nothing where it has ended.
    pub fn fail(&self, error: ErrorEnvelope) {
        if let Some(seal) = self.log.seal() {
            self.end_with(seal, error);
        }
    }

    fn end_with(&self, seal: Seal, error: ErrorEnvelope) {
        self.end(seal, Event::Error(Arc::new(error.with_correlation_id(self.spec.correlation_id.as_str()))));
    }

    /// Writes the `end` event.
    pub fn finish(&self, seal: Seal, reason: impl Into<Reason>, usage: Usage, choices: Vec<ChoiceEnd>) {
        let reason = reason.into();
        let mut reasons = choices.iter().map(|choice| choice.finish_reason).chain([reason.finish]);
        let long = reasons.any(|reason| reason == FinishReason::Length);
        let policy_label = self.spending.as_ref().filter(|_| long).and_then(Spending::capped_by);
        self.close(seal, Reason { policy_label, ..reason }, usage, choices);
    }

    fn close(&self, seal: Seal, reason: Reason, usage: Usage, choices: Vec<ChoiceEnd>) {
        let now = Instant::now();
        let progress = seal.progress();
        let started = progress.started.as_ref().map(|(at, _)| *at);
        let between = |from: Option<Instant>, to: Option<Instant>| {
            from.zip(to).map(|(from, to)| millis(to.saturating_duration_since(from)))
        };
        let end = End {
            tokens_in: if started.is_some() { u64::from(self.limits().prompt_tokens) } else { 0 },
            cached_tokens: usage.cached_tokens,
            tokens_out: usage.tokens_out,
            queue_ms: millis(started.unwrap_or(now).saturating_duration_since(self.created.instant)),
            first_token_ms: between(started, progress.first_token),
            decode_ms: between(progress.first_token, Some(now)).unwrap_or(0),
            finish_reason: reason.finish,
            matched_stop: reason.matched_stop,
            choices,
            policy_label: reason.policy_label,
            canceled_by: reason.canceled_by,
        };
        self.end(seal, Event::End(Arc::new(end)));
    }

    /// Whether this has ended it.
    pub(super) fn finish_early(&self, reason: Reason) -> bool {
        let Some(seal) = self.log.seal() else { return false };
        let usage = Usage { tokens_out: self.sampled(&seal.progress()), cached_tokens: 0 };
        self.close(seal, reason, usage, Vec::new());
        true
    }
}
