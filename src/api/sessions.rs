//! Sessions: looking, making, changing, evicting.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use sluicegate_compat::native::SessionRequest;

use super::Api;
use super::body::Json;
use super::errors::Failure;
use super::path::Parameter;
use crate::admission::Caller;
use crate::ids::SessionId;

/// `GET /v2/sessions/{id}`.
pub async fn view(State(api): State<Api>, caller: Caller, Parameter(id): Parameter) -> Result<Response, Failure> {
    let tenant = caller.share.tenant;
    Ok(axum::Json(api.gateway.session(&tenant, SessionId::parse(&id))?).into_response())
}

/// `POST /v2/sessions/{id}`: 204. Without a body the session lives on; with one it is made or changed.
pub async fn change(
    State(api): State<Api>,
    caller: Caller,
    Parameter(id): Parameter,
    Json(body): Json,
) -> Result<StatusCode, Failure> {
    let (tenant, id) = (caller.share.tenant, SessionId::parse(&id));
    if body.is_empty() {
        api.gateway.extend_session(&tenant, id).await?;
    } else {
        api.gateway.put_session(&tenant, id, &SessionRequest::parse(&body)?).await?;
    }
    Ok(StatusCode::NO_CONTENT)
}

/// `DELETE /v2/sessions/{id}`: 204.
pub async fn evict(State(api): State<Api>, caller: Caller, Parameter(id): Parameter) -> Result<StatusCode, Failure> {
    api.gateway.evict_session(&caller.share.tenant, SessionId::parse(&id)).await?;
    Ok(StatusCode::NO_CONTENT)
}
