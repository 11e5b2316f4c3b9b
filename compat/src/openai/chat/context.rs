//! What the answer to a chat request needs to know of the request.

use serde::{Deserialize, Serialize};

use crate::native::{ErrorEnvelope, Priority};
use crate::openai::{self, extension};

/// The part of a chat request that shapes its answer.
#[derive(Debug, Clone, PartialEq)]
pub struct ChatContext {
    /// The model as the client named it.
    pub model: String,
    pub stream: bool,
    /// Whether a stream tells its usage at the end.
    pub include_usage: bool,
    /// Choices asked for.
    pub n: u32,
    /// Whether log-probabilities were asked for.
    pub logprobs: bool,
    /// How the client reads calls.
    pub calls: CallStyle,
    pub service_tier: ServiceTier,
    /// Whether nothing of it is to be kept.
    pub unstored: bool,
    /// Fields of the body that have no effect, for the header `x-sluicegate-ignored`; visible ASCII without commas.
    pub ignored: Vec<String>,
    pub names: ParamNames,
}

/// Which of OpenAI's names the client used, where there are several for one native field.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ParamNames {
    pub max_tokens: &'static str,
    pub priority: &'static str,
    pub tools: &'static str,
    pub tool_choice: &'static str,
}

impl Default for ParamNames {
    fn default() -> Self {
        Self {
            max_tokens: "max_completion_tokens",
            priority: "service_tier",
            tools: "tools",
            tool_choice: "tool_choice",
        }
    }
}

impl ChatContext {
    /// The context of a whole answer by `model` with nothing else said.
    pub fn new(model: impl Into<String>) -> Self {
        Self {
            model: model.into(),
            stream: false,
            include_usage: false,
            n: 1,
            logprobs: false,
            calls: CallStyle::Tools,
            service_tier: ServiceTier::Default,
            unstored: false,
            ignored: Vec::new(),
            names: ParamNames::default(),
        }
    }

    /// The name that the client used for the field that is `native` in the task request: `max_tokens` may be
    /// `max_completion_tokens`, `model_ref` is `model`. What follows the field's name (`[0].content`) is kept.
    pub fn param(&self, native: &str) -> String {
        let (field, rest) = native.split_at(native.find(['.', '[']).unwrap_or(native.len()));
        let field = match field {
            // That the model is of no use for a chat.
            "model_ref" | "workload" => "model",
            "prompt" | "inputs" => "messages",
            "max_tokens" => self.names.max_tokens,
            "priority" => self.names.priority,
            "tools" => self.names.tools,
            "tool_choice" => self.names.tool_choice,
            "output_mode" => "response_format",
            "json_schema" => "response_format.json_schema.schema",
            same => return extension::param(native).unwrap_or_else(|| format!("{same}{rest}")),
        };
        let rest = if field == "functions" { rest.replacen(".function", "", 1) } else { rest.to_owned() };
        format!("{field}{rest}")
    }

    /// `envelope` with its `param` in the client's words, also in its message.
    pub fn rename(&self, envelope: ErrorEnvelope) -> ErrorEnvelope {
        openai::rename(envelope, |native| self.param(native))
    }

    /// Choices to answer with; admission lets through no more than 16.
    pub(super) fn choices(&self) -> usize {
        usize::try_from(self.n).unwrap_or(usize::MAX).clamp(1, 16)
    }
}

/// How an answer says that the model calls a function.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CallStyle {
    #[default]
    Tools,
    /// As before 2023-12: one call, without an id.
    Function,
}

/// How urgently a request was served, as the answer says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ServiceTier {
    #[default]
    Default,
    /// Batch priority.
    Flex,
}

impl ServiceTier {
    /// What it asks for; the usual tier leaves that to others.
    pub const fn priority(self) -> Option<Priority> {
        match self {
            Self::Default => None,
            Self::Flex => Some(Priority::Batch),
        }
    }

    /// What is said of it where something else has decided the priority.
    #[must_use]
    pub const fn served_at(self, priority: Priority) -> Self {
        match priority {
            Priority::Batch => self,
            Priority::Interactive => Self::Default,
        }
    }
}
