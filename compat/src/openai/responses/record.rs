//! What every look at a response says of its request, and the response as a whole.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

use super::item::Item;
use super::{ID_PREFIX, history};
use crate::native::{End, ErrorCode, ErrorEnvelope, Event, FinishReason};
use crate::openai::chat::ServiceTier;
use crate::openai::error::ErrorBody;
use crate::openai::{canceled, extension, rename};

/// The id of the response that a task makes.
pub fn response_id(task: Uuid) -> String {
    format!("{ID_PREFIX}{task}")
}

/// What is known of a response from its request. Kept beside the task where the response is stored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    pub task_id: Uuid,
    /// What the model was shown, but for the instructions.
    pub items: Vec<Item>,
    /// Whether log-probabilities were asked for.
    pub logprobs: bool,
    pub echo: Echo,
}

/// What a response repeats of its request. Members that OpenAI's schema requires are null where the request was silent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Echo {
    pub background: bool,
    pub instructions: Option<String>,
    pub max_output_tokens: Option<u32>,
    pub max_tool_calls: Option<u32>,
    pub metadata: BTreeMap<String, String>,
    /// As the client named it.
    pub model: String,
    pub parallel_tool_calls: bool,
    pub previous_response_id: Option<String>,
    pub prompt_cache_key: Option<String>,
    pub reasoning: Value,
    pub safety_identifier: Option<String>,
    pub service_tier: ServiceTier,
    pub store: bool,
    pub temperature: Option<f32>,
    pub text: Value,
    pub tool_choice: Value,
    pub tools: Vec<Value>,
    pub top_logprobs: u8,
    pub top_p: Option<f32>,
    pub truncation: Truncation,
    pub user: Option<String>,
}

/// What becomes of a conversation that is too long: it is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Truncation {
    #[default]
    Disabled,
}

/// Where a response is in its life.
#[derive(Debug, Clone, PartialEq)]
pub enum Moment {
    Queued,
    InProgress,
    /// Its last event.
    Over(Event),
}

/// The body of an answer, and what the events about a whole response carry.
#[derive(Debug, Serialize)]
pub struct Response<'a> {
    id: String,
    object: &'static str,
    created_at: u64,
    completed_at: Option<u64>,
    status: &'static str,
    error: Option<Failed<'a>>,
    incomplete_details: Option<Incomplete>,
    output: &'a [Item],
    usage: Option<Usage>,
    #[serde(flatten)]
    echo: &'a Echo,
}

#[derive(Debug, Serialize)]
struct Failed<'a> {
    code: &'static str,
    message: &'a str,
}

#[derive(Debug, Serialize)]
struct Incomplete {
    reason: &'static str,
}

/// All in tokens.
#[derive(Debug, Serialize)]
struct Usage {
    input_tokens: u64,
    input_tokens_details: InputDetails,
    output_tokens: u64,
    output_tokens_details: OutputDetails,
    total_tokens: u64,
}

#[derive(Debug, Serialize)]
struct InputDetails {
    cached_tokens: u64,
    /// Those that were charged for being put into a cache: none is.
    cache_write_tokens: u64,
}

#[derive(Debug, Serialize)]
struct OutputDetails {
    reasoning_tokens: u64,
}

impl Usage {
    const fn new(end: &End, reasoning_tokens: u64) -> Self {
        Self {
            input_tokens: end.tokens_in,
            input_tokens_details: InputDetails { cached_tokens: end.cached_tokens, cache_write_tokens: 0 },
            output_tokens: end.tokens_out,
            output_tokens_details: OutputDetails { reasoning_tokens },
            total_tokens: end.tokens_in.saturating_add(end.tokens_out),
        }
    }
}

impl Record {
    /// Whether it is made whether anybody waits for it or not.
    pub const fn is_background(&self) -> bool {
        self.echo.background
    }

    /// The response, made at `created_ms` (Unix time), with what has come of it so far.
    pub(super) fn response<'a>(
        &'a self,
        created_ms: u64,
        moment: &'a Moment,
        output: &'a [Item],
        reasoning_tokens: u64,
    ) -> Response<'a> {
        let mut response = Response {
            id: response_id(self.task_id),
            object: "response",
            created_at: created_ms / 1000,
            completed_at: None,
            status: "in_progress",
            error: None,
            incomplete_details: None,
            output,
            usage: None,
            echo: &self.echo,
        };
        match moment {
            Moment::Queued => response.status = "queued",
            Moment::InProgress => {}
            Moment::Over(Event::End(end)) => {
                response.usage = Some(Usage::new(end, reasoning_tokens));
                match end.finish_reason {
                    FinishReason::Stop | FinishReason::ToolCalls => {
                        let took_ms = end.queue_ms + end.first_token_ms.unwrap_or(0) + end.decode_ms;
                        response.completed_at = Some(created_ms.saturating_add(took_ms) / 1000);
                        response.status = "completed";
                    }
                    // A deadline is a limit like `max_output_tokens`.
                    FinishReason::Length | FinishReason::Deadline => {
                        response.status = "incomplete";
                        response.incomplete_details = Some(Incomplete { reason: "max_output_tokens" });
                    }
                    FinishReason::Canceled => response.status = "cancelled",
                }
            }
            Moment::Over(Event::Error(error)) => {
                response.status = "failed";
                response.error = Some(Failed { code: failure_code(error), message: &error.message });
            }
            // Not a last event.
            Moment::Over(_) => {}
        }
        response
    }

    /// What a refused or failed request was about, in the words of the client, also in the message.
    pub fn rename(envelope: ErrorEnvelope) -> ErrorEnvelope {
        rename(envelope, param)
    }

    /// Gives every item an id.
    pub(super) fn name_items(&mut self, first: usize) {
        history::name(&mut self.items, first, self.task_id);
    }
}

/// The two codes among OpenAI's that say what a failure here is.
fn failure_code(error: &ErrorEnvelope) -> &'static str {
    if error.http_status() == 429 { "rate_limit_exceeded" } else { "server_error" }
}

/// What an answer is refused with where there is none: of a whole answer, and of a stream that goes no further.
pub(super) fn failure(last: &Event) -> Option<ErrorEnvelope> {
    match last {
        Event::End(end) if end.finish_reason == FinishReason::Canceled => Some(canceled(end)),
        Event::Error(error) => Some(Record::rename(error.as_ref().clone())),
        _ => None,
    }
}

/// The code of an error event.
pub(super) fn event_code(error: &ErrorEnvelope) -> &'static str {
    let body = ErrorBody::from(error).error;
    body.code.unwrap_or(if error.code == ErrorCode::Internal { "server_error" } else { body.r#type })
}

/// The name that a client used for the field that is `native` in the task request.
fn param(native: &str) -> String {
    let (field, rest) = native.split_at(native.find(['.', '[']).unwrap_or(native.len()));
    match field {
        "model_ref" | "workload" => "model".to_owned(),
        "messages" | "prompt" | "inputs" => "input".to_owned(),
        "max_tokens" => "max_output_tokens".to_owned(),
        "priority" => "service_tier".to_owned(),
        "reasoning_effort" => "reasoning.effort".to_owned(),
        "output_mode" => "text.format".to_owned(),
        "json_schema" => format!("text.format.schema{rest}"),
        "tools" => format!("tools{}", rest.replacen(".function", "", 1)),
        _ => extension::param(native).unwrap_or_else(|| native.to_owned()),
    }
}
