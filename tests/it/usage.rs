//! The ledger: what tasks have used that have ended, for whom it is added up, and how it is written.

use std::time::Duration;

use axum::body::Body;
use axum::http::StatusCode;
use insta::assert_snapshot;
use serde_json::{Value, json};
use sluicegate::engine::scripted::{Failure, FailureKind, Script};
use sluicegate_compat::native::{KeyRequest, Scope, TenantRequest};

use crate::harness::{Answer, Gate, read, request, says};

const CHAT: &str = r#"{"model": "builtin", "max_tokens": 2, "messages": [{"role": "user", "content": "hi"}]}"#;
const TASK: &str = r#"{"model_ref": "builtin", "prompt": "hi", "max_tokens": 2}"#;
const MODELS: &str = r#"[{ id = "builtin", price = { input_per_mtok = 1000000, output_per_mtok = 2000000 } }, { id = "builtin-embedding" }]"#;

async fn key(gate: &Gate, tenant: &str, scopes: &[Scope]) -> String {
    let tenants = &gate.app.tenants;
    if tenants.tenant(tenant).is_none() {
        let request = TenantRequest { id: tenant.into(), ..TenantRequest::default() };
        tenants.create_tenant(&request).await.unwrap();
    }
    let request = KeyRequest { tenant_id: tenant.into(), scopes: scopes.to_vec(), ..KeyRequest::default() };
    tenants.create_key(&request).await.unwrap().1.reveal().to_owned()
}

async fn ask(gate: &Gate, key: &str, method: &str, path: &str, body: &str) -> Answer {
    let mut request = request(method, path, Body::from(body.to_owned()));
    request.headers_mut().insert("authorization", format!("Bearer {key}").parse().unwrap());
    read(gate.send(request).await).await
}

#[tokio::test(start_paused = true)]
async fn what_a_client_was_told_is_what_the_ledger_has() {
    let script = Script { first_token: Duration::from_millis(20), ..says(&["one ", "two ", "three "]) };
    let gate = Gate::with(script, &[("SLUICEGATE_CATALOG__MODELS", MODELS)]).await;
    let mut told = [0, 0];
    for _ in 0..3 {
        let usage = gate.post("/v1/chat/completions", CHAT).await.json()["usage"].clone();
        told[0] += usage["prompt_tokens"].as_u64().unwrap();
        told[1] += usage["completion_tokens"].as_u64().unwrap();
    }
    // Also of one that outlives its client.
    let id = gate.submit(TASK).await;
    let events = gate.events(&id).await;
    let end = events.lines().rev().find_map(|line| line.strip_prefix("data: ")).unwrap();
    let end: Value = serde_json::from_str(end).unwrap();
    told[0] += end["tokens_in"].as_u64().unwrap();
    told[1] += end["tokens_out"].as_u64().unwrap();
    let total = gate.get("/v2/usage").await.json()["total"].clone();
    assert_eq!([&total["tokens_in"], &total["tokens_out"]], [&json!(told[0]), &json!(told[1])]);
    assert_eq!((&total["tasks"], &total["cost"]), (&json!(4), &json!(told[0] + 2 * told[1])));
    assert!(total["engine_ms"].as_u64().unwrap() >= 80, "{total}");
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn what_ends_early_is_there_with_what_it_has_used() {
    let failure = Failure { after: 1, kind: FailureKind::Reset, times: 1 };
    let script = Script { failure: Some(failure), slots: 1, ..says(&["one ", "two "]) };
    let gate = Gate::scripted(script).await;
    let running = gate.submit(TASK).await;
    let waiting = gate.submit(TASK).await;
    gate.post(&format!("/v2/tasks/{waiting}/cancel"), "").await;
    let waited = gate.get("/v2/usage").await.json()["total"].clone();
    assert_eq!([&waited["tasks"], &waited["tokens_in"], &waited["tokens_out"]], [1, 0, 0]);
    gate.events(&running).await;
    let total = gate.get("/v2/usage").await.json()["total"].clone();
    assert_eq!((&total["tasks"], &total["tokens_out"]), (&json!(2), &json!(1)), "{total}");
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn each_sees_its_own_tenant_and_an_administrator_all() {
    let gate = Gate::scripted(says(&["hi"])).await;
    let (acme, other) = (key(&gate, "acme", &Scope::ALL[..2]).await, key(&gate, "other", &Scope::ALL[..2]).await);
    let infer = key(&gate, "acme", &[Scope::Infer]).await;
    let admin = key(&gate, "ops", &[Scope::Admin]).await;
    for key in [&acme, &acme, &other] {
        assert_eq!(ask(&gate, key, "POST", "/v1/chat/completions", CHAT).await.status, StatusCode::OK);
    }
    let tasks = async |key: &str, query: &str| {
        let answer = ask(&gate, key, "GET", &format!("/v2/usage{query}"), "").await;
        (answer.status.as_u16(), answer.json()["total"]["tasks"].clone())
    };
    assert_eq!(tasks(&acme, "").await, (200, json!(2)));
    assert_eq!(tasks(&other, "?tenant_id=other").await, (200, json!(1)));
    assert_eq!(tasks(&other, "?tenant_id=acme").await, (403, Value::Null));
    assert_eq!(tasks(&infer, "").await.0, 403);
    assert_eq!(tasks(&admin, "").await, (200, json!(3)));
    assert_eq!(tasks(&admin, "?tenant_id=acme").await, (200, json!(2)));
    assert_eq!(tasks(&admin, "?tenant_id=acme&model=builtin&pool_id=default").await, (200, json!(2)));
    assert_eq!(tasks(&admin, "?model=another").await, (200, json!(0)));
    let id = acme.split('-').nth(2).unwrap();
    assert_eq!(tasks(&admin, &format!("?key_id={id}")).await, (200, json!(2)));
    let now_ms = sluicegate::tasks::Clock::now().unix_ms;
    assert_eq!(tasks(&admin, &format!("?to_ms={}", now_ms - 3_600_000)).await, (200, json!(0)));
    assert_eq!(tasks(&admin, &format!("?from_ms={}", now_ms - 3_600_000)).await, (200, json!(3)));
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn it_is_grouped_and_written_as_json_csv_and_json_lines() {
    let gate = Gate::scripted(Script { first_token: Duration::ZERO, ..says(&["hi"]) }).await;
    gate.post("/v1/chat/completions", CHAT).await;
    let groups = gate.get("/v2/usage?group_by=tenant,key,model,pool").await;
    assert_snapshot!(groups.body, @r#"{"total":{"tasks":1,"tokens_in":1,"tokens_cached":0,"tokens_out":2,"queue_ms":0,"engine_ms":10,"cost":0},"groups":[{"tenant_id":"default","key_id":"","model":"builtin","pool_id":"default","tasks":1,"tokens_in":1,"tokens_cached":0,"tokens_out":2,"queue_ms":0,"engine_ms":10,"cost":0}]}"#);
    let table = gate.get("/v2/usage?group_by=model&format=csv").await;
    assert_eq!(table.header("content-type"), "text/csv");
    assert_snapshot!(table.body, @"
    model,tasks,tokens_in,tokens_cached,tokens_out,queue_ms,engine_ms,cost
    builtin,1,1,0,2,0,10,0
    ");
    let lines = gate.get("/v2/usage?format=jsonl").await;
    assert_eq!(lines.header("content-type"), "application/jsonl");
    assert_snapshot!(lines.body, @r#"{"tasks":1,"tokens_in":1,"tokens_cached":0,"tokens_out":2,"queue_ms":0,"engine_ms":10,"cost":0}"#);
    let hours = gate.get("/v2/usage?group_by=hour").await.json()["groups"].clone();
    assert!(hours[0]["from_ms"].as_u64().unwrap().is_multiple_of(3_600_000), "{hours}");
    let days = gate.get("/v2/usage?group_by=day").await.json()["groups"].clone();
    assert!(days[0]["from_ms"].as_u64().unwrap().is_multiple_of(86_400_000), "{days}");
    assert_eq!(gate.get("/v2/usage?group_by=tenant&model=none&format=jsonl").await.body, "");
    for (query, param) in [
        ("group_by=week", "group_by"),
        ("group_by=", "group_by"),
        ("from_ms=yesterday", "from_ms"),
        ("format=xml", "format"),
        ("since=1", "since"),
    ] {
        let refused = gate.get(&format!("/v2/usage?{query}")).await;
        assert_eq!((refused.status, refused.json()["param"].clone()), (StatusCode::BAD_REQUEST, param.into()));
    }
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn without_a_ledger_nothing_is_entered() {
    let gate = Gate::with(says(&["hi"]), &[("SLUICEGATE_LEDGER", "{ enabled = false }")]).await;
    gate.post("/v1/chat/completions", CHAT).await;
    let id = gate.submit(TASK).await;
    gate.events(&id).await;
    assert_eq!(gate.get("/v2/usage").await.json()["total"]["tasks"], 0);
    gate.finish().await;
}
