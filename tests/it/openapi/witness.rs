//! Sends requests, compares each answer with the documents, and remembers which answers it has seen.

use std::collections::BTreeSet;

use axum::body::Body;
use axum::http::Request;

use super::documents::{Document, Events, unmatched};
use crate::harness::{Answer, Gate, read, request};

/// Compares answers with the documents, and remembers which of them it has seen.
pub struct Witness {
    pub documents: [Document; 2],
    /// `get /healthz: 200`.
    pub answers: BTreeSet<String>,
    /// Names of events.
    pub events: BTreeSet<String>,
}

impl Witness {
    pub fn new() -> Self {
        Self { documents: Document::both(), answers: BTreeSet::new(), events: BTreeSet::new() }
    }

    pub fn see(&mut self, method: &str, path: &str, answer: &Answer) -> Events {
        let openai = path == "/v1" || path.starts_with("/v1/");
        let document = &self.documents[usize::from(openai)];
        let events = document.assert_documented(method, path, answer);
        let place = document.operation(method, path).map_or_else(
            || format!("{} of {}", unmatched(path), if openai { "the dialects" } else { "native" }),
            |operation| format!("{} {}", operation.method, operation.path),
        );
        self.answers.insert(format!("{place}: {}", answer.status.as_str()));
        self.events.extend(events.keys().cloned());
        events
    }

    pub async fn send(&mut self, gate: &Gate, request: Request<Body>) -> (Answer, Events) {
        let (method, path) = (request.method().to_string(), request.uri().path().to_owned());
        let answer = read(gate.send(request).await).await;
        let events = self.see(&method, &path, &answer);
        (answer, events)
    }

    pub async fn get(&mut self, gate: &Gate, path: &str) -> (Answer, Events) {
        self.send(gate, request("GET", path, Body::empty())).await
    }

    pub async fn post(&mut self, gate: &Gate, path: &str, body: &str) -> (Answer, Events) {
        let (answer, events) = self.send(gate, request("POST", path, Body::from(body.to_owned()))).await;
        self.see_request(path, body, &answer);
        (answer, events)
    }

    /// What the gateway takes, the documents allow.
    fn see_request(&self, path: &str, body: &str, answer: &Answer) {
        let document = &self.documents[usize::from(path.starts_with("/v1/"))];
        let operation = document.operation("POST", path).unwrap();
        let schema = operation.value.pointer("/requestBody/content/application~1json/schema");
        // A preview answers 200 to what a submission would refuse.
        let taken = answer.status.is_success() && !answer.body.starts_with(r#"{"feasible":false"#);
        if let Some(schema) = schema.filter(|_| taken) {
            let mistakes = document.mistakes(schema, &serde_json::from_str(body).unwrap());
            assert!(mistakes.is_empty(), "{path} takes {body}: {mistakes:#?}");
        }
    }

    /// Each documented operation as a method and a path with the documented examples.
    pub fn requests(&self) -> Vec<(String, String)> {
        let example = |document: &Document, parameter| {
            let parameter = document.resolve(parameter);
            (
                format!("{{{}}}", parameter["name"].as_str().unwrap()),
                parameter["example"].as_str().unwrap_or("").to_owned(),
            )
        };
        let mut requests = Vec::new();
        for document in &self.documents {
            for operation in document.operations() {
                let parameters = operation.value["parameters"].as_array().unwrap().iter();
                let path = parameters.map(|parameter| example(document, parameter));
                let path = path.fold(operation.path.to_owned(), |path, (name, value)| path.replace(&name, &value));
                requests.push((operation.method.to_uppercase(), path));
            }
        }
        requests
    }
}
