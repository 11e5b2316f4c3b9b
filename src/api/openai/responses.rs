//! `/v1/responses`: a task each, with a memo where it is stored.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use serde_json::json;
use sluicegate_compat::native::{ErrorCode, ErrorEnvelope};
use sluicegate_compat::openai::responses::{self, Answer, EventEncoder, ItemList, Page, Prior, Record};
use uuid::Uuid;

use crate::admission::Caller;
use crate::api::Api;
use crate::api::answer::{about, follow, heeded, whole_body, wishes};
use crate::api::body::Json;
use crate::api::budget;
use crate::api::errors::Failure;
use crate::api::native::{Parameters, event_body, event_stream, once, pairs};
use crate::api::path::Parameter;
use crate::api::sse::EventStream;
use crate::gateway::{Gateway, Owned};
use crate::ids::{CorrelationId, TaskId};
use crate::tasks::Task;

/// What was answered before, as far as it is stored.
struct Stored<'a>(&'a Gateway);

impl Prior for Stored<'_> {
    fn answer(&self, task: Uuid) -> Option<Answer> {
        let (task, record) = find(self.0, Some(TaskId(task))).ok()?;
        Some(so_far(&task, record))
    }
}

/// `POST /v1/responses`. A client that hangs up cancels its task, unless that is in the background.
pub async fn create(
    State(api): State<Api>,
    correlation: CorrelationId,
    headers: HeaderMap,
    Json(body): Json,
) -> Result<Response, Failure> {
    let asked = responses::parse(&body)?;
    heeded(&api, &asked.ignored)?;
    let once = once(&headers, "responses", &body)?;
    drop(body);
    let (stream, background, ignored) = (asked.stream, asked.is_background(), asked.ignored.clone());
    let memo = asked.is_stored();
    let (mut request, record) = asked.into_task(TaskId::new().0, &Stored(&api.gateway))?;
    wishes(&headers, &mut request)?;
    let memo = memo.then(|| written(&record)).transpose()?;
    let (session, caller) = (request.session_id, Caller::local(correlation));
    let budget = || budget::headers(&api.gateway.budget_left(&caller.share.tenant, session));
    let submitted = if background {
        let body = serde_json::to_vec(&request).map_err(unwritten)?.into();
        api.gateway.submit_lasting(once, request, (body, memo), &caller).await
    } else {
        api.gateway.submit_owned(once, request, memo, &caller).await
    };
    let Owned { task, owner } = submitted.map_err(|error| Failure::from(Record::rename(error)).with_budget(budget))?;
    let record = own_record(&task, record);
    let response = if stream {
        let encoder = EventEncoder::new(record, task.created.unix_ms, None);
        event_stream(EventStream::new(task.log.reader(0), encoder, owner))
    } else if background {
        axum::Json(so_far(&task, record).response()).into_response()
    } else {
        let mut answer = Answer::new(record, task.created.unix_ms);
        let queue_ms = follow(&task, |event| answer.push(event)).await;
        // Held until here: dropped before, it would have cancelled the task.
        drop(owner);
        match answer.finished() {
            Ok(body) => whole_body(body, queue_ms),
            Err(error) => Failure::from(Record::rename(error)).with_budget(budget).into_response(),
        }
    };
    Ok(about(response, &task, &ignored, budget))
}

/// The record of a task that a request was given: another one's where it was sent before with the same key.
fn own_record(task: &Task, record: Record) -> Arc<Record> {
    let first = task.spec.memo.as_deref().filter(|_| task.spec.id.0 != record.task_id);
    let first = first.and_then(|memo| serde_json::from_str(memo).ok());
    Arc::new(first.unwrap_or(Record { task_id: task.spec.id.0, ..record }))
}

fn written(record: &Record) -> Result<Arc<str>, ErrorEnvelope> {
    serde_json::to_string(record).map(Into::into).map_err(unwritten)
}

fn unwritten(_: serde_json::Error) -> ErrorEnvelope {
    ErrorEnvelope::new(ErrorCode::Internal, "The response cannot be kept.")
}

/// The task of a stored response, and what is known of its request.
fn find(gateway: &Gateway, id: Option<TaskId>) -> Result<(Arc<Task>, Arc<Record>), ErrorEnvelope> {
    let (task, memo) = gateway.remembered(id)?;
    let record = serde_json::from_str(&memo).map_err(unwritten)?;
    Ok((task, Arc::new(record)))
}

/// A stored response by the id that a client gives.
fn stored(gateway: &Gateway, id: &str) -> Result<(Arc<Task>, Arc<Record>), ErrorEnvelope> {
    let task = id.strip_prefix(responses::ID_PREFIX).and_then(TaskId::parse);
    find(gateway, task).map_err(|_| {
        let shown: String = id.chars().take(64).collect();
        ErrorEnvelope::new(ErrorCode::NotFound, format!("Response with id '{shown}' not found."))
    })
}

/// What a task has answered up to now.
fn so_far(task: &Task, record: Arc<Record>) -> Answer {
    let mut answer = Answer::new(record, task.created.unix_ms);
    task.told().iter().for_each(|event| answer.push(event));
    answer
}

/// `GET /v1/responses/{id}`: as it is now, or as a stream of its events from the beginning or behind `starting_after`.
pub async fn view(State(api): State<Api>, Parameter(id): Parameter, query: Parameters) -> Result<Response, Failure> {
    let (mut stream, mut after, mut ignored) = (false, None, Vec::new());
    for (name, value) in pairs(query)? {
        match name.as_str() {
            "stream" => {
                let flag = value.parse().ok();
                stream = flag.ok_or_else(|| invalid("stream", "it is true or false"))?;
            }
            "starting_after" => {
                let number = value.parse().ok();
                after = Some(number.ok_or_else(|| invalid("starting_after", "it is a sequence number"))?);
            }
            // What was not asked for with the request was not kept.
            "include" | "include[]" | "include_obfuscation" => ignored.push(name.trim_end_matches("[]").to_owned()),
            _ => return Err(invalid(name.as_str(), "there is no such parameter here").into()),
        }
    }
    if after.is_some() && !stream {
        return Err(invalid("starting_after", "it goes with 'stream=true'").into());
    }
    let (task, record) = stored(&api.gateway, &id)?;
    let response = if !stream {
        axum::Json(so_far(&task, record).response()).into_response()
    } else if task.log.is_whole() {
        let encoder = EventEncoder::new(record, task.created.unix_ms, after);
        event_stream(EventStream::new(task.log.reader(0), encoder, None))
    } else {
        let mut events = Vec::new();
        task.log.ended().await;
        EventEncoder::conclude(so_far(&task, record), after, &mut events);
        event_body(Body::from(events))
    };
    Ok(about(response, &task, &ignored, HeaderMap::new))
}

/// `DELETE /v1/responses/{id}`: it ends where it has not, and nothing of it is kept.
pub async fn delete(State(api): State<Api>, Parameter(id): Parameter) -> Result<Response, Failure> {
    let (task, _) = stored(&api.gateway, &id)?;
    api.gateway.forget(Some(task.spec.id)).await?;
    let deleted = json!({"id": responses::response_id(task.spec.id.0), "object": "response", "deleted": true});
    Ok(axum::Json(deleted).into_response())
}

/// `POST /v1/responses/{id}/cancel`, of one in the background; one that has ended stays as it is.
pub async fn cancel(State(api): State<Api>, Parameter(id): Parameter) -> Result<Response, Failure> {
    let (task, record) = stored(&api.gateway, &id)?;
    if !record.is_background() {
        return Err(ErrorEnvelope::new(ErrorCode::InvalidParams, "Cannot cancel a synchronous response.").into());
    }
    api.gateway.cancel(Some(task.spec.id)).await?;
    let response = axum::Json(so_far(&task, record).response()).into_response();
    Ok(about(response, &task, &[], HeaderMap::new))
}

/// `GET /v1/responses/{id}/input_items`.
pub async fn input_items(
    State(api): State<Api>,
    Parameter(id): Parameter,
    query: Parameters,
) -> Result<Response, Failure> {
    let (mut page, mut ignored) = (Page::default(), Vec::new());
    for (name, value) in pairs(query)? {
        match name.as_str() {
            "include" | "include[]" => ignored.push("include".to_owned()),
            _ if page.take(&name, &value)? => {}
            _ => return Err(invalid(name.as_str(), "there is no such parameter here").into()),
        }
    }
    let (task, record) = stored(&api.gateway, &id)?;
    let response = axum::Json(ItemList::of(&record.items, &page)?).into_response();
    Ok(about(response, &task, &ignored, HeaderMap::new))
}

fn invalid(param: &str, why: &str) -> ErrorEnvelope {
    ErrorEnvelope::invalid(param, format!("Invalid value for '{param}': {why}."))
}
