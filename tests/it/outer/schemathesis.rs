//! Schemathesis, which makes requests from our OpenAPI documents, good ones and bad ones, and holds the answers against
//! them: no 5xx but the documented 503, no status, header, media type or body that is not documented, nothing taken that
//! the documents refuse.
//!
//! `tests/sdk/schemathesis` has its pinned version and what it is asked, each exclusion with its reason. A fixed seed and
//! a few examples of each operation take less than a minute; for more:
//!
//! ```console
//! $ SLUICEGATE_TEST_EXAMPLES=1000 SLUICEGATE_TEST_SEED=7 cargo test --test it -- schemathesis
//! ```

use std::process::Command;

use serde_json::json;

use super::running::Running;
use super::sdks::{installed_by_pip, left_out, sources, succeeds};

/// In this order: those at the end change what the others ask about.
const DOCUMENTS: [&str; 9] = [
    "admin.yaml",
    "meta.yaml",
    "openai.yaml",
    "anthropic.yaml",
    "data.yaml",
    "sessions.yaml",
    "artifacts.yaml",
    "catalog.yaml",
    "control.yaml",
];

/// Short answers at once, so that no request waits long.
fn pools() -> String {
    let script = r#"{ first_token_ms = 0, token_ms = 0, tokens = ["one ", "two "], repeat = false }"#;
    let pool = |id: &str| format!(r#"{{ id = "{id}", engine = "scripted", scripted = {script} }}"#);
    format!("[{}, {}]", pool("default"), pool("spare"))
}

#[tokio::test]
async fn the_gateway_answers_as_its_documents_say_whatever_is_asked() {
    if left_out() {
        return;
    }
    let set = |name: &str, default: &str| std::env::var(name).unwrap_or_else(|_| default.to_owned());
    let (examples, seed) = (set("SLUICEGATE_TEST_EXAMPLES", "15"), set("SLUICEGATE_TEST_SEED", "1"));
    let folder = installed_by_pip("schemathesis");
    let gateway = Running::real(&[("POOLS", &pools())]);
    // A key that it made itself would close the gateway to it.
    gateway.post("/v2/admin/tenants", &json!({"id": "default"})).await;
    let key = json!({"tenant_id": "default", "scopes": ["infer", "read", "admin", "metrics"]});
    let key: serde_json::Value = gateway.post("/v2/admin/keys", &key).await.json().await.unwrap();
    let key = key["key"].as_str().unwrap_or_else(|| panic!("{key}")).to_owned();
    let gateway = gateway.with_key(&key);
    for document in DOCUMENTS {
        let mut schemathesis = Command::new(folder.join("bin/schemathesis"));
        schemathesis.arg("--no-color").arg("--config-file").arg(sources("schemathesis").join("schemathesis.toml"));
        // Headers of the command line are in the place of those of the file.
        schemathesis.args(["run", "--header", &format!("Authorization: Bearer {key}")]);
        schemathesis.args(["--header", "X-Correlation-Id: schemathesis"]);
        schemathesis.args(["--max-examples", &examples, "--seed", &seed, "--url", &gateway.url("")]);
        // It leaves files where it is started.
        schemathesis.arg(gateway.url(&format!("/openapi/{document}"))).current_dir(gateway.data_dir());
        succeeds(document, &mut schemathesis);
    }
    // What it did to models and pools undone, the gateway serves as before.
    gateway.post("/v2/catalog/models/builtin/state", &json!({"state": "Active"})).await;
    let task = json!({"model_ref": "builtin", "prompt": "hi"});
    let task: serde_json::Value = gateway.post("/v2/tasks", &task).await.json().await.unwrap();
    let id = task["task_id"].as_str().unwrap_or_else(|| panic!("{task}"));
    gateway.state_is(id, "finished").await;
    gateway.idle().await;
    assert_eq!(gateway.metric("errors_total", "INTERNAL").await, 0.0);
    let errors: Vec<_> = gateway.log().into_iter().filter(|line| line["level"] == "ERROR").collect();
    assert!(errors.is_empty(), "{errors:?}");
}
