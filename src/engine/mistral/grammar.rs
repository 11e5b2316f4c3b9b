//! Grammars in the engine's terms.
//!
//! A JSON answer alone is a schema. Where tools have to be called (or may be, with arguments that keep to their schema) it is a
//! grammar in the dialect of Lark that the engine knows: the calls as this model writes them, their arguments by schema.

use std::fmt::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};

use mistralrs::Constraint;
use mistralrs::llguidance::ParserFactory;
use mistralrs::llguidance::api::TopLevelGrammar;
use serde_json::{Map, Value, json};
use sluicegate_compat::native::FunctionDefinition;

use crate::engine::text::{CallFormat, END_OF_THINKING, THINK, TextModel};
use crate::engine::{Calling, Choice, Grammar, Reading, Unheld};

/// White space that may stand between two parts of a JSON text: without a bound, an unsure model writes it for ever.
const WHITE_SPACE: &str = r"[\x20\x0A\x0D\x09]{1,16}";

/// Characters of what the grammar compiler says.
const LONGEST_REASON: usize = 300;

/// Calls in one answer.
const MOST_CALLS: u32 = 16;

/// The engine's constraint for an answer; `ends` are the tokens that end one, `thinking` whether it begins with reasoning.
pub fn constraint(
    text: &TextModel,
    ends: &[u32],
    grammar: Option<&Grammar>,
    reading: &Reading,
    thinking: bool,
) -> Constraint {
    let schema = grammar.map(|grammar| match grammar {
        Grammar::JsonObject => bounded(json!({"type": "object"}), false),
        Grammar::JsonSchema(schema) => bounded(schema.clone(), false),
    });
    let calls = match (reading, text.markup().calls) {
        (Reading::Answer(Some(calling)), Some(format)) => Some((calling, format)),
        _ => None,
    };
    match (calls, schema) {
        (None, None) => Constraint::None,
        (None, Some(schema)) if !text.markup().reasoning => Constraint::JsonSchema(schema),
        (None, Some(schema)) => Rules::new(text, thinking).json(&schema),
        (Some((calling, format)), schema) => match (&calling.choice, schema) {
            (Choice::Free, Some(schema)) => Rules::new(text, thinking).calls_or_json(calling, format, ends, &schema),
            (Choice::Free, None) if !calling.is_strict() => Constraint::None,
            (Choice::Free, None) => Rules::new(text, thinking).text_with_calls(calling, format, ends),
            (Choice::Required | Choice::Named(_), _) => Rules::new(text, thinking).calls_alone(calling, format, ends),
        },
    }
}

/// Whether the engine can make a grammar of what an answer is held to.
///
/// # Errors
///
/// The schema that it can make none of.
pub fn check(
    factory: &ParserFactory,
    text: &TextModel,
    grammar: Option<&Grammar>,
    reading: &Reading,
) -> Result<(), Unheld> {
    let whole = match constraint(text, &[], grammar, reading, false) {
        Constraint::Lark(rules) => compile(factory, TopLevelGrammar::from_lark(rules)),
        Constraint::JsonSchema(schema) => compile(factory, TopLevelGrammar::from_json_schema(schema)),
        _ => return Ok(()),
    };
    let Err(reason) = whole else { return Ok(()) };
    let unheld = |param: String, reason: String| {
        let message = format!("`{param}`: an answer cannot be held to this schema: {reason}");
        Unheld { param, message }
    };
    let alone = |schema: Value| compile(factory, TopLevelGrammar::from_json_schema(schema)).err();
    if let Some(Grammar::JsonSchema(schema)) = grammar
        && let Some(reason) = alone(bounded(schema.clone(), false))
    {
        return Err(unheld("json_schema".to_owned(), reason));
    }
    let tools = if let Reading::Answer(Some(calling)) = reading { calling.tools.as_slice() } else { &[] };
    for (index, tool) in tools.iter().enumerate() {
        if let Some(reason) = alone(arguments(&tool.function)) {
            return Err(unheld(format!("tools[{index}].function.parameters"), reason));
        }
    }
    let param = if tools.is_empty() { "json_schema" } else { "tools" };
    Err(unheld(param.to_owned(), reason))
}

/// What the compiler says is in its own words, of which the beginning is enough.
fn compile(factory: &ParserFactory, grammar: TopLevelGrammar) -> Result<(), String> {
    let made = catch_unwind(AssertUnwindSafe(|| factory.create_parser(grammar).map(drop)));
    let said = match made {
        Ok(Ok(())) => return Ok(()),
        Ok(Err(error)) => error.to_string(),
        Err(_panicked) => "panic".to_owned(),
    };
    // It catches its own panics as well, and calls them so.
    if said.starts_with("panic") {
        return Err("it cannot be compiled".to_owned());
    }
    let words: Vec<_> = said.split_whitespace().collect();
    Err(words.join(" ").chars().take(LONGEST_REASON).collect())
}

/// The schema of a function's arguments, which are an object whatever else it allows; of one that is not strict, as far as
/// it can be held.
fn arguments(function: &FunctionDefinition) -> Value {
    let schema = match &function.parameters {
        // It takes none.
        None => json!({"type": "object", "properties": {}, "additionalProperties": false}),
        Some(Value::Object(fields)) => {
            let mut fields = fields.clone();
            fields.insert("type".into(), json!("object"));
            fields.into()
        }
        Some(_) => json!({"type": "object"}),
    };
    bounded(schema, function.strict != Some(true))
}

/// The schema with the options of the grammar compiler, which are ours and not the caller's.
fn bounded(schema: Value, lenient: bool) -> Value {
    let mut fields = match schema {
        Value::Object(fields) => fields,
        Value::Bool(true) => Map::new(),
        other => Map::from_iter([("allOf".to_owned(), json!([other]))]),
    };
    fields.insert("x-guidance".into(), json!({"whitespace_pattern": WHITE_SPACE, "lenient": lenient}));
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
    /// What an answer begins with: the rest of the reasoning where the prompt has begun it; else the reasoning, as the model
    /// likes.
    lead: &'static str,
}

impl<'a> Rules<'a> {
    fn new(text: &'a TextModel, thinking: bool) -> Self {
        let mut rules = Self { text, rules: String::new(), lead: "" };
        rules.rule("TEXT", r"/(\n|.)*/");
        if text.markup().reasoning {
            rules.text_up_to("thoughts", END_OF_THINKING);
            let open = rules.mark(THINK);
            rules.rule("reasoning", &format!("{open} thoughts"));
            rules.rule("gap", r#""\n\n" | """#);
            rules.lead = if thinking { "thoughts gap " } else { "(reasoning gap)? " };
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
        self.rule(&format!("arguments{index}"), &format!("%json {}", arguments(function)));
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
                self.rule(
                    &format!("json{index}_{at}"),
                    &format!("%json {}", bounded(property, function.strict != Some(true))),
                );
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
