//! Pools: how they stand, taking them out of service and back, giving them other models, and purging.

use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use sluicegate_compat::native::{DrainRequest, PurgeRequest, ReloadRequest};

use super::Api;
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
pub async fn drain(State(api): State<Api>, Parameter(id): Parameter, Json(body): Json) -> Result<Response, Failure> {
    // An unknown pool is said first, whatever the body.
    api.gateway.pool(&id)?;
    let DrainRequest { deadline_ms, waiting } = DrainRequest::parse(&body)?;
    let pool = api.gateway.drain(&id, Duration::from_millis(deadline_ms), waiting).await?;
    Ok((StatusCode::ACCEPTED, axum::Json(pool)).into_response())
}

/// `POST /v2/pools/{id}/resume`: 202 with the pool as it is now.
pub async fn resume(State(api): State<Api>, Parameter(id): Parameter) -> Result<Response, Failure> {
    Ok((StatusCode::ACCEPTED, axum::Json(api.gateway.resume(&id).await?)).into_response())
}

/// `POST /v2/pools/{id}/reload`: 202 with the pool as it is now; its health shows how the reload goes.
pub async fn reload(State(api): State<Api>, Parameter(id): Parameter, Json(body): Json) -> Result<Response, Failure> {
    // An unknown pool is said first, whatever the body.
    api.gateway.pool(&id)?;
    let pool = api.gateway.reload(&id, &ReloadRequest::parse(&body)?)?;
    Ok((StatusCode::ACCEPTED, axum::Json(pool)).into_response())
}

/// `POST /v2/pools/{id}/purge`: 202 with the pool as it is now; its health shows how the purge goes.
pub async fn purge(State(api): State<Api>, Parameter(id): Parameter, Json(body): Json) -> Result<Response, Failure> {
    // An unknown pool is said first, whatever the body.
    api.gateway.pool(&id)?;
    let pool = api.gateway.purge(&id, &PurgeRequest::parse(&body)?)?;
    Ok((StatusCode::ACCEPTED, axum::Json(pool)).into_response())
}
