//! Models that are taken out of memory and off the disk, as operators and clients see it.

use std::path::Path;

use axum::http::StatusCode;
use insta::assert_snapshot;
use serde_json::{Value, json};
use sluicegate::engine::scripted::Script;

use crate::harness::{Answer, Gate, masked};

const TASK: &str = r#"{"model_ref": "builtin", "prompt": "say it", "max_tokens": 500}"#;

/// One slot, and answers of 500 tokens: 5 s each.
fn long() -> Script {
    Script { slots: 1, ..Script::default() }
}

async fn purge(gate: &Gate, body: Value) -> Answer {
    gate.post("/v2/pools/default/purge", &body.to_string()).await
}

async fn health(gate: &Gate) -> Value {
    gate.get("/v2/pools/default/health").await.json()
}

/// Purges, waits (in virtual time) until that has ended, and returns the pool's health then.
async fn purged(gate: &Gate, body: Value) -> Value {
    let answer = purge(gate, body).await;
    assert_eq!(answer.status, StatusCode::ACCEPTED, "{}", answer.body);
    assert_eq!(answer.json()["purge"]["state"], "running");
    ended(gate).await
}

async fn ended(gate: &Gate) -> Value {
    gate.until("/v2/pools/default/health", |health| health["purge"]["state"] != "running").await
}

async fn reason(gate: &Gate, id: &str) -> Value {
    gate.events(id).await;
    gate.get(&format!("/v2/tasks/{id}")).await.json()["finish_reason"].clone()
}

/// A repository that was downloaded: 100 bytes of weights, a record and a lock.
fn download(data: &Path, repo: &str) -> std::path::PathBuf {
    let home = data.join("hub").join(repo);
    for folder in ["commit", "refs"] {
        std::fs::create_dir_all(home.join(folder)).unwrap();
    }
    std::fs::write(home.join("commit/model.safetensors"), [7; 100]).unwrap();
    std::fs::write(home.join("refs/main.json"), "{}").unwrap();
    std::fs::write(home.join("lock"), "").unwrap();
    home
}

#[tokio::test(start_paused = true)]
async fn a_pool_without_its_model_takes_nothing_until_it_is_reloaded() {
    let gate = Gate::scripted(long()).await;
    let health = purged(&gate, json!({})).await;
    assert_snapshot!(masked(&health["purge"].to_string()), @r#"{"state":"succeeded","phase":"deleting","models":["builtin"],"freed_bytes":0,"error":null,"started_at_ms":<time>,"ended_at_ms":<time>}"#);
    assert_eq!(
        (&health["live"], &health["ready"], &health["model_digest"]),
        (&true.into(), &false.into(), &Value::Null)
    );
    assert_eq!(health["replicas"][0]["state"], "unloaded");
    let refused = gate.post("/v2/tasks", TASK).await;
    assert_eq!((refused.status, &refused.json()["code"]), (StatusCode::SERVICE_UNAVAILABLE, &"POOL_UNREADY".into()));
    assert_eq!(gate.get("/readyz").await.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(gate.get("/v1/models").await.json()["data"][0]["sluicegate"]["pool_state"], "unloaded");
    // Again, with nothing left to unload.
    assert_eq!(purged(&gate, json!({"force": true})).await["purge"]["state"], "succeeded");
    let reload = gate.post("/v2/pools/default/reload", r#"{"new_model_ref": "builtin"}"#).await;
    assert_eq!(reload.status, StatusCode::ACCEPTED);
    gate.recovered().await;
    assert_eq!(reason(&gate, &gate.submit(TASK).await).await, "length");
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn tasks_hinder_a_purge_or_end_first_or_are_cancelled() {
    let gate = Gate::scripted(long()).await;
    let tasks = [gate.submit(TASK).await, gate.submit(TASK).await];
    let refused = purge(&gate, json!({})).await;
    assert_eq!((refused.status, &refused.json()["code"]), (StatusCode::CONFLICT, &"CONFLICT".into()));
    assert_eq!(purge(&gate, json!({"drain_first": true})).await.status, StatusCode::ACCEPTED);
    let during = health(&gate).await;
    assert_eq!((&during["ready"], &during["purge"]["phase"]), (&false.into(), &"draining".into()));
    assert_eq!(gate.post("/v2/tasks", TASK).await.status, StatusCode::SERVICE_UNAVAILABLE);
    let second = purge(&gate, json!({"force": true})).await;
    assert_eq!(second.json()["message"], "a purge of this pool is under way");
    let reload = gate.post("/v2/pools/default/reload", r#"{"new_model_ref": "builtin"}"#).await;
    assert_eq!(reload.json()["message"], "a purge of this pool is under way");
    for id in &tasks {
        assert_eq!(reason(&gate, id).await, "length");
    }
    assert_eq!(ended(&gate).await["replicas"][0]["state"], "unloaded");

    gate.post("/v2/pools/default/reload", r#"{"new_model_ref": "builtin"}"#).await;
    gate.recovered().await;
    let tasks = [gate.submit(TASK).await, gate.submit(TASK).await];
    assert_eq!(purged(&gate, json!({"force": true})).await["purge"]["state"], "succeeded");
    for id in &tasks {
        assert_eq!(reason(&gate, id).await, "canceled");
    }
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn what_waits_goes_to_another_pool_first() {
    let pools = r#"[{ id = "default", engine = "scripted" }, { id = "b", engine = "scripted" }]"#;
    let gate = Gate::with(long(), &[("SLUICEGATE_POOLS", pools)]).await;
    let mut ids = Vec::new();
    for _ in 0..4 {
        ids.push(gate.submit(TASK).await);
    }
    purged(&gate, json!({"force": true})).await;
    let mut reasons = Vec::new();
    for id in &ids {
        reasons.push(reason(&gate, id).await);
    }
    // Only what ran there was cancelled.
    assert_eq!(reasons, ["canceled", "length", "length", "length"]);
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn downloads_are_deleted_where_no_other_pool_needs_them() {
    let data = tempfile::tempdir().unwrap();
    let (needed, old) = (download(data.path(), "a--needed"), download(data.path(), "a--old"));
    let own = data.path().join("own");
    std::fs::create_dir(&own).unwrap();
    std::fs::write(own.join("model.safetensors"), "mine").unwrap();
    let entry = |id: &str, source: &str| format!(r#"{{ id = "{id}", source = "{source}" }}"#);
    let file = format!("file:{}", own.display());
    let models = [
        entry("needed", "hf:a/needed"),
        entry("same", "hf:a/needed@v2"),
        entry("old", "hf:a/old"),
        entry("own", &file),
    ];
    let models = format!("[{}]", models.join(", "));
    let roots = format!("[\"{}\"]", own.display());
    let pools = r#"[{ id = "default", engine = "scripted" }, { id = "b", engine = "scripted", model = "needed" }]"#;
    let path = data.path().display().to_string();
    let settings = [
        ("SLUICEGATE_DATA_DIR", path.as_str()),
        ("SLUICEGATE_CATALOG__MODELS", &models),
        ("SLUICEGATE_CATALOG__ALLOWED_FILE_ROOTS", &roots),
        ("SLUICEGATE_POOLS", pools),
    ];
    let gate = Gate::with(long(), &settings).await;
    let running = gate.submit(TASK).await;
    // Another revision of it is in the same folder.
    for model in ["needed", "same"] {
        let refused = purge(&gate, json!({"purge_models": [model], "delete_cache_dirs": true, "force": true})).await;
        assert_eq!(
            (refused.status, &refused.json()["pool_id"]),
            (StatusCode::CONFLICT, &"b".into()),
            "{}",
            refused.body
        );
    }
    let health = purged(&gate, json!({"purge_models": ["hf:a/old", "own"], "delete_cache_dirs": true})).await;
    assert_eq!(health["purge"]["models"], json!(["old", "own"]));
    assert_eq!((&health["purge"]["state"], &health["purge"]["freed_bytes"]), (&"succeeded".into(), &102.into()));
    assert!(!old.join("commit").exists() && !old.join("refs").exists());
    assert!(needed.join("commit/model.safetensors").exists() && own.join("model.safetensors").exists());
    // Files that nobody downloaded are nobody's to delete, whichever pool needs them.
    let health = purged(&gate, json!({"purge_models": ["own"], "delete_cache_dirs": true})).await;
    assert_eq!((&health["purge"]["state"], &health["purge"]["freed_bytes"]), (&"succeeded".into(), &0.into()));
    assert!(own.join("model.safetensors").exists());
    // The pool has another model, and goes on.
    assert_eq!(health["ready"], true);
    assert_eq!(reason(&gate, &running).await, "length");
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn what_makes_no_sense_is_refused_by_name() {
    let gate = Gate::scripted(long()).await;
    let many = vec!["builtin"; 65];
    for (body, status, param) in [
        (json!({"purge_models": []}), StatusCode::BAD_REQUEST, "purge_models"),
        (json!({"purge_models": many}), StatusCode::BAD_REQUEST, "purge_models"),
        (json!({"purge_models": ["builtin", "gpt-9"]}), StatusCode::NOT_FOUND, "purge_models[1]"),
        (json!({"force": "yes"}), StatusCode::BAD_REQUEST, "force"),
        (json!({"force": true, "drain_first": true}), StatusCode::BAD_REQUEST, "force"),
        (json!({"now": true}), StatusCode::BAD_REQUEST, "now"),
    ] {
        let refused = purge(&gate, body).await;
        assert_eq!((refused.status, &refused.json()["param"]), (status, &param.into()), "{}", refused.body);
    }
    let id = gate.submit(TASK).await;
    purge(&gate, json!({"drain_first": true})).await;
    gate.lifecycle.shutdown();
    let health = ended(&gate).await;
    assert_eq!(health["purge"]["error"], "the gateway is shutting down");
    assert_eq!(reason(&gate, &id).await, "length");
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn what_was_recorded_of_a_model_is_forgotten() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["config.json", "tokenizer.json", "model.safetensors"] {
        std::fs::write(folder.path().join(name), name).unwrap();
    }
    let models = format!(r#"[{{ id = "m", source = "file:{}" }}]"#, folder.path().display());
    let roots = format!("[\"{}\"]", folder.path().display());
    let settings =
        [("SLUICEGATE_CATALOG__MODELS", models.as_str()), ("SLUICEGATE_CATALOG__ALLOWED_FILE_ROOTS", roots.as_str())];
    let gate = Gate::with(long(), &settings).await;
    let verify = async || {
        gate.post("/v2/catalog/models/m/verify", "").await;
        let ended = |model: &Value| model["verification"]["state"] == "ended";
        gate.until("/v2/catalog/models/m", ended).await["trust"].clone()
    };
    assert_eq!(verify().await, "verified");
    std::fs::write(folder.path().join("model.safetensors"), "others").unwrap();
    assert_eq!(verify().await, "failed");
    purged(&gate, json!({"purge_models": ["m"]})).await;
    let model = gate.get("/v2/catalog/models/m").await.json();
    assert_eq!((&model["trust"], &model["digest"], &model["files"]), (&"unverified".into(), &Value::Null, &json!([])));
    assert_eq!(verify().await, "verified");
    gate.finish().await;
}
