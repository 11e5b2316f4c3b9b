//! The tasks of all tenants, for administrators: whose they are and how they stand, without what is asked and answered.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};

use super::Api;
use super::audit::Doing;
use super::errors::Failure;
use super::native::{Parameters, whose};
use super::path::Parameter;
use crate::ids::TaskId;

/// `GET /v2/admin/tasks`: a page of tasks, newest first.
pub async fn list(State(api): State<Api>, query: Parameters) -> Result<Response, Failure> {
    let (whose, filter) = whose(query)?;
    Ok(axum::Json(api.gateway.all_tasks(&whose, &filter)).into_response())
}

/// `POST /v2/admin/tasks/{id}/cancel`: 204, and from then on no token.
pub async fn cancel(
    State(api): State<Api>,
    Doing(act): Doing,
    Parameter(id): Parameter,
) -> Result<StatusCode, Failure> {
    api.gateway.cancel_any(TaskId::parse(&id), &act).await?;
    Ok(StatusCode::NO_CONTENT)
}
