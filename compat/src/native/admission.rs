//! The answer to an admitted task.

use serde::Serialize;
use uuid::Uuid;

use super::{ErrorEnvelope, Preparation};

/// The body of the 202 that `POST /v2/tasks` answers with.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct AdmissionResponse {
    pub task_id: Uuid,
    /// Tasks that will start before it; 0 means it is next.
    pub queue_position: u64,
    pub predicted_start_ms: u64,
    pub predicted_end_ms: u64,
    /// How long a client with more work should wait before the next request; 0 while there is room.
    pub backoff_ms: u64,
    pub streams: Streams,
    pub preparation: Preparation,
}

/// The body of the answer to `POST /v2/tasks/preview`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PreviewResponse {
    /// Whether the task would be admitted now.
    pub feasible: bool,
    /// Why not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<ErrorEnvelope>,
    /// Null where it would not be admitted, as are the predictions.
    pub queue_position: Option<u64>,
    pub predicted_start_ms: Option<u64>,
    pub predicted_end_ms: Option<u64>,
    /// The pool that it would go to, or that would be the first to be given its model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pool_id: Option<String>,
    /// What would have to happen before it can start; absent where that is nothing.
    #[serde(skip_serializing_if = "Preparation::is_empty")]
    pub preparation: Preparation,
}

/// Where to read the task's events, as paths on the same host.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Streams {
    pub sse: String,
    pub sse_verbose: String,
}

impl Streams {
    pub fn of(task_id: Uuid) -> Self {
        Self {
            sse: format!("/v2/tasks/{task_id}/events"),
            sse_verbose: format!("/v2/tasks/{task_id}/events?verbose=true"),
        }
    }
}
