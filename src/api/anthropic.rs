//! Anthropic's Messages API: translation in, the same gateway, translation out.

use std::sync::Arc;

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use sluicegate_compat::anthropic::{self, Answer, EventEncoder, MessageMeta, TokenCount};

use super::Api;
use super::answer::{Client, heeded, passed_over, whole_body, wishes};
use super::body::Json;
use super::errors::Failure;
use super::sse::{EventStream, event_stream};
use crate::admission::Caller;

/// `POST /v1/messages`, streamed and whole. A client that hangs up cancels its task.
pub async fn messages(
    State(api): State<Api>,
    caller: Caller,
    headers: HeaderMap,
    body: Json,
) -> Result<Response, Failure> {
    let ((mut request, mut context), once) = body.read_once(&api, &headers, "messages", anthropic::parse).await?;
    heeded(&api, &context.ignored)?;
    wishes(&headers, &caller, &mut request)?;
    context.priority = request.priority.unwrap_or_default();
    let client = Client::new(&api, caller, request.session_id);
    let owned = client.submit(once, request).await.map_err(|error| client.refused(context.rename(error)))?;
    let task = Arc::clone(&owned.task);
    let tokens_in = u64::from(task.limits().prompt_tokens);
    let meta = MessageMeta::new(task.spec.id.0, client.caller().correlation_id.as_str(), tokens_in);
    let answer = if context.stream {
        Ok(event_stream(EventStream::of(owned, EventEncoder::new(&context, meta))))
    } else {
        let write = |answer: Answer, queue_ms| Ok(whole_body(answer.finish()?, queue_ms));
        client.whole(owned, Answer::new(&context, meta), Answer::push, write).await
    };
    Ok(client.told(answer.map_err(|error| context.rename(error)), &task, &context.ignored))
}

/// `POST /v1/messages/count_tokens`: what the prompt of the same request to `/v1/messages` would have. Makes no task.
pub async fn count_tokens(State(api): State<Api>, caller: Caller, body: Json) -> Result<Response, Failure> {
    let (request, context) = body.read(&api, anthropic::parse_count).await?;
    heeded(&api, &context.ignored)?;
    let counted = api.gateway.count(request, &caller).await.map_err(|error| context.rename(error))?;
    let mut response = axum::Json(TokenCount { input_tokens: u64::from(counted) }).into_response();
    response.headers_mut().extend(passed_over(&context.ignored));
    Ok(response)
}
