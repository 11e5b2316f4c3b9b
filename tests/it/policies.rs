//! What tenants and keys may ask for: models, pools, priorities, and how much.

use axum::body::Body;
use axum::http::StatusCode;
use insta::assert_snapshot;
use serde_json::{Value, json};
use sluicegate::engine::scripted::Script;
use sluicegate_compat::native::{KeyPatch, KeyRequest, Priority, RateLimits, Scope, TenantPatch, TenantRequest};

use crate::harness::{Answer, Gate, masked, read, request, says};

const CHAT: &str = r#"{"model": "builtin", "max_tokens": 1, "messages": [{"role": "user", "content": "hi"}]}"#;

/// Makes the tenant of a key and the key.
async fn key(gate: &Gate, tenant: TenantRequest, key: KeyRequest) -> String {
    gate.app.tenants.create_tenant(&tenant).await.unwrap();
    another(gate, KeyRequest { tenant_id: tenant.id, ..key }).await
}

async fn another(gate: &Gate, key: KeyRequest) -> String {
    let key = KeyRequest { scopes: vec![Scope::Infer], ..key };
    gate.app.tenants.create_key(&key).await.unwrap().1.reveal().to_owned()
}

fn acme() -> TenantRequest {
    TenantRequest { id: "acme".into(), ..TenantRequest::default() }
}

async fn ask(gate: &Gate, key: &str, method: &str, path: &str, body: &str) -> Answer {
    let mut request = request(method, path, Body::from(body.to_owned()));
    request.headers_mut().insert("authorization", format!("Bearer {key}").parse().unwrap());
    read(gate.send(request).await).await
}

async fn chat(gate: &Gate, key: &str) -> Answer {
    ask(gate, key, "POST", "/v1/chat/completions", CHAT).await
}

#[tokio::test(start_paused = true)]
async fn a_model_that_is_not_allowed_is_neither_listed_nor_asked_under_any_name() {
    let models = r#"[{ id = "builtin", aliases = ["mini"] }, { id = "builtin-embedding" }]"#;
    let gate = Gate::with(says(&["hi"]), &[("SLUICEGATE_CATALOG__MODELS", models)]).await;
    let tenant = TenantRequest { allowed_models: Some(vec!["mini".into(), "other".into()]), ..acme() };
    let by_alias = key(&gate, tenant, KeyRequest::default()).await;
    let neither = KeyRequest { allowed_models: Some(vec!["other".into()]), ..KeyRequest::default() };
    let neither = another(&gate, KeyRequest { tenant_id: "acme".into(), ..neither }).await;
    let listed = async |key: &str| {
        let list = ask(&gate, key, "GET", "/v1/models", "").await.json();
        list["data"].as_array().unwrap().iter().map(|model| model["id"].clone()).collect::<Vec<_>>()
    };
    // The tenant may ask it by any name, because one of them is allowed.
    assert_eq!(listed(&by_alias).await, ["builtin", "mini"]);
    assert_eq!(chat(&gate, &by_alias).await.status, StatusCode::OK);
    assert_eq!(listed(&neither).await, [Value::Null; 0]);
    let refused = chat(&gate, &neither).await;
    assert_eq!(refused.status, StatusCode::FORBIDDEN);
    assert_snapshot!(masked(&refused.body), @r#"{"error":{"message":"the model \"builtin\" is none of those that this API key and its tenant may use","type":"permission_error","param":"model","code":"insufficient_permissions"}}"#);
    let asked = r#"{"model_ref": "mini", "prompt": "hi", "max_tokens": 9}"#;
    for (method, path, body) in [
        ("POST", "/v2/tasks", asked),
        ("GET", "/v1/models/builtin", ""),
        ("POST", "/v1/tokenize", r#"{"model": "builtin", "prompt": "hi"}"#),
        ("POST", "/v1/detokenize", r#"{"model": "builtin", "tokens": [1]}"#),
        ("POST", "/v1/messages/count_tokens", r#"{"model": "mini", "messages": [{"role": "user", "content": "hi"}]}"#),
    ] {
        let answer = ask(&gate, &neither, method, path, body).await;
        assert_eq!(answer.status, StatusCode::FORBIDDEN, "{method} {path}: {}", answer.body);
    }
    let foreseen = ask(&gate, &neither, "POST", "/v2/tasks/preview", asked).await.json();
    assert_eq!((&foreseen["feasible"], &foreseen["error"]["code"]), (&false.into(), &"FORBIDDEN".into()));
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn tasks_run_in_the_pools_that_their_key_may_use() {
    let pools = r#"[{ id = "one", engine = "scripted" }, { id = "two", engine = "scripted" }]"#;
    let gate = Gate::with(says(&["hi"]), &[("SLUICEGATE_POOLS", pools)]).await;
    let only = |pools: &[&str]| KeyRequest {
        tenant_id: "acme".into(),
        allowed_pools: Some(pools.iter().map(|pool| (*pool).to_owned()).collect()),
        ..KeyRequest::default()
    };
    let second = key(&gate, acme(), only(&["two"])).await;
    let nowhere = another(&gate, only(&["three"])).await;
    let task = r#"{"model_ref": "builtin", "prompt": "hi", "max_tokens": 1}"#;
    for _ in 0..4 {
        let accepted = ask(&gate, &second, "POST", "/v2/tasks", task).await.json();
        let path = format!("/v2/tasks/{}", accepted["task_id"].as_str().unwrap());
        assert_eq!(ask(&gate, &second, "GET", &path, "").await.json()["pool_id"], "two");
    }
    let pinned = r#"{"model_ref": "builtin", "prompt": "hi", "placement": {"mode": "pin", "pin_pool_id": "one"}}"#;
    assert_eq!(ask(&gate, &second, "POST", "/v2/tasks", pinned).await.json()["param"], "placement.pin_pool_id");
    let refused = ask(&gate, &nowhere, "POST", "/v2/tasks", task).await;
    assert_eq!(refused.status, StatusCode::FORBIDDEN);
    assert_eq!(refused.json()["message"], "the API key may use no pool that serves the model");
    // That is nothing that a client can say.
    let said = r#"{"model_ref": "builtin", "prompt": "hi", "only_pools": ["one"]}"#;
    assert_eq!(ask(&gate, &second, "POST", "/v2/tasks", said).await.json()["param"], "only_pools");
    gate.settle().await;
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn a_tenant_has_a_ceiling_and_a_default_of_priority() {
    let gate = Gate::scripted(says(&["hi"])).await;
    let key = key(&gate, acme(), KeyRequest::default()).await;
    let priority = async |named: &str| {
        let task = format!(r#"{{"model_ref": "builtin", "prompt": "hi", "max_tokens": 1{named}}}"#);
        let accepted = ask(&gate, &key, "POST", "/v2/tasks", &task).await.json();
        let path = format!("/v2/tasks/{}", accepted["task_id"].as_str().unwrap());
        ask(&gate, &key, "GET", &path, "").await.json()["priority"].clone()
    };
    let (interactive, batch) = (r#", "priority": "interactive""#, r#", "priority": "batch""#);
    assert_eq!([priority("").await, priority(batch).await], ["interactive", "batch"]);
    let change = async |patch| gate.app.tenants.change_tenant("acme", None, patch).await.unwrap();
    change(TenantPatch { default_priority: Some(Some(Priority::Batch)), ..TenantPatch::default() }).await;
    assert_eq!([priority("").await, priority(interactive).await], ["batch", "interactive"]);
    change(TenantPatch { priority_ceiling: Some(Some(Priority::Batch)), ..TenantPatch::default() }).await;
    assert_eq!([priority("").await, priority(interactive).await], ["batch", "batch"]);
    let none = TenantPatch { default_priority: Some(None), priority_ceiling: Some(None), ..TenantPatch::default() };
    change(none).await;
    assert_eq!(priority("").await, "interactive");
    gate.settle().await;
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn a_key_has_limits_beside_those_of_its_tenant_and_the_default_holds_where_neither_says_anything() {
    let script = Script { slots: 8, ..says(&["hi"]) };
    let gate = Gate::with(script, &[("SLUICEGATE_LIMITS", "{ requests_per_minute = 2 }")]).await;
    let per_minute = |requests| Some(RateLimits { requests_per_minute: Some(requests), ..RateLimits::default() });
    let tenant = TenantRequest { limits: per_minute(5), ..acme() };
    let three = key(&gate, tenant, KeyRequest { limits: per_minute(3), ..KeyRequest::default() }).await;
    let of = |tenant: &str| KeyRequest { tenant_id: tenant.into(), ..KeyRequest::default() };
    let any = another(&gate, of("acme")).await;
    let let_in = async |key: &str| {
        let mut count = 0;
        while chat(&gate, key).await.status == StatusCode::OK {
            count += 1;
        }
        count
    };
    assert_eq!(let_in(&three).await, 3);
    let refused = chat(&gate, &three).await;
    assert_eq!(refused.header("x-ratelimit-limit-requests"), "3");
    assert_eq!(let_in(&any).await, 2, "of the five that the tenant has");
    assert_eq!(chat(&gate, &any).await.header("x-ratelimit-limit-requests"), "5");
    let plain = TenantRequest { id: "plain".into(), ..TenantRequest::default() };
    let plain = key(&gate, plain, KeyRequest::default()).await;
    assert_eq!(let_in(&plain).await, 2, "of [limits], which is each tenant's own");
    let more = another(&gate, KeyRequest { limits: per_minute(4), ..of("plain") }).await;
    assert_eq!(let_in(&more).await, 4, "the key says otherwise");
    let capabilities = ask(&gate, &more, "GET", "/v2/meta/capabilities", "").await.json();
    assert_eq!(capabilities["pools"][0]["rate_limits"]["requests_per_minute"], 4);
    // A change holds at once, and what was taken stays taken.
    let id = &more.split('-').nth(2).unwrap();
    let patch = KeyPatch { limits: Some(per_minute(6)), ..KeyPatch::default() };
    gate.app.tenants.change_key(id, None, patch).await.unwrap();
    assert_eq!(let_in(&more).await, 2);
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn a_policy_that_makes_no_sense_is_refused_with_its_field() {
    let gate = Gate::scripted(says(&["hi"])).await;
    for (body, param) in [
        (json!({"id": "a", "limits": {"concurrency": 0}}), "limits.concurrency"),
        (json!({"id": "a", "limits": {"requests_per_minute": 1_000_000_001}}), "limits.requests_per_minute"),
        (json!({"id": "a", "limits": {"per_second": 1}}), "limits.per_second"),
        (json!({"id": "a", "limits": {"concurrency": -1}}), "limits.concurrency"),
        (json!({"id": "a", "priority_ceiling": "low"}), "priority_ceiling"),
        (json!({"id": "a", "allowed_models": [""]}), "allowed_models"),
        (json!({"id": "a", "allowed_models": "builtin"}), "allowed_models"),
        (json!({"id": "a", "allowed_pools": ["default"]}), "allowed_pools"),
    ] {
        let answer = gate.post("/v2/admin/tenants", &body.to_string()).await;
        assert_eq!((answer.status, answer.json()["param"].clone()), (StatusCode::BAD_REQUEST, param.into()), "{body}");
    }
    gate.finish().await;
}
