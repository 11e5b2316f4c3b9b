//! A task as `GET /v2/tasks/{id}` shows it.

use std::collections::BTreeMap;

use serde::Serialize;
use uuid::Uuid;

use super::{CanceledBy, ErrorEnvelope, FinishReason, Priority, Workload};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum TaskState {
    Queued,
    Preparing,
    Running,
    Finished,
    Failed,
    Canceled,
}

impl TaskState {
    /// Whether the task has ended.
    pub const fn is_terminal(self) -> bool {
        matches!(self, Self::Finished | Self::Failed | Self::Canceled)
    }
}

impl TaskState {
    pub const ALL: [TaskState; 6] =
        [Self::Queued, Self::Preparing, Self::Running, Self::Finished, Self::Failed, Self::Canceled];

    /// The name on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Preparing => "preparing",
            Self::Running => "running",
            Self::Finished => "finished",
            Self::Failed => "failed",
            Self::Canceled => "canceled",
        }
    }
}

/// The body of `GET /v2/tasks`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TaskList {
    /// Newest first.
    pub tasks: Vec<TaskSummary>,
    /// For the next page; null on the last.
    pub next_cursor: Option<String>,
}

/// A task and its text.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TaskView {
    #[serde(flatten)]
    pub summary: TaskSummary,
    /// The text of the first choice so far; all of it once the task has ended.
    pub output: String,
    /// The texts of all choices, only where there are several.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub outputs: Vec<String>,
}

/// A task as lists show it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TaskSummary {
    #[serde(flatten)]
    pub facts: TaskFacts,
    pub metadata: BTreeMap<String, String>,
}

/// The body of `GET /v2/admin/tasks`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct AdminTaskList {
    /// Newest first.
    pub tasks: Vec<AdminTask>,
    /// For the next page; null on the last.
    pub next_cursor: Option<String>,
}

/// A task as administrators see it: without what its client has said and heard.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct AdminTask {
    pub tenant_id: String,
    /// Null where there were no keys.
    pub key_id: Option<String>,
    #[serde(flatten)]
    pub facts: TaskFacts,
}

/// How a task stands.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TaskFacts {
    pub task_id: Uuid,
    pub session_id: Option<Uuid>,
    pub state: TaskState,
    pub priority: Priority,
    pub workload: Workload,
    pub model_ref: String,
    pub pool_id: Option<String>,
    pub replica_id: Option<String>,
    /// Tasks that will start before this one; null once it has started or ended.
    pub queue_position: Option<u64>,
    /// From now; null once it has started or ended.
    pub predicted_start_ms: Option<u64>,
    pub created_at_ms: u64,
    pub started_at_ms: Option<u64>,
    pub first_token_at_ms: Option<u64>,
    pub ended_at_ms: Option<u64>,
    /// Time in the queue: so far while it waits, in all once it has started or ended.
    pub queue_ms: u64,
    /// From the first token to now, or to the end.
    pub decode_ms: u64,
    /// Tokens of the prompt; 0 until the task starts.
    pub tokens_in: u64,
    pub tokens_out: u64,
    pub finish_reason: Option<FinishReason>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub canceled_by: Option<CanceledBy>,
    pub error: Option<ErrorEnvelope>,
}
