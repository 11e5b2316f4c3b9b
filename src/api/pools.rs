//! Pools: how they stand, taking them out of service and back, giving them other models, and purging.

use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::json;
use sluicegate_compat::native::{DrainRequest, PurgeRequest, ReloadRequest, WhenDrained};

use super::Api;
use super::audit::Doing;
use super::body::Json;
use super::errors::Failure;
use super::path::Parameter;

/// `GET /v2/pools`.
pub async fn list(State(api): State<Api>) -> Response {
    axum::Json(api.gateway.pools()).into_response()
}

/// `GET /v2/pools/{id}/health`.
pub async fn health(State(api): State<Api>, Parameter(id): Parameter) -> Result<Response, Failure> {
    Ok(axum::Json(api.gateway.pool(&id)?).into_response())
}

/// `POST /v2/pools/{id}/drain`: 202 with the pool as it is now; its health shows how the drain goes.
pub async fn drain(
    State(api): State<Api>,
    Doing(act): Doing,
    Parameter(id): Parameter,
    Json(body): Json,
) -> Result<Response, Failure> {
    // An unknown pool is said first, whatever the body.
    api.gateway.pool(&id)?;
    let DrainRequest { deadline_ms, waiting } = DrainRequest::parse(&body)?;
    act.sets(json!({ "draining": true, "deadline_ms": deadline_ms, "waiting": word(waiting) }));
    let pool = api.gateway.drain(&id, Duration::from_millis(deadline_ms), waiting, &act).await?;
    Ok((StatusCode::ACCEPTED, axum::Json(pool)).into_response())
}

/// `POST /v2/pools/{id}/resume`: 202 with the pool as it is now.
pub async fn resume(State(api): State<Api>, Doing(act): Doing, Parameter(id): Parameter) -> Result<Response, Failure> {
    act.sets(json!({ "draining": false }));
    Ok((StatusCode::ACCEPTED, axum::Json(api.gateway.resume(&id, &act).await?)).into_response())
}

/// `POST /v2/pools/{id}/reload`: 202 with the pool as it is now; its health shows how the reload goes.
pub async fn reload(
    State(api): State<Api>,
    Doing(act): Doing,
    Parameter(id): Parameter,
    Json(body): Json,
) -> Result<Response, Failure> {
    // An unknown pool is said first, whatever the body.
    api.gateway.pool(&id)?;
    let request = ReloadRequest::parse(&body)?;
    act.sets(json!({ "model_ref": request.new_model_ref }));
    let pool = api.gateway.reload(&id, &request)?;
    Ok((StatusCode::ACCEPTED, axum::Json(pool)).into_response())
}

/// `POST /v2/pools/{id}/purge`: 202 with the pool as it is now; its health shows how the purge goes.
pub async fn purge(
    State(api): State<Api>,
    Doing(act): Doing,
    Parameter(id): Parameter,
    Json(body): Json,
) -> Result<Response, Failure> {
    // An unknown pool is said first, whatever the body.
    api.gateway.pool(&id)?;
    let request = PurgeRequest::parse(&body)?;
    act.sets(json!({
        "purge_models": request.purge_models,
        "drain_first": request.drain_first,
        "force": request.force,
        "delete_cache_dirs": request.delete_cache_dirs,
    }));
    let pool = api.gateway.purge(&id, &request)?;
    Ok((StatusCode::ACCEPTED, axum::Json(pool)).into_response())
}

const fn word(waiting: WhenDrained) -> &'static str {
    match waiting {
        WhenDrained::Serve => "serve",
        WhenDrained::Fail => "fail",
    }
}
