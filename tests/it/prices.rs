//! Prices that administrators set while the gateway runs, and tasks of all tenants.

use std::time::Duration;

use axum::body::Body;
use axum::http::StatusCode;
use serde_json::{Value, json};
use sluicegate::engine::scripted::Script;
use sluicegate_compat::native::{KeyRequest, Scope};

use crate::harness::{Answer, Gate, read, request, says};

const CHAT: &str = r#"{"model": "builtin", "max_tokens": 2, "messages": [{"role": "user", "content": "hi"}]}"#;
const TASK: &str = r#"{"model_ref": "builtin", "prompt": "a secret", "max_tokens": 2, "metadata": {"a": "secret"}}"#;
const MODELS: &str = r#"[{ id = "builtin", aliases = ["org/small"], price = { output_per_mtok = 1000000 } }, { id = "builtin-embedding" }]"#;

async fn ask(gate: &Gate, method: &str, path: &str, body: Value) -> Answer {
    let body = if body.is_null() { Body::empty() } else { Body::from(body.to_string()) };
    read(gate.send(request(method, path, body)).await).await
}

/// What the tasks that have ended have cost.
async fn cost(gate: &Gate) -> u64 {
    gate.get("/v2/usage").await.json()["total"]["cost"].as_u64().unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_price_counts_for_what_is_let_in_from_then_on_and_survives_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let store = format!("sqlite:{}", folder.path().join("store.db").display());
    let settings = [("SLUICEGATE_CATALOG__MODELS", MODELS), ("SLUICEGATE_STORE__URL", store.as_str())];
    let script = Script { first_token: Duration::from_millis(20), ..says(&["one ", "two "]) };
    let gate = Gate::with(script.clone(), &settings).await;
    gate.post("/v1/chat/completions", CHAT).await;
    assert_eq!(cost(&gate).await, 2);
    // One is let in before, and ends after.
    let earlier = gate.submit(TASK).await;
    let seen = ask(&gate, "GET", "/v2/admin/prices/org%2Fsmall", Value::Null).await;
    assert_eq!((&seen.json()["model_id"], &seen.json()["overridden"]), (&json!("builtin"), &json!(false)));
    let mut set = request("PUT", "/v2/admin/prices/org%2Fsmall", Body::from(r#"{"output_per_mtok": 50000000}"#));
    set.headers_mut().insert("if-match", seen.header("etag").parse().unwrap());
    let set = read(gate.send(set).await).await;
    assert_eq!(set.status, StatusCode::OK, "{}", set.body);
    let view = set.json();
    assert_eq!(
        (&view["output_per_mtok"], &view["configured"]["output_per_mtok"]),
        (&json!(50_000_000), &json!(1_000_000))
    );
    assert_eq!(gate.get("/v2/catalog/models/builtin").await.json()["price"]["output_per_mtok"], 50_000_000);
    gate.events(&earlier).await;
    assert_eq!(cost(&gate).await, 4, "it keeps the price that it was let in with");
    gate.post("/v1/chat/completions", CHAT).await;
    assert_eq!(cost(&gate).await, 104);
    gate.crash().await;

    let gate = Gate::with(script, &settings).await;
    let kept = ask(&gate, "GET", "/v2/admin/prices/builtin", Value::Null).await;
    assert_eq!((kept.json(), kept.header("etag")), (view, set.header("etag")));
    gate.post("/v1/chat/completions", CHAT).await;
    assert_eq!(cost(&gate).await, 204);
    assert_eq!(ask(&gate, "DELETE", "/v2/admin/prices/builtin", Value::Null).await.status, StatusCode::NO_CONTENT);
    gate.post("/v1/chat/completions", CHAT).await;
    assert_eq!(cost(&gate).await, 206, "the price of the configuration counts again");
    let reset = ask(&gate, "GET", "/v2/admin/prices/builtin", Value::Null).await;
    assert_eq!((&reset.json()["overridden"], reset.header("etag") == set.header("etag")), (&json!(false), false));
    let recorded = gate.get("/v2/admin/audit?target=builtin").await.json();
    let from_to = json!({"output_per_mtok": {"from": 50_000_000, "to": 1_000_000},
        "overridden": {"from": true, "to": false}});
    assert_eq!(recorded["entries"][0]["changes"], from_to);
    assert_eq!(recorded["entries"].as_array().unwrap().len(), 2, "{recorded}");
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn of_two_who_set_a_price_at_once_one_hears_of_the_other() {
    let gate = Gate::scripted(says(&["hi"])).await;
    let put = |price: u64| {
        let body = Body::from(json!({ "engine_second": price }).to_string());
        let mut put = request("PUT", "/v2/admin/prices/builtin", body);
        put.headers_mut().insert("if-match", "\"0\"".parse().unwrap());
        gate.send(put)
    };
    let answers = futures_util::future::join_all((1..=8).map(put)).await;
    let made = answers.iter().filter(|answer| answer.status() == StatusCode::OK).count();
    let late = answers.iter().filter(|answer| answer.status() == StatusCode::PRECONDITION_FAILED).count();
    assert_eq!((made, late), (1, 7));
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn the_price_of_a_model_goes_with_the_model() {
    let gate = Gate::scripted(says(&["hi"])).await;
    let model = json!({"id": "org/new", "source": "hf:org/new", "price": {"engine_second": 7}});
    assert_eq!(ask(&gate, "POST", "/v2/catalog/models", model.clone()).await.status, StatusCode::CREATED);
    let price = "/v2/admin/prices/org%2Fnew";
    ask(&gate, "PUT", price, json!({"engine_second": 9})).await;
    assert_eq!(ask(&gate, "DELETE", "/v2/catalog/models/org%2Fnew", Value::Null).await.status, StatusCode::NO_CONTENT);
    assert_eq!(ask(&gate, "GET", price, Value::Null).await.status, StatusCode::NOT_FOUND);
    ask(&gate, "POST", "/v2/catalog/models", model).await;
    let again = ask(&gate, "GET", price, Value::Null).await;
    assert_eq!((&again.json()["engine_second"], again.header("etag")), (&json!(7), "\"0\""));
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn an_administrator_sees_and_cancels_tasks_of_all_tenants_but_not_what_they_say() {
    let gate = Gate::scripted(Script { slots: 1, ..Script::default() }).await.with_key().await;
    let request_of = KeyRequest { tenant_id: "acme".into(), scopes: vec![Scope::Infer], ..KeyRequest::default() };
    let (acme, secret) = gate.app.tenants.create_key(&request_of).await.unwrap();
    let submit = async |key: &str| {
        let long = TASK.replace("\"max_tokens\": 2", "\"max_tokens\": 500");
        let mut submit = request("POST", "/v2/tasks", Body::from(long));
        submit.headers_mut().insert("authorization", format!("Bearer {key}").parse().unwrap());
        read(gate.send(submit).await).await.json()["task_id"].as_str().unwrap().to_owned()
    };
    let theirs = submit(secret.reveal()).await;
    let ours = submit(gate.key.as_ref().unwrap()).await;
    let ids = async |query: &str| {
        let list = gate.get(&format!("/v2/admin/tasks?{query}")).await;
        assert!(list.status == StatusCode::OK && !list.body.contains("secret"), "{}", list.body);
        let tasks = list.json()["tasks"].as_array().unwrap().clone();
        tasks.iter().map(|task| task["task_id"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(ids("").await, [ours.clone(), theirs.clone()]);
    assert_eq!(ids("tenant_id=acme").await, [theirs.as_str()]);
    assert_eq!(ids(&format!("key_id={}", acme.id)).await, [theirs.as_str()]);
    assert_eq!(ids("tenant_id=acme&state=queued").await, [""; 0]);
    assert_eq!(ids("state=queued").await, [ours.as_str()]);
    let task = gate.get("/v2/admin/tasks?tenant_id=acme").await.json()["tasks"][0].clone();
    assert_eq!((&task["tenant_id"], &task["key_id"]), (&json!("acme"), &json!(acme.id)));

    for id in [&theirs, &theirs, &ours] {
        let canceled = gate.post(&format!("/v2/admin/tasks/{id}/cancel"), "").await;
        assert_eq!(canceled.status, StatusCode::NO_CONTENT, "{}", canceled.body);
    }
    let mut look = request("GET", &format!("/v2/tasks/{theirs}"), Body::empty());
    look.headers_mut().insert("authorization", format!("Bearer {}", secret.reveal()).parse().unwrap());
    let view = read(gate.send(look).await).await.json();
    assert_eq!((&view["state"], &view["canceled_by"]), (&json!("canceled"), &json!("admin")));
    assert!(gate.events(&ours).await.contains(r#""canceled_by":"admin""#));
    let recorded = gate.get(&format!("/v2/admin/audit?target={theirs}")).await.json();
    let changes: Vec<_> =
        recorded["entries"].as_array().unwrap().iter().map(|entry| entry["changes"].clone()).collect();
    let first = json!({"tenant_id": {"to": "acme"}, "canceled": {"to": true}});
    assert_eq!(changes, [json!({}), first], "the second had nothing left to do");
    gate.finish().await;
}
