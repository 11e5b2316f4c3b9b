//! Request bodies: JSON, whole, in time, and not too large.

use std::time::Duration;

use axum::extract::{FromRequest, Request};
use axum::http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use bytes::Bytes;
use sluicegate_compat::native::{ErrorCode, ErrorEnvelope};

use super::Api;
use super::errors::Failure;
use crate::gateway::Once;

/// A body that takes longer to arrive is given up.
const BODY_DEADLINE: Duration = Duration::from_secs(60);

/// The bytes of a body that says it is JSON, or does not say what it is.
pub struct Json(pub Bytes);

impl Json {
    /// What `parse` reads in it, off the reactor where it is long.
    ///
    /// # Errors
    ///
    /// Those of `parse`.
    pub async fn read<T: Send + 'static>(
        self,
        api: &Api,
        parse: impl FnOnce(&[u8]) -> Result<T, ErrorEnvelope> + Send + 'static,
    ) -> Result<T, ErrorEnvelope> {
        let Self(body) = self;
        api.gateway.lifecycle.sized("read a body", body.len(), move || parse(&body)).await?
    }

    /// As [`read`](Self::read), and what the header `Idempotency-Key` makes of the request.
    ///
    /// # Errors
    ///
    /// Those of `parse`; INVALID_PARAMS about the key.
    pub async fn read_once<T: Send + 'static>(
        self,
        api: &Api,
        headers: &HeaderMap,
        operation: &'static str,
        parse: impl FnOnce(&[u8]) -> Result<T, ErrorEnvelope> + Send + 'static,
    ) -> Result<(T, Option<Once>), ErrorEnvelope> {
        let key = headers.get("idempotency-key").cloned();
        let read = move |body: &[u8]| {
            let asked = parse(body)?;
            let once = key.map(|key| Once::new(key.as_bytes(), operation, body)).transpose()?;
            Ok((asked, once))
        };
        self.read(api, read).await
    }
}

impl<S: Send + Sync> FromRequest<S> for Json {
    type Rejection = Failure;

    async fn from_request(request: Request, state: &S) -> Result<Self, Failure> {
        if !says_json(&request) {
            let message = "send JSON, with `Content-Type: application/json`";
            return Err(ErrorEnvelope::new(ErrorCode::UnsupportedMediaType, message).into());
        }
        if is_encoded(&request) {
            let message = "bodies are read as they are: send JSON without a `Content-Encoding`, or with `identity`";
            return Err(ErrorEnvelope::new(ErrorCode::UnsupportedMediaType, message).into());
        }
        let bytes = tokio::time::timeout(BODY_DEADLINE, Bytes::from_request(request, state));
        match bytes.await {
            Ok(Ok(bytes)) => Ok(Self(bytes)),
            Ok(Err(rejection)) if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE => {
                Err(ErrorEnvelope::new(ErrorCode::PayloadTooLarge, "the body is larger than this gateway takes").into())
            }
            Ok(Err(_)) => Err(ErrorEnvelope::new(ErrorCode::InvalidParams, "the body was cut short").into()),
            Err(_) => Err(ErrorEnvelope::new(ErrorCode::InvalidParams, "the body took too long to arrive").into()),
        }
    }
}

/// Whether the body is compressed, or in another way not what it stands for.
fn is_encoded(request: &Request) -> bool {
    let coded = |value: &HeaderValue| {
        let mut codings = value.to_str().unwrap_or("?").split(',').map(str::trim);
        codings.any(|coding| !coding.is_empty() && !coding.eq_ignore_ascii_case("identity"))
    };
    request.headers().get_all(CONTENT_ENCODING).into_iter().any(coded)
}

fn says_json(request: &Request) -> bool {
    let Some(media_type) = request.headers().get(CONTENT_TYPE) else { return true };
    let essence = media_type.to_str().unwrap_or("").split(';').next().unwrap_or("").trim().to_ascii_lowercase();
    essence == "application/json" || (essence.starts_with("application/") && essence.ends_with("+json"))
}
