//! The catalog of a started gateway, with the real engine behind it.

use std::path::{Path, PathBuf};

use axum::Router;
use axum::extract::Request;
use axum::http::StatusCode;
use axum::response::IntoResponse as _;
use serde_json::{Value, json};

use super::commands::sluicegate;
use super::reload::{other_model, outcome, reload, submit};
use super::running::{Running, eventually};

const MODELS: &str = "/v2/catalog/models";

/// Verifies a model, and returns it once that has ended.
async fn verify(gateway: &Running, id: &str) -> Value {
    let path = format!("{MODELS}/{id}");
    assert_eq!(gateway.post(&format!("{path}/verify"), &json!({})).await.status(), 202);
    eventually("the verification has ended", async || {
        gateway.get_json(&path).await["verification"]["state"] == "ended"
    })
    .await;
    gateway.get_json(&path).await
}

/// What a task for a model is answered with: the status, and the code of an error.
async fn answered(gateway: &Running, model: &str) -> (u16, Value) {
    let task = json!({"model_ref": model, "prompt": "x", "max_tokens": 1});
    let answer = gateway.post("/v2/tasks", &task).await;
    (answer.status().as_u16(), answer.json::<Value>().await.unwrap()["code"].clone())
}

fn flip(path: &Path) {
    let mut bytes = std::fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(path, bytes).unwrap();
}

#[tokio::test]
async fn a_model_of_the_disk_is_added_verified_retired_and_deleted() {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("small");
    std::fs::create_dir(&folder).unwrap();
    other_model(&folder);
    let roots = format!("[\"{}\"]", root.path().display());
    let gateway = Running::real(&[("CATALOG__ALLOWED_FILE_ROOTS", &roots), ("POOLS__0__SLOTS", "1")]);
    let entry = json!({"id": "small", "source": format!("file:{}", folder.display()), "aliases": ["s"]});
    assert_eq!(gateway.post(MODELS, &entry).await.status(), 201);
    assert_eq!(answered(&gateway, "s").await, (503, "POOL_UNAVAILABLE".into()));
    let verified = verify(&gateway, "small").await;
    assert_eq!((&verified["trust"], &verified["verification"]["outcome"]), (&"verified".into(), &"passed".into()));
    assert_eq!(reload(&gateway, "small").await["model_digest"], verified["digest"]);
    submit(&gateway, "s", 1).await;

    let weights = folder.join("model.safetensors");
    flip(&weights);
    let changed = verify(&gateway, "small").await;
    assert_eq!(
        (&changed["trust"], &changed["verification"]["reason"]),
        (&"failed".into(), &"model.safetensors has changed".into())
    );
    assert_eq!(answered(&gateway, "small").await, (422, "UNTRUSTED_ARTIFACT".into()));
    flip(&weights);
    assert_eq!(verify(&gateway, "small").await["trust"], "verified");
    assert_eq!(answered(&gateway, "small").await, (202, Value::Null));

    let state = async |state: &str| {
        let answer = gateway.post(&format!("{MODELS}/small/state"), &json!({"state": state})).await;
        assert_eq!(answer.status(), 202);
    };
    state("Retired").await;
    assert_eq!(answered(&gateway, "small").await, (410, "MODEL_DEPRECATED".into()));
    state("Active").await;
    assert_eq!(answered(&gateway, "small").await, (202, Value::Null));

    let delete = async || {
        gateway.client().delete(gateway.url(&format!("{MODELS}/small"))).send().await.unwrap().status().as_u16()
    };
    assert_eq!(delete().await, 409, "a pool has it");
    reload(&gateway, "builtin").await;
    assert_eq!(delete().await, 204);
    assert_eq!(answered(&gateway, "small").await, (404, "NOT_FOUND".into()));
    assert!(weights.exists(), "the files are the operator's");
    gateway.idle().await;
}

#[tokio::test]
async fn no_source_leads_out_of_the_roots_or_into_a_private_network() {
    let (root, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    other_model(outside.path());
    std::os::unix::fs::symlink(outside.path(), root.path().join("away")).unwrap();
    let roots = format!("[\"{}\"]", root.path().display());
    let gateway = Running::real(&[("CATALOG__ALLOWED_FILE_ROOTS", &roots)]);
    let port = gateway.url("").rsplit(':').next().unwrap().to_owned();
    for (source, why) in [
        (format!("file:{}", outside.path().display()), "is in no folder of catalog.allowed_file_roots"),
        (format!("file:{}/away", root.path().display()), "is in no folder of catalog.allowed_file_roots"),
        (format!("https://127.0.0.1:{port}/m.gguf"), "leads to an address of a private network"),
        ("https://[::ffff:169.254.169.254]/latest".to_owned(), "leads to an address of a private network"),
        (format!("http://localhost:{port}/m.gguf"), "is not encrypted"),
    ] {
        let answer = gateway.post(MODELS, &json!({"id": "x", "source": source})).await;
        assert_eq!(answer.status(), 400, "{source}");
        let error: Value = answer.json().await.unwrap();
        assert_eq!(error["param"], "source");
        assert!(error["message"].as_str().unwrap().contains(why), "{error}");
    }
    // What a name leads to is seen when the files are fetched.
    let entry = json!({"id": "near", "source": format!("https://localhost:{port}/m.gguf")});
    assert_eq!(gateway.post(MODELS, &entry).await.status(), 201);
    let health = reload(&gateway, "near").await;
    let error = health["last_error"].as_str().unwrap();
    assert!(error.contains("leads to an address of a private network"), "{error}");
    gateway.idle().await;
}

/// Serves the files below a folder.
async fn file_server(folder: PathBuf) -> u16 {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let router = Router::new().fallback(move |request: Request| {
        let path = folder.join(request.uri().path().trim_start_matches('/'));
        async move {
            match std::fs::read(path) {
                Ok(bytes) => bytes.into_response(),
                Err(_) => StatusCode::NOT_FOUND.into_response(),
            }
        }
    });
    tokio::spawn(async move { axum::serve(listener, router).await });
    port
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_is_pulled_from_a_web_server_and_loaded_when_a_task_asks_for_it() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("small")).unwrap();
    other_model(&folder.path().join("small"));
    let port = file_server(folder.path().to_owned()).await;
    let gateway = Running::real(&[
        ("CATALOG__WEB__TRUSTED_HOSTS", r#"["127.0.0.1"]"#),
        ("ADMISSION__PROVISION", "on-demand"),
        ("POOLS__0__ON_DEMAND", "true"),
        ("POOLS__0__SLOTS", "1"),
    ]);
    let url = gateway.url("");
    let pull = |reference: &str| {
        tokio::task::block_in_place(|| sluicegate(&["model", "pull", reference, "--json", "--url", &url], ""))
    };
    let pulled = pull(&format!("http://127.0.0.1:{port}/small")).json();
    assert_eq!((&pulled["id"], &pulled["trust"]), (&"small".into(), &"verified".into()), "{pulled}");
    assert_eq!(pull("small").json()["digest"], pulled["digest"]);
    for (reference, why) in [
        (format!("http://127.0.0.1:{port}/nothing"), "the server has no file config.json there (404)"),
        ("https://localhost:1/m.gguf".to_owned(), "leads to an address of a private network"),
        ("unheard-of".to_owned(), "the catalog has no model \"unheard-of\""),
    ] {
        let failed = pull(&reference);
        assert!(failed.code == Some(1) && failed.stderr.contains(why), "{}", failed.stderr);
    }
    let (digest, _) = outcome(&gateway, &submit(&gateway, "small", 1).await).await;
    assert_eq!(pulled["digest"], digest.as_str());
    // And back.
    let (digest, _) = outcome(&gateway, &submit(&gateway, "builtin", 1).await).await;
    assert_ne!(pulled["digest"], digest.as_str());
    gateway.idle().await;
}
