//! The correlation id of a request, as handlers get it.

use std::convert::Infallible;

use axum::extract::FromRequestParts;
use axum::http::HeaderName;
use axum::http::request::Parts;

use crate::ids::CorrelationId;

/// On every request, if the caller has one, and on every response.
pub const HEADER: HeaderName = HeaderName::from_static("x-correlation-id");

impl<S: Sync> FromRequestParts<S> for CorrelationId {
    type Rejection = Infallible;

    /// The id that the outermost layer has put there.
    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(parts.extensions.get().cloned().unwrap_or_else(|| Self::accept(None)))
    }
}
