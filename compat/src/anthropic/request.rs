//! The body of a request to the Messages API, and the task it asks for.

mod body;
mod conversation;
mod tools;

use self::body::{Body, FormatBody, OutputBody, ThinkingBody};
use super::{MessagesContext, Thinking};
use crate::extension::Extension;
use crate::json::{self, Object, invalid, missing, one_of, unsupported_parameter, unsupported_value};
use crate::native::{ErrorEnvelope, OutputMode, ReasoningEffort, TaskRequest, detail};

/// Tokens that the model is given to think, at least.
const LEAST_THINKING: u32 = 1024;

/// Budgets below these mean little and some thinking.
const LITTLE_THINKING: u32 = 4096;
const SOME_THINKING: u32 = 16_384;

/// Reads the body of `POST /v1/messages`. Ranges are not all checked yet: that is [`TaskRequest::check`]'s.
///
/// # Errors
///
/// INVALID_PARAMS with a path as `param` (`messages[0].content`).
pub fn parse(body: &[u8]) -> Result<(TaskRequest, MessagesContext), ErrorEnvelope> {
    let (body, mut context) = read(body)?;
    let max_tokens = body.max_tokens.ok_or_else(|| missing("max_tokens"))?;
    body.thinking.as_ref().map_or(Ok(()), |Object(thinking)| thinking.fits(max_tokens))?;
    let task = body.into_task(&mut context)?;
    Ok((task, context))
}

/// Reads the body of `POST /v1/messages/count_tokens`: the same, without what has to do with the answer.
///
/// # Errors
///
/// As [`parse`].
pub fn parse_count(body: &[u8]) -> Result<(TaskRequest, MessagesContext), ErrorEnvelope> {
    let (body, mut context) = read(body)?;
    context.ignored.extend(body.of_the_answer().map(str::to_owned));
    let mut task = body.into_task(&mut context)?;
    task.max_tokens = None;
    Ok((task, context))
}

fn read(body: &[u8]) -> Result<(Body, MessagesContext), ErrorEnvelope> {
    let (mut body, ignored) = json::parse::<Body>(body)?;
    let mut context = MessagesContext::new(body.model.take().ok_or_else(|| missing("model"))?);
    context.ignored = ignored;
    Ok((body, context))
}

impl Body {
    /// The fields that are there and change nothing about the prompt.
    fn of_the_answer(&self) -> impl Iterator<Item = &'static str> {
        let given = [
            ("max_tokens", self.max_tokens.is_some()),
            ("stop_sequences", self.stop_sequences.is_some()),
            ("temperature", self.temperature.is_some()),
            ("top_p", self.top_p.is_some()),
            ("top_k", self.top_k.is_some()),
            ("stream", self.stream.is_some()),
            ("metadata", self.metadata.is_some()),
            ("service_tier", self.service_tier.is_some()),
        ];
        given.into_iter().filter(|(_, given)| *given).map(|(name, _)| name)
    }

    /// Every field finds its place here: in the task, in `context`, or among the ignored.
    fn into_task(self, context: &mut MessagesContext) -> Result<TaskRequest, ErrorEnvelope> {
        self.refuse_what_is_not_served()?;
        let mut task = TaskRequest::new(context.model.clone());
        let messages = self.messages.ok_or_else(|| missing("messages"))?;
        let (messages, continues) = conversation::translate(self.system, messages, &mut context.ignored)?;
        (task.messages, task.continue_final_message) = (Some(messages), continues);
        task.max_tokens = self.max_tokens;
        task.temperature = self.temperature.map(temperature).transpose()?;
        // The likeliest token is always left.
        task.top_p = self.top_p.map(|top_p| if top_p == 0.0 { f32::MIN_POSITIVE } else { top_p });
        // None is cut off.
        task.top_k = self.top_k.filter(|top_k| *top_k > 0);
        task.stop = self.stop_sequences.unwrap_or_default();
        if let Some(id) = self.metadata.and_then(|Object(metadata)| metadata.user_id) {
            task.metadata.insert("user_id".to_owned(), id);
        }
        tools::translate(&mut task, self.tools.unwrap_or_default(), self.tool_choice)?;
        think(&mut task, context, self.thinking)?;
        shape(&mut task, context, self.output_config, self.output_format)?;
        if let Some(word) = self.service_tier {
            // There is one tier, which both of them come to.
            one_of("service_tier", &word, &[("auto", ()), ("standard_only", ())])?;
        }
        self.sluicegate.map_or(Ok(false), |Object(extension): Object<Extension>| extension.apply(&mut task))?;
        context.priority = task.priority.unwrap_or_default();
        context.stream = self.stream.unwrap_or(false);
        Ok(task)
    }

    fn refuse_what_is_not_served(&self) -> Result<(), ErrorEnvelope> {
        if self.container.is_some() {
            return Err(unsupported_parameter("container"));
        }
        if self.thread.is_some() {
            return Err(unsupported_parameter("thread").with_detail(detail::UNSUPPORTED_THREAD));
        }
        match &self.mcp_servers {
            Some(servers) if !servers.is_empty() => Err(unsupported_parameter("mcp_servers")),
            _ => Ok(()),
        }
    }
}

fn temperature(value: f32) -> Result<f32, ErrorEnvelope> {
    if (0.0..=1.0).contains(&value) { Ok(value) } else { Err(invalid("temperature", "0 to 1")) }
}

impl ThinkingBody {
    /// Whether its budget leaves room for an answer.
    fn fits(&self, max_tokens: u32) -> Result<(), ErrorEnvelope> {
        match self.budget_tokens {
            Some(budget) if budget >= max_tokens => {
                Err(invalid("thinking.budget_tokens", "it is less than 'max_tokens'"))
            }
            _ => Ok(()),
        }
    }
}

#[derive(Clone, Copy)]
enum Mode {
    Enabled,
    Adaptive,
    Disabled,
}

/// Switches the model's reasoning, for templates that know how: they read `reasoning_effort` or `enable_thinking`.
fn think(
    task: &mut TaskRequest,
    context: &mut MessagesContext,
    thinking: Option<Object<ThinkingBody>>,
) -> Result<(), ErrorEnvelope> {
    let Some(Object(thinking)) = thinking else { return Ok(()) };
    let word = thinking.r#type.ok_or_else(|| missing("thinking.type"))?;
    if word == "between_tools" {
        return Err(unsupported_value("thinking.type", "'between_tools'"));
    }
    let modes = [("enabled", Mode::Enabled), ("adaptive", Mode::Adaptive), ("disabled", Mode::Disabled)];
    let mode = one_of("thinking.type", &word, &modes)?;
    let shown = [("summarized", Thinking::Shown), ("omitted", Thinking::Omitted)];
    let shown = thinking.display.as_deref().map(|word| one_of("thinking.display", word, &shown)).transpose()?;
    let effort = match (mode, thinking.budget_tokens) {
        (Mode::Enabled, None) => return Err(missing("thinking.budget_tokens")),
        (Mode::Enabled, Some(..LEAST_THINKING)) => {
            return Err(invalid("thinking.budget_tokens", "at least 1024"));
        }
        (Mode::Enabled, Some(..LITTLE_THINKING)) => Some(ReasoningEffort::Low),
        (Mode::Enabled, Some(..SOME_THINKING)) => Some(ReasoningEffort::Medium),
        (Mode::Enabled, Some(_)) => Some(ReasoningEffort::High),
        (Mode::Adaptive | Mode::Disabled, Some(_)) => {
            return Err(invalid("thinking.budget_tokens", "it goes with the type 'enabled'"));
        }
        (Mode::Adaptive, None) => None,
        (Mode::Disabled, None) => Some(ReasoningEffort::None),
    };
    let enabled = !matches!(mode, Mode::Disabled);
    if enabled {
        context.thinking = shown.unwrap_or(Thinking::Shown);
    }
    task.reasoning_effort = effort;
    task.chat_template_kwargs = Some([("enable_thinking".to_owned(), enabled.into())].into());
    Ok(())
}

/// What the answer must look like, and how much the model is to do for it.
fn shape(
    task: &mut TaskRequest,
    context: &mut MessagesContext,
    config: Option<Object<OutputBody>>,
    older: Option<Object<FormatBody>>,
) -> Result<(), ErrorEnvelope> {
    let OutputBody { effort, format } = config.map(|Object(config)| config).unwrap_or_default();
    if let Some(word) = effort {
        let words = [
            ("low", ReasoningEffort::Low),
            ("medium", ReasoningEffort::Medium),
            ("high", ReasoningEffort::High),
            ("xhigh", ReasoningEffort::Xhigh),
            ("max", ReasoningEffort::Xhigh),
        ];
        let effort = one_of("output_config.effort", &word, &words)?;
        if task.reasoning_effort != Some(ReasoningEffort::None) {
            task.reasoning_effort = Some(effort);
            context.names.effort = "output_config.effort";
        }
    }
    if format.is_some() && older.is_some() {
        return Err(invalid("output_format", "it is the older name of 'output_config.format': give one of them"));
    }
    if older.is_some() {
        context.names.format = "output_format";
    }
    let Some(Object(format)) = format.or(older) else { return Ok(()) };
    let name = context.names.format;
    let word = format.r#type.ok_or_else(|| missing(format!("{name}.type")))?;
    one_of(format!("{name}.type"), &word, &[("json_schema", ())])?;
    task.output_mode = OutputMode::Json;
    task.json_schema = Some(format.schema.ok_or_else(|| missing(format!("{name}.schema")))?);
    Ok(())
}
