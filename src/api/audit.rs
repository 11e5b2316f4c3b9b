//! The audit log: which requests are actions of administrators, how they are recorded, and `GET /v2/admin/audit`.
//!
//! Whoever has sent a good key has asked for something, also where the answer is no. An answer goes out once its record is durable, or
//! waits for a database that has gone away meanwhile.

use std::sync::Arc;

use axum::extract::rejection::RawPathParamsRejection;
use axum::extract::{FromRequestParts, MatchedPath, RawPathParams, Request, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::request::Parts;
use axum::http::{HeaderName, HeaderValue, Method};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use sluicegate_compat::native::{AuditList, ErrorCode, ErrorEnvelope};
use uuid::Uuid;

use super::Api;
use super::client::ClientAddress;
use super::errors::{self, Failure};
use super::native::{Parameters, pairs};
use crate::admission::Caller;
use crate::audit::{Act, Action, Actor};
use crate::gateway::AuditFilter;

/// Actions of a page, where the client does not say.
const PAGE: usize = 100;
const MOST_OF_A_PAGE: usize = 1000;

/// For the next page, also of JSON lines.
const NEXT_CURSOR: HeaderName = HeaderName::from_static("x-next-cursor");

/// The action that a request is, for its handler.
pub struct Doing(pub Arc<Act>);

/// Those of a route's path, of which the first says what a request is about.
pub type PathParameters = Result<RawPathParams, RawPathParamsRejection>;

#[derive(Clone)]
struct UnderWay(Arc<Act>);

impl<S: Sync> FromRequestParts<S> for Doing {
    type Rejection = Failure;

    /// The act that [`record`] has put there.
    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Failure> {
        let act = parts.extensions.get().cloned().map(|UnderWay(act)| Self(act));
        let unrecorded = || ErrorEnvelope::new(ErrorCode::Internal, "this action is not one that is recorded");
        act.ok_or_else(|| unrecorded().into())
    }
}

/// What a request does, where it is an administrator's and changes something.
fn action(method: &Method, route: &str) -> Option<Action> {
    Some(match (method.as_str(), route) {
        ("POST", "/v2/admin/tenants") => Action::CREATE_TENANT,
        ("PATCH", "/v2/admin/tenants/{id}") => Action::CHANGE_TENANT,
        ("DELETE", "/v2/admin/tenants/{id}") => Action::DELETE_TENANT,
        ("POST", "/v2/admin/keys") => Action::CREATE_KEY,
        ("PATCH", "/v2/admin/keys/{id}") => Action::CHANGE_KEY,
        ("DELETE", "/v2/admin/keys/{id}") => Action::REVOKE_KEY,
        ("POST", "/v2/admin/keys/{id}/rotate") => Action::ROTATE_KEY,
        ("PUT", "/v2/admin/prices/{model}") => Action::SET_PRICE,
        ("DELETE", "/v2/admin/prices/{model}") => Action::RESET_PRICE,
        ("POST", "/v2/admin/tasks/{id}/cancel") => Action::CANCEL_TASK,
        ("POST", "/v2/pools/{id}/drain") => Action::DRAIN_POOL,
        ("POST", "/v2/pools/{id}/resume") => Action::RESUME_POOL,
        ("POST", "/v2/pools/{id}/reload") => Action::RELOAD_POOL,
        ("POST", "/v2/pools/{id}/purge") => Action::PURGE_POOL,
        ("POST", "/v2/catalog/models") => Action::ADD_MODEL,
        ("DELETE", "/v2/catalog/models/{id}") => Action::REMOVE_MODEL,
        ("POST", "/v2/catalog/models/{id}/verify") => Action::VERIFY_MODEL,
        ("POST", "/v2/catalog/models/{id}/state") => Action::SET_MODEL_STATE,
        ("POST", "/v2/workers/register") => Action::REGISTER_WORKER,
        _ => return None,
    })
}

/// Records what administrators do. Below [`super::auth::check`], which says who they are.
pub async fn record(State(api): State<Api>, parameters: PathParameters, mut request: Request, next: Next) -> Response {
    let caller = request.extensions().get::<Caller>();
    let act = caller.and_then(|caller| act(caller, &parameters, &request));
    let Some(act) = act else { return next.run(request).await };
    // What could not be recorded is not done. Servers register again all the time, which is nothing to be recorded.
    if act.action != Action::REGISTER_WORKER
        && let Err(away) = api.gateway.check_store()
    {
        return Failure::from(away).into_response();
    }
    let act = Arc::new(act);
    request.extensions_mut().insert(UnderWay(Arc::clone(&act)));
    // What was begun is done and recorded, also where the client hangs up.
    let gateway = Arc::clone(&api.gateway);
    let action = async move { recorded(&api, &act, next.run(request).await).await };
    match gateway.lifecycle.to_the_end("administration", action).await {
        Ok(response) => response,
        Err(panicked) => Failure::from(ErrorEnvelope::from(panicked)).into_response(),
    }
}

/// Records that somebody may not do what they have asked for.
pub async fn refused(api: Api, act: Option<Act>, why: ErrorEnvelope) -> Response {
    let Some(act) = act else { return Failure::from(why).into_response() };
    match api.gateway.check_store() {
        Ok(()) => recorded(&api, &act, Failure::from(why).into_response()).await,
        Err(away) => Failure::from(away).into_response(),
    }
}

async fn recorded(api: &Api, act: &Act, response: Response) -> Response {
    let status = errors::status_of(&response);
    if status < 400 && act.is_idle() {
        return response;
    }
    match api.gateway.acted(act, status).await {
        Err(error) if status < 400 => Failure::from(error).into_response(),
        // Where nothing was done, that is the answer.
        Ok(()) | Err(_) => response,
    }
}

/// What a request is, where it is an administrator's.
pub fn act(caller: &Caller, parameters: &PathParameters, request: &Request) -> Option<Act> {
    let route = request.extensions().get::<MatchedPath>()?;
    let action = action(request.method(), route.as_str())?;
    let tenant = caller.share.tenant.to_string();
    let actor = caller.key.as_ref().map_or(Actor::Loopback, |key| Actor::Key { id: key.to_string(), tenant });
    let client = request.extensions().get::<ClientAddress>().map(|address| address.0.to_string());
    let act = Act::new(action, &actor, client, caller.correlation_id.as_str());
    if let Some((_, id)) = parameters.iter().flatten().next() {
        act.about(id);
    }
    Some(act)
}

/// `GET /v2/admin/audit`: what was done, the last first, as JSON or JSON lines.
pub async fn list(State(api): State<Api>, query: Parameters) -> Result<Response, Failure> {
    let (filter, lines) = filter(query)?;
    let page = api.gateway.audit(filter).await?;
    let cursor = page.next_cursor.as_deref().map(HeaderValue::from_str).and_then(Result::ok);
    let mut response = if lines {
        ([(CONTENT_TYPE, "application/jsonl")], json_lines(&page)?).into_response()
    } else {
        axum::Json(page).into_response()
    };
    if let Some(cursor) = cursor {
        response.headers_mut().insert(NEXT_CURSOR, cursor);
    }
    Ok(response)
}

fn json_lines(page: &AuditList) -> Result<String, ErrorEnvelope> {
    let mut lines = String::new();
    for entry in &page.entries {
        let line = serde_json::to_string(entry);
        lines += &line.map_err(|error| ErrorEnvelope::new(ErrorCode::Internal, error.to_string()))?;
        lines.push('\n');
    }
    Ok(lines)
}

fn filter(query: Parameters) -> Result<(AuditFilter, bool), ErrorEnvelope> {
    let (mut filter, mut lines) = (AuditFilter { limit: PAGE, ..AuditFilter::default() }, false);
    for (name, value) in pairs(query, &[])? {
        let invalid = |message: &str| ErrorEnvelope::invalid(name.clone(), format!("`{name}` {message}"));
        let time = || value.parse().map_err(|_| invalid("is a Unix time in ms"));
        // What no text in a database has, nothing can have.
        let text = || value.replace('\0', "");
        match name.as_str() {
            "from_ms" => filter.from_ms = Some(time()?),
            "to_ms" => filter.to_ms = Some(time()?),
            "key_id" => filter.key = Some(text()),
            "action" => {
                let known = Action::ALL.iter().any(|action| action.name == value);
                let names: Vec<_> = Action::ALL.iter().map(|action| action.name).collect();
                let unknown = || invalid(&format!("is one of {}", names.join(", ")));
                filter.action = Some(known.then_some(value.clone()).ok_or_else(unknown)?);
            }
            "target" => filter.target = Some(text()),
            "limit" => {
                let limit = value.parse().ok().filter(|limit| (1..=MOST_OF_A_PAGE).contains(limit));
                filter.limit = limit.ok_or_else(|| invalid(&format!("is 1 to {MOST_OF_A_PAGE}")))?;
            }
            "cursor" => {
                let id = Uuid::try_parse(&value).map_err(|_| invalid("is the `next_cursor` of a page"))?;
                filter.before = Some(id.to_string());
            }
            "format" => {
                lines = match value.as_str() {
                    "json" => false,
                    "jsonl" => true,
                    _ => return Err(invalid("is json or jsonl")),
                }
            }
            _ => return Err(invalid("is not a parameter of this list")),
        }
    }
    Ok((filter, lines))
}
