//! The places of a documented body: every field, however deep, with what may stand there.

use std::collections::BTreeSet;
use std::fmt;

use serde_json::{Value, json};

use super::documents::Document;

/// Fields of fields of fields are enough.
const DEEPEST: usize = 6;

#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    Key(String),
    /// The first of a list.
    First,
}

/// A field, or the first element of a list.
#[derive(Debug, Clone)]
pub struct Place {
    pub steps: Vec<Step>,
    /// JSON types that are taken there; empty: all of them.
    pub kinds: BTreeSet<String>,
    pub required: bool,
    /// The object that it is a field of takes no other fields.
    pub closed: bool,
    schema: Value,
}

/// As errors name it: `messages[0].content`.
impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        for (at, step) in self.steps.iter().enumerate() {
            match step {
                Step::Key(name) if at == 0 => f.write_str(name)?,
                Step::Key(name) => write!(f, ".{name}")?,
                Step::First => f.write_str("[0]")?,
            }
        }
        Ok(())
    }
}

/// What a schema allows: itself, or what it refers to and is made of.
fn alternatives<'a>(document: &'a Document, schema: &'a Value) -> Vec<&'a Value> {
    let schema = document.resolve(schema);
    let parts: Vec<_> = ["anyOf", "oneOf", "allOf"].into_iter().filter_map(|key| schema.get(key)?.as_array()).collect();
    let whole = parts.is_empty() || schema.get("type").is_some();
    let parts = parts.into_iter().flatten().flat_map(|part| alternatives(document, part));
    whole.then_some(schema).into_iter().chain(parts).collect()
}

fn kinds(document: &Document, schema: &Value) -> BTreeSet<String> {
    let mut kinds = BTreeSet::new();
    let whole = document.resolve(schema);
    // What it is made of says more of the same type.
    let alternatives = if whole.get("type").is_some() { vec![whole] } else { alternatives(document, whole) };
    for schema in alternatives {
        let words = schema.get("enum").and_then(Value::as_array).cloned().unwrap_or_default();
        let words = words.iter().chain(schema.get("const")).map(|word| kind(word).to_owned());
        let named = match schema.get("type") {
            Some(Value::Array(names)) => names.clone(),
            Some(name) => vec![name.clone()],
            None if schema.get("enum").is_none() && schema.get("const").is_none() => return BTreeSet::new(),
            None => Vec::new(),
        };
        kinds.extend(words.chain(named.iter().map(|name| name.as_str().unwrap().to_owned())));
    }
    kinds
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// The least that fits, for most schemas.
fn sample(document: &Document, schema: &Value) -> Value {
    let schema = alternatives(document, schema)[0];
    if let Some(word) = schema.get("const").or_else(|| schema.get("enum")?.get(0)) {
        return word.clone();
    }
    let name = schema["type"].as_str().or_else(|| schema["type"].get(0)?.as_str());
    match name {
        Some("object") => {
            let required = schema.get("required").and_then(Value::as_array).cloned().unwrap_or_default();
            let member = |name: &Value| {
                let name = name.as_str().unwrap();
                (name.to_owned(), sample(document, &schema["properties"][name]))
            };
            Value::Object(required.iter().map(member).collect())
        }
        Some("array") => json!([]),
        Some("boolean") => json!(false),
        Some("integer" | "number") => json!(1),
        _ if schema["format"] == "uuid" => json!("01a20a7d-a21e-77b5-a166-c2154022f8c7"),
        _ => json!("x"),
    }
}

/// Every place of a body with this schema.
pub fn places(document: &Document, schema: &Value) -> Vec<Place> {
    places_to(DEEPEST, document, schema)
}

/// Every place of a body with this schema, so many steps deep.
pub fn places_to(deepest: usize, document: &Document, schema: &Value) -> Vec<Place> {
    let mut found = Vec::new();
    below(deepest, document, schema, &[], &mut found);
    found
}

fn below(deepest: usize, document: &Document, schema: &Value, steps: &[Step], found: &mut Vec<Place>) {
    if steps.len() >= deepest {
        return;
    }
    let mut enter = |step: Step, schema: &Value, required: bool, closed: bool| {
        let steps = [steps, &[step]].concat();
        if found.iter().any(|place| place.steps == steps) {
            return;
        }
        let kinds = kinds(document, schema);
        found.push(Place { steps: steps.clone(), kinds, required, closed, schema: schema.clone() });
        below(deepest, document, schema, &steps, found);
    };
    let mut first = true;
    for schema in alternatives(document, schema) {
        let required = schema.get("required").and_then(Value::as_array);
        let closed = schema.get("additionalProperties") == Some(&Value::Bool(false));
        for (name, property) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
            // Of several objects the first is the one that a sample is of.
            let required = first && required.is_some_and(|names| names.iter().any(|required| required == name));
            enter(Step::Key(name.clone()), property, required, closed);
        }
        first &= schema.get("properties").is_none();
        if let Some(any) = schema.get("additionalProperties").filter(|any| any.is_object()) {
            enter(Step::Key("1".into()), any, false, false);
        }
        if let Some(items) = schema.get("items") {
            enter(Step::First, items, false, false);
        }
    }
}

impl Place {
    /// The field of the body that it is in.
    pub fn root(&self) -> &str {
        let Some(Step::Key(name)) = self.steps.first() else { panic!("a body is an object") };
        name
    }

    pub fn sample(&self, document: &Document) -> Value {
        sample(document, &self.schema)
    }

    /// JSON just outside of each documented bound.
    pub fn outside(&self, document: &Document) -> Vec<String> {
        let mut outside = Vec::new();
        for schema in alternatives(document, &self.schema) {
            let number = |keyword: &str| schema.get(keyword).map(Value::to_string);
            let size = |keyword: &str| schema.get(keyword).and_then(Value::as_u64).map(|size| size as usize);
            for (keyword, beyond) in [("minimum", -1), ("maximum", 1)] {
                let Some(bound) = number(keyword) else { continue };
                let whole: Option<i128> = bound.parse().ok();
                let decimal = || bound.parse::<f64>().unwrap() + 0.01 * f64::from(beyond);
                outside.push(
                    whole.map_or_else(|| decimal().to_string(), |bound| (bound + i128::from(beyond)).to_string()),
                );
            }
            outside.extend(number("exclusiveMinimum"));
            outside.extend(
                size("minLength").filter(|least| *least > 0).map(|least| json!("x".repeat(least - 1)).to_string()),
            );
            outside.extend(size("maxLength").map(|most| json!("x".repeat(most + 1)).to_string()));
            let items = schema.get("items").map(|items| sample(document, items));
            // Lists that are sets count each element once.
            let item = |number| match items.clone().unwrap_or_default() {
                Value::String(text) => json!(format!("{text}{number}")),
                other => other,
            };
            let list = |length: usize| Value::from_iter((0..length).map(item)).to_string();
            outside.extend(size("minItems").filter(|least| *least > 0).map(|least| list(least - 1)));
            outside.extend(size("maxItems").map(|most| list(most + 1)));
            if schema.get("pattern").is_some() || schema.get("format").is_some() {
                outside.push(json!("no such thing, not at all\n").to_string());
            }
        }
        outside
    }

    /// Another field of the same object.
    pub fn beside(&self, name: &str) -> Self {
        let mut place = self.clone();
        *place.steps.last_mut().unwrap() = Step::Key(name.to_owned());
        place
    }

    /// Writes `value` there, and the least that fits around it where there is nothing.
    pub fn put(&self, document: &Document, schema: &Value, body: &mut Value, value: Value) {
        let (mut schema, mut here) = (schema.clone(), body);
        for step in &self.steps {
            let alternatives = alternatives(document, &schema);
            let next = match step {
                Step::Key(name) => {
                    let with = |part: &&&Value| part.get("properties").is_some_and(|fields| fields.get(name).is_some());
                    let objects = || alternatives.iter().find(|part| kinds(document, part).contains("object"));
                    let object = alternatives
                        .iter()
                        .find(with)
                        .or_else(objects)
                        .unwrap_or_else(|| panic!("{self}: {name}: {alternatives:?}"));
                    if !here.is_object() {
                        *here = sample(document, object);
                    }
                    here = &mut here[name.as_str()];
                    object
                        .get("properties")
                        .and_then(|fields| fields.get(name))
                        .or_else(|| object.get("additionalProperties"))
                }
                Step::First => {
                    let list = alternatives.iter().find(|part| part.get("items").is_some()).unwrap();
                    if here.as_array().is_none_or(Vec::is_empty) {
                        *here = json!([sample(document, &list["items"])]);
                    }
                    here = &mut here[0];
                    list.get("items")
                }
            };
            schema = next.cloned().unwrap_or_default();
        }
        *here = value;
    }

    /// Takes the field out of a body that has it.
    pub fn remove(&self, body: &mut Value) {
        let mut here = body;
        let (Some(Step::Key(name)), before) = (self.steps.last(), &self.steps[..self.steps.len() - 1]) else {
            panic!("{self} is no field")
        };
        for step in before {
            here = match step {
                Step::Key(name) => &mut here[name.as_str()],
                Step::First => &mut here[0],
            };
        }
        here.as_object_mut().unwrap().remove(name).unwrap();
    }
}
