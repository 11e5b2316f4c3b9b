//! Discovery, health, metrics, and the OpenAPI documents.

use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::{CONTENT_TYPE, RETRY_AFTER};
use axum::response::{IntoResponse, Response};
use sluicegate_compat::native::{ErrorCode, ErrorEnvelope};

use super::Api;
use super::errors::Failure;
use super::path::Parameter;
use crate::admission::Caller;

/// The documents under `/openapi/`, by file name.
pub const DOCUMENTS: [(&str, &str); 10] = [
    ("common.yaml", include_str!("../../openapi/common.yaml")),
    ("data.yaml", include_str!("../../openapi/data.yaml")),
    ("control.yaml", include_str!("../../openapi/control.yaml")),
    ("sessions.yaml", include_str!("../../openapi/sessions.yaml")),
    ("catalog.yaml", include_str!("../../openapi/catalog.yaml")),
    ("admin.yaml", include_str!("../../openapi/admin.yaml")),
    ("artifacts.yaml", include_str!("../../openapi/artifacts.yaml")),
    ("meta.yaml", include_str!("../../openapi/meta.yaml")),
    ("openai.yaml", include_str!("../../openapi/openai.yaml")),
    ("anthropic.yaml", include_str!("../../openapi/anthropic.yaml")),
];

/// The version of the native API: `info.version` of its documents, which a test holds equal.
pub const API_VERSION: &str = "2.0.0";

/// `GET /v2/meta/version`.
pub async fn version() -> Response {
    axum::Json(serde_json::json!({ "api_version": API_VERSION, "gateway_version": env!("CARGO_PKG_VERSION") }))
        .into_response()
}

/// `GET /v2/meta/capabilities`.
pub async fn capabilities(State(api): State<Api>, caller: Caller) -> Response {
    axum::Json(api.gateway.capabilities(API_VERSION, &caller)).into_response()
}

/// `GET /healthz`: the process answers.
pub async fn healthz() -> &'static str {
    "ok\n"
}

/// `GET /readyz`: a pool is ready, the database is there, and the gateway is not shutting down.
pub async fn readyz(State(api): State<Api>) -> Response {
    if api.gateway.ready() {
        return "ready\n".into_response();
    }
    let why = if api.gateway.is_degraded() { "not ready: the database is away\n" } else { "not ready\n" };
    (StatusCode::SERVICE_UNAVAILABLE, [(RETRY_AFTER, "1")], why).into_response()
}

/// `GET /metrics`: Prometheus' text format.
pub async fn metrics(State(api): State<Api>) -> Result<Response, Failure> {
    match api.http_metrics.exposition() {
        Ok(text) => Ok(([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()),
        Err(error) => {
            tracing::error!(%error, "the metrics cannot be written");
            Err(ErrorEnvelope::new(ErrorCode::Internal, "the metrics cannot be written").into())
        }
    }
}

/// `GET /openapi/{file}`.
pub async fn openapi(Parameter(file): Parameter) -> Result<Response, Failure> {
    let document = DOCUMENTS.iter().find(|(name, _)| *name == file);
    let not_found = || ErrorEnvelope::new(ErrorCode::NotFound, "there is no such document");
    let (_, text) = document.ok_or_else(not_found)?;
    Ok(([(CONTENT_TYPE, "application/yaml")], *text).into_response())
}
