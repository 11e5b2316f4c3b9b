//! A pool of the real engine gets another model while it serves.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::commands::sluicegate;
use super::running::{Running, eventually};

/// The built-in model with other words around each question, in a folder of its own.
pub fn other_model(folder: &Path) -> PathBuf {
    let original = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/builtin-model/model");
    for entry in std::fs::read_dir(original).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), folder.join(entry.file_name())).unwrap();
    }
    let path = folder.join("tokenizer_config.json");
    let mut config: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    config["chat_template"] = format!("Be brief. {}", config["chat_template"].as_str().unwrap()).into();
    std::fs::write(&path, config.to_string()).unwrap();
    folder.to_owned()
}

pub async fn submit(gateway: &Running, model: &str, choices: u32) -> String {
    let messages = json!([{"role": "user", "content": "What is a pool?"}]);
    let task = json!({"model_ref": model, "messages": messages, "n": choices, "max_tokens": 60});
    let accepted: Value = gateway.post("/v2/tasks", &task).await.json().await.unwrap();
    accepted["task_id"].as_str().unwrap_or_else(|| panic!("{accepted}")).to_owned()
}

/// The digest that a task was started with, and its prompt tokens, once it has finished.
pub async fn outcome(gateway: &Running, id: &str) -> (String, u64) {
    let events = gateway.get(&format!("/v2/tasks/{id}/events")).await.text().await.unwrap();
    let started =
        events.lines().find_map(|line| line.strip_prefix("data: ").filter(|data| data.contains("model_digest")));
    let started: Value = serde_json::from_str(started.unwrap_or_else(|| panic!("{events}"))).unwrap();
    let view = gateway.get_json(&format!("/v2/tasks/{id}")).await;
    assert_eq!(view["state"], "finished", "{view}");
    (started["model_digest"].as_str().unwrap().to_owned(), view["tokens_in"].as_u64().unwrap())
}

/// Reloads the pool, and returns its health once that has ended.
pub async fn reload(gateway: &Running, model: &str) -> Value {
    let answer = gateway.post("/v2/pools/default/reload", &json!({"new_model_ref": model})).await;
    assert_eq!(answer.status(), 202);
    eventually("the reload has ended", async || {
        gateway.get_json("/v2/pools/default/health").await["reloading"] == false
    })
    .await;
    gateway.get_json("/v2/pools/default/health").await
}

#[tokio::test]
async fn a_pool_is_reloaded_and_a_damaged_model_leaves_it_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let path = other_model(folder.path());
    let models = format!(r#"[{{ id = "other", source = "file:{}" }}]"#, path.display());
    let roots = format!("[\"{}\"]", path.display());
    let gateway = Running::real(&[
        ("CATALOG__MODELS", &models),
        ("CATALOG__ALLOWED_FILE_ROOTS", &roots),
        ("POOLS__0__SLOTS", "1"),
    ]);
    let (old_digest, old_tokens) = outcome(&gateway, &submit(&gateway, "builtin", 1).await).await;

    // It runs for a while, and one waits behind it.
    let (running, waiting) = (submit(&gateway, "builtin", 16).await, submit(&gateway, "builtin", 1).await);
    let health = reload(&gateway, "other").await;
    assert_eq!((&health["model_ref"], &health["last_error"]), (&"other".into(), &Value::Null), "{health}");
    assert_eq!(outcome(&gateway, &running).await, (old_digest.clone(), old_tokens));
    let digest = health["model_digest"].as_str().unwrap();
    let (waited_with, waited_tokens) = outcome(&gateway, &waiting).await;
    let (new_digest, new_tokens) = outcome(&gateway, &submit(&gateway, "other", 1).await).await;
    assert_eq!(new_digest, digest);
    assert!(new_digest != old_digest && new_tokens > old_tokens, "{new_tokens}, {old_tokens}");
    // Whichever engine it got, its prompt was prepared for that one.
    let expected = if waited_with == old_digest { old_tokens } else { new_tokens };
    assert_eq!(waited_tokens, expected);

    let weights = path.join("model.safetensors");
    let mut bytes = std::fs::read(&weights).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&weights, bytes).unwrap();
    let (url, reload_it) = (gateway.url(""), ["pool", "reload", "default", "--model", "other", "--wait", "--url"]);
    let outcome_of_command = sluicegate(&[reload_it.as_slice(), &[&url]].concat(), "");
    assert_eq!(outcome_of_command.code, Some(1));
    let message = "sluicegate: the reload of default failed: model other: model.safetensors has changed";
    assert!(outcome_of_command.stderr.starts_with(message), "{}", outcome_of_command.stderr);
    let health = gateway.get_json("/v2/pools/default/health").await;
    assert_eq!(
        health["last_error"],
        "the reload with other failed: model other: model.safetensors has changed since it was loaded or verified last"
    );
    assert_eq!((&health["ready"], &health["reload"]["state"]), (&true.into(), &"failed".into()));
    assert_eq!(outcome(&gateway, &submit(&gateway, "other", 1).await).await, (new_digest, new_tokens));

    // The model that it had at the start is there still.
    let health = reload(&gateway, "builtin").await;
    assert_eq!(health["model_digest"], old_digest.as_str());
    assert_eq!(outcome(&gateway, &submit(&gateway, "builtin", 1).await).await, (old_digest, old_tokens));
    gateway.idle().await;
}
