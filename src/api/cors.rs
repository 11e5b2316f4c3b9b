//! Which web pages of other origins may use the gateway: none, unless the configuration names them.
//!
//! Keys are in headers that a page sets itself, so nothing here needs credentials of the browser, and none are allowed. Whether a
//! request is let in is not decided here: a page that may read answers has to have a key like anybody.

use std::time::Duration;

use axum::http::header::{ETAG, LOCATION, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderName, HeaderValue, Method};
use tower_http_cors::cors::{AllowHeaders, AllowOrigin, Any, CorsLayer};

/// Pages that may use the gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cors {
    pub origins: Origins,
    /// How long a browser may remember that.
    pub max_age: Duration,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origins {
    Any,
    /// Such as `https://app.example`.
    These(Vec<String>),
}

/// What of an answer pages may read, beside its body and what they may always.
const EXPOSED: [HeaderName; 4] = [ETAG, LOCATION, RETRY_AFTER, WWW_AUTHENTICATE];

/// As [`EXPOSED`], our own and those of the dialects.
const EXPOSED_OWN: [&str; 23] = [
    "openai-processing-ms",
    "openai-version",
    "request-id",
    "retry-after-ms",
    "x-backoff-ms",
    "x-budget-cost-remaining",
    "x-budget-soft-limit-reached",
    "x-budget-time-remaining-ms",
    "x-budget-tokens-remaining",
    "x-correlation-id",
    "x-next-cursor",
    "x-queue-depth",
    "x-queue-wait-ms",
    "x-ratelimit-limit-requests",
    "x-ratelimit-limit-tokens",
    "x-ratelimit-remaining-requests",
    "x-ratelimit-remaining-tokens",
    "x-ratelimit-reset-requests",
    "x-ratelimit-reset-tokens",
    "x-request-id",
    "x-should-retry",
    "x-sluicegate-ignored",
    "x-task-id",
];

impl Cors {
    /// Answers what browsers ask before they send a request, and says on each answer who may read it.
    pub(super) fn layer(&self) -> CorsLayer {
        let origin = match &self.origins {
            Origins::Any => AllowOrigin::from(Any),
            Origins::These(origins) => {
                AllowOrigin::list(origins.iter().filter_map(|origin| HeaderValue::from_str(origin).ok()))
            }
        };
        CorsLayer::new()
            .allow_origin(origin)
            .allow_methods([Method::GET, Method::HEAD, Method::POST, Method::PATCH, Method::DELETE])
            // Clients send headers of their own (x-stainless-…, anthropic-…), more with each version; none of them lets anybody in.
            .allow_headers(AllowHeaders::mirror_request())
            .expose_headers(EXPOSED.into_iter().chain(EXPOSED_OWN.map(HeaderName::from_static)).collect::<Vec<_>>())
            .max_age(self.max_age)
    }
}
