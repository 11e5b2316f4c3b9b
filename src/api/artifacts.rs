//! Artifacts: JSON documents that are named by their content.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use sluicegate_compat::native::CreateArtifact;

use super::Api;
use super::body::Json;
use super::errors::Failure;
use super::path::Parameter;
use crate::admission::Caller;
use crate::gateway::Filed;

/// `POST /v2/artifacts`: 201 with a new artifact, 200 with one that was there.
pub async fn create(State(api): State<Api>, caller: Caller, Json(body): Json) -> Result<Response, Failure> {
    let (filed, artifact) = api.gateway.add_artifact(CreateArtifact::parse(&body)?, &caller).await?;
    let status = match filed {
        Filed::Created => StatusCode::CREATED,
        Filed::Known => StatusCode::OK,
    };
    Ok((status, axum::Json(artifact)).into_response())
}

/// `GET /v2/artifacts/{id}`.
pub async fn view(State(api): State<Api>, caller: Caller, Parameter(id): Parameter) -> Result<Response, Failure> {
    Ok(axum::Json(api.gateway.artifact(&id, &caller).await?).into_response())
}
