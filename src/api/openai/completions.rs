//! `POST /v1/completions`: each prompt is a task of its own, and all of them are one answer.

use std::sync::Arc;

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use sluicegate_compat::native::ErrorEnvelope;
use sluicegate_compat::openai::ChunkMeta;
use sluicegate_compat::openai::completions::{self, Answer, ChunkEncoder, CompletionContext};

use crate::admission::Caller;
use crate::api::Api;
use crate::api::answer::{about, follow, heeded, whole_body, wishes};
use crate::api::body::Json;
use crate::api::budget;
use crate::api::errors::Failure;
use crate::api::native::{event_stream, once};
use crate::api::sse::{EventStream, Source};
use crate::gateway::Owned;
use crate::ids::CorrelationId;

/// `POST /v1/completions`, streamed and whole. A client that hangs up cancels its tasks, and so does a prompt that is refused.
pub async fn completions(
    State(api): State<Api>,
    correlation: CorrelationId,
    headers: HeaderMap,
    Json(body): Json,
) -> Result<Response, Failure> {
    let (mut requests, mut context) = completions::parse(&body)?;
    heeded(&api, &context.ignored)?;
    for request in &mut requests {
        wishes(&headers, request)?;
    }
    let once = once(&headers, "completions", &body)?;
    drop(body);
    let (session, caller) = (requests.first().and_then(|request| request.session_id), Caller::local(correlation));
    let budget = || budget::headers(&api.gateway.budget_left(&caller.share.tenant, session));
    for (prompt, ids) in std::mem::take(&mut context.unread) {
        let text = api.gateway.detokenize(&context.model, ids).await;
        context.echo(prompt, text.map_err(|error| context.rename(prompt, told_of_prompt(error)))?);
    }
    let mut all = Vec::with_capacity(requests.len());
    for (prompt, request) in requests.into_iter().enumerate() {
        let once = once.as_ref().map(|once| once.part(prompt));
        let submitted = api.gateway.submit_owned(once, request, None, &caller).await;
        all.push(submitted.map_err(|error| Failure::from(context.rename(prompt, error)).with_budget(budget))?);
    }
    // There is a request, or it would have been refused.
    let first = Arc::clone(&all[0].task);
    let (created, fingerprint) = (first.created.unix_ms / 1000, api.gateway.fingerprint(&first));
    let meta = ChunkMeta::of_completion(first.spec.id.0, created, fingerprint);
    let response = if context.stream {
        let source = |Owned { task, owner }: Owned| Source { reader: task.log.reader(0), _owner: owner };
        let sources = all.into_iter().map(source).collect();
        event_stream(EventStream::of_all(sources, ChunkEncoder::new(&context, &meta)))
    } else {
        whole(all, &context, meta).await.unwrap_or_else(|error| Failure::from(error).into_response())
    };
    Ok(about(response, &first, &context.ignored, budget))
}

/// `error` about tokens to echo, as one about the prompt that they are.
fn told_of_prompt(error: ErrorEnvelope) -> ErrorEnvelope {
    let tokens = error.param.as_deref().is_some_and(|param| param.starts_with("tokens"));
    if tokens { ErrorEnvelope { param: Some("prompt".to_owned()), ..error } } else { error }
}

/// Waits for the end of the tasks; the drop of their owners cancels them where the client does not wait as long, or one of
/// them fails.
async fn whole(all: Vec<Owned>, context: &CompletionContext, meta: ChunkMeta) -> Result<Response, ErrorEnvelope> {
    let mut answer = Answer::new(context, meta);
    let mut queue_ms = None;
    for (prompt, owned) in all.iter().enumerate() {
        let waited = follow(&owned.task, |event| answer.push(prompt, event)).await;
        queue_ms = queue_ms.max(waited);
        if answer.has_failed() {
            break;
        }
    }
    drop(all);
    Ok(whole_body(answer.finish().map_err(|(prompt, error)| context.rename(prompt, error))?, queue_ms))
}
