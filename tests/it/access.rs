//! Keys and tenants: who gets in where, and who sees what of whom.

use axum::body::Body;
use axum::http::{Request, StatusCode};
use serde_json::{Value, json};
use sluicegate::tenants::{Secret, Tenants};
use sluicegate_compat::native::{KeyRequest, Scope, TenantPatch, TenantRequest};

use crate::harness::{Answer, Gate, read, request, says};
use crate::openapi::documents::Document;

/// What anybody may ask.
const OPEN: [&str; 4] = ["/healthz", "/readyz", "/openapi/{file}", "/v2/meta/version"];

/// A key of a tenant, which is made where it is missing.
async fn key(tenants: &Tenants, tenant: &str, scopes: &[Scope]) -> String {
    if tenants.tenant(tenant).is_none() {
        let request = TenantRequest { id: tenant.to_owned(), ..TenantRequest::default() };
        tenants.create_tenant(&request).await.unwrap();
    }
    let request = KeyRequest { tenant_id: tenant.to_owned(), scopes: scopes.to_vec(), ..KeyRequest::default() };
    tenants.create_key(&request).await.unwrap().1.reveal().to_owned()
}

fn with_key(mut request: Request<Body>, key: &str) -> Request<Body> {
    request.headers_mut().insert("authorization", format!("Bearer {key}").parse().unwrap());
    request
}

async fn ask(gate: &Gate, key: &str, method: &str, path: &str, body: &Value) -> Answer {
    let body = if body.is_null() { Body::empty() } else { Body::from(body.to_string()) };
    read(gate.send(with_key(request(method, path, body), key)).await).await
}

/// Every documented operation, which a test holds to be every route: its method, its path as documented, and one to ask for.
fn operations() -> Vec<(String, String, String)> {
    let documents = Document::both();
    let operations = documents.iter().flat_map(Document::operations);
    let filled = |path: &str| {
        let segments = path.split('/').map(|part| if part.starts_with('{') { "x" } else { part });
        segments.collect::<Vec<_>>().join("/")
    };
    operations
        .map(|operation| (operation.method.to_uppercase(), operation.path.to_owned(), filled(operation.path)))
        .collect()
}

#[tokio::test(start_paused = true)]
async fn every_route_is_closed_but_those_that_are_listed() {
    let gate = Gate::scripted(says(&["hi"])).await;
    let none = key(&gate.app.tenants, "acme", &[Scope::Metrics]).await;
    let admin = key(&gate.app.tenants, "acme", &[Scope::Admin]).await;
    let (mut open, mut closed) = (0, 0);
    for (method, documented, path) in operations() {
        let asked = || request(&method, &path, Body::empty());
        let nobody = read(gate.send(asked()).await).await;
        let metrics = read(gate.send(with_key(asked(), &none)).await).await;
        // On this machine alone, metrics are for everybody.
        if OPEN.contains(&documented.as_str()) || documented == "/metrics" {
            assert!(!matches!(nobody.status.as_u16(), 401 | 403), "{method} {path}: {}", nobody.body);
            open += 1;
            continue;
        }
        closed += 1;
        assert_eq!(nobody.status, StatusCode::UNAUTHORIZED, "{method} {path}: {}", nobody.body);
        assert_eq!(nobody.header("www-authenticate"), "Bearer");
        assert_eq!(metrics.status, StatusCode::FORBIDDEN, "{method} {path}: {}", metrics.body);
        let of_tenants = ["/v1/", "/v2/tasks", "/v2/sessions", "/v2/artifacts"].iter().any(|it| path.starts_with(it));
        let only_looks = method == "GET" && !path.starts_with("/v2/admin");
        if !of_tenants && !only_looks {
            let admin = read(gate.send(with_key(asked(), &admin)).await).await;
            assert!(!matches!(admin.status.as_u16(), 401 | 403), "{method} {path}: {}", admin.body);
        }
    }
    assert!(open >= 5 && closed >= 40, "{open} {closed}");
    let nowhere = gate.get("/v2/nowhere").await;
    assert_eq!(nowhere.status, StatusCode::UNAUTHORIZED, "what there is is nobody's business");
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn each_dialect_says_it_in_its_own_words() {
    let gate = Gate::scripted(says(&["hi"])).await;
    let key = key(&gate.app.tenants, "acme", &[Scope::Infer]).await;
    for (path, kind, code) in [
        ("/v1/models", "/error/type", json!("invalid_request_error")),
        ("/v1/models", "/error/code", json!("invalid_api_key")),
        ("/v1/messages", "/error/type", json!("authentication_error")),
        ("/v2/tasks", "/code", json!("UNAUTHENTICATED")),
    ] {
        let answer = if path == "/v1/messages" { gate.post(path, "{}").await } else { gate.get(path).await };
        assert_eq!((answer.status, answer.json().pointer(kind)), (StatusCode::UNAUTHORIZED, Some(&code)), "{path}");
        let unknown = Secret::new().unwrap();
        for sent in [unknown.reveal(), "sk-sg-malformed"] {
            let answer = ask(&gate, sent, "GET", "/v1/models", &Value::Null).await;
            assert_eq!(answer.status, StatusCode::UNAUTHORIZED);
            assert!(!answer.body.contains(sent), "{}", answer.body);
        }
    }
    for header in ["x-api-key", "api-key"] {
        let mut request = request("GET", "/v1/models", Body::empty());
        request.headers_mut().insert(header, key.parse().unwrap());
        assert_eq!(read(gate.send(request).await).await.status, StatusCode::OK, "{header}");
    }
    // Who has a key may come from anywhere.
    let mut elsewhere = with_key(request("GET", "/v1/models", Body::empty()), &key);
    elsewhere.headers_mut().insert("host", "gateway.example".parse().unwrap());
    assert_eq!(read(gate.send(elsewhere).await).await.status, StatusCode::OK);
    gate.app
        .tenants
        .change_tenant("acme", None, TenantPatch { suspended: Some(true), ..TenantPatch::default() })
        .await
        .unwrap();
    let suspended = ask(&gate, &key, "GET", "/v1/models", &Value::Null).await;
    assert_eq!((suspended.status, suspended.body.contains("suspended")), (StatusCode::FORBIDDEN, true));
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn what_belongs_to_another_tenant_does_not_exist() {
    let gate = Gate::scripted(says(&["hi"])).await;
    let (ours, theirs) = (
        key(&gate.app.tenants, "ours", &[Scope::Infer]).await,
        key(&gate.app.tenants, "theirs", &[Scope::Infer]).await,
    );
    let session = "018f0000-0000-7000-8000-000000000001";
    let task = json!({"model_ref": "builtin", "prompt": "hi", "session_id": session});
    let made = ask(&gate, &ours, "POST", "/v2/tasks", &task).await;
    assert_eq!(made.status, StatusCode::ACCEPTED, "{}", made.body);
    let id = made.json()["task_id"].as_str().unwrap().to_owned();
    let response = json!({"model": "builtin", "input": "hi"});
    let response = ask(&gate, &ours, "POST", "/v1/responses", &response).await.json();
    let response = response["id"].as_str().unwrap();
    let artifact = ask(&gate, &ours, "POST", "/v2/artifacts", &json!({"document": {"a": 1}})).await.json();
    let artifact = artifact["id"].as_str().unwrap();
    gate.settle().await;
    let paths = [
        ("GET", format!("/v2/tasks/{id}")),
        ("GET", format!("/v2/tasks/{id}/events")),
        ("GET", format!("/v2/sessions/{session}")),
        ("GET", format!("/v1/responses/{response}")),
        ("GET", format!("/v1/responses/{response}/input_items")),
        ("GET", format!("/v2/artifacts/{artifact}")),
        ("POST", format!("/v2/tasks/{id}/cancel")),
        ("DELETE", format!("/v1/responses/{response}")),
        ("DELETE", format!("/v2/sessions/{session}")),
    ];
    for (method, path) in &paths {
        let answer = ask(&gate, &theirs, method, path, &Value::Null).await;
        assert_eq!(answer.status, StatusCode::NOT_FOUND, "{method} {path}: {}", answer.body);
    }
    let goes_on = json!({"model": "builtin", "input": "and?", "previous_response_id": response});
    let answer = ask(&gate, &theirs, "POST", "/v1/responses", &goes_on).await;
    assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{}", answer.body);
    assert_eq!(ask(&gate, &theirs, "GET", "/v2/tasks", &Value::Null).await.json()["tasks"], json!([]));
    // The same key of a request is another one's own.
    let once = async |key: &str| {
        let mut once = with_key(request("POST", "/v2/tasks", Body::from(task.to_string())), key);
        once.headers_mut().insert("idempotency-key", "one".parse().unwrap());
        read(gate.send(once).await).await.json()["task_id"].clone()
    };
    let first = once(&ours).await;
    assert_ne!(once(&theirs).await, first);
    assert_eq!(once(&ours).await, first);
    gate.settle().await;
    for (method, path) in &paths {
        let answer = ask(&gate, &ours, method, path, &Value::Null).await;
        assert!(answer.status.is_success(), "{method} {path}: {}", answer.body);
    }
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn a_gateway_that_others_can_reach_is_closed_before_there_is_a_key() {
    let gate = Gate::with(says(&["hi"]), &[("SLUICEGATE_SERVER__LISTEN", "0.0.0.0:0")]).await;
    for path in ["/v1/models", "/v2/tasks", "/metrics", "/v2/nowhere"] {
        assert_eq!(gate.get(path).await.status, StatusCode::UNAUTHORIZED, "{path}");
    }
    assert_eq!(gate.get("/healthz").await.status, StatusCode::OK);
    let (_, secret) = gate.app.tenants.create_admin_key(KeyRequest::default()).await.unwrap();
    for path in ["/v1/models", "/v2/tasks", "/metrics"] {
        assert_eq!(ask(&gate, secret.reveal(), "GET", path, &Value::Null).await.status, StatusCode::OK, "{path}");
    }
    gate.finish().await;
}
