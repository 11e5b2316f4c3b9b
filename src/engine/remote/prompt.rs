//! How many tokens a prompt has for a server elsewhere: exactly where its tokenizer is known, else at most.

use std::path::Path;

use sluicegate_compat::native::Content;
use tokenizers::Tokenizer;

use crate::engine::text::{ChatTemplate, TextModel};
use crate::engine::{Chat, LoadError, Prompt, PromptError};

/// Tokens that a chat template writes around a message, and once around a conversation, at most.
const AROUND: usize = 16;

/// Counts prompts.
pub enum Counter {
    /// With the tokenizer, and where `template` is there also with the chat template.
    Exact { text: Box<TextModel>, template: bool },
    /// No tokenizer makes more tokens than the text has bytes, but for those that are put around it.
    Bytes,
}

impl Counter {
    /// Reads a `tokenizer.json`, and the chat template beside it.
    ///
    /// # Errors
    ///
    /// [`LoadError`] that names the file.
    pub fn load(path: Option<&Path>) -> Result<Self, LoadError> {
        let Some(path) = path else { return Ok(Self::Bytes) };
        let tokenizer = Tokenizer::from_file(path).map_err(|error| fault(path, &error))?;
        let template = path.parent().map(ChatTemplate::in_folder).transpose()?.flatten();
        let vocab_size = u32::try_from(tokenizer.get_vocab_size(true)).unwrap_or(u32::MAX);
        let has_template = template.is_some();
        Ok(Self::Exact { text: Box::new(TextModel::new(tokenizer, template, vocab_size)), template: has_template })
    }

    /// Token ids are below this; without a tokenizer nobody knows.
    pub fn vocab_size(&self) -> u32 {
        match self {
            Self::Exact { text, .. } => text.vocab_size(),
            Self::Bytes => u32::MAX,
        }
    }

    /// Whether texts are counted as the server counts them.
    pub fn is_exact(&self) -> bool {
        matches!(self, Self::Exact { .. })
    }

    /// Tokens of a prompt.
    ///
    /// # Errors
    ///
    /// [`PromptError`] for what the tokenizer or the template does not accept, and for token ids, which cannot be handed on.
    pub fn count(&self, prompt: &Prompt) -> Result<u32, PromptError> {
        let tokens = match (self, prompt) {
            (_, Prompt::Tokens(_)) => {
                let message = "token ids cannot be handed on to the engine of this model".to_owned();
                return Err(PromptError { param: "prompt", message });
            }
            (Self::Exact { text, .. }, Prompt::Text(_)) | (Self::Exact { text, template: true }, Prompt::Chat(_)) => {
                text.tokenize(prompt)?.len()
            }
            (Self::Exact { text, template: false }, Prompt::Chat(chat)) => at_most(chat, |piece| {
                Ok(if piece.is_empty() { 0 } else { text.tokenize(&Prompt::Text(piece.to_owned()))?.len() })
            })?,
            (Self::Bytes, Prompt::Text(text)) if text.is_empty() => 0,
            (Self::Bytes, Prompt::Text(text)) => text.len() + AROUND,
            (Self::Bytes, Prompt::Chat(chat)) => at_most(chat, |piece| Ok(piece.len()))?,
        };
        Ok(u32::try_from(tokens).unwrap_or(u32::MAX))
    }
}

/// The pieces of a conversation, and what a template writes around them.
fn at_most(chat: &Chat, count: impl Fn(&str) -> Result<usize, PromptError>) -> Result<usize, PromptError> {
    let mut tokens = AROUND;
    for message in &chat.messages {
        tokens += AROUND;
        match &message.content {
            Some(Content::Text(text)) => tokens += count(text)?,
            Some(Content::Parts(parts)) => {
                for part in parts {
                    tokens += count(part.text())?;
                }
            }
            None => {}
        }
        for text in [&message.name, &message.reasoning_content, &message.tool_call_id].into_iter().flatten() {
            tokens += count(text)?;
        }
        for call in &message.tool_calls {
            tokens += AROUND + count(&call.function.name)? + count(&call.function.arguments)?;
        }
    }
    for tool in &chat.tools {
        tokens += AROUND + count(&serde_json::to_string(tool).unwrap_or_default())?;
    }
    Ok(tokens)
}

fn fault(path: &Path, what: &dyn std::fmt::Display) -> LoadError {
    LoadError(format!("{}: {what}", path.display()))
}

#[cfg(test)]
mod tests {
    use sluicegate_compat::native::{Message, Role};

    use super::*;

    #[test]
    fn without_a_tokenizer_bytes_are_the_bound() {
        let counter = Counter::load(None).unwrap();
        assert_eq!(counter.count(&Prompt::Text("héllo".into())).unwrap(), 6 + 16);
        let messages = vec![Message::text(Role::User, "hello"), Message::text(Role::Assistant, "you")];
        assert_eq!(counter.count(&Prompt::Chat(Chat { messages, ..Chat::default() })).unwrap(), 16 * 3 + 8);
        assert_eq!(counter.count(&Prompt::Tokens(vec![1])).unwrap_err().param, "prompt");
        assert_eq!(counter.count(&Prompt::Text(String::new())).unwrap(), 0);
    }
}
