//! Renders conversations with a model's own chat template, as Hugging Face's `apply_chat_template` does.
//!
//! Templates are Jinja with `trim_blocks` and `lstrip_blocks`, Python's string methods, and the helpers
//! `raise_exception`, `strftime_now` and a `tojson` that writes as Python's `json.dumps` does.

mod date;
mod json;

use std::collections::BTreeMap;
use std::fmt::Display;
use std::path::Path;
use std::time::SystemTime;

use minijinja::{Environment, ErrorKind};
use serde_json::Value;

use super::markup::Markup;
use crate::engine::LoadError;

/// A model's chat template with the names of the special tokens it may write.
#[derive(Debug, Clone, Default)]
pub struct ChatTemplate {
    source: String,
    /// Used instead of `source` when there are tools, where the model has one.
    tool_source: Option<String>,
    /// `bos_token`, `eos_token` and the like.
    special_tokens: BTreeMap<&'static str, String>,
    /// Whether it wants the arguments of calls as text, and not as objects.
    arguments_as_text: bool,
}

/// A template that does not parse, or a conversation that it does not accept.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct TemplateError(pub String);

/// An argument that shows whether a template writes arguments at all.
const PROBE: &str = "probe_of_arguments";

const SPECIAL_TOKENS: [&str; 4] = ["bos_token", "eos_token", "unk_token", "pad_token"];

impl ChatTemplate {
    /// `template`: a string, or a list of `{"name", "template"}` of which `default` and `tool_use` count.
    /// `tokenizer_config` is the parsed file of that name, for the special tokens; null where there is none.
    ///
    /// # Errors
    ///
    /// Where there is no usable template, or it does not parse.
    pub fn new(template: &Value, tokenizer_config: &Value) -> Result<Self, TemplateError> {
        let named = |name: &str| {
            let found = template.as_array()?.iter().find(|entry| entry["name"] == name)?;
            found["template"].as_str()
        };
        let source = template.as_str().or_else(|| named("default")).or_else(|| named("tool_use"));
        let source = source.ok_or_else(|| TemplateError("the chat template is neither a string nor a list".into()))?;
        let name = |key: &'static str| {
            let value = &tokenizer_config[key];
            Some((key, value.as_str().or_else(|| value["content"].as_str())?.to_owned()))
        };
        let mut chat = Self {
            arguments_as_text: false,
            source: adapted(source),
            tool_source: named("tool_use").map(adapted),
            special_tokens: SPECIAL_TOKENS.into_iter().filter_map(name).collect(),
        };
        for source in std::iter::once(&chat.source).chain(&chat.tool_source) {
            environment(SystemTime::UNIX_EPOCH).template_from_str(source).map_err(|error| describe(&error))?;
        }
        let takes = |arguments: Value| chat.render_call(arguments).is_some_and(|text| text.contains(PROBE));
        chat.arguments_as_text =
            !takes(serde_json::json!({PROBE: 1})) && takes(serde_json::json!({PROBE: 1}).to_string().into());
        Ok(chat)
    }

    /// A conversation with a call in it, where the template accepts the arguments as they are.
    fn render_call(&self, arguments: Value) -> Option<String> {
        let call = serde_json::json!({"id": "abcdefghi", "type": "function",
            "function": {"name": "f", "arguments": arguments}});
        let messages = serde_json::json!([
            {"role": "user", "content": "a"},
            {"role": "assistant", "content": "", "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "abcdefghi", "name": "f", "content": "b"},
        ]);
        let variables = BTreeMap::from([("messages".to_owned(), messages), ("tools".to_owned(), Value::Null)]);
        self.render(&variables, SystemTime::UNIX_EPOCH, true).ok()
    }

    /// Whether it wants the arguments of calls as text, and not as objects.
    pub fn wants_arguments_as_text(&self) -> bool {
        self.arguments_as_text
    }

    /// The template in a model's folder: `chat_template.jinja`, else the one in `tokenizer_config.json`; `None` where there
    /// is neither.
    ///
    /// # Errors
    ///
    /// [`LoadError`] that names the file.
    pub fn in_folder(folder: &Path) -> Result<Option<Self>, LoadError> {
        let fault = |path: &Path, what: &dyn Display| LoadError(format!("{}: {what}", path.display()));
        let read = |path: &Path| path.exists().then(|| std::fs::read_to_string(path)).transpose();
        let config_path = folder.join("tokenizer_config.json");
        let config = read(&config_path).map_err(|error| fault(&config_path, &error))?;
        let config: Value = config
            .map(|text| serde_json::from_str(&text))
            .transpose()
            .map_err(|error| fault(&config_path, &format_args!("is not JSON: {error}")))?
            .unwrap_or_default();
        let jinja_path = folder.join("chat_template.jinja");
        let (path, template) = match read(&jinja_path).map_err(|error| fault(&jinja_path, &error))? {
            Some(source) => (jinja_path, Value::String(source)),
            None => (config_path, config["chat_template"].clone()),
        };
        if template.is_null() {
            return Ok(None);
        }
        let template = Self::new(&template, &config);
        template.map(Some).map_err(|error| fault(&path, &format_args!("chat template: {error}")))
    }

    /// How the model writes its answers.
    pub fn markup(&self) -> Markup {
        Markup::of_templates(std::iter::once(&self.source).chain(&self.tool_source).map(String::as_str))
    }

    /// Sets the special tokens' names where the tokenizer's configuration does not tell them, as in GGUF files.
    #[must_use]
    pub fn with_special_token(mut self, key: &'static str, name: String) -> Self {
        self.special_tokens.entry(key).or_insert(name);
        self
    }

    /// Renders the conversation, and where the assistant's turn is to be `begun`, up to there. `variables` holds `messages`
    /// and `tools` (null for none) in the form of the OpenAI API, and whatever else the template may ask for.
    ///
    /// # Errors
    ///
    /// With the template's own words where it raised an exception.
    pub fn render(
        &self,
        variables: &BTreeMap<String, Value>,
        now: SystemTime,
        begun: bool,
    ) -> Result<String, TemplateError> {
        let environment = environment(now);
        let source = match &self.tool_source {
            Some(source) if variables.get("tools").is_some_and(|tools| !tools.is_null()) => source,
            _ => &self.source,
        };
        let template =
            environment.template_from_named_str("chat template", source).map_err(|error| describe(&error))?;
        let mut context: BTreeMap<&str, minijinja::Value> =
            variables.iter().map(|(key, value)| (key.as_str(), minijinja::Value::from_serialize(value))).collect();
        context.extend(self.special_tokens.iter().map(|(key, name)| (*key, minijinja::Value::from(name))));
        if begun {
            // Unless a caller wants the conversation alone.
            context.entry("add_generation_prompt").or_insert_with(|| true.into());
        } else {
            context.insert("add_generation_prompt", false.into());
        }
        context.entry("documents").or_insert_with(|| ().into());
        template.render(context).map_err(|error| describe(&error))
    }
}

fn environment(now: SystemTime) -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_trim_blocks(true);
    environment.set_lstrip_blocks(true);
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment.add_filter("tojson", json::tojson);
    environment.add_function("raise_exception", raise_exception);
    environment.add_function("strftime_now", move |format: &str| date::strftime(now, format));
    environment
}

/// Rewrites the few things that Hugging Face's Jinja knows and ours does not.
fn adapted(source: &str) -> String {
    let mut source = source.replace("[::-1]", "|reverse");
    // Marks what an assistant wrote, for training; writes nothing itself.
    for block in ["{% generation %}", "{%- generation %}", "{% generation -%}", "{%- generation -%}"] {
        source = source.replace(block, "").replace(&block.replace("generation", "endgeneration"), "");
    }
    source
}

fn raise_exception(message: String) -> Result<String, minijinja::Error> {
    Err(minijinja::Error::new(ErrorKind::InvalidOperation, message))
}

fn describe(error: &minijinja::Error) -> TemplateError {
    let line = error.line().map(|line| format!(" (line {line} of the chat template)")).unwrap_or_default();
    let what = error.detail().map_or_else(|| error.kind().to_string(), str::to_owned);
    TemplateError(format!("{what}{line}"))
}

#[cfg(test)]
mod tests;
