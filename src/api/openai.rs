//! The OpenAI API: translation in, the same gateway, translation out.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use sluicegate_compat::native::{ErrorEnvelope, Event, Priority, TaskRequest};
use sluicegate_compat::openai::chat::{self, Answer, ChatContext, ChunkEncoder};
use sluicegate_compat::openai::{ChunkMeta, Model, ModelFacts, ModelList};
use uuid::Uuid;

use super::Api;
use super::access::About;
use super::body::Json;
use super::budget;
use super::errors::Failure;
use super::native::{event_stream, once};
use super::path::Parameter;
use super::sse::EventStream;
use crate::admission::Caller;
use crate::gateway::{Owned, ServedModel};
use crate::ids::CorrelationId;
use crate::tasks::{Owner, Read, Task};

pub mod completions;
pub mod inputs;

const TASK_ID: HeaderName = HeaderName::from_static("x-task-id");
const QUEUE_WAIT: HeaderName = HeaderName::from_static("x-queue-wait-ms");
const IGNORED: HeaderName = HeaderName::from_static("x-sluicegate-ignored");

/// `POST /v1/chat/completions`, streamed and whole. A client that hangs up cancels its task.
pub async fn chat_completions(
    State(api): State<Api>,
    correlation: CorrelationId,
    headers: HeaderMap,
    Json(body): Json,
) -> Result<Response, Failure> {
    let (mut request, context) = chat::parse(&body)?.into_task();
    wishes(&headers, &mut request)?;
    let once = once(&headers, "chat completions", &body)?;
    drop(body);
    let (session, caller) = (request.session_id, Caller::local(correlation));
    let submitted = api.gateway.submit_owned(once, request, &caller).await;
    let budget = || budget::headers(&api.gateway.budget_left(&caller.share.tenant, session));
    let Owned { task, owner } = submitted.map_err(|error| Failure::from(context.rename(error)).with_budget(budget))?;
    let meta = ChunkMeta::new(task.spec.id.0, task.created.unix_ms / 1000, api.gateway.fingerprint(&task));
    let response = if context.stream {
        event_stream(EventStream::new(task.log.reader(0), ChunkEncoder::new(&context, meta), owner))
    } else {
        let answer = whole(&task, &context, meta, owner).await;
        answer.unwrap_or_else(|error| Failure::from(error).into_response())
    };
    Ok(about(response, &task, &context.ignored, budget))
}

/// An answer about a task with what its head says of that.
fn about(mut response: Response, task: &Task, ignored: &[String], budget: impl FnOnce() -> HeaderMap) -> Response {
    response.headers_mut().extend(told(task, ignored));
    if response.status().is_success() {
        // Of an answer that is whole, after it was charged.
        response.headers_mut().extend(budget());
    }
    response.extensions_mut().insert(About(task.spec.id));
    response
}

/// The body of an answer to a task that has waited so long, in ms.
fn whole_body(body: impl Serialize, queue_ms: Option<u64>) -> Response {
    let mut response = axum::Json(body).into_response();
    if let Some(queue_ms) = queue_ms {
        response.headers_mut().insert(QUEUE_WAIT, HeaderValue::from(queue_ms));
    }
    response
}

/// What headers say that the body may say as well, in its `sluicegate` object: the headers win, since whoever stands
/// between a client and the gateway can set them.
fn wishes(headers: &HeaderMap, request: &mut TaskRequest) -> Result<(), ErrorEnvelope> {
    let text = |name: &str| headers.get(name).map(|value| value.to_str().unwrap_or(""));
    if let Some(word) = text("x-priority") {
        let priority = Priority::ALL.into_iter().find(|priority| priority.as_str() == word);
        let unknown = || ErrorEnvelope::invalid("X-Priority", "`X-Priority` is `interactive` or `batch`");
        request.priority = priority.ok_or_else(unknown)?;
    }
    if let Some(number) = text("x-deadline-ms") {
        let deadline_ms = number.parse().ok().filter(|ms| *ms > 0);
        let no_number = || ErrorEnvelope::invalid("X-Deadline-Ms", "`X-Deadline-Ms` is a whole number of ms above 0");
        request.deadline_ms = Some(deadline_ms.ok_or_else(no_number)?);
    }
    if let Some(id) = text("x-session-id") {
        let no_id = |_| ErrorEnvelope::invalid("X-Session-Id", "`X-Session-Id` is a UUID");
        request.session_id = Some(Uuid::try_parse(id).map_err(no_id)?);
    }
    Ok(())
}

/// Waits for the end of the task; its owner's drop cancels it where the client does not wait as long.
async fn whole(
    task: &Arc<Task>,
    context: &ChatContext,
    meta: ChunkMeta,
    _owner: Option<Arc<Owner>>,
) -> Result<Response, ErrorEnvelope> {
    let mut answer = Answer::new(context, meta);
    let queue_ms = follow(task, |event| answer.push(event)).await;
    Ok(whole_body(answer.finish().map_err(|error| context.rename(error))?, queue_ms))
}

/// Looks at every event of a task up to its last, and returns how long the task waited, in ms.
async fn follow(task: &Task, mut look: impl FnMut(&Event)) -> Option<u64> {
    let mut reader = task.log.reader(0);
    let mut queue_ms = None;
    let mut events = Vec::new();
    while reader.read(&mut events).await != Read::End {
        for event in events.drain(..) {
            if let Event::End(end) = &event {
                queue_ms = Some(end.queue_ms);
            }
            look(&event);
        }
    }
    queue_ms
}

fn told(task: &Task, ignored: &[String]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    if let Ok(id) = HeaderValue::from_str(&task.spec.id.to_string()) {
        headers.insert(TASK_ID, id);
    }
    if !ignored.is_empty()
        && let Ok(names) = HeaderValue::from_str(&ignored.join(", "))
    {
        headers.insert(IGNORED, names);
    }
    headers
}

/// `GET /v1/models`.
pub async fn models(State(api): State<Api>) -> Response {
    let created = api.gateway.started_unix_s();
    let models = api.gateway.models();
    let named = models.iter().flat_map(|model| {
        let names = std::iter::once(model.id.as_str()).chain(model.aliases.iter().map(String::as_str));
        names.map(|name| object(name, model, created)).collect::<Vec<_>>()
    });
    axum::Json(ModelList::new(named.collect())).into_response()
}

/// `GET /v1/models/{id}`; ids may have slashes.
pub async fn model(State(api): State<Api>, Parameter(id): Parameter) -> Result<Response, Failure> {
    let model = api.gateway.model(&id)?;
    Ok(axum::Json(object(&id, &model, api.gateway.started_unix_s())).into_response())
}

fn object(name: &str, model: &ServedModel, created: u64) -> Model {
    let facts = ModelFacts {
        context_length: model.pool.info().map(|info| info.context_length),
        pool_state: Some(model.pool_state.to_owned()),
        workloads: model.workloads.clone(),
    };
    Model::new(name, created, "sluicegate", facts)
}
