//! The OpenAPI documents as data, and the comparison of a real answer with what they say about it.

use std::collections::BTreeMap;

use axum::http::HeaderMap;
use serde_json::{Value, json};

use crate::harness::Answer;

/// The documents of the native API, which together describe it.
pub const NATIVE: [(&str, &str); 8] = [
    ("common.yaml", include_str!("../../../openapi/common.yaml")),
    ("data.yaml", include_str!("../../../openapi/data.yaml")),
    ("control.yaml", include_str!("../../../openapi/control.yaml")),
    ("sessions.yaml", include_str!("../../../openapi/sessions.yaml")),
    ("catalog.yaml", include_str!("../../../openapi/catalog.yaml")),
    ("admin.yaml", include_str!("../../../openapi/admin.yaml")),
    ("artifacts.yaml", include_str!("../../../openapi/artifacts.yaml")),
    ("meta.yaml", include_str!("../../../openapi/meta.yaml")),
];
/// The documents of the other dialects, which share their headers.
pub const DIALECTS: [(&str, &str); 2] = [
    ("openai.yaml", include_str!("../../../openapi/openai.yaml")),
    ("anthropic.yaml", include_str!("../../../openapi/anthropic.yaml")),
];

const UNMATCHED: &str = "x-unmatched-requests";
const UNMATCHED_MESSAGES: &str = "x-unmatched-messages";

/// Where it is said how a request to this path is answered that fits no operation.
pub fn unmatched(path: &str) -> &'static str {
    if path.starts_with("/v1/messages") { UNMATCHED_MESSAGES } else { UNMATCHED }
}

/// Headers that belong to HTTP and not to an operation.
const TRANSPORT: [&str; 4] = ["content-type", "content-length", "content-encoding", "vary"];

/// One document.
pub struct Document {
    pub root: Value,
}

/// One operation of a document.
#[derive(Clone, Copy)]
pub struct Operation<'a> {
    /// As documented: `/v2/tasks/{id}`.
    pub path: &'a str,
    /// In lower case.
    pub method: &'a str,
    pub value: &'a Value,
}

/// The `data:` lines of a stream by the names of their events.
pub type Events = BTreeMap<String, Vec<Value>>;

impl Document {
    pub fn parse(text: &str) -> Self {
        Self { root: serde_saphyr::from_str(text).unwrap() }
    }

    /// The native API as one document, and the other dialects as one.
    pub fn both() -> [Self; 2] {
        [Self::native(), Self::whole(&DIALECTS)]
    }

    /// The documents of the native API as one.
    pub fn native() -> Self {
        Self::whole(&NATIVE)
    }

    /// Several documents as one: every path and component, and references that stay inside.
    fn whole(parts: &[(&str, &str)]) -> Self {
        let mut whole = Self { root: json!({"openapi": "3.1.0", "paths": {}, "components": {}, "tags": []}) };
        for (name, text) in parts {
            let mut text = (*text).to_owned();
            for (other, _) in parts {
                text = text.replace(&format!("'{other}#/"), "'#/");
            }
            let Value::Object(part) = Self::parse(&text).root else { panic!("{name} is no object") };
            merge(&mut whole.root["paths"], &part["paths"], name);
            for (kind, components) in part["components"].as_object().unwrap() {
                merge(&mut whole.root["components"][kind], components, name);
            }
            if let Some(unmatched) = part.get("x-unmatched-requests") {
                let key = if *name == "anthropic.yaml" { UNMATCHED_MESSAGES } else { UNMATCHED };
                whole.root[key] = unmatched.clone();
            }
            whole.root["security"] = part["security"].clone();
            let tags = part.get("tags").and_then(Value::as_array).cloned().unwrap_or_default();
            whole.root["tags"].as_array_mut().unwrap().extend(tags);
        }
        whole
    }

    pub fn operations(&self) -> impl Iterator<Item = Operation<'_>> {
        self.root["paths"].as_object().unwrap().iter().flat_map(|(path, item)| {
            let methods = item.as_object().unwrap().iter();
            methods.map(move |(method, value)| Operation { path, method, value })
        })
    }

    /// The operation that a request is for, if it is documented.
    pub fn operation(&self, method: &str, path: &str) -> Option<Operation<'_>> {
        let path = path.split('?').next().unwrap();
        self.operations().find(|operation| operation.method.eq_ignore_ascii_case(method) && fits(operation.path, path))
    }

    /// What `value` is, or refers to.
    pub fn resolve<'a>(&'a self, mut value: &'a Value) -> &'a Value {
        while let Some(reference) = value.get("$ref") {
            let pointer = reference.as_str().unwrap().strip_prefix('#').expect("references stay in their document");
            value = self.root.pointer(pointer).unwrap_or_else(|| panic!("nothing is at {reference}"));
        }
        value
    }

    /// Everything that is wrong with `instance` by `schema`.
    pub fn mistakes(&self, schema: &Value, instance: &Value) -> Vec<String> {
        let schema = json!({"components": self.root["components"], "allOf": [schema]});
        let validator = jsonschema::options().should_validate_formats(true).build(&schema).unwrap();
        validator
            .iter_errors(instance)
            .map(|error| format!("{} at {:?}", error, error.instance_path().as_str()))
            .collect()
    }

    fn assert_fits(&self, schema: &Value, instance: &Value, what: &str) {
        let mistakes = self.mistakes(schema, instance);
        assert!(mistakes.is_empty(), "{what}: {mistakes:#?}\n{instance}");
    }

    /// Asserts that the document says that this request may be answered like this; returns the events of a stream.
    pub fn assert_documented(&self, method: &str, path: &str, answer: &Answer) -> Events {
        let status = answer.status.as_str();
        let what = format!("{method} {path}: {status}");
        let operation = self.operation(method, path);
        let responses = operation.map_or(&self.root[unmatched(path)], |operation| &operation.value["responses"]);
        let response = responses.get(status).unwrap_or_else(|| panic!("{what} is not documented: {}", answer.body));
        let response = self.resolve(response);
        self.assert_headers(response, &answer.headers, &what);
        let Some(contents) = response.get("content") else {
            assert_eq!((answer.body.as_str(), answer.header("content-type")), ("", ""), "{what}");
            return Events::new();
        };
        let content_type = answer.header("content-type");
        let content =
            contents.get(content_type).unwrap_or_else(|| panic!("{what}: {content_type:?} is not documented"));
        match content_type {
            "application/json" => self.assert_fits(&content["schema"], &answer.json(), &what),
            "application/yaml" => self.assert_fits(&content["schema"], &Self::parse(&answer.body).root, &what),
            _ => self.assert_fits(&content["schema"], &answer.body.as_str().into(), &what),
        }
        if content_type.starts_with("text/event-stream") {
            self.events(content, &answer.body, &what)
        } else {
            Events::new()
        }
    }

    /// Asserts that each header is documented and fits, and that none is missing.
    fn assert_headers(&self, response: &Value, headers: &HeaderMap, what: &str) {
        let none = serde_json::Map::new();
        let documented = response.get("headers").map_or(&none, |headers| headers.as_object().unwrap());
        for (name, header) in documented {
            let header = self.resolve(header);
            let Some(value) = headers.get(name) else {
                assert!(header.get("required") != Some(&true.into()), "{what}: {name} is missing");
                continue;
            };
            let value = value.to_str().unwrap();
            let value = match header["schema"]["type"].as_str() {
                Some("integer") => value.parse::<u64>().map_or_else(|_| value.into(), Value::from),
                _ => value.into(),
            };
            self.assert_fits(&header["schema"], &value, &format!("{what}, {name}"));
        }
        for name in headers.keys().map(|name| name.as_str()).filter(|name| !TRANSPORT.contains(name)) {
            let known = documented.keys().any(|documented| documented.eq_ignore_ascii_case(name));
            assert!(known, "{what}: the header {name} is not documented");
        }
    }

    /// Asserts that each event of a stream is documented and fits.
    pub fn events(&self, content: &Value, stream: &str, what: &str) -> Events {
        let mut events = Events::new();
        let mut blocks = stream.split_terminator("\n\n").filter(|block| !block.starts_with(':'));
        while let Some(block) = blocks.next() {
            let field = |name: &str| block.lines().find_map(|line| line.strip_prefix(name));
            let data = field("data: ").unwrap_or_else(|| panic!("{what}: {block}"));
            if content.get("x-sse-end").is_some_and(|end| end == data) {
                assert_eq!(blocks.next(), None, "{what}: nothing follows {data}");
                return events;
            }
            let name = field("event: ").unwrap_or("message");
            let schema =
                content["x-sse-events"].get(name).unwrap_or_else(|| panic!("{what}: no event {name} is documented"));
            let data: Value = serde_json::from_str(data).unwrap();
            self.assert_fits(schema, &data, &format!("{what}, {name}"));
            events.entry(name.to_owned()).or_default().push(data);
        }
        assert_eq!(content.get("x-sse-end"), None, "{what}: the stream has no end");
        events
    }
}

impl<'a> Operation<'a> {
    /// The examples of the request's body, by name.
    pub fn request_examples(self) -> impl Iterator<Item = (&'a String, &'a Value)> {
        let examples = self.value.pointer("/requestBody/content/application~1json/examples");
        examples.and_then(Value::as_object).into_iter().flatten().map(|(name, example)| (name, &example["value"]))
    }
}

/// Adds the members of one object to another, which has none of them.
fn merge(whole: &mut Value, part: &Value, name: &str) {
    if whole.is_null() {
        *whole = json!({});
    }
    for (key, value) in part.as_object().unwrap() {
        assert!(whole.get(key).is_none_or(|known| known == value), "{name} has {key}, which another document has");
        whole[key] = value.clone();
    }
}

/// Whether a path is one of a template's; only the last parameter of a model's path holds slashes.
fn fits(template: &str, path: &str) -> bool {
    let Some((before, rest)) = template.split_once('{') else { return template == path };
    let after = rest.split_once('}').unwrap().1;
    let parameter = path.strip_prefix(before).and_then(|path| path.strip_suffix(after));
    parameter
        .is_some_and(|parameter| !parameter.is_empty() && (template == "/v1/models/{id}" || !parameter.contains('/')))
}
