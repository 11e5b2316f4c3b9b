//! Failures: handlers return an envelope, and one layer renders it in the caller's dialect.

use std::any::Any;

use axum::extract::{OriginalUri, Request};
use axum::http::header::{CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use sluicegate_compat::anthropic::{self, error as messages};
use sluicegate_compat::native::{ErrorCode, ErrorEnvelope, PolicyLabel};
use sluicegate_compat::openai::error as openai;

use crate::ids::CorrelationId;
use crate::lifecycle::panic_message;

/// A refused request. Its body is written by [`render`].
#[derive(Debug)]
pub struct Failure {
    envelope: Box<ErrorEnvelope>,
    /// What a budget that refused it leaves.
    budget: Option<Box<HeaderMap>>,
}

impl Failure {
    /// Says what is left where a budget has refused the request.
    pub fn with_budget(mut self, headers: impl FnOnce() -> HeaderMap) -> Self {
        let budgets = [PolicyLabel::BudgetTokens, PolicyLabel::BudgetTime, PolicyLabel::BudgetCost];
        let by_budget = self.envelope.policy_label.is_some_and(|label| budgets.contains(&label));
        self.budget = by_budget.then(|| Box::new(headers()));
        self
    }
}

impl From<ErrorEnvelope> for Failure {
    fn from(envelope: ErrorEnvelope) -> Self {
        Self { envelope: Box::new(envelope), budget: None }
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let mut response = StatusCode::INTERNAL_SERVER_ERROR.into_response();
        response.headers_mut().extend(self.budget.map(|headers| *headers).unwrap_or_default());
        response.extensions_mut().insert(Failed(self.envelope));
        response
    }
}

/// How a failure travels from a handler to [`render`], and its code on to the access log.
#[derive(Debug, Clone)]
struct Failed(Box<ErrorEnvelope>);

/// How a response is answered in the native dialect, also one whose body is not written yet.
pub fn status_of(response: &Response) -> u16 {
    let failed = response.extensions().get::<Failed>();
    failed.map_or(response.status().as_u16(), |Failed(envelope)| envelope.http_status())
}

/// The code of a failure, left on the response for the access log and the metrics.
#[derive(Debug, Clone, Copy)]
pub struct FailedWith(pub ErrorCode);

/// Whose words an answer uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    Native,
    OpenAi,
    Anthropic,
}

impl Dialect {
    pub fn of(path: &str) -> Self {
        match path.strip_prefix("/v1") {
            Some(rest) if is_below(rest, "/messages") => Self::Anthropic,
            Some(rest) if is_below(rest, "") => Self::OpenAi,
            _ => Self::Native,
        }
    }
}

/// Whether a path is `parent` or one below it.
fn is_below(path: &str, parent: &str) -> bool {
    path.strip_prefix(parent).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Writes the body of a failure.
pub async fn render(correlation: CorrelationId, request: Request, next: Next) -> Response {
    let dialect = Dialect::of(request.uri().path());
    let response = next.run(request).await;
    match response.extensions().get::<Failed>() {
        Some(Failed(envelope)) => {
            let envelope = envelope.as_ref().clone().with_correlation_id(correlation.as_str());
            let mut rendered = body_of(&envelope, dialect);
            rendered.headers_mut().extend(response.headers().clone().into_iter().filter_map(|(name, value)| {
                let name = name.filter(|name| *name != CONTENT_TYPE && *name != "content-length")?;
                Some((name, value))
            }));
            // Whose the request was, and about which task.
            let mut known = response.extensions().clone();
            known.remove::<Failed>();
            rendered.extensions_mut().extend(known);
            rendered.extensions_mut().insert(FailedWith(envelope.code));
            rendered
        }
        None => response,
    }
}

fn body_of(envelope: &ErrorEnvelope, dialect: Dialect) -> Response {
    let (status, body) = match dialect {
        Dialect::Native => (envelope.http_status(), serde_json::to_vec(envelope)),
        Dialect::OpenAi => (openai::status(envelope), serde_json::to_vec(&openai::ErrorBody::from(envelope))),
        Dialect::Anthropic => (messages::status(envelope), serde_json::to_vec(&anthropic::ErrorBody::from(envelope))),
    };
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = (status, body.unwrap_or_default()).into_response();
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if status == StatusCode::UNAUTHORIZED {
        headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    // Where waiting does not help, nobody is told to. 529: Anthropic's word for a service that is overloaded.
    if envelope.retriable && matches!(status.as_u16(), 429 | 503 | 529) {
        let wait_ms = envelope.retry_after_ms.unwrap_or(1000);
        headers.insert(RETRY_AFTER, HeaderValue::from(wait_ms.div_ceil(1000)));
        headers.insert(HeaderName::from_static("x-backoff-ms"), HeaderValue::from(wait_ms));
        headers.insert(HeaderName::from_static("retry-after-ms"), HeaderValue::from(wait_ms));
    }
    let forbids_retry = match dialect {
        Dialect::Native => false,
        Dialect::OpenAi => openai::forbids_retry(envelope),
        Dialect::Anthropic => messages::forbids_retry(envelope),
    };
    if forbids_retry {
        headers.insert(HeaderName::from_static("x-should-retry"), HeaderValue::from_static("false"));
    }
    response
}

/// 404 for a path that no route has.
pub async fn no_such_route(OriginalUri(uri): OriginalUri) -> Failure {
    let path: String = uri.path().chars().take(128).collect();
    ErrorEnvelope::new(ErrorCode::NotFound, format!("there is no {path}")).into()
}

/// 405 for a route that exists with another method; axum adds the `Allow` header.
pub async fn no_such_method(method: Method, OriginalUri(uri): OriginalUri) -> Failure {
    let path: String = uri.path().chars().take(128).collect();
    ErrorEnvelope::new(ErrorCode::MethodNotAllowed, format!("{path} does not take {method}")).into()
}

/// What a caller sees of a panic in a handler.
pub fn panicked(panic: Box<dyn Any + Send + 'static>) -> Response {
    tracing::error!(panic = panic_message(panic.as_ref()), "a handler panicked");
    Failure::from(ErrorEnvelope::new(ErrorCode::Internal, "something went wrong in the gateway")).into_response()
}
