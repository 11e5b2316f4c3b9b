//! Embeddings and rerank: one task for a request, and one answer when it has ended.

use std::sync::Arc;

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use sluicegate_compat::native::{ErrorEnvelope, TaskRequest};
use sluicegate_compat::openai::{Outcome, embeddings, rerank};
use uuid::Uuid;

use crate::admission::Caller;
use crate::api::Api;
use crate::api::answer::{about, follow, heeded, whole_body, wishes};
use crate::api::body::Json;
use crate::api::budget;
use crate::api::errors::{Failure, internal};
use crate::api::native::once;
use crate::gateway::{Once, Owned};
use crate::ids::CorrelationId;

/// `POST /v1/embeddings`. A client that hangs up cancels its task.
pub async fn embeddings(
    State(api): State<Api>,
    correlation: CorrelationId,
    headers: HeaderMap,
    Json(body): Json,
) -> Result<Response, Failure> {
    let (request, context) = embeddings::parse(&body)?;
    heeded(&api, &context.ignored)?;
    let context = Arc::new(context);
    let asked = Asked::read(&headers, request, once(&headers, "embeddings", &body)?)?;
    drop(body);
    let rename = |error| context.rename(error);
    let answers = Arc::clone(&context);
    let write = move |_, outcome, queue_ms| Ok(whole_body(answers.answer(outcome)?, queue_ms));
    asked.answer(&api, correlation, &context.ignored, rename, write).await
}

/// `POST /v1/rerank`. A client that hangs up cancels its task.
pub async fn rerank(
    State(api): State<Api>,
    correlation: CorrelationId,
    headers: HeaderMap,
    Json(body): Json,
) -> Result<Response, Failure> {
    let (request, context) = rerank::parse(&body)?;
    heeded(&api, &context.ignored)?;
    let context = Arc::new(context);
    let asked = Asked::read(&headers, request, once(&headers, "rerank", &body)?)?;
    drop(body);
    let rename = |error| context.rename(error);
    let answers = Arc::clone(&context);
    let write = move |id, outcome, queue_ms| Ok(whole_body(answers.answer(id, outcome)?, queue_ms));
    asked.answer(&api, correlation, &context.ignored, rename, write).await
}

/// A request that was read.
struct Asked {
    request: TaskRequest,
    once: Option<Once>,
}

impl Asked {
    fn read(headers: &HeaderMap, mut request: TaskRequest, once: Option<Once>) -> Result<Self, ErrorEnvelope> {
        wishes(headers, &mut request)?;
        Ok(Self { request, once })
    }

    /// Lets the task in, waits for its end, and writes what became of it.
    async fn answer(
        self,
        api: &Api,
        correlation: CorrelationId,
        ignored: &[String],
        rename: impl Fn(ErrorEnvelope) -> ErrorEnvelope,
        write: impl FnOnce(Uuid, Outcome, Option<u64>) -> Result<Response, ErrorEnvelope> + Send + 'static,
    ) -> Result<Response, Failure> {
        let (session, caller) = (self.request.session_id, Caller::local(correlation));
        let submitted = api.gateway.submit_owned(self.once, self.request, None, &caller).await;
        let budget = || budget::headers(&api.gateway.budget_left(&caller.share.tenant, session));
        let Owned { task, owner } = submitted.map_err(|error| Failure::from(rename(error)).with_budget(budget))?;
        let mut outcome = Outcome::default();
        let queue_ms = follow(&task, |event| outcome.push(event)).await;
        let bytes = outcome.bytes();
        // Held until here: dropped before, it would have cancelled the task.
        drop(owner);
        let id = task.spec.id.0;
        let written = api.gateway.lifecycle.sized("answer", bytes, move || write(id, outcome, queue_ms)).await;
        let response = match written.unwrap_or_else(|panicked| Err(internal(panicked))) {
            Ok(response) => response,
            Err(error) => Failure::from(rename(error)).with_budget(budget).into_response(),
        };
        Ok(about(response, &task, ignored, budget))
    }
}
