//! From a request to what an engine needs of it: made at admission, and again where a waiting task gets another model.

use std::sync::Arc;
use std::time::Duration;

use sluicegate_compat::native::media::first_of;
use sluicegate_compat::native::{
    Content, Determinism, ErrorEnvelope, KvHint, Message, Modality, OutputMode, TaskRequest, Tool, ToolChoice,
    Workload, detail,
};
use tokio::time::Instant;

use super::batch::{Inputs, too_many_tokens};
use crate::engine::{
    Calling, Chat, Choice, Engine, EngineInfo, Grammar, Material, Prepared, Prompt, PromptError, Reading, Sampling,
    Stated,
};
use crate::pools::{Fitted, Recipe};
use crate::tasks::Limits;

/// A token has at most so many bytes on average, for refusing absurd prompts before they are tokenized.
pub(super) const MOST_BYTES_PER_TOKEN: usize = 64;

/// A byte of a schema takes as long as so many bytes of a prompt.
const WORK_PER_SCHEMA_BYTE: usize = 16;

/// So does a byte of an image, which may be thousands of pixels: none is decoded where others wait for it.
const WORK_PER_SHOWN_BYTE: usize = 4096;

/// Tokens that an image or a recording is guessed to have.
const TOKENS_SHOWN: usize = 1024;

/// As many as a token usually has, for reserving budgets before a model is there to count with.
const BYTES_PER_TOKEN: usize = 4;

/// What a request wants something made of.
enum Texts {
    /// A prompt, and the field that it came in.
    Prompt(Arc<Prompt>, &'static str),
    Inputs(Inputs),
}

/// A request that was checked by itself.
pub(super) struct Asked {
    /// Without the texts of its prompt, and without its schema.
    pub request: TaskRequest,
    texts: Texts,
    /// How its answer is to be read.
    pub reading: Reading,
    /// What its answer must look like.
    pub grammar: Option<Grammar>,
    /// Of the texts.
    bytes: usize,
    /// Of images and recordings.
    shown: usize,
    /// How many there are.
    items: usize,
    /// Of the schemas that the answer is held to.
    held: usize,
    /// Output tokens where the request names none.
    default_max_tokens: u32,
}

impl Asked {
    pub fn new(mut request: TaskRequest, default_max_tokens: u32) -> Self {
        let reading = reading(&request);
        let contents = || request.messages.iter().flatten().filter_map(|message| message.content.as_ref());
        let (shown, items) = (contents().map(Content::shown_len).sum(), contents().map(Content::shown).sum());
        let (texts, bytes) = match request.workload {
            Workload::Completion => {
                let (prompt, param, bytes) = take_prompt(&mut request);
                (Texts::Prompt(Arc::new(prompt), param), bytes)
            }
            Workload::Embedding | Workload::Rerank => {
                let inputs = Inputs::take(&mut request);
                let bytes = inputs.bytes();
                (Texts::Inputs(inputs), bytes)
            }
        };
        let grammar = take_grammar(&mut request);
        let held = held_bytes(&grammar, &reading);
        Self { request, texts, reading, grammar, bytes, shown, items, held, default_max_tokens }
    }

    /// The field that its texts came in.
    pub fn field(&self) -> &'static str {
        match &self.texts {
            Texts::Prompt(_, field) => field,
            Texts::Inputs(_) => "inputs",
        }
    }

    /// Whether it asks for text.
    pub fn has_output(&self) -> bool {
        matches!(self.texts, Texts::Prompt(..))
    }

    /// What the task may use before its prompt can be counted: a guess of the prompt's tokens, and no more output than asked
    /// for.
    pub fn guess(&self) -> Limits {
        let prompt_tokens =
            u32::try_from(self.bytes / BYTES_PER_TOKEN + TOKENS_SHOWN * self.items + 1).unwrap_or(u32::MAX);
        let output = match self.texts {
            Texts::Prompt(..) => self.request.max_tokens.unwrap_or(self.default_max_tokens),
            Texts::Inputs(_) => 0,
        };
        self.with_output(prompt_tokens, output)
    }

    /// The prompt as the engine needs it, counted in the model's own tokens; `bare` as for [`prepared`].
    fn count(
        &self,
        engine: &dyn Engine,
        prompt: &Arc<Prompt>,
        param: &str,
        bare: bool,
    ) -> Result<Prepared, ErrorEnvelope> {
        let context = engine.info().context_length;
        if let Prompt::Chat(chat) = prompt.as_ref() {
            check_shown(&chat.messages, &engine.info().modalities)?;
        }
        if self.bytes / MOST_BYTES_PER_TOKEN > context as usize {
            return Err(too_long(param, None, 1, context));
        }
        let prepared =
            prepared(engine, prompt, bare).map_err(|error| ErrorEnvelope::invalid(error.param, error.message))?;
        if prepared.is_empty() {
            return Err(ErrorEnvelope::invalid(param, "the prompt has no tokens"));
        }
        Ok(prepared)
    }

    /// Tokens of context that the task may use.
    fn context(&self, model_context: u32) -> Result<u32, ErrorEnvelope> {
        if self.request.ctx.is_some_and(|ctx| ctx > model_context) {
            let message = format!("the model's context is {model_context} tokens");
            return Err(ErrorEnvelope::invalid("ctx", message).with_detail("context_length_exceeded"));
        }
        Ok(self.request.ctx.filter(|ctx| *ctx > 0).unwrap_or(model_context))
    }

    /// What the task may use, where prompt and output fit the context.
    fn limits(&self, context: u32, tokens: usize, param: &str) -> Result<Limits, ErrorEnvelope> {
        let prompt_tokens = u32::try_from(tokens).unwrap_or(u32::MAX);
        let left = context.saturating_sub(prompt_tokens);
        let wanted = self.request.max_tokens;
        if wanted.unwrap_or(1) > left {
            return Err(too_long(param, Some(prompt_tokens), wanted.unwrap_or(1), context));
        }
        Ok(self.with_output(prompt_tokens, wanted.unwrap_or(left.min(self.default_max_tokens))))
    }

    fn with_output(&self, prompt_tokens: u32, max_tokens: u32) -> Limits {
        let request = &self.request;
        Limits {
            prompt_tokens,
            max_tokens,
            choices: u16::try_from(request.n).unwrap_or(1),
            alone: request.determinism == Determinism::Strict,
            expected_tokens: request.expected_tokens,
            deadline: request.deadline_ms.map(|ms| Instant::now() + Duration::from_millis(ms)),
        }
    }

    /// The request's own wishes, and the model's for what they leave open.
    fn sampling(&self, plain: &Sampling) -> Sampling {
        let request = &self.request;
        Sampling {
            temperature: request.temperature.unwrap_or(plain.temperature),
            top_p: request.top_p.unwrap_or(plain.top_p),
            top_k: request.top_k.or(plain.top_k),
            min_p: request.min_p.unwrap_or(plain.min_p),
            frequency_penalty: request.frequency_penalty.unwrap_or(plain.frequency_penalty),
            presence_penalty: request.presence_penalty.unwrap_or(plain.presence_penalty),
            repetition_penalty: request.repetition_penalty.unwrap_or(plain.repetition_penalty),
            logit_bias: request.logit_bias.iter().map(|(token, bias)| (*token, *bias)).collect(),
            // Without a seed, random bits: so that one exists, and nobody shares it.
            seed: request.seed.map_or_else(|| uuid::Uuid::new_v4().as_u64_pair().1, i64::cast_unsigned),
            stated: Stated {
                temperature: request.temperature.is_some(),
                top_p: request.top_p.is_some(),
                seed: request.seed.is_some(),
            },
        }
    }
}

impl Recipe for Asked {
    fn bytes(&self) -> usize {
        self.bytes + WORK_PER_SHOWN_BYTE * self.shown + WORK_PER_SCHEMA_BYTE * self.held
    }

    fn prepare(&self, engine: &dyn Engine) -> Result<Fitted, ErrorEnvelope> {
        let info = engine.info();
        check_engine(&self.request, info)?;
        let context = self.context(info.context_length)?;
        let (material, limits) = match &self.texts {
            Texts::Prompt(prompt, param) => {
                let prompt = self.count(engine, prompt, param, false)?;
                let limits = self.limits(context, prompt.len(), param)?;
                let held = engine.hold(self.grammar.as_ref(), &self.reading);
                held.map_err(|error| ErrorEnvelope::invalid(error.param, error.message))?;
                (Material::Prompt(prompt), limits)
            }
            Texts::Inputs(inputs) => {
                let batch = inputs.prepare(engine, context, false)?;
                // There is no output.
                let limits = self.with_output(u32::try_from(batch.tokens()).map_err(|_| too_many_tokens())?, 0);
                (Material::Batch(Arc::new(batch)), limits)
            }
        };
        let (sampling, model_digest) = (self.sampling(&info.sampling), info.model_digest.clone());
        Ok(Fitted { model_digest, material, sampling, limits })
    }
}

/// A request whose prompt is only counted.
pub(super) struct Counted {
    pub asked: Asked,
    /// See [`prepared`].
    pub bare: bool,
}

impl Recipe for Counted {
    fn bytes(&self) -> usize {
        self.asked.bytes + WORK_PER_SHOWN_BYTE * self.asked.shown
    }

    fn prepare(&self, engine: &dyn Engine) -> Result<Fitted, ErrorEnvelope> {
        let (asked, info) = (&self.asked, engine.info());
        let (material, tokens) = match &asked.texts {
            Texts::Prompt(prompt, param) => {
                let prompt = asked.count(engine, prompt, param, self.bare)?;
                let tokens = prompt.len();
                (Material::Prompt(prompt), tokens as u64)
            }
            Texts::Inputs(inputs) => {
                let batch = inputs.prepare(engine, info.context_length, self.bare)?;
                let tokens = batch.tokens();
                (Material::Batch(Arc::new(batch)), tokens as u64)
            }
        };
        let limits = asked.with_output(u32::try_from(tokens).map_err(|_| too_many_tokens())?, 0);
        let (sampling, model_digest) = (asked.sampling(&info.sampling), info.model_digest.clone());
        Ok(Fitted { model_digest, material, sampling, limits })
    }
}

/// A prompt as the engine needs it. `bare`: a text without what the model's makers want around it.
pub(super) fn prepared(engine: &dyn Engine, prompt: &Arc<Prompt>, bare: bool) -> Result<Prepared, PromptError> {
    match (prompt.as_ref(), engine.text()) {
        (Prompt::Text(text), Some(model)) if bare => model.tokenize_bare(text).map(|ids| Prepared::Ids(ids.into())),
        _ => engine.prepare(prompt),
    }
}

/// Moves the prompt out of the request, with the bytes of its texts.
fn take_prompt(request: &mut TaskRequest) -> (Prompt, &'static str, usize) {
    if let Some(prompt) = request.prompt.take() {
        let bytes = prompt.bytes();
        return (prompt.into(), "prompt", bytes);
    }
    let messages = request.messages.take().unwrap_or_default();
    let mut kwargs = request.chat_template_kwargs.take().unwrap_or_default();
    if let Some(effort) = request.reasoning_effort {
        // Templates that know it, such as those of gpt-oss, read this name.
        kwargs.entry("reasoning_effort".to_owned()).or_insert_with(|| effort.as_str().into());
    }
    // A tool that may not be called is not shown.
    let hidden = request.tool_choice == Some(ToolChoice::None);
    let tools = request.tools.clone().filter(|_| !hidden).unwrap_or_default();
    let bytes = messages.iter().map(bytes_of).sum::<usize>()
        + kwargs.values().map(|value| value.to_string().len()).sum::<usize>()
        + tools.iter().map(bytes_of_tool).sum::<usize>();
    let continues = request.continue_final_message;
    (Prompt::Chat(Chat { messages, tools, kwargs, continues }), "messages", bytes)
}

/// What the answer to a request must look like: its schema is moved out of it.
fn take_grammar(request: &mut TaskRequest) -> Option<Grammar> {
    match (request.output_mode, request.json_schema.take()) {
        (OutputMode::Text, _) => None,
        (OutputMode::Json, None) => Some(Grammar::JsonObject),
        (OutputMode::Json, Some(schema)) => Some(Grammar::JsonSchema(schema)),
    }
}

/// Bytes of the schemas that a grammar is made of.
fn held_bytes(grammar: &Option<Grammar>, reading: &Reading) -> usize {
    let answer = if let Some(Grammar::JsonSchema(schema)) = grammar { schema.to_string().len() } else { 0 };
    match reading {
        Reading::Answer(Some(calling)) if calling.is_held() => {
            answer + calling.tools.iter().map(bytes_of_tool).sum::<usize>()
        }
        _ => answer,
    }
}

/// How the answer to a request is to be read.
fn reading(request: &TaskRequest) -> Reading {
    if request.messages.is_none() {
        return Reading::Plain;
    }
    let choice = match &request.tool_choice {
        None | Some(ToolChoice::Auto) => Some(Choice::Free),
        Some(ToolChoice::Required) => Some(Choice::Required),
        Some(ToolChoice::Function(name)) => Some(Choice::Named(name.clone())),
        Some(ToolChoice::None) => None,
    };
    let tools = request.tools.clone().unwrap_or_default();
    let parallel = request.parallel_tool_calls.unwrap_or(true);
    let choice = choice.filter(|_| !tools.is_empty());
    Reading::Answer(choice.map(|choice| Arc::new(Calling { tools, parallel, choice })))
}

fn bytes_of_tool(tool: &Tool) -> usize {
    let function = &tool.function;
    function.name.len()
        + function.description.as_ref().map_or(0, String::len)
        + function.parameters.as_ref().map_or(0, |schema| schema.to_string().len())
        + 64
}

/// Every text of a message, and a little for the message itself.
fn bytes_of(message: &Message) -> usize {
    let of = |text: &Option<String>| text.as_ref().map_or(0, String::len);
    let calls = message.tool_calls.iter().map(|call| call.function.name.len() + call.function.arguments.len());
    message.content.as_ref().map_or(0, |content| content.len())
        + of(&message.name)
        + of(&message.reasoning_content)
        + of(&message.tool_call_id)
        + calls.sum::<usize>()
        + 16
}

/// What only the engine knows.
pub(super) fn check_engine(request: &TaskRequest, info: &EngineInfo) -> Result<(), ErrorEnvelope> {
    if let Some(param) = info.unsupported.iter().find(|param| asks_for(request, param)) {
        let message = format!("`{param}` cannot be followed by the engine that serves this model");
        return Err(ErrorEnvelope::invalid(*param, message).with_detail("unsupported_parameter"));
    }
    if !info.workloads.contains(&request.workload) {
        let message = format!("the model does not serve the workload `{}`", request.workload.as_str());
        return Err(ErrorEnvelope::invalid("workload", message).with_detail("unsupported_value"));
    }
    if let (Some(wanted), Some(whole)) = (request.dimensions, info.dimensions)
        && wanted > whole
    {
        return Err(ErrorEnvelope::invalid("dimensions", format!("the model's vectors have {whole} numbers")));
    }
    check_shown(request.messages.as_deref().unwrap_or_default(), &info.modalities)?;
    let (profile, vocab_size) = (&info.sampler_profile_version, info.vocab_size);
    if request.sampler_profile_version.as_ref().is_some_and(|wanted| wanted != profile) {
        let message = format!("the pool's sampler profile is `{profile}`");
        return Err(ErrorEnvelope::invalid("sampler_profile_version", message));
    }
    if request.logit_bias.last_key_value().is_some_and(|(token, _)| *token >= vocab_size) {
        return Err(ErrorEnvelope::invalid("logit_bias", format!("token ids are below {vocab_size}")));
    }
    Ok(())
}

/// Whether the model takes what the messages show it.
///
/// # Errors
///
/// INVALID_PARAMS with the place of what it does not take.
pub fn check_shown(messages: &[Message], taken: &[Modality]) -> Result<(), ErrorEnvelope> {
    for modality in Modality::ALL.into_iter().filter(|modality| !taken.contains(modality)) {
        if let Some(place) = first_of(messages, modality) {
            let what = modality.as_str();
            let message = format!("Unsupported value: '{place}' does not support {what} parts with this model.");
            return Err(ErrorEnvelope::invalid(place, message).with_detail(detail::UNSUPPORTED_VALUE));
        }
    }
    Ok(())
}

/// Whether a request asks for something by a field that not every engine can follow.
fn asks_for(request: &TaskRequest, param: &str) -> bool {
    match param {
        // A model that is not to call any does not have to know how.
        "tools" => {
            let hidden = request.tool_choice == Some(ToolChoice::None);
            request.tools.as_ref().is_some_and(|tools| !tools.is_empty()) && !hidden
        }
        "determinism" => request.determinism == Determinism::Strict,
        "kv_hint" => request.kv_hint == Some(KvHint::Cold),
        "top_k" => request.top_k.is_some(),
        "min_p" => request.min_p.is_some(),
        "repetition_penalty" => request.repetition_penalty.is_some(),
        "reasoning_effort" => request.reasoning_effort.is_some(),
        "chat_template_kwargs" => request.chat_template_kwargs.is_some(),
        "continue_final_message" => request.continue_final_message,
        _ => false,
    }
}

fn too_long(prompt: &str, prompt_tokens: Option<u32>, max_tokens: u32, context: u32) -> ErrorEnvelope {
    let message = match prompt_tokens {
        Some(tokens) => format!(
            "the model's context is {context} tokens; the prompt has {tokens} and {max_tokens} are asked for as output"
        ),
        None => format!("the model's context is {context} tokens; the prompt is longer"),
    };
    let param = match prompt_tokens {
        Some(tokens) if tokens < context => "max_tokens",
        _ => prompt,
    };
    ErrorEnvelope::invalid(param, message).with_detail("context_length_exceeded")
}
