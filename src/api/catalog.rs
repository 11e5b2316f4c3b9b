//! The models of the catalog, as operators manage them.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::json;
use sluicegate_compat::native::{CreateModel, ModelStateRequest};

use super::Api;
use super::audit::Doing;
use super::body::Json;
use super::errors::Failure;
use super::native::{Parameters, flag};
use super::path::Parameter;

/// `GET /v2/catalog/models`.
pub async fn list(State(api): State<Api>) -> Response {
    axum::Json(api.gateway.catalog()).into_response()
}

/// `POST /v2/catalog/models`: 201 with the entry.
pub async fn create(State(api): State<Api>, Doing(act): Doing, Json(body): Json) -> Result<Response, Failure> {
    let request = CreateModel::parse(&body)?;
    act.about(&request.id);
    act.sets(json!({
        "source": request.source,
        "aliases": request.aliases,
        "digest": request.digest,
        "quantization": request.quantization,
        "price": request.price,
    }));
    let model = api.gateway.add_model(request, &act).await?;
    Ok((StatusCode::CREATED, axum::Json(model)).into_response())
}

/// `GET /v2/catalog/models/{id}`.
pub async fn view(State(api): State<Api>, Parameter(id): Parameter) -> Result<Response, Failure> {
    Ok(axum::Json(api.gateway.catalog_model(&id)?).into_response())
}

/// `DELETE /v2/catalog/models/{id}`: 204.
pub async fn remove(
    State(api): State<Api>,
    Doing(act): Doing,
    Parameter(id): Parameter,
) -> Result<StatusCode, Failure> {
    api.gateway.remove_model(&id, &act).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// `POST /v2/catalog/models/{id}/verify`: 202 with the entry as it is now, which shows how the verification goes.
pub async fn verify(
    State(api): State<Api>,
    Doing(act): Doing,
    Parameter(id): Parameter,
    query: Parameters,
) -> Result<Response, Failure> {
    let fetch = flag(query, "fetch")?;
    act.sets(json!({ "fetch": fetch }));
    let model = api.gateway.verify_model(&id, fetch)?;
    Ok((StatusCode::ACCEPTED, axum::Json(model)).into_response())
}

/// `POST /v2/catalog/models/{id}/state`: 202 with the entry as it is now.
pub async fn set_state(
    State(api): State<Api>,
    Doing(act): Doing,
    Parameter(id): Parameter,
    Json(body): Json,
) -> Result<Response, Failure> {
    // An unknown model is said first, whatever the body.
    api.gateway.catalog_model(&id)?;
    let request = ModelStateRequest::parse(&body)?;
    act.sets(json!({ "state": request.state, "deadline_ms": request.deadline_ms }));
    let model = api.gateway.set_model_state(&id, request, &act).await?;
    Ok((StatusCode::ACCEPTED, axum::Json(model)).into_response())
}
