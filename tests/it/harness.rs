//! A whole gateway in the test's process: the real router over the scripted engine, under paused time.
//!
//! [`Gate::finish`] waits until nothing runs and asserts that no task, slot or place in the queue has leaked; a test that
//! forgets it fails when the gate is dropped.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::{Body, HttpBody};
use axum::http::{HeaderMap, Request, StatusCode};
use axum::response::Response;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use http_body_util::BodyExt as _;
use sluicegate::app::App;
use sluicegate::config::{Config, Overrides};
use sluicegate::engine::scripted::{Script, ScriptedEngine};
use sluicegate::engine::{Engine, LoadError, LoadPermit, Loader, Room};
use sluicegate::lifecycle::Lifecycle;
use sluicegate::pools::Pool;
use sluicegate_compat::native::{KeyRequest, TenantRequest};
use tower::ServiceExt as _;

mod watched;

pub use watched::Watched;

/// A gateway with one pool, `default`.
pub struct Gate {
    pub app: App,
    pub lifecycle: Lifecycle,
    pub loads: Arc<AtomicU32>,
    /// How long loads take, by the number of the load; the others take no time.
    pub slow: Slow,
    /// How long others are loaded onto its device before it, by its number.
    pub busy: Slow,
    finished: bool,
    /// Sent with each request that brings none.
    pub key: Option<String>,
}

type Slow = Arc<Mutex<HashMap<u32, Duration>>>;

/// A scripted pool for each model inside the program.
pub const BOTH_MODELS: &str = r#"[{ id = "default", engine = "scripted" }, { id = "embedding", model = "builtin-embedding", engine = "scripted" }]"#;

/// A response, read to its end.
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: String,
}

impl Answer {
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

/// Makes an engine, given how many were made before.
pub type Make = dyn Fn(u32) -> Result<ScriptedEngine, LoadError> + Send + Sync;

/// As [`Make`], engines of any kind.
pub type MakeAny = dyn Fn(u32) -> Result<Arc<dyn Engine>, LoadError> + Send + Sync;

/// What verifying the files of another model finds, and where there is room for it.
pub type Verify = dyn Fn(&str) -> Result<Room, LoadError> + Send + Sync;

#[derive(Clone)]
struct ScriptedLoader {
    make: Arc<MakeAny>,
    loads: Arc<AtomicU32>,
    slow: Slow,
    busy: Slow,
    model: String,
    verify: Arc<Verify>,
}

impl Loader for ScriptedLoader {
    fn ready(&self) -> BoxFuture<'_, Result<LoadPermit, LoadError>> {
        async {
            let next = self.loads.load(Ordering::SeqCst);
            let pause = self.busy.lock().unwrap().get(&next).copied();
            if let Some(pause) = pause {
                tokio::time::sleep(pause).await;
            }
            Ok(LoadPermit::FREE)
        }
        .boxed()
    }

    fn load<'a>(&'a self, _: &'a LoadPermit) -> BoxFuture<'a, Result<Arc<dyn Engine>, LoadError>> {
        async {
            let number = self.loads.fetch_add(1, Ordering::SeqCst);
            let pause = self.slow.lock().unwrap().get(&number).copied();
            if let Some(pause) = pause {
                tokio::time::sleep(pause).await;
            }
            (self.make)(number)
        }
        .boxed()
    }

    fn verify(&self, _: usize) -> BoxFuture<'_, Result<Room, LoadError>> {
        async { (self.verify)(&self.model) }.boxed()
    }

    fn of_model(&self, model: &str) -> Result<Arc<dyn Loader>, LoadError> {
        Ok(Arc::new(Self { model: model.to_owned(), ..self.clone() }))
    }
}

impl Gate {
    /// With the default configuration, changed by these lines of the environment's form.
    pub async fn with(script: Script, settings: &[(&str, &str)]) -> Self {
        Self::build(script, settings, u32::MAX).await
    }

    pub async fn scripted(script: Script) -> Self {
        Self::with(script, &[]).await
    }

    /// Whose engine can be loaded so many times.
    pub async fn build(script: Script, settings: &[(&str, &str)], good: u32) -> Self {
        Self::per_load(move |_| script.clone(), settings, good).await
    }

    /// With a script for each engine that is loaded, by its number from 0.
    pub async fn per_load(
        script: impl Fn(u32) -> Script + Send + Sync + 'static,
        settings: &[(&str, &str)],
        good: u32,
    ) -> Self {
        let make = move |number| match number < good {
            true => Ok(ScriptedEngine::new(script(number))),
            false => Err(LoadError("the test says so".into())),
        };
        Self::loading(Arc::new(make), Arc::new(|_| Ok(Room::Beside)), settings).await
    }

    /// With these engines, and files that are verified so when a pool is reloaded.
    pub async fn loading(make: Arc<Make>, verify: Arc<Verify>, settings: &[(&str, &str)]) -> Self {
        let any = move |number| make(number).map(|engine| Arc::new(engine) as Arc<dyn Engine>);
        Self::loading_any(Arc::new(any), verify, settings).await
    }

    /// As [`loading`](Self::loading), with engines of any kind.
    pub async fn loading_any(make: Arc<MakeAny>, verify: Arc<Verify>, settings: &[(&str, &str)]) -> Self {
        let store = settings.iter().all(|(name, _)| *name != "SLUICEGATE_STORE__URL");
        let settings = [settings, if store { &[("SLUICEGATE_STORE__URL", "sqlite::memory:")] } else { &[] }].concat();
        let environment = settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        // Where a test writes pools of its own it says their engine too.
        let engine = settings.iter().all(|(name, _)| *name != "SLUICEGATE_POOLS").then(|| "scripted".to_owned());
        let overrides = Overrides { engine, ..Overrides::default() };
        let config = Config::load(None, environment, overrides).unwrap_or_else(|mistakes| panic!("{mistakes}"));
        let lifecycle = Lifecycle::new();
        let (loads, slow, busy) = (Arc::new(AtomicU32::new(0)), Slow::default(), Slow::default());
        let loader = |pool: &sluicegate::config::Pool, _: &Arc<sluicegate::catalog::LiveCatalog>| -> Arc<dyn Loader> {
            let (make, loads, verify) = (Arc::clone(&make), Arc::clone(&loads), Arc::clone(&verify));
            let (slow, busy) = (Arc::clone(&slow), Arc::clone(&busy));
            Arc::new(ScriptedLoader { make, loads, slow, busy, model: pool.model.clone(), verify })
        };
        let app = App::build_with(&config, &lifecycle, loader).await.unwrap();
        app.start().await.unwrap();
        Self { app, lifecycle, loads, slow, busy, finished: false, key: None }
    }

    /// With the engines that the configuration names.
    pub async fn configured(settings: &[(&str, &str)]) -> Self {
        let store = settings.iter().all(|(name, _)| *name != "SLUICEGATE_STORE__URL");
        let settings = [settings, if store { &[("SLUICEGATE_STORE__URL", "sqlite::memory:")] } else { &[] }].concat();
        let environment = settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let config = Config::load(None, environment, Overrides::default());
        let config = config.unwrap_or_else(|mistakes| panic!("{mistakes}"));
        let lifecycle = Lifecycle::new();
        let app = App::build(&config, &lifecycle).await.unwrap();
        app.start().await.unwrap();
        Self {
            app,
            lifecycle,
            loads: Arc::default(),
            slow: Slow::default(),
            busy: Slow::default(),
            finished: false,
            key: None,
        }
    }

    /// Sends a request and returns its head.
    pub async fn send(&self, mut request: Request<Body>) -> Response {
        if let Some(key) = self.key.as_ref().filter(|_| !request.headers().contains_key("authorization")) {
            request.headers_mut().insert("authorization", format!("Bearer {key}").parse().unwrap());
        }
        self.app.router.clone().oneshot(request).await.unwrap()
    }

    pub async fn get(&self, path: &str) -> Answer {
        read(self.send(request("GET", path, Body::empty())).await).await
    }

    pub async fn post(&self, path: &str, body: &str) -> Answer {
        read(self.send(request("POST", path, Body::from(body.to_owned()))).await).await
    }

    /// Has a key that may do everything, and the tenant `acme`.
    pub async fn with_key(mut self) -> Self {
        let (_, secret) = self.app.tenants.create_admin_key(KeyRequest::default()).await.unwrap();
        let acme = TenantRequest { id: "acme".to_owned(), ..TenantRequest::default() };
        self.app.tenants.create_tenant(&acme).await.unwrap();
        self.key = Some(secret.reveal().to_owned());
        self
    }

    /// As [`post`](Self::post), with an `Idempotency-Key`.
    pub async fn post_keyed(&self, path: &str, key: &str, body: &str) -> Answer {
        read(self.send(keyed(path, key, body)).await).await
    }

    /// Submits a native task and returns its id.
    pub async fn submit(&self, body: &str) -> String {
        let answer = self.post("/v2/tasks", body).await;
        assert_eq!(answer.status, StatusCode::ACCEPTED, "{}", answer.body);
        answer.json()["task_id"].as_str().unwrap().to_owned()
    }

    /// The whole event stream of a task.
    pub async fn events(&self, id: &str) -> String {
        self.get(&format!("/v2/tasks/{id}/events")).await.body
    }

    /// Slots in use.
    pub fn slots_used(&self) -> u32 {
        self.app.pools[0].slots().0
    }

    /// The value of a series in `/metrics`, by its whole name with labels.
    pub async fn metric(&self, series: &str) -> f64 {
        let text = self.get("/metrics").await.body;
        let line = text.lines().find(|line| line.strip_prefix(series).is_some_and(|rest| rest.starts_with(' ')));
        let line = line.unwrap_or_else(|| panic!("no series {series} in\n{text}"));
        line.rsplit(' ').next().unwrap().parse().unwrap()
    }

    /// Waits (in virtual time) until nothing runs, and asserts that nothing has leaked.
    pub async fn finish(mut self) {
        self.finished = true;
        self.settle().await;
    }

    /// From now on nothing is stored, as after a crash; and the folder is free for the next gateway.
    pub async fn crash(mut self) {
        self.finished = true;
        self.app.store.close().await;
    }

    /// Asks for `path` again and again until the answer is as wanted, and returns it.
    pub async fn until(&self, path: &str, wanted: impl Fn(&serde_json::Value) -> bool) -> serde_json::Value {
        let mut answer = serde_json::Value::Null;
        for _ in 0..6000 {
            answer = self.get(path).await.json();
            if wanted(&answer) {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{path} stays {answer}");
    }

    /// Waits (in virtual time) until nothing runs.
    pub async fn settle(&self) {
        for _ in 0..6000 {
            if self.is_idle() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let pools: Vec<_> = self.app.pools.iter().map(|pool| (pool.id(), pool.slots(), pool.queue_depth())).collect();
        panic!("left: {} tasks; slots and queues: {pools:?}", self.app.live_tasks());
    }

    /// Waits (in virtual time) until the pool is ready again.
    pub async fn recovered(&self) {
        for _ in 0..6000 {
            if self.app.pools[0].health() == sluicegate::pools::Health::Ready {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("the pool does not recover: {:?}", self.app.pools[0].health());
    }

    pub fn is_idle(&self) -> bool {
        let idle = |pool: &Arc<Pool>| pool.slots().0 == 0 && pool.queue_depth() == 0 && pool.stats().running == 0;
        self.app.live_tasks() == 0 && self.app.budgets.is_settled() && self.app.pools.iter().all(idle)
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.lifecycle.force();
        assert!(self.finished || std::thread::panicking(), "call finish() at the end of the test");
    }
}

/// A request from a program on this machine.
pub fn request(method: &str, path: &str, body: Body) -> Request<Body> {
    let json = body.size_hint().exact() != Some(0);
    let mut request = Request::builder().method(method).uri(path).header("host", "localhost:8080");
    if json {
        request = request.header("content-type", "application/json");
    }
    request.body(body).unwrap()
}

/// As [`request`], of a `POST` with an `Idempotency-Key`.
pub fn keyed(path: &str, key: &str, body: &str) -> Request<Body> {
    let mut request = request("POST", path, Body::from(body.to_owned()));
    request.headers_mut().insert("idempotency-key", key.parse().unwrap());
    request
}

/// Reads a response to its end.
pub async fn read(response: Response) -> Answer {
    let (parts, body) = response.into_parts();
    let bytes = body.collect().await.unwrap().to_bytes();
    Answer { status: parts.status, headers: parts.headers, body: String::from_utf8(bytes.to_vec()).unwrap() }
}

/// Reads frames until `text` has been seen, and returns all that was read.
pub async fn read_until(body: &mut Body, text: &str) -> String {
    let mut seen = String::new();
    while !seen.contains(text) {
        let frame = body.frame().await.unwrap_or_else(|| panic!("the stream ended without {text:?}: {seen}")).unwrap();
        seen.push_str(std::str::from_utf8(&frame.into_data().unwrap()).unwrap());
    }
    seen
}

/// A script that says these words, 10 ms apart, and stops.
pub fn says(words: &[&str]) -> Script {
    Script { tokens: words.iter().map(|word| (*word).to_owned()).collect(), repeat: false, ..Script::default() }
}

/// `text` with everything that looks like a UUID as `<uuid>`, and Unix times as `<time>`: for snapshots.
pub fn masked(text: &str) -> String {
    let mut masked = String::new();
    let mut rest = text;
    while let Some(character) = rest.chars().next() {
        if rest.get(..36).is_some_and(|head| uuid::Uuid::try_parse(head).is_ok()) {
            masked.push_str("<uuid>");
            rest = &rest[36..];
            continue;
        }
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        if digits >= 10 && rest.starts_with('1') {
            masked.push_str("<time>");
            rest = &rest[digits..];
            continue;
        }
        let take = digits.max(character.len_utf8());
        masked.push_str(&rest[..take]);
        rest = &rest[take..];
    }
    masked
}
