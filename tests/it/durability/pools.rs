//! What operators did to pools, in the next process.

use std::path::Path;
use std::sync::Arc;

use axum::http::StatusCode;
use serde_json::{Value, json};
use sluicegate::engine::scripted::{Script, ScriptedEngine};
use sluicegate::engine::{LoadError, Room};
use tempfile::TempDir;

use super::{endless, gate};
use crate::harness::{Gate, says};

const HEALTH: &str = "/v2/pools/default/health";
const MODELS: &str = r#"[{ id = "old", source = "hf:a/old" }, { id = "next", source = "hf:a/next" }]"#;

/// Over the database in `folder`, with a pool whose model is `model` in the configuration.
async fn serving(folder: &Path, model: &str) -> Gate {
    let settings = [("SLUICEGATE_CATALOG__MODELS", MODELS), ("SLUICEGATE_POOLS__0__MODEL", model)];
    gate(folder, says(&["done"]), &settings).await
}

async fn reload(gate: &Gate, model: &str) -> Value {
    let answer = gate.post("/v2/pools/default/reload", &json!({"new_model_ref": model}).to_string()).await;
    assert_eq!(answer.status, StatusCode::ACCEPTED, "{}", answer.body);
    gate.until(HEALTH, |health| health["reloading"] == false).await
}

async fn model(gate: &Gate) -> Value {
    gate.get(HEALTH).await.json()["model_ref"].clone()
}

async fn serves(gate: &Gate, model: &str) -> bool {
    let task = json!({"model_ref": model, "prompt": "say it", "max_tokens": 5}).to_string();
    gate.post("/v2/tasks", &task).await.status == StatusCode::ACCEPTED
}

#[tokio::test(start_paused = true)]
async fn a_pool_comes_back_with_the_model_that_it_was_reloaded_with_last() {
    let folder = TempDir::new().unwrap();
    let first = serving(folder.path(), "builtin").await;
    reload(&first, "old").await;
    reload(&first, "next").await;
    first.crash().await;

    let second = serving(folder.path(), "builtin").await;
    let health = second.get(HEALTH).await.json();
    let told = ["model_ref", "ready", "last_error", "reload"].map(|name| &health[name]);
    assert_eq!(json!(told), json!(["next", true, null, null]));
    assert!(serves(&second, "next").await && !serves(&second, "builtin").await);
    second.settle().await;
    // The configuration's own is nothing to remember.
    reload(&second, "builtin").await;
    second.crash().await;
    let third = serving(folder.path(), "builtin").await;
    assert_eq!(model(&third).await, "builtin");
    third.finish().await;
}

#[tokio::test(start_paused = true)]
async fn a_changed_configuration_wins_and_what_was_reloaded_is_forgotten() {
    let folder = TempDir::new().unwrap();
    let first = serving(folder.path(), "builtin").await;
    reload(&first, "next").await;
    first.crash().await;
    for configured in ["old", "builtin"] {
        let later = serving(folder.path(), configured).await;
        assert_eq!(model(&later).await, configured);
        later.crash().await;
    }
}

/// Over the database in `folder`; engines are made so.
async fn making(
    folder: &Path,
    make: impl Fn(u32) -> Result<ScriptedEngine, LoadError> + Send + Sync + 'static,
) -> Gate {
    let url = format!("sqlite:{}/test.db", folder.display());
    let settings = [("SLUICEGATE_STORE__URL", url.as_str()), ("SLUICEGATE_CATALOG__MODELS", MODELS)];
    Gate::loading(Arc::new(make), Arc::new(|_| Ok(Room::Beside)), &settings).await
}

#[tokio::test(start_paused = true)]
async fn where_that_model_cannot_be_loaded_the_pool_has_its_own_and_says_why() {
    let folder = TempDir::new().unwrap();
    let engine = || Ok(ScriptedEngine::new(Script::default()));
    let first = making(folder.path(), move |number| match number {
        2 => Err(LoadError("the disk is gone".into())),
        _ => engine(),
    })
    .await;
    assert_eq!(reload(&first, "next").await["model_ref"], "next");
    let failed = reload(&first, "old").await;
    assert_eq!(failed["last_error"], "the reload with old failed: the disk is gone");
    first.crash().await;

    let second = making(folder.path(), move |number| match number {
        0 => Err(LoadError("the files are gone".into())),
        _ => engine(),
    })
    .await;
    let health = second.get(HEALTH).await.json();
    let told = ["model_ref", "ready", "last_error"].map(|name| &health[name]);
    assert_eq!(json!(told), json!(["builtin", true, "the reload with next failed: the files are gone"]));
    second.crash().await;
    // The files are there again.
    let third = making(folder.path(), move |_| engine()).await;
    assert_eq!(model(&third).await, "next");
    third.finish().await;
}

#[tokio::test(start_paused = true)]
async fn a_model_that_was_purged_is_not_loaded_again() {
    let folder = TempDir::new().unwrap();
    let first = serving(folder.path(), "builtin").await;
    reload(&first, "next").await;
    assert_eq!(first.post("/v2/pools/default/purge", "{}").await.status, StatusCode::ACCEPTED);
    first.until(HEALTH, |health| health["purge"]["state"] == "succeeded").await;
    first.crash().await;
    let second = serving(folder.path(), "builtin").await;
    assert_eq!(model(&second).await, "builtin");
    second.finish().await;
}

async fn drain(gate: &Gate, deadline_ms: u64) {
    let answer = gate.post("/v2/pools/default/drain", &json!({"deadline_ms": deadline_ms}).to_string()).await;
    assert_eq!((answer.status, &answer.json()["draining"]), (StatusCode::ACCEPTED, &true.into()));
}

#[tokio::test(start_paused = true)]
async fn a_pool_that_drains_goes_on_draining_until_it_is_resumed() {
    let folder = TempDir::new().unwrap();
    let first = gate(folder.path(), endless(), &[]).await;
    let task = json!({"model_ref": "builtin", "prompt": "say it", "max_tokens": 300}).to_string();
    first.submit(&task).await;
    let waited = first.submit(&task).await;
    drain(&first, 3_600_000).await;
    first.crash().await;

    // What had waited is served until the deadline.
    let second = gate(folder.path(), says(&["done"]), &[]).await;
    assert!(second.events(&waited).await.contains(r#""finish_reason":"stop""#));
    assert_eq!(second.get(HEALTH).await.json()["draining"], true);
    assert!(!serves(&second, "builtin").await);
    drain(&second, 0).await;
    second.crash().await;

    let third = gate(folder.path(), says(&["done"]), &[]).await;
    assert_eq!(third.get(HEALTH).await.json()["draining"], true);
    assert_eq!(third.get("/readyz").await.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(third.post("/v2/pools/default/resume", "").await.json()["draining"], false);
    third.crash().await;

    let fourth = gate(folder.path(), says(&["done"]), &[]).await;
    assert!(serves(&fourth, "builtin").await);
    fourth.finish().await;
}

#[tokio::test(start_paused = true)]
async fn what_waited_elsewhere_does_not_come_into_a_pool_that_has_drained() {
    let folder = TempDir::new().unwrap();
    let pools = r#"[{ id = "default", engine = "scripted" }, { id = "spare", engine = "scripted" }]"#;
    let settings = [("SLUICEGATE_POOLS", pools)];
    let first = gate(folder.path(), endless(), &settings).await;
    drain(&first, 0).await;
    let task = json!({"model_ref": "builtin", "prompt": "say it", "max_tokens": 300}).to_string();
    first.submit(&task).await;
    let waited = [first.submit(&task).await, first.submit(&task).await];
    first.crash().await;
    let second = gate(folder.path(), says(&["done"]), &settings).await;
    for id in waited {
        assert!(second.events(&id).await.contains(r#""finish_reason":"stop""#));
        assert_eq!(second.get(&format!("/v2/tasks/{id}")).await.json()["pool_id"], "spare");
    }
    second.finish().await;
}

#[tokio::test(start_paused = true)]
async fn what_was_done_to_a_pool_is_forgotten_with_it() {
    let folder = TempDir::new().unwrap();
    let first = serving(folder.path(), "builtin").await;
    drain(&first, 0).await;
    first.crash().await;
    let other = [("SLUICEGATE_POOLS", r#"[{ id = "other", engine = "scripted" }]"#)];
    gate(folder.path(), says(&["done"]), &other).await.crash().await;
    let third = serving(folder.path(), "builtin").await;
    assert_eq!(third.get(HEALTH).await.json()["draining"], false);
    assert_eq!(third.app.store.pools().await.unwrap(), []);
    third.finish().await;
}
