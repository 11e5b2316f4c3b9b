//! The native API.

use std::collections::HashMap;

use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use sluicegate_compat::native::{ErrorCode, ErrorEnvelope, TaskRequest};

use super::Api;
use super::access::About;
use super::body::Json;
use super::errors::Failure;
use super::path::Parameter;
use super::sse::{EventStream, Native};
use crate::ids::{CorrelationId, TaskId};

/// `POST /v2/tasks`: 202 with the place in the queue.
pub async fn submit(State(api): State<Api>, correlation: CorrelationId, Json(body): Json) -> Result<Response, Failure> {
    let request = TaskRequest::parse(&body)?;
    let admitted = api.gateway.submit(request, &correlation).await?;
    let mut response = (StatusCode::ACCEPTED, axum::Json(admitted.response())).into_response();
    response.extensions_mut().insert(About(admitted.task.spec.id));
    Ok(response)
}

/// `GET /v2/tasks/{id}`.
pub async fn view(State(api): State<Api>, Parameter(id): Parameter) -> Result<Response, Failure> {
    Ok(axum::Json(api.gateway.view(TaskId::parse(&id))?).into_response())
}

/// `POST /v2/tasks/{id}/cancel`: 204, and from then on no token.
pub async fn cancel(State(api): State<Api>, Parameter(id): Parameter) -> Result<StatusCode, Failure> {
    api.gateway.cancel(TaskId::parse(&id))?;
    Ok(StatusCode::NO_CONTENT)
}

/// `GET /v2/tasks/{id}/events`: the stream, from the beginning or after `Last-Event-ID`.
pub async fn events(
    State(api): State<Api>,
    Parameter(id): Parameter,
    query: Result<Query<HashMap<String, String>>, QueryRejection>,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    let verbose = verbose(query)?;
    let (task, reader) = api.gateway.follow(TaskId::parse(&id), last_event_id(&headers)?)?;
    let depth = api.gateway.queue_depth(&task);
    let mut response = event_stream(EventStream::new(reader, Native { verbose }, None));
    response.headers_mut().insert("x-queue-depth", HeaderValue::from(depth));
    response.extensions_mut().insert(About(task.spec.id));
    Ok(response)
}

/// A response whose body is an event stream.
pub(super) fn event_stream<E: super::sse::Encode>(stream: EventStream<E>) -> Response {
    let mut response = Response::new(Body::new(stream));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream; charset=utf-8"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, no-transform"));
    // For proxies such as nginx that would gather the stream.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

fn verbose(query: Result<Query<HashMap<String, String>>, QueryRejection>) -> Result<bool, ErrorEnvelope> {
    let query = query.map_err(|_| ErrorEnvelope::new(ErrorCode::InvalidParams, "the query of the URL is malformed"))?;
    match query.get("verbose").map(String::as_str) {
        None | Some("false" | "0") => Ok(false),
        Some("true" | "1" | "") => Ok(true),
        Some(_) => Err(ErrorEnvelope::invalid("verbose", "`verbose` is true or false")),
    }
}

fn last_event_id(headers: &HeaderMap) -> Result<u64, ErrorEnvelope> {
    let Some(id) = headers.get("last-event-id") else { return Ok(0) };
    let number = id.to_str().ok().filter(|id| !id.is_empty()).map_or(Ok(0), str::parse);
    number
        .map_err(|_| ErrorEnvelope::invalid("Last-Event-ID", "`Last-Event-ID` is the `id:` of an event of this stream"))
}
