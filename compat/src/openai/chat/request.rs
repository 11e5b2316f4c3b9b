//! The body of `POST /v1/chat/completions`, and the task it asks for.

mod body;
mod message;
mod output;
mod tools;

use self::body::Body;
pub(in crate::openai) use self::body::{MessageBody, ToolBody};
use super::context::ParamNames;
use super::{CallStyle, ChatContext};
use crate::json::{self, Object, missing, unsupported_parameter};
use crate::native::{ErrorEnvelope, Message, TaskRequest, Tool, detail};
use crate::openai::extension::Extension;
use crate::openai::fields;

/// A chat request that is well formed and asks for nothing that is not served. Ranges are not checked yet: that is
/// [`TaskRequest::check`]'s.
#[derive(Debug, Clone, PartialEq)]
pub struct ChatRequest {
    task: TaskRequest,
    context: ChatContext,
}

/// Reads a body.
///
/// # Errors
///
/// INVALID_PARAMS with a path as `param` (`messages[0].content`), and the `detail` that OpenAI's `code` has.
pub fn parse(body: &[u8]) -> Result<ChatRequest, ErrorEnvelope> {
    let (mut body, ignored) = json::parse::<Body>(body)?;
    let mut context = ChatContext::new(body.model.take().ok_or_else(|| missing("model"))?);
    context.ignored = ignored;
    body.refuse_what_is_not_served()?;
    let task = body.into_task(&mut context)?;
    Ok(ChatRequest { task, context })
}

/// The conversation in a request to another endpoint, which says it in the same words.
///
/// # Errors
///
/// As [`parse`].
pub(in crate::openai) fn conversation(
    messages: Vec<Object<MessageBody>>,
    tools: Option<Vec<Object<ToolBody>>>,
    ignored: &mut Vec<String>,
) -> Result<(Vec<Message>, Option<Vec<Tool>>), ErrorEnvelope> {
    let messages = message::translate(messages, ignored)?;
    let (tools, _) = tools::translate(tools, None, None, None, &mut ParamNames::default())?;
    Ok((messages, tools))
}

/// The name that the client used for the field that is `native` in the task request.
pub fn openai_param(native: &str, request: &ChatRequest) -> String {
    request.context.param(native)
}

impl ChatRequest {
    /// Fields of the body that have no effect, for the header `x-sluicegate-ignored`.
    pub fn ignored(&self) -> &[String] {
        &self.context.ignored
    }

    /// The request's parts: what the gateway does, and what the answer needs to know.
    pub fn into_task(self) -> (TaskRequest, ChatContext) {
        (self.task, self.context)
    }
}

impl Body {
    fn refuse_what_is_not_served(&self) -> Result<(), ErrorEnvelope> {
        let refused = [
            ("audio", self.audio.is_some()),
            ("web_search_options", self.web_search_options.is_some()),
            ("prediction", self.prediction.is_some()),
        ];
        if let Some((param, _)) = refused.into_iter().find(|(_, given)| *given) {
            return Err(unsupported_parameter(param));
        }
        output::check_modalities(self.modalities.as_deref().unwrap_or_default())
    }

    /// Every field finds its place here: in the task, in `context`, or among the ignored.
    fn into_task(self, context: &mut ChatContext) -> Result<TaskRequest, ErrorEnvelope> {
        let mut task = TaskRequest::new(context.model.clone());
        task.messages =
            Some(message::translate(self.messages.ok_or_else(|| missing("messages"))?, &mut context.ignored)?);
        context.names.max_tokens = if self.max_tokens.is_some() && self.max_completion_tokens.is_none() {
            "max_tokens"
        } else {
            "max_completion_tokens"
        };
        task.max_tokens = one_limit(self.max_tokens, self.max_completion_tokens)?;
        task.temperature = self.temperature;
        task.top_p = self.top_p;
        task.top_k = self.top_k;
        task.min_p = self.min_p;
        task.frequency_penalty = self.frequency_penalty;
        task.presence_penalty = self.presence_penalty;
        task.repetition_penalty = self.repetition_penalty;
        task.seed = self.seed;
        task.n = self.n.unwrap_or(1);
        task.stop = fields::stop_strings(self.stop);
        task.logit_bias = fields::logit_bias(self.logit_bias.unwrap_or_default())?;
        task.logprobs = self.logprobs.unwrap_or(false);
        task.top_logprobs = self.top_logprobs;
        task.metadata = self.metadata.unwrap_or_default();
        fields::note(&mut task, "user", self.user, &mut context.ignored);
        fields::note(&mut task, "safety_identifier", self.safety_identifier, &mut context.ignored);
        task.chat_template_kwargs = self.chat_template_kwargs;
        let effort = self.reasoning_effort.as_deref();
        task.reasoning_effort = effort.map(|word| fields::reasoning_effort("reasoning_effort", word)).transpose()?;
        (task.output_mode, task.json_schema) = output::translate(self.response_format)?;
        let tools =
            tools::translate(self.tools, self.functions, self.tool_choice, self.function_call, &mut context.names)?;
        (task.tools, task.tool_choice) = tools;
        task.parallel_tool_calls = self.parallel_tool_calls;
        if context.names.tools == "functions" && task.tools.is_some() {
            // An answer in the older form has room for one call.
            context.calls = CallStyle::Function;
            task.parallel_tool_calls = Some(false);
        }
        urgency(&mut task, context, self.service_tier.as_deref(), self.sluicegate)?;
        context.unstored = self.store == Some(false);
        if self.store == Some(true) {
            context.ignored.push("store".to_owned());
        }
        context.stream = self.stream.unwrap_or(false);
        context.include_usage = fields::include_usage(context.stream, self.stream_options, &mut context.ignored)?;
        context.n = task.n;
        context.logprobs = task.logprobs;
        task.affinity = self.prompt_cache_key;
        Ok(task)
    }
}

/// `max_tokens` and its newer name may both be given where they agree.
fn one_limit(old: Option<u32>, new: Option<u32>) -> Result<Option<u32>, ErrorEnvelope> {
    if old.is_some() && new.is_some() && old != new {
        let message = "Setting 'max_tokens' and 'max_completion_tokens' to different values is not supported.";
        return Err(ErrorEnvelope::invalid("max_tokens", message).with_detail(detail::PARAMETER_COMBINATION));
    }
    Ok(new.or(old))
}

/// Priority, deadline, session and place. `sluicegate.priority` outranks the service tier.
fn urgency(
    task: &mut TaskRequest,
    context: &mut ChatContext,
    tier: Option<&str>,
    extension: Option<Object<Extension>>,
) -> Result<(), ErrorEnvelope> {
    let tier = tier.map(fields::service_tier).transpose()?.unwrap_or_default();
    task.priority = tier.priority();
    if extension.map_or(Ok(false), |Object(extension)| extension.apply(task))? {
        context.names.priority = "sluicegate.priority";
    }
    context.service_tier = tier.served_at(task.priority.unwrap_or_default());
    Ok(())
}

impl ParamNames {
    /// Remembers that the client wrote the names that `tools` and `tool_choice` had before.
    fn use_legacy_tools(&mut self) {
        self.tools = "functions";
        self.tool_choice = "function_call";
    }
}
