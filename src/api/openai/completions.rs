//! `POST /v1/completions`: each prompt is a task of its own, and all of them are one answer.

use std::sync::Arc;

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use sluicegate_compat::native::ErrorEnvelope;
use sluicegate_compat::openai::ChunkMeta;
use sluicegate_compat::openai::completions::{self, Answer, ChunkEncoder, CompletionContext};

use crate::admission::{Caller, Refusal};
use crate::api::Api;
use crate::api::answer::{Client, follow, heeded, whole_body, wishes, written};
use crate::api::body::Json;
use crate::api::errors::Failure;
use crate::api::sse::{EventStream, event_stream};
use crate::gateway::Owned;

/// `POST /v1/completions`, streamed and whole. All prompts are let in, or none is. A client that hangs up cancels its
/// tasks.
pub async fn completions(
    State(api): State<Api>,
    caller: Caller,
    headers: HeaderMap,
    body: Json,
) -> Result<Response, Failure> {
    let ((mut requests, mut context), once) = body.read_once(&api, &headers, "completions", completions::parse).await?;
    heeded(&api, &context.ignored)?;
    for request in &mut requests {
        wishes(&headers, &caller, request)?;
    }
    let client = Client::new(&api, caller, requests.first().and_then(|request| request.session_id));
    for (prompt, ids) in std::mem::take(&mut context.unread) {
        let text = api.gateway.detokenize(&context.model, ids, client.caller()).await;
        context.echo(prompt, text.map_err(|error| context.rename(Some(prompt), told_of_prompt(error)))?);
    }
    let all = client.submit_all(once.as_ref(), requests).await;
    let all = all.map_err(|Refusal { of, error }| client.refused(context.rename(of, error)))?;
    // There is a request, or it would have been refused.
    let first = Arc::clone(&all[0].task);
    let (created, fingerprint) = (first.created.unix_ms / 1000, api.gateway.fingerprint(&first));
    let meta = ChunkMeta::of_completion(first.spec.id.0, created, fingerprint);
    let ignored = std::mem::take(&mut context.ignored);
    let answer = if context.stream {
        let sources = all.into_iter().map(Into::into).collect();
        Ok(event_stream(EventStream::of_all(sources, ChunkEncoder::new(&context, &meta))))
    } else {
        whole(&api, all, context, meta).await
    };
    Ok(client.told(answer, &first, &ignored))
}

/// `error` about tokens to echo, as one about the prompt that they are.
fn told_of_prompt(error: ErrorEnvelope) -> ErrorEnvelope {
    let tokens = error.param.as_deref().is_some_and(|param| param.starts_with("tokens"));
    if tokens { ErrorEnvelope { param: Some("prompt".to_owned()), ..error } } else { error }
}

/// Waits for the end of the tasks; the drop of their owners cancels them where the client does not wait as long, or one of
/// them fails.
async fn whole(
    api: &Api,
    all: Vec<Owned>,
    context: CompletionContext,
    meta: ChunkMeta,
) -> Result<Response, ErrorEnvelope> {
    let mut answer = Answer::new(&context, meta);
    let (mut queue_ms, mut bytes) = (None, 0);
    for (prompt, Owned { task, .. }) in all.iter().enumerate() {
        let waited = follow(task, |event| answer.push(prompt, event)).await;
        queue_ms = queue_ms.max(waited);
        bytes += task.bytes();
        if answer.has_failed() {
            break;
        }
    }
    drop(all);
    let rename = move |(prompt, error)| context.rename(Some(prompt), error);
    written(api, bytes, move || Ok(whole_body(answer.finish().map_err(rename)?, queue_ms))).await
}
