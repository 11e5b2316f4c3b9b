//! `POST /tokenize` and `POST /detokenize`, in the shapes of vLLM.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::chat::{self, MessageBody, ToolBody};
use crate::json::{self, Object, invalid, missing, unsupported_parameter, unsupported_value};
use crate::native::{ErrorEnvelope, Input, TaskRequest, detail};

/// The body of `POST /tokenize` on the wire. Null is the same as absent.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Body {
    model: Option<String>,
    prompt: Option<String>,
    messages: Option<Vec<Object<MessageBody>>>,
    tools: Option<Vec<Object<ToolBody>>>,
    add_special_tokens: Option<bool>,
    add_generation_prompt: Option<bool>,
    return_token_strs: Option<bool>,
    chat_template_kwargs: Option<BTreeMap<String, Value>>,

    continue_final_message: Option<bool>,
    /// Understood, and refused: a conversation is rendered as it is for an answer.
    chat_template: Option<String>,
}

/// The body of `POST /detokenize` on the wire.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct TokensBody {
    model: Option<String>,
    tokens: Option<Vec<u32>>,
}

/// What is to be told of a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenizeContext {
    /// Whether a plain text gets what the model's makers want around it.
    pub add_special_tokens: bool,
    /// Whether each token is also told as the vocabulary writes it.
    pub return_token_strs: bool,
    /// Fields of the body that have no effect, for the header `x-sluicegate-ignored`.
    pub ignored: Vec<String>,
}

/// The tokens that a text is to be made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DetokenizeRequest {
    pub model: String,
    pub tokens: Vec<u32>,
    /// As in [`TokenizeContext`].
    pub ignored: Vec<String>,
}

/// The body of an answer to `POST /tokenize`.
#[derive(Debug, Serialize)]
pub struct Tokenized<'a> {
    pub count: usize,
    pub max_model_len: u32,
    pub tokens: &'a [u32],
    pub token_strs: Option<&'a [String]>,
}

/// The body of an answer to `POST /detokenize`.
#[derive(Debug, Serialize)]
pub struct Detokenized {
    pub prompt: String,
}

/// Reads the body of `POST /tokenize`: a request with the prompt, of which no task is made.
///
/// # Errors
///
/// INVALID_PARAMS with a path as `param`.
pub fn parse(body: &[u8]) -> Result<(TaskRequest, TokenizeContext), ErrorEnvelope> {
    let (body, mut ignored) = json::parse::<Body>(body)?;
    let mut task = TaskRequest::new(body.model.ok_or_else(|| missing("model"))?);
    let conversation = body.messages.is_some();
    if body.chat_template.is_some() {
        return Err(unsupported_parameter("chat_template"));
    }
    task.continue_final_message = body.continue_final_message.unwrap_or(false);
    if task.continue_final_message && body.add_generation_prompt == Some(true) {
        let both = invalid("continue_final_message", "an answer begins anew where 'add_generation_prompt' says so");
        return Err(both.with_detail(detail::PARAMETER_COMBINATION));
    }
    match (body.prompt, body.messages) {
        (Some(prompt), None) => {
            task.prompt = Some(Input::Text(prompt));
            // A conversation has these.
            let without_effect = [
                ("tools", body.tools.is_some()),
                ("add_generation_prompt", body.add_generation_prompt.is_some()),
                ("chat_template_kwargs", body.chat_template_kwargs.is_some()),
                ("continue_final_message", task.continue_final_message),
            ];
            task.continue_final_message = false;
            ignored.extend(without_effect.iter().filter(|(_, there)| *there).map(|(name, _)| (*name).to_owned()));
        }
        (None, Some(messages)) => {
            let (messages, tools) = chat::conversation(messages, body.tools, &mut ignored)?;
            (task.messages, task.tools) = (Some(messages), tools);
            let mut kwargs = body.chat_template_kwargs.unwrap_or_default();
            if let Some(add) = body.add_generation_prompt {
                kwargs.insert("add_generation_prompt".to_owned(), add.into());
            }
            task.chat_template_kwargs = Some(kwargs).filter(|kwargs| !kwargs.is_empty());
        }
        (None, None) => return Err(missing("prompt")),
        (Some(_), Some(_)) => {
            let both = invalid("messages", "either 'prompt' or 'messages' says what is to be tokenized");
            return Err(both.with_detail(detail::PARAMETER_COMBINATION));
        }
    }
    if conversation && body.add_special_tokens == Some(true) {
        return Err(unsupported_value("add_special_tokens", "more around a conversation than its template writes"));
    }
    let add_special_tokens = body.add_special_tokens.unwrap_or(!conversation);
    let return_token_strs = body.return_token_strs.unwrap_or(false);
    Ok((task, TokenizeContext { add_special_tokens, return_token_strs, ignored }))
}

/// Reads the body of `POST /detokenize`.
///
/// # Errors
///
/// INVALID_PARAMS with a path as `param`.
pub fn parse_tokens(body: &[u8]) -> Result<DetokenizeRequest, ErrorEnvelope> {
    let (body, ignored) = json::parse::<TokensBody>(body)?;
    let model = body.model.ok_or_else(|| missing("model"))?;
    let tokens = body.tokens.ok_or_else(|| missing("tokens"))?;
    Ok(DetokenizeRequest { model, tokens, ignored })
}

/// `envelope` with its `param` in the client's words.
#[must_use]
pub fn rename(envelope: ErrorEnvelope) -> ErrorEnvelope {
    super::rename(envelope, |native| match native {
        "model_ref" | "workload" => "model".to_owned(),
        "inputs[0]" | "inputs" => "prompt".to_owned(),
        same => same.to_owned(),
    })
}
