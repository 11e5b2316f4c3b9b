//! Grammars in the engine's terms.
//!
//! A JSON answer alone is a schema. Where tools have to be called (or may be, with arguments that keep to their schema) it is a
//! grammar in the dialect of Lark that the engine knows: the calls as this model writes them, their arguments by schema.

use std::fmt::Write as _;

use mistralrs::Constraint;
use serde_json::{Map, Value, json};
use sluicegate_compat::native::FunctionDefinition;

use crate::engine::text::{CallFormat, TextModel};
use crate::engine::{Calling, Choice, Generation, Grammar, Reading};

/// White space that may stand between two parts of a JSON text: without a bound, an unsure model writes it for ever.
const WHITE_SPACE: &str = r"[\x20\x0A\x0D\x09]{1,16}";

/// Calls in one answer.
const MOST_CALLS: u32 = 16;

/// The engine's constraint for a sequence; `ends` are the tokens that end one.
pub fn constraint(text: &TextModel, ends: &[u32], generation: &Generation) -> Constraint {
    let schema = generation.grammar.as_ref().map(|grammar| match grammar {
        Grammar::JsonObject => bounded(json!({"type": "object"})),
        Grammar::JsonSchema(schema) => bounded(schema.clone()),
    });
    let thinking = text.is_thinking(&generation.reading, generation.prompt.ids());
    let calls = match (&generation.reading, text.markup().calls) {
        (Reading::Answer(Some(calling)), Some(format)) => Some((calling, format)),
        _ => None,
    };
    match (calls, schema) {
        (None, None) => Constraint::None,
        (None, Some(schema)) if !thinking => Constraint::JsonSchema(schema),
        (None, Some(schema)) => Rules::new(text, thinking).json(&schema),
        (Some((calling, format)), schema) => match (&calling.choice, schema) {
            (Choice::Free, Some(schema)) => Rules::new(text, thinking).calls_or_json(calling, format, ends, &schema),
            (Choice::Free, None) if !calling.is_strict() => Constraint::None,
            (Choice::Free, None) => Rules::new(text, thinking).text_with_calls(calling, format, ends),
            (Choice::Required | Choice::Named(_), _) => Rules::new(text, thinking).calls_alone(calling, format, ends),
        },
    }
}

/// The schema with the options of the grammar compiler, which are ours and not the caller's.
fn bounded(schema: Value) -> Value {
    let mut fields = match schema {
        Value::Object(fields) => fields,
        Value::Bool(true) => Map::new(),
        other => Map::from_iter([("allOf".to_owned(), json!([other]))]),
    };
    fields.insert("x-guidance".into(), json!({"whitespace_pattern": WHITE_SPACE}));
    fields.into()
}

/// The tokens that end a text, where it may go on as well: the compiler knows one end, and models have several.
fn end(ends: &[u32]) -> String {
    let ends = ends.iter().map(u32::to_string).collect::<Vec<_>>().join(",");
    if ends.is_empty() { String::new() } else { format!(" <[{ends}]>?") }
}

/// A grammar that is being written.
struct Rules<'a> {
    text: &'a TextModel,
    rules: String,
    /// What an answer begins with: the rest of the reasoning, where the prompt has begun it.
    lead: &'static str,
}

impl<'a> Rules<'a> {
    fn new(text: &'a TextModel, thinking: bool) -> Self {
        let mut rules = Self { text, rules: String::new(), lead: "" };
        if thinking {
            rules.rule("TEXT", r"/(\n|.)*/");
            rules.text_up_to("thoughts", "</think>");
            rules.rule("gap", r#""\n\n" | """#);
            rules.lead = "thoughts gap ";
        }
        rules
    }

    fn json(mut self, schema: &Value) -> Constraint {
        self.rule("json", &format!("%json {schema}"));
        self.start("json")
    }

    fn calls_alone(mut self, calling: &Calling, format: CallFormat, ends: &[u32]) -> Constraint {
        self.calls(calling, format);
        self.rule("answer", &format!("calls{}", end(ends)));
        self.start("answer")
    }

    fn calls_or_json(mut self, calling: &Calling, format: CallFormat, ends: &[u32], schema: &Value) -> Constraint {
        self.calls(calling, format);
        self.rule("json", &format!("%json {schema}"));
        self.rule("answer", &format!("calls{} | json", end(ends)));
        self.start("answer")
    }

    /// Any text, and calls in it whose arguments keep to their schema. Where a call has no mark to know it by, it is the
    /// whole answer.
    fn text_with_calls(mut self, calling: &Calling, format: CallFormat, ends: &[u32]) -> Constraint {
        self.calls(calling, format);
        let end = end(ends);
        if format == CallFormat::Llama {
            self.rule("answer", &format!(r"calls | /[^{{\s](\n|.)*/{end}"));
            return self.start("answer");
        }
        if self.lead.is_empty() {
            self.rule("TEXT", r"/(\n|.)*/");
        }
        self.text_up_to("before", format.opening());
        self.rule("after", &format!("TEXT{end}"));
        let times = if calling.parallel { format!("{{0,{MOST_CALLS}}}") } else { "?".to_owned() };
        self.rule("answer", &format!("(before call){times} after"));
        self.start("answer")
    }

    fn start(mut self, answer: &str) -> Constraint {
        let lead = self.lead;
        self.rule("start", &format!("{lead}{answer}"));
        Constraint::Lark(self.rules)
    }

    /// `calls`: what an answer is that calls tools; `call`: one of them without its opening mark.
    fn calls(&mut self, calling: &Calling, format: CallFormat) {
        let named = |function: &&FunctionDefinition| match &calling.choice {
            Choice::Named(name) => function.name == *name,
            Choice::Free | Choice::Required => true,
        };
        let functions: Vec<_> = calling.tools.iter().map(|tool| &tool.function).filter(named).collect();
        for (index, function) in functions.iter().enumerate() {
            match format {
                CallFormat::QwenCoder => self.elements(index, function),
                _ => self.object(index, function, format),
            }
        }
        let any = (0..functions.len()).map(|index| format!("call{index}")).collect::<Vec<_>>().join(" | ");
        self.rule("call", &any);
        let opening = match format {
            CallFormat::Llama => String::new(),
            _ => self.mark(format.opening()) + " ",
        };
        let separator = match format {
            CallFormat::Hermes | CallFormat::QwenCoder => quoted("\n") + " ",
            CallFormat::Llama => quoted("; ") + " ",
            CallFormat::Mistral => String::new(),
        };
        let one = !calling.parallel || matches!(calling.choice, Choice::Named(_));
        let more = if one { String::new() } else { format!(" ({separator}{opening}call){{0,{}}}", MOST_CALLS - 1) };
        self.rule("calls", &format!("{opening}call{more}"));
    }

    fn object(&mut self, index: usize, function: &FunctionDefinition, format: CallFormat) {
        let arguments = function.parameters.clone().unwrap_or_else(|| json!({"type": "object"}));
        self.rule(&format!("arguments{index}"), &format!("%json {}", bounded(arguments)));
        let name = Value::from(function.name.as_str());
        let (before, after) = match format {
            CallFormat::Llama => (quoted(&format!("{{\"name\": {name}, \"parameters\": ")), quoted("}")),
            CallFormat::Mistral if self.text.added_token("[ARGS]").is_some() => {
                (format!("{} {}", quoted(&function.name), self.mark("[ARGS]")), String::new())
            }
            CallFormat::Mistral => (quoted(&format!("[{{\"name\": {name}, \"arguments\": ")), quoted("}]")),
            CallFormat::Hermes | CallFormat::QwenCoder => {
                let close = self.mark("</tool_call>");
                (quoted(&format!("\n{{\"name\": {name}, \"arguments\": ")), format!("{} {close}", quoted("}\n")))
            }
        };
        self.rule(&format!("call{index}"), &format!("{before} arguments{index} {after}"));
    }

    /// A parameter of type string is written as it is, up to its end; all others are JSON.
    fn elements(&mut self, index: usize, function: &FunctionDefinition) {
        let schema = function.parameters.clone().unwrap_or_default();
        let required =
            |key: &str| schema["required"].as_array().is_some_and(|keys| keys.iter().any(|name| name == key));
        let mut body = quoted(&format!("\n<function={}>\n", function.name));
        for (at, (key, property)) in schema["properties"].as_object().into_iter().flatten().enumerate() {
            let name = format!("value{index}_{at}");
            let end = "\n</parameter>\n";
            let choices = property["enum"].as_array().filter(|_| property["type"] == "string");
            if let Some(choices) = choices {
                let choices = choices.iter().filter_map(Value::as_str).map(quoted).collect::<Vec<_>>().join(" | ");
                self.rule(&name, &format!("({choices}) {}", quoted(end)));
            } else if property["type"] == "string" {
                self.rule(&format!("{name}[lazy]"), r"/(\n|.)*\n<\/parameter>\n/");
            } else {
                // What a reference means is known in the whole schema alone.
                let refers = property.to_string().contains("\"$ref\"");
                let property = if refers { json!({}) } else { property.clone() };
                self.rule(&format!("json{index}_{at}"), &format!("%json {}", bounded(property)));
                self.rule(&name, &format!("json{index}_{at} {}", quoted(end)));
            }
            let optional = if required(key) { "" } else { "?" };
            let _ = write!(body, " ({} {name}){optional}", quoted(&format!("<parameter={key}>\n")));
        }
        let close = self.mark("</tool_call>");
        let _ = write!(body, " {} {close}", quoted("</function>\n"));
        self.rule(&format!("call{index}"), &body);
    }

    /// A mark of the model: a token by its number where the grammar compiler takes it for a special one, else text.
    fn mark(&self, mark: &str) -> String {
        self.special(mark).map_or_else(|| quoted(mark), |token| format!("<[{token}]>"))
    }

    /// To the compiler every added token that is written `<…>` is special too, and never part of a text.
    fn special(&self, mark: &str) -> Option<u32> {
        let (token, special) = self.text.added_token(mark)?;
        (special || mark.starts_with('<') && mark.ends_with('>')).then_some(token)
    }

    /// Any text that ends with the first `mark`.
    fn text_up_to(&mut self, name: &str, mark: &str) {
        let lazy = if self.special(mark).is_some() { "" } else { "[lazy]" };
        let mark = self.mark(mark);
        self.rule(&format!("{name}{lazy}"), &format!("TEXT {mark}"));
    }

    fn rule(&mut self, name: &str, body: &str) {
        let _ = writeln!(self.rules, "{name}: {body}");
    }
}

/// Text as a literal of the grammar, which reads it as JSON.
fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}

#[cfg(test)]
mod tests;
