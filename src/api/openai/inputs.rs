//! Embeddings and rerank: one task for a request, and one answer when it has ended.

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use sluicegate_compat::native::{ErrorEnvelope, TaskRequest};
use sluicegate_compat::openai::{Outcome, embeddings, rerank};
use uuid::Uuid;

use crate::admission::Caller;
use crate::api::Api;
use crate::api::answer::{about, follow, whole_body, wishes};
use crate::api::body::Json;
use crate::api::budget;
use crate::api::errors::Failure;
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
    let asked = Asked::read(&headers, request, once(&headers, "embeddings", &body)?)?;
    drop(body);
    let rename = |error| context.rename(error);
    asked.answer(&api, correlation, &context.ignored, rename, |_, outcome| context.answer(outcome)).await
}

/// `POST /v1/rerank`. A client that hangs up cancels its task.
pub async fn rerank(
    State(api): State<Api>,
    correlation: CorrelationId,
    headers: HeaderMap,
    Json(body): Json,
) -> Result<Response, Failure> {
    let (request, context) = rerank::parse(&body)?;
    let asked = Asked::read(&headers, request, once(&headers, "rerank", &body)?)?;
    drop(body);
    let rename = |error| context.rename(error);
    asked.answer(&api, correlation, &context.ignored, rename, |id, outcome| context.answer(id, outcome)).await
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
    async fn answer<T: Serialize>(
        self,
        api: &Api,
        correlation: CorrelationId,
        ignored: &[String],
        rename: impl Fn(ErrorEnvelope) -> ErrorEnvelope,
        answer: impl FnOnce(Uuid, Outcome) -> Result<T, ErrorEnvelope>,
    ) -> Result<Response, Failure> {
        let (session, caller) = (self.request.session_id, Caller::local(correlation));
        let submitted = api.gateway.submit_owned(self.once, self.request, &caller).await;
        let budget = || budget::headers(&api.gateway.budget_left(&caller.share.tenant, session));
        let Owned { task, owner } = submitted.map_err(|error| Failure::from(rename(error)).with_budget(budget))?;
        let mut outcome = Outcome::default();
        let queue_ms = follow(&task, |event| outcome.push(event)).await;
        // Held until here: dropped before, it would have cancelled the task.
        drop(owner);
        let response = match answer(task.spec.id.0, outcome) {
            Ok(body) => whole_body(body, queue_ms),
            Err(error) => Failure::from(rename(error)).with_budget(budget).into_response(),
        };
        Ok(about(response, &task, ignored, budget))
    }
}
