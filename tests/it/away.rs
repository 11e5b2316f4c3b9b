//! A gateway whose database is away for a while.

use std::time::Duration;

use axum::body::Body;
use axum::http::StatusCode;
use serde_json::json;
use sluicegate_compat::native::{Budget, BudgetKind, BudgetPeriod, KeyRequest, Scope, TenantRequest};

use crate::harness::{Answer, Gate, read, request, says};
use crate::postgres::Cluster;

/// Nothing that a test waits for takes longer, also on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

const CHAT: &str = r#"{"model": "builtin", "max_tokens": 2, "messages": [{"role": "user", "content": "hi"}]}"#;

/// A gateway with a database of its own, and the folder that it keeps things in meanwhile.
pub async fn gateway(server: &Cluster) -> (Gate, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let url = server.public_url();
    let settings = [("SLUICEGATE_STORE__URL", &*url), ("SLUICEGATE_DATA_DIR", folder.path().to_str().unwrap())];
    (Gate::with(says(&["hi"]), &settings).await.with_key().await, folder)
}

/// Waits until the gateway is ready, or is not because its database is away.
pub async fn until_ready(gate: &Gate, ready: bool) {
    let look = async {
        while gate.get("/readyz").await.status.is_success() != ready {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, look).await.unwrap();
}

async fn chat(gate: &Gate, key: &str) -> Answer {
    let mut request = request("POST", "/v1/chat/completions", Body::from(CHAT));
    request.headers_mut().insert("authorization", format!("Bearer {key}").parse().unwrap());
    tokio::time::timeout(PATIENCE, async { read(gate.send(request).await).await }).await.unwrap()
}

#[tokio::test]
async fn what_counts_for_a_budget_is_served_and_charged_once_for_what_it_takes() {
    let mut server = Cluster::of_its_own();
    let (gate, _folder) = gateway(&server).await;
    let period = BudgetPeriod::Total;
    let budget = Budget { kind: BudgetKind::Tokens, limit: 1_000_000, period, timezone: None, soft_limit: None };
    let tenant = TenantRequest { id: "small".into(), budgets: Some(vec![budget]), ..TenantRequest::default() };
    gate.app.tenants.create_tenant(&tenant).await.unwrap();
    let request = KeyRequest { tenant_id: "small".into(), scopes: vec![Scope::Infer], ..KeyRequest::default() };
    let (_, secret) = gate.app.tenants.create_key(&request).await.unwrap();
    let mut tokens = 0;
    let mut ask = async || {
        let answer = chat(&gate, secret.reveal()).await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.body);
        tokens += answer.json()["usage"]["total_tokens"].as_u64().unwrap();
    };
    ask().await;
    server.stop();
    until_ready(&gate, false).await;
    for _ in 0..5 {
        ask().await;
    }
    server.start();
    until_ready(&gate, true).await;
    ask().await;
    let tenant = gate.get("/v2/admin/tenants/small").await.json();
    let standing = (&tenant["budgets"][0]["spent"], &tenant["budgets"][0]["reserved"]);
    assert_eq!(standing, (&json!(tokens), &json!(0)));
    let usage = gate.get("/v2/usage?tenant_id=small").await.json();
    assert_eq!((&usage["total"]["tasks"], &usage["total"]["tokens_out"]), (&json!(7), &json!(14)), "{usage}");
    gate.finish().await;
}

#[tokio::test]
async fn servers_that_register_are_served() {
    let (mut server, folder) = (Cluster::of_its_own(), tempfile::tempdir().unwrap());
    let pools =
        r#"[{ id = "elsewhere", engine = "remote", remote = { base_url = "http://127.0.0.1:1/v1", model = "m" } }]"#;
    let settings = [
        ("SLUICEGATE_STORE__URL", &*server.public_url()),
        ("SLUICEGATE_DATA_DIR", folder.path().to_str().unwrap()),
        ("SLUICEGATE_POOLS", pools),
    ];
    let gate = Gate::configured(&settings).await;
    let register = async |name: &str| {
        let body =
            json!({"worker_id": name, "pool_id": "elsewhere", "base_url": "http://127.0.0.1:1/v1", "ttl_ms": 60_000});
        gate.post("/v2/workers/register", &body.to_string()).await
    };
    assert_eq!(register("one").await.status, StatusCode::OK);
    server.stop();
    let look = async {
        while !gate.get("/readyz").await.body.contains("the database is away") {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, look).await.unwrap();
    for name in ["one", "two"] {
        let answer = register(name).await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.body);
    }
    server.start();
    // What was done meanwhile is recorded by now.
    let look = async {
        let registrations = async || gate.get("/v2/admin/audit?action=worker.register").await.json();
        while registrations().await["entries"].as_array().is_none_or(|entries| entries.len() < 2) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, look).await.unwrap();
    gate.finish().await;
}
