//! One log line, and one observation, per request: written when its body has ended, however it ended.

use std::net::IpAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use axum::body::{Body, HttpBody};
use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderName, HeaderValue, Method};
use axum::middleware::Next;
use axum::response::Response;
use bytes::Bytes;
use http_body::{Frame, SizeHint};

use super::auth::Whose;
use super::client::ClientAddress;
use super::errors::{Dialect, FailedWith};
use super::{Api, correlation, rates};
use crate::ids::{CorrelationId, TenantId};

/// OpenAI's name for the correlation id.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Anthropic's.
const MESSAGES_REQUEST_ID: HeaderName = HeaderName::from_static("request-id");

/// The route of requests that match none.
const NO_ROUTE: &str = "none";

/// The task that a response is about, left on it for the log line.
#[derive(Debug, Clone, Copy)]
pub struct About(pub crate::ids::TaskId);

/// Accepts or makes the correlation id, puts it on request and response, and records the request when it is over.
pub async fn record(State(api): State<Api>, mut request: Request, next: Next) -> Response {
    let began = Instant::now();
    let callers = request.headers().get(correlation::HEADER).map(HeaderValue::as_bytes);
    let correlation = CorrelationId::accept(callers);
    request.extensions_mut().insert(correlation.clone());
    let route =
        request.extensions().get::<MatchedPath>().map_or_else(|| NO_ROUTE.to_owned(), |path| path.as_str().to_owned());
    let dialect = Dialect::of(request.uri().path());
    let client = client(&api, &mut request);
    let mut record = Record {
        client: client.filter(|_| api.settings.log_clients),
        api,
        began,
        correlation,
        method: request.method().clone(),
        route,
        status: 499,
        task: None,
        tenant: None,
        code: None,
        head: None,
        bytes: 0,
        whole: false,
    };
    // Dropped with the handler when the client hangs up before the head, and recorded as 499 then.
    let mut response = next.run(request).await;
    record.status = response.status().as_u16();
    record.head = Some(began.elapsed());
    record.task = response.extensions().get::<About>().map(|about| about.0);
    let whose = response.extensions_mut().remove::<Whose>();
    record.tenant = whose.as_ref().map(|whose| whose.0.share.tenant.clone());
    record.code = response.extensions().get::<FailedWith>().map(|failed| failed.0);
    if let Some(code) = record.code {
        record.api.http_metrics.failed(code);
    }
    if let Ok(id) = HeaderValue::from_str(record.correlation.as_str()) {
        response.headers_mut().insert(correlation::HEADER, id.clone());
        if dialect == Dialect::Anthropic {
            response.headers_mut().insert(MESSAGES_REQUEST_ID, id.clone());
        }
        if dialect != Dialect::Native {
            response.headers_mut().insert(REQUEST_ID, id);
        }
    }
    if dialect != Dialect::Native {
        let headers = response.headers_mut();
        // How much is let in is no business of who is not.
        if let Some(Whose(caller)) = whose {
            headers.extend(rates::headers(record.api.gateway.rates(&caller)));
        }
        headers.insert("openai-version", HeaderValue::from_static("2020-10-01"));
        headers
            .insert("openai-processing-ms", HeaderValue::from(u64::try_from(began.elapsed().as_millis()).unwrap_or(0)));
    }
    // hyper does not poll a body that is empty from the start.
    record.whole = axum::body::HttpBody::is_end_stream(response.body());
    response.map(|body| Body::new(Recorded { body, record }))
}

/// Where the request comes from, if it has come through a socket; for those below as well.
fn client(api: &Api, request: &mut Request) -> Option<IpAddr> {
    let ClientAddress(peer) = *request.extensions().get()?;
    let client = api.proxies.client(peer, request.headers());
    if client != peer {
        request.extensions_mut().insert(ClientAddress(client));
    }
    Some(client)
}

/// What is known of a request; written out once, on drop.
struct Record {
    api: Api,
    began: Instant,
    correlation: CorrelationId,
    client: Option<IpAddr>,
    method: Method,
    route: String,
    status: u16,
    task: Option<crate::ids::TaskId>,
    tenant: Option<TenantId>,
    code: Option<sluicegate_compat::native::ErrorCode>,
    /// When the head was ready.
    head: Option<std::time::Duration>,
    bytes: u64,
    /// The body came to its end.
    whole: bool,
}

impl Drop for Record {
    fn drop(&mut self) {
        let took = self.began.elapsed();
        self.api.http_metrics.observe(&self.route, &self.method, self.status, took);
        let outcome = if self.whole { "complete" } else { "aborted" };
        tracing::info!(
            correlation_id = %self.correlation,
            client = self.client.map(tracing::field::display),
            method = %self.method,
            route = self.route,
            status = self.status,
            outcome,
            code = self.code.map(|code| code.as_str()),
            tenant = self.tenant.as_ref().map(TenantId::as_str),
            task_id = self.task.map(tracing::field::display),
            head_ms = self.head.map(|head| head.as_secs_f64() * 1000.0),
            total_ms = took.as_secs_f64() * 1000.0,
            bytes = self.bytes,
            "request"
        );
    }
}

/// A response body that notices its end.
struct Recorded {
    body: Body,
    record: Record,
}

impl HttpBody for Recorded {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        match &frame {
            Some(Ok(frame)) => self.record.bytes += frame.data_ref().map_or(0, |data| data.len() as u64),
            Some(Err(_)) => {}
            None => self.record.whole = true,
        }
        // hyper does not poll a body again that says it has ended.
        if self.body.is_end_stream() {
            self.record.whole = true;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
