//! One word in everything that clients say and hear, and the keys that they send: who else finds them, while the gateway runs and in
//! what it leaves on the disk.

use std::path::Path;
use std::time::Duration;

use axum::body::Body;
use serde_json::{Value, json};
use sluicegate::engine::scripted::Script;
use sluicegate_compat::native::{KeyRequest, Scope, TenantRequest, Workload};

use crate::harness::{Answer, BOTH_MODELS, Gate, read, request};

const CANARY: &str = "canary-9c41";

const SESSION: &str = "018f0000-0000-7000-8000-0000000000ca";

async fn ask(gate: &Gate, key: &str, method: &str, path: &str, body: &Value) -> Answer {
    let body = if body.is_null() { Body::empty() } else { Body::from(body.to_string()) };
    let mut request = request(method, path, body);
    let headers = request.headers_mut();
    headers.insert("authorization", format!("Bearer {key}").parse().unwrap());
    headers.insert("user-agent", CANARY.parse().unwrap());
    headers.insert("x-correlation-id", "watched-1".parse().unwrap());
    if method == "POST" && path == "/v2/tasks" {
        headers.insert("idempotency-key", CANARY.parse().unwrap());
    }
    read(gate.send(request).await).await
}

/// Requests on every path that takes what a client says, good ones and bad ones.
fn said() -> Vec<(&'static str, Value)> {
    let messages = json!([{"role": "system", "content": CANARY}, {"role": "user", "content": CANARY}]);
    let chat = json!({"model": "builtin", "messages": messages, "max_tokens": 4, "user": CANARY, "stop": [CANARY]});
    let with = |body: &Value, name: &str, value: Value| {
        let mut body = body.clone();
        body[name] = value;
        body
    };
    let tool = json!([{"type": "function", "function": {"name": "look", "description": CANARY, "parameters": {"type": "object"}}}]);
    let task = json!({"model_ref": "builtin", "prompt": CANARY, "max_tokens": 4, "metadata": {"a": CANARY}, "session_id": SESSION});
    let response = json!({"model": "builtin", "input": CANARY, "instructions": CANARY, "metadata": {"a": CANARY}, "max_output_tokens": 4});
    let message = json!({"model": "builtin", "max_tokens": 4, "system": CANARY, "messages": [{"role": "user", "content": CANARY}]});
    vec![
        ("/v2/tasks", task.clone()),
        ("/v2/tasks/preview", task.clone()),
        ("/v2/tasks", with(&task, "model_ref", json!(CANARY))),
        ("/v2/tasks", with(&task, CANARY, json!(CANARY))),
        ("/v1/chat/completions", chat.clone()),
        ("/v1/chat/completions", with(&chat, "stream", json!(true))),
        ("/v1/chat/completions", with(&chat, "tools", tool)),
        ("/v1/chat/completions", with(&chat, "metadata", json!({"a": CANARY}))),
        ("/v1/chat/completions", with(&chat, "temperature", json!(CANARY))),
        ("/v1/chat/completions", with(&chat, "model", json!(CANARY))),
        ("/v1/completions", json!({"model": "builtin", "prompt": CANARY, "max_tokens": 4})),
        ("/v1/completions", json!({"model": "builtin", "prompt": CANARY, "suffix": CANARY, "n": CANARY})),
        ("/v1/responses", response.clone()),
        ("/v1/responses", with(&response, "stream", json!(true))),
        ("/v1/responses", with(&response, "previous_response_id", json!(CANARY))),
        ("/v1/responses/input_tokens", json!({"model": "builtin", "input": CANARY})),
        ("/v1/messages", message.clone()),
        ("/v1/messages", with(&message, "max_tokens", json!(CANARY))),
        ("/v1/messages/count_tokens", json!({"model": "builtin", "messages": message["messages"]})),
        ("/v1/embeddings", json!({"model": "builtin-embedding", "input": [CANARY]})),
        ("/v1/rerank", json!({"model": "builtin-embedding", "query": CANARY, "documents": [CANARY]})),
        ("/v1/tokenize", json!({"model": "builtin", "prompt": CANARY})),
        ("/v2/sessions/not-a-uuid", json!({"budget": CANARY})),
    ]
}

/// The files below a folder that hold this.
fn holding(folder: &Path, text: &str) -> Vec<String> {
    let files = std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().path());
    let holds = |path: &Path| {
        let bytes = std::fs::read(path).unwrap();
        bytes.windows(text.len()).any(|window| window == text.as_bytes())
    };
    files.filter(|path| path.is_file() && holds(path)).map(|path| path.display().to_string()).collect()
}

struct Scene {
    gate: Gate,
    folder: tempfile::TempDir,
    /// The keys themselves, each without what is no secret.
    secrets: Vec<String>,
    theirs: String,
    others: String,
}

impl Scene {
    async fn new(more: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = format!("sqlite:{}", folder.path().join("store.db").display());
        let settings = [&[("SLUICEGATE_STORE__URL", store.as_str()), ("SLUICEGATE_POOLS", BOTH_MODELS)], more].concat();
        let tokens = vec![format!("{CANARY} ")];
        let script = Script { tokens, repeat: false, workloads: Workload::ALL.to_vec(), ..Script::default() };
        let gate = Gate::with(script, &settings).await.with_key().await;
        let mut keys = vec![gate.key.clone().unwrap()];
        for tenant in ["theirs", "others"] {
            let tenants = &gate.app.tenants;
            tenants.create_tenant(&TenantRequest { id: tenant.into(), ..TenantRequest::default() }).await.unwrap();
            let scopes = vec![Scope::Infer, Scope::Read];
            let request = KeyRequest { tenant_id: tenant.into(), scopes, ..KeyRequest::default() };
            keys.push(tenants.create_key(&request).await.unwrap().1.reveal().to_owned());
        }
        let secrets = keys.iter().map(|key| key.rsplit('-').next().unwrap().to_owned()).collect();
        Self { gate, folder, secrets, theirs: keys[1].clone(), others: keys[2].clone() }
    }

    /// Everything is said once, and answered.
    async fn play(&self) {
        for (path, body) in said() {
            ask(&self.gate, &self.theirs, "POST", path, &body).await;
        }
        for path in [format!("/v1/models/{CANARY}"), format!("/v2/{CANARY}"), format!("/v2/usage?model={CANARY}")] {
            ask(&self.gate, &self.theirs, "GET", &path, &Value::Null).await;
        }
        self.gate.settle().await;
    }

    fn assert_silent(&self, what: &str, text: &str) {
        assert!(!text.contains(CANARY), "{what} tells what a client has said: {text}");
        for secret in &self.secrets {
            assert!(!text.contains(secret), "{what} tells a key: {text}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn nobody_else_hears_what_a_client_says() {
    let scene = Scene::new(&[]).await;
    scene.play().await;
    let Scene { gate, theirs, others, .. } = &scene;
    let admin = gate.key.clone().unwrap();
    // A key that stands where its id belongs, and is refused there.
    for path in [format!("/v2/admin/keys/{theirs}"), format!("/v2/admin/tenants/{theirs}")] {
        ask(gate, &admin, "DELETE", &path, &Value::Null).await;
    }
    let pasted = ask(gate, &admin, "POST", "/v2/admin/tenants", &json!({"id": "pasted", "name": theirs})).await;
    assert_eq!((pasted.status.as_u16(), &pasted.json()["param"]), (400, &json!("name")), "{}", pasted.body);
    let own = ask(gate, theirs, "GET", "/v2/tasks", &Value::Null).await;
    assert!(own.body.contains(CANARY), "its own client sees it: {}", own.body);
    let ids: Vec<_> = own.json()["tasks"].as_array().unwrap().iter().map(|task| task["task_id"].clone()).collect();
    assert!(!ids.is_empty());
    let mut paths: Vec<_> =
        ["/v2/tasks", "/v2/usage?group_by=key,model&format=csv", "/v1/models", "/v2/pools"].map(str::to_owned).into();
    paths.push(format!("/v2/sessions/{SESSION}"));
    for id in &ids {
        let id = id.as_str().unwrap();
        paths.extend([format!("/v2/tasks/{id}"), format!("/v2/tasks/{id}/events"), format!("/v1/responses/resp_{id}")]);
    }
    for path in &paths {
        let answer = ask(gate, others, "GET", path, &Value::Null).await;
        scene.assert_silent(path, &answer.body);
    }
    for path in [
        "/metrics",
        "/v2/admin/tasks",
        "/v2/admin/audit",
        "/v2/admin/audit?format=jsonl",
        "/v2/admin/keys",
        "/v2/usage?group_by=tenant,key,model,pool,day",
        "/v2/catalog/models",
        "/v2/admin/prices",
    ] {
        let answer = ask(gate, &admin, "GET", path, &Value::Null).await;
        assert_eq!(answer.status.as_u16(), 200, "{path}: {}", answer.body);
        scene.assert_silent(path, &answer.body);
    }
    for secret in &scene.secrets {
        assert_eq!(holding(scene.folder.path(), secret), [""; 0], "a key is on the disk");
    }
    scene.gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn nothing_is_left_on_the_disk_once_its_time_is_over() {
    let times = [
        ("SLUICEGATE_ADMISSION__RETENTION_MS", "1000"),
        ("SLUICEGATE_ADMISSION__IDEMPOTENCY_TTL_MS", "1000"),
        ("SLUICEGATE_SESSIONS__TTL_MS", "1000"),
    ];
    let scene = Scene::new(&times).await;
    scene.play().await;
    let Scene { gate, folder, .. } = scene;
    assert_ne!(holding(folder.path(), CANARY), [""; 0], "it is there as long as it is kept");
    // Keys of requests are looked through every ten minutes, by the clock of the machine as well.
    std::thread::sleep(Duration::from_millis(1100));
    tokio::time::sleep(Duration::from_secs(1300)).await;
    assert_eq!(gate.app.store.ledger_last().await.map(|last| last > 0), Ok(true), "what was handed over is done");
    assert_eq!(holding(folder.path(), CANARY), [""; 0], "while the store is open");
    gate.crash().await;
    assert_eq!(holding(folder.path(), CANARY), [""; 0], "once it is closed");
}
