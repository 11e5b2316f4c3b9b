//! Request bodies: JSON, whole, in time, and not too large.

use std::time::Duration;

use axum::RequestExt as _;
use axum::body::Body;
use axum::extract::{FromRequest, Request};
use axum::http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderValue};
use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt as _, LengthLimitError};
use sluicegate_compat::native::{ErrorCode, ErrorEnvelope};
use tokio::time::{Instant, timeout_at};

use super::Api;
use super::errors::Failure;
use crate::gateway::Once;

/// Bytes per second that a body has to have on the whole, beside the time that any may take.
const SLOWEST: usize = 16 * 1024;

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

impl FromRequest<Api> for Json {
    type Rejection = Failure;

    async fn from_request(request: Request, api: &Api) -> Result<Self, Failure> {
        if !says_json(&request) {
            let message = "send JSON, with `Content-Type: application/json`";
            return Err(ErrorEnvelope::new(ErrorCode::UnsupportedMediaType, message).into());
        }
        if is_encoded(&request) {
            let message = "bodies are read as they are: send JSON without a `Content-Encoding`, or with `identity`";
            return Err(ErrorEnvelope::new(ErrorCode::UnsupportedMediaType, message).into());
        }
        Ok(Self(whole(request.into_limited_body(), api.settings.body_timeout).await?))
    }
}

/// All of a body, which may be silent for so long, and take so much longer than its size explains.
async fn whole(mut body: Body, timeout: Duration) -> Result<Bytes, ErrorEnvelope> {
    let began = Instant::now();
    // Most bodies are one part, and stay where they are.
    let (mut first, mut all) = (Bytes::new(), BytesMut::new());
    loop {
        let explained = Duration::from_secs((first.len().max(all.len()) / SLOWEST) as u64);
        let deadline = (began + explained).min(Instant::now()) + timeout;
        let frame = match timeout_at(deadline, body.frame()).await {
            Ok(Some(Ok(frame))) => frame,
            Ok(None) => return Ok(if all.is_empty() { first } else { all.freeze() }),
            Ok(Some(Err(error))) if is_too_large(&error) => {
                return Err(ErrorEnvelope::new(
                    ErrorCode::PayloadTooLarge,
                    "the body is larger than this gateway takes",
                ));
            }
            Ok(Some(Err(_))) => return Err(ErrorEnvelope::new(ErrorCode::InvalidParams, "the body was cut short")),
            Err(_) => {
                return Err(ErrorEnvelope::new(ErrorCode::InvalidParams, "the body took too long to arrive"));
            }
        };
        match frame.into_data() {
            Ok(data) if first.is_empty() => first = data,
            Ok(data) => {
                if all.is_empty() {
                    all.extend_from_slice(&first);
                }
                all.extend_from_slice(&data);
            }
            // Trailers say nothing here.
            Err(_) => {}
        }
    }
}

fn is_too_large(error: &axum::Error) -> bool {
    let causes = std::iter::successors(Some(error as &dyn std::error::Error), |error| error.source());
    causes.into_iter().any(|cause| cause.is::<LengthLimitError>())
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
