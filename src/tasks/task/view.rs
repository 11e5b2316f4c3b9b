//! A task as its clients see it.

use std::sync::Arc;

use sluicegate_compat::native::{Event, FinishReason, TaskFacts, TaskState, TaskSummary, TaskView, TokenKind};
use tokio::time::Instant;

use super::{Passage, Task, millis};
use crate::tasks::Progress;

impl Task {
    pub fn state(&self, progress: &Progress) -> TaskState {
        match &progress.ended {
            Some((_, Event::Error(_))) => TaskState::Failed,
            Some((_, Event::End(end))) if end.finish_reason == FinishReason::Canceled => TaskState::Canceled,
            Some(_) => TaskState::Finished,
            None if progress.started.is_some() => TaskState::Running,
            None if self.is_preparing() => TaskState::Preparing,
            None => TaskState::Queued,
        }
    }

    /// Of its events, its memo, and the output that is left of an earlier process.
    pub fn bytes(&self) -> usize {
        let memo = self.spec.memo.as_ref().map_or(0, |memo| memo.len());
        let kept = self.kept_outputs.iter().map(String::len).sum::<usize>();
        self.log.progress().bytes + memo + kept + self.kept_passages.iter().map(Passage::bytes).sum::<usize>()
    }

    /// The task as clients see it. `waiting` is its queue position and predicted start in ms, while it is queued.
    pub fn view(&self, waiting: Option<(u64, u64)>) -> TaskView {
        let summary = self.summary(waiting);
        let outputs = self.outputs();
        TaskView {
            summary,
            output: outputs.first().cloned().unwrap_or_default(),
            outputs: if outputs.len() > 1 { outputs } else { Vec::new() },
        }
    }

    /// As [`view`](Self::view), without the text.
    pub fn summary(&self, waiting: Option<(u64, u64)>) -> TaskSummary {
        TaskSummary { facts: self.facts(waiting), metadata: self.spec.metadata.clone() }
    }

    /// As [`summary`](Self::summary), without what the client has said of it.
    pub fn facts(&self, waiting: Option<(u64, u64)>) -> TaskFacts {
        let now = Instant::now();
        let progress = self.log.progress();
        let at = |instant: Instant| self.created.unix_ms_at(instant);
        let started = progress.started.as_ref().map(|(instant, _)| *instant);
        let ended = progress.ended.as_ref().map(|(instant, _)| *instant);
        let until = ended.unwrap_or(now);
        let (finish_reason, error, end) = match &progress.ended {
            Some((_, Event::End(end))) => (Some(end.finish_reason), None, Some(end)),
            Some((_, Event::Error(error))) => (None, Some(error.as_ref().clone()), None),
            _ => (None, None, None),
        };
        TaskFacts {
            task_id: self.spec.id.0,
            session_id: self.spec.session_id,
            state: self.state(&progress),
            priority: self.spec.priority,
            workload: self.spec.workload,
            model_ref: self.spec.model_ref.clone(),
            pool_id: Some(self.pool_id().to_string()),
            replica_id: started.and(self.replica_id()).map(|replica| replica.to_string()),
            queue_position: waiting.map(|(position, _)| position),
            predicted_start_ms: waiting.map(|(_, start)| start),
            created_at_ms: self.created.unix_ms,
            started_at_ms: started.map(at),
            first_token_at_ms: progress.first_token.map(at),
            ended_at_ms: ended.map(at),
            queue_ms: millis(started.unwrap_or(until).saturating_duration_since(self.created.instant)),
            decode_ms: progress.first_token.map_or(0, |first| millis(until.saturating_duration_since(first))),
            tokens_in: match end {
                Some(end) => end.tokens_in,
                None => started.map_or(0, |_| u64::from(self.limits().prompt_tokens)),
            },
            tokens_out: end.map_or(progress.tokens, |end| end.tokens_out),
            finish_reason,
            canceled_by: end.and_then(|end| end.canceled_by),
            error,
        }
    }

    /// The text of each choice so far; of what is embedded or scored, the result as JSON.
    pub(in crate::tasks) fn outputs(&self) -> Vec<String> {
        if !self.kept_outputs.is_empty() {
            return self.kept_outputs.clone();
        }
        let mut outputs = vec![String::new(); usize::from(self.spec.limits.choices)];
        let mut result = None;
        let mut look = |events: &[Event]| {
            for event in events {
                match event {
                    Event::Token(token) if token.kind == TokenKind::Text => {
                        if let Some(output) = outputs.get_mut(usize::from(token.choice)) {
                            output.push_str(&token.text);
                        }
                    }
                    Event::Result(came) => result = Some(Arc::clone(came)),
                    _ => {}
                }
            }
        };
        if self.kept_passages.is_empty() {
            self.log.inspect(look);
        } else {
            look(&self.told());
        }
        // Written outside the lock, because it may be long.
        match result {
            None => outputs,
            Some(result) => vec![serde_json::to_string(result.as_ref()).unwrap_or_default()],
        }
    }
}
