//! The OpenAI API: translation in, the same gateway, translation out.

use std::sync::Arc;

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use sluicegate_compat::native::ErrorEnvelope;
use sluicegate_compat::openai::chat::{self, Answer, ChatContext, ChunkEncoder};
use sluicegate_compat::openai::{ChunkMeta, Model, ModelFacts, ModelList};

use super::Api;
use super::answer::{about, follow, heeded, whole_body, wishes};
use super::body::Json;
use super::budget;
use super::errors::Failure;
use super::native::{event_stream, once};
use super::path::Parameter;
use super::sse::EventStream;
use crate::admission::Caller;
use crate::gateway::{Owned, ServedModel};
use crate::ids::CorrelationId;
use crate::tasks::{Owner, Task};

pub mod completions;
pub mod inputs;
pub mod responses;
pub mod tokens;

/// `POST /v1/chat/completions`, streamed and whole. A client that hangs up cancels its task.
pub async fn chat_completions(
    State(api): State<Api>,
    correlation: CorrelationId,
    headers: HeaderMap,
    Json(body): Json,
) -> Result<Response, Failure> {
    let (mut request, context) = chat::parse(&body)?.into_task();
    heeded(&api, &context.ignored)?;
    wishes(&headers, &mut request)?;
    let once = once(&headers, "chat completions", &body)?;
    drop(body);
    let (session, caller) = (request.session_id, Caller::local(correlation));
    let submitted = api.gateway.submit_owned(once, request, None, &caller).await;
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
