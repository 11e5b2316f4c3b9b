//! Administration: tenants and their keys.
//!
//! What is shown has its version as an `ETag`; a change that names it with `If-Match` is made where nobody has changed it since.

use axum::extract::State;
use axum::http::header::{ETAG, IF_MATCH};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use sluicegate_compat::native::{
    BudgetView, ErrorEnvelope, KeyList, KeyPatch, KeyRequest, KeyView, NewKey, RotateRequest, TenantList, TenantPatch,
    TenantRequest,
};

use super::Api;
use super::audit::Doing;
use super::body::Json;
use super::errors::Failure;
use super::native::{Parameters, pairs};
use super::path::Parameter;
use crate::budgets::Owner;
use crate::ids::{KeyId, TenantId};
use crate::tenants::{ChangeError, Secret, Versioned};

/// What a request that is wrong names all the same.
#[derive(Deserialize)]
struct Named {
    id: String,
}

/// `GET /v2/admin/tenants`.
pub async fn tenants(State(api): State<Api>) -> Result<Response, Failure> {
    let mut tenants = api.tenants.tenants();
    for tenant in &mut tenants {
        stand(&api, tenant_owner(&tenant.id), &mut tenant.budgets).await;
    }
    Ok(axum::Json(TenantList { tenants }).into_response())
}

/// `POST /v2/admin/tenants`: 201 with the tenant.
pub async fn create_tenant(State(api): State<Api>, Doing(act): Doing, Json(body): Json) -> Result<Response, Failure> {
    let request = TenantRequest::parse(&body).inspect_err(|_| {
        if let Ok(Named { id }) = serde_json::from_slice(&body) {
            act.about(&id);
        }
    })?;
    act.about(&request.id);
    api.tenants.acting(&act).create_tenant(&request).await.map_err(failure)?;
    let mut response = show_tenant(&api, &request.id).await?;
    *response.status_mut() = StatusCode::CREATED;
    Ok(response)
}

/// `GET /v2/admin/tenants/{id}`.
pub async fn tenant(State(api): State<Api>, Parameter(id): Parameter) -> Result<Response, Failure> {
    show_tenant(&api, &id).await
}

/// `PATCH /v2/admin/tenants/{id}`: 200 with the tenant.
pub async fn change_tenant(
    State(api): State<Api>,
    Doing(act): Doing,
    Parameter(id): Parameter,
    headers: HeaderMap,
    Json(body): Json,
) -> Result<Response, Failure> {
    let (patch, expected) = (TenantPatch::parse(&body)?, expected(&headers)?);
    api.tenants.acting(&act).change_tenant(&id, expected, patch).await.map_err(failure)?;
    show_tenant(&api, &id).await
}

/// `DELETE /v2/admin/tenants/{id}`: 204, and its keys are gone with it.
pub async fn delete_tenant(
    State(api): State<Api>,
    Doing(act): Doing,
    Parameter(id): Parameter,
    headers: HeaderMap,
) -> Result<StatusCode, Failure> {
    api.tenants.acting(&act).delete_tenant(&id, expected(&headers)?).await.map_err(failure)?;
    Ok(StatusCode::NO_CONTENT)
}

/// `GET /v2/admin/keys`: all, or those of one tenant.
pub async fn keys(State(api): State<Api>, query: Parameters) -> Result<Response, Failure> {
    let mut tenant = None;
    for (name, value) in pairs(query, &[])? {
        match name.as_str() {
            "tenant_id" => tenant = Some(value),
            _ => {
                return Err(
                    ErrorEnvelope::invalid(name.clone(), format!("`{name}` is not a parameter of this list")).into()
                );
            }
        }
    }
    let mut keys = api.tenants.keys(tenant.as_deref());
    for key in &mut keys {
        stand(&api, key_owner(key), &mut key.budgets).await;
    }
    Ok(axum::Json(KeyList { keys }).into_response())
}

/// `POST /v2/admin/keys`: 201 with the key, which is shown this once.
pub async fn create_key(State(api): State<Api>, Doing(act): Doing, Json(body): Json) -> Result<Response, Failure> {
    let request = KeyRequest::parse(&body)?;
    let made = api.tenants.acting(&act).create_key(&request).await.map_err(|error| match error {
        // What is missing is what the body names.
        ChangeError::NoSuchTenant(_) => Failure::from(ErrorEnvelope::invalid("tenant_id", error.to_string())),
        other => failure(other),
    })?;
    made_key(&api, made).await
}

/// `GET /v2/admin/keys/{id}`.
pub async fn key(State(api): State<Api>, Parameter(id): Parameter) -> Result<Response, Failure> {
    show_key(&api, &id).await
}

/// `PATCH /v2/admin/keys/{id}`: 200 with the key.
pub async fn change_key(
    State(api): State<Api>,
    Doing(act): Doing,
    Parameter(id): Parameter,
    headers: HeaderMap,
    Json(body): Json,
) -> Result<Response, Failure> {
    let (patch, expected) = (KeyPatch::parse(&body)?, expected(&headers)?);
    api.tenants.acting(&act).change_key(&id, expected, patch).await.map_err(failure)?;
    show_key(&api, &id).await
}

/// `DELETE /v2/admin/keys/{id}`: 204, and it is good for nothing.
pub async fn revoke_key(
    State(api): State<Api>,
    Doing(act): Doing,
    Parameter(id): Parameter,
    headers: HeaderMap,
) -> Result<StatusCode, Failure> {
    api.tenants.acting(&act).revoke_key(&id, expected(&headers)?).await.map_err(failure)?;
    Ok(StatusCode::NO_CONTENT)
}

/// `POST /v2/admin/keys/{id}/rotate`: 201 with the key that takes its place.
pub async fn rotate_key(
    State(api): State<Api>,
    Doing(act): Doing,
    Parameter(id): Parameter,
    headers: HeaderMap,
    Json(body): Json,
) -> Result<Response, Failure> {
    let (request, expected) = (RotateRequest::parse(&body)?, expected(&headers)?);
    let made = api.tenants.acting(&act).rotate_key(&id, expected, request.overlap_ms.unwrap_or(0)).await;
    made_key(&api, made.map_err(failure)?).await
}

async fn made_key(api: &Api, (mut view, secret): (KeyView, Secret)) -> Result<Response, Failure> {
    stand(api, key_owner(&view), &mut view.budgets).await;
    let shown = axum::Json(NewKey { view, key: secret.reveal().to_owned() });
    let mut response = (StatusCode::CREATED, shown).into_response();
    // Nobody on the way keeps it.
    response.headers_mut().insert("cache-control", HeaderValue::from_static("no-store"));
    Ok(response)
}

async fn show_tenant(api: &Api, id: &str) -> Result<Response, Failure> {
    let mut tenant = api.tenants.versioned_tenant(id).ok_or_else(|| no_tenant(id))?;
    stand(api, tenant_owner(id), &mut tenant.what.budgets).await;
    Ok(shown(tenant))
}

async fn show_key(api: &Api, id: &str) -> Result<Response, Failure> {
    let mut key = api.tenants.versioned_key(id).ok_or_else(|| no_key(id))?;
    stand(api, key_owner(&key.what), &mut key.what.budgets).await;
    Ok(shown(key))
}

/// Fills in how budgets stand. What was made or changed is shown in any case.
async fn stand(api: &Api, owner: Owner, budgets: &mut Vec<BudgetView>) {
    if !budgets.is_empty()
        && let Some(standing) = api.gateway.budgets(owner).await
    {
        *budgets = standing;
    }
}

fn tenant_owner(id: &str) -> Owner {
    Owner::Tenant(TenantId::from(id))
}

fn key_owner(key: &KeyView) -> Owner {
    Owner::Key(TenantId::from(key.tenant_id.as_str()), KeyId::from(key.id.as_str()))
}

pub(super) fn shown<T: Serialize>(Versioned { what, version }: Versioned<T>) -> Response {
    let mut response = axum::Json(what).into_response();
    if let Ok(tag) = HeaderValue::from_str(&format!("\"{version}\"")) {
        response.headers_mut().insert(ETAG, tag);
    }
    response
}

/// The version that a change is to be made to; `None`: whatever it is.
pub(super) fn expected(headers: &HeaderMap) -> Result<Option<i64>, ErrorEnvelope> {
    let Some(tag) = headers.get(IF_MATCH) else { return Ok(None) };
    if tag == "*" {
        return Ok(None);
    }
    let number = tag.to_str().ok().and_then(|tag| tag.strip_prefix('"')?.strip_suffix('"')?.parse().ok());
    // A tag that is none of ours fits nothing, and 0 is no version.
    Ok(Some(number.unwrap_or(-1)))
}

fn failure(error: ChangeError) -> Failure {
    ErrorEnvelope::from(error).into()
}

fn no_tenant(id: &str) -> Failure {
    failure(ChangeError::no_tenant(id))
}

fn no_key(id: &str) -> Failure {
    failure(ChangeError::no_key(id))
}
