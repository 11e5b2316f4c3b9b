//! Servers elsewhere that register with a pool.

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use sluicegate_compat::native::RegisterWorker;

use super::Api;
use super::body::Json;
use super::errors::Failure;

/// `POST /v2/workers/register`: 200 with the replica that it is.
pub async fn register(State(api): State<Api>, Json(body): Json) -> Result<Response, Failure> {
    let worker = api.gateway.register_worker(RegisterWorker::parse(&body)?).await?;
    Ok(axum::Json(worker).into_response())
}
