//! What the answer to a request needs to know of the request.

use uuid::Uuid;

use super::{extension, rename};
use crate::native::{ErrorEnvelope, Priority};

/// The part of a request that shapes its answer.
#[derive(Debug, Clone, PartialEq)]
pub struct MessagesContext {
    /// The model as the client named it.
    pub model: String,
    pub stream: bool,
    /// What becomes of the model's reasoning.
    pub thinking: Thinking,
    /// How urgently it is served, as the answer says it.
    pub priority: Priority,
    /// Fields of the body that have no effect, for the header `x-sluicegate-ignored`; visible ASCII without commas.
    pub ignored: Vec<String>,
    pub names: Names,
}

/// What becomes of the model's reasoning in the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Thinking {
    /// It is left out: a client that has not asked for it does not expect such blocks.
    #[default]
    Hidden,
    /// Its blocks are there, without the text.
    Omitted,
    Shown,
}

/// Which of Anthropic's names the client used, where there are several for one native field.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Names {
    /// Of the format of the answer.
    pub format: &'static str,
    /// Of how much the model is to reason.
    pub effort: &'static str,
}

impl MessagesContext {
    /// The context of a whole answer by `model` with nothing else said.
    pub fn new(model: impl Into<String>) -> Self {
        Self {
            model: model.into(),
            stream: false,
            thinking: Thinking::Hidden,
            priority: Priority::Interactive,
            ignored: Vec::new(),
            names: Names { format: "output_config.format", effort: "thinking" },
        }
    }

    /// The name that the client used for the field that is `native` in the task request. What follows the field's name
    /// (`[0].content`) is kept.
    pub fn param(&self, native: &str) -> String {
        let (field, rest) = native.split_at(native.find(['.', '[']).unwrap_or(native.len()));
        match field {
            // That the model is of no use for a conversation.
            "model_ref" | "workload" => "model".to_owned(),
            "prompt" | "inputs" | "continue_final_message" => "messages".to_owned(),
            "stop" => "stop_sequences".to_owned(),
            "metadata" => "metadata.user_id".to_owned(),
            "parallel_tool_calls" => "tool_choice.disable_parallel_tool_use".to_owned(),
            "output_mode" => self.names.format.to_owned(),
            "json_schema" => format!("{}.schema{rest}", self.names.format),
            "reasoning_effort" | "chat_template_kwargs" => self.names.effort.to_owned(),
            "priority" => "sluicegate.priority".to_owned(),
            "tools" => {
                let rest = rest.replacen(".function.parameters", ".input_schema", 1).replacen(".function", "", 1);
                format!("tools{rest}")
            }
            same => extension::param(native).unwrap_or_else(|| format!("{same}{rest}")),
        }
    }

    /// `envelope` with its `param` in the client's words, also in its message.
    pub fn rename(&self, mut envelope: ErrorEnvelope) -> ErrorEnvelope {
        if envelope.param.as_deref() == Some("continue_final_message") {
            // The field is not the client's.
            let message =
                "A message of the assistant cannot be continued here: the last of the messages must be the user's.";
            envelope.message = message.to_owned();
        }
        rename(envelope, |native| self.param(native))
    }
}

/// What is not known from the request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MessageMeta {
    /// `msg_` and the task's id.
    pub id: String,
    /// Of the HTTP request, for what goes wrong on an open stream.
    pub request_id: String,
    /// Tokens of the prompt as they were counted at admission: what a stream says of them before its end.
    pub tokens_in: u64,
}

impl MessageMeta {
    pub fn new(task_id: Uuid, request_id: impl Into<String>, tokens_in: u64) -> Self {
        Self { id: format!("msg_{task_id}"), request_id: request_id.into(), tokens_in }
    }
}
