//! The native API.

use std::collections::HashSet;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use sluicegate_compat::native::{ErrorCode, ErrorEnvelope, TaskRequest, TaskState};
use uuid::Uuid;

use super::Api;
use super::access::About;
use super::answer::written;
use super::body::Json;
use super::budget;
use super::errors::Failure;
use super::path::Parameter;
use super::sse::{EventStream, Native, event_stream};
use crate::admission::Caller;
use crate::gateway::{TaskFilter, Whose};
use crate::ids::TaskId;

/// Tasks of a page, where the client does not say.
const PAGE: usize = 50;
const MOST_OF_A_PAGE: usize = 500;

/// `POST /v2/tasks`: 202 with the place in the queue.
pub async fn submit(
    State(api): State<Api>,
    caller: Caller,
    headers: HeaderMap,
    body: Json,
) -> Result<Response, Failure> {
    let text = body.0.clone();
    let (request, once) = body.read_once(&api, &headers, "tasks", TaskRequest::parse).await?;
    let session = request.session_id;
    let accepted = api.gateway.submit_once(once, request, text, &caller).await;
    let budget = || budget::headers(&api, &caller.share.tenant, session, caller.owners());
    let accepted = accepted.map_err(|error| Failure::from(error).with_budget(budget))?;
    let id = accepted.id;
    let mut response = (StatusCode::ACCEPTED, axum::Json(accepted.response())).into_response();
    response.headers_mut().extend(budget());
    response.extensions_mut().insert(About(id));
    Ok(response)
}

/// `POST /v2/tasks/preview`: 200 with what would become of the task, feasible or not.
pub async fn preview(State(api): State<Api>, caller: Caller, body: Json) -> Result<Response, Failure> {
    let request = body.read(&api, TaskRequest::parse).await?;
    Ok(axum::Json(api.gateway.preview(request, &caller).await).into_response())
}

/// `GET /v2/tasks`: a page of tasks, newest first.
pub async fn list(State(api): State<Api>, caller: Caller, query: Parameters) -> Result<Response, Failure> {
    Ok(axum::Json(api.gateway.list(&caller.share.tenant, &filter(query)?)).into_response())
}

/// `GET /v2/tasks/{id}`.
pub async fn view(State(api): State<Api>, caller: Caller, Parameter(id): Parameter) -> Result<Response, Failure> {
    let view = api.gateway.view(&caller.share.tenant, TaskId::parse(&id))?;
    Ok(written(&api, view.bytes(), move || Ok(axum::Json(view.show()).into_response())).await?)
}

/// `POST /v2/tasks/{id}/cancel`: 204, and from then on no token.
pub async fn cancel(State(api): State<Api>, caller: Caller, Parameter(id): Parameter) -> Result<StatusCode, Failure> {
    api.gateway.cancel(&caller.share.tenant, TaskId::parse(&id)).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// `GET /v2/tasks/{id}/events`: the stream, from the beginning or after `Last-Event-ID`.
pub async fn events(
    State(api): State<Api>,
    caller: Caller,
    Parameter(id): Parameter,
    query: Parameters,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    let verbose = flag(query, "verbose")?;
    let (task, reader) = api.gateway.follow(&caller.share.tenant, TaskId::parse(&id), last_event_id(&headers)?)?;
    let depth = api.gateway.queue_depth(&task);
    let mut response = event_stream(EventStream::new(reader, Native { verbose }));
    response.headers_mut().insert("x-queue-depth", HeaderValue::from(depth));
    let spec = &task.spec;
    response.headers_mut().extend(budget::headers(&api, &spec.tenant_id, spec.session_id, spec.owners()));
    response.extensions_mut().insert(About(task.spec.id));
    Ok(response)
}

/// The query of a URL.
pub(super) type Parameters = Result<Query<Vec<(String, String)>>, QueryRejection>;

/// The names and values of a query, in their order; only those of `lists` may be there more than once.
pub(super) fn pairs(query: Parameters, lists: &[&str]) -> Result<Vec<(String, String)>, ErrorEnvelope> {
    let malformed = |_| ErrorEnvelope::new(ErrorCode::InvalidParams, "the query of the URL is malformed");
    let Query(pairs) = query.map_err(malformed)?;
    let mut seen = HashSet::new();
    match pairs.iter().find(|(name, _)| !lists.contains(&name.as_str()) && !seen.insert(name.as_str())) {
        Some((name, _)) => Err(ErrorEnvelope::invalid(name.as_str(), "a parameter of the URL is given twice")),
        None => Ok(pairs),
    }
}

fn filter(query: Parameters) -> Result<TaskFilter, ErrorEnvelope> {
    filter_of(pairs(query, &[])?)
}

/// The filter of a list of all tenants.
pub(super) fn whose(query: Parameters) -> Result<(Whose, TaskFilter), ErrorEnvelope> {
    let mut whose = Whose::default();
    let mut others = pairs(query, &[])?;
    others.retain(|(name, value)| {
        let own = match name.as_str() {
            "tenant_id" => &mut whose.tenant,
            "key_id" => &mut whose.key,
            _ => return true,
        };
        *own = Some(value.clone());
        false
    });
    Ok((whose, filter_of(others)?))
}

fn filter_of(query: Vec<(String, String)>) -> Result<TaskFilter, ErrorEnvelope> {
    let mut filter = TaskFilter { limit: PAGE, ..TaskFilter::default() };
    for (name, value) in query {
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
    let query = pairs(query, &[])?;
    match query.iter().find(|(given, _)| given == name).map(|(_, value)| value.as_str()) {
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
