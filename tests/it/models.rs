//! The catalog while the gateway runs, as operators and clients see it.

use std::path::Path;

use axum::body::Body;
use axum::http::StatusCode;
use insta::assert_snapshot;
use serde_json::{Value, json};
use sluicegate::engine::scripted::Script;

use crate::harness::{Answer, Gate, masked, read, request, says};

const MODELS: &str = "/v2/catalog/models";
const TASK: &str = r#"{"model_ref": "m", "prompt": "say it", "max_tokens": 500}"#;

/// A folder that holds all that makes a model.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for name in ["config.json", "tokenizer.json", "model.safetensors"] {
        std::fs::write(folder.path().join(name), name).unwrap();
    }
    folder
}

/// A gateway whose pool serves the model `m`, which lies in `folder`.
async fn serving(script: Script, folder: &Path, more: &[(&str, &str)]) -> Gate {
    let models = format!("[{{ id = \"m\", source = \"file:{}\" }}]", folder.display());
    let roots = format!("[\"{}\"]", folder.display());
    let mut settings = vec![
        ("SLUICEGATE_CATALOG__MODELS", models.as_str()),
        ("SLUICEGATE_CATALOG__ALLOWED_FILE_ROOTS", roots.as_str()),
        ("SLUICEGATE_POOLS__0__MODEL", "m"),
    ];
    settings.extend(more);
    Gate::with(script, &settings).await
}

async fn delete(gate: &Gate, id: &str) -> Answer {
    read(gate.send(request("DELETE", &format!("{MODELS}/{id}"), Body::empty())).await).await
}

async fn set_state(gate: &Gate, id: &str, body: Value) {
    let answer = gate.post(&format!("{MODELS}/{id}/state"), &body.to_string()).await;
    assert_eq!((answer.status, &answer.json()["state"]), (StatusCode::ACCEPTED, &body["state"]), "{}", answer.body);
}

/// Verifies a model and waits until that has ended.
async fn verify(gate: &Gate, id: &str) -> Value {
    let started = gate.post(&format!("{MODELS}/{id}/verify"), "").await;
    assert_eq!(started.status, StatusCode::ACCEPTED, "{}", started.body);
    gate.until(&format!("{MODELS}/{id}"), |model| model["verification"]["state"] == "ended").await
}

#[tokio::test(start_paused = true)]
async fn a_model_is_added_found_by_each_of_its_names_and_removed() {
    let gate = Gate::scripted(says(&["hi"])).await;
    let digest = format!("sha256:{}", "Ab".repeat(32));
    let body = json!({"id": "org/small", "source": "hf:org/model", "aliases": ["s"], "digest": digest, "quantization": "q4k", "price": {"input_per_mtok": 1}});
    let created = gate.post(MODELS, &body.to_string()).await;
    assert_eq!(created.status, StatusCode::CREATED);
    let mut shown = created.json();
    shown["digest"] = shown["digest"].as_str().unwrap()[..11].into();
    assert_snapshot!(masked(&shown.to_string()), @r#"{"id":"org/small","aliases":["s"],"source":"hf:org/model@main","digest":"sha256:abab","quantization":"q4k","price":{"input_per_mtok":1,"cached_input_per_mtok":0,"output_per_mtok":0,"engine_second":0},"state":"Active","trust":"unverified","configured":false,"files":[],"verification":{"state":"never","started_at_ms":null,"ended_at_ms":null,"bytes_done":0,"bytes_total":0,"outcome":null,"reason":null},"created_at_ms":<time>,"updated_at_ms":<time>,"workloads":[],"modalities":[],"pools":[]}"#);
    for name in ["org%2Fsmall", "s", "hf:org%2Fmodel"] {
        assert_eq!(gate.get(&format!("{MODELS}/{name}")).await.body, created.body, "{name}");
    }
    set_state(&gate, "s", json!({"state": "Retired"})).await;
    assert_eq!(gate.get(&format!("{MODELS}/s")).await.json()["state"], "Retired");
    set_state(&gate, "s", json!({"state": "Active"})).await;
    let ids = |list: Value| list["models"].as_array().unwrap().iter().map(|it| it["id"].clone()).collect::<Vec<_>>();
    assert_eq!(ids(gate.get(MODELS).await.json()), ["builtin", "builtin-embedding", "org/small"]);

    // It is known, and no pool serves it.
    for name in ["org/small", "s", "hf:org/model", "hf:org/model@main", &digest.to_lowercase(), &digest] {
        let task = json!({"model_ref": name, "prompt": "x"}).to_string();
        assert_eq!(gate.post("/v2/tasks", &task).await.json()["code"], "POOL_UNAVAILABLE", "{name}");
    }
    assert_eq!(delete(&gate, "s").await.status, StatusCode::NO_CONTENT);
    assert_eq!(delete(&gate, "org%2Fsmall").await.status, StatusCode::NOT_FOUND);
    let task = json!({"model_ref": "s", "prompt": "x"}).to_string();
    assert_eq!(gate.post("/v2/tasks", &task).await.json()["code"], "NOT_FOUND");
    let metrics = gate.get("/metrics").await.body;
    assert!(metrics.contains("model_state{model_id=\"builtin\",state=\"Active\"} 1"), "{metrics}");
    assert!(!metrics.contains("org/small"), "{metrics}");
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn a_name_that_is_taken_and_a_model_of_the_configuration_stay_as_they_are() {
    let gate = Gate::scripted(says(&["hi"])).await;
    gate.post(MODELS, r#"{"id": "a", "source": "hf:a/b", "aliases": ["b"]}"#).await;
    for (id, aliases) in [("a", "[]"), ("b", "[]"), ("c", r#"["a"]"#), ("builtin", "[]"), ("d", r#"["builtin"]"#)] {
        let body = format!(r#"{{"id": "{id}", "source": "hf:c/d", "aliases": {aliases}}}"#);
        assert_eq!(gate.post(MODELS, &body).await.status, StatusCode::CONFLICT, "{id} {aliases}");
    }
    let refused = delete(&gate, "builtin").await;
    assert_eq!(refused.status, StatusCode::CONFLICT);
    assert_eq!(refused.json()["message"], "the model \"builtin\" comes from the configuration; take it out there");
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn hostile_entries_are_refused_with_the_field() {
    let folder = folder();
    let gate = serving(says(&["hi"]), folder.path(), &[]).await;
    std::os::unix::fs::symlink("/etc", folder.path().join("away")).unwrap();
    let away = format!("file:{}/away", folder.path().display());
    let gone = format!("file:{}/gone", folder.path().display());
    let long = "a".repeat(100_000);
    let fields = [
        (json!({}), "id"),
        (json!({"id": "x"}), "source"),
        (json!({"id": 7, "source": "hf:a/b"}), "id"),
        (json!({"id": "a\0b", "source": "hf:a/b"}), "id"),
        (json!({"id": "../x", "source": "hf:a/b"}), "id"),
        (json!({"id": long, "source": "hf:a/b"}), "id"),
        (json!({"id": "x", "source": "file:/etc/../etc"}), "source"),
        (json!({"id": "x", "source": "file:/etc"}), "source"),
        (json!({"id": "x", "source": away}), "source"),
        (json!({"id": "x", "source": gone}), "source"),
        (json!({"id": "x", "source": "https://127.0.0.1/m.gguf"}), "source"),
        (json!({"id": "x", "source": "https://[::ffff:10.0.0.1]/m.gguf"}), "source"),
        (json!({"id": "x", "source": "http://host/m.gguf"}), "source"),
        (json!({"id": "x", "source": "https://user:secret@host/m.gguf"}), "source"),
        (json!({"id": "x", "source": "hf:a/b", "digest": "sha256:0"}), "digest"),
        (json!({"id": "x", "source": "hf:a/b", "price": {"engine_second": 10_u64.pow(15) + 1}}), "price.engine_second"),
        (json!({"id": "x", "source": "hf:a/b", "price": {"engine_second": -1}}), "price.engine_second"),
        (json!({"id": "x", "source": "hf:a/b", "price": {"output": 1}}), "price.output"),
        (json!({"id": "x", "source": "hf:a/b", "price": [1]}), "price"),
        (json!({"id": "x", "source": "hf:a/b", "aliases": ["file:/x"]}), "aliases.0"),
        (json!({"id": "x", "source": "hf:a/b", "aliases": "y"}), "aliases"),
        (json!({"id": "x", "source": "hf:a/b", "quantization": "q3"}), "quantization"),
        (json!({"id": "x", "source": "hf:a/b", "colour": 1}), "colour"),
    ];
    for (body, field) in fields {
        let answer = gate.post(MODELS, &body.to_string()).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{}", answer.body);
        assert_eq!(answer.json()["param"], field, "{}", answer.body);
    }
    let nested = format!("{}{}", "[".repeat(50_000), "]".repeat(50_000));
    for body in ["", "[]", r#"{"id": "x", "id": "y", "source": "hf:a/b"}"#, &nested] {
        assert_eq!(gate.post(MODELS, body).await.status, StatusCode::BAD_REQUEST, "{:.40}", body);
    }
    let outside = gate.post("/v2/tasks", r#"{"model_ref": "file:/etc/passwd", "prompt": "x"}"#).await;
    assert_eq!((outside.status, &outside.json()["param"]), (StatusCode::BAD_REQUEST, &"model_ref".into()));
    assert_eq!(gate.get(MODELS).await.json()["models"].as_array().unwrap().len(), 3);
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn a_retired_model_takes_nothing_new_and_ends_what_is_left_at_its_deadline() {
    let gate = Gate::scripted(Script { slots: 1, ..Script::default() }).await;
    let task = TASK.replace("\"m\"", "\"builtin\"");
    let ids = [gate.submit(&task).await, gate.submit(&task).await];
    set_state(&gate, "builtin", json!({"state": "Retired", "deadline_ms": 1000})).await;
    let refused = gate.post("/v2/tasks", &task).await;
    assert_eq!((refused.status, &refused.json()["code"]), (StatusCode::GONE, &"MODEL_DEPRECATED".into()));
    let chat = r#"{"model": "builtin", "messages": [{"role": "user", "content": "hi"}]}"#;
    let refused = gate.post("/v1/chat/completions", chat).await;
    assert_eq!((refused.status, &refused.json()["error"]["code"]), (StatusCode::NOT_FOUND, &"model_not_found".into()));
    assert_eq!(gate.get("/v1/models").await.json()["data"], json!([]));
    assert_eq!(gate.metric("model_state{model_id=\"builtin\",state=\"Retired\"}").await, 1.0);
    for id in &ids {
        assert!(gate.events(id).await.contains("MODEL_DEPRECATED"));
        assert_eq!(gate.get(&format!("/v2/tasks/{id}")).await.json()["state"], "failed");
    }
    set_state(&gate, "builtin", json!({"state": "Active"})).await;
    gate.submit(&task).await;
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn a_model_that_is_brought_back_before_the_deadline_keeps_its_tasks() {
    let gate = Gate::scripted(Script::default()).await;
    let id = gate.submit(&TASK.replace("\"m\"", "\"builtin\"")).await;
    set_state(&gate, "builtin", json!({"state": "Retired", "deadline_ms": 1000})).await;
    set_state(&gate, "builtin", json!({"state": "Active"})).await;
    assert!(gate.events(&id).await.contains("event: end"));
    let wrong = gate.post(&format!("{MODELS}/builtin/state"), r#"{"state": "Gone"}"#).await;
    assert_eq!((wrong.status, &wrong.json()["param"]), (StatusCode::BAD_REQUEST, &"state".into()));
    let wrong = gate.post(&format!("{MODELS}/builtin/state"), r#"{"state": "Active", "deadline_ms": 1}"#).await;
    assert_eq!((wrong.status, &wrong.json()["param"]), (StatusCode::BAD_REQUEST, &"deadline_ms".into()));
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn a_changed_byte_takes_a_model_out_of_service_until_it_is_good_again() {
    let folder = folder();
    let gate = serving(Script::default(), folder.path(), &[]).await;
    let good = verify(&gate, "m").await;
    assert_eq!((&good["trust"], &good["verification"]["outcome"]), (&"verified".into(), &"passed".into()));
    assert_eq!(good["files"].as_array().unwrap().len(), 3);
    assert_eq!(good["verification"]["bytes_done"], 42);
    // By the digest that was found, too.
    let by_digest = json!({"model_ref": good["digest"], "prompt": "x", "max_tokens": 1}).to_string();
    gate.submit(&by_digest).await;

    let id = gate.submit(TASK).await;
    std::fs::write(folder.path().join("model.safetensors"), "model.safetensorz").unwrap();
    let bad = verify(&gate, "m").await;
    assert_eq!(bad["trust"], "failed");
    assert_eq!(bad["verification"]["reason"], "model.safetensors has changed");
    assert!(gate.events(&id).await.contains("UNTRUSTED_ARTIFACT"));
    let refused = gate.post("/v2/tasks", TASK).await;
    assert_eq!(refused.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert_snapshot!(refused.json()["message"], @r#""the model \"m\" is not served: its last verification found that model.safetensors has changed""#);
    let chat = r#"{"model": "m", "messages": [{"role": "user", "content": "hi"}]}"#;
    let refused = gate.post("/v1/chat/completions", chat).await;
    assert_eq!(refused.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(refused.json()["error"]["code"], "untrusted_artifact");
    assert_eq!(gate.get("/v1/models/m").await.status, StatusCode::NOT_FOUND);

    std::fs::write(folder.path().join("model.safetensors"), "model.safetensors").unwrap();
    assert_eq!(verify(&gate, "m").await["trust"], "verified");
    gate.submit(TASK).await;
    let count = |result: &str, reason: &str| {
        format!("catalog_verifications_total{{engine=\"scripted\",reason=\"{reason}\",result=\"{result}\"}}")
    };
    assert_eq!(gate.metric(&count("passed", "none")).await, 2.0);
    assert_eq!(gate.metric(&count("failed", "changed")).await, 1.0);
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn under_strict_trust_a_model_is_served_once_it_was_verified() {
    let folder = folder();
    let gate = serving(says(&["hi"]), folder.path(), &[("SLUICEGATE_CATALOG__TRUST", "strict")]).await;
    let refused = gate.post("/v2/tasks", TASK).await;
    assert_eq!(
        (refused.status, &refused.json()["code"]),
        (StatusCode::UNPROCESSABLE_ENTITY, &"UNTRUSTED_ARTIFACT".into())
    );
    verify(&gate, "m").await;
    gate.submit(TASK).await;
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn a_second_verification_attaches_to_the_first() {
    let folder = folder();
    let gate = serving(says(&["hi"]), folder.path(), &[]).await;
    let path = format!("{MODELS}/m/verify");
    // Both are answered before the first has read anything.
    let (first, second) = tokio::join!(gate.post(&path, ""), gate.post(&path, ""));
    assert_eq!((first.status, second.status), (StatusCode::ACCEPTED, StatusCode::ACCEPTED));
    assert_eq!(first.json()["verification"]["state"], "running");
    assert_eq!(first.json()["verification"]["started_at_ms"], second.json()["verification"]["started_at_ms"]);
    gate.settle().await;
    gate.post(MODELS, r#"{"id": "far", "source": "hf:a/b"}"#).await;
    assert_eq!(verify(&gate, "far").await["verification"]["reason"], "there are no files of it on this machine yet");
    gate.finish().await;
}
