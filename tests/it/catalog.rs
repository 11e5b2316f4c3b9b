//! Getting models ready: the built-in one, folders and files, and the hub, played by a small server that misbehaves when asked.

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use sha2::{Digest as _, Sha256};
use sluicegate::catalog::verify::{Check, Finding, Run};
use sluicegate::catalog::{
    Builtin, Catalog, CatalogMetrics, Entry, FileRoots, HubAccess, LiveCatalog, ModelFiles, ModelPath, ModelSource,
    Policy, PrepareError, Progress, Silent, Storage, Token, WebAccess, prepare,
};
use sluicegate::lifecycle::Lifecycle;
use sluicegate::web::Hosts;
use tempfile::TempDir;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

fn weights() -> Vec<u8> {
    (0..300_000_u32).flat_map(u32::to_le_bytes).collect()
}

/// What the server does with the next request for the weights.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Mishap {
    /// Sends so many bytes, and closes the connection once they have arrived.
    CutAfter(usize),
    /// Sends so many bytes, then nothing more.
    StallAfter(usize),
    Status(u16),
    /// Ignores the range and sends everything.
    NoRanges,
    /// Sends other bytes, as many as announced.
    Corrupt,
}

/// A server that speaks the hub's protocol for the repository `org/model`.
struct Hub {
    files: HashMap<&'static str, Vec<u8>>,
    mishaps: Mutex<Vec<Mishap>>,
    /// Status of the listing.
    listing: AtomicUsize,
    /// The `range` of each request for a file, with its name.
    asked: Mutex<Vec<(String, String)>>,
    headers: Mutex<HeaderMap>,
    /// Bytes that the client has counted in this test.
    counted: watch::Sender<u64>,
}

impl Progress for Hub {
    fn start(&self, _what: &str, _bytes: Option<u64>) {}

    fn advance(&self, bytes: u64) {
        self.counted.send_modify(|counted| *counted += bytes);
    }

    fn finish(&self) {}
    fn note(&self, _what: &str) {}
}

impl Hub {
    async fn listing(&self) -> Response {
        let status = StatusCode::from_u16(self.listing.load(Ordering::SeqCst) as u16).unwrap();
        let siblings = self.files.iter().map(|(name, content)| {
            let hex: String = Sha256::digest(content).iter().map(|byte| format!("{byte:02x}")).collect();
            let lfs = name.ends_with(".safetensors").then(|| serde_json::json!({"sha256": hex, "size": content.len()}));
            serde_json::json!({"rfilename": name, "size": content.len(), "blobId": "x", "lfs": lfs})
        });
        let body = serde_json::json!({"sha": COMMIT, "siblings": siblings.collect::<Vec<_>>(), "private": false});
        (status, body.to_string()).into_response()
    }

    async fn file(&self, name: &str, headers: &HeaderMap) -> Response {
        let Some(content) = self.files.get(name) else { return StatusCode::NOT_FOUND.into_response() };
        let range = headers.get("range").map(|range| range.to_str().unwrap().to_owned()).unwrap_or_default();
        self.asked.lock().unwrap().push((name.to_owned(), range.clone()));
        let start: usize =
            range.strip_prefix("bytes=").and_then(|it| it.split('-').next()).map_or(0, |it| it.parse().unwrap());
        let mishap = if name == "model.safetensors" { self.mishaps.lock().unwrap().pop() } else { None };
        let total = content.len();
        let answer = |status: u16, start: usize, body: Body| {
            let span = format!("bytes {start}-{}/{total}", total - 1);
            let builder = Response::builder().status(status).header("etag", "\"x\"").header("x-repo-commit", COMMIT);
            let builder = builder.header("content-length", total - start);
            let builder = if status == 206 { builder.header("content-range", span) } else { builder };
            builder.body(body).unwrap()
        };
        let sent = Bytes::from(content[start..].to_vec());
        match mishap {
            None => answer(206, start, Body::from(sent)),
            Some(Mishap::Status(status)) => StatusCode::from_u16(status).unwrap().into_response(),
            Some(Mishap::NoRanges) => answer(200, 0, Body::from(content.clone())),
            Some(Mishap::Corrupt) => answer(206, start, Body::from(vec![7; sent.len()])),
            Some(Mishap::CutAfter(bytes)) => {
                let mut counted = self.counted.subscribe();
                let arrived = *counted.borrow() + (start + bytes) as u64;
                let cut = async move {
                    counted.wait_for(|counted| *counted >= arrived).await.unwrap();
                    Err(std::io::Error::other("cut"))
                };
                let first = stream::iter([Ok(sent.slice(..bytes))]);
                answer(206, start, Body::from_stream(first.chain(stream::once(cut))))
            }
            Some(Mishap::StallAfter(bytes)) => {
                let first = stream::iter([Ok::<_, std::io::Error>(sent.slice(..bytes))]);
                answer(206, start, Body::from_stream(first.chain(stream::pending())))
            }
        }
    }
}

async fn answer(State(hub): State<Arc<Hub>>, request: Request) -> Response {
    let path = request.uri().path().to_owned();
    *hub.headers.lock().unwrap() = request.headers().clone();
    if path == "/api/models/org/model/revision/main" || path == format!("/api/models/org/model/revision/{COMMIT}") {
        return hub.listing().await;
    }
    match path.strip_prefix(&format!("/org/model/resolve/{COMMIT}/")) {
        Some(name) => hub.file(name, request.headers()).await,
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

/// No web server is reached, and a model has 10 MB at most.
fn storage(data_dir: &Path, hub: HubAccess) -> Storage {
    let web = WebAccess { hosts: Hosts::default(), stall: hub.stall, retry_pause: hub.retry_pause };
    let (data_dir, roots) = (data_dir.to_owned(), FileRoots::default());
    Storage { data_dir, hub, web, roots, max_model_bytes: 10_000_000, max_guest_bytes: 1_000_000 }
}

/// A hub, a data folder, and how one reaches the other.
struct Fixture {
    hub: Arc<Hub>,
    data: TempDir,
    access: HubAccess,
}

impl Fixture {
    async fn new() -> Self {
        let files = HashMap::from([
            ("README.md", b"not needed".to_vec()),
            ("config.json", b"{}".to_vec()),
            ("tokenizer.json", b"{\"version\": \"1.0\"}".to_vec()),
            ("model.safetensors", weights()),
            ("q4.gguf", b"GGUF and more".to_vec()),
        ]);
        let hub = Arc::new(Hub {
            files,
            mishaps: Mutex::default(),
            listing: AtomicUsize::new(200),
            asked: Mutex::default(),
            headers: Mutex::default(),
            counted: watch::Sender::new(0),
        });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let router = Router::new().fallback(answer).with_state(hub.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        let access = HubAccess {
            endpoint,
            token: None,
            stall: Duration::from_millis(400),
            retry_pause: Duration::from_millis(1),
        };
        Self { hub, data: tempfile::tempdir().unwrap(), access }
    }

    /// Mishaps of the requests for the weights, in order.
    fn mishaps(&self, mishaps: impl IntoIterator<Item = Mishap>) {
        let mut mishaps: Vec<_> = mishaps.into_iter().collect();
        mishaps.reverse();
        *self.hub.mishaps.lock().unwrap() = mishaps;
    }

    async fn prepare(&self, reference: &str) -> Result<ModelFiles, PrepareError> {
        self.prepare_with(reference, self.hub.clone()).await
    }

    async fn prepare_with(&self, reference: &str, progress: Arc<dyn Progress>) -> Result<ModelFiles, PrepareError> {
        let entry = Entry::new("m", ModelSource::from_reference(&reference.parse().unwrap()).unwrap());
        let storage = storage(self.data.path(), self.access.clone());
        prepare(&entry, &storage, progress, &Lifecycle::new()).await
    }

    async fn problem(&self, reference: &str) -> String {
        self.prepare(reference).await.expect_err("it cannot be prepared").to_string()
    }

    /// The ranges asked for the weights so far; forgotten afterwards.
    fn weights_asked(&self) -> Vec<String> {
        let asked = std::mem::take(&mut *self.hub.asked.lock().unwrap());
        asked.into_iter().filter(|(name, _)| name == "model.safetensors").map(|(_, range)| range).collect()
    }
}

fn folder(files: &ModelFiles) -> &Path {
    match &files.path {
        ModelPath::Folder(folder) => folder,
        ModelPath::Gguf(path) => panic!("a folder is expected: {}", path.display()),
    }
}

#[tokio::test]
async fn a_model_of_the_hub_is_downloaded_once_and_only_as_far_as_needed() {
    let fixture = Fixture::new().await;
    let files = fixture.prepare("hf:org/model").await.unwrap();
    assert_eq!(std::fs::read(folder(&files).join("model.safetensors")).unwrap(), weights());
    let mut names: Vec<_> = std::fs::read_dir(folder(&files)).unwrap().map(|it| it.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["config.json", "model.safetensors", "tokenizer.json"]);
    assert_eq!(files.size, 2 + 18 + 1_200_000);

    fixture.hub.asked.lock().unwrap().clear();
    let again = fixture.prepare("hf:org/model").await.unwrap();
    assert_eq!(again.digest, files.digest);
    assert!(fixture.hub.asked.lock().unwrap().is_empty());
}

#[tokio::test]
async fn one_named_gguf_file_is_downloaded_alone() {
    let fixture = Fixture::new().await;
    let files = fixture.prepare("hf:org/model@main/q4.gguf").await.unwrap();
    let ModelPath::Gguf(path) = &files.path else { panic!("one file: {files:?}") };
    assert_eq!(std::fs::read(path).unwrap(), b"GGUF and more");
    assert_eq!(fixture.hub.asked.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn a_cut_download_goes_on_where_it_ended() {
    let fixture = Fixture::new().await;
    fixture.mishaps([Mishap::CutAfter(500_000), Mishap::Status(503), Mishap::CutAfter(200_000)]);
    let files = fixture.prepare("hf:org/model").await.unwrap();
    assert_eq!(std::fs::read(folder(&files).join("model.safetensors")).unwrap(), weights());
    assert_eq!(fixture.weights_asked(), ["bytes=0-", "bytes=500000-", "bytes=500000-", "bytes=700000-"]);
}

#[tokio::test]
async fn a_download_that_gave_up_goes_on_in_the_next_process() {
    let fixture = Fixture::new().await;
    fixture.mishaps(std::iter::once(Mishap::CutAfter(700_000)).chain([Mishap::Status(500); 9]));
    let problem = fixture.problem("hf:org/model").await;
    assert_eq!(problem, "hf:org/model@main: the server answered with status 500");
    fixture.weights_asked();
    fixture.mishaps([]);
    let files = fixture.prepare("hf:org/model").await.unwrap();
    assert_eq!(std::fs::read(folder(&files).join("model.safetensors")).unwrap(), weights());
    assert_eq!(fixture.weights_asked(), ["bytes=700000-"]);
}

#[tokio::test]
async fn a_server_without_ranges_is_read_from_the_start() {
    let fixture = Fixture::new().await;
    fixture.mishaps([Mishap::CutAfter(500_000), Mishap::NoRanges]);
    let files = fixture.prepare("hf:org/model").await.unwrap();
    assert_eq!(std::fs::read(folder(&files).join("model.safetensors")).unwrap(), weights());
}

#[tokio::test]
async fn a_server_that_stalls_is_left_after_a_while() {
    let fixture = Fixture::new().await;
    fixture.mishaps([Mishap::StallAfter(1000); 9]);
    assert_eq!(fixture.problem("hf:org/model").await, "hf:org/model@main: the server sent nothing for 0.4 s");
}

#[tokio::test]
async fn damaged_weights_are_noticed_and_downloaded_again() {
    let fixture = Fixture::new().await;
    fixture.mishaps([Mishap::Corrupt]);
    let problem = fixture.problem("hf:org/model").await;
    assert!(problem.ends_with("was damaged on its way and is removed; start again to download it again"), "{problem}");
    fixture.prepare("hf:org/model").await.unwrap();
}

#[tokio::test]
async fn what_the_hub_refuses_is_explained() {
    let mut fixture = Fixture::new().await;
    assert_eq!(
        fixture.problem("hf:org/other").await,
        "hf:org/other@main: the hub has no such repository or revision (404)"
    );
    assert_eq!(
        fixture.problem("hf:org/model@main/x.gguf").await,
        "hf:org/model@main/x.gguf: the server has no file x.gguf there (404)"
    );
    let cases =
        [(401, None, "asks for a token"), (401, Some("hf_x"), "not accept the token"), (403, Some("hf_x"), "terms")];
    for (status, token, expected) in cases {
        fixture.hub.listing.store(status, Ordering::SeqCst);
        fixture.access.token = token.map(|token| Token(token.to_owned()));
        let problem = fixture.problem("hf:org/model").await;
        assert!(problem.contains(expected) && !problem.contains("hf_x"), "{problem}");
    }
    let sent = fixture.hub.headers.lock().unwrap().clone();
    assert_eq!(sent["authorization"], "Bearer hf_x");
    assert!(sent["user-agent"].to_str().unwrap().contains("sluicegate/"));
}

#[tokio::test]
async fn the_operators_token_is_not_sent_for_a_model_that_a_task_brings() {
    let mut fixture = Fixture::new().await;
    fixture.access.token = Some(Token("hf_x".to_owned()));
    let source = ModelSource::from_reference(&"hf:org/model@main/q4.gguf".parse().unwrap()).unwrap();
    let guest = Entry { guest: true, ..Entry::new("m", source) };
    let storage = storage(fixture.data.path(), fixture.access.clone());
    prepare(&guest, &storage, Arc::new(Silent), &Lifecycle::new()).await.unwrap();
    assert!(!fixture.hub.headers.lock().unwrap().contains_key("authorization"));
}

#[tokio::test]
async fn a_complete_model_loads_without_the_hub_and_an_incomplete_one_says_why_it_cannot() {
    let mut fixture = Fixture::new().await;
    let files = fixture.prepare("hf:org/model").await.unwrap();
    // Nothing listens on port 1 of the loopback address.
    fixture.access.endpoint = "http://127.0.0.1:1".to_owned();
    assert_eq!(fixture.prepare("hf:org/model").await.unwrap().digest, files.digest);

    std::fs::remove_file(folder(&files).join("config.json")).unwrap();
    let problem = fixture.problem("hf:org/model").await;
    assert!(
        problem.starts_with("hf:org/model@main: the server cannot be reached: ") && problem.contains("refused"),
        "{problem}"
    );
}

#[tokio::test]
async fn a_commit_that_is_complete_is_never_asked_for_again() {
    let mut fixture = Fixture::new().await;
    let reference = format!("hf:org/model@{COMMIT}");
    fixture.prepare(&reference).await.unwrap();
    fixture.access.endpoint = "http://127.0.0.1:1".to_owned();
    fixture.prepare(&reference).await.unwrap();
    assert!(fixture.hub.asked.lock().unwrap().len() == 3, "asked again");
}

/// Counts what it is told.
#[derive(Default)]
struct Counted {
    announced: Mutex<HashMap<String, u64>>,
    bytes: AtomicUsize,
}

impl Progress for Counted {
    fn start(&self, what: &str, bytes: Option<u64>) {
        self.announced.lock().unwrap().insert(what.to_owned(), bytes.unwrap_or_default());
    }

    fn advance(&self, bytes: u64) {
        self.bytes.fetch_add(bytes as usize, Ordering::SeqCst);
    }

    fn finish(&self) {}
    fn note(&self, _what: &str) {}
}

#[tokio::test]
async fn progress_tells_of_every_byte_fetched_and_checked() {
    let fixture = Fixture::new().await;
    let progress = Arc::new(Counted::default());
    let files = fixture.prepare_with("hf:org/model", progress.clone()).await.unwrap();
    assert_eq!(progress.announced.lock().unwrap()["fetching model.safetensors"], 1_200_000);
    assert_eq!(progress.bytes.load(Ordering::SeqCst) as u64, 2 * files.size);
}

async fn local(source: ModelSource) -> Result<ModelFiles, PrepareError> {
    local_entry(Entry::new("m", source), Path::new("/gone")).await
}

async fn local_entry(entry: Entry, data_dir: &Path) -> Result<ModelFiles, PrepareError> {
    let hub = HubAccess { endpoint: String::new(), token: None, stall: Duration::ZERO, retry_pause: Duration::ZERO };
    let storage = storage(data_dir, hub);
    prepare(&entry, &storage, Arc::new(Silent), &Lifecycle::new()).await
}

#[tokio::test]
async fn a_folder_needs_what_makes_a_model() {
    let model = tempfile::tempdir().unwrap();
    let source = || ModelSource::Folder(model.path().to_owned());
    for (missing, add) in [
        ("it holds no *.safetensors", "model.safetensors"),
        ("config.json is missing", "config.json"),
        ("tokenizer.json is missing", "tokenizer.json"),
    ] {
        let error = local(source()).await.unwrap_err().to_string();
        assert!(error.ends_with(missing), "{error}");
        std::fs::write(model.path().join(add), add).unwrap();
    }
    let files = local(source()).await.unwrap();
    assert_eq!(files.path, ModelPath::Folder(model.path().to_owned()));
    let gone = local(ModelSource::Folder("/gone".into())).await.unwrap_err().to_string();
    assert!(gone.starts_with("/gone: No such file"), "{gone}");
}

#[tokio::test]
async fn a_gguf_file_is_known_by_its_first_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.gguf");
    std::fs::write(&path, "GGUF").unwrap();
    let files = local(ModelSource::Gguf(path.clone())).await.unwrap();
    assert_eq!((files.path, files.size), (ModelPath::Gguf(path.clone()), 4));
    std::fs::write(&path, "zip").unwrap();
    assert!(local(ModelSource::Gguf(path)).await.unwrap_err().to_string().contains("does not begin as a .gguf file"));
}

#[tokio::test]
async fn a_pinned_digest_must_be_met() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.gguf");
    std::fs::write(&path, "GGUF").unwrap();
    let files = local(ModelSource::Gguf(path.clone())).await.unwrap();
    let pinned = |digest: String| Entry { digest: Some(digest), ..Entry::new("m", ModelSource::Gguf(path.clone())) };
    local_entry(pinned(files.digest), Path::new("/gone")).await.unwrap();
    let other = local_entry(pinned(format!("sha256:{}", "0".repeat(64))), Path::new("/gone")).await;
    assert!(matches!(other, Err(PrepareError::Digest { .. })));
}

#[tokio::test]
async fn the_built_in_models_are_complete_and_kept_in_the_data_folder() {
    let data = tempfile::tempdir().unwrap();
    for builtin in Builtin::ALL {
        let entry = Entry::new(builtin.id(), ModelSource::Builtin(builtin));
        let files = local_entry(entry.clone(), data.path()).await.unwrap();
        assert!(folder(&files).starts_with(data.path().join("models")));
        // A folder of the same files is the same model.
        let again = local(ModelSource::Folder(folder(&files).to_owned())).await.unwrap();
        assert_eq!((&again.digest, again.size), (&files.digest, files.size));
        assert_eq!(again.files, files.files);
        let check = Check::of(&entry, &files.files, data.path()).await.unwrap();
        let run = Run::default();
        assert!(
            matches!(check.run(&run), Finding::Passed { digest, .. } if digest == files.digest),
            "{}",
            builtin.id()
        );
        // Files of other names are none of the model's, in the folders of its modules neither.
        if builtin == Builtin::Embedding {
            std::fs::write(folder(&files).join("1_Pooling/model.safetensors"), "x").unwrap();
            let check = Check::of(&entry, &files.files, data.path()).await.unwrap();
            assert_eq!(check.run(&run), Finding::Additional("1_Pooling/model.safetensors".into()));
        }
    }
}

#[tokio::test]
async fn a_downloaded_model_is_verified_against_what_the_hub_says_of_it() {
    let fixture = Fixture::new().await;
    let files = fixture.prepare("hf:org/model").await.unwrap();
    let entry = Entry::new("m", ModelSource::from_reference(&"hf:org/model".parse().unwrap()).unwrap());
    let verify = async || {
        // Nothing was recorded of an earlier load: the hub's own digests count.
        let check = Check::of(&entry, &[], fixture.data.path()).await.unwrap();
        let (bytes_total, bytes_done, stop) = (AtomicU64::new(0), AtomicU64::new(0), CancellationToken::new());
        check.run(&Run { started_at_ms: 0, bytes_total, bytes_done, stop })
    };
    let Finding::Passed { digest, .. } = verify().await else { panic!("nothing has changed") };
    assert_eq!(digest, files.digest);
    let path = folder(&files).join("model.safetensors");
    let mut changed = weights();
    changed[700_000] ^= 1;
    std::fs::write(&path, changed).unwrap();
    assert_eq!(verify().await, Finding::Changed("model.safetensors".into()));
    std::fs::remove_file(&path).unwrap();
    assert_eq!(verify().await, Finding::Missing("model.safetensors".into()));
    std::fs::write(&path, weights()).unwrap();
    std::fs::write(folder(&files).join("tokenizer.model"), "more").unwrap();
    assert_eq!(verify().await, Finding::Additional("tokenizer.model".into()));
}

#[tokio::test]
async fn under_strict_trust_a_pinned_model_is_served_once_it_is_loaded_and_another_is_not() {
    let fixture = Fixture::new().await;
    let files = fixture.prepare("hf:org/model").await.unwrap();
    let source = ModelSource::from_reference(&"hf:org/model".parse().unwrap()).unwrap();
    let pinned = Entry { digest: Some(files.digest.clone()), ..Entry::new("pinned", source.clone()) };
    let catalog = Catalog::new(vec![pinned, Entry::new("other", source)]).unwrap();
    let metrics = CatalogMetrics::register(&prometheus::Registry::new()).unwrap();
    let live = LiveCatalog::new(catalog, Policy { strict: true, ..Policy::default() }, metrics);
    let served = |id: &str| live.get(id).unwrap().usable(live.policy()).is_ok();
    assert_eq!([served("builtin"), served("pinned"), served("other")], [true, false, false]);
    for id in ["pinned", "other"] {
        live.loaded(id, &files);
    }
    assert_eq!([served("builtin"), served("pinned"), served("other")], [true, true, false]);
}
