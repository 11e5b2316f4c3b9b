//! Anthropic's Messages API: translation in, the same gateway, translation out.

use std::sync::Arc;

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use sluicegate_compat::anthropic::{self, Answer, EventEncoder, MessageMeta, MessagesContext, TokenCount};
use sluicegate_compat::native::ErrorEnvelope;

use super::Api;
use super::answer::{about, follow, heeded, passed_over, whole_body, wishes};
use super::body::Json;
use super::budget;
use super::errors::Failure;
use super::native::{event_stream, once};
use super::sse::EventStream;
use crate::admission::Caller;
use crate::gateway::Owned;
use crate::ids::CorrelationId;
use crate::tasks::{Owner, Task};

/// `POST /v1/messages`, streamed and whole. A client that hangs up cancels its task.
pub async fn messages(
    State(api): State<Api>,
    correlation: CorrelationId,
    headers: HeaderMap,
    Json(body): Json,
) -> Result<Response, Failure> {
    let (mut request, mut context) = anthropic::parse(&body)?;
    heeded(&api, &context.ignored)?;
    wishes(&headers, &mut request)?;
    context.priority = request.priority;
    let once = once(&headers, "messages", &body)?;
    drop(body);
    let (session, caller) = (request.session_id, Caller::local(correlation));
    let submitted = api.gateway.submit_owned(once, request, None, &caller).await;
    let budget = || budget::headers(&api.gateway.budget_left(&caller.share.tenant, session));
    let Owned { task, owner } = submitted.map_err(|error| Failure::from(context.rename(error)).with_budget(budget))?;
    let tokens_in = u64::from(task.limits().prompt_tokens);
    let meta = MessageMeta::new(task.spec.id.0, caller.correlation_id.as_str(), tokens_in);
    let response = if context.stream {
        event_stream(EventStream::new(task.log.reader(0), EventEncoder::new(&context, meta), owner))
    } else {
        let answer = whole(&task, &context, meta, owner).await;
        answer.unwrap_or_else(|error| Failure::from(error).into_response())
    };
    Ok(about(response, &task, &context.ignored, budget))
}

/// Waits for the end of the task; its owner's drop cancels it where the client does not wait as long.
async fn whole(
    task: &Task,
    context: &MessagesContext,
    meta: MessageMeta,
    _owner: Option<Arc<Owner>>,
) -> Result<Response, ErrorEnvelope> {
    let mut answer = Answer::new(context, meta);
    let queue_ms = follow(task, |event| answer.push(event)).await;
    Ok(whole_body(answer.finish().map_err(|error| context.rename(error))?, queue_ms))
}

/// `POST /v1/messages/count_tokens`: what the prompt of the same request to `/v1/messages` would have. Makes no task.
pub async fn count_tokens(State(api): State<Api>, Json(body): Json) -> Result<Response, Failure> {
    let (request, context) = anthropic::parse_count(&body)?;
    drop(body);
    let counted = api.gateway.count(request).await.map_err(|error| context.rename(error))?;
    let mut response = axum::Json(TokenCount { input_tokens: u64::from(counted) }).into_response();
    response.headers_mut().extend(passed_over(&context.ignored));
    Ok(response)
}
