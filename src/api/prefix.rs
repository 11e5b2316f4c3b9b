//! OpenAI's paths without their `/v1`, as clients ask for them whose base address ends before it.

use axum::extract::Request;
use axum::http::Uri;
use axum::http::uri::PathAndQuery;

/// The first segments of those paths.
const FIRST: [&str; 8] =
    ["chat", "completions", "responses", "embeddings", "rerank", "models", "tokenize", "detokenize"];

/// Puts `/v1` before a path that has lost it.
pub fn complete<B>(mut request: Request<B>) -> Request<B> {
    let path = request.uri().path_and_query();
    let lost = path.filter(|path| path.path().split('/').nth(1).is_some_and(|first| FIRST.contains(&first)));
    let whole = lost.and_then(|path| format!("/v1{path}").parse::<PathAndQuery>().ok());
    if let Some(whole) = whole {
        let mut parts = request.uri().clone().into_parts();
        parts.path_and_query = Some(whole);
        // The parts of an address, with a path, are one.
        if let Ok(uri) = Uri::from_parts(parts) {
            *request.uri_mut() = uri;
        }
    }
    request
}
