//! What a service publishes about its requests, as `tests/sdk/python/published.py` has recorded it.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use serde_json::{Map, Value, json};

/// Fields of fields that are looked at; an object inside itself is not.
const DEEPEST: usize = 8;

#[derive(Deserialize)]
pub struct Record {
    /// The client that it is taken from, with its version.
    pub source: String,
    pub requests: BTreeMap<String, Fields>,
    pub objects: BTreeMap<String, Fields>,
}

pub type Fields = BTreeMap<String, Field>;

#[derive(Deserialize)]
pub struct Field {
    pub required: bool,
    pub takes: Vec<Kind>,
}

impl Field {
    /// Whether there is nothing to choose.
    pub fn is_fixed(&self) -> bool {
        let one = |kind: &Kind| matches!(kind, Kind::Values { values } if values.len() == 1);
        self.required && self.takes.iter().all(one) && self.takes.len() == 1
    }
}

/// What a field may hold.
#[derive(Deserialize)]
#[serde(untagged)]
pub enum Kind {
    /// A JSON type, or the name of an object.
    Name(String),
    Values {
        values: Vec<String>,
    },
    List {
        list: Vec<Kind>,
    },
    Map {
        map: Vec<Kind>,
    },
}

/// One way to fill a field.
pub struct Sample {
    pub value: Value,
    /// The word, or what tells the object from others that may stand here.
    pub label: Option<String>,
    /// The object that it is or holds.
    pub object: Option<String>,
    /// The object, or the word, is in a list.
    pub listed: bool,
}

/// What is to stand where the least that fits is not good enough: of `Object.field`, or of a field of the request.
pub type Good = fn(&str) -> Option<Vec<Value>>;

impl Record {
    pub fn parse(text: &str) -> Self {
        serde_json::from_str(text).unwrap()
    }

    /// What tells this object from others, with the field that says it.
    pub fn labels(&self, object: &str) -> Option<(&'static str, &[String])> {
        let word = |name: &'static str| match self.objects[object].get(name)?.takes.first()? {
            Kind::Values { values } => Some((name, values.as_slice())),
            _ => None,
        };
        word("type").or_else(|| word("role").filter(|(_, values)| values.len() == 1))
    }

    /// Every way to fill a field that makes a difference: each word, each object with what it needs, two values of the rest.
    pub fn samples(&self, owner: &str, name: &str, field: &Field, good: Good) -> Vec<Sample> {
        if let Some(values) = good(&place(owner, name)) {
            let plain = |value| Sample { value, label: None, object: None, listed: false };
            return values.into_iter().map(plain).collect();
        }
        field.takes.iter().flat_map(|kind| self.of_kind(kind, false, good)).collect()
    }

    fn of_kind(&self, kind: &Kind, listed: bool, good: Good) -> Vec<Sample> {
        let plain = |values: Vec<Value>| {
            let sample = |value| Sample { value, label: None, object: None, listed };
            values.into_iter().map(sample).collect()
        };
        match kind {
            Kind::Name(name) => match name.as_str() {
                "null" => Vec::new(),
                "string" => plain(vec![json!("one"), json!("two")]),
                "integer" => plain(vec![json!(1), json!(2)]),
                "number" => plain(vec![json!(0.25), json!(0.5)]),
                "boolean" => plain(vec![json!(false), json!(true)]),
                "any" => plain(vec![json!("one"), json!({"two": 2})]),
                object => {
                    let least = self.least(object, good);
                    let of = |value, label| Sample { value, label, object: Some(object.to_owned()), listed };
                    let Some((field, words)) = self.labels(object) else { return vec![of(least, None)] };
                    let labelled = |word: &String| {
                        let mut value = least.clone();
                        if self.objects[object][field].required || words.len() > 1 {
                            value[field] = json!(word);
                        }
                        of(value, Some(word.clone()))
                    };
                    words.iter().map(labelled).collect()
                }
            },
            Kind::Values { values } => {
                let word =
                    |word: &String| Sample { value: json!(word), label: Some(word.clone()), object: None, listed };
                values.iter().map(word).collect()
            }
            Kind::List { list } => {
                let inside = list.iter().flat_map(|kind| self.of_kind(kind, true, good));
                inside.map(|sample| Sample { value: json!([sample.value]), ..sample }).collect()
            }
            Kind::Map { map } => {
                let inside = map.iter().flat_map(|kind| self.of_kind(kind, listed, good));
                inside.map(|sample| Sample { value: json!({"1": sample.value}), label: None, ..sample }).collect()
            }
        }
    }

    /// The object with nothing but what it needs.
    fn least(&self, object: &str, good: Good) -> Value {
        let fields = self.objects[object].iter().filter(|(_, field)| field.required);
        let first = |(name, field): (&String, &Field)| {
            let sample = self.samples(object, name, field, good).into_iter().next();
            (name.clone(), sample.map_or(Value::Null, |sample| sample.value))
        };
        Value::Object(fields.map(first).collect::<Map<_, _>>())
    }

    /// Every field that may stand anywhere in a request (`messages[].content[].text`), and those that hold anything at all.
    pub fn paths(&self, request: &str) -> (BTreeSet<String>, BTreeSet<String>) {
        let (mut paths, mut open) = (BTreeSet::new(), BTreeSet::new());
        self.below("", &self.requests[request], &mut Vec::new(), &mut paths, &mut open);
        (paths, open)
    }

    fn below<'a>(
        &'a self,
        path: &str,
        fields: &'a Fields,
        inside: &mut Vec<&'a str>,
        paths: &mut BTreeSet<String>,
        open: &mut BTreeSet<String>,
    ) {
        for (name, field) in fields {
            let path = join(path, name);
            for kind in &field.takes {
                self.inside_of(&path, kind, inside, paths, open);
            }
            paths.insert(path);
        }
    }

    fn inside_of<'a>(
        &'a self,
        path: &str,
        kind: &'a Kind,
        inside: &mut Vec<&'a str>,
        paths: &mut BTreeSet<String>,
        open: &mut BTreeSet<String>,
    ) {
        match kind {
            Kind::Name(name) if name == "any" => {
                open.insert(path.to_owned());
            }
            Kind::Map { .. } => {
                open.insert(path.to_owned());
            }
            Kind::Name(name) => {
                let Some(fields) = self.objects.get(name) else { return };
                if inside.len() < DEEPEST && !inside.contains(&name.as_str()) {
                    inside.push(name);
                    self.below(path, fields, inside, paths, open);
                    inside.pop();
                }
            }
            Kind::Values { .. } => {}
            Kind::List { list } => {
                list.iter().for_each(|kind| self.inside_of(&format!("{path}[]"), kind, inside, paths, open))
            }
        }
    }
}

/// `Object.field`, or `field` of the request itself.
pub fn place(owner: &str, name: &str) -> String {
    if owner.is_empty() { name.to_owned() } else { format!("{owner}.{name}") }
}

/// A field below a path.
pub fn join(path: &str, name: &str) -> String {
    place(path, name)
}
