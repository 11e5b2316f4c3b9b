//! Bodies that nobody should send, made from the documented schemas, which other tests hold equal to the types: every
//! field missing, of a wrong type, said twice, absurdly large. Each is refused by the name of its field, none is a 500,
//! and afterwards the gateway serves as before.

use std::cell::RefCell;
use std::convert::Infallible;

use axum::body::Body;
use axum::http::{Request, StatusCode};
use futures_util::stream;
use serde_json::{Value, json};
use sluicegate::engine::scripted::Script;
use sluicegate_compat::native::Workload;

use super::documents::{Document, Operation};
use super::places::{Place, Step, places};
use crate::harness::{Answer, BOTH_MODELS, Gate, read, request, says};

const TASK: &str = r#"{"model_ref": "builtin", "prompt": "hi"}"#;

/// Stands in a body for a text that serde_json would not write.
const MARK: &str = "<mark>";

/// Exactly one of these is in a task.
const ONE_OF: [&str; 3] = ["prompt", "messages", "inputs"];

/// Needed where `response_format.type` says so, and not read elsewhere.
const NEEDED_BY_ANOTHER: &str = "response_format.json_schema.name";

/// An operation with a body.
struct Target<'a> {
    document: &'a Document,
    operation: Operation<'a>,
    schema: &'a Value,
    base: Value,
    path: String,
    /// Answers that are not as they should be: told together.
    findings: RefCell<Vec<String>>,
}

impl<'a> Target<'a> {
    fn all(documents: &'a [Document]) -> Vec<Self> {
        let mut targets = Vec::new();
        for document in documents {
            for operation in document.operations() {
                let schema = operation.value.pointer("/requestBody/content/application~1json/schema");
                let Some(schema) = schema else { continue };
                let (_, base) = operation.request_examples().next().unwrap();
                let parameters = operation.value["parameters"].as_array().unwrap().iter();
                let id = parameters.map(|parameter| document.resolve(parameter)).find(|known| known["in"] == "path");
                let id = id.map_or("", |id| id["example"].as_str().unwrap());
                let path = operation.path.replace("{id}", id).replace("{model}", id);
                let findings = RefCell::default();
                targets.push(Self { document, operation, schema, base: base.clone(), path, findings });
            }
        }
        assert!(targets.len() > 9, "{}", targets.len());
        targets
    }

    fn is_native(&self) -> bool {
        !self.path.starts_with("/v1/")
    }

    /// Sends a body and holds the answer against what is true of every answer; returns the status and the `param`.
    async fn send(&self, gate: &Gate, body: impl Into<Body>) -> (StatusCode, String) {
        let method = self.operation.method.to_uppercase();
        let mut request = Request::builder().method(method.as_str()).uri(&self.path);
        request = request.header("host", "localhost").header("x-correlation-id", "c-1");
        request = request.header("content-type", "application/json");
        self.see(&read(gate.send(request.body(body.into()).unwrap()).await).await)
    }

    fn see(&self, answer: &Answer) -> (StatusCode, String) {
        let status = answer.status.as_str();
        let what = format!("{}: {status}: {}", self.path, answer.body.chars().take(300).collect::<String>());
        assert!(self.operation.value["responses"].get(status).is_some(), "not documented: {what}");
        assert!(!answer.status.is_server_error() || status == "503", "{what}");
        assert_eq!(answer.header("x-correlation-id"), "c-1", "{what}");
        if !answer.status.is_client_error() {
            // A preview answers so what a submission would refuse.
            let refused = answer.body.starts_with(r#"{"feasible":false"#).then(|| answer.json()["error"].clone());
            let status = |error: &Value| match error["code"].as_str() {
                Some("INVALID_PARAMS") => StatusCode::BAD_REQUEST,
                Some("NOT_FOUND") => StatusCode::NOT_FOUND,
                _ => answer.status,
            };
            let refused = refused.map(|error| (status(&error), error["param"].as_str().unwrap_or_default().to_owned()));
            return refused.unwrap_or((answer.status, String::new()));
        }
        assert_eq!(answer.header("content-type"), "application/json", "{what}");
        let error = answer.json();
        let error = if self.is_native() { error } else { error["error"].clone() };
        assert!(error["message"].as_str().is_some_and(|message| !message.is_empty()), "{what}");
        assert!(!self.is_native() || error["correlation_id"] == "c-1", "{what}");
        (answer.status, error["param"].as_str().unwrap_or_default().to_owned())
    }

    /// Expects a 400 that names the field.
    async fn refuses(&self, gate: &Gate, what: &str, param: &str, body: String) {
        let shown: String = body.chars().take(200).collect();
        let (status, named) = self.send(gate, body).await;
        // Or a field of it that is missing.
        let within = named.strip_prefix(param).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']));
        if status != StatusCode::BAD_REQUEST || !within || param.is_empty() != named.is_empty() {
            self.found(format!("{param}, {what}: {status}, {named:?}: {shown}"));
        }
    }

    fn found(&self, finding: String) {
        self.findings.borrow_mut().push(format!("{}: {finding}", self.path));
    }

    fn finish(&self) {
        let findings = self.findings.borrow();
        assert!(findings.is_empty(), "{}", findings.join("\n"));
    }

    /// The example with `value` at a place, and where it is [`MARK`] with this text instead.
    fn with(&self, place: &Place, value: Value, text: &str) -> String {
        let mut body = self.base.clone();
        if (self.is_native() || self.path.ends_with("/tokenize")) && ONE_OF.contains(&place.root()) {
            let own = |name: &str| !self.is_native() && name == place.root();
            body.as_object_mut().unwrap().retain(|name, _| own(name) || !ONE_OF.contains(&name.as_str()));
        }
        place.put(self.document, self.schema, &mut body, value);
        body.to_string().replacen(&format!("\"{MARK}\""), text, 1)
    }
}

fn deep(open: &str, close: &str) -> String {
    format!("{}{}", open.repeat(10_000), close.repeat(10_000))
}

/// Of each type one.
fn values() -> [(&'static str, Value); 6] {
    let integer = ("integer", json!(7));
    [
        ("boolean", json!(true)),
        integer,
        ("number", json!(1.5)),
        ("string", json!("x")),
        ("object", json!({})),
        ("array", json!([])),
    ]
}

/// A place with what may stand there: wrong values of every kind.
async fn abuse(target: &Target<'_>, gate: &Gate, place: &Place) {
    let param = place.to_string();
    let takes = |kind: &str| place.kinds.is_empty() || place.kinds.contains(kind);
    let marked = |text: &str| target.with(place, json!(MARK), text);
    for (kind, value) in values() {
        let fits = takes(kind) || kind == "integer" && takes("number");
        if !fits {
            target.refuses(gate, "wrong type", &param, target.with(place, value, "")).await;
        }
    }
    let top = place.root();
    for text in place.outside(target.document) {
        let (status, named) = target.send(gate, marked(&text)).await;
        // A model of such a name is not there.
        let refused =
            status == StatusCode::BAD_REQUEST || (top.starts_with("model") && status == StatusCode::NOT_FOUND);
        if !refused || !named.starts_with(top) {
            target.found(format!("{param}, out of range: {status}, {named:?}: {text:.100}"));
        }
    }
    for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
        let body = marked(&if open == "[" {
            deep(open, close)
        } else {
            format!("{}1{}", open.repeat(10_000), close.repeat(10_000))
        });
        let (status, named) = target.send(gate, body).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{param}");
        assert!(named.starts_with(top), "{param}: {named}");
    }
    let mut survives = Vec::new();
    if takes("string") {
        for text in [r#""\ud800""#, r#""\ud800x""#, r#""\udc00\ud800""#] {
            target.refuses(gate, "half of a surrogate pair", &param, marked(text)).await;
        }
        survives.extend([r#""\u0000""#.to_owned(), format!("\"{}\"", "x".repeat(1 << 20)), "\"\"".to_owned()]);
    }
    if takes("number") || takes("integer") {
        for text in ["1e400", "-1e400"] {
            target.refuses(gate, "beyond every number", &param, marked(text)).await;
        }
        let large = ["9223372036854775808", "18446744073709551616", "-9223372036854775809", "1e308", "-1", "1e-400"];
        survives.extend(large.map(str::to_owned));
        survives.push("9".repeat(10_000));
    }
    if takes("array") {
        survives.push(format!("[{}0]", "0,".repeat(100_000)));
        survives.push(format!("[{}\"x\"]", "\"x\",".repeat(100_000)));
    }
    if takes("object") {
        let members: Vec<_> = (0..100_000).map(|key| format!("\"{key}\":0")).collect();
        survives.push(format!("{{{}}}", members.join(",")));
    }
    for text in survives {
        target.send(gate, marked(&text)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn no_value_of_a_field_is_too_odd() {
    let documents = Document::both();
    let mut tried = 0;
    for target in Target::all(&documents) {
        let gate = gate("4194304").await;
        for place in places(target.document, target.schema) {
            abuse(&target, &gate, &place).await;
            tried += 1;
        }
        target.finish();
        still_serves(gate).await;
    }
    assert!(tried > 150, "{tried}");
}

#[tokio::test(start_paused = true)]
async fn a_field_that_is_missing_unknown_or_there_twice_is_named() {
    let documents = Document::both();
    let mut tried = [0, 0, 0];
    for target in Target::all(&documents) {
        let gate = gate("16777216").await;
        for place in places(target.document, target.schema) {
            let param = place.to_string();
            // There twice, the one like the other.
            if let Some(Step::Key(name)) = place.steps.last() {
                let sample = place.sample(target.document);
                let mut body: Value = serde_json::from_str(&target.with(&place, sample.clone(), "")).unwrap();
                place.beside(MARK).put(target.document, target.schema, &mut body, sample);
                let body = body.to_string().replacen(&format!("\"{MARK}\":"), &format!("\"{name}\":"), 1);
                target.refuses(&gate, "there twice", &param, body).await;
                tried[0] += 1;
            }
            if place.required && param != NEEDED_BY_ANOTHER {
                let mut body: Value = serde_json::from_str(&target.with(&place, json!(1), "")).unwrap();
                place.remove(&mut body);
                target.refuses(&gate, "missing", &param, body.to_string()).await;
                tried[1] += 1;
            }
            if place.closed {
                let unknown = place.beside("colour");
                // The places of a list are not told apart.
                let param = unknown.to_string();
                for value in [json!("red"), Value::Null] {
                    let body = target.with(&unknown, value, "");
                    let (status, named) = target.send(&gate, body).await;
                    assert_eq!(status, StatusCode::BAD_REQUEST, "{}: {param}", target.path);
                    assert_eq!(named.replace("[]", "[0]"), param, "{}", target.path);
                }
                tried[2] += 1;
            }
        }
        target.finish();
        still_serves(gate).await;
    }
    assert!(tried.into_iter().all(|tried| tried > 15), "{tried:?}");
}

#[tokio::test(start_paused = true)]
async fn bodies_that_are_cut_short_or_no_text_or_too_large_are_refused() {
    let documents = Document::both();
    for target in Target::all(&documents) {
        let gate = gate("4096").await;
        let whole = target.base.to_string();
        for end in (1..whole.len()).step_by(whole.len() / 20 + 1) {
            // A session is also extended, by no body at all.
            target.refuses(&gate, "cut short", "", whole[..end].to_owned()).await;
        }
        let mut no_text = whole.clone().into_bytes();
        no_text.insert(2, 0xff);
        assert_eq!(target.send(&gate, no_text).await, (StatusCode::BAD_REQUEST, String::new()));
        for odd in ["\0", "[]", "null", "1", "\"x\"", "{} {}", "\u{feff}{}", "{'a': 1}", "{\"a\": NaN}", "{\"a\": 1,}"]
        {
            let (status, _) = target.send(&gate, odd).await;
            assert_eq!(status, StatusCode::BAD_REQUEST, "{}: {odd}", target.path);
        }
        let large = format!("{}{whole}", " ".repeat(4096));
        assert_eq!(target.send(&gate, large.clone()).await.0, StatusCode::PAYLOAD_TOO_LARGE);
        // In chunks, without a length.
        let chunks = |parts: Vec<&str>| {
            let parts: Vec<_> = parts.into_iter().map(|part| Ok::<_, Infallible>(part.to_owned())).collect();
            Body::from_stream(stream::iter(parts))
        };
        assert_eq!(target.send(&gate, chunks(vec![" "; 4097])).await.0, StatusCode::PAYLOAD_TOO_LARGE);
        target.send(&gate, chunks(vec![&whole[..1], &whole[1..]])).await;
        let broken = [Ok(whole[..1].to_owned()), Err(std::io::Error::other("reset"))];
        let broken = target.send(&gate, Body::from_stream(stream::iter(broken))).await;
        assert_eq!(broken, (StatusCode::BAD_REQUEST, String::new()), "{}", target.path);
        for media_type in ["text/plain", "application/x-www-form-urlencoded", "application/", "", "\u{7f}é", "json"] {
            let mut request = request(&target.operation.method.to_uppercase(), &target.path, Body::from(whole.clone()));
            request.headers_mut().insert("x-correlation-id", "c-1".parse().unwrap());
            let media_type = axum::http::HeaderValue::from_bytes(media_type.replace('\u{7f}', "").as_bytes()).unwrap();
            request.headers_mut().insert("content-type", media_type);
            let (status, _) = target.see(&read(gate.send(request).await).await);
            assert_eq!(status, StatusCode::UNSUPPORTED_MEDIA_TYPE, "{}", target.path);
        }
        target.finish();
        still_serves(gate).await;
    }
}

/// Ids that no thing has, as they stand in a path.
fn ids() -> Vec<String> {
    let known = ["%00", "%ff", "%2e%2e%2f", "..%2f..", "%20", "%F0%9F%98%80", "a%2Fb", "'%3B--", "%7B%7D", "x%0d%0ay"];
    let long = ["1", "%2F", "%41"].map(|text| text.repeat(20_000 / text.len()));
    known.map(str::to_owned).into_iter().chain(long).chain([uuid::Uuid::now_v7().to_string()]).collect()
}

#[tokio::test(start_paused = true)]
async fn ids_that_no_thing_has_are_not_found_and_wrong_methods_are_told_the_right_ones() {
    let gate = gate("16777216").await;
    for document in Document::both() {
        for operation in document.operations() {
            let method = operation.method.to_uppercase();
            for id in ids().into_iter().filter(|_| operation.path.contains('{')) {
                let (before, rest) = operation.path.split_once('{').unwrap();
                let path = format!("{before}{id}{}", rest.split_once('}').unwrap().1);
                let body = operation.request_examples().next().map(|(_, body)| Body::from(body.to_string()));
                let answer = read(gate.send(request(&method, &path, body.unwrap_or_default())).await).await;
                // Any UUID may become a session.
                let made = method == "POST" && operation.path.starts_with("/v2/sessions/") && id.len() == 36;
                let expected = if made { StatusCode::NO_CONTENT } else { StatusCode::NOT_FOUND };
                assert_eq!(
                    answer.status,
                    expected,
                    "{method} {operation} {id:.40}: {}",
                    answer.body,
                    operation = operation.path
                );
                assert!(answer.body.len() < 1000, "{}", answer.body);
                assert!(!answer.header("x-correlation-id").is_empty());
            }
            let item = &document.root["paths"][operation.path];
            let path = operation.path.replace("{id}", "x").replace("{file}", "x").replace("{model}", "x");
            for other in ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "BREW"] {
                if item.get(other.to_lowercase()).is_some() {
                    continue;
                }
                let answer = read(gate.send(request(other, &path, Body::empty())).await).await;
                assert_eq!(answer.status, StatusCode::METHOD_NOT_ALLOWED, "{other} {path}");
                let mut allowed: Vec<_> =
                    answer.header("allow").split(',').filter(|method| *method != "HEAD").collect();
                allowed.sort_unstable();
                let mut known: Vec<_> = item.as_object().unwrap().keys().map(|method| method.to_uppercase()).collect();
                known.sort_unstable();
                assert_eq!(allowed, known, "{path}");
            }
        }
    }
    still_serves(gate).await;
}

/// A gateway that serves whatever the documented examples ask of it.
async fn gate(max_body_bytes: &str) -> Gate {
    let settings = [("SLUICEGATE_POOLS", BOTH_MODELS), ("SLUICEGATE_SERVER__MAX_BODY_BYTES", max_body_bytes)];
    Gate::with(Script { workloads: Workload::ALL.to_vec(), ..says(&["hi"]) }, &settings).await.with_key().await
}

/// Brings back what well-formed requests among the bad ones have done, sees a task to its end, and looks for leaks.
async fn still_serves(gate: Gate) {
    gate.settle().await;
    gate.until("/v2/pools", |pools| pools["pools"][0]["reloading"] == false).await;
    gate.post("/v2/catalog/models/builtin/state", r#"{"state": "Active"}"#).await;
    gate.post("/v2/pools/default/resume", "").await;
    let pool = gate.get("/v2/pools/default/health").await.json();
    if pool["replicas"][0]["state"] == "unloaded" {
        gate.post("/v2/pools/default/reload", r#"{"new_model_ref": "builtin"}"#).await;
        gate.until("/v2/pools/default/health", |health| health["ready"] == true).await;
    }
    let task = gate.submit(TASK).await;
    assert!(gate.events(&task).await.contains("event: end"));
    assert_eq!(gate.metric(r#"errors_total{code="INTERNAL"}"#).await, 0.0);
    gate.finish().await;
}
