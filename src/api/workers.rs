//! Servers elsewhere that register with a pool.

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde_json::json;
use sluicegate_compat::native::RegisterWorker;

use super::Api;
use super::audit::Doing;
use super::body::Json;
use super::errors::Failure;

/// `POST /v2/workers/register`: 200 with the replica that it is.
pub async fn register(State(api): State<Api>, Doing(act): Doing, Json(body): Json) -> Result<Response, Failure> {
    let request = RegisterWorker::parse(&body)?;
    act.about(&request.worker_id);
    act.sets(json!({
        "pool_id": request.pool_id,
        "base_url": request.base_url,
        "model": request.model,
        "slots": request.slots,
        "ttl_ms": request.ttl_ms,
    }));
    let worker = api.gateway.register_worker(request, &act).await?;
    Ok(axum::Json(worker).into_response())
}
