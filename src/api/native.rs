//! The native API.

use std::collections::HashMap;

use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use sluicegate_compat::native::{ErrorCode, ErrorEnvelope, TaskRequest, TaskState};
use uuid::Uuid;

use super::Api;
use super::access::About;
use super::body::Json;
use super::budget;
use super::errors::{Failure, internal};
use super::path::Parameter;
use super::sse::{EventStream, Native};
use crate::admission::Caller;
use crate::gateway::{Once, TaskFilter};
use crate::ids::{CorrelationId, TaskId};

/// Tasks of a page, where the client does not say.
const PAGE: usize = 50;
const MOST_OF_A_PAGE: usize = 500;

/// `POST /v2/tasks`: 202 with the place in the queue.
pub async fn submit(
    State(api): State<Api>,
    correlation: CorrelationId,
    headers: HeaderMap,
    Json(body): Json,
) -> Result<Response, Failure> {
    let request = TaskRequest::parse(&body)?;
    let once = once(&headers, "tasks", &body)?;
    let (session, caller) = (request.session_id, Caller::local(correlation));
    let accepted = api.gateway.submit_once(once, request, body, &caller).await;
    let budget = || budget::headers(&api.gateway.budget_left(&caller.share.tenant, session));
    let accepted = accepted.map_err(|error| Failure::from(error).with_budget(budget))?;
    let id = accepted.id;
    let mut response = (StatusCode::ACCEPTED, axum::Json(accepted.response())).into_response();
    response.headers_mut().extend(budget());
    response.extensions_mut().insert(About(id));
    Ok(response)
}

/// What the header `Idempotency-Key` makes of a request.
pub(super) fn once(headers: &HeaderMap, operation: &str, body: &[u8]) -> Result<Option<Once>, ErrorEnvelope> {
    headers.get("idempotency-key").map(|key| Once::new(key.as_bytes(), operation, body)).transpose()
}

/// `POST /v2/tasks/preview`: 200 with what would become of the task, feasible or not.
pub async fn preview(
    State(api): State<Api>,
    correlation: CorrelationId,
    Json(body): Json,
) -> Result<Response, Failure> {
    let request = TaskRequest::parse(&body)?;
    Ok(axum::Json(api.gateway.preview(request, &Caller::local(correlation)).await).into_response())
}

/// `GET /v2/tasks`: a page of tasks, newest first.
pub async fn list(State(api): State<Api>, query: Parameters) -> Result<Response, Failure> {
    Ok(axum::Json(api.gateway.list(&filter(query)?)).into_response())
}

/// `GET /v2/tasks/{id}`.
pub async fn view(State(api): State<Api>, Parameter(id): Parameter) -> Result<Response, Failure> {
    let view = api.gateway.view(TaskId::parse(&id))?;
    let shown = api.gateway.lifecycle.sized("task", view.bytes(), move || axum::Json(view.show()).into_response());
    Ok(shown.await.map_err(internal)?)
}

/// `POST /v2/tasks/{id}/cancel`: 204, and from then on no token.
pub async fn cancel(State(api): State<Api>, Parameter(id): Parameter) -> Result<StatusCode, Failure> {
    api.gateway.cancel(TaskId::parse(&id)).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// `GET /v2/tasks/{id}/events`: the stream, from the beginning or after `Last-Event-ID`.
pub async fn events(
    State(api): State<Api>,
    Parameter(id): Parameter,
    query: Parameters,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    let verbose = flag(query, "verbose")?;
    let (task, reader) = api.gateway.follow(TaskId::parse(&id), last_event_id(&headers)?)?;
    let depth = api.gateway.queue_depth(&task);
    let mut response = event_stream(EventStream::new(reader, Native { verbose }, None));
    response.headers_mut().insert("x-queue-depth", HeaderValue::from(depth));
    let left = api.gateway.budget_left(&task.spec.tenant_id, task.spec.session_id);
    response.headers_mut().extend(budget::headers(&left));
    response.extensions_mut().insert(About(task.spec.id));
    Ok(response)
}

/// A response whose body is an event stream.
pub(super) fn event_stream<E: super::sse::Encode>(stream: EventStream<E>) -> Response {
    event_body(Body::new(stream))
}

/// A response with events as its body.
pub(super) fn event_body(body: Body) -> Response {
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream; charset=utf-8"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, no-transform"));
    // For proxies such as nginx that would gather the stream.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

/// The query of a URL.
pub(super) type Parameters = Result<Query<Vec<(String, String)>>, QueryRejection>;

/// The names and values of a query, in their order.
pub(super) fn pairs(query: Parameters) -> Result<Vec<(String, String)>, ErrorEnvelope> {
    let malformed = |_| ErrorEnvelope::new(ErrorCode::InvalidParams, "the query of the URL is malformed");
    query.map(|Query(pairs)| pairs).map_err(malformed)
}

fn parameters(query: Parameters) -> Result<HashMap<String, String>, ErrorEnvelope> {
    let pairs = pairs(query)?;
    let mut parameters = HashMap::with_capacity(pairs.len());
    for (name, value) in pairs {
        if parameters.insert(name.clone(), value).is_some() {
            return Err(ErrorEnvelope::invalid(name, "a parameter of the URL is given twice"));
        }
    }
    Ok(parameters)
}

fn filter(query: Parameters) -> Result<TaskFilter, ErrorEnvelope> {
    let mut filter = TaskFilter { limit: PAGE, ..TaskFilter::default() };
    for (name, value) in parameters(query)? {
        let invalid = |message: &str| ErrorEnvelope::invalid(name.clone(), format!("`{name}` {message}"));
        match name.as_str() {
            "state" => {
                let state = TaskState::ALL.into_iter().find(|state| state.as_str() == value);
                let states = TaskState::ALL.map(TaskState::as_str).join(", ");
                filter.state = Some(state.ok_or_else(|| invalid(&format!("is one of {states}")))?);
            }
            "session_id" => {
                let session = Uuid::try_parse(&value).map_err(|_| invalid("is a UUID"))?;
                filter.session_id = Some(session);
            }
            "pool_id" => filter.pool_id = Some(value),
            "limit" => {
                let limit = value.parse().ok().filter(|limit| (1..=MOST_OF_A_PAGE).contains(limit));
                filter.limit = limit.ok_or_else(|| invalid(&format!("is 1 to {MOST_OF_A_PAGE}")))?;
            }
            "cursor" => filter.before = Some(value.parse().map_err(|_| invalid("is the `next_cursor` of a page"))?),
            _ => return Err(invalid("is not a parameter of this list")),
        }
    }
    Ok(filter)
}

/// A parameter that is true or false; false where it is not given.
pub(super) fn flag(query: Parameters, name: &str) -> Result<bool, ErrorEnvelope> {
    let query = parameters(query)?;
    match query.get(name).map(String::as_str) {
        None | Some("false" | "0") => Ok(false),
        Some("true" | "1" | "") => Ok(true),
        Some(_) => Err(ErrorEnvelope::invalid(name, format!("`{name}` is true or false"))),
    }
}

fn last_event_id(headers: &HeaderMap) -> Result<u64, ErrorEnvelope> {
    let Some(id) = headers.get("last-event-id") else { return Ok(0) };
    let number = id.to_str().ok().filter(|id| !id.is_empty()).map_or(Ok(0), str::parse);
    number
        .map_err(|_| ErrorEnvelope::invalid("Last-Event-ID", "`Last-Event-ID` is the `id:` of an event of this stream"))
}
