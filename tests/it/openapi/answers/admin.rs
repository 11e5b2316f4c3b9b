//! What administrators are answered about tenants and keys.

use axum::body::Body;
use axum::http::StatusCode;
use serde_json::{Value, json};
use sluicegate::api::ClientAddress;

use super::super::witness::Witness;
use crate::harness::{Answer, Gate, request, says};

mod declared;
mod operations;

const TENANTS: &str = "/v2/admin/tenants";
const KEYS: &str = "/v2/admin/keys";

async fn ask(witness: &mut Witness, gate: &Gate, method: &str, path: &str, body: Value) -> Answer {
    let body = if body.is_null() { Body::empty() } else { Body::from(body.to_string()) };
    witness.send(gate, request(method, path, body)).await.0
}

/// A request that is made where nobody has changed what it is about since `tag`.
async fn ask_if(witness: &mut Witness, gate: &Gate, method: &str, path: &str, tag: &str) -> StatusCode {
    let body = if method == "DELETE" { Body::empty() } else { Body::from("{}") };
    let mut request = request(method, path, body);
    request.headers_mut().insert("if-match", tag.parse().unwrap());
    witness.send(gate, request).await.0.status
}

pub(super) async fn see(witness: &mut Witness) {
    tenants(witness).await;
    keys(witness).await;
    refused(witness).await;
    usage(witness).await;
    operations::see(witness).await;
    declared::see(witness).await;
}

async fn usage(witness: &mut Witness) {
    let gate = Gate::scripted(says(&["hi"])).await.with_key().await;
    for (query, status) in [("", 200), ("?group_by=tenant,hour", 200), ("?format=csv", 200), ("?format=xml", 400)] {
        let answer = ask(witness, &gate, "GET", &format!("/v2/usage{query}"), Value::Null).await;
        assert_eq!(answer.status, status, "{}", answer.body);
    }
    gate.finish().await;
}

async fn tenants(witness: &mut Witness) {
    let gate = Gate::scripted(says(&["hi"])).await.with_key().await;
    let request = json!({"id": "small", "name": "Small Inc.", "weight": 2});
    let made = ask(witness, &gate, "POST", TENANTS, request.clone()).await;
    assert_eq!(made.status, StatusCode::CREATED, "{}", made.body);
    assert_eq!(ask(witness, &gate, "POST", TENANTS, request).await.status, StatusCode::CONFLICT);
    let small = format!("{TENANTS}/small");
    let seen = ask(witness, &gate, "GET", &small, Value::Null).await;
    assert_eq!((seen.json(), seen.header("etag")), (made.json(), made.header("etag")));
    assert_eq!(ask_if(witness, &gate, "PATCH", &small, seen.header("etag")).await, StatusCode::OK);
    for method in ["PATCH", "DELETE"] {
        for tag in [seen.header("etag"), "\"0\"", "x"] {
            let late = ask_if(witness, &gate, method, &small, tag).await;
            assert_eq!(late, StatusCode::PRECONDITION_FAILED, "{method} {tag}");
        }
    }
    let changed = ask(witness, &gate, "PATCH", &small, json!({"name": null, "suspended": true})).await.json();
    assert_eq!(changed["name"], Value::Null);
    assert_eq!((&changed["suspended"], &changed["weight"]), (&json!(true), &json!(2)));
    let all = ask(witness, &gate, "GET", TENANTS, Value::Null).await.json();
    let ids: Vec<_> = all["tenants"].as_array().unwrap().iter().map(|tenant| tenant["id"].clone()).collect();
    assert_eq!(ids, ["acme", "default", "small"]);
    assert_eq!(ask_if(witness, &gate, "DELETE", &small, "*").await, StatusCode::NO_CONTENT);
    for method in ["GET", "DELETE", "PATCH"] {
        let body = if method == "PATCH" { json!({}) } else { Value::Null };
        assert_eq!(ask(witness, &gate, method, &small, body).await.status, StatusCode::NOT_FOUND, "{method}");
    }
    gate.finish().await;
}

async fn keys(witness: &mut Witness) {
    let gate = Gate::scripted(says(&["hi"])).await.with_key().await;
    let made = ask(witness, &gate, "POST", KEYS, json!({"tenant_id": "acme", "scopes": ["infer"], "name": "ci"})).await;
    assert_eq!(made.status, StatusCode::CREATED, "{}", made.body);
    let (id, key) = (made.json()["id"].as_str().unwrap().to_owned(), made.json()["key"].as_str().unwrap().to_owned());
    let path = format!("{KEYS}/{id}");
    let may = async |key: &str| {
        let mut request = request("GET", "/v1/models", Body::empty());
        request.headers_mut().insert("authorization", format!("Bearer {key}").parse().unwrap());
        gate.send(request).await.status() == StatusCode::OK
    };
    assert!(may(&key).await);
    let seen = ask(witness, &gate, "GET", &path, Value::Null).await;
    assert!(!seen.body.contains("sk-sg-"), "a key is shown once: {}", seen.body);
    assert_eq!(ask_if(witness, &gate, "PATCH", &path, seen.header("etag")).await, StatusCode::OK);
    for (method, path) in [("PATCH", path.clone()), ("DELETE", path.clone()), ("POST", format!("{path}/rotate"))] {
        let late = ask_if(witness, &gate, method, &path, seen.header("etag")).await;
        assert_eq!(late, StatusCode::PRECONDITION_FAILED, "{method} {path}");
    }
    let changed = ask(witness, &gate, "PATCH", &path, json!({"scopes": ["metrics"], "name": null})).await.json();
    assert_eq!((&changed["scopes"], &changed["name"]), (&json!(["metrics"]), &Value::Null));
    assert!(!may(&key).await, "the scope is gone at once");
    ask(witness, &gate, "PATCH", &path, json!({"scopes": ["read"]})).await;

    let rotate = format!("{path}/rotate");
    let second = ask(witness, &gate, "POST", &rotate, json!({"overlap_ms": 3_600_000})).await;
    assert_eq!(second.status, StatusCode::CREATED, "{}", second.body);
    let second = second.json();
    assert_eq!((&second["scopes"], &second["tenant_id"]), (&json!(["read"]), &json!("acme")));
    assert!(may(&key).await && may(second["key"].as_str().unwrap()).await, "both are good for an hour");
    assert!(ask(witness, &gate, "GET", &path, Value::Null).await.json()["expires_ms"].is_u64());
    let third = ask(witness, &gate, "POST", &rotate, Value::Null).await.json();
    assert!(!may(&key).await && may(third["key"].as_str().unwrap()).await, "without an overlap the old one ends");
    let listed = ask(witness, &gate, "GET", &format!("{KEYS}?tenant_id=acme"), Value::Null).await.json();
    assert_eq!(listed["keys"].as_array().unwrap().len(), 2);
    assert_eq!(ask(witness, &gate, "GET", KEYS, Value::Null).await.json()["keys"].as_array().unwrap().len(), 3);
    let third = format!("{KEYS}/{}", third["id"].as_str().unwrap());
    ask(witness, &gate, "PATCH", &third, json!({"expires_ms": 1})).await;
    let expired = ask(witness, &gate, "POST", &format!("{third}/rotate"), Value::Null).await;
    assert_eq!(expired.status, StatusCode::CONFLICT);
    assert_eq!(ask(witness, &gate, "DELETE", &third, Value::Null).await.status, StatusCode::NO_CONTENT);
    for (method, path) in [("GET", &third), ("DELETE", &third), ("PATCH", &third), ("POST", &format!("{third}/rotate"))]
    {
        let body = if method == "PATCH" { json!({}) } else { Value::Null };
        assert_eq!(ask(witness, &gate, method, path, body).await.status, StatusCode::NOT_FOUND, "{method} {path}");
    }
    gate.finish().await;
}

async fn refused(witness: &mut Witness) {
    let settings = [("SLUICEGATE_SERVER__MAX_BODY_BYTES", "2000")];
    let gate = Gate::with(says(&["hi"]), &settings).await.with_key().await;
    let id = ask(witness, &gate, "GET", KEYS, Value::Null).await.json()["keys"][0]["id"].as_str().unwrap().to_owned();
    for (method, path, wrong, param) in [
        ("POST", TENANTS.to_owned(), json!({"id": "a b"}), "id"),
        ("PATCH", format!("{TENANTS}/acme"), json!({"weight": 0}), "weight"),
        ("POST", KEYS.to_owned(), json!({"tenant_id": "nobody", "scopes": ["infer"]}), "tenant_id"),
        ("PATCH", format!("{KEYS}/{id}"), json!({"scopes": []}), "scopes"),
        ("POST", format!("{KEYS}/{id}/rotate"), json!({"overlap_ms": 31_536_000_001_u64}), "overlap_ms"),
    ] {
        let answer = ask(witness, &gate, method, &path, wrong).await;
        let told = answer.json()["param"].clone();
        assert_eq!((answer.status, told), (StatusCode::BAD_REQUEST, json!(param)), "{method} {path}");
        let unknown = ask(witness, &gate, method, &path, json!({"colour": "red"})).await;
        assert_eq!(unknown.status, StatusCode::BAD_REQUEST, "{method} {path}");
        let large = ask(witness, &gate, method, &path, json!("x".repeat(2001))).await;
        assert_eq!(large.status, StatusCode::PAYLOAD_TOO_LARGE, "{method} {path}");
        let mut form = request(method, &path, Body::from("{}"));
        form.headers_mut().insert("content-type", "text/plain".parse().unwrap());
        assert_eq!(witness.send(&gate, form).await.0.status, StatusCode::UNSUPPORTED_MEDIA_TYPE, "{method} {path}");
    }
    assert_eq!(ask(witness, &gate, "GET", &format!("{KEYS}?tenant=x"), Value::Null).await.json()["param"], "tenant");
    gate.finish().await;
}

/// After the first key that is none, whoever sends another one is told to wait.
pub(super) async fn too_many_keys(witness: &mut Witness) {
    // On a loopback address metrics are for everybody.
    let settings = [("SLUICEGATE_SERVER__FAILED_LOGINS__BURST", "1"), ("SLUICEGATE_SERVER__LISTEN", "0.0.0.0:0")];
    let gate = Gate::with(says(&["hi"]), &settings).await.with_key().await;
    let guess = |method: &str, path: &str| {
        let mut guess = request(method, path, Body::empty());
        guess.headers_mut().insert("authorization", "Bearer sk-sg-guess".parse().unwrap());
        guess.extensions_mut().insert(ClientAddress([203, 0, 113, 7].into()));
        guess
    };
    assert_eq!(witness.send(&gate, guess("GET", "/v1/models")).await.0.status, StatusCode::UNAUTHORIZED);
    let mut requests = witness.requests();
    requests.retain(|(_, path)| {
        let open = ["/healthz", "/readyz", "/openapi/", "/v2/meta/version"];
        !open.iter().any(|open| path.starts_with(open))
    });
    requests.extend(["/v2/nothing", "/v1/nothing", "/v1/messages/nothing"].map(|path| ("GET".into(), path.into())));
    for (method, path) in requests {
        let answer = witness.send(&gate, guess(&method, &path)).await.0;
        assert_eq!(
            (answer.status, answer.header("retry-after")),
            (StatusCode::TOO_MANY_REQUESTS, "3"),
            "{method} {path}"
        );
    }
    gate.finish().await;
}
