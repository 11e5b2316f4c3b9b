//! Models from web servers, played by one that misbehaves when asked.

use std::collections::{HashMap, VecDeque};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use sluicegate::catalog::{
    Entry, FileRoots, HubAccess, ModelFiles, ModelPath, ModelSource, PrepareError, Silent, Storage, WebAccess,
    cache_folder, delete_cache, prepare,
};
use sluicegate::lifecycle::Lifecycle;
use sluicegate::web::Hosts;
use tempfile::TempDir;

const MOST_BYTES: u64 = 2_000_000;

/// What the server does with the next request, instead of answering it well.
enum Mishap {
    /// Sends so many bytes of what it should, and ends the connection.
    CutAfter(usize),
    /// Sends so many bytes, then nothing more.
    StallAfter(usize),
    Status(u16),
    Redirect(String),
    /// Sends without end, and without a length.
    Endless,
    /// Says that there are so many bytes, and sends what there is.
    Length(usize),
    /// Says that what it sends is this range.
    Span(&'static str),
}

/// What is there, and its tag.
type Content = (Vec<u8>, Option<&'static str>);

#[derive(Default)]
struct Server {
    /// By path.
    files: Mutex<HashMap<String, Content>>,
    mishaps: Mutex<VecDeque<Mishap>>,
    /// Path, range and `if-range` of each request.
    asked: Mutex<Vec<String>>,
}

async fn answer(State(server): State<Arc<Server>>, request: Request) -> Response {
    let path = request.uri().path().to_owned();
    let header = |name: &str| request.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
    let (range, condition) = (header("range").unwrap(), header("if-range"));
    server.asked.lock().unwrap().push(format!("{path} {range} {}", condition.as_deref().unwrap_or("-")));
    let mishap = server.mishaps.lock().unwrap().pop_front();
    if let Some(Mishap::Status(status)) = mishap {
        return StatusCode::from_u16(status).unwrap().into_response();
    }
    if let Some(Mishap::Redirect(to)) = mishap {
        return (StatusCode::FOUND, [("location", to)]).into_response();
    }
    let Some((content, tag)) = server.files.lock().unwrap().get(&path).cloned() else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let wanted: usize = range.strip_prefix("bytes=").unwrap().strip_suffix('-').unwrap().parse().unwrap();
    let same = condition.is_none() || condition.as_deref() == tag;
    let start = if same { wanted } else { 0 };
    if start > content.len() {
        return StatusCode::RANGE_NOT_SATISFIABLE.into_response();
    }
    let sent = Bytes::from(content[start..].to_vec());
    let builder = Response::builder().status(if same { 206 } else { 200 });
    let builder = tag.iter().fold(builder, |builder, tag| builder.header("etag", *tag));
    let span = format!("bytes {start}-{}/{}", content.len().saturating_sub(1), content.len());
    let builder = if same { builder.header("content-range", span) } else { builder };
    let broken = || Err(std::io::Error::other("cut"));
    match mishap {
        Some(Mishap::CutAfter(bytes)) => {
            let pause = async move {
                // What was written before is on its way by then.
                tokio::time::sleep(Duration::from_millis(50)).await;
                broken()
            };
            let body = stream::iter([Ok(sent.slice(..bytes))]).chain(stream::once(pause));
            builder.header("content-length", sent.len()).body(Body::from_stream(body)).unwrap()
        }
        Some(Mishap::StallAfter(bytes)) => {
            let first = stream::iter([Ok::<_, std::io::Error>(sent.slice(..bytes))]);
            let body = Body::from_stream(first.chain(stream::pending()));
            builder.header("content-length", sent.len()).body(body).unwrap()
        }
        Some(Mishap::Endless) => {
            let more = stream::repeat_with(|| Ok::<_, std::io::Error>(Bytes::from_static(&[7; 65536])));
            Response::new(Body::from_stream(more))
        }
        Some(Mishap::Length(length)) => {
            let body = stream::iter([Ok(sent)]).chain(stream::once(async move { broken() }));
            Response::builder().header("content-length", length).body(Body::from_stream(body)).unwrap()
        }
        Some(Mishap::Span(span)) => {
            Response::builder().status(206).header("content-range", span).body(Body::from(sent)).unwrap()
        }
        _ => builder.header("content-length", sent.len()).body(Body::from(sent)).unwrap(),
    }
}

struct Fixture {
    server: Arc<Server>,
    port: u16,
    data: TempDir,
}

impl Fixture {
    async fn new() -> Self {
        let server = Arc::new(Server::default());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let router = Router::new().fallback(answer).with_state(server.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { server, port, data: tempfile::tempdir().unwrap() }
    }

    /// With one model, of 1,200,000 bytes.
    async fn with_gguf() -> Self {
        let fixture = Self::new().await;
        fixture.put("/m.gguf", gguf(1), Some("\"one\""));
        fixture
    }

    fn put(&self, path: &str, content: impl Into<Vec<u8>>, tag: Option<&'static str>) {
        self.server.files.lock().unwrap().insert(path.to_owned(), (content.into(), tag));
    }

    fn mishaps(&self, mishaps: impl IntoIterator<Item = Mishap>) {
        *self.server.mishaps.lock().unwrap() = mishaps.into_iter().collect();
    }

    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut *self.server.asked.lock().unwrap())
    }

    fn entry(&self, path: &str) -> Entry {
        let reference = format!("http://127.0.0.1:{}{path}", self.port).parse().unwrap();
        Entry::new("m", ModelSource::from_reference(&reference).unwrap())
    }

    async fn prepare(&self, entry: &Entry) -> Result<ModelFiles, PrepareError> {
        let (stall, retry_pause) = (Duration::from_millis(400), Duration::from_millis(1));
        let storage = Storage {
            data_dir: self.data.path().to_owned(),
            hub: HubAccess { endpoint: String::new(), token: None, stall, retry_pause },
            web: WebAccess { hosts: Hosts::new(["127.0.0.1".to_owned()]), stall, retry_pause },
            roots: FileRoots::default(),
            max_model_bytes: MOST_BYTES,
            max_guest_bytes: MOST_BYTES / 2,
        };
        prepare(entry, &storage, Arc::new(Silent), &Lifecycle::new()).await
    }

    async fn get(&self, path: &str) -> ModelFiles {
        self.prepare(&self.entry(path)).await.unwrap_or_else(|error| panic!("{error}"))
    }

    /// Why it cannot be prepared, without the address in front.
    async fn problem(&self, path: &str) -> String {
        let problem = self.prepare(&self.entry(path)).await.expect_err("it cannot be prepared").to_string();
        let problem = problem.replace(&format!("127.0.0.1:{}", self.port), "host");
        problem.replace(&format!("http://host{path}: "), "")
    }

    /// What is left of downloads, at any depth.
    fn parts(&self) -> usize {
        fn count(folder: &Path) -> usize {
            let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
            let part = |path: &Path| path.to_string_lossy().contains(".part");
            entries.map(|path| if path.is_dir() { count(&path) } else { part(&path).into() }).sum()
        }
        count(self.data.path())
    }
}

fn gguf(seed: u8) -> Vec<u8> {
    [b"GGUF".to_vec(), (4..1_200_000_u32).map(|at| (at >> 8) as u8 ^ at as u8 ^ seed).collect()].concat()
}

fn content(files: &ModelFiles) -> Vec<u8> {
    let ModelPath::Gguf(path) = &files.path else { panic!("one file: {files:?}") };
    std::fs::read(path).unwrap()
}

#[tokio::test]
async fn a_file_is_downloaded_once_until_its_copy_is_deleted() {
    let fixture = Fixture::with_gguf().await;
    let files = fixture.get("/m.gguf").await;
    assert_eq!((content(&files), files.size), (gguf(1), 1_200_000));
    assert_eq!(fixture.asked(), ["/m.gguf bytes=0- -"]);
    fixture.put("/m.gguf", gguf(2), Some("\"two\""));
    assert_eq!(fixture.get("/m.gguf").await.digest, files.digest);
    assert!(fixture.asked().is_empty());
    assert_eq!(fixture.parts(), 0);
    let folder = cache_folder(&fixture.entry("/m.gguf").source, fixture.data.path()).unwrap();
    assert!(delete_cache(&folder).unwrap() > 1_200_000);
    assert_eq!(content(&fixture.get("/m.gguf").await), gguf(2));
}

#[tokio::test]
async fn a_folder_is_asked_for_the_files_that_make_a_model() {
    for slash in ["", "/"] {
        let fixture = Fixture::new().await;
        for name in ["config.json", "tokenizer.json", "chat_template.jinja", "a-1.safetensors", "a-2.safetensors"] {
            fixture.put(&format!("/models/x/{name}"), name, None);
        }
        let index = r#"{"weight_map": {"p": "a-1.safetensors", "q": "a-2.safetensors", "r": "a-1.safetensors"}}"#;
        fixture.put("/models/x/model.safetensors.index.json", index, None);
        let files = fixture.get(&format!("/models/x{slash}")).await;
        let names: Vec<_> = files.files.iter().map(|file| file.name.as_str()).collect();
        assert_eq!(
            names,
            [
                "config.json",
                "tokenizer.json",
                "chat_template.jinja",
                "model.safetensors.index.json",
                "a-1.safetensors",
                "a-2.safetensors"
            ]
        );
        fixture.asked();
        fixture.get(&format!("/models/x{slash}")).await;
        assert!(fixture.asked().is_empty());
    }
}

/// A folder of a model that embeds, with this list of its modules.
async fn embedding_folder(modules: &str) -> Fixture {
    let fixture = Fixture::new().await;
    for name in ["config.json", "tokenizer.json", "model.safetensors", "config_sentence_transformers.json"] {
        fixture.put(&format!("/x/{name}"), name, None);
    }
    for name in ["1_Pooling/config.json", "2_Dense/config.json", "2_Dense/model.safetensors", "2_Dense/README.md"] {
        fixture.put(&format!("/x/{name}"), name, None);
    }
    fixture.put("/x/modules.json", modules, None);
    fixture
}

#[tokio::test]
async fn of_a_model_that_embeds_its_modules_come_too() {
    let modules = r#"[{"path": "", "type": "a.Transformer"}, {"path": "1_Pooling", "type": "a.Pooling"},
        {"path": "2_Dense", "type": "a.Dense"}, {"path": "3_Normalize", "type": "a.Normalize"}]"#;
    let fixture = embedding_folder(modules).await;
    let files = fixture.get("/x").await;
    let names: Vec<_> = files.files.iter().map(|file| file.name.as_str()).collect();
    assert_eq!(
        names,
        [
            "config.json",
            "tokenizer.json",
            "modules.json",
            "config_sentence_transformers.json",
            "1_Pooling/config.json",
            "2_Dense/config.json",
            "2_Dense/model.safetensors",
            "model.safetensors"
        ]
    );
    let ModelPath::Folder(folder) = &files.path else { panic!("a folder: {files:?}") };
    assert_eq!(std::fs::read_to_string(folder.join("2_Dense/config.json")).unwrap(), "2_Dense/config.json");
    // It is the same model as one that lies in a folder.
    let entry = Entry::new("m", ModelSource::Folder(folder.clone()));
    assert_eq!(fixture.prepare(&entry).await.unwrap().digest, files.digest);
    fixture.asked();
    fixture.get("/x").await;
    assert!(fixture.asked().is_empty());
}

#[tokio::test]
async fn modules_are_beside_the_model_and_nowhere_else() {
    let many: Vec<_> = ('a'..='z').map(|letter| serde_json::json!({"path": format!("1_{letter}")})).collect();
    let elsewhere = "names something else than the folders of modules beside it";
    let path = |path: &str| serde_json::json!([{"path": path}]).to_string();
    for (modules, why) in [
        (path("../1_Pooling"), elsewhere),
        (path("/etc"), elsewhere),
        (path("1_Pooling/.."), elsewhere),
        (path("1_Pooling?x=y"), elsewhere),
        (path("http://host/1_Pooling"), elsewhere),
        (path("refs"), elsewhere),
        (serde_json::json!(many).to_string(), elsewhere),
        (r#"[{"path": 7}]"#.to_owned(), "is no list of modules with a `path`"),
        ("{}".to_owned(), "is no list of modules with a `path`"),
        ("[".to_owned(), "is no list of modules with a `path`"),
    ] {
        let fixture = embedding_folder(&modules).await;
        let problem = fixture.problem("/x").await;
        assert!(problem.ends_with(&format!("modules.json {why}")), "{modules}: {problem}");
        assert!(
            fixture.asked().iter().all(|asked| asked.starts_with("/x/") && !asked.contains("Pooling")),
            "{modules}"
        );
    }
}

#[tokio::test]
async fn an_index_cannot_name_files_elsewhere() {
    for name in ["../x.safetensors", "/etc/x.safetensors", "x.json", "a/b.safetensors"] {
        let fixture = Fixture::new().await;
        fixture.put("/x/config.json", "{}", None);
        fixture.put("/x/tokenizer.json", "{}", None);
        let index = serde_json::json!({"weight_map": {"p": name}}).to_string();
        fixture.put("/x/model.safetensors.index.json", index, None);
        let problem = fixture.problem("/x").await;
        assert!(problem.ends_with("names files that are no weights beside it"), "{problem}");
    }
}

#[tokio::test]
async fn a_download_that_was_cut_goes_on_where_the_file_is_still_the_same() {
    let fixture = Fixture::with_gguf().await;
    fixture.mishaps([Mishap::CutAfter(500_000), Mishap::Status(503), Mishap::CutAfter(200_000)]);
    assert_eq!(content(&fixture.get("/m.gguf").await), gguf(1));
    let asked = fixture.asked();
    assert_eq!(asked.len(), 4, "{asked:?}");
    assert!(asked[1].ends_with(" \"one\"") && asked[1] == asked[2] && asked[3] != asked[2], "{asked:?}");
    assert!(!asked[3].starts_with("/m.gguf bytes=0-"), "{asked:?}");
}

#[tokio::test]
async fn a_file_that_has_changed_meanwhile_is_fetched_from_its_start() {
    let fixture = Fixture::with_gguf().await;
    fixture.mishaps(std::iter::once(Mishap::CutAfter(500_000)).chain((0..9).map(|_| Mishap::Status(500))));
    assert_eq!(fixture.problem("/m.gguf").await, "the server answered with status 500");
    assert_eq!(fixture.parts(), 2);
    fixture.mishaps([]);
    fixture.put("/m.gguf", gguf(2), Some("\"two\""));
    fixture.asked();
    assert_eq!(content(&fixture.get("/m.gguf").await), gguf(2));
    assert!(fixture.asked()[0].ends_with(" \"one\""));
}

#[tokio::test]
async fn a_server_that_names_no_version_is_read_from_the_start() {
    let fixture = Fixture::new().await;
    for tag in [None, Some("W/\"weak\"")] {
        fixture.put("/m.gguf", gguf(1), tag);
        fixture.mishaps([Mishap::CutAfter(500_000)]);
        let entry = fixture.entry("/m.gguf");
        fixture.prepare(&entry).await.unwrap();
        assert_eq!(fixture.asked(), ["/m.gguf bytes=0- -", "/m.gguf bytes=0- -"]);
        delete_cache(&cache_folder(&entry.source, fixture.data.path()).unwrap()).unwrap();
    }
}

#[tokio::test]
async fn what_is_too_large_ends_before_it_fills_the_disk() {
    let fixture = Fixture::with_gguf().await;
    let too_large = "the model has more than 2000000 bytes (catalog.max_model_bytes; admission.provision_reference_bytes where a task brings it)";
    fixture.mishaps([Mishap::Endless]);
    assert_eq!(fixture.problem("/m.gguf").await, too_large);
    assert_eq!(fixture.parts(), 0);
    fixture.mishaps([Mishap::Length(3_000_000)]);
    assert_eq!(fixture.problem("/m.gguf").await, too_large);
    // All files of a model together.
    for name in ["config.json", "tokenizer.json", "model.safetensors"] {
        fixture.put(&format!("/x/{name}"), vec![b' '; 900_000], None);
    }
    assert_eq!(fixture.problem("/x").await, too_large);
    let guest = Entry { guest: true, ..fixture.entry("/m.gguf") };
    let error = fixture.prepare(&guest).await.unwrap_err().to_string();
    assert!(error.contains("more than 1000000 bytes"), "{error}");
}

#[tokio::test]
async fn a_range_that_may_be_a_part_or_is_not_what_comes_makes_no_file() {
    let fixture = Fixture::with_gguf().await;
    for (span, why) in [
        ("bytes 0-99/*", "of m.gguf it is not said how long it is"),
        ("bytes 0-99/1200000", "more of m.gguf comes than the range has"),
        ("bytes 0-1200000/1200000", "content-range is"),
    ] {
        fixture.mishaps([Mishap::Span(span)]);
        let problem = fixture.problem("/m.gguf").await;
        assert!(problem.contains(why), "{span}: {problem}");
    }
    fixture.mishaps([]);
    assert_eq!(content(&fixture.get("/m.gguf").await), gguf(1));
}

#[tokio::test]
async fn a_secret_in_an_address_is_not_told() {
    let fixture = Fixture::with_gguf().await;
    for to in
        ["https://localhost/m.gguf?sign=secret", "http://x:secret@localhost/m", "http://127.0.0.1:1/m.gguf?sign=secret"]
    {
        fixture.mishaps((0..9).map(|_| Mishap::Redirect(to.into())));
        let problem = fixture.problem("/m.gguf?token=secret").await;
        assert!(!problem.contains("secret") && !problem.is_empty(), "{problem}");
    }
}

#[tokio::test]
async fn an_answer_that_ends_early_or_never_comes_is_said() {
    let fixture = Fixture::with_gguf().await;
    fixture.mishaps((0..9).map(|_| Mishap::Length(1_500_000)));
    let problem = fixture.problem("/m.gguf").await;
    assert!(
        problem.starts_with("the connection was cut after ") && problem.contains(" bytes of m.gguf: "),
        "{problem}"
    );
    fixture.mishaps((0..9).map(|_| Mishap::StallAfter(1000)));
    assert_eq!(fixture.problem("/m.gguf").await, "the server sent nothing for 0.4 s");
    fixture.mishaps([]);
    assert_eq!(fixture.problem("/other.gguf").await, "the server has no file other.gguf there (404)");
    assert_eq!(fixture.problem("/folder").await, "the server has no file config.json there (404)");
}

#[tokio::test]
async fn a_redirect_is_followed_where_the_address_itself_would_be() {
    let fixture = Fixture::with_gguf().await;
    fixture.mishaps([Mishap::Redirect("/m.gguf?again".into()), Mishap::Redirect("m.gguf".into())]);
    assert_eq!(content(&fixture.get("/other/m.gguf").await.clone()), gguf(1));
    fixture.asked();
    let port = fixture.port;
    for (to, why) in [
        (format!("https://localhost:{port}/m.gguf"), "leads to an address of a private network"),
        (format!("https://127.0.0.2:{port}/m.gguf"), "leads to an address of a private network"),
        (format!("https://[::ffff:127.0.0.1]:{port}/m.gguf"), "leads to an address of a private network"),
        (format!("http://localhost:{port}/m.gguf"), "is not encrypted"),
        ("file:///etc/passwd".to_owned(), "has no host"),
        ("https://".to_owned(), "a redirect that leads nowhere"),
    ] {
        fixture.mishaps([Mishap::Redirect(to.clone())]);
        let problem = fixture.problem("/away.gguf").await;
        assert!(problem.contains(why), "{to}: {problem}");
        assert_eq!(fixture.asked().len(), 1, "{to}");
    }
    fixture.mishaps((0..9).map(|_| Mishap::Redirect("/round.gguf".into())));
    assert_eq!(fixture.problem("/round.gguf").await, "the server's answer makes no sense: more than 5 redirects");
}

#[tokio::test]
async fn files_that_are_not_what_was_pinned_are_not_kept() {
    let fixture = Fixture::with_gguf().await;
    let good = fixture.get("/m.gguf").await.digest;
    // The digest is over names and contents.
    fixture.put("/sub/m.gguf", gguf(2), None);
    let pinned = Entry { digest: Some(good.clone()), ..fixture.entry("/sub/m.gguf") };
    let error = fixture.prepare(&pinned).await.unwrap_err();
    assert!(matches!(&error, PrepareError::Digest { pinned, .. } if *pinned == good), "{error}");
    fixture.put("/sub/m.gguf", gguf(1), None);
    assert_eq!(fixture.prepare(&pinned).await.unwrap().digest, good);
}
