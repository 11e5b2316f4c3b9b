//! What the program writes to its log, at each level, while clients say what is nobody's business and keys are made and pasted.

use serde_json::{Value, json};

use super::commands::sluicegate_in;
use super::running::{Running, wait_for};

const CANARY: &str = "canary-77b0";

async fn watched(level: &str) {
    let said = format!(r#"["{CANARY} "]"#);
    let settings = [
        ("TELEMETRY__LOG_LEVEL", level),
        ("POOLS__0__SCRIPTED__TOKENS", said.as_str()),
        ("POOLS__0__SCRIPTED__REPEAT", "false"),
    ];
    let gateway = Running::scripted(&settings);
    let folder = gateway.data_dir();
    let store = [("SLUICEGATE_DATA_DIR", folder.to_str().unwrap())];
    let made = sluicegate_in(&store, &["key", "create", "--admin", "--json"], "").json();
    let admin = made["key"].as_str().unwrap().to_owned();
    let gateway = gateway.with_key(&admin);
    let url = gateway.url("");
    let with_key = |key: &str, arguments: &[&str]| {
        sluicegate_in(&[("SLUICEGATE_URL", &url), ("SLUICEGATE_API_KEY", key)], arguments, "")
    };
    wait_for("the key to be good", || (with_key(&admin, &["key", "list"]).code == Some(0)).then_some(()));
    let made = with_key(&admin, &["key", "create", "--tenant", "default", "--json"]).json();
    let key = made["key"].as_str().unwrap().to_owned();
    let rotated =
        with_key(&admin, &["key", "rotate", made["id"].as_str().unwrap(), "--overlap", "1h", "--json"]).json();
    let keys = [admin.clone(), key.clone(), rotated["key"].as_str().unwrap().to_owned()];

    let messages = json!([{"role": "user", "content": CANARY}]);
    for (path, body) in [
        ("/v2/tasks", json!({"model_ref": "builtin", "prompt": CANARY, "metadata": {"a": CANARY}})),
        ("/v1/chat/completions", json!({"model": "builtin", "messages": messages, "user": CANARY})),
        ("/v1/chat/completions", json!({"model": CANARY, "messages": messages})),
        ("/v1/completions", json!({"model": "builtin", "prompt": CANARY})),
        ("/v1/responses", json!({"model": "builtin", "input": CANARY, "instructions": CANARY, CANARY: CANARY})),
        ("/v1/messages", json!({"model": "builtin", "max_tokens": 4, "messages": messages})),
        ("/v1/embeddings", json!({"model": "builtin", "input": CANARY})),
        ("/v2/artifacts", json!({"document": {CANARY: CANARY}})),
        ("/v2/admin/tenants", json!({"id": key, "name": key})),
        ("/v2/admin/keys", json!({"tenant_id": key, "scopes": ["infer"]})),
    ] {
        gateway.post(path, &body).await.text().await.unwrap();
    }
    for path in
        [format!("/v2/admin/keys/{key}"), format!("/v2/usage?key_id={key}"), format!("/v2/{CANARY}?{CANARY}={CANARY}")]
    {
        gateway.get(&path).await.text().await.unwrap();
    }
    let metrics = gateway.get("/metrics").await.text().await.unwrap();
    let audit: Value = gateway.get_json("/v2/admin/audit").await;
    gateway.idle().await;
    gateway.terminate();
    let exit = gateway.wait_for_exit();
    assert_eq!(exit.code, Some(0), "{}", exit.stderr);
    assert!(exit.stderr.lines().count() > 10, "{}", exit.stderr);
    for (what, text) in [("the log", &exit.stderr), ("/metrics", &metrics), ("the audit log", &audit.to_string())] {
        let told =
            |secret: &str| text.lines().filter(|line| line.contains(secret)).map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(told(CANARY), [""; 0], "{what} at {level}");
        for key in &keys {
            assert_eq!(told(key.rsplit('-').next().unwrap()), [""; 0], "{what} at {level} has a key");
        }
    }
}

#[tokio::test]
async fn nothing_that_is_secret_is_in_the_log_at_any_level() {
    for level in ["info", "debug", "trace"] {
        watched(level).await;
    }
}
