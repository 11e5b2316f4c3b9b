//! `/v1/responses`: a task each, with a memo where it is stored.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde_json::json;
use sluicegate_compat::native::{ErrorCode, ErrorEnvelope, TaskRequest};
use sluicegate_compat::openai::pass_over;
use sluicegate_compat::openai::responses::{
    self, Answer, Asked, EventEncoder, InputTokens, ItemList, Page, Prior, Record,
};
use uuid::Uuid;

use crate::admission::{Caller, Life};
use crate::api::Api;
use crate::api::answer::{Client, about, heeded, passed_over, whole_body, wishes, written};
use crate::api::body::Json;
use crate::api::errors::Failure;
use crate::api::native::{Parameters, pairs};
use crate::api::path::Parameter;
use crate::api::sse::{EventStream, event_body, event_stream};
use crate::gateway::Gateway;
use crate::ids::{TaskId, TenantId};
use crate::tasks::Task;

/// The parameter of a URL that is a list, as clients write it.
const INCLUDE: [&str; 2] = ["include", "include[]"];

/// What was answered before, as far as it is stored.
struct Stored<'a>(&'a Gateway, &'a TenantId);

impl Prior for Stored<'_> {
    fn answer(&self, task: Uuid) -> Option<Answer> {
        let (task, memo) = self.0.remembered(self.1, Some(TaskId(task))).ok()?;
        Some(so_far(&task, serde_json::from_str(&memo).ok()?))
    }
}

/// `POST /v1/responses`. A client that hangs up cancels its task, unless that is in the background.
pub async fn create(
    State(api): State<Api>,
    caller: Caller,
    headers: HeaderMap,
    body: Json,
) -> Result<Response, Failure> {
    let bytes = body.0.len();
    let (mut asked, once) = body.read_once(&api, &headers, "responses", responses::parse).await?;
    heeded(&api, &asked.ignored)?;
    wishes(&headers, &caller, &mut asked.task)?;
    let (stream, background, ignored) = (asked.stream, asked.is_background(), asked.ignored.clone());
    let Whole { request, record, memo, body } = whole(&api, &caller, asked, bytes).await?;
    let client = Client::new(&api, caller, request.session_id);
    let submitted = match body {
        Some(body) => api.gateway.submit_lasting(once, request, (body, memo), client.caller()).await,
        None => client.submit_for(once, request, Life { forget: memo.is_none(), memo, kept: None }).await,
    };
    let owned = submitted.map_err(|error| client.refused(Record::rename(error)))?;
    let task = Arc::clone(&owned.task);
    let record = own_record(&api, &task, record).await?;
    let answer = if stream {
        Ok(event_stream(EventStream::of(owned, EventEncoder::new(record, task.created.unix_ms, None))))
    } else if background {
        shown(&api, &task, record).await
    } else {
        let write = |answer: Answer, queue_ms| Ok(whole_body(answer.finished()?, queue_ms));
        client.whole(owned, Answer::new(record, task.created.unix_ms), Answer::push, write).await
    };
    Ok(client.told(answer.map_err(Record::rename), &task, &ignored))
}

/// `POST /v1/responses/input_tokens`: what the prompt of the same request to `/v1/responses` would have. Makes no task.
pub async fn input_tokens(State(api): State<Api>, caller: Caller, body: Json) -> Result<Response, Failure> {
    let bytes = body.0.len();
    let asked = body.read(&api, responses::parse).await?;
    heeded(&api, &asked.ignored)?;
    let ignored = asked.ignored.clone();
    let Whole { request, .. } = whole(&api, &caller, asked, bytes).await?;
    let counted = api.gateway.count(request, &caller).await.map_err(Record::rename)?;
    let mut response = axum::Json(InputTokens::new(u64::from(counted))).into_response();
    response.headers_mut().extend(passed_over(&ignored));
    Ok(response)
}

/// A request with what it refers to.
struct Whole {
    request: TaskRequest,
    record: Record,
    /// The record as it is kept, of a response that is stored.
    memo: Option<Arc<str>>,
    /// The request as it is kept, of one in the background.
    body: Option<Bytes>,
}

/// Joins a request of so many bytes with what was answered before, off the reactor where that is long or not known.
async fn whole(api: &Api, caller: &Caller, asked: Asked, bytes: usize) -> Result<Whole, ErrorEnvelope> {
    let goes_on = asked.goes_on();
    let (gateway, tenant) = (Arc::clone(&api.gateway), caller.share.tenant.clone());
    let join = move || {
        let (stored, background) = (asked.is_stored(), asked.is_background());
        let (request, record) = asked.into_task(TaskId::new().0, &Stored(&gateway, &tenant))?;
        let memo = stored.then(|| serde_json::to_string(&record)).transpose().map_err(unwritten)?;
        let body = background.then(|| serde_json::to_vec(&request)).transpose().map_err(unwritten)?;
        Ok(Whole { request, record, memo: memo.map(Into::into), body: body.map(Into::into) })
    };
    let lifecycle = &api.gateway.lifecycle;
    if goes_on { lifecycle.blocking("join", join).await? } else { lifecycle.sized("join", bytes, join).await? }
}

/// The record of a task that a request was given: another one's where it was sent before with the same key.
async fn own_record(api: &Api, task: &Task, record: Record) -> Result<Arc<Record>, ErrorEnvelope> {
    match &task.spec.memo {
        Some(memo) if task.spec.id.0 != record.task_id => read(api, memo).await,
        _ => Ok(Arc::new(Record { task_id: task.spec.id.0, ..record })),
    }
}

/// What is known of the request of a stored response.
async fn read(api: &Api, memo: &Arc<str>) -> Result<Arc<Record>, ErrorEnvelope> {
    let (bytes, memo) = (memo.len(), Arc::clone(memo));
    let parse = move || serde_json::from_str(&memo).map(Arc::new).map_err(unwritten);
    api.gateway.lifecycle.sized("read a response", bytes, parse).await?
}

fn unwritten(_: serde_json::Error) -> ErrorEnvelope {
    ErrorEnvelope::new(ErrorCode::Internal, "The response cannot be kept.")
}

/// The task and the memo of a stored response, by the id that a client gives.
fn found(gateway: &Gateway, caller: &Caller, id: &str) -> Result<(Arc<Task>, Arc<str>), ErrorEnvelope> {
    let task = id.strip_prefix(responses::ID_PREFIX).and_then(TaskId::parse);
    gateway.remembered(&caller.share.tenant, task).map_err(|_| {
        let shown: String = id.chars().take(64).collect();
        ErrorEnvelope::new(ErrorCode::NotFound, format!("Response with id '{shown}' not found."))
    })
}

/// A stored response, and what is known of its request.
async fn stored(api: &Api, caller: &Caller, id: &str) -> Result<(Arc<Task>, Arc<Record>), ErrorEnvelope> {
    let (task, memo) = found(&api.gateway, caller, id)?;
    Ok((task, read(api, &memo).await?))
}

/// What a task has answered up to now.
fn so_far(task: &Task, record: Arc<Record>) -> Answer {
    let mut answer = Answer::new(record, task.created.unix_ms);
    task.told().iter().for_each(|event| answer.push(event));
    answer
}

/// The response as it is now.
async fn shown(api: &Api, task: &Arc<Task>, record: Arc<Record>) -> Result<Response, ErrorEnvelope> {
    let (bytes, task) = (task.bytes(), Arc::clone(task));
    written(api, bytes, move || Ok(axum::Json(so_far(&task, record).response()).into_response())).await
}

/// `GET /v1/responses/{id}`: as it is now, or as a stream of its events from the beginning or behind `starting_after`.
pub async fn view(
    State(api): State<Api>,
    caller: Caller,
    Parameter(id): Parameter,
    query: Parameters,
) -> Result<Response, Failure> {
    let (mut stream, mut after, mut ignored) = (false, None, Vec::new());
    for (name, value) in pairs(query, &INCLUDE)? {
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
            "include" | "include[]" => pass_over("include", &mut ignored),
            "include_obfuscation" => pass_over("include_obfuscation", &mut ignored),
            _ => return Err(invalid(name.as_str(), "there is no such parameter here").into()),
        }
    }
    if after.is_some() && !stream {
        return Err(invalid("starting_after", "it goes with 'stream=true'").into());
    }
    heeded(&api, &ignored)?;
    let (task, record) = stored(&api, &caller, &id).await?;
    let response = if !stream {
        shown(&api, &task, record).await?
    } else if task.log.is_whole() {
        if let Some(after) = after {
            check_told(&api, &task, &record, after).await?;
        }
        let encoder = EventEncoder::new(record, task.created.unix_ms, after);
        event_stream(EventStream::new(task.log.reader(0), encoder))
    } else {
        task.log.ended().await;
        let (bytes, told) = (task.bytes(), Arc::clone(&task));
        let conclude = move || {
            let mut events = Vec::new();
            EventEncoder::conclude(so_far(&told, record), after, &mut events);
            Ok(event_body(Body::from(events)))
        };
        written(&api, bytes, conclude).await?
    };
    Ok(about(response, &task, &ignored))
}

/// Refuses the number of an event that no client can have had, because there was none up to now.
async fn check_told(api: &Api, task: &Arc<Task>, record: &Arc<Record>, after: u64) -> Result<(), ErrorEnvelope> {
    let (bytes, task, record) = (task.bytes(), Arc::clone(task), Arc::clone(record));
    let count = move || EventEncoder::count(record, task.created.unix_ms, &task.told());
    let told = api.gateway.lifecycle.sized("count events", bytes, count).await?;
    if after < told { Ok(()) } else { Err(invalid("starting_after", "the response has no event with this number")) }
}

/// `DELETE /v1/responses/{id}`: it ends where it has not, and nothing of it is kept.
pub async fn delete(State(api): State<Api>, caller: Caller, Parameter(id): Parameter) -> Result<Response, Failure> {
    let (task, _) = found(&api.gateway, &caller, &id)?;
    api.gateway.forget(&caller.share.tenant, Some(task.spec.id)).await?;
    let deleted = json!({"id": responses::response_id(task.spec.id.0), "object": "response", "deleted": true});
    Ok(axum::Json(deleted).into_response())
}

/// `POST /v1/responses/{id}/cancel`, of one in the background; one that has ended stays as it is.
pub async fn cancel(State(api): State<Api>, caller: Caller, Parameter(id): Parameter) -> Result<Response, Failure> {
    let (task, record) = stored(&api, &caller, &id).await?;
    if !record.is_background() {
        return Err(ErrorEnvelope::new(ErrorCode::InvalidParams, "Cannot cancel a synchronous response.").into());
    }
    api.gateway.cancel(&caller.share.tenant, Some(task.spec.id)).await?;
    Ok(about(shown(&api, &task, record).await?, &task, &[]))
}

/// `GET /v1/responses/{id}/input_items`.
pub async fn input_items(
    State(api): State<Api>,
    caller: Caller,
    Parameter(id): Parameter,
    query: Parameters,
) -> Result<Response, Failure> {
    let (mut page, mut ignored) = (Page::default(), Vec::new());
    for (name, value) in pairs(query, &INCLUDE)? {
        match name.as_str() {
            "include" | "include[]" => pass_over("include", &mut ignored),
            _ if page.take(&name, &value)? => {}
            _ => return Err(invalid(name.as_str(), "there is no such parameter here").into()),
        }
    }
    heeded(&api, &ignored)?;
    let (task, record) = stored(&api, &caller, &id).await?;
    let write = move || Ok(axum::Json(ItemList::of(&record.items, &page)?).into_response());
    Ok(about(written(&api, task.bytes(), write).await?, &task, &ignored))
}

fn invalid(param: &str, why: &str) -> ErrorEnvelope {
    ErrorEnvelope::invalid(param, format!("Invalid value for '{param}': {why}."))
}
