//! The models of the catalog, as operators manage them.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use sluicegate_compat::native::{CreateModel, ModelStateRequest};

use super::Api;
use super::body::Json;
use super::errors::Failure;
use super::native::{Parameters, flag};
use super::path::Parameter;

/// `GET /v2/catalog/models`.
pub async fn list(State(api): State<Api>) -> Response {
    axum::Json(api.gateway.catalog()).into_response()
}

/// `POST /v2/catalog/models`: 201 with the entry.
pub async fn create(State(api): State<Api>, Json(body): Json) -> Result<Response, Failure> {
    let model = api.gateway.add_model(CreateModel::parse(&body)?).await?;
    Ok((StatusCode::CREATED, axum::Json(model)).into_response())
}

/// `GET /v2/catalog/models/{id}`.
pub async fn view(State(api): State<Api>, Parameter(id): Parameter) -> Result<Response, Failure> {
    Ok(axum::Json(api.gateway.catalog_model(&id)?).into_response())
}

/// `DELETE /v2/catalog/models/{id}`: 204.
pub async fn remove(State(api): State<Api>, Parameter(id): Parameter) -> Result<StatusCode, Failure> {
    api.gateway.remove_model(&id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// `POST /v2/catalog/models/{id}/verify`: 202 with the entry as it is now, which shows how the verification goes.
pub async fn verify(State(api): State<Api>, Parameter(id): Parameter, query: Parameters) -> Result<Response, Failure> {
    let model = api.gateway.verify_model(&id, flag(query, "fetch")?)?;
    Ok((StatusCode::ACCEPTED, axum::Json(model)).into_response())
}

/// `POST /v2/catalog/models/{id}/state`: 202 with the entry as it is now.
pub async fn set_state(
    State(api): State<Api>,
    Parameter(id): Parameter,
    Json(body): Json,
) -> Result<Response, Failure> {
    // An unknown model is said first, whatever the body.
    api.gateway.catalog_model(&id)?;
    let model = api.gateway.set_model_state(&id, ModelStateRequest::parse(&body)?).await?;
    Ok((StatusCode::ACCEPTED, axum::Json(model)).into_response())
}
