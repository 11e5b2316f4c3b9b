//! One request with one published field in it: sent to the gateway, and translated.

use axum::http::StatusCode;
use serde_json::Value;
use sluicegate_compat::native::{ErrorEnvelope, detail};

use super::endpoints::Endpoint;
use crate::harness::Gate;

/// What becomes of a request.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    Taken {
        /// What the gateway is asked for, and what the answer will say: as different requests differ.
        native: String,
        /// The fields that the answer says have no effect.
        ignored: Vec<String>,
    },
    /// As understood and not served, with the field that the refusal is about.
    Refused { param: String },
    /// As a mistake, or not at all: a good request is neither.
    Mistaken(String),
}

/// A request as a dialect's translation reads it: what it comes to, and the fields without effect.
pub type Translated = Result<(String, Vec<String>), ErrorEnvelope>;

/// Sends a body and says what has become of it.
pub async fn run(gate: &Gate, endpoint: &Endpoint, body: &Value) -> Outcome {
    let text = body.to_string();
    let answer = gate.post(endpoint.path, &text).await;
    let translated = (endpoint.translate)(text.as_bytes());
    if answer.status == StatusCode::OK {
        let names = answer.header("x-sluicegate-ignored").split(", ").filter(|name| !name.is_empty());
        let ignored: Vec<String> = names.map(str::to_owned).collect();
        let (native, known) = translated.unwrap_or_else(|error| panic!("taken and not translated: {error:?}: {body}"));
        assert_eq!(ignored, known, "the header names what the translation has passed over: {body}");
        return Outcome::Taken { native, ignored };
    }
    let error = answer.json();
    // Anthropic's errors say neither; the translation does.
    let (code, param) = match (&translated, error["error"].get("code")) {
        (_, Some(code)) => (code.as_str().map(str::to_owned), error["error"]["param"].as_str().map(str::to_owned)),
        (Err(envelope), None) => (envelope.detail.map(str::to_owned), envelope.param.clone()),
        // Refused for the model that it names: its message says how.
        (Ok(_), None) => {
            let told = |name: &str| error["error"][name].as_str();
            let unsupported = told("message").is_some_and(|message| message.starts_with("Unsupported value"));
            (unsupported.then(|| detail::UNSUPPORTED_VALUE.to_owned()), told("param").map(str::to_owned))
        }
    };
    let unsupported = [detail::UNSUPPORTED_PARAMETER, detail::UNSUPPORTED_VALUE].map(|code| Some(code.to_owned()));
    match param {
        Some(param) if answer.status == StatusCode::BAD_REQUEST && unsupported.contains(&code) => {
            Outcome::Refused { param }
        }
        _ => Outcome::Mistaken(format!("{}: {}", answer.status, answer.body)),
    }
}

/// A path of an error with the places in lists left out: `messages[0].content` is `messages[].content`.
pub fn without_places(path: &str) -> String {
    let mut plain = String::new();
    let mut inside = false;
    for character in path.chars() {
        inside &= character != ']';
        if !inside {
            plain.push(character);
        }
        inside |= character == '[';
    }
    plain
}
