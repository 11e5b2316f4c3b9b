//! The task request: what a client may ask for, and the checks that need no knowledge of models or pools.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{ErrorEnvelope, Input, Message, Role, Tool, ToolChoice, Workload, media, schema, tools, workload};

/// The body of `POST /v2/tasks`. Every other dialect is translated to it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TaskRequest {
    /// Chosen by the client, or by the gateway (version 7) where absent.
    #[serde(default)]
    pub task_id: Option<Uuid>,
    #[serde(default)]
    pub session_id: Option<Uuid>,
    #[serde(default)]
    pub workload: Workload,
    /// Catalog id or alias, or a reference such as `hf:org/repo`.
    pub model_ref: String,
    #[serde(default)]
    pub engine: Option<EngineName>,
    /// Context wanted, in tokens; no more than the model's.
    #[serde(default)]
    pub ctx: Option<u32>,
    /// Where none is named, that of the tenant decides, or it is interactive.
    #[serde(default)]
    pub priority: Option<Priority>,
    /// The pools that may run it, where who asks may not use all. No client can say that.
    #[serde(skip)]
    pub only_pools: Option<Vec<String>>,
    /// A text, or the model's token ids.
    #[serde(default)]
    pub prompt: Option<Input>,
    /// What to embed, or to score against `query`; up to 2,048.
    #[serde(default)]
    pub inputs: Option<Vec<Input>>,
    #[serde(default)]
    pub query: Option<String>,
    /// Numbers of an embedding, where fewer are wanted than the model gives; what is left has length 1 again.
    #[serde(default)]
    pub dimensions: Option<u32>,
    #[serde(default)]
    pub messages: Option<Vec<Message>>,
    /// Choices, 1 to 16.
    #[serde(default = "one")]
    pub n: u32,
    #[serde(default)]
    pub tools: Option<Vec<Tool>>,
    #[serde(default)]
    pub tool_choice: Option<ToolChoice>,
    #[serde(default)]
    pub parallel_tool_calls: Option<bool>,
    #[serde(default)]
    pub reasoning_effort: Option<ReasoningEffort>,
    #[serde(default)]
    pub chat_template_kwargs: Option<BTreeMap<String, serde_json::Value>>,
    /// The answer goes on from the last message, which is the assistant's.
    #[serde(default)]
    pub continue_final_message: bool,
    /// Requests that share this share the beginning of their prompts, and are best run by the same replica. Other dialects
    /// have a word for it.
    #[serde(skip)]
    pub affinity: Option<String>,
    #[serde(default)]
    pub max_tokens: Option<u32>,
    /// From admission, in ms.
    #[serde(default)]
    pub deadline_ms: Option<u64>,
    /// Output tokens the client expects; sharpens the prediction.
    #[serde(default)]
    pub expected_tokens: Option<u32>,
    #[serde(default)]
    pub seed: Option<i64>,
    #[serde(default)]
    pub determinism: Determinism,
    #[serde(default)]
    pub sampler_profile_version: Option<String>,
    /// 0 to 2; 0 takes the likeliest token.
    #[serde(default)]
    pub temperature: Option<f32>,
    /// Above 0, up to 1.
    #[serde(default)]
    pub top_p: Option<f32>,
    /// At least 1.
    #[serde(default)]
    pub top_k: Option<u32>,
    /// 0 to 1.
    #[serde(default)]
    pub min_p: Option<f32>,
    /// −2 to 2, over generated tokens.
    #[serde(default)]
    pub frequency_penalty: Option<f32>,
    /// −2 to 2, over generated tokens.
    #[serde(default)]
    pub presence_penalty: Option<f32>,
    /// Above 0, up to 10; 1 changes nothing. Over generated tokens.
    #[serde(default)]
    pub repetition_penalty: Option<f32>,
    /// Up to 16 strings; the text ends before the first one that appears.
    #[serde(default)]
    pub stop: Vec<String>,
    /// Token id -> −100 to 100, added to the logit.
    #[serde(default)]
    pub logit_bias: BTreeMap<u32, f32>,
    #[serde(default)]
    pub logprobs: bool,
    /// 0 to 20, with `logprobs`.
    #[serde(default)]
    pub top_logprobs: Option<u8>,
    #[serde(default)]
    pub output_mode: OutputMode,
    #[serde(default)]
    pub json_schema: Option<serde_json::Value>,
    #[serde(default)]
    pub kv_hint: Option<KvHint>,
    #[serde(default, deserialize_with = "crate::json::object")]
    pub placement: Option<Placement>,
    /// At most 16 pairs, echoed.
    #[serde(default)]
    pub metadata: BTreeMap<String, String>,
}

const fn one() -> u32 {
    1
}

impl TaskRequest {
    /// A completion by `model_ref` with nothing else said.
    pub fn new(model_ref: impl Into<String>) -> Self {
        Self {
            task_id: None,
            session_id: None,
            workload: Workload::Completion,
            model_ref: model_ref.into(),
            engine: None,
            ctx: None,
            priority: None,
            only_pools: None,
            prompt: None,
            inputs: None,
            query: None,
            dimensions: None,
            messages: None,
            n: 1,
            tools: None,
            tool_choice: None,
            parallel_tool_calls: None,
            reasoning_effort: None,
            chat_template_kwargs: None,
            continue_final_message: false,
            affinity: None,
            max_tokens: None,
            deadline_ms: None,
            expected_tokens: None,
            seed: None,
            determinism: Determinism::BestEffort,
            sampler_profile_version: None,
            temperature: None,
            top_p: None,
            top_k: None,
            min_p: None,
            frequency_penalty: None,
            presence_penalty: None,
            repetition_penalty: None,
            stop: Vec::new(),
            logit_bias: BTreeMap::new(),
            logprobs: false,
            top_logprobs: None,
            output_mode: OutputMode::Text,
            json_schema: None,
            kv_hint: None,
            placement: None,
            metadata: BTreeMap::new(),
        }
    }

    /// Reads a body. A field that the contract does not have is refused by name.
    ///
    /// # Errors
    ///
    /// INVALID_PARAMS with the path of the field, or with none where the body is not JSON at all.
    pub fn parse(body: &[u8]) -> Result<Self, ErrorEnvelope> {
        crate::json::parse_known(body)
    }

    /// The checks that need only the request itself: ranges, sizes, fields that exclude or need each other.
    ///
    /// # Errors
    ///
    /// The first violation, with the field it is about.
    pub fn check(&self) -> Result<(), Violation> {
        self.check_input()?;
        self.check_limits()?;
        self.check_sampling()?;
        self.check_output()
    }

    fn check_input(&self) -> Result<(), Violation> {
        workload::check(self)?;
        if self.workload == Workload::Completion {
            let one = self.prompt.is_some() != self.messages.is_some();
            ensure(one, "prompt", "give exactly one of `prompt` and `messages`")?;
        }
        if let Some(messages) = &self.messages {
            ensure(!messages.is_empty(), "messages", "at least one message is needed")?;
            media::check(messages)?;
        }
        self.check_beginning()?;
        tools::check(self.tools.as_deref().unwrap_or_default(), self.tool_choice.as_ref())?;
        if self.messages.is_none() {
            ensure(self.tools.is_none(), "tools", "`tools` goes with `messages`")?;
            ensure(self.chat_template_kwargs.is_none(), "chat_template_kwargs", "goes with `messages`")?;
        }
        ensure(!self.model_ref.is_empty(), "model_ref", "name a model")?;
        ensure(self.model_ref.len() <= 1024, "model_ref", "at most 1,024 bytes")
    }

    /// What the answer goes on from.
    fn check_beginning(&self) -> Result<(), Violation> {
        let last = self.messages.as_deref().and_then(<[Message]>::last);
        let spoken = last.is_some_and(|message| {
            let words = message.content.as_ref().is_some_and(|content| !content.is_empty());
            message.role == Role::Assistant && message.tool_calls.is_empty() && words
        });
        let (param, text) = ("continue_final_message", self.output_mode == OutputMode::Text);
        ensure(
            spoken || !self.continue_final_message,
            param,
            "goes with `messages` that end with words of the assistant",
        )?;
        ensure(text || !self.continue_final_message, param, "goes with `output_mode: \"text\"`")
    }

    fn check_limits(&self) -> Result<(), Violation> {
        ensure((1..=16).contains(&self.n), "n", "1 to 16")?;
        ensure(self.max_tokens != Some(0), "max_tokens", "at least 1")?;
        ensure(self.deadline_ms != Some(0), "deadline_ms", "above 0")?;
        ensure(self.metadata.len() <= 16, "metadata", "at most 16 pairs")?;
        for (key, value) in &self.metadata {
            ensure(key.len() <= 64, "metadata", "a key has at most 64 bytes")?;
            ensure(value.len() <= 512, "metadata", "a value has at most 512 bytes")?;
        }
        Ok(())
    }

    fn check_sampling(&self) -> Result<(), Violation> {
        within(self.temperature, 0.0..=2.0, "temperature", "0 to 2")?;
        within(self.top_p, f32::MIN_POSITIVE..=1.0, "top_p", "above 0, up to 1")?;
        within(self.min_p, 0.0..=1.0, "min_p", "0 to 1")?;
        within(self.frequency_penalty, -2.0..=2.0, "frequency_penalty", "-2 to 2")?;
        within(self.presence_penalty, -2.0..=2.0, "presence_penalty", "-2 to 2")?;
        within(self.repetition_penalty, f32::MIN_POSITIVE..=10.0, "repetition_penalty", "above 0, up to 10")?;
        ensure(self.top_k != Some(0), "top_k", "at least 1")?;
        for bias in self.logit_bias.values() {
            within(Some(*bias), -100.0..=100.0, "logit_bias", "each bias is -100 to 100")?;
        }
        ensure(self.logit_bias.len() <= 1024, "logit_bias", "at most 1,024 tokens")?;
        ensure(self.stop.len() <= 16, "stop", "at most 16 strings")?;
        for stop in &self.stop {
            ensure(!stop.is_empty(), "stop", "a stop string is not empty")?;
            ensure(stop.len() <= 1024, "stop", "a stop string has at most 1,024 bytes")?;
        }
        ensure(self.top_logprobs.is_none_or(|top| top <= 20), "top_logprobs", "0 to 20")?;
        ensure(self.top_logprobs.is_none() || self.logprobs, "top_logprobs", "goes with `logprobs: true`")
    }

    fn check_output(&self) -> Result<(), Violation> {
        let json = self.output_mode == OutputMode::Json;
        ensure(self.json_schema.is_none() || json, "json_schema", "goes with `output_mode: \"json\"`")?;
        let object = self.json_schema.as_ref().is_none_or(serde_json::Value::is_object);
        ensure(object, "json_schema", "a JSON schema is an object")?;
        self.json_schema
            .as_ref()
            .map_or(Ok(()), |schema| schema::check(schema, "json_schema", &mut schema::Steps::default()))
    }
}

/// One field that is wrong, and how.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{param}: {message}")]
pub struct Violation {
    /// The field, as a path into the request.
    pub param: Cow<'static, str>,
    /// The range or rule it breaks.
    pub message: &'static str,
}

impl TaskRequest {
    /// Whether who asks may use a pool.
    pub fn may_run_in(&self, pool: &str) -> bool {
        self.only_pools.as_ref().is_none_or(|only| only.iter().any(|only| only == pool))
    }
}

pub(super) fn ensure(holds: bool, param: &'static str, message: &'static str) -> Result<(), Violation> {
    if holds { Ok(()) } else { Err(Violation { param: param.into(), message }) }
}

fn within(
    value: Option<f32>,
    range: std::ops::RangeInclusive<f32>,
    param: &'static str,
    message: &'static str,
) -> Result<(), Violation> {
    ensure(value.is_none_or(|value| range.contains(&value)), param, message)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Priority {
    #[default]
    Interactive,
    Batch,
}

impl Priority {
    pub const ALL: [Priority; 2] = [Self::Interactive, Self::Batch];

    /// The name on the wire, which is also the `priority` label of metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Interactive => "interactive",
            Self::Batch => "batch",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Determinism {
    /// The same noise whatever else runs.
    #[default]
    BestEffort,
    /// The same tokens always: the replica runs the task alone and cold.
    Strict,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OutputMode {
    #[default]
    Text,
    /// Constrained by a grammar: `json_schema`, or any object where there is none.
    Json,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KvHint {
    Reuse,
    Cold,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReasoningEffort {
    None,
    Minimal,
    Low,
    Medium,
    High,
    Xhigh,
}

impl ReasoningEffort {
    /// The name on the wire, which chat templates know too.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Minimal => "minimal",
            Self::Low => "low",
            Self::Medium => "medium",
            Self::High => "high",
            Self::Xhigh => "xhigh",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EngineName {
    Mistralrs,
    Remote,
    Scripted,
    LlamaCpp,
    Vllm,
    Tgi,
    Triton,
}

impl EngineName {
    /// Whether an engine of this name satisfies a request for `wanted`. A remote engine is declared under its program's
    /// name and satisfies `remote` too.
    pub fn is(self, wanted: Self) -> bool {
        self == wanted
            || wanted == Self::Remote && matches!(self, Self::LlamaCpp | Self::Vllm | Self::Tgi | Self::Triton)
    }

    /// The name on the wire, which is also the `engine` label of metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Mistralrs => "mistralrs",
            Self::Remote => "remote",
            Self::Scripted => "scripted",
            Self::LlamaCpp => "llamacpp",
            Self::Vllm => "vllm",
            Self::Tgi => "tgi",
            Self::Triton => "triton",
        }
    }
}

/// Where a task may run.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Placement {
    #[serde(default)]
    pub mode: PlacementMode,
    #[serde(default)]
    pub pin_pool_id: Option<String>,
    #[serde(default)]
    pub prefer_pools: Vec<String>,
    #[serde(default)]
    pub avoid_pools: Vec<String>,
    #[serde(default)]
    pub require_device_mask: Option<String>,
    #[serde(default)]
    pub allow_fallback: Option<bool>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PlacementMode {
    Pin,
    Prefer,
    #[default]
    Auto,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prompt() -> TaskRequest {
        TaskRequest { prompt: Some("hi".into()), ..TaskRequest::new("builtin") }
    }

    #[test]
    fn a_minimal_request_passes() {
        let request: TaskRequest = serde_json::from_str(r#"{"model_ref":"builtin","prompt":"hi"}"#).unwrap();
        assert_eq!(request, prompt());
        request.check().unwrap();
    }

    #[test]
    fn each_violation_names_its_field() {
        let cases: [(TaskRequest, &str); 9] = [
            (TaskRequest::new("builtin"), "prompt"),
            (TaskRequest { messages: Some(vec![]), prompt: None, ..prompt() }, "messages"),
            (TaskRequest { n: 17, ..prompt() }, "n"),
            (TaskRequest { max_tokens: Some(0), ..prompt() }, "max_tokens"),
            (TaskRequest { temperature: Some(f32::NAN), ..prompt() }, "temperature"),
            (TaskRequest { top_p: Some(0.0), ..prompt() }, "top_p"),
            (TaskRequest { stop: vec![String::new()], ..prompt() }, "stop"),
            (TaskRequest { top_logprobs: Some(2), ..prompt() }, "top_logprobs"),
            (TaskRequest { json_schema: Some(serde_json::json!({})), ..prompt() }, "json_schema"),
        ];
        for (request, param) in cases {
            assert_eq!(request.check().unwrap_err().param, param);
        }
    }

    #[test]
    fn an_unknown_field_is_refused_by_name() {
        let error =
            serde_json::from_str::<TaskRequest>(r#"{"model_ref":"m","prompt":"hi","colour":"red"}"#).unwrap_err();
        assert!(error.to_string().contains("colour"), "{error}");
    }
}
