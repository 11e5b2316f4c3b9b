//! A request to a server, the head of its answer, and what becomes of those that fail.

use std::fmt::Display;
use std::time::Duration;

use reqwest::{Response, StatusCode};
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use super::RemoteEngine;
use crate::causes::causes;
use crate::engine::EngineError;
use crate::ids::CorrelationId;

/// Bytes of a refusal that are read for the log.
const REFUSAL_BYTES: usize = 8192;

impl RemoteEngine {
    /// Posts a body, and returns the answer once its head is there and says that all is well.
    pub(super) async fn ask(
        &self,
        (path, accept): (&str, &str),
        of: Option<&CorrelationId>,
        body: Vec<u8>,
    ) -> Result<Response, EngineError> {
        let limits = self.spec.limits;
        let request = self.post(path, of, body).header("accept", accept);
        let response = match timeout(limits.first_byte, request.send()).await {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => return Err(self.failed(&causes(&error.without_url()), 0)),
            Err(_) => return Err(self.failed(&"no answer in time", 0)),
        };
        if response.status() == StatusCode::OK { Ok(response) } else { Err(self.refused(response, path).await) }
    }

    /// A whole answer of no more than so many bytes.
    pub(super) async fn whole<T: DeserializeOwned>(
        &self,
        mut response: Response,
        most: usize,
    ) -> Result<T, EngineError> {
        let mut bytes = Vec::new();
        loop {
            match timeout(self.spec.limits.idle, response.chunk()).await {
                Ok(Ok(Some(more))) if more.len() <= most - bytes.len() => bytes.extend_from_slice(&more),
                Ok(Ok(Some(_))) => return Err(self.failed(&"the answer is longer than it may be", bytes.len())),
                Ok(Ok(None)) => break,
                Ok(Err(error)) => return Err(self.failed(&causes(&error.without_url()), bytes.len())),
                Err(_) => return Err(self.failed(&"the answer stalls", bytes.len())),
            }
        }
        serde_json::from_slice(&bytes).map_err(|error| self.unreadable(&error, bytes.len()))
    }

    /// Logs that an answer, or a part of it of so many bytes, cannot be read. Not with the error, which quotes what was said.
    pub(super) fn unreadable(&self, error: &serde_json::Error, bytes: usize) -> EngineError {
        let (kind, column) = (error.classify(), error.column());
        self.failed(&format_args!("the answer is not what was asked for: {kind:?} at {column}"), bytes)
    }

    /// What a refusal means for the task, and for the server.
    async fn refused(&self, response: Response, path: &str) -> EngineError {
        let status = response.status();
        let seconds = response.headers().get("retry-after").and_then(|value| value.to_str().ok()?.trim().parse().ok());
        if let Some(seconds) = seconds {
            self.rest(seconds);
        }
        let (kind, code) = kind_of(&beginning(response, self.spec.limits.idle).await);
        // Not its message: servers quote keys and prompts in it.
        tracing::warn!(upstream = %self.spec.base_url, status = status.as_u16(), kind, code, "the server refuses");
        let hint = match status.as_u16() {
            401 | 403 => ": it does not take the key".to_owned(),
            404 => format!(": it has no /{path}, or no model {:?}", self.spec.model),
            _ => String::new(),
        };
        self.note(Some(format!("{} answers {status}{hint}", self.spec.base_url)));
        match (status.as_u16(), path) {
            (404 | 405, "completions") => EngineError::NoPrompts,
            (404 | 405, "embeddings" | "rerank") => EngineError::NoWorkload,
            (400 | 404 | 405 | 413 | 415 | 422, _) => EngineError::Rejected,
            _ => EngineError::Reset,
        }
    }

    /// Logs a failure, after so many tokens or bytes of an answer.
    pub(super) fn failed(&self, what: &dyn Display, seen: usize) -> EngineError {
        tracing::warn!(upstream = %self.spec.base_url, error = %what, seen, "the server failed");
        self.note(Some(format!("{}: {what}", self.spec.base_url)));
        EngineError::Reset
    }
}

/// The beginning of what a server says to a request that it refuses.
async fn beginning(mut response: Response, patience: Duration) -> Vec<u8> {
    let mut said = Vec::new();
    while said.len() < REFUSAL_BYTES {
        match timeout(patience, response.chunk()).await {
            Ok(Ok(Some(bytes))) => said.extend_from_slice(&bytes[..bytes.len().min(REFUSAL_BYTES)]),
            _ => break,
        }
    }
    said
}

/// The `type` and the `code` of an error, where they are words of a vocabulary and no text.
fn kind_of(said: &[u8]) -> (Option<String>, Option<String>) {
    let body: serde_json::Value = serde_json::from_slice(said).unwrap_or_default();
    let word = |name: &str| {
        let word = body["error"][name].as_str().or_else(|| body[name].as_str())?;
        let plain = word.len() <= 40 && word.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
        plain.then(|| word.to_owned())
    };
    (word("type"), word("code"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_refusal_only_words_of_a_vocabulary_are_kept() {
        let said =
            r#"{"error": {"message": "bad key sk-1", "type": "invalid_request_error", "code": "invalid_api_key"}}"#;
        assert_eq!(kind_of(said.as_bytes()), (Some("invalid_request_error".into()), Some("invalid_api_key".into())));
        let quoted = r#"{"type": "the key sk-1 is bad", "code": 401}"#;
        assert_eq!(kind_of(quoted.as_bytes()), (None, None));
        assert_eq!(kind_of(b"<html>sk-1"), (None, None));
    }
}
