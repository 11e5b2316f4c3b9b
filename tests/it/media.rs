//! Images and recordings in messages: they reach a model that takes them, and nothing else does.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::get;
use futures_util::StreamExt as _;
use insta::assert_snapshot;
use serde_json::{Value, json};
use sluicegate::engine::scripted::Script;
use sluicegate_compat::native::Modality;
use tempfile::TempDir;

use crate::harness::{Gate, says};

/// A PNG of one pixel.
const PIXEL: &str = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==";
/// The head of a recording.
const WAV: &str = "UklGRiQAAABXQVZFZm10IBAAAAA=";

fn seeing() -> Script {
    Script { modalities: vec![Modality::Text, Modality::Image], ..says(&["a ", "pixel"]) }
}

fn data() -> String {
    format!("data:image/png;base64,{PIXEL}")
}

fn image(url: &str) -> Value {
    json!({"type": "image_url", "image_url": {"url": url, "detail": "low"}})
}

fn sound(data: &str, format: &str) -> Value {
    json!({"type": "input_audio", "input_audio": {"data": data, "format": format}})
}

fn chat(parts: &[Value]) -> String {
    let content = [&[json!({"type": "text", "text": "what is this"})], parts].concat();
    json!({"model": "builtin", "messages": [{"role": "user", "content": content}]}).to_string()
}

/// The status, the code and the message of a refused chat.
async fn refusal(gate: &Gate, body: &str) -> String {
    let answer = gate.post("/v1/chat/completions", body).await;
    assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{}", answer.body);
    let error = &answer.json()["error"];
    format!("{} at {}: {}", error["code"], error["param"], error["message"].as_str().unwrap())
}

#[tokio::test(start_paused = true)]
async fn an_image_is_shown_to_a_model_that_takes_it_in_each_dialect() {
    let gate = Gate::scripted(seeing()).await;
    let answer = gate.post("/v1/chat/completions", &chat(&[image(&data()), image(&data())])).await.json();
    assert_eq!(answer["choices"][0]["message"]["content"], "a pixel", "{answer}");
    let with = answer["usage"]["prompt_tokens"].as_u64().unwrap();
    let without = gate.post("/v1/chat/completions", &chat(&[])).await.json();
    assert_eq!(with, without["usage"]["prompt_tokens"].as_u64().unwrap() + 2, "each is a word of the script's model");

    let parts = json!([{"type": "input_text", "text": "what is this"}, {"type": "input_image", "image_url": data()}]);
    let body = json!({"model": "builtin", "input": [{"role": "user", "content": parts}]}).to_string();
    let response = gate.post("/v1/responses", &body).await.json();
    assert_eq!(response["output"][0]["content"][0]["text"], "a pixel", "{response}");
    let items = gate.get(&format!("/v1/responses/{}/input_items", response["id"].as_str().unwrap())).await.json();
    assert_eq!(
        items["data"][0]["content"][1],
        json!({"type": "input_image", "image_url": data(), "detail": "auto", "file_id": null})
    );
    let next = json!({"model": "builtin", "input": "and now", "previous_response_id": response["id"]}).to_string();
    let next = gate.post("/v1/responses", &next).await.json();
    assert_eq!(next["status"], "completed", "{next}");

    let source = json!({"type": "base64", "media_type": "image/png", "data": PIXEL});
    let blocks = json!([{"type": "image", "source": source}, {"type": "text", "text": "what is this"}]);
    let body = json!({"model": "builtin", "max_tokens": 9, "messages": [{"role": "user", "content": blocks}]});
    let answer = gate.post("/v1/messages", &body.to_string()).await.json();
    assert_eq!(answer["content"][0]["text"], "a pixel", "{answer}");
    let counted = gate.post("/v1/messages/count_tokens", &body.to_string()).await.json();
    assert_eq!(counted["input_tokens"], answer["usage"]["input_tokens"]);

    let messages: Value = serde_json::from_str(&chat(&[image(&data())])).unwrap();
    let body = json!({"model_ref": "builtin", "messages": messages["messages"]}).to_string();
    let id = gate.submit(&body).await;
    assert!(gate.events(&id).await.contains(r#""finish_reason":"stop""#));
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn a_model_that_takes_none_refuses_it_with_its_place() {
    let gate = Gate::scripted(says(&["no"])).await;
    assert_snapshot!(refusal(&gate, &chat(&[image(&data())])).await, @r#""unsupported_value" at "messages[0].content[1]": Unsupported value: 'messages[0].content[1]' does not support image parts with this model."#);
    assert_snapshot!(refusal(&gate, &chat(&[sound(WAV, "wav")])).await, @r#""unsupported_value" at "messages[0].content[1]": Unsupported value: 'messages[0].content[1]' does not support audio parts with this model."#);
    // What the model does not take is not looked at either.
    assert_snapshot!(refusal(&gate, &chat(&[image("https://host/cat.png")])).await, @r#""unsupported_value" at "messages[0].content[1]": Unsupported value: 'messages[0].content[1]' does not support image parts with this model."#);

    let parts = json!([{"type": "input_image", "image_url": data()}]);
    let input = json!([{"role": "system", "content": "Look."}, {"role": "user", "content": parts}]);
    let answer = gate.post("/v1/responses", &json!({"model": "builtin", "input": input}).to_string()).await;
    assert_snapshot!(answer.body, @r#"{"error":{"message":"Unsupported value: 'input[1].content[0]' does not support image parts with this model.","type":"invalid_request_error","param":"input[1].content[0]","code":"unsupported_value"}}"#);

    let source = json!({"type": "base64", "media_type": "image/png", "data": PIXEL});
    let said = json!([{"role": "user", "content": "Look"}, {"role": "user", "content": [{"type": "image", "source": source}]}]);
    let body = json!({"model": "builtin", "max_tokens": 9, "system": "Be brief.", "messages": said}).to_string();
    let answer = gate.post("/v1/messages", &body).await;
    assert_snapshot!(crate::harness::masked(&answer.body), @r#"{"type":"error","error":{"type":"invalid_request_error","message":"Unsupported value: 'messages[1].content[0]' does not support image parts with this model.","param":"messages[1].content[0]"},"request_id":"<uuid>"}"#);

    let messages = json!([{"role": "user", "content": [image(&data())]}]);
    let answer = gate.post("/v2/tasks", &json!({"model_ref": "builtin", "messages": messages}).to_string()).await;
    assert_eq!((answer.status, &answer.json()["param"]), (StatusCode::BAD_REQUEST, &json!("messages[0].content[0]")));
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn only_users_show_something() {
    let gate = Gate::scripted(seeing()).await;
    let messages = json!([{"role": "system", "content": [image(&data())]}, {"role": "user", "content": "hi"}]);
    let body = json!({"model": "builtin", "messages": messages}).to_string();
    assert_snapshot!(refusal(&gate, &body).await, @r#""unsupported_value" at "messages[0].content[0]": Unsupported value: 'messages[0].content[0]': image parts stand in messages of the user only."#);
    let answer = gate.post("/v2/tasks", &json!({"model_ref": "builtin", "messages": messages}).to_string()).await;
    assert_snapshot!(answer.json()["message"].as_str().unwrap(), @"`messages[0].content[0]`: images and recordings stand in messages of the user");
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn what_is_no_image_is_refused_before_it_is_queued() {
    let gate = Gate::scripted(seeing()).await;
    let mut told = String::new();
    for url in [
        "cat.png",
        "ftp://host/cat.png",
        "data:image/png;base64,~~~",
        "data:image/png",
        "data:image/png;base64,",
        "data:image/svg+xml;base64,PHN2Zy8+",
        "data:image/png;base64,iVBORw0KGgo=",
        "https://host/cat.png",
    ] {
        told += &format!("{url}\n    {}\n", refusal(&gate, &chat(&[image(url)])).await);
    }
    assert_snapshot!(told, @r#"
    cat.png
        "invalid_value" at "messages[0].content[1]": `messages[0].content[1]`: a data: URL, or an address that begins with https://
    ftp://host/cat.png
        "invalid_value" at "messages[0].content[1]": `messages[0].content[1]`: a data: URL, or an address that begins with https://
    data:image/png;base64,~~~
        "invalid_base64_image" at "messages[0].content[1]": Invalid value for 'messages[0].content[1]': the data is no base64.
    data:image/png
        "invalid_image_url" at "messages[0].content[1]": Invalid value for 'messages[0].content[1]': the data: URL is malformed; it is data:, a type such as image/png, ;base64, and the bytes in base64.
    data:image/png;base64,
        "empty_image_file" at "messages[0].content[1]": Invalid value for 'messages[0].content[1]': there is nothing in it.
    data:image/svg+xml;base64,PHN2Zy8+
        "unsupported_image_media_type" at "messages[0].content[1]": Invalid value for 'messages[0].content[1]': images are PNG, JPEG, WebP or GIF.
    data:image/png;base64,iVBORw0KGgo=
        "image_parse_error" at "messages[0].content[1]": Invalid value for 'messages[0].content[1]': the image is damaged.
    https://host/cat.png
        "unsupported_value" at "messages[0].content[1]": Unsupported value: 'messages[0].content[1]': images are not fetched from there; send the image itself, as a data: URL.
    "#);
    let unknown = json!({"type": "image_url", "image_url": {"url": data(), "detail": "blurred"}});
    assert_snapshot!(refusal(&gate, &chat(&[unknown])).await, @r#""invalid_value" at "messages[0].content[1].image_url.detail": Invalid value: 'blurred'. Supported values are: 'auto', 'low', 'high', 'original'."#);
    assert_snapshot!(refusal(&gate, &chat(&[json!({"type": "image_url"})])).await, @r#""missing_required_parameter" at "messages[0].content[1].image_url": Missing required parameter: 'messages[0].content[1].image_url'."#);
    assert_snapshot!(refusal(&gate, &chat(&[json!({"type": "file", "file": {"file_id": "a"}})])).await, @r#""unsupported_value" at "messages[0].content[1]": Unsupported value: 'messages[0].content[1]' does not support file parts with this model."#);
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn a_request_shows_so_much_at_most() {
    let limits = [("SLUICEGATE_MEDIA__MAX_ITEMS", "2"), ("SLUICEGATE_MEDIA__MAX_BYTES", "100")];
    let gate = Gate::with(seeing(), &limits).await;
    assert_eq!(gate.post("/v1/chat/completions", &chat(&[image(&data())])).await.status, StatusCode::OK);
    assert_snapshot!(refusal(&gate, &chat(&[image(&data()), image(&data())])).await, @r#""image_file_too_large" at "messages[0].content[2]": Invalid value for 'messages[0].content[2]': the images and recordings of a request have 100 bytes at most."#);
    assert_snapshot!(refusal(&gate, &chat(&[image(&data()), image(&data()), image(&data())])).await, @r#""invalid_value" at "messages[0].content[3]": Invalid value for 'messages[0].content[3]': a request shows 2 images and recordings at most."#);
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn a_recording_is_of_the_format_that_is_named() {
    let script = Script { modalities: vec![Modality::Text, Modality::Audio], ..says(&["hm"]) };
    let gate = Gate::scripted(script).await;
    assert_eq!(gate.post("/v1/chat/completions", &chat(&[sound(WAV, "wav")])).await.status, StatusCode::OK);
    assert_snapshot!(refusal(&gate, &chat(&[sound(WAV, "mp3")])).await, @r#""invalid_value" at "messages[0].content[1]": Invalid value for 'messages[0].content[1]': this is no recording of the format that is named; it is WAV or MP3."#);
    assert_snapshot!(refusal(&gate, &chat(&[sound("~", "mp3")])).await, @r#""invalid_value" at "messages[0].content[1]": Invalid value for 'messages[0].content[1]': the data is no base64."#);
    assert_snapshot!(refusal(&gate, &chat(&[sound(WAV, "flac")])).await, @r#""invalid_value" at "messages[0].content[1].input_audio.format": Invalid value: 'flac'. Supported values are: 'wav', 'mp3'."#);
    assert_snapshot!(refusal(&gate, &chat(&[sound(WAV, "wav"), image(&data())])).await, @r#""unsupported_value" at "messages[0].content[2]": Unsupported value: 'messages[0].content[2]' does not support image parts with this model."#);
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn models_and_capabilities_say_what_they_take() {
    let gate = Gate::scripted(seeing()).await;
    let both = json!(["text", "image"]);
    assert_eq!(gate.get("/v1/models/builtin").await.json()["sluicegate"]["modalities"], both);
    assert_eq!(gate.get("/v2/catalog/models/builtin").await.json()["modalities"], both);
    assert_eq!(gate.get("/v2/meta/capabilities").await.json()["pools"][0]["modalities"], both);
    gate.finish().await;
}

/// A server that has images, and things that are none.
struct Album {
    address: SocketAddr,
    asked: Arc<AtomicUsize>,
}

impl Album {
    async fn open() -> Self {
        let asked = Arc::new(AtomicUsize::new(0));
        let state = Arc::clone(&asked);
        let router = Router::new().route("/{what}", get(picture)).with_state(state);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { address, asked }
    }

    fn url(&self, what: &str) -> String {
        format!("http://{}/{what}", self.address)
    }

    async fn gate(&self, settings: &[(&str, &str)]) -> Gate {
        let trusted = [("SLUICEGATE_MEDIA__FETCH", "trusted"), ("SLUICEGATE_MEDIA__TRUSTED_HOSTS", r#"["127.0.0.1"]"#)];
        Gate::with(seeing(), &[&trusted, settings].concat()).await
    }
}

async fn picture(State(asked): State<Arc<AtomicUsize>>, Path(what): Path<String>) -> Response {
    asked.fetch_add(1, Ordering::SeqCst);
    let bytes = base64::Engine::decode(&base64::prelude::BASE64_STANDARD, PIXEL).unwrap();
    match what.as_str() {
        "pixel" => bytes.into_response(),
        "moved" => Redirect::temporary("/pixel").into_response(),
        "elsewhere" => Redirect::temporary("https://example.com/pixel").into_response(),
        "text" => "no image at all".into_response(),
        "endless" => {
            let chunks = futures_util::stream::repeat(bytes).map(Ok::<_, std::io::Error>);
            Body::from_stream(chunks).into_response()
        }
        "cut" => (
            [("content-length", "100")],
            Body::from_stream(futures_util::stream::iter([Ok::<_, std::io::Error>(bytes)])),
        )
            .into_response(),
        "never" => std::future::pending().await,
        _ => StatusCode::NOT_FOUND.into_response(),
    }
}

#[tokio::test]
async fn an_image_is_got_from_a_host_that_is_trusted() {
    let album = Album::open().await;
    let gate = album.gate(&[("SLUICEGATE_MEDIA__MAX_BYTES", "1000")]).await;
    for good in ["pixel", "moved"] {
        let answer = gate.post("/v1/chat/completions", &chat(&[image(&album.url(good))])).await;
        assert_eq!(answer.status, StatusCode::OK, "{good}: {}", answer.body);
    }
    let mut told = String::new();
    for bad in ["gone", "text", "endless", "elsewhere"] {
        told += &format!("{bad}\n    {}\n", refusal(&gate, &chat(&[image(&album.url(bad))])).await);
    }
    assert_snapshot!(told, @r#"
    gone
        "failed_to_download_image" at "messages[0].content[1]": Invalid value for 'messages[0].content[1]': the server answers with status 404.
    text
        "unsupported_image_media_type" at "messages[0].content[1]": Invalid value for 'messages[0].content[1]': images are PNG, JPEG, WebP or GIF.
    endless
        "image_file_too_large" at "messages[0].content[1]": Invalid value for 'messages[0].content[1]': the images and recordings of a request have 1000 bytes at most.
    elsewhere
        "unsupported_value" at "messages[0].content[1]": Unsupported value: 'messages[0].content[1]': images are not fetched from there; send the image itself, as a data: URL.
    "#);
    // Before its head or after it, as it happens.
    let cut = refusal(&gate, &chat(&[image(&album.url("cut"))])).await;
    assert!(cut.starts_with(r#""failed_to_download_image" at "messages[0].content[1]""#), "{cut}");
    gate.finish().await;
}

#[tokio::test]
async fn each_turn_asks_again_for_an_image_that_a_stored_response_has_by_its_address() {
    let album = Album::open().await;
    let gate = album.gate(&[]).await;
    for (url, times) in [(album.url("pixel"), [1, 2, 3]), (data(), [3, 3, 3])] {
        let parts = json!([{"type": "input_text", "text": "what is this"}, {"type": "input_image", "image_url": url}]);
        let mut body = json!({"model": "builtin", "input": [{"role": "user", "content": parts}]});
        for times in times {
            let response = gate.post("/v1/responses", &body.to_string()).await;
            assert_eq!(response.status, StatusCode::OK, "{}", response.body);
            assert_eq!(album.asked.load(Ordering::SeqCst), times);
            body = json!({"model": "builtin", "input": "and now", "previous_response_id": response.json()["id"]});
        }
    }
    gate.finish().await;
}

#[tokio::test]
async fn an_image_that_does_not_come_is_not_waited_for() {
    let album = Album::open().await;
    let gate = album.gate(&[("SLUICEGATE_MEDIA__FETCH_DEADLINE_MS", "200")]).await;
    assert_snapshot!(refusal(&gate, &chat(&[image(&album.url("never"))])).await, @r#""failed_to_download_image" at "messages[0].content[1]": Invalid value for 'messages[0].content[1]': it did not come within 200 ms."#);
    gate.finish().await;
}

#[tokio::test]
async fn nothing_is_got_from_where_it_is_not_allowed() {
    let album = Album::open().await;
    for settings in [
        &[][..],
        &[("SLUICEGATE_MEDIA__FETCH", "trusted")],
        &[("SLUICEGATE_MEDIA__FETCH", "public")],
        &[("SLUICEGATE_MEDIA__FETCH", "none"), ("SLUICEGATE_MEDIA__TRUSTED_HOSTS", r#"["127.0.0.1"]"#)],
    ] {
        let gate = Gate::with(seeing(), settings).await;
        refusal(&gate, &chat(&[image(&album.url("pixel"))])).await;
        gate.finish().await;
    }
    // Nor for a model that takes no images, or a request that is wrong.
    let trusted = [("SLUICEGATE_MEDIA__FETCH", "trusted"), ("SLUICEGATE_MEDIA__TRUSTED_HOSTS", r#"["127.0.0.1"]"#)];
    let gate = Gate::with(says(&["no"]), &trusted).await;
    refusal(&gate, &chat(&[image(&album.url("pixel"))])).await;
    gate.finish().await;
    let gate = album.gate(&[]).await;
    let wrong = chat(&[image(&album.url("pixel"))]).replacen("{\"", "{\"temperature\": 7, \"", 1);
    refusal(&gate, &wrong).await;
    gate.finish().await;
    assert_eq!(album.asked.load(Ordering::SeqCst), 0);
    let gate = Gate::with(seeing(), &[("SLUICEGATE_MEDIA__FETCH", "public")]).await;
    let private = album.url("pixel").replace("http:", "https:");
    assert_snapshot!(refusal(&gate, &chat(&[image(&private)])).await.replace(&album.address.to_string(), "<address>"), @r#""invalid_image_url" at "messages[0].content[1]": Invalid value for 'messages[0].content[1]': https://<address>/pixel leads to an address of a private network."#);
    gate.finish().await;
}

#[tokio::test]
async fn a_task_that_is_kept_is_kept_with_its_image() {
    let (album, folder) = (Album::open().await, TempDir::new().unwrap());
    let store = format!("sqlite:{}/test.db", folder.path().display());
    let store = ("SLUICEGATE_STORE__URL", store.as_str());
    let script = || Script { slots: 1, ..seeing() };
    let trusted = [("SLUICEGATE_MEDIA__FETCH", "trusted"), ("SLUICEGATE_MEDIA__TRUSTED_HOSTS", r#"["127.0.0.1"]"#)];
    let endless = Script { repeat: true, ..script() };
    let first = Gate::with(endless, &[&trusted[..], &[store]].concat()).await;
    first.submit(r#"{"model_ref": "builtin", "prompt": "takes the only slot", "max_tokens": 8000}"#).await;
    let messages: Value = serde_json::from_str(&chat(&[image(&album.url("pixel"))])).unwrap();
    let id = first.submit(&json!({"model_ref": "builtin", "messages": messages["messages"]}).to_string()).await;
    assert_eq!(first.get(&format!("/v2/tasks/{id}")).await.json()["state"], "queued");
    first.crash().await;

    // Nothing may be fetched here.
    let second = Gate::with(script(), &[store]).await;
    let events = second.events(&id).await;
    assert!(events.contains(r#""finish_reason":"stop""#), "{events}");
    assert_eq!(album.asked.load(Ordering::SeqCst), 1);
    second.finish().await;
}
