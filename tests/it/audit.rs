//! The audit log: what administrators did, and what others were refused that is theirs.

use std::collections::BTreeSet;
use std::time::Duration;

use axum::body::Body;
use axum::http::{Request, StatusCode};
use futures_util::FutureExt as _;
use serde_json::{Value, json};
use sluicegate::api::ClientAddress;
use sluicegate::audit::Action;
use sluicegate::engine::scripted::Script;
use sluicegate_compat::native::{KeyRequest, Scope, TenantPatch};

use crate::harness::{Answer, Gate, read, request, says};
use crate::openapi::documents::Document;

const TASK: &str = r#"{"model_ref": "builtin", "prompt": "hi", "max_tokens": 500}"#;

/// A request of who has this key, from this address.
fn from(address: &str, key: &str, method: &str, path: &str, body: &Value) -> Request<Body> {
    let body = if body.is_null() { Body::empty() } else { Body::from(body.to_string()) };
    let mut request = request(method, path, body);
    request.headers_mut().insert("authorization", format!("Bearer {key}").parse().unwrap());
    request.headers_mut().insert("x-correlation-id", "asked-1".parse().unwrap());
    request.extensions_mut().insert(ClientAddress(address.parse().unwrap()));
    request
}

async fn ask(gate: &Gate, method: &str, path: &str, body: Value) -> Answer {
    let key = gate.key.clone().unwrap();
    read(gate.send(from("203.0.113.7", &key, method, path, &body)).await).await
}

/// What was done, the last first.
async fn entries(gate: &Gate, query: &str) -> Vec<Value> {
    let answer = gate.get(&format!("/v2/admin/audit?{query}")).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.body);
    answer.json()["entries"].as_array().unwrap().clone()
}

fn told(entry: &Value) -> (&str, &str, u64) {
    let text = |pointer: &str| entry.pointer(pointer).and_then(Value::as_str).unwrap_or("");
    (text("/action"), text("/target/id"), entry["status"].as_u64().unwrap())
}

async fn key(gate: &Gate, scopes: &[Scope]) -> (String, String) {
    let request = KeyRequest { tenant_id: "acme".into(), scopes: scopes.to_vec(), ..KeyRequest::default() };
    let (view, secret) = gate.app.tenants.create_key(&request).await.unwrap();
    (view.id, secret.reveal().to_owned())
}

#[tokio::test(start_paused = true)]
async fn an_action_leaves_who_what_when_and_from_where_with_what_has_changed() {
    let gate = Gate::scripted(says(&["hi"])).await.with_key().await;
    let before_ms = sluicegate::tasks::Clock::now().unix_ms;
    let made = ask(&gate, "POST", "/v2/admin/tenants", json!({"id": "small", "name": "Small Inc.", "weight": 2})).await;
    assert_eq!(made.status, StatusCode::CREATED, "{}", made.body);
    ask(&gate, "PATCH", "/v2/admin/tenants/small", json!({"weight": 5, "name": null, "limits": {"concurrency": 4}}))
        .await;
    let made = ask(&gate, "POST", "/v2/admin/keys", json!({"tenant_id": "small", "scopes": ["infer"]})).await.json();
    let id = made["id"].as_str().unwrap();
    let second = ask(&gate, "POST", &format!("/v2/admin/keys/{id}/rotate"), json!({})).await.json();
    ask(&gate, "DELETE", "/v2/admin/tenants/small", Value::Null).await;
    ask(&gate, "POST", "/v2/pools/default/drain", json!({"deadline_ms": 5})).await;
    ask(&gate, "POST", "/v2/pools/default/resume", Value::Null).await;

    let all = entries(&gate, "").await;
    let expected = [
        ("pool.resume", "default", 202),
        ("pool.drain", "default", 202),
        ("tenant.delete", "small", 204),
        ("key.rotate", id, 201),
        ("key.create", id, 201),
        ("tenant.change", "small", 200),
        ("tenant.create", "small", 201),
    ];
    assert_eq!(all.iter().map(told).collect::<Vec<_>>(), expected);
    let admin = gate.key.as_ref().unwrap().split('-').nth(2).unwrap();
    for entry in &all {
        assert_eq!((&entry["actor"], &entry["key_id"]), (&json!("key"), &json!(admin)));
        assert_eq!((&entry["tenant_id"], &entry["client"]), (&json!("default"), &json!("203.0.113.7")));
        assert_eq!(entry["correlation_id"], "asked-1");
        assert!((before_ms..before_ms + 600_000).contains(&entry["at_ms"].as_u64().unwrap()), "{entry}");
    }
    let changes = |at: usize| &all[at]["changes"];
    assert_eq!(changes(6)["weight"], json!({"to": 2}));
    let limits =
        json!({"requests_per_minute": null, "tokens_per_minute": null, "tokens_in_flight": null, "concurrency": 4});
    let changed = json!({"name": {"from": "Small Inc."}, "weight": {"from": 2, "to": 5}, "limits": {"to": limits}});
    assert_eq!(changes(5), &changed);
    assert_eq!(changes(4)["scopes"], json!({"to": ["infer"]}));
    assert_eq!(changes(3)["new_key_id"], json!({"to": second["id"]}));
    assert_eq!(changes(2)["weight"], json!({"from": 5}));
    assert_eq!(changes(1), &json!({"draining": {"to": true}, "deadline_ms": {"to": 5}, "waiting": {"to": "serve"}}));
    let text = serde_json::to_string(&all).unwrap();
    for key in [&made["key"], &second["key"], &json!(gate.key)] {
        let secret = key.as_str().unwrap().rsplit('-').next().unwrap();
        assert!(!text.contains(secret), "{text}");
    }
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn what_is_refused_is_there_too_and_what_is_only_looked_at_is_not() {
    let gate = Gate::scripted(says(&["hi"])).await.with_key().await;
    let (infer, secret) = key(&gate, &[Scope::Infer]).await;
    let refused = read(gate.send(from("::1", &secret, "DELETE", "/v2/admin/tenants/acme", &Value::Null)).await).await;
    assert_eq!(refused.status, StatusCode::FORBIDDEN);
    assert_eq!(ask(&gate, "DELETE", "/v2/admin/keys/nobody", Value::Null).await.status, StatusCode::NOT_FOUND);
    let key = gate.key.clone().unwrap();
    let mut late = from("::1", &key, "PATCH", "/v2/admin/tenants/acme", &json!({"weight": 7}));
    late.headers_mut().insert("if-match", "\"0\"".parse().unwrap());
    assert_eq!(gate.send(late).await.status(), StatusCode::PRECONDITION_FAILED);
    ask(&gate, "POST", "/v2/admin/tenants", json!({"id": "acme"})).await;
    ask(&gate, "POST", "/v2/admin/tenants", json!({"id": "a b"})).await;
    // Whoever takes a whole key for its id has not told it to everybody who reads this.
    ask(&gate, "DELETE", &format!("/v2/admin/keys/{key}"), Value::Null).await;
    let suspend = TenantPatch { suspended: Some(true), ..TenantPatch::default() };
    gate.app.tenants.change_tenant("acme", None, suspend).await.unwrap();
    gate.send(from("::1", &secret, "POST", "/v2/pools/default/purge", &json!({}))).await;
    // Nobody's, and reads.
    gate.send(from("::1", "sk-sg-guess", "POST", "/v2/admin/tenants", &json!({"id": "b"}))).await;
    for path in ["/v2/admin/tenants", "/v2/admin/keys", "/v2/usage", "/v2/pools", "/v2/admin/audit"] {
        assert_eq!(ask(&gate, "GET", path, Value::Null).await.status, StatusCode::OK, "{path}");
    }
    gate.submit(TASK).await;

    let all = entries(&gate, "").await;
    let cut = format!("sk-sg-{}…", key.split('-').nth(2).unwrap());
    let expected = [
        ("pool.purge", "default", 403),
        ("key.revoke", &cut, 404),
        ("tenant.create", "a b", 400),
        ("tenant.create", "acme", 409),
        ("tenant.change", "acme", 412),
        ("key.revoke", "nobody", 404),
        ("tenant.delete", "acme", 403),
    ];
    assert_eq!(all.iter().map(told).collect::<Vec<_>>(), expected);
    for at in [0, 6] {
        assert_eq!((&all[at]["key_id"], &all[at]["tenant_id"]), (&json!(infer), &json!("acme")));
    }
    assert!(all.iter().all(|entry| entry["changes"] == json!({})), "{all:?}");
    gate.settle().await;
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn who_asks_for_too_much_that_is_not_his_leaves_no_more_rows_and_has_to_wait() {
    let gate = Gate::scripted(says(&["hi"])).await.with_key().await;
    let (_, secret) = key(&gate, &[Scope::Infer]).await;
    let drain =
        async |key: &str| read(gate.send(from("::1", key, "POST", "/v2/pools/default/drain", &json!({}))).await).await;
    for _ in 0..60 {
        assert_eq!(drain(&secret).await.status, StatusCode::FORBIDDEN);
    }
    let throttled = drain(&secret).await;
    assert_eq!(
        (throttled.status, &throttled.json()["code"]),
        (StatusCode::TOO_MANY_REQUESTS, &json!("ADMISSION_REJECT"))
    );
    assert_eq!(entries(&gate, "limit=1000").await.len(), 60);
    // Another key is another matter, and so is what this one may do.
    let (_, other) = key(&gate, &[Scope::Infer]).await;
    assert_eq!(drain(&other).await.status, StatusCode::FORBIDDEN);
    let pools = read(gate.send(from("::1", &secret, "GET", "/v2/pools", &Value::Null)).await).await;
    assert_eq!(pools.status, StatusCode::OK);
    let wait_ms = throttled.json()["retry_after_ms"].as_u64().unwrap();
    tokio::time::advance(Duration::from_millis(wait_ms)).await;
    assert_eq!(drain(&secret).await.status, StatusCode::FORBIDDEN);
    gate.finish().await;
}

/// Every documented operation that changes what is everybody's.
#[tokio::test(start_paused = true)]
async fn no_action_is_forgotten() {
    let gate = Gate::scripted(says(&["hi"])).await.with_key().await;
    let (_, secret) = key(&gate, &[Scope::Infer]).await;
    let documents = Document::both();
    let mut asked = 0;
    for operation in documents.iter().flat_map(Document::operations) {
        let shared = ["/v2/admin", "/v2/pools", "/v2/catalog", "/v2/workers"];
        if operation.method == "get" || !shared.iter().any(|parent| operation.path.starts_with(parent)) {
            continue;
        }
        let path: Vec<_> =
            operation.path.split('/').map(|part| if part.starts_with('{') { "x" } else { part }).collect();
        let method = operation.method.to_uppercase();
        let answer = gate.send(from("::1", &secret, &method, &path.join("/"), &Value::Null)).await;
        assert_eq!(answer.status(), StatusCode::FORBIDDEN, "{method} {}", operation.path);
        asked += 1;
        assert_eq!(entries(&gate, "limit=1000").await.len(), asked, "{method} {} left nothing", operation.path);
    }
    let all = entries(&gate, "limit=1000").await;
    let seen: BTreeSet<_> = all.iter().map(|entry| entry["action"].as_str().unwrap().to_owned()).collect();
    assert_eq!(seen, Action::ALL.iter().map(|action| action.name.to_owned()).collect());
    let native = Document::native();
    let documented = native.root["components"]["schemas"]["Action"]["enum"].as_array().unwrap().iter();
    let documented: BTreeSet<_> = documented.map(|name| name.as_str().unwrap().to_owned()).collect();
    assert_eq!(seen, documented);
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn what_is_asked_for_is_done_and_recorded_where_the_client_hangs_up() {
    let gate = Gate::scripted(Script::default()).await.with_key().await;
    let id = gate.submit(TASK).await;
    let key = gate.key.clone().unwrap();
    let path = format!("/v2/admin/tasks/{id}/cancel");
    let answered = gate.send(from("::1", &key, "POST", &path, &Value::Null)).now_or_never();
    assert!(answered.is_none(), "its end has to become durable first");
    let mut all = Vec::new();
    for _ in 0..100 {
        all = entries(&gate, "action=task.cancel").await;
        if !all.is_empty() {
            break;
        }
    }
    assert_eq!(all.iter().map(told).collect::<Vec<_>>(), [("task.cancel", id.as_str(), 204)]);
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn it_is_read_by_pages_and_filters_as_json_and_json_lines() {
    let gate = Gate::scripted(says(&["hi"])).await.with_key().await;
    for weight in 1..=5 {
        ask(&gate, "PATCH", "/v2/admin/tenants/acme", json!({"weight": weight})).await;
    }
    ask(&gate, "POST", "/v2/pools/default/resume", Value::Null).await;
    let mut seen = Vec::new();
    let mut query = "limit=4".to_owned();
    loop {
        let page = gate.get(&format!("/v2/admin/audit?{query}")).await;
        let lines = gate.get(&format!("/v2/admin/audit?{query}&format=jsonl")).await;
        let json = page.json();
        let written: Vec<Value> = lines.body.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(json!(written), json["entries"]);
        assert_eq!(lines.header("content-type"), "application/jsonl");
        assert_eq!(lines.header("x-next-cursor"), json["next_cursor"].as_str().unwrap_or(""));
        seen.extend(written);
        let Some(cursor) = json["next_cursor"].as_str() else { break };
        query = format!("limit=4&cursor={cursor}");
    }
    assert_eq!(seen.len(), 6);
    assert_eq!(seen, entries(&gate, "").await);
    let admin = gate.key.as_ref().unwrap().split('-').nth(2).unwrap();
    let (first, last) = (seen[5]["at_ms"].as_u64().unwrap(), seen[0]["at_ms"].as_u64().unwrap());
    for (query, count) in [
        ("action=pool.resume".to_owned(), 1),
        ("target=acme".to_owned(), 5),
        ("target=acme&action=pool.resume".to_owned(), 0),
        (format!("key_id={admin}"), 6),
        ("key_id=loopback".to_owned(), 0),
        (format!("to_ms={first}"), 0),
        (format!("from_ms={first}&to_ms={}", last + 1), 6),
        (format!("from_ms={}", last + 1), 0),
    ] {
        assert_eq!(entries(&gate, &query).await.len(), count, "{query}");
    }
    for (query, param) in [
        ("action=x", "action"),
        ("limit=1001", "limit"),
        ("cursor=1", "cursor"),
        ("format=csv", "format"),
        ("a=1", "a"),
    ] {
        let refused = gate.get(&format!("/v2/admin/audit?{query}")).await;
        assert_eq!((refused.status, &refused.json()["param"]), (StatusCode::BAD_REQUEST, &json!(param)));
    }
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn it_is_kept_for_its_retention_and_without_keys_it_was_this_machine() {
    let gate = Gate::with(says(&["hi"]), &[("SLUICEGATE_AUDIT__RETENTION_MS", "1")]).await;
    gate.post("/v2/pools/default/resume", "").await;
    let all = entries(&gate, "key_id=loopback").await;
    assert_eq!(told(&all[0]), ("pool.resume", "default", 202));
    assert_eq!((&all[0]["key_id"], &all[0]["tenant_id"]), (&Value::Null, &Value::Null));
    tokio::time::sleep(Duration::from_secs(601)).await;
    assert_eq!(entries(&gate, "").await, Vec::<Value>::new());
    gate.finish().await;
}
