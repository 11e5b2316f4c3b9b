//! Real answers against the documents, and the other way: every documented answer occurs here.

use std::collections::BTreeSet;

use axum::body::Body;
use axum::http::StatusCode;
use serde_json::Value;
use sluicegate::engine::scripted::{Failure, FailureKind, Script};
use sluicegate_compat::native::Workload;

use super::documents::Document;
use super::witness::Witness;
use crate::harness::{BOTH_MODELS, Gate, request, says};

mod admin;
mod away;
mod inputs;
mod messages;
mod responses;
mod tokens;

const TASK: &str = r#"{"model_ref": "builtin", "prompt": "say it", "max_tokens": 500}"#;
const CHAT: &str = r#"{"model": "builtin", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 500}"#;
const STREAM: &str = r#"{"model": "builtin", "messages": [{"role": "user", "content": "hi"}], "stream": true}"#;
const REGISTER: &str = "/v2/workers/register";
const SUBMIT: [(&str, &str); 2] = [("/v2/tasks", TASK), ("/v1/chat/completions", CHAT)];

/// No task has it.
const NOBODY: &str = "01a20a7d-a21e-77b5-a166-c2154022f8c7";

#[tokio::test(start_paused = true)]
async fn every_answer_is_documented_and_every_documented_answer_occurs() {
    let mut witness = Witness::new();
    examples_succeed(&mut witness).await;
    requests_that_fit_nothing(&mut witness).await;
    malformed_requests(&mut witness).await;
    a_catalog_that_changes(&mut witness).await;
    reloads_that_are_refused(&mut witness).await;
    sessions_that_come_and_go(&mut witness).await;
    admin::see(&mut witness).await;
    servers_that_register(&mut witness).await;
    bodies_that_are_refused(&mut witness).await;
    artifacts(&mut witness).await;
    inputs(&mut witness).await;
    self::inputs::see(&mut witness).await;
    messages::see(&mut witness).await;
    responses::see(&mut witness).await;
    tokens::see(&mut witness).await;
    conflicts(&mut witness).await;
    a_full_queue(&mut witness).await;
    nothing_to_serve_it(&mut witness).await;
    engines_that_fail(&mut witness).await;

    let mut documented = BTreeSet::new();
    for (document, name) in witness.documents.iter().zip(["native", "the dialects"]) {
        for operation in document.operations() {
            let statuses = operation.value["responses"].as_object().unwrap().keys();
            let statuses = statuses.filter(|status| *status != "503" || !away::needs_the_database(&operation));
            documented.extend(statuses.map(|status| format!("{} {}: {status}", operation.method, operation.path)));
        }
        for unmatched in ["x-unmatched-requests", "x-unmatched-messages"] {
            let statuses = document.root.get(unmatched).and_then(Value::as_object).into_iter().flatten();
            documented.extend(statuses.map(|(status, _)| format!("{unmatched} of {name}: {status}")));
        }
    }
    // That takes a bug; what a database that is away makes of them has a test of its own.
    documented.retain(|answer| !answer.ends_with(": 500"));
    assert_eq!(witness.answers, documented);
    let mut events = vec!["end", "error", "message", "metrics", "result", "started", "token"];
    events.extend(messages::EVENTS.iter().chain(&responses::EVENTS));
    events.sort_unstable();
    assert_eq!(Vec::from_iter(witness.events), events);
}

async fn examples_succeed(witness: &mut Witness) {
    let script = Script { workloads: Workload::ALL.to_vec(), ..says(&["one ", "two "]) };
    let gate = Gate::with(script, &[("SLUICEGATE_POOLS", BOTH_MODELS)]).await;
    let mut bodies = Vec::new();
    for operation in witness.documents.iter().flat_map(Document::operations) {
        let named = operation.request_examples();
        let path = operation.path.replace("/pools/{id}/", "/pools/default/");
        let path = path.replace("/catalog/models/{id}/", "/catalog/models/small/");
        let path = path.replace("/sessions/{id}", &format!("/sessions/{NOBODY}"));
        bodies.extend(named.map(|(name, body)| (path.clone(), name.clone(), body.to_string())));
    }
    assert!(bodies.len() > 10, "{bodies:?}");
    // These change who is answered: see `admin`.
    bodies.retain(|(path, ..)| !path.starts_with("/v2/admin/"));
    // These need a pool of another kind: see `servers_that_register` and `tokens`.
    bodies.retain(|(path, ..)| path != REGISTER && path != tokens::DETOKENIZE.0);
    // What the other examples are about has to be there first.
    bodies.sort_by_key(|(path, ..)| path != "/v2/catalog/models");
    for (path, name, body) in bodies {
        let (answer, _) = witness.post(&gate, &path, &body).await;
        assert!(answer.status.is_success(), "{path}, {name}: {}", answer.body);
        if path == "/v2/pools/default/drain" {
            witness.post(&gate, "/v2/pools/default/resume", "").await;
        } else if path == "/v2/pools/default/reload" {
            gate.until("/v2/pools/default/health", |health| health["reloading"] == false).await;
        } else if path == "/v2/tasks/preview" {
            assert_eq!(answer.json()["feasible"], true);
        } else if answer.status == StatusCode::ACCEPTED && path == "/v2/tasks" {
            let task = format!("/v2/tasks/{}", answer.json()["task_id"].as_str().unwrap());
            let (_, events) = witness.get(&gate, &format!("{task}/events")).await;
            assert!(events.contains_key("end"), "{name}: {events:?}");
            witness.get(&gate, &task).await;
            witness.post(&gate, &format!("{task}/cancel"), "").await;
        }
    }
    let (whole, _) = witness.post(&gate, "/v1/chat/completions", &CHAT.replace('{', r#"{"colour": "red", "#)).await;
    assert_eq!(whole.header("x-sluicegate-ignored"), "colour, messages[].colour");
    for (method, path) in witness.requests().into_iter().filter(|(method, path)| {
        method == "GET" && !["/tasks/", "/responses/", "/admin/"].iter().any(|it| path.contains(it))
    }) {
        let (answer, _) = witness.get(&gate, &path).await;
        assert_eq!(answer.status, StatusCode::OK, "{method} {path}: {}", answer.body);
    }
    gate.finish().await;
}

async fn requests_that_fit_nothing(witness: &mut Witness) {
    let gate = Gate::scripted(says(&["hi"])).await;
    let mut requests = witness.requests();
    requests.extend([("GET".to_owned(), "/v2/nothing".to_owned()), ("GET".to_owned(), "/v1/nothing".to_owned())]);
    for (method, path) in requests {
        let mut elsewhere = request(&method, &path, Body::empty());
        elsewhere.headers_mut().insert("host", "example.org".parse().unwrap());
        assert_eq!(witness.send(&gate, elsewhere).await.0.status, StatusCode::FORBIDDEN, "{method} {path}");
        let other_method =
            if path.ends_with("nothing") { StatusCode::NOT_FOUND } else { StatusCode::METHOD_NOT_ALLOWED };
        let other = if path.starts_with("/v2/admin/prices/") { "PATCH" } else { "PUT" };
        assert_eq!(witness.send(&gate, request(other, &path, Body::empty())).await.0.status, other_method, "{path}");
    }
    // Where others can reach it, nobody is answered without a key.
    let closed = Gate::with(says(&["hi"]), &[("SLUICEGATE_SERVER__LISTEN", "0.0.0.0:0")]).await;
    let open = ["/healthz", "/readyz", "/openapi/", "/v2/meta/version"];
    for (method, path) in witness.requests() {
        if !open.iter().any(|open| path.starts_with(open)) {
            let answer = witness.send(&closed, request(&method, &path, Body::empty())).await.0;
            assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{method} {path}");
        }
    }
    for nowhere in ["/v2/nothing", "/v1/nothing", "/v1/messages/nothing"] {
        assert_eq!(witness.get(&closed, nowhere).await.0.status, StatusCode::UNAUTHORIZED, "{nowhere}");
    }
    closed.finish().await;
    admin::too_many_keys(witness).await;
    let task = format!("/v2/tasks/{NOBODY}");
    let unknown = [
        "/",
        "/v1",
        "/v1/",
        "/v2/tasks/",
        "/v1/models/a/b",
        "/v1/models/%ff",
        "/v2/tasks/1",
        "/v2/tasks/%ff",
        "/openapi/x",
    ];
    for path in unknown.into_iter().chain([task.as_str(), &format!("{task}/events")]) {
        assert_eq!(witness.get(&gate, path).await.0.status, StatusCode::NOT_FOUND, "{path}");
    }
    assert_eq!(witness.post(&gate, &format!("{task}/cancel"), "").await.0.status, StatusCode::NOT_FOUND);
    assert_eq!(witness.get(&gate, "/v2/pools/nowhere/health").await.0.status, StatusCode::NOT_FOUND);
    for operation in ["drain", "resume", "reload", "purge"] {
        let path = format!("/v2/pools/nowhere/{operation}");
        assert_eq!(witness.post(&gate, &path, "{}").await.0.status, StatusCode::NOT_FOUND);
    }
    gate.finish().await;
}

async fn malformed_requests(witness: &mut Witness) {
    let gate = Gate::scripted(says(&["hi"])).await;
    for (path, good) in SUBMIT {
        let wrong = [
            ("temperature", "3"),
            ("temperature", "\"hot\""),
            ("n", "0"),
            ("max_tokens", "9000"),
            ("top_logprobs", "1"),
            ("logit_bias", "{\"x\": 1}"),
            ("stop", "[\"\"]"),
            ("tools", r#"[{"type": "function", "function": {"name": "f f"}}]"#),
            ("tool_choice", "\"required\""),
            ("session_id", "\"x\""),
            ("metadata", "{\"a\": 1}"),
        ];
        let changed = wrong.map(|(field, value)| with(good, field, value));
        for body in changed.iter().map(String::as_str).chain([
            "",
            "{",
            "[]",
            "{}",
            "\"x\"",
            "{\"model_ref\": 1}",
            "{\"model\": \"builtin\"}",
        ]) {
            let (answer, _) = witness.post(&gate, path, body).await;
            let ignored = path.starts_with("/v1/") && body.contains("session_id");
            assert_eq!(answer.status == StatusCode::BAD_REQUEST, !ignored, "{path} {body}: {}", answer.body);
        }
        let (answer, _) = witness.post(&gate, path, &good.replace("builtin", "gpt-9")).await;
        assert_eq!(answer.status, StatusCode::NOT_FOUND);
    }
    assert_eq!(witness.post(&gate, "/v2/tasks/preview", "{").await.0.status, StatusCode::BAD_REQUEST);
    let (infeasible, _) = witness.post(&gate, "/v2/tasks/preview", &with(TASK, "temperature", "3")).await;
    assert_eq!(infeasible.json()["error"]["param"], "temperature");
    for query in
        ["state=lost", "limit=0", "limit=x", "limit=501", "cursor=-1", "session_id=1", "colour=red", "limit=1&limit=2"]
    {
        let (answer, _) = witness.get(&gate, &format!("/v2/tasks?{query}")).await;
        assert_eq!(answer.json()["param"], query.split('=').next().unwrap(), "{}", answer.body);
    }
    for body in ["", "{}", r#"{"deadline_ms": -1}"#, r#"{"deadline_ms": 1, "why": 1}"#] {
        let (answer, _) = witness.post(&gate, "/v2/pools/default/drain", body).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{body}: {}", answer.body);
    }
    let id = gate.submit(TASK).await;
    let mut resumed = request("GET", &format!("/v2/tasks/{id}/events"), Body::empty());
    resumed.headers_mut().insert("last-event-id", "x".parse().unwrap());
    assert_eq!(witness.send(&gate, resumed).await.0.status, StatusCode::BAD_REQUEST);
    let (answer, _) = witness.get(&gate, &format!("/v2/tasks/{id}/events?verbose=perhaps")).await;
    assert_eq!(answer.json()["param"], "verbose");
    gate.finish().await;
}

async fn a_catalog_that_changes(witness: &mut Witness) {
    let gate = Gate::scripted(says(&["hi"])).await;
    let models = "/v2/catalog/models";
    let entry = r#"{"id": "org/small", "source": "hf:a/b"}"#;
    assert_eq!(witness.post(&gate, models, entry).await.0.status, StatusCode::CREATED);
    assert_eq!(witness.post(&gate, models, entry).await.0.status, StatusCode::CONFLICT);
    assert_eq!(witness.post(&gate, models, "{}").await.0.status, StatusCode::BAD_REQUEST);
    for (model, status) in [
        ("org%2Fsmall", StatusCode::NO_CONTENT),
        ("org%2Fsmall", StatusCode::NOT_FOUND),
        ("builtin", StatusCode::CONFLICT),
    ] {
        let gone = request("DELETE", &format!("{models}/{model}"), Body::empty());
        assert_eq!(witness.send(&gate, gone).await.0.status, status, "{model}");
    }
    assert_eq!(witness.get(&gate, &format!("{models}/nobody")).await.0.status, StatusCode::NOT_FOUND);
    for operation in ["verify", "state"] {
        let (answer, _) = witness.post(&gate, &format!("{models}/nobody/{operation}"), "{}").await;
        assert_eq!(answer.status, StatusCode::NOT_FOUND);
    }
    let state = format!("{models}/builtin/state");
    assert_eq!(witness.post(&gate, &state, r#"{"state": "Gone"}"#).await.0.status, StatusCode::BAD_REQUEST);
    for (query, status) in [("?fetch=perhaps", StatusCode::BAD_REQUEST), ("?fetch=true", StatusCode::ACCEPTED)] {
        let path = format!("{models}/builtin/verify{query}");
        assert_eq!(witness.post(&gate, &path, "").await.0.status, status, "{query}");
    }
    assert_eq!(witness.post(&gate, &state, r#"{"state": "Retired"}"#).await.0.status, StatusCode::ACCEPTED);
    for ((path, body), status) in SUBMIT.into_iter().zip([StatusCode::GONE, StatusCode::NOT_FOUND]) {
        assert_eq!(witness.post(&gate, path, body).await.0.status, status, "{path}");
    }
    gate.finish().await;
}

async fn reloads_that_are_refused(witness: &mut Witness) {
    let gate = Gate::with(says(&["hi"]), &[("SLUICEGATE_CATALOG__TRUST", "strict")]).await;
    let (path, same) = ("/v2/pools/default/reload", r#"{"new_model_ref": "builtin"}"#);
    gate.post("/v2/catalog/models", r#"{"id": "small", "source": "hf:a/b"}"#).await;
    for (body, status) in [
        ("{}", StatusCode::BAD_REQUEST),
        (r#"{"new_model_ref": "small"}"#, StatusCode::UNPROCESSABLE_ENTITY),
        (same, StatusCode::ACCEPTED),
        (same, StatusCode::CONFLICT),
    ] {
        assert_eq!(witness.post(&gate, path, body).await.0.status, status, "{body}");
    }
    for (body, status) in [(r#"{"purge_models": []}"#, StatusCode::BAD_REQUEST), ("{}", StatusCode::CONFLICT)] {
        assert_eq!(witness.post(&gate, "/v2/pools/default/purge", body).await.0.status, status, "{body}");
    }
    gate.post("/v2/catalog/models/builtin/state", r#"{"state": "Retired"}"#).await;
    assert_eq!(witness.post(&gate, path, same).await.0.status, StatusCode::GONE);
    gate.post("/v2/catalog/models/builtin/state", r#"{"state": "Active"}"#).await;
    gate.lifecycle.shutdown();
    for path in [path, "/v2/pools/default/purge"] {
        let body = if path.ends_with("purge") { "{}" } else { same };
        assert_eq!(witness.post(&gate, path, body).await.0.status, StatusCode::SERVICE_UNAVAILABLE);
    }
    gate.finish().await;
}

async fn artifacts(witness: &mut Witness) {
    let gate = Gate::scripted(says(&["hi"])).await;
    let document = r#"{"document": {"a": 1}}"#;
    for status in [StatusCode::CREATED, StatusCode::OK] {
        assert_eq!(witness.post(&gate, "/v2/artifacts", document).await.0.status, status);
    }
    assert_eq!(witness.post(&gate, "/v2/artifacts", "{}").await.0.status, StatusCode::BAD_REQUEST);
    let unknown = format!("/v2/artifacts/{}", "0".repeat(64));
    assert_eq!(witness.get(&gate, &unknown).await.0.status, StatusCode::NOT_FOUND);
    gate.finish().await;
}

async fn inputs(witness: &mut Witness) {
    let gate = Gate::scripted(Script { workloads: Workload::ALL.to_vec(), ..Script::default() }).await;
    for task in [r#""workload": "embedding", "dimensions": 2"#, r#""workload": "rerank", "query": "hi""#] {
        let task = format!(r#"{{"model_ref": "builtin", "inputs": ["a", [1, 2]], {task}}}"#);
        let (answer, _) = witness.post(&gate, "/v2/tasks", &task).await;
        let task = format!("/v2/tasks/{}", answer.json()["task_id"].as_str().unwrap());
        let (_, events) = witness.get(&gate, &format!("{task}/events")).await;
        assert_eq!(events["result"].len(), 1);
        witness.get(&gate, &task).await;
    }
    for path in ["/v2/meta/capabilities", "/v2/catalog/models", "/v1/models"] {
        witness.get(&gate, path).await;
    }
    gate.finish().await;
}

async fn sessions_that_come_and_go(witness: &mut Witness) {
    let gate = Gate::scripted(says(&["hi"])).await;
    let session = format!("/v2/sessions/{NOBODY}");
    let gone = || request("DELETE", &session, Body::empty());
    // Without a body it lives on, which is no request that the documents could describe.
    let extend = || request("POST", &session, Body::empty());
    assert_eq!(witness.get(&gate, &session).await.0.status, StatusCode::NOT_FOUND);
    assert_eq!(witness.send(&gate, extend()).await.0.status, StatusCode::NOT_FOUND);
    assert_eq!(witness.send(&gate, gone()).await.0.status, StatusCode::NOT_FOUND);
    assert_eq!(witness.post(&gate, &session, r#"{"ttl_ms": 0}"#).await.0.status, StatusCode::BAD_REQUEST);
    assert_eq!(witness.post(&gate, &session, "{}").await.0.status, StatusCode::NO_CONTENT);
    assert_eq!(witness.send(&gate, extend()).await.0.status, StatusCode::NO_CONTENT);
    assert_eq!(witness.get(&gate, &session).await.0.status, StatusCode::OK);
    assert_eq!(witness.post(&gate, &session, r#"{"budget": {"tokens": 99}}"#).await.0.status, StatusCode::NO_CONTENT);
    let id = format!("\"{NOBODY}\"");
    for ((path, body), field, value) in
        [(SUBMIT[0], "session_id", id.clone()), (SUBMIT[1], "sluicegate", format!(r#"{{"session_id": {id}}}"#))]
    {
        let body = with(body, field, &value);
        assert_eq!(witness.post(&gate, path, &body).await.0.status, StatusCode::TOO_MANY_REQUESTS);
        let short = with(&body, "max_tokens", "1");
        let (answer, _) = witness.post(&gate, path, &short).await;
        assert!(answer.status.is_success(), "{}", answer.body);
        if let Some(task) = answer.json()["task_id"].as_str() {
            witness.get(&gate, &format!("/v2/tasks/{task}/events?verbose=true")).await;
        }
    }
    gate.settle().await;
    assert_eq!(witness.send(&gate, gone()).await.0.status, StatusCode::NO_CONTENT);
    gate.finish().await;
}

async fn servers_that_register(witness: &mut Witness) {
    let remote = r#"{ base_url = "http://127.0.0.1:1/v1", model = "m" }"#;
    let pools = format!(r#"[{{ id = "elsewhere", engine = "remote", remote = {remote} }}]"#);
    let gate = Gate::configured(&[("SLUICEGATE_POOLS", &pools)]).await;
    let documented = witness.documents[0].operations().find(|operation| operation.path == REGISTER).unwrap();
    let bodies: Vec<_> = documented.request_examples().map(|(_, body)| body.to_string()).collect();
    for body in &bodies {
        assert_eq!(witness.post(&gate, REGISTER, body).await.0.status, StatusCode::OK, "{body}");
    }
    let good = &bodies[0];
    for (field, value, status) in [
        ("worker_id", "\"a b\"", StatusCode::BAD_REQUEST),
        ("base_url", "\"ftp://host/\"", StatusCode::BAD_REQUEST),
        ("base_url", "\"http://user@host/v1\"", StatusCode::BAD_REQUEST),
        ("api_key", "\"with space\"", StatusCode::BAD_REQUEST),
        ("engine", "\"vllm\"", StatusCode::BAD_REQUEST),
        ("slots", "0", StatusCode::BAD_REQUEST),
        ("ttl_ms", "999", StatusCode::BAD_REQUEST),
        ("why", "1", StatusCode::BAD_REQUEST),
        ("pool_id", "\"nowhere\"", StatusCode::NOT_FOUND),
    ] {
        let (answer, _) = witness.post(&gate, REGISTER, &with(good, field, value)).await;
        assert_eq!((answer.status, answer.json()["param"].as_str()), (status, Some(field)), "{value}: {}", answer.body);
    }
    for number in 2..64 {
        let body = with(good, "worker_id", &format!("\"more-{number}\""));
        assert_eq!(witness.post(&gate, REGISTER, &body).await.0.status, StatusCode::OK);
    }
    let (full, _) = witness.post(&gate, REGISTER, &with(good, "worker_id", "\"one-more\"")).await;
    assert_eq!(full.status, StatusCode::CONFLICT, "{}", full.body);
    gate.lifecycle.shutdown();
    assert_eq!(witness.post(&gate, REGISTER, good).await.0.status, StatusCode::SERVICE_UNAVAILABLE);
    gate.finish().await;
}

async fn bodies_that_are_refused(witness: &mut Witness) {
    let gate = Gate::with(says(&["hi"]), &[("SLUICEGATE_SERVER__MAX_BODY_BYTES", "2000")]).await;
    let others = [
        ("/v2/pools/default/drain", "{}"),
        ("/v2/pools/default/reload", "{}"),
        ("/v2/pools/default/purge", "{}"),
        ("/v2/tasks/preview", TASK),
        ("/v2/catalog/models", "{}"),
        ("/v2/catalog/models/builtin/state", "{}"),
        ("/v2/artifacts", "{}"),
        ("/v2/sessions/01a20a7d-a21e-77b5-a166-c2154022f8c7", "{}"),
        (REGISTER, "{}"),
    ];
    for (path, body) in SUBMIT.into_iter().chain(others) {
        let (answer, _) = witness.post(&gate, path, &" ".repeat(2001)).await;
        assert_eq!(answer.status, StatusCode::PAYLOAD_TOO_LARGE);
        let mut form = request("POST", path, Body::from(body));
        form.headers_mut().insert("content-type", "text/plain".parse().unwrap());
        assert_eq!(witness.send(&gate, form).await.0.status, StatusCode::UNSUPPORTED_MEDIA_TYPE);
    }
    gate.finish().await;
}

async fn conflicts(witness: &mut Witness) {
    let gate = Gate::scripted(Script::default()).await;
    let named = with(CHAT, "sluicegate", &format!(r#"{{"task_id": "{NOBODY}"}}"#));
    let cancel = format!("/v2/tasks/{NOBODY}/cancel");
    // The first one has been admitted by the time the second one is polled.
    let (answer, canceled) = tokio::join!(gate.post("/v1/chat/completions", &named), gate.post(&cancel, ""));
    assert_eq!((answer.status, canceled.status), (StatusCode::CONFLICT, StatusCode::NO_CONTENT), "{}", answer.body);
    witness.see("POST", "/v1/chat/completions", &answer);
    witness.see("POST", &cancel, &canceled);
    for (path, body) in
        [("/v1/chat/completions", named), ("/v2/tasks", with(TASK, "task_id", &format!("\"{NOBODY}\"")))]
    {
        assert_eq!(witness.post(&gate, path, &body).await.0.status, StatusCode::CONFLICT);
    }
    for (path, body) in SUBMIT {
        for (body, status) in [(body, None), (&with(body, "seed", "1"), Some(StatusCode::UNPROCESSABLE_ENTITY))] {
            let mut keyed = request("POST", path, Body::from(body.to_owned()));
            keyed.headers_mut().insert("idempotency-key", path.parse().unwrap());
            let answer = witness.send(&gate, keyed).await.0;
            assert!(status.map_or(answer.status.is_success(), |status| answer.status == status), "{}", answer.body);
        }
    }
    gate.finish().await;
}

async fn a_full_queue(witness: &mut Witness) {
    let script = Script { slots: 1, ..Script::default() };
    let gate = Gate::with(script, &[("SLUICEGATE_POOLS__0__QUEUE__CAPACITY", "1")]).await;
    let tasks = [gate.submit(TASK).await, gate.submit(TASK).await];
    for (path, body) in SUBMIT {
        assert_eq!(witness.post(&gate, path, body).await.0.status, StatusCode::TOO_MANY_REQUESTS);
    }
    for (path, body) in [
        (SUBMIT[0].0, with(TASK, "deadline_ms", "1")),
        (SUBMIT[1].0, with(CHAT, "sluicegate", r#"{"deadline_ms": 1}"#)),
    ] {
        let (answer, _) = witness.post(&gate, path, &body).await;
        assert!(answer.body.to_ascii_lowercase().contains("deadline_unmet"), "{}", answer.body);
    }
    for id in tasks.iter().rev() {
        witness.get(&gate, &format!("/v2/tasks/{id}")).await;
        witness.post(&gate, &format!("/v2/tasks/{id}/cancel"), "").await;
        for query in ["", "?verbose=true", "?verbose=0"] {
            let (_, events) = witness.get(&gate, &format!("/v2/tasks/{id}/events{query}")).await;
            let narrated = events.get("metrics").is_some_and(|metrics| metrics[0]["human"].is_string());
            assert_eq!(narrated, query == "?verbose=true" && *id == tasks[1], "{events:?}");
        }
        witness.get(&gate, &format!("/v2/tasks/{id}")).await;
    }
    gate.finish().await;
}

async fn nothing_to_serve_it(witness: &mut Witness) {
    let models =
        [("SLUICEGATE_CATALOG__MODELS", "[{ id = \"q\", source = \"hf:a/b\" }]"), ("SLUICEGATE_POOLS__0__MODEL", "q")];
    let gate = Gate::with(says(&["hi"]), &models).await;
    for (path, body) in SUBMIT {
        assert_eq!(witness.post(&gate, path, body).await.0.status, StatusCode::SERVICE_UNAVAILABLE);
    }
    assert_eq!(witness.get(&gate, "/v1/models/builtin").await.0.status, StatusCode::SERVICE_UNAVAILABLE);
    gate.lifecycle.shutdown();
    for (path, body) in SUBMIT {
        assert_eq!(
            witness.post(&gate, path, &body.replace("builtin", "q")).await.0.status,
            StatusCode::SERVICE_UNAVAILABLE
        );
    }
    assert_eq!(witness.get(&gate, "/readyz").await.0.status, StatusCode::SERVICE_UNAVAILABLE);
    gate.finish().await;
}

async fn engines_that_fail(witness: &mut Witness) {
    for (kind, status) in
        [(FailureKind::Reset, StatusCode::SERVICE_UNAVAILABLE), (FailureKind::Stall, StatusCode::GATEWAY_TIMEOUT)]
    {
        let script = Script { failure: Some(Failure { after: 1, kind, times: u32::MAX }), ..Script::default() };
        let gate = Gate::with(script, &[("SLUICEGATE_POOLS__0__WATCHDOG__IDLE_MS", "1000")]).await;
        assert_eq!(witness.post(&gate, "/v1/chat/completions", CHAT).await.0.status, status);
        gate.recovered().await;
        let (_, events) = witness.post(&gate, "/v1/chat/completions", STREAM).await;
        assert!(events["message"].last().unwrap()["error"]["code"].is_string(), "{events:?}");
        gate.recovered().await;
        let id = gate.submit(TASK).await;
        let (_, events) = witness.get(&gate, &format!("/v2/tasks/{id}/events")).await;
        assert_eq!(events["error"].len(), 1);
        let (view, _) = witness.get(&gate, &format!("/v2/tasks/{id}")).await;
        assert_eq!(view.json()["error"], events["error"][0]);
        gate.finish().await;
    }
}

/// `body`, an object, with one more field.
fn with(body: &str, field: &str, value: &str) -> String {
    let mut body: Value = serde_json::from_str(body).unwrap();
    body[field] = serde_json::from_str(value).unwrap();
    body.to_string()
}
