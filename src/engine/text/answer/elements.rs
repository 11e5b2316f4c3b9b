//! A call as elements: `<function=NAME><parameter=KEY>VALUE</parameter></function>`.

use serde_json::Value;
use sluicegate_compat::native::FunctionDefinition;

use super::{Draft, Step};

/// Bytes of one tag; a name has at most 64.
const LONGEST_TAG: usize = 256;

const END_OF_VALUE: &str = "</parameter>";

/// Reads one call. Its arguments become an object, one parameter at a time.
#[derive(Debug, Default)]
pub struct ElementsCall {
    /// A tag, or a value with the tag that ends it, so far.
    raw: String,
    /// The parameter whose value is being read.
    key: Option<String>,
    parameters: usize,
}

impl ElementsCall {
    /// `function` finds what is offered under a name.
    pub fn feed<'a>(
        &mut self,
        character: char,
        draft: &mut Draft,
        function: impl Fn(&str) -> Option<&'a FunctionDefinition>,
    ) -> Step {
        if self.key.is_none() && self.raw.is_empty() && character.is_ascii_whitespace() {
            return Step::More;
        }
        self.raw.push(character);
        if let Some(key) = &self.key {
            if let Some(value) = self.raw.strip_suffix(END_OF_VALUE) {
                let schema = draft.name.as_deref().and_then(&function).and_then(|function| property(function, key));
                let comma = if self.parameters == 0 { "" } else { ", " };
                draft.arguments.push_str(&format!(
                    "{comma}{}: {}",
                    Value::from(key.as_str()),
                    converted(value, schema)
                ));
                self.parameters += 1;
                self.key = None;
                self.raw.clear();
            }
            return Step::More;
        }
        if !self.raw.starts_with('<') || self.raw.len() > LONGEST_TAG {
            return Step::Bad;
        }
        let Some(tag) = self.raw.strip_suffix('>') else { return Step::More };
        match (tag.strip_prefix("<function="), tag.strip_prefix("<parameter="), draft.begun) {
            (Some(name), _, false) => {
                draft.name = Some(name.to_owned());
                draft.arguments.push('{');
                draft.begun = true;
            }
            (_, Some(key), true) => self.key = Some(key.to_owned()),
            _ if tag == "</function" && draft.begun => {
                draft.arguments.push('}');
                return Step::Closed;
            }
            _ => return Step::Bad,
        }
        self.raw.clear();
        Step::More
    }
}

fn property<'a>(function: &'a FunctionDefinition, key: &str) -> Option<&'a Value> {
    function.parameters.as_ref()?.get("properties")?.get(key)
}

/// A value as JSON: text where the schema says so, else what it reads as.
fn converted(raw: &str, schema: Option<&Value>) -> String {
    let raw = raw.strip_prefix('\n').unwrap_or(raw);
    let raw = raw.strip_suffix('\n').unwrap_or(raw);
    let text = schema.is_some_and(|schema| schema["type"] == "string");
    let parsed = if text { None } else { serde_json::from_str::<Value>(raw).ok() };
    parsed.unwrap_or_else(|| raw.into()).to_string()
}
