//! Who asks, and whether they may: before any handler, for every route.
//!
//! A route is closed unless [`need`] says otherwise: what it does not know takes the scope `admin`. Without any key in the store
//! everybody may do everything, if they are on this machine ([`super::local`]) and the gateway listens to this machine alone.

use std::time::Duration;

use axum::extract::{FromRequestParts, MatchedPath, Request, State};
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, Method};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use sluicegate_compat::native::{ErrorCode, ErrorEnvelope, PolicyLabel, Scope};

use super::audit::PathParameters;
use super::client::ClientAddress;
use super::errors::Failure;
use super::{Api, Settings, audit, local};
use crate::admission::Caller;
use crate::ids::CorrelationId;
use crate::tenants::{Denied, Identity};

/// Anthropic's way to send a key.
const X_API_KEY: HeaderName = HeaderName::from_static("x-api-key");

/// Azure's.
const API_KEY: HeaderName = HeaderName::from_static("api-key");

/// Whose a request was, left on its response for the log line and for what is said of limits.
#[derive(Debug, Clone)]
pub struct Whose(pub Caller);

/// What a route takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Need {
    Nothing,
    /// A key with one of these scopes.
    One(&'static [Scope]),
    /// Any good key: there is no such route, which is not everybody's business.
    AnyKey,
}

/// What a method of a route takes.
fn need(method: &Method, route: Option<&str>) -> Need {
    let Some(route) = route else { return Need::AnyKey };
    let reads = matches!(*method, Method::GET | Method::HEAD);
    let is_below =
        |parent: &str| route.strip_prefix(parent).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    match route {
        "/healthz" | "/readyz" | "/openapi/{file}" | "/v2/meta/version" => Need::Nothing,
        "/metrics" => METRICS,
        "/v2/usage" if reads => Need::One(&[Scope::Read, Scope::Admin]),
        _ => {
            let of_tenants =
                ["/v1", "/v2/tasks", "/v2/sessions", "/v2/artifacts"].iter().any(|parent| is_below(parent));
            let shown = ["/v2/meta/capabilities", "/v2/catalog", "/v2/pools"].iter().any(|parent| is_below(parent));
            match (of_tenants, shown, reads) {
                (true, _, true) | (_, true, true) => Need::One(&[Scope::Infer, Scope::Read]),
                (true, _, false) => Need::One(&[Scope::Infer]),
                _ => Need::One(&[Scope::Admin]),
            }
        }
    }
}

/// Lets through who may, with the [`Caller`] that handlers get.
pub async fn check(
    State(api): State<Api>,
    correlation: CorrelationId,
    parameters: PathParameters,
    mut request: Request,
    next: Next,
) -> Response {
    let route = request.extensions().get::<MatchedPath>().map(MatchedPath::as_str);
    let needed = need(request.method(), route);
    let identity = match identify(&api, needed, &request) {
        Ok(identity) => identity,
        Err(Refused { why, whose }) => {
            let caller = whose.map(|whose| Caller::new(correlation, &whose));
            let act = caller.as_ref().and_then(|caller| audit::act(caller, &parameters, &request));
            let key = caller.and_then(|caller| caller.key).filter(|_| act.is_some());
            if let Some(wait) = key.and_then(|key| api.refused_actions.note(key).err()) {
                let why = too_many("too many actions were asked for that this API key may not do", wait);
                return Failure::from(why).into_response();
            }
            return audit::refused(api, act, why).await;
        }
    };
    let caller = identity.map(|identity| Caller::new(correlation, &identity));
    if let Some(caller) = &caller {
        request.extensions_mut().insert(caller.clone());
    }
    let mut response = next.run(request).await;
    if let Some(caller) = caller {
        response.extensions_mut().insert(Whose(caller));
    }
    response
}

/// Why somebody is not let through, and who that is, where they have sent a good key.
struct Refused {
    why: ErrorEnvelope,
    whose: Option<Identity>,
}

impl From<ErrorEnvelope> for Refused {
    fn from(why: ErrorEnvelope) -> Self {
        Self { why, whose: None }
    }
}

/// What a program that reads metrics has to have.
const METRICS: Need = Need::One(&[Scope::Metrics]);

/// Who asks; `None` where that does not matter.
fn identify(api: &Api, needed: Need, request: &Request) -> Result<Option<Identity>, Refused> {
    let Settings { loopback, metrics_open, .. } = api.settings;
    if needed == METRICS && metrics_open {
        return Ok(None);
    }
    if needed == METRICS && loopback && local::check(request.headers(), request.uri()).is_ok() {
        return Ok(None);
    }
    if api.tenants.is_open() {
        if !loopback {
            return if needed == Need::Nothing { Ok(None) } else { Err(denied(Denied::Missing).into()) };
        }
        local::check(request.headers(), request.uri())?;
    } else if needed == Need::Nothing {
        return Ok(None);
    }
    let sent = credential(request.headers());
    let identity = api.tenants.identify(sent).map_err(|why| Refused {
        why: refused(api, why, request),
        whose: sent.filter(|_| why == Denied::Suspended).and_then(|sent| api.tenants.suspended(sent)),
    })?;
    match needed {
        Need::One(scopes) if !scopes.iter().any(|scope| identity.may(*scope)) => {
            let names: Vec<_> = scopes.iter().map(|scope| format!("`{}`", scope.as_str())).collect();
            let message = format!("this takes an API key with the scope {}", names.join(" or "));
            Err(Refused { why: ErrorEnvelope::new(ErrorCode::Forbidden, message), whose: Some(identity) })
        }
        _ => Ok(Some(identity)),
    }
}

/// What somebody is told who has sent no good key, or one too many that is none.
fn refused(api: &Api, why: Denied, request: &Request) -> ErrorEnvelope {
    let is_guess = matches!(why, Denied::Malformed | Denied::Unknown | Denied::Expired);
    let address = request.extensions().get::<ClientAddress>();
    let noted = match (&api.failed_logins, address) {
        (Some(logins), Some(address)) if is_guess => logins.note(address.network()),
        _ => Ok(()),
    };
    api.http_metrics.login_failed(why, noted.is_err());
    match noted {
        Ok(()) => denied(why),
        Err(wait) => {
            too_many("too many API keys that are none have come from this address; a good one is let in at once", wait)
        }
    }
}

fn too_many(message: &str, wait: Duration) -> ErrorEnvelope {
    let wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX).max(1);
    ErrorEnvelope::rejected(PolicyLabel::RateRequests, message).with_retry_after_ms(wait_ms)
}

fn denied(why: Denied) -> ErrorEnvelope {
    let code = if why == Denied::Suspended { ErrorCode::Forbidden } else { ErrorCode::Unauthenticated };
    ErrorEnvelope::new(code, why.to_string())
}

/// The key that a caller has sent. Of several headers the first of these counts.
fn credential(headers: &HeaderMap) -> Option<&str> {
    let text = |name: &HeaderName| headers.get(name).map(|value| value.to_str().unwrap_or_default().trim());
    if let Some(authorization) = text(&AUTHORIZATION) {
        let (scheme, key) = authorization.split_once(' ').unwrap_or(("", authorization));
        return Some(if scheme.is_empty() || scheme.eq_ignore_ascii_case("bearer") { key.trim() } else { "" });
    }
    text(&X_API_KEY).or_else(|| text(&API_KEY))
}

impl<S: Sync> FromRequestParts<S> for Caller {
    type Rejection = Failure;

    /// Whom `check` has let through.
    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Failure> {
        parts.extensions.get().cloned().ok_or_else(|| denied(Denied::Missing).into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_found_in_each_header_that_clients_send_it_in() {
        let sent = |headers: &[(&'static str, &str)]| {
            let mut map = HeaderMap::new();
            for (name, value) in headers {
                map.insert(*name, value.parse().unwrap());
            }
            credential(&map).map(str::to_owned)
        };
        assert_eq!(sent(&[("authorization", "Bearer a")]).as_deref(), Some("a"));
        assert_eq!(sent(&[("authorization", "bearer  a ")]).as_deref(), Some("a"));
        assert_eq!(sent(&[("x-api-key", "b")]).as_deref(), Some("b"));
        assert_eq!(sent(&[("api-key", "c"), ("x-api-key", "b")]).as_deref(), Some("b"));
        assert_eq!(sent(&[("api-key", "c"), ("authorization", "Bearer a")]).as_deref(), Some("a"));
        assert_eq!(sent(&[("authorization", "Basic YTpi"), ("x-api-key", "b")]).as_deref(), Some(""));
        assert_eq!(sent(&[]), None);
    }

    #[test]
    fn what_nobody_has_thought_of_is_for_administrators() {
        for (method, route) in [(Method::POST, "/v2/pools/{id}/drain"), (Method::GET, "/v2/new"), (Method::GET, "/v10")]
        {
            assert_eq!(need(&method, Some(route)), Need::One(&[Scope::Admin]), "{method} {route}");
        }
        assert_eq!(need(&Method::GET, Some("/v2/tasks/{id}")), Need::One(&[Scope::Infer, Scope::Read]));
        assert_eq!(need(&Method::POST, Some("/v2/tasks")), Need::One(&[Scope::Infer]));
        assert_eq!(need(&Method::GET, None), Need::AnyKey);
    }
}
