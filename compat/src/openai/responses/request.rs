//! The body of `POST /v1/responses`, and the task it asks for.

use std::collections::{BTreeMap, HashSet};

use serde_json::{Value, json};
use uuid::Uuid;

use super::ID_PREFIX;
use super::body::{Body, ChoiceBody, FormatBody, ReasoningBody, TextBody, ToolBody};
use super::compose::Answer;
use super::history::{self, Added};
use super::item::{self, Item};
use super::record::{Echo, Moment, Record, Truncation};
use crate::dialect::pass_over;
use crate::json::{self, Object, StringOrObject, invalid, missing, not_served, one_of, unsupported_parameter};
use crate::native::{
    ErrorCode, ErrorEnvelope, FunctionDefinition, FunctionTag, OutputMode, ReasoningEffort, TaskRequest, Tool,
    ToolChoice, detail,
};
use crate::openai::fields::{self, ONLY_FUNCTIONS};

/// A request that is well formed and asks for nothing that is not served; what it refers to has yet to be found.
#[derive(Debug)]
pub struct Asked {
    /// What the response asks for, but for its conversation.
    pub task: TaskRequest,
    echo: Echo,
    added: Vec<Added>,
    logprobs: bool,
    /// Whether the answer is a stream.
    pub stream: bool,
    /// Fields of the body that have no effect, for the header `x-sluicegate-ignored`; visible ASCII without commas.
    pub ignored: Vec<String>,
}

/// Finds what was answered before, by the task that answered it; `None` where that is not kept, or no response.
pub trait Prior {
    fn answer(&self, task: Uuid) -> Option<Answer>;
}

/// Reads a body.
///
/// # Errors
///
/// INVALID_PARAMS with a path as `param` (`input[0].content`), and the `detail` that OpenAI's `code` has.
pub fn parse(body: &[u8]) -> Result<Asked, ErrorEnvelope> {
    let (body, ignored) = json::parse::<Body>(body)?;
    body.into_asked(ignored)
}

impl Asked {
    /// Whether the response is to be found later.
    pub const fn is_stored(&self) -> bool {
        self.echo.store
    }

    /// Whether the response is made whether anybody waits for it or not.
    pub const fn is_background(&self) -> bool {
        self.echo.background
    }

    /// Whether what was answered before is part of the conversation.
    pub fn goes_on(&self) -> bool {
        let refers = |added: &Added| matches!(added, Added::Reference(_));
        self.echo.previous_response_id.is_some() || self.added.iter().any(refers)
    }

    /// The task, and what the response is known by. `new` is its id where the client has chosen none.
    ///
    /// # Errors
    ///
    /// What the request refers to is not there, or it and that make no conversation.
    pub fn into_task(self, new: Uuid, prior: &impl Prior) -> Result<(TaskRequest, Record), ErrorEnvelope> {
        let Self { mut task, mut echo, added, logprobs, .. } = self;
        let task_id = *task.task_id.get_or_insert(new);
        echo.service_tier = echo.service_tier.served_at(task.priority.unwrap_or_default());
        let mut earlier = Earlier { prior, answers: BTreeMap::new() };
        let mut items = match &echo.previous_response_id {
            None => Vec::new(),
            Some(id) => earlier.conversation(id)?,
        };
        let first = items.len();
        for (index, added) in added.into_iter().enumerate() {
            items.push(match added {
                Added::Item(item) => item,
                Added::Reference(id) => earlier.item(&id, index)?,
            });
        }
        let mut record = Record { task_id, items, logprobs, echo };
        record.name_items(first);
        task.messages = Some(history::messages(record.echo.instructions.as_deref(), &record.items)?);
        Ok((task, record))
    }
}

/// What was answered before, each looked up once however often a request refers to it.
struct Earlier<'a, P> {
    prior: &'a P,
    answers: BTreeMap<Uuid, Option<Answer>>,
}

impl<P: Prior> Earlier<'_, P> {
    fn answer(&mut self, task: Uuid) -> Option<&Answer> {
        self.answers.entry(task).or_insert_with(|| self.prior.answer(task)).as_ref()
    }

    /// The conversation up to the end of a response.
    fn conversation(&mut self, id: &str) -> Result<Vec<Item>, ErrorEnvelope> {
        let refused = |message: String, code: &'static str| {
            Err(ErrorEnvelope::invalid("previous_response_id", message).with_detail(code))
        };
        let shown: String = id.chars().take(64).collect();
        let task = id.strip_prefix(ID_PREFIX).and_then(|id| Uuid::try_parse(id).ok());
        let Some(answer) = task.and_then(|task| self.answer(task)) else {
            return refused(format!("Previous response with id '{shown}' not found."), detail::NO_PREVIOUS_RESPONSE);
        };
        if !matches!(answer.moment(), Moment::Over(_)) {
            return refused(format!("Previous response with id '{shown}' has not ended."), detail::INVALID_VALUE);
        }
        Ok(answer.conversation().cloned().collect())
    }

    /// The item that the one at `index` of a request stands for.
    fn item(&mut self, id: &str, index: usize) -> Result<Item, ErrorEnvelope> {
        let found = item::place(id).and_then(|(task, place)| self.answer(task)?.item(place));
        found.filter(|item| item.id() == id).cloned().ok_or_else(|| {
            let shown: String = id.chars().take(64).collect();
            let error = ErrorEnvelope::new(ErrorCode::NotFound, format!("Item with id '{shown}' not found."));
            ErrorEnvelope { param: Some(format!("input[{index}].id")), ..error }
        })
    }
}

impl Body {
    /// Every field finds its place here: in the task, in what is repeated of it, or among the ignored.
    fn into_asked(self, mut ignored: Vec<String>) -> Result<Asked, ErrorEnvelope> {
        let model = self.model.ok_or_else(|| missing("model"))?;
        let refused = [("conversation", self.conversation.is_some()), ("prompt", self.prompt.is_some())];
        if let Some((param, _)) = refused.into_iter().find(|(_, given)| *given) {
            return Err(unsupported_parameter(param));
        }
        let (background, store) = (self.background.unwrap_or(false), self.store.unwrap_or(true));
        if background && !store {
            return Err(invalid("background", "a response in the background has to be stored"));
        }
        let mut task = TaskRequest::new(model.clone());
        let added = match self.input {
            Some(input) => history::read(input, &mut ignored)?,
            None => return Err(missing("input")),
        };
        task.max_tokens = self.max_output_tokens;
        task.temperature = self.temperature;
        task.top_p = self.top_p;
        let logprobs = includes_logprobs(self.include.as_deref().unwrap_or_default(), &mut ignored)?;
        task.logprobs = logprobs || self.top_logprobs.is_some_and(|top| top > 0);
        task.top_logprobs = self.top_logprobs.filter(|_| task.logprobs);
        task.metadata = self.metadata.clone().unwrap_or_default();
        let (reasoning, effort) = reasoning(self.reasoning, &mut ignored)?;
        task.reasoning_effort = effort;
        let (text, format) = text(self.text, &mut ignored)?;
        (task.output_mode, task.json_schema) = format;
        let tools = self.tools.unwrap_or_default();
        let tools = tools.into_iter().enumerate().map(|(index, Object(body))| tool(body, &format!("tools[{index}]")));
        let tools = tools.collect::<Result<Vec<_>, _>>()?;
        let echoed = tools.iter().map(echo_of_tool).collect();
        let choice = self.tool_choice.map(Choice::read).transpose()?;
        let tool_choice = choice.as_ref().map_or_else(|| json!("auto"), Choice::echo);
        (task.tools, task.tool_choice) = choose(tools, choice)?;
        task.parallel_tool_calls = self.parallel_tool_calls;
        let tier = self.service_tier.as_deref().map(fields::service_tier).transpose()?.unwrap_or_default();
        task.priority = tier.priority();
        if let Some(Object(extension)) = self.sluicegate {
            extension.apply(&mut task)?;
        }
        if let Some(word) = self.truncation {
            // What does not fit is refused; so this says something only where it would have been cut.
            if one_of("truncation", &word, &[("auto", true), ("disabled", false)])? {
                ignored.push("truncation".to_owned());
            }
        }
        let stream = self.stream.unwrap_or(false);
        if fields::include_usage(stream, self.stream_options, &mut ignored)? {
            ignored.push("stream_options.include_usage".to_owned());
        }
        task.affinity.clone_from(&self.prompt_cache_key);
        let echo = Echo {
            background,
            instructions: self.instructions,
            max_output_tokens: self.max_output_tokens,
            max_tool_calls: self.max_tool_calls,
            metadata: task.metadata.clone(),
            model,
            parallel_tool_calls: self.parallel_tool_calls.unwrap_or(true),
            previous_response_id: self.previous_response_id,
            prompt_cache_key: self.prompt_cache_key,
            reasoning,
            safety_identifier: self.safety_identifier,
            service_tier: tier,
            store,
            temperature: self.temperature,
            text,
            tool_choice,
            tools: echoed,
            top_logprobs: self.top_logprobs.unwrap_or(0),
            top_p: self.top_p,
            truncation: Truncation::Disabled,
            user: self.user,
        };
        Ok(Asked { logprobs: task.logprobs, task, echo, added, stream, ignored })
    }
}

/// Whether log-probabilities are wanted; what else may be included and has no effect is of tools that are not served.
fn includes_logprobs(include: &[String], ignored: &mut Vec<String>) -> Result<bool, ErrorEnvelope> {
    const LOGPROBS: &str = "message.output_text.logprobs";
    let known = [
        (LOGPROBS, true),
        ("reasoning.encrypted_content", false),
        ("file_search_call.results", false),
        ("web_search_call.results", false),
        ("web_search_call.action.sources", false),
        // They are there always.
        ("message.input_image.image_url", true),
        ("computer_call_output.output.image_url", false),
        ("code_interpreter_call.outputs", false),
    ];
    let mut logprobs = false;
    for (index, word) in include.iter().enumerate() {
        if !one_of(format!("include[{index}]"), word, &known)? {
            pass_over(&format!("include.{word}"), ignored);
        }
        logprobs |= word == LOGPROBS;
    }
    Ok(logprobs)
}

fn reasoning(
    body: Option<Object<ReasoningBody>>,
    ignored: &mut Vec<String>,
) -> Result<(Value, Option<ReasoningEffort>), ErrorEnvelope> {
    let Object(body) = body.unwrap_or(Object(ReasoningBody::default()));
    for (field, given) in
        [("reasoning.summary", body.summary.is_some()), ("reasoning.generate_summary", body.generate_summary.is_some())]
    {
        if given {
            ignored.push(field.to_owned());
        }
    }
    let effort = body.effort.as_deref();
    let read = effort.map(|word| fields::reasoning_effort("reasoning.effort", word)).transpose()?;
    Ok((json!({"effort": effort, "summary": null}), read))
}

/// How the answer looks: as it is repeated, and as it is asked of the engine.
type Text = (Value, (OutputMode, Option<Value>));

fn text(body: Option<Object<TextBody>>, ignored: &mut Vec<String>) -> Result<Text, ErrorEnvelope> {
    let Object(TextBody { format, verbosity }) = body.unwrap_or(Object(TextBody::default()));
    if let Some(word) = &verbosity
        && one_of("text.verbosity", word, &[("low", true), ("medium", false), ("high", true)])?
    {
        ignored.push("text.verbosity".to_owned());
    }
    let echo = |format: Value| json!({"format": format, "verbosity": verbosity.as_deref().unwrap_or("medium")});
    let Some(Object(format)) = format else { return Ok((echo(json!({"type": "text"})), (OutputMode::Text, None))) };
    let FormatBody { r#type, name, description, schema, strict } = format;
    let word = r#type.ok_or_else(|| missing("text.format.type"))?;
    let words =
        [("text", OutputFormat::Text), ("json_object", OutputFormat::Object), ("json_schema", OutputFormat::Schema)];
    match one_of("text.format.type", &word, &words)? {
        OutputFormat::Text => Ok((echo(json!({"type": "text"})), (OutputMode::Text, None))),
        OutputFormat::Object => Ok((echo(json!({"type": "json_object"})), (OutputMode::Json, None))),
        OutputFormat::Schema => {
            let name = name.ok_or_else(|| missing("text.format.name"))?;
            let schema = schema.ok_or_else(|| missing("text.format.schema"))?;
            let format = json!({
                "type": "json_schema", "name": name, "description": description, "schema": schema, "strict": strict,
            });
            Ok((echo(format), (OutputMode::Json, Some(schema))))
        }
    }
}

#[derive(Clone, Copy)]
enum OutputFormat {
    Text,
    Object,
    Schema,
}

fn tool(body: ToolBody, path: &str) -> Result<FunctionDefinition, ErrorEnvelope> {
    match body.r#type.as_deref() {
        Some("function") => {}
        Some(_) => return Err(not_served(format!("{path}.type"), ONLY_FUNCTIONS)),
        None => return Err(missing(format!("{path}.type"))),
    }
    Ok(FunctionDefinition {
        name: body.name.ok_or_else(|| missing(format!("{path}.name")))?,
        description: body.description,
        parameters: body.parameters,
        strict: body.strict,
    })
}

fn echo_of_tool(function: &FunctionDefinition) -> Value {
    json!({
        "type": "function",
        "name": function.name,
        "description": function.description,
        "parameters": function.parameters,
        "strict": function.strict,
    })
}

/// Whether and what the model must call.
enum Choice {
    Of(ToolChoice),
    /// One of these, or none of them where the mode says so.
    Among(ToolChoice, Vec<String>),
}

impl Choice {
    fn read(choice: StringOrObject<Object<ChoiceBody>>) -> Result<Self, ErrorEnvelope> {
        let body = match choice {
            StringOrObject::String(word) => {
                let words =
                    [("none", &ToolChoice::None), ("auto", &ToolChoice::Auto), ("required", &ToolChoice::Required)];
                return one_of("tool_choice", &word, &words).cloned().map(Self::Of);
            }
            StringOrObject::Object(Object(body)) => body,
        };
        match body.r#type.as_deref() {
            Some("function") => {
                body.name.map(|name| Self::Of(ToolChoice::Function(name))).ok_or_else(|| missing("tool_choice.name"))
            }
            Some("allowed_tools") => {
                let mode = body.mode.ok_or_else(|| missing("tool_choice.mode"))?;
                let must = one_of("tool_choice.mode", &mode, &[("auto", false), ("required", true)])?;
                let tools = body.tools.ok_or_else(|| missing("tool_choice.tools"))?;
                let name = |(index, Object(body)): (usize, Object<ToolBody>)| {
                    tool(body, &format!("tool_choice.tools[{index}]")).map(|function| function.name)
                };
                let names = tools.into_iter().enumerate().map(name).collect::<Result<_, _>>()?;
                Ok(Self::Among(if must { ToolChoice::Required } else { ToolChoice::Auto }, names))
            }
            Some(_) => Err(not_served("tool_choice.type", ONLY_FUNCTIONS)),
            None => Err(missing("tool_choice.type")),
        }
    }

    fn echo(&self) -> Value {
        let word = |choice: &ToolChoice| match choice {
            ToolChoice::None => json!("none"),
            ToolChoice::Auto => json!("auto"),
            ToolChoice::Required => json!("required"),
            ToolChoice::Function(name) => json!({"type": "function", "name": name}),
        };
        match self {
            Self::Of(choice) => word(choice),
            Self::Among(mode, names) => {
                let tools: Vec<_> = names.iter().map(|name| json!({"type": "function", "name": name})).collect();
                json!({"type": "allowed_tools", "mode": word(mode), "tools": tools})
            }
        }
    }
}

/// The tools that the model may call, and how free it is; without tools, a choice that forces none is left out.
fn choose(
    tools: Vec<FunctionDefinition>,
    choice: Option<Choice>,
) -> Result<(Option<Vec<Tool>>, Option<ToolChoice>), ErrorEnvelope> {
    let of_function = |function| Tool { r#type: FunctionTag::Function, function };
    let (tools, choice) = match choice {
        Some(Choice::Among(mode, names)) => {
            let known: HashSet<_> = tools.iter().map(|tool| tool.name.as_str()).collect();
            if let Some(index) = names.iter().position(|name| !known.contains(name.as_str())) {
                return Err(invalid(format!("tool_choice.tools[{index}].name"), "no tool has this name"));
            }
            let names: HashSet<_> = names.into_iter().collect();
            (tools.into_iter().filter(|tool| names.contains(&tool.name)).collect(), Some(mode))
        }
        Some(Choice::Of(choice)) => (tools, Some(choice)),
        None => (tools, None),
    };
    if tools.is_empty() {
        return Ok((None, choice.filter(|choice| !matches!(choice, ToolChoice::None | ToolChoice::Auto))));
    }
    Ok((Some(tools.into_iter().map(of_function).collect()), choice))
}
