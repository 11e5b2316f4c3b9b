//! Budgets of tenants and keys: what is refused, what is counted, and who is told.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::body::Body;
use axum::http::StatusCode;
use futures_util::future::join_all;
use serde_json::{Value, json};
use sluicegate::engine::scripted::Script;
use sluicegate_compat::native::{Budget, BudgetKind, BudgetPeriod, KeyRequest, Scope, TenantRequest};
use tempfile::TempDir;

use crate::harness::{Answer, Gate, read, read_until, request, says};

mod told;

const SESSION: &str = "/v2/sessions/0192d3a0-0000-7000-8000-000000000001";

fn budget(kind: BudgetKind, limit: u64, period: BudgetPeriod) -> Budget {
    Budget { kind, limit, period, timezone: None, soft_limit: None }
}

fn tokens(limit: u64) -> Budget {
    budget(BudgetKind::Tokens, limit, BudgetPeriod::Total)
}

/// Makes the tenant `acme`, and says who administers.
async fn acme(gate: &Gate, budgets: Vec<Budget>) -> String {
    let tenants = &gate.app.tenants;
    let request = TenantRequest { id: "acme".into(), budgets: Some(budgets), ..TenantRequest::default() };
    tenants.create_tenant(&request).await.unwrap();
    tenants.create_admin_key(KeyRequest::default()).await.unwrap().1.reveal().to_owned()
}

/// A key of `acme`, with its id.
async fn key(gate: &Gate, budgets: Vec<Budget>) -> (String, String) {
    let scopes = vec![Scope::Infer];
    let request = KeyRequest { tenant_id: "acme".into(), scopes, budgets: Some(budgets), ..KeyRequest::default() };
    let (view, secret) = gate.app.tenants.create_key(&request).await.unwrap();
    (view.id, secret.reveal().to_owned())
}

async fn ask(gate: &Gate, key: &str, method: &str, path: &str, body: &str) -> Answer {
    let mut request = request(method, path, Body::from(body.to_owned()));
    request.headers_mut().insert("authorization", format!("Bearer {key}").parse().unwrap());
    read(gate.send(request).await).await
}

/// A chat of so much output: three tokens of prompt, as the scripted engine counts `user` and `say it`.
async fn chat(gate: &Gate, key: &str, max_tokens: u32) -> Answer {
    let body =
        json!({"model": "builtin", "max_tokens": max_tokens, "messages": [{"role": "user", "content": "say it"}]});
    ask(gate, key, "POST", "/v1/chat/completions", &body.to_string()).await
}

async fn submit(gate: &Gate, key: &str, max_tokens: Option<u32>) -> Answer {
    let body = json!({"model_ref": "builtin", "prompt": "say it", "max_tokens": max_tokens});
    ask(gate, key, "POST", "/v2/tasks", &body.to_string()).await
}

async fn events(gate: &Gate, key: &str, accepted: &Answer) -> String {
    assert_eq!(accepted.status, StatusCode::ACCEPTED, "{}", accepted.body);
    let path = format!("/v2/tasks/{}/events", accepted.json()["task_id"].as_str().unwrap());
    ask(gate, key, "GET", &path, "").await.body
}

/// How the first budget of something stands.
async fn stands(gate: &Gate, admin: &str, path: &str) -> (u64, u64) {
    let budget = ask(gate, admin, "GET", path, "").await.json()["budgets"][0].clone();
    (budget["spent"].as_u64().unwrap(), budget["reserved"].as_u64().unwrap())
}

fn used(answer: &Answer) -> u64 {
    answer.json()["usage"]["total_tokens"].as_u64().unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_tenants_budget_is_for_all_of_its_keys_and_a_keys_own_beside_it() {
    let gate = Gate::scripted(Script::default()).await;
    let admin = acme(&gate, vec![tokens(40)]).await;
    let ((_, free), (small_id, small)) = (key(&gate, vec![]).await, key(&gate, vec![tokens(12)]).await);
    let first = chat(&gate, &small, 5).await;
    let each = used(&first);
    assert_eq!((first.status, each > 5), (StatusCode::OK, true), "{}", first.body);
    // The key's own leaves less than its tenant's.
    assert_eq!(first.header("x-budget-tokens-remaining"), (12 - each).to_string());
    let refused = chat(&gate, &small, 12).await;
    assert_eq!(refused.status, StatusCode::TOO_MANY_REQUESTS);
    let error = refused.json()["error"].clone();
    assert_eq!((&error["code"], &error["policy_label"]), (&json!("insufficient_quota"), &json!("budget.tokens")));
    let message = error["message"].as_str().unwrap();
    assert!(message.contains("the total budget of the key leaves"), "{message}");
    assert_eq!(refused.header("x-should-retry"), "false");
    // Another key may go on, until the tenant's is used up.
    let second = chat(&gate, &free, 5).await;
    assert_eq!(second.header("x-budget-tokens-remaining"), (40 - 2 * each).to_string());
    let refused = submit(&gate, &free, Some(40)).await;
    assert_eq!(
        (refused.status, &refused.json()["policy_label"]),
        (StatusCode::TOO_MANY_REQUESTS, &json!("budget.tokens"))
    );
    assert!(refused.body.contains("the total budget of the tenant leaves"), "{}", refused.body);
    // Without a length the answer is as long as it may be.
    let all = submit(&gate, &free, None).await;
    assert_eq!(all.header("x-budget-tokens-remaining"), "0");
    assert!(events(&gate, &free, &all).await.contains(r#""policy_label":"budget.tokens""#));
    assert_eq!(stands(&gate, &admin, "/v2/admin/tenants/acme").await, (40, 0));
    assert_eq!(stands(&gate, &admin, &format!("/v2/admin/keys/{small_id}")).await, (each, 0));
    assert_eq!(chat(&gate, &small, 1).await.status, StatusCode::TOO_MANY_REQUESTS);
    let usage = ask(&gate, &admin, "GET", "/v2/usage?tenant_id=acme", "").await.json()["total"].clone();
    assert_eq!(usage["tokens_in"].as_u64().unwrap() + usage["tokens_out"].as_u64().unwrap(), 40, "{usage}");
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn a_budget_counts_what_was_spent_before_it_was_set_and_what_runs_by_then() {
    let gate = Gate::scripted(Script { slots: 2, ..Script::default() }).await;
    let admin = acme(&gate, vec![]).await;
    let (_, key) = key(&gate, vec![]).await;
    let before = used(&chat(&gate, &key, 7).await);
    let running = submit(&gate, &key, Some(20)).await;
    let change = json!({"budgets": [{"kind": "tokens", "limit": before + 5, "period": "daily"}]}).to_string();
    let changed = ask(&gate, &admin, "PATCH", "/v2/admin/tenants/acme", &change).await;
    let shown = changed.json()["budgets"][0].clone();
    assert_eq!((&shown["spent"], &shown["reserved"]), (&json!(before), &json!(0)), "{}", changed.body);
    assert!(shown["resets_ms"].as_u64().unwrap() > shown["spent"].as_u64().unwrap());
    events(&gate, &key, &running).await;
    let after = before + 2 + 20;
    assert_eq!(stands(&gate, &admin, "/v2/admin/tenants/acme").await, (after, 0), "it was let in before, and counts");
    assert_eq!(chat(&gate, &key, 1).await.status, StatusCode::TOO_MANY_REQUESTS);
    // More is there at once, and what was spent stays spent; also where it is counted for something else.
    let more = json!({"budgets": [{"kind": "tokens", "limit": after + 50, "period": "daily"},
                                  {"kind": "tokens", "limit": 100, "period": "monthly", "timezone": "Asia/Kathmandu"}]});
    let changed = ask(&gate, &admin, "PATCH", "/v2/admin/tenants/acme", &more.to_string()).await.json();
    assert_eq!([&changed["budgets"][0]["spent"], &changed["budgets"][1]["spent"]], [after, after]);
    assert_eq!(chat(&gate, &key, 5).await.status, StatusCode::OK);
    let gone = ask(&gate, &admin, "PATCH", "/v2/admin/tenants/acme", r#"{"budgets": null}"#).await.json();
    assert_eq!(gone["budgets"], json!([]));
    let free = chat(&gate, &key, 500).await;
    assert_eq!((free.status, free.header("x-budget-tokens-remaining")), (StatusCode::OK, ""));
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn money_and_time_are_counted_as_the_ledger_counts_them_and_end_a_task() {
    let price = r#"[{ id = "builtin", price = { input_per_mtok = 1000000, output_per_mtok = 2000000 } }, { id = "builtin-embedding" }]"#;
    let gate = Gate::with(Script::default(), &[("SLUICEGATE_CATALOG__MODELS", price)]).await;
    let cost = budget(BudgetKind::Cost, 100, BudgetPeriod::Monthly);
    let admin = acme(&gate, vec![cost, budget(BudgetKind::EngineMs, 300, BudgetPeriod::Total)]).await;
    let (_, key) = key(&gate, vec![]).await;
    let answer = submit(&gate, &key, Some(9)).await;
    assert_eq!(answer.header("x-budget-cost-remaining"), (100 - 2 - 2 * 9).to_string());
    events(&gate, &key, &answer).await;
    let long = submit(&gate, &key, Some(39)).await;
    assert!(events(&gate, &key, &long).await.contains(r#""policy_label":"budget.time""#));
    let shown = ask(&gate, &admin, "GET", "/v2/admin/tenants/acme", "").await.json()["budgets"].clone();
    let usage = ask(&gate, &admin, "GET", "/v2/usage?tenant_id=acme", "").await.json()["total"].clone();
    assert_eq!((&shown[0]["spent"], &shown[1]["spent"]), (&usage["cost"], &usage["engine_ms"]), "{shown} {usage}");
    assert_eq!(usage["engine_ms"], 300);
    let refused = submit(&gate, &key, Some(1)).await;
    assert_eq!(refused.json()["policy_label"], "budget.time");
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn a_session_its_key_and_its_tenant_reserve_together_or_not_at_all() {
    let gate = Gate::scripted(Script { slots: 1, ..Script::default() }).await;
    let admin = acme(&gate, vec![tokens(100)]).await;
    let (id, key) = key(&gate, vec![tokens(50)]).await;
    let made = ask(&gate, &key, "POST", SESSION, r#"{"budget": {"tokens": 20}}"#).await;
    assert_eq!(made.status, StatusCode::NO_CONTENT, "{}", made.body);
    let task = |max_tokens: u32| {
        let session = SESSION.rsplit('/').next();
        json!({"model_ref": "builtin", "prompt": "say it", "max_tokens": max_tokens, "session_id": session}).to_string()
    };
    let refused = ask(&gate, &key, "POST", "/v2/tasks", &task(30)).await;
    assert!(refused.body.contains("and the budget leaves 20"), "{}", refused.body);
    let key_path = format!("/v2/admin/keys/{id}");
    assert_eq!(stands(&gate, &admin, "/v2/admin/tenants/acme").await, (0, 0));
    let running = ask(&gate, &key, "POST", "/v2/tasks", &task(10)).await;
    let waiting = ask(&gate, &key, "POST", "/v2/tasks", &task(6)).await;
    assert_eq!(stands(&gate, &admin, "/v2/admin/tenants/acme").await, (0, 20));
    assert_eq!(stands(&gate, &admin, &key_path).await, (0, 20));
    let cancel = format!("/v2/tasks/{}/cancel", waiting.json()["task_id"].as_str().unwrap());
    ask(&gate, &key, "POST", &cancel, "").await;
    assert_eq!(stands(&gate, &admin, &key_path).await, (0, 12), "it never started");
    events(&gate, &key, &running).await;
    assert_eq!(stands(&gate, &admin, &key_path).await, (12, 0));
    assert_eq!(stands(&gate, &admin, "/v2/admin/tenants/acme").await, (12, 0));
    assert_eq!(ask(&gate, &key, "GET", SESSION, "").await.json()["tokens_budget_remaining"], 8);
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn what_is_wrong_with_budgets_is_told_with_its_place() {
    let gate = Gate::scripted(says(&["hi"])).await;
    let admin = acme(&gate, vec![]).await;
    for (budgets, param) in [
        (json!([{"kind": "tokens", "limit": 5}]), "budgets[0].period"),
        (json!([{"kind": "words", "limit": 5, "period": "daily"}]), "budgets[0].kind"),
        (json!([{"kind": "tokens", "limit": -5, "period": "daily"}]), "budgets[0].limit"),
        (json!([{"kind": "tokens", "limit": 5, "period": "daily", "soft_limit": 6}]), "budgets[0].soft_limit"),
        (json!([{"kind": "tokens", "limit": 5, "period": "total", "timezone": "UTC"}]), "budgets[0].timezone"),
        (
            json!([{"kind": "tokens", "limit": 5, "period": "daily", "timezone": "Europe/Atlantis"}]),
            "budgets[0].timezone",
        ),
        (json!([{"kind": "tokens", "limit": 5, "period": "daily", "limits": 6}]), "budgets[].limits"),
        (json!([["tokens", 5, "daily"]]), "budgets[0]"),
        (json!({"kind": "tokens"}), "budgets"),
    ] {
        let body = json!({"budgets": budgets}).to_string();
        let answer = ask(&gate, &admin, "PATCH", "/v2/admin/tenants/acme", &body).await;
        let error = answer.json();
        assert_eq!((answer.status, &error["param"]), (StatusCode::BAD_REQUEST, &json!(param)), "{}", answer.body);
    }
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn two_hundred_clients_that_come_go_and_cancel_leave_every_account_equal() {
    let script = Script { slots: 4, ..Script::default() };
    let gate = Gate::with(script, &[("SLUICEGATE_POOLS__0__QUEUE__CAPACITY", "5000")]).await;
    let limit = 1000;
    let admin = acme(&gate, vec![tokens(limit)]).await;
    let mut keys = Vec::new();
    for _ in 0..5 {
        keys.push(key(&gate, vec![tokens(300)]).await);
    }
    let seen = Arc::new(AtomicU64::new(0));
    let client = async |number: u64| {
        let (_, key) = &keys[number as usize % 5];
        for round in 0..6_u64 {
            let dice = (number.wrapping_mul(0x9E37_79B9) ^ round.wrapping_mul(0x85EB_CA6B)) >> 4;
            let max_tokens = 1 + (dice % 17) as u32;
            match dice % 5 {
                0 => {
                    let answer = chat(&gate, key, max_tokens).await;
                    if answer.status == StatusCode::OK {
                        seen.fetch_add(used(&answer), Ordering::Relaxed);
                    }
                }
                1 => {
                    let body = json!({"model": "builtin", "n": 2, "stream": true, "max_tokens": max_tokens,
                                      "messages": [{"role": "user", "content": "say it"}]});
                    let mut request = request("POST", "/v1/chat/completions", Body::from(body.to_string()));
                    request.headers_mut().insert("authorization", format!("Bearer {key}").parse().unwrap());
                    let response = gate.send(request).await;
                    if response.status() == StatusCode::OK {
                        // It hangs up in the middle.
                        read_until(&mut response.into_body(), "content").await;
                    }
                }
                2 => {
                    let accepted = submit(&gate, key, Some(max_tokens)).await;
                    if accepted.status == StatusCode::ACCEPTED {
                        tokio::time::sleep(Duration::from_millis(dice % 90)).await;
                        let path = format!("/v2/tasks/{}/cancel", accepted.json()["task_id"].as_str().unwrap());
                        ask(&gate, key, "POST", &path, "").await;
                    }
                }
                3 => {
                    let once = || {
                        let body =
                            json!({"model": "builtin", "prompt": "say it", "max_tokens": max_tokens}).to_string();
                        let mut request = request("POST", "/v1/completions", Body::from(body));
                        let headers = request.headers_mut();
                        headers.insert("authorization", format!("Bearer {key}").parse().unwrap());
                        headers.insert("idempotency-key", format!("{number}-{round}").parse().unwrap());
                        request
                    };
                    let again = [once(), once()];
                    for request in again {
                        drop(read(gate.send(request).await).await);
                    }
                }
                _ => {
                    let accepted = submit(&gate, key, None).await;
                    if accepted.status == StatusCode::ACCEPTED {
                        let path = format!("/v2/tasks/{}/cancel", accepted.json()["task_id"].as_str().unwrap());
                        ask(&gate, key, "POST", &path, "").await;
                    }
                }
            }
        }
    };
    join_all((0..200).map(client)).await;
    gate.settle().await;
    let (spent, reserved) = stands(&gate, &admin, "/v2/admin/tenants/acme").await;
    let path = "/v2/usage?tenant_id=acme&group_by=key";
    // The last rows are on their way to the store.
    let usage = gate_usage(&gate, &admin, path, spent).await;
    let sum = |sums: &Value| sums["tokens_in"].as_u64().unwrap() + sums["tokens_out"].as_u64().unwrap();
    assert_eq!((sum(&usage["total"]), reserved), (spent, 0));
    assert!(spent <= limit && spent > limit / 2 && seen.load(Ordering::Relaxed) <= spent, "{spent}");
    for group in usage["groups"].as_array().unwrap() {
        let id = group["key_id"].as_str().unwrap();
        let own = stands(&gate, &admin, &format!("/v2/admin/keys/{id}")).await;
        assert_eq!(own, (sum(group), 0));
        assert!(own.0 <= 300, "{id}");
    }
    gate.finish().await;
}

/// Usage, once the ledger has so many tokens.
async fn gate_usage(gate: &Gate, admin: &str, path: &str, tokens: u64) -> Value {
    for _ in 0..500 {
        let usage = ask(gate, admin, "GET", path, "").await.json();
        let total = &usage["total"];
        if total["tokens_in"].as_u64().unwrap() + total["tokens_out"].as_u64().unwrap() >= tokens {
            return usage;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the ledger does not come to {tokens}");
}

#[tokio::test(start_paused = true)]
async fn what_was_spent_and_reserved_is_there_after_a_crash() {
    let folder = TempDir::new().unwrap();
    let url = format!("sqlite:{}/test.db", folder.path().display());
    let settings = [("SLUICEGATE_STORE__URL", url.as_str())];
    let endless = || Script { slots: 1, tokens: vec!["word ".into()], repeat: true, ..Script::default() };
    let first = Gate::with(endless(), &settings).await;
    let admin = acme(&first, vec![tokens(500)]).await;
    let (_, key) = key(&first, vec![]).await;
    let spent = used(&chat(&first, &key, 7).await);
    // One runs, of which nobody will know how far it came; one waits.
    let ran = submit(&first, &key, Some(100)).await;
    let path = format!("/v2/tasks/{}/events", ran.json()["task_id"].as_str().unwrap());
    let mut events_of = request("GET", &path, Body::empty());
    events_of.headers_mut().insert("authorization", format!("Bearer {key}").parse().unwrap());
    read_until(&mut first.send(events_of).await.into_body(), "event: token").await;
    let waits = submit(&first, &key, Some(30)).await;
    assert_eq!(stands(&first, &admin, "/v2/admin/tenants/acme").await, (spent, 102 + 32));
    first.crash().await;

    let second = Gate::with(Script { slots: 1, ..Script::default() }, &settings).await;
    events(&second, &key, &waits).await;
    second.settle().await;
    // What ran is charged for all that it could have used, and the ledger says so.
    assert_eq!(stands(&second, &admin, "/v2/admin/tenants/acme").await, (spent + 102 + 32, 0));
    let usage = gate_usage(&second, &admin, "/v2/usage?tenant_id=acme", spent + 102 + 32).await["total"].clone();
    assert_eq!(usage["tokens_in"].as_u64().unwrap() + usage["tokens_out"].as_u64().unwrap(), spent + 102 + 32);
    // A chat ends with its process, and is charged in the next one.
    let body = json!({"model": "builtin", "stream": true, "max_tokens": 50, "messages": [{"role": "user", "content": "say it"}]});
    second.crash().await;
    let third = Gate::with(endless(), &settings).await;
    let mut streamed = request("POST", "/v1/chat/completions", Body::from(body.to_string()));
    streamed.headers_mut().insert("authorization", format!("Bearer {key}").parse().unwrap());
    let mut stream = third.send(streamed).await.into_body();
    read_until(&mut stream, "word").await;
    let (_, reserved) = stands(&third, &admin, "/v2/admin/tenants/acme").await;
    third.crash().await;
    drop(stream);

    let fourth = Gate::with(Script::default(), &settings).await;
    let (after, left) = stands(&fourth, &admin, "/v2/admin/tenants/acme").await;
    assert_eq!((after, left), (spent + 102 + 32 + reserved, 0));
    let usage = ask(&fourth, &admin, "GET", "/v2/usage?tenant_id=acme", "").await.json()["total"].clone();
    assert_eq!(usage["tokens_in"].as_u64().unwrap() + usage["tokens_out"].as_u64().unwrap(), after, "{usage}");
    fourth.finish().await;
}

#[tokio::test(start_paused = true)]
async fn what_a_task_of_an_evicted_session_holds_of_its_tenants_budget_outlives_a_crash() {
    let folder = TempDir::new().unwrap();
    let url = format!("sqlite:{}/test.db", folder.path().display());
    let settings = [("SLUICEGATE_STORE__URL", url.as_str())];
    let script = Script { slots: 1, tokens: vec!["word ".into()], repeat: true, ..Script::default() };
    let first = Gate::with(script, &settings).await;
    let admin = acme(&first, vec![tokens(500)]).await;
    let (_, key) = key(&first, vec![]).await;
    let session = SESSION.rsplit('/').next();
    let body = json!({"model_ref": "builtin", "prompt": "say it", "max_tokens": 50, "session_id": session}).to_string();
    for _ in 0..2 {
        assert_eq!(ask(&first, &key, "POST", "/v2/tasks", &body).await.status, StatusCode::ACCEPTED);
    }
    assert_eq!(ask(&first, &key, "DELETE", SESSION, "").await.status, StatusCode::NO_CONTENT);
    assert_eq!(stands(&first, &admin, "/v2/admin/tenants/acme").await, (0, 104));
    first.crash().await;
    let second = Gate::with(Script { slots: 1, ..Script::default() }, &settings).await;
    second.settle().await;
    let (spent, reserved) = stands(&second, &admin, "/v2/admin/tenants/acme").await;
    assert_eq!((spent, reserved), (104, 0), "one ran, and one is run");
    second.finish().await;
}

#[tokio::test(start_paused = true)]
async fn whose_budget_is_too_small_is_told_and_no_other() {
    let gate = Gate::with(Script::default(), &[("SLUICEGATE_SESSIONS__BUDGET", "{ tokens = 10 }")]).await;
    let admin = acme(&gate, vec![tokens(1000)]).await;
    let (_, key) = key(&gate, vec![]).await;
    let session = SESSION.rsplit('/').next();
    let body = json!({"model_ref": "builtin", "prompt": "say it", "max_tokens": 50, "session_id": session}).to_string();
    let refused = ask(&gate, &key, "POST", "/v2/tasks", &body).await;
    assert!(refused.body.contains("and the budget leaves 10"), "{}", refused.body);
    // The tenant's is reserved for the moment, and not used up.
    let running = submit(&gate, &key, Some(990)).await;
    assert!(submit(&gate, &key, Some(20)).await.body.contains("the total budget of the tenant leaves 8"));
    let reached = async || {
        let metrics = ask(&gate, &admin, "GET", "/metrics", "").await.body;
        let line = metrics.lines().find(|line| line.starts_with(r#"budget_limits_reached_total{kind="tokens"}"#));
        line.unwrap().rsplit(' ').next().unwrap().to_owned()
    };
    gate.settle().await;
    assert_eq!(reached().await, "0");
    events(&gate, &key, &running).await;
    // Of a new limit it is told again.
    for limit in [1001, 1002] {
        let change = json!({"budgets": [{"kind": "tokens", "limit": limit, "period": "total"}]}).to_string();
        ask(&gate, &admin, "PATCH", "/v2/admin/tenants/acme", &change).await;
        for _ in 0..2 {
            assert_eq!(submit(&gate, &key, Some(20)).await.status, StatusCode::TOO_MANY_REQUESTS);
        }
    }
    tokio::time::sleep(Duration::from_millis(10)).await;
    assert_eq!(reached().await, "2");
    gate.finish().await;
}
