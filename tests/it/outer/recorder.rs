//! A server that notes what clients send, and answers in the gateway's own words so that they go on: with a call where they
//! offer tools, with JSON where they ask for it, otherwise with a text.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use serde::Serialize;
use serde_json::{Map, Value, json};
use sluicegate_compat::native::{
    End, ErrorEnvelope, Event, FinishReason, OutputMode, Role, TaskRequest, TaskResult, Token, TokenKind, ToolDelta,
};
use sluicegate_compat::openai::{self, ChunkMeta, Outcome, chat, completions, embeddings, responses};
use sluicegate_compat::{anthropic, openai::responses::Prior};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use uuid::Uuid;

/// The headers that say something about the request; the others are about the connection, or the machine.
const HEADERS: [&str; 10] = [
    "accept",
    "anthropic-beta",
    "anthropic-version",
    "authorization",
    "content-type",
    "idempotency-key",
    "openai-beta",
    "openai-organization",
    "openai-project",
    "x-api-key",
];

/// Unix time in s.
const CREATED: u64 = 1_700_000_000;

/// Requests by their client and what it does, in the order in which they came.
type Noted = Arc<Mutex<BTreeMap<String, Vec<Value>>>>;

pub struct Recorder {
    address: SocketAddr,
    noted: Noted,
    server: JoinHandle<()>,
}

impl Recorder {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, noted) = (listener.local_addr().unwrap(), Noted::default());
        let router = Router::new().fallback(note).with_state(Arc::clone(&noted));
        let server = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { address, noted, server }
    }

    /// What the address of the server is for a client that does one thing; what it asks for follows.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The requests of `CLIENT/CASE`, those after the first one as `CLIENT/CASE.2` and so on.
    pub fn noted(&self) -> BTreeMap<String, Value> {
        let noted = self.noted.lock().unwrap();
        let numbered = |(name, requests): (&String, &Vec<Value>)| {
            let name = name.clone();
            let named = requests.clone().into_iter().enumerate().map(move |(at, request)| match at {
                0 => (name.clone(), request),
                _ => (format!("{name}.{}", at + 1), request),
            });
            named.collect::<Vec<_>>()
        };
        noted.iter().flat_map(numbered).collect()
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn note(State(noted): State<Noted>, request: Request) -> Response {
    let (head, body) = request.into_parts();
    let body = to_bytes(body, usize::MAX).await.unwrap();
    let mut segments = head.uri.path().splitn(4, '/').skip(1);
    let (client, case, path) = (segments.next().unwrap(), segments.next().unwrap(), segments.next().unwrap());
    let path = format!("/{path}");
    let request = json!({
        "method": head.method.as_str(),
        "path": path,
        "headers": said(&head.headers),
        "body": serde_json::from_slice::<Value>(&body).unwrap(),
    });
    noted.lock().unwrap().entry(format!("{client}/{case}")).or_default().push(request);
    answer(&path, &body).unwrap_or_else(|error| {
        let anthropic = path.starts_with("/v1/messages");
        let body = if anthropic {
            to_json(&anthropic::ErrorBody::from(&error))
        } else {
            to_json(&openai::ErrorBody::from(&error))
        };
        respond(StatusCode::from_u16(error.http_status()).unwrap(), "application/json", body)
    })
}

fn said(headers: &HeaderMap) -> Map<String, Value> {
    let said = HEADERS.iter().filter_map(|name| Some((*name, headers.get(*name)?.to_str().unwrap())));
    said.map(|(name, value)| (name.to_owned(), value.into())).collect()
}

fn answer(path: &str, body: &Bytes) -> Result<Response, ErrorEnvelope> {
    match path {
        "/v1/chat/completions" => {
            let (task, context) = chat::parse(body)?.into_task();
            let meta = ChunkMeta::new(Uuid::nil(), CREATED, None);
            if context.stream {
                let mut encoder = chat::ChunkEncoder::new(&context, meta);
                return Ok(streamed(&events(&task), |event, out| encoder.encode(event, out)));
            }
            let mut answer = chat::Answer::new(&context, meta);
            events(&task).iter().for_each(|event| answer.push(event));
            Ok(whole(&answer.finish()?))
        }
        "/v1/completions" => {
            let (tasks, context) = completions::parse(body)?;
            let meta = ChunkMeta::of_completion(Uuid::nil(), CREATED, None);
            let mut answer = completions::Answer::new(&context, meta);
            for (prompt, task) in tasks.iter().enumerate() {
                events(task).iter().for_each(|event| answer.push(prompt, event));
            }
            Ok(whole(&answer.finish().map_err(|(_, error)| error)?))
        }
        "/v1/responses" => {
            let asked = responses::parse(body)?;
            let stream = asked.stream;
            let (task, record) = asked.into_task(Uuid::nil(), &Greeted)?;
            if stream {
                let mut encoder = responses::EventEncoder::new(Arc::new(record), CREATED * 1000, None);
                return Ok(streamed(&events(&task), |event, out| encoder.encode(event, out)));
            }
            let mut answer = responses::Answer::new(Arc::new(record), CREATED * 1000);
            events(&task).iter().for_each(|event| answer.push(event));
            Ok(whole(&answer.finished()?))
        }
        "/v1/embeddings" => {
            let (task, context) = embeddings::parse(body)?;
            let vectors = vec![vec![0.6, 0.8]; task.inputs.map_or(0, |inputs| inputs.len())];
            let mut outcome = Outcome::default();
            outcome.push(&Event::Result(Arc::new(TaskResult::Embeddings(vectors))));
            outcome.push(&ended(FinishReason::Stop));
            Ok(whole(&context.answer(outcome)?))
        }
        "/v1/messages" => {
            let (task, context) = anthropic::parse(body)?;
            let meta = anthropic::MessageMeta::new(Uuid::nil(), "r-1", 1);
            if context.stream {
                let mut encoder = anthropic::EventEncoder::new(&context, meta);
                return Ok(streamed(&events(&task), |event, out| encoder.encode(event, out)));
            }
            let mut answer = anthropic::Answer::new(&context, meta);
            events(&task).iter().for_each(|event| answer.push(event));
            Ok(whole(&answer.finish()?))
        }
        "/v1/messages/count_tokens" => {
            anthropic::parse_count(body)?;
            Ok(whole(&anthropic::TokenCount { input_tokens: 1 }))
        }
        _ => Err(ErrorEnvelope::invalid("path", "This path is not recorded.")),
    }
}

/// Every response that is gone on with: a greeting.
struct Greeted;

impl Prior for Greeted {
    fn answer(&self, task: Uuid) -> Option<responses::Answer> {
        let greeting = responses::parse(br#"{"model": "builtin", "input": "Hello!"}"#).ok()?;
        let (request, record) = greeting.into_task(task, self).ok()?;
        let mut answer = responses::Answer::new(Arc::new(record), CREATED * 1000);
        events(&request).iter().for_each(|event| answer.push(event));
        Some(answer)
    }
}

/// What comes of a task.
fn events(task: &TaskRequest) -> Vec<Event> {
    let mut events = Vec::new();
    let thinks =
        task.chat_template_kwargs.as_ref().is_some_and(|words| words.get("enable_thinking") == Some(&json!(true)));
    if thinks {
        events.push(token("They ask.", TokenKind::Reasoning, None));
    }
    let has_result = task.messages.iter().flatten().any(|message| message.role == Role::Tool);
    let tool = task.tools.iter().flatten().next().filter(|_| !has_result);
    if let Some(tool) = tool {
        let arguments = tool.function.parameters.as_ref().map_or_else(|| json!({}), fitting).to_string();
        let (id, name) = (Some("call_1".to_owned()), Some(tool.function.name.clone()));
        events.push(token("", TokenKind::Tool, Some(ToolDelta { index: 0, id, name, arguments })));
        events.push(ended(FinishReason::ToolCalls));
        return events;
    }
    let text = match (&task.json_schema, task.output_mode) {
        (Some(schema), _) => fitting(schema).to_string(),
        (None, OutputMode::Json) => json!({"days": 3}).to_string(),
        (None, OutputMode::Text) => "It is sunny.".to_owned(),
    };
    events.extend([token(&text, TokenKind::Text, None), ended(FinishReason::Stop)]);
    events
}

/// An object with the properties of `schema`.
fn fitting(schema: &Value) -> Value {
    let property = |(name, schema): (&String, &Value)| {
        let value = match schema["type"].as_str() {
            Some("integer" | "number") => json!(3),
            _ => json!("Berlin"),
        };
        (name.clone(), value)
    };
    Value::Object(schema["properties"].as_object().into_iter().flatten().map(property).collect())
}

fn token(text: &str, kind: TokenKind, tool: Option<ToolDelta>) -> Event {
    Event::Token(Token { choice: 0, index: 0, text: text.into(), kind, logprobs: None, tool: tool.map(Arc::new) })
}

fn ended(finish_reason: FinishReason) -> Event {
    Event::End(Arc::new(End {
        tokens_in: 1,
        cached_tokens: 0,
        tokens_out: 1,
        queue_ms: 0,
        first_token_ms: Some(1),
        decode_ms: 1,
        finish_reason,
        matched_stop: None,
        choices: Vec::new(),
        policy_label: None,
        canceled_by: None,
    }))
}

fn streamed(events: &[Event], mut encode: impl FnMut(&Event, &mut Vec<u8>)) -> Response {
    let mut out = Vec::new();
    events.iter().for_each(|event| encode(event, &mut out));
    respond(StatusCode::OK, "text/event-stream", out)
}

fn whole(body: &impl Serialize) -> Response {
    respond(StatusCode::OK, "application/json", to_json(body))
}

fn to_json(body: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(body).unwrap()
}

fn respond(status: StatusCode, kind: &str, body: Vec<u8>) -> Response {
    Response::builder().status(status).header("content-type", kind).body(Body::from(body)).unwrap()
}
