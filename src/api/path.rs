//! The parameter of a path.

use axum::extract::{FromRequestParts, Path};
use axum::http::request::Parts;
use sluicegate_compat::native::{ErrorCode, ErrorEnvelope};

use super::errors::Failure;

/// The one parameter of a route's path. A path that is not UTF-8 once it is decoded names nothing.
pub struct Parameter(pub String);

impl<S: Send + Sync> FromRequestParts<S> for Parameter {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failure> {
        let path = Path::from_request_parts(parts, state).await;
        let nothing = |_| ErrorEnvelope::new(ErrorCode::NotFound, "the path is not UTF-8, so nothing is there");
        Ok(path.map(|Path(parameter)| Self(parameter)).map_err(nothing)?)
    }
}
