//! The OpenAI API: translation in, the same gateway, translation out.

use std::sync::Arc;

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use sluicegate_compat::openai::chat::{self, Answer, ChunkEncoder};
use sluicegate_compat::openai::{ChunkMeta, Model, ModelFacts, ModelList};

use super::Api;
use super::answer::{Client, heeded, whole_body, wishes};
use super::body::Json;
use super::errors::Failure;
use super::path::Parameter;
use super::sse::{EventStream, event_stream};
use crate::admission::{Caller, Life};
use crate::gateway::ServedModel;

pub mod completions;
pub mod inputs;
pub mod responses;
pub mod tokens;

/// `POST /v1/chat/completions`, streamed and whole. A client that hangs up cancels its task.
pub async fn chat_completions(
    State(api): State<Api>,
    caller: Caller,
    headers: HeaderMap,
    body: Json,
) -> Result<Response, Failure> {
    let parse = |body: &[u8]| Ok(chat::parse(body)?.into_task());
    let ((mut request, mut context), once) = body.read_once(&api, &headers, "chat completions", parse).await?;
    heeded(&api, &context.ignored)?;
    wishes(&headers, &caller, &mut request)?;
    context.service_tier = context.service_tier.served_at(request.priority.unwrap_or_default());
    let client = Client::new(&api, caller, request.session_id);
    let life = Life { forget: context.unstored, ..Life::default() };
    let owned = client.submit_for(once, request, life).await.map_err(|error| client.refused(context.rename(error)))?;
    let task = Arc::clone(&owned.task);
    let meta = ChunkMeta::new(task.spec.id.0, task.created.unix_ms / 1000, api.gateway.fingerprint(&task));
    let answer = if context.stream {
        Ok(event_stream(EventStream::of(owned, ChunkEncoder::new(&context, meta))))
    } else {
        let write = |answer: Answer, queue_ms| Ok(whole_body(answer.finish()?, queue_ms));
        client.whole(owned, Answer::new(&context, meta), Answer::push, write).await
    };
    Ok(client.told(answer.map_err(|error| context.rename(error)), &task, &context.ignored))
}

/// `GET /v1/models`.
pub async fn models(State(api): State<Api>, caller: Caller) -> Response {
    let created = api.gateway.started_unix_s();
    let models = api.gateway.models(&caller.rights);
    let named = models.iter().flat_map(|model| {
        let names = std::iter::once(model.id.as_str()).chain(model.aliases.iter().map(String::as_str));
        names.map(|name| object(name, model, created)).collect::<Vec<_>>()
    });
    axum::Json(ModelList::new(named.collect())).into_response()
}

/// `GET /v1/models/{id}`; ids may have slashes.
pub async fn model(State(api): State<Api>, caller: Caller, Parameter(id): Parameter) -> Result<Response, Failure> {
    let model = api.gateway.model(&id, &caller.rights)?;
    Ok(axum::Json(object(&id, &model, api.gateway.started_unix_s())).into_response())
}

fn object(name: &str, model: &ServedModel, created: u64) -> Model {
    let facts = ModelFacts {
        context_length: model.pool.info().map(|info| info.context_length),
        pool_state: Some(model.pool_state.to_owned()),
        workloads: model.workloads.clone(),
        modalities: model.modalities.clone(),
    };
    Model::new(name, created, "sluicegate", facts)
}
