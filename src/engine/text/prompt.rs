//! A model's text side: its tokenizer and its chat template, and with them the way from a prompt to token ids.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use serde_json::Value;
use sluicegate_compat::native::{Content, ContentPart, Message, Modality, Role, Tool};
use tokenizers::Tokenizer;

use super::answer::AnswerReader;
use super::bytes::TokenBytes;
use super::markup::{Markup, THINK};
use super::output::Output;
use super::shield::{Shield, Stretch};
use super::template::ChatTemplate;
use crate::engine::{Chat, Prompt, PromptError, Reading};

/// Where a message ends that is to be continued; a Unicode noncharacter, which is never part of interchanged text.
const END: char = '\u{fdd1}';

/// What a model needs to turn prompts into tokens and tokens into text. Immutable; share it.
pub struct TextModel {
    /// Recognises special tokens, for what a template writes.
    tokenizer: Tokenizer,
    /// Takes special tokens' names for plain text, for what callers write.
    literal: Tokenizer,
    template: Option<ChatTemplate>,
    shield: Shield,
    bytes: TokenBytes,
    vocab_size: u32,
    markup: Markup,
    /// Special tokens that are part of the markup.
    markers: Vec<u32>,
}

impl TextModel {
    /// `vocab_size`: how many rows the model's embedding has; a prompt with other ids never reaches it.
    pub fn new(mut tokenizer: Tokenizer, template: Option<ChatTemplate>, vocab_size: u32) -> Self {
        // Some files still carry the cut and the padding of their training.
        let _ = tokenizer.with_truncation(None);
        tokenizer.with_padding(None);
        let mut literal = tokenizer.clone();
        literal.set_encode_special_tokens(true);
        let (shield, bytes) = (Shield::of(&tokenizer), TokenBytes::of(&tokenizer));
        let markup = template.as_ref().map(ChatTemplate::markup).unwrap_or_default();
        let markers = markup.markers().filter_map(|name| tokenizer.token_to_id(name)).collect();
        Self { tokenizer, literal, template, shield, bytes, vocab_size, markup, markers }
    }

    /// How the model writes its answers.
    pub fn markup(&self) -> Markup {
        self.markup
    }

    /// What takes the tokens of an answer to `prompt`.
    pub fn output(&self, stop: Vec<String>, reading: &Reading, prompt: &[u32]) -> Output {
        match reading {
            Reading::Plain => Output::new(stop),
            Reading::Answer(calling) => {
                let thinking = self.is_thinking(reading, prompt);
                Output::read_by(stop, Some(AnswerReader::new(self.markup, calling.clone(), thinking)))
            }
        }
    }

    /// Whether `prompt` has already begun the reasoning of its answer.
    pub fn is_thinking(&self, reading: &Reading, prompt: &[u32]) -> bool {
        self.markup.reasoning && matches!(reading, Reading::Answer(_)) && self.ends_with(prompt, THINK)
    }

    /// The token that was added to the vocabulary under this name, and whether it is a special one.
    pub fn added_token(&self, name: &str) -> Option<(u32, bool)> {
        let token = self.tokenizer.token_to_id(name)?;
        Some((token, self.tokenizer.get_added_tokens_decoder().get(&token)?.special))
    }

    /// What a token adds to the text of an output: the special ones nothing, but for those that its reader looks for.
    pub fn text_of(&self, token: u32, reading: &Reading) -> &[u8] {
        let marker = matches!(reading, Reading::Answer(_)) && self.markers.contains(&token);
        if marker { self.bytes.of_token(token) } else { self.bytes.text_of(token) }
    }

    /// Whether a prompt ends with `mark`, but for white space.
    fn ends_with(&self, prompt: &[u32], mark: &str) -> bool {
        // Each token has a byte at least.
        let last = &prompt[prompt.len().saturating_sub(mark.len() + 8)..];
        let bytes: Vec<u8> = last.iter().flat_map(|&token| self.bytes.of_token(token)).copied().collect();
        bytes.trim_ascii_end().ends_with(mark.as_bytes())
    }

    /// The bytes of each token.
    pub fn bytes(&self) -> &TokenBytes {
        &self.bytes
    }

    /// Token ids are below this.
    pub fn vocab_size(&self) -> u32 {
        self.vocab_size
    }

    /// Renders (for a chat) and tokenizes. A text begins with what the tokenizer puts before every text (such as a token
    /// for the beginning); a conversation begins with what the template writes, and nothing is put before that.
    ///
    /// # Errors
    ///
    /// [`PromptError`] for an empty prompt, unknown token ids, and conversations that the template does not accept.
    pub fn tokenize(&self, prompt: &Prompt) -> Result<Arc<[u32]>, PromptError> {
        let ids: Arc<[u32]> = match prompt {
            Prompt::Text(text) => encode(&self.literal, text, true, "prompt")?.into(),
            Prompt::Tokens(ids) => ids.as_slice().into(),
            Prompt::Chat(chat) => self.tokenize_chat(chat)?.into(),
        };
        let param = if matches!(prompt, Prompt::Chat(_)) { "messages" } else { "prompt" };
        if ids.is_empty() {
            return Err(PromptError { param, message: "the prompt is empty".into() });
        }
        if let Some(id) = ids.iter().find(|&&id| id >= self.vocab_size) {
            let message = format!("token {id} is not in the model's vocabulary of {} tokens", self.vocab_size);
            return Err(PromptError { param, message });
        }
        Ok(ids)
    }

    /// The ids of a plain text alone: nothing that the model's makers want around it.
    ///
    /// # Errors
    ///
    /// [`PromptError`] where it cannot be tokenized.
    pub fn tokenize_bare(&self, text: &str) -> Result<Vec<u32>, PromptError> {
        encode(&self.literal, text, false, "prompt")
    }

    /// What these tokens stand for one after the other, special ones by their names; U+FFFD for what is no character.
    pub fn text_of_all(&self, ids: &[u32]) -> String {
        let bytes: Vec<u8> = ids.iter().flat_map(|&id| self.bytes.of_token(id)).copied().collect();
        String::from_utf8(bytes).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
    }

    /// A token as the vocabulary writes it; `None` for an id that it does not have.
    pub fn name_of(&self, id: u32) -> Option<String> {
        self.tokenizer.id_to_token(id)
    }

    /// A conversation that shows images, with the template's marks for them, as one text. The tokenizer reads it as a whole
    /// then, so callers cannot write the names of special tokens in it.
    ///
    /// # Errors
    ///
    /// [`PromptError`] where they do, and for what the template does not accept.
    pub fn render_shown(&self, chat: &Chat) -> Result<String, PromptError> {
        let rendered = self.render(chat)?;
        let literal = self.shield.stretches(&rendered).into_iter().find_map(|stretch| match stretch {
            Stretch::Literal(name) => Some(name),
            Stretch::Rendered(_) => None,
        });
        match literal {
            Some(name) => {
                let message = format!("in a conversation with images no text can hold {name:?}, a token of the model");
                Err(PromptError { param: "messages", message })
            }
            None => Ok(rendered),
        }
    }

    /// A rendered conversation without the tokens that the tokenizer puts before every text.
    pub fn without_beginning(&self, rendered: String) -> String {
        let begins = self.tokenizer.encode_fast("", true).and_then(|ids| self.tokenizer.decode(ids.get_ids(), false));
        let begins = begins.unwrap_or_default();
        rendered.strip_prefix(&begins).map(str::to_owned).unwrap_or(rendered)
    }

    /// The ids of a rendered text, read in the way that the engine does it where a prompt has images: as ids, as a text
    /// again, with each `mark` in it `expanded`, and as ids.
    ///
    /// # Errors
    ///
    /// [`PromptError`] where it cannot be tokenized.
    pub fn tokenize_expanded(&self, text: &str, mark: &str, expanded: &str) -> Result<Arc<[u32]>, PromptError> {
        let ids = encode(&self.tokenizer, text, true, "messages")?;
        let read = self.tokenizer.decode(&ids, false).map_err(|error| PromptError {
            param: "messages",
            message: format!("the text cannot be tokenized: {error}"),
        })?;
        Ok(encode(&self.tokenizer, &read.replace(mark, expanded), false, "messages")?.into())
    }

    fn tokenize_chat(&self, chat: &Chat) -> Result<Vec<u32>, PromptError> {
        let rendered = self.render(chat)?;
        let mut ids = Vec::new();
        for stretch in self.shield.stretches(&rendered) {
            ids.extend(match stretch {
                Stretch::Rendered(text) => encode(&self.tokenizer, text, false, "messages")?,
                Stretch::Literal(text) => encode(&self.literal, text, false, "messages")?,
            });
        }
        Ok(ids)
    }

    /// Renders with callers' special tokens shielded.
    fn render(&self, chat: &Chat) -> Result<String, PromptError> {
        let fault = |message: String| PromptError { param: "messages", message };
        let template = self.template.as_ref();
        let template = template.ok_or_else(|| fault("this model has no chat template: use a plain prompt".into()))?;
        let rendered = template.render(&self.variables(chat), SystemTime::now(), !chat.continues);
        let mut rendered = rendered
            .map_err(|error| fault(format!("the model's chat template does not accept the conversation: {error}")))?;
        if chat.continues {
            let end = rendered.rfind(END);
            let end = end.ok_or_else(|| fault("the model's chat template lets no message be continued".into()))?;
            rendered.truncate(end);
        }
        Ok(rendered)
    }

    fn variables(&self, chat: &Chat) -> BTreeMap<String, Value> {
        let mut variables = chat.kwargs.clone();
        let mut messages: Vec<Value> = chat.messages.iter().map(|message| self.message(message)).collect();
        if let Some(Value::String(content)) =
            messages.last_mut().filter(|_| chat.continues).map(|last| &mut last["content"])
        {
            content.push(END);
        }
        variables.insert("messages".into(), messages.into());
        let tools = if chat.tools.is_empty() { Value::Null } else { chat.tools.iter().map(tool).collect() };
        variables.insert("tools".into(), tools);
        variables.values_mut().for_each(|value| self.shield.cover_all(value));
        variables
    }

    /// A message as templates expect it: plain text, `system` for `developer`, arguments of calls as objects unless the
    /// template wants them as text.
    fn message(&self, message: &Message) -> Value {
        let mut value = json(message);
        if message.role == Role::Developer {
            value["role"] = "system".into();
        }
        if let Some(Content::Parts(parts)) = &message.content {
            let shows = parts.iter().any(|part| part.modality() != Modality::Text);
            value["content"] =
                if shows { parts_of(parts) } else { parts.iter().map(ContentPart::text).collect::<String>().into() };
        }
        if self.template.as_ref().is_some_and(ChatTemplate::wants_arguments_as_text) {
            return value;
        }
        for (index, call) in message.tool_calls.iter().enumerate() {
            if let Ok(arguments @ Value::Object(_)) = serde_json::from_str(&call.function.arguments) {
                value["tool_calls"][index]["function"]["arguments"] = arguments;
            }
        }
        value
    }
}

/// Parts as the templates of models that see expect them. Neighbouring texts are one, so that what a special token is called
/// cannot be written in two of them.
fn parts_of(parts: &[ContentPart]) -> Value {
    let shown = |what: &str| serde_json::json!({"type": what});
    let texts = parts.chunk_by(|one, next| (one.modality(), next.modality()) == (Modality::Text, Modality::Text));
    let part = |parts: &[ContentPart]| match parts {
        [ContentPart::ImageUrl { .. }] => shown("image"),
        [ContentPart::InputAudio { .. }] => shown("audio"),
        texts => serde_json::json!({"type": "text", "text": texts.iter().map(ContentPart::text).collect::<String>()}),
    };
    texts.map(part).collect()
}

/// A tool as templates expect it: with a schema for its arguments, and without what is not the model's to know.
fn tool(tool: &Tool) -> Value {
    let mut value = json(tool);
    if let Some(function) = value["function"].as_object_mut() {
        function.remove("strict");
        function.entry("parameters").or_insert_with(|| serde_json::json!({"type": "object", "properties": {}}));
    }
    value
}

fn json(value: &impl serde::Serialize) -> Value {
    serde_json::to_value(value).unwrap_or(Value::Null)
}

fn encode(tokenizer: &Tokenizer, text: &str, special: bool, param: &'static str) -> Result<Vec<u32>, PromptError> {
    let fault = |error| PromptError { param, message: format!("the text cannot be tokenized: {error}") };
    Ok(tokenizer.encode_fast(text, special).map_err(fault)?.get_ids().to_vec())
}

#[cfg(test)]
pub mod tests;
