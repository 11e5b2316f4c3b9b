//! A client of a running gateway, for the commands that operate one.

use std::path::Path;
use std::time::Duration;

use futures_util::{Stream, StreamExt as _};
use reqwest::header::{AUTHORIZATION, HeaderValue};
use reqwest::{Certificate, Method, RequestBuilder, Response, Url};
use serde_json::Value;

/// A gateway that does not take a connection for so long is not there.
const CONNECT_DEADLINE: Duration = Duration::from_secs(10);

/// A gateway, by its address.
pub(super) struct Gateway {
    base: Url,
    client: reqwest::Client,
}

/// One event of a task's stream.
pub(super) struct TaskEvent {
    /// Counts from 1 within its task.
    pub id: String,
    pub name: String,
    pub data: Value,
}

impl Gateway {
    /// A gateway at `base`, such as `http://127.0.0.1:8080`, the API key for it where it wants one, and the file of the
    /// certificates that it is trusted by where the system's are not meant.
    ///
    /// # Errors
    ///
    /// When that is no address of an HTTP server, the key can stand in no header, or there is no certificate in the file.
    pub fn new(base: &str, api_key: Option<&str>, ca_file: Option<&Path>) -> Result<Self, String> {
        let wrong = || format!("--url {base:?} is no http:// or https:// address");
        let base: Url = base.parse().map_err(|_| wrong())?;
        if !matches!(base.scheme(), "http" | "https") || !base.has_host() {
            return Err(wrong());
        }
        let mut client = reqwest::Client::builder().connect_timeout(CONNECT_DEADLINE);
        // A proxy for the outside knows nothing of this machine.
        if base.host_str().is_some_and(|host| host == "localhost" || host == "[::1]" || host.starts_with("127.")) {
            client = client.no_proxy();
        }
        if let Some(path) = ca_file {
            client = client.tls_certs_only(certificates(path)?);
        }
        if let Some(api_key) = api_key {
            let header = HeaderValue::try_from(format!("Bearer {api_key}"));
            let mut header =
                header.map_err(|_| "the API key can be none: it has characters that no key has".to_owned())?;
            header.set_sensitive(true);
            client = client.default_headers([(AUTHORIZATION, header)].into_iter().collect());
        }
        let client = client.build().map_err(|error| error.to_string())?;
        Ok(Self { base, client })
    }

    /// `GET` of the path of these segments, with a query.
    pub async fn get(&self, path: &[&str], query: &[(&str, String)]) -> Result<Value, String> {
        let mut url = self.url(path);
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        self.json(self.client.request(Method::GET, url)).await
    }

    /// `POST` to the path of these segments, with a JSON body where there is one.
    pub async fn post(&self, path: &[&str], body: Option<&Value>) -> Result<Value, String> {
        let request = self.client.request(Method::POST, self.url(path));
        self.json(if let Some(body) = body { request.json(body) } else { request }).await
    }

    /// The text of `GET` of the path of these segments, with a query.
    pub async fn text(&self, path: &[&str], query: &[(&str, String)]) -> Result<String, String> {
        let mut url = self.url(path);
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        let answer = self.send(self.client.request(Method::GET, url)).await?;
        answer.text().await.map_err(|error| self.unreachable(&error))
    }

    /// `PATCH` of the path of these segments.
    pub async fn patch(&self, path: &[&str], body: &Value) -> Result<Value, String> {
        self.json(self.client.request(Method::PATCH, self.url(path)).json(body)).await
    }

    /// `POST` to the path of these segments, with a query and no body.
    pub async fn post_with(&self, path: &[&str], query: &[(&str, &str)]) -> Result<Value, String> {
        let mut url = self.url(path);
        url.query_pairs_mut().extend_pairs(query);
        self.json(self.client.request(Method::POST, url)).await
    }

    /// `DELETE` of the path of these segments.
    pub async fn delete(&self, path: &[&str]) -> Result<(), String> {
        self.send(self.client.request(Method::DELETE, self.url(path))).await.map(|_| ())
    }

    /// The events of a task after that of an id.
    pub async fn events(
        &self,
        task: &str,
        after: Option<&str>,
    ) -> Result<impl Stream<Item = Result<TaskEvent, String>> + Unpin + use<>, String> {
        use eventsource_stream::Eventsource as _;
        let mut request = self.client.request(Method::GET, self.url(&["v2", "tasks", task, "events"]));
        if let Some(after) = after {
            request = request.header("Last-Event-ID", after);
        }
        let response = self.send(request).await?;
        Ok(Box::pin(response.bytes_stream().eventsource().map(|event| {
            let event = event.map_err(|error| error.to_string())?;
            let data = serde_json::from_str(&event.data).map_err(|error| format!("an event is no JSON: {error}"))?;
            Ok(TaskEvent { id: event.id, name: event.event, data })
        })))
    }

    /// The body of an answer; null where it has none.
    async fn json(&self, request: RequestBuilder) -> Result<Value, String> {
        let body = self.send(request).await?.bytes().await.map_err(|error| self.unreachable(&error))?;
        if body.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&body).map_err(|_| format!("{} does not answer as a gateway does", self.base))
    }

    /// An answer that is a success, or the message of the gateway's error.
    async fn send(&self, request: RequestBuilder) -> Result<Response, String> {
        let response = request.send().await.map_err(|error| self.unreachable(&error))?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let body: Value = response.json().await.unwrap_or_default();
        Err(match (body["code"].as_str(), body["message"].as_str()) {
            (Some(code), Some(message)) => format!("{code}: {message}"),
            _ => format!("{} answers {status}", self.base),
        })
    }

    fn url(&self, path: &[&str]) -> Url {
        let mut url = self.base.clone();
        // An http address always has a path.
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(path);
        }
        url
    }

    fn unreachable(&self, error: &reqwest::Error) -> String {
        let mut cause: &dyn std::error::Error = error;
        while let Some(deeper) = cause.source() {
            cause = deeper;
        }
        format!("{}: {cause}", self.base)
    }
}

/// The certificates in a file.
fn certificates(path: &Path) -> Result<Vec<Certificate>, String> {
    let pem = std::fs::read(path).map_err(|error| format!("--ca-file {}: {error}", path.display()))?;
    match Certificate::from_pem_bundle(&pem) {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        _ => Err(format!("--ca-file {} holds no certificate in PEM form", path.display())),
    }
}
