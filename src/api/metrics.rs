//! The metrics of HTTP.

use std::time::Duration;

use axum::http::Method;
use prometheus::{HistogramOpts, HistogramVec, IntCounterVec, Opts, Registry, TextEncoder};
use sluicegate_compat::native::ErrorCode;

use crate::tenants::Denied;

/// Buckets in s.
const SECONDS: [f64; 12] = [0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0];

/// Counters and histograms; cheap to clone.
#[derive(Clone)]
pub struct HttpMetrics {
    /// Everything that `/metrics` shows.
    registry: Registry,
    duration: HistogramVec,
    errors: IntCounterVec,
    failed_logins: IntCounterVec,
}

/// Why somebody was not let in, as a label.
const REASONS: [&str; 6] = ["missing", "malformed", "unknown", "expired", "suspended", "throttled"];

impl HttpMetrics {
    /// Makes the series and registers them.
    ///
    /// # Errors
    ///
    /// When a name is taken in `registry`.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let options = HistogramOpts::new(
            "http_request_duration_seconds",
            "From the request's head to the end of the response's body, streams included, in s. A client that hung up \
             before the head has status 499.",
        );
        let duration = HistogramVec::new(options.buckets(SECONDS.to_vec()), &["route", "method", "status"])?;
        let errors = IntCounterVec::new(Opts::new("errors_total", "Requests that failed, by code."), &["code"])?;
        let failed_logins = IntCounterVec::new(
            Opts::new(
                "failed_logins_total",
                "Requests that were refused for their API key, by reason; throttled: with a 429, because their address has \
                 sent too many.",
            ),
            &["reason"],
        )?;
        registry.register(Box::new(failed_logins.clone()))?;
        for reason in REASONS {
            failed_logins.with_label_values(&[reason]);
        }
        registry.register(Box::new(duration.clone()))?;
        registry.register(Box::new(errors.clone()))?;
        for code in ErrorCode::ALL {
            errors.with_label_values(&[code.as_str()]);
        }
        Ok(Self { registry: registry.clone(), duration, errors, failed_logins })
    }

    /// All series of the gateway in Prometheus' text format.
    pub(super) fn exposition(&self) -> Result<String, prometheus::Error> {
        TextEncoder::new().encode_to_string(&self.registry.gather())
    }

    pub(super) fn failed(&self, code: ErrorCode) {
        self.errors.with_label_values(&[code.as_str()]).inc();
    }

    /// `throttled`: whoever sent it was told to wait.
    pub(super) fn login_failed(&self, why: Denied, throttled: bool) {
        let [missing, malformed, unknown, expired, suspended, too_many] = REASONS;
        let reason = match why {
            _ if throttled => too_many,
            Denied::Missing => missing,
            Denied::Malformed => malformed,
            Denied::Unknown => unknown,
            Denied::Expired => expired,
            Denied::Suspended => suspended,
        };
        self.failed_logins.with_label_values(&[reason]).inc();
    }

    /// `route` is one of the router's own patterns or `none`, so the label is bounded; so is the method's.
    pub(super) fn observe(&self, route: &str, method: &Method, status: u16, took: Duration) {
        let method = match *method {
            Method::GET
            | Method::POST
            | Method::PUT
            | Method::PATCH
            | Method::DELETE
            | Method::HEAD
            | Method::OPTIONS => method.as_str(),
            _ => "other",
        };
        let status = status.to_string();
        self.duration.with_label_values(&[route, method, &status]).observe(took.as_secs_f64());
    }
}
