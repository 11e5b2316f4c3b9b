//! What models cost, as administrators see and set it.

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use sluicegate_compat::native::PriceRequest;

use super::Api;
use super::admin::{expected, shown};
use super::audit::Doing;
use super::body::Json;
use super::errors::Failure;
use super::path::Parameter;
use crate::tenants::Versioned;

/// `GET /v2/admin/prices`.
pub async fn list(State(api): State<Api>) -> Response {
    axum::Json(api.gateway.prices()).into_response()
}

/// `GET /v2/admin/prices/{model}`.
pub async fn view(State(api): State<Api>, Parameter(model): Parameter) -> Result<Response, Failure> {
    price(&api, &model)
}

/// `PUT /v2/admin/prices/{model}`: 200 with the price, which counts for what is let in from now on.
pub async fn set(
    State(api): State<Api>,
    Doing(act): Doing,
    Parameter(model): Parameter,
    headers: HeaderMap,
    Json(body): Json,
) -> Result<Response, Failure> {
    // An unknown model is said first, whatever the body.
    api.gateway.price(&model)?;
    let request = PriceRequest::parse(&body)?;
    api.gateway.set_price(&model, expected(&headers)?, Some(request.price()), &act).await?;
    price(&api, &model)
}

/// `DELETE /v2/admin/prices/{model}`: 204, and the price of the configuration counts again.
pub async fn reset(
    State(api): State<Api>,
    Doing(act): Doing,
    Parameter(model): Parameter,
    headers: HeaderMap,
) -> Result<StatusCode, Failure> {
    api.gateway.set_price(&model, expected(&headers)?, None, &act).await?;
    Ok(StatusCode::NO_CONTENT)
}

fn price(api: &Api, model: &str) -> Result<Response, Failure> {
    let (what, version) = api.gateway.price(model)?;
    Ok(shown(Versioned { what, version }))
}
