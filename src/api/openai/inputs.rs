//! Embeddings and rerank: one task for a request, and one answer when it has ended.

use std::sync::Arc;

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use sluicegate_compat::openai::{Outcome, embeddings, rerank};

use crate::admission::Caller;
use crate::api::Api;
use crate::api::answer::{Client, heeded, whole_body, wishes};
use crate::api::body::Json;
use crate::api::errors::Failure;

/// `POST /v1/embeddings`. A client that hangs up cancels its task.
pub async fn embeddings(
    State(api): State<Api>,
    caller: Caller,
    headers: HeaderMap,
    body: Json,
) -> Result<Response, Failure> {
    let ((mut request, context), once) = body.read_once(&api, &headers, "embeddings", embeddings::parse).await?;
    heeded(&api, &context.ignored)?;
    wishes(&headers, &caller, &mut request)?;
    let context = Arc::new(context);
    let client = Client::new(&api, caller, request.session_id);
    let owned = client.submit(once, request).await.map_err(|error| client.refused(context.rename(error)))?;
    let task = Arc::clone(&owned.task);
    let asked = Arc::clone(&context);
    let write = move |outcome, queue_ms| Ok(whole_body(asked.answer(outcome)?, queue_ms));
    let answer = client.whole(owned, Outcome::default(), Outcome::push, write).await;
    Ok(client.told(answer.map_err(|error| context.rename(error)), &task, &context.ignored))
}

/// `POST /v1/rerank`. A client that hangs up cancels its task.
pub async fn rerank(
    State(api): State<Api>,
    caller: Caller,
    headers: HeaderMap,
    body: Json,
) -> Result<Response, Failure> {
    let ((mut request, context), once) = body.read_once(&api, &headers, "rerank", rerank::parse).await?;
    heeded(&api, &context.ignored)?;
    wishes(&headers, &caller, &mut request)?;
    let context = Arc::new(context);
    let client = Client::new(&api, caller, request.session_id);
    let owned = client.submit(once, request).await.map_err(|error| client.refused(context.rename(error)))?;
    let task = Arc::clone(&owned.task);
    let (asked, id) = (Arc::clone(&context), task.spec.id.0);
    let write = move |outcome, queue_ms| Ok(whole_body(asked.answer(id, outcome)?, queue_ms));
    let answer = client.whole(owned, Outcome::default(), Outcome::push, write).await;
    Ok(client.told(answer.map_err(|error| context.rename(error)), &task, &context.ignored))
}
