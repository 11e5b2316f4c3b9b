//! Headers that say how the limits on requests and tokens stand, under the names that OpenAI's clients know.

use std::time::Duration;

use axum::http::{HeaderMap, HeaderName, HeaderValue};

use crate::admission::Standing;

/// Limit, remaining and reset of each.
const NAMES: [[HeaderName; 3]; 2] = [
    [
        HeaderName::from_static("x-ratelimit-limit-requests"),
        HeaderName::from_static("x-ratelimit-remaining-requests"),
        HeaderName::from_static("x-ratelimit-reset-requests"),
    ],
    [
        HeaderName::from_static("x-ratelimit-limit-tokens"),
        HeaderName::from_static("x-ratelimit-remaining-tokens"),
        HeaderName::from_static("x-ratelimit-reset-tokens"),
    ],
];

/// Three for each limit that there is.
pub fn headers(rates: [Option<Standing>; 2]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for ([limit, remaining, reset], standing) in NAMES.into_iter().zip(rates) {
        let Some(standing) = standing else { continue };
        headers.insert(limit, HeaderValue::from(standing.limit));
        headers.insert(remaining, HeaderValue::from(standing.remaining));
        if let Ok(value) = HeaderValue::from_str(&words(standing.reset_ms)) {
            headers.insert(reset, value);
        }
    }
    headers
}

/// `350ms`, `1.5s`, `2m3s`: as OpenAI writes them.
fn words(ms: u64) -> String {
    let seconds = Duration::from_millis(ms % 60_000).as_secs_f64();
    match (ms / 60_000, ms) {
        (0, 0..1000) => format!("{ms}ms"),
        (0, _) => format!("{seconds}s"),
        (minutes, _) => format!("{minutes}m{seconds}s"),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn durations_are_written_as_openai_does() {
        let words = [0, 350, 1000, 1500, 60_000, 123_250].map(super::words);
        assert_eq!(words, ["0ms", "350ms", "1s", "1.5s", "1m0s", "2m3.25s"]);
    }
}
