//! Pools that get another model while they serve, as operators and clients see it.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::Body;
use axum::http::StatusCode;
use futures_util::FutureExt as _;
use insta::assert_snapshot;
use serde_json::Value;
use sluicegate::engine::scripted::{Script, ScriptedEngine};
use sluicegate::engine::{Engine, LoadError, Prompt, Room};

use crate::harness::{Answer, Gate, Watched, masked, read, request};

const TASK: &str = r#"{"model_ref": "old", "prompt": "say it again", "max_tokens": 500}"#;

/// The model that pools are reloaded with.
const NEXT: &str = r#"{"new_model_ref": "hf:a/next"}"#;

const OLD_DIGEST: &str = "sha256:00aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

const SERVES_OLD: (&str, &str) = ("SLUICEGATE_POOLS__0__MODEL", "old");

fn catalog() -> (&'static str, String) {
    let old = format!(r#"{{ id = "old", source = "hf:a/old", digest = "{OLD_DIGEST}" }}"#);
    ("SLUICEGATE_CATALOG__MODELS", format!(r#"[{{ id = "next", source = "hf:a/next" }}, {old}]"#))
}

/// The model at the start, with one slot, and the one after it, with two; 500 tokens are 5 s.
fn old_and_next(number: u32) -> Script {
    match number {
        0 => Script { slots: 1, model_digest: OLD_DIGEST.into(), ..Script::default() },
        _ => Script { slots: 2, model_digest: "sha256:next".into(), ..Script::default() },
    }
}

/// A gateway whose engines are made so, with room for two models where `room` says so.
async fn gate(
    make: impl Fn(u32) -> Result<ScriptedEngine, LoadError> + Send + Sync + 'static,
    room: Room,
    settings: &[(&str, &str)],
) -> Gate {
    let (name, models) = catalog();
    let models = [(name, models.as_str())];
    let settings = if settings.is_empty() { &[SERVES_OLD] } else { settings };
    Gate::loading(Arc::new(make), Arc::new(move |_| Ok(room)), &[&models, settings].concat()).await
}

async fn good(room: Room) -> Gate {
    gate(|number| Ok(ScriptedEngine::new(old_and_next(number))), room, &[]).await
}

async fn health(gate: &Gate) -> Value {
    gate.get("/v2/pools/default/health").await.json()
}

async fn reload(gate: &Gate) -> Answer {
    gate.post("/v2/pools/default/reload", NEXT).await
}

async fn begin(gate: &Gate) {
    let answer = reload(gate).await;
    assert_eq!((answer.status, &answer.json()["reloading"]), (StatusCode::ACCEPTED, &true.into()), "{}", answer.body);
}

/// Waits (in virtual time) until the reload has ended, and returns the pool's health then.
async fn ended(gate: &Gate) -> Value {
    gate.until("/v2/pools/default/health", |health| health["reloading"] == false).await
}

async fn digest(gate: &Gate, id: &str) -> String {
    let events = gate.events(id).await;
    assert!(events.contains(r#""finish_reason":"length""#), "{events}");
    let started = events.lines().find(|line| line.contains("model_digest")).unwrap_or_else(|| panic!("{events}"));
    let started: Value = serde_json::from_str(started.strip_prefix("data: ").unwrap()).unwrap();
    started["model_digest"].as_str().unwrap().to_owned()
}

#[tokio::test(start_paused = true)]
async fn the_new_model_takes_over_in_one_step_and_what_runs_ends_on_the_old_one() {
    let gate = good(Room::Beside).await;
    let (running, waiting) = (gate.submit(TASK).await, gate.submit(TASK).await);
    begin(&gate).await;
    // Nothing has changed yet.
    let before = health(&gate).await;
    assert_eq!((&before["ready"], &before["model_ref"]), (&true.into(), &"old".into()));
    assert_eq!(before["reload"]["state"], "running");
    let health = ended(&gate).await;
    assert_snapshot!(masked(&health["reload"].to_string()), @r#"{"state":"succeeded","phase":"probing","new_model_ref":"next","error":null,"started_at_ms":<time>,"ended_at_ms":<time>}"#);
    assert_eq!((&health["model_ref"], &health["model_digest"]), (&"next".into(), &"sha256:next".into()));
    assert_eq!((&health["ready"], &health["last_error"]), (&true.into(), &Value::Null));
    // The old engine's task has one of the two slots, the one that waited the other.
    assert_eq!(health["metrics"]["slots_active"], 2, "{health}");
    assert_eq!(digest(&gate, &running).await, OLD_DIGEST);
    assert_eq!(digest(&gate, &waiting).await, "sha256:next");
    let models = gate.get("/v1/models").await.json();
    assert_eq!((&models["data"][0]["id"], models["data"].as_array().unwrap().len()), (&"next".into(), 1));
    let gone = gate.post("/v2/tasks", TASK).await;
    assert_eq!((gone.status, &gone.json()["code"]), (StatusCode::SERVICE_UNAVAILABLE, &"POOL_UNAVAILABLE".into()));
    let next = gate.submit(&TASK.replace("old", "next")).await;
    assert_eq!(digest(&gate, &next).await, "sha256:next");
    assert_eq!(gate.metric(r#"pool_reloads_total{outcome="succeeded",pool_id="default"}"#).await, 1.0);
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn whatever_fails_leaves_the_old_model_serving_and_is_said_in_the_health() {
    let dead = || {
        let engine = ScriptedEngine::new(old_and_next(1));
        engine.unload().now_or_never().unwrap();
        engine
    };
    let make = move |number: u32| match number {
        0 | 3 => Ok(ScriptedEngine::new(old_and_next(number))),
        1 => Err(LoadError("out of memory".into())),
        _ => Ok(dead()),
    };
    let (name, models) = catalog();
    let verifications = std::sync::atomic::AtomicU32::new(0);
    let verify = move |model: &str| match verifications.fetch_add(1, std::sync::atomic::Ordering::SeqCst) {
        0 => Err(LoadError(format!("model {model}: its weights have changed"))),
        _ => Ok(Room::Beside),
    };
    let gate = Gate::loading(Arc::new(make), Arc::new(verify), &[(name, &models), SERVES_OLD]).await;
    for (reason, phase) in [
        ("model next: its weights have changed", "verifying"),
        ("out of memory", "loading"),
        ("pool default: the model was loaded but does not generate", "probing"),
    ] {
        let running = gate.submit(TASK).await;
        begin(&gate).await;
        let health = ended(&gate).await;
        assert_eq!((&health["ready"], &health["model_ref"]), (&true.into(), &"old".into()), "{health}");
        assert_eq!(health["last_error"], format!("the reload with next failed: {reason}"));
        let reload = &health["reload"];
        assert_eq!(
            (&reload["state"], &reload["error"], &reload["phase"]),
            (&"failed".into(), &reason.into(), &phase.into())
        );
        assert_eq!(digest(&gate, &running).await, OLD_DIGEST);
    }
    assert_eq!(gate.metric(r#"pool_reloads_total{outcome="failed",pool_id="default"}"#).await, 3.0);
    begin(&gate).await;
    let health = ended(&gate).await;
    assert_eq!((&health["last_error"], &health["model_ref"]), (&Value::Null, &"next".into()));
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn without_memory_for_both_what_runs_ends_first_and_what_waits_goes_on_waiting() {
    let gate = good(Room::Instead).await;
    let (running, waiting) = (gate.submit(TASK).await, gate.submit(TASK).await);
    begin(&gate).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    let during = health(&gate).await;
    assert_eq!((&during["ready"], &during["live"]), (&false.into(), &true.into()));
    assert_eq!(during["reload"]["phase"], "draining");
    let refused = gate.post("/v2/tasks", TASK).await;
    assert_eq!((refused.status, &refused.json()["code"]), (StatusCode::SERVICE_UNAVAILABLE, &"POOL_UNREADY".into()));
    assert_eq!(refused.header("retry-after"), "6");
    assert_eq!(gate.get("/readyz").await.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(gate.get("/v2/meta/capabilities").await.json()["pools"][0]["health"], "reloading");
    let health = ended(&gate).await;
    assert_eq!((&health["ready"], &health["model_ref"]), (&true.into(), &"next".into()));
    assert_eq!(digest(&gate, &running).await, OLD_DIGEST);
    assert_eq!(digest(&gate, &waiting).await, "sha256:next");
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn a_model_that_had_to_go_first_comes_back_where_the_new_one_fails() {
    let make = |number: u32| match number {
        1 => Err(LoadError("out of memory".into())),
        _ => Ok(ScriptedEngine::new(old_and_next(0))),
    };
    let gate = gate(make, Room::Instead, &[]).await;
    let (running, waiting) = (gate.submit(TASK).await, gate.submit(TASK).await);
    begin(&gate).await;
    let health = ended(&gate).await;
    assert_eq!((&health["ready"], &health["model_ref"]), (&true.into(), &"old".into()), "{health}");
    assert_eq!(health["last_error"], "the reload with next failed: out of memory");
    assert_eq!(health["reload"]["phase"], "restoring");
    for id in [&running, &waiting] {
        assert_eq!(digest(&gate, id).await, OLD_DIGEST);
    }
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn there_is_one_reload_at_a_time_and_none_of_what_is_not_to_be_served() {
    let gate = good(Room::Beside).await;
    begin(&gate).await;
    let second = reload(&gate).await;
    assert_eq!((second.status, &second.json()["code"]), (StatusCode::CONFLICT, &"CONFLICT".into()));
    assert_eq!(second.json()["message"], "a reload of this pool is under way");
    ended(&gate).await;
    for (body, status, param) in [
        (r#"{"new_model_ref": "gpt-9"}"#, StatusCode::NOT_FOUND, "new_model_ref"),
        (r#"{"new_model_ref": "next", "now": true}"#, StatusCode::BAD_REQUEST, "now"),
        ("{}", StatusCode::BAD_REQUEST, "new_model_ref"),
        (r#"{"new_model_ref": 1}"#, StatusCode::BAD_REQUEST, "new_model_ref"),
    ] {
        let refused = gate.post("/v2/pools/default/reload", body).await;
        assert_eq!((refused.status, &refused.json()["param"]), (status, &param.into()), "{}", refused.body);
    }
    gate.post("/v2/catalog/models/next/state", r#"{"state": "Retired"}"#).await;
    let retired = reload(&gate).await;
    assert_eq!((retired.status, &retired.json()["param"]), (StatusCode::GONE, &"new_model_ref".into()));
    gate.lifecycle.shutdown();
    let late = gate.post("/v2/pools/default/reload", r#"{"new_model_ref": "old"}"#).await;
    assert_eq!((late.status, &late.json()["code"]), (StatusCode::SERVICE_UNAVAILABLE, &"POOL_UNREADY".into()));
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn a_pool_that_drains_is_reloaded_and_goes_on_draining() {
    let gate = good(Room::Beside).await;
    gate.post("/v2/pools/default/drain", r#"{"deadline_ms": 60000}"#).await;
    begin(&gate).await;
    let health = ended(&gate).await;
    assert_eq!((&health["draining"], &health["ready"]), (&true.into(), &false.into()));
    let task = TASK.replace("old", "next");
    assert_eq!(gate.post("/v2/tasks", &task).await.status, StatusCode::SERVICE_UNAVAILABLE);
    gate.post("/v2/pools/default/resume", "").await;
    assert_eq!(digest(&gate, &gate.submit(&task).await).await, "sha256:next");
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn what_waits_is_prepared_again_and_ends_where_it_does_not_fit() {
    let make = |number| {
        let context_length = if number == 0 { 8192 } else { 100 };
        Ok(ScriptedEngine::new(Script { context_length, ..old_and_next(number) }))
    };
    let gate = gate(make, Room::Beside, &[]).await;
    let running = gate.submit(TASK).await;
    let too_long = gate.submit(TASK).await;
    let open = gate.submit(r#"{"model_ref": "old", "prompt": "say it again"}"#).await;
    let by_digest = gate.submit(&TASK.replace("old", OLD_DIGEST).replace("500", "50")).await;
    begin(&gate).await;
    ended(&gate).await;
    let events = gate.events(&too_long).await;
    assert_snapshot!(masked(events.trim().lines().last().unwrap()), @r#"data: {"code":"INVALID_PARAMS","message":"the pool has got another model while the task waited: the model's context is 100 tokens; the prompt has 3 and 500 are asked for as output","retriable":false,"param":"max_tokens","pool_id":"default","correlation_id":"<uuid>"}"#);
    assert!(gate.events(&by_digest).await.contains("POOL_UNAVAILABLE"));
    assert_eq!(digest(&gate, &open).await, "sha256:next");
    let view = gate.get(&format!("/v2/tasks/{open}")).await.json();
    assert_eq!((&view["tokens_in"], &view["tokens_out"]), (&3.into(), &97.into()));
    assert_eq!(digest(&gate, &running).await, OLD_DIGEST);
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn what_waits_for_the_old_model_goes_to_another_pool_that_has_it() {
    let pools =
        r#"[{ id = "default", engine = "scripted", model = "old" }, { id = "b", engine = "scripted", model = "old" }]"#;
    // The first two are those of the start.
    let make = |number: u32| Ok(ScriptedEngine::new(old_and_next(number.saturating_sub(1))));
    let gate = gate(make, Room::Beside, &[("SLUICEGATE_POOLS", pools)]).await;
    let mut ids = Vec::new();
    for _ in 0..4 {
        ids.push(gate.submit(TASK).await);
    }
    begin(&gate).await;
    ended(&gate).await;
    let next = gate.submit(&TASK.replace("old", "next")).await;
    for id in &ids {
        assert_eq!(digest(&gate, id).await, OLD_DIGEST);
    }
    assert_eq!(digest(&gate, &next).await, "sha256:next");
    let models = gate.get("/v1/models").await.json();
    assert_eq!((&models["data"][0]["id"], &models["data"][1]["id"]), (&"next".into(), &"old".into()));
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn a_model_is_not_removed_while_a_pool_has_it_or_gets_it() {
    let gate = good(Room::Instead).await;
    let remove = async |id: &str| {
        let path = format!("/v2/catalog/models/{id}");
        read(gate.send(request("DELETE", &path, Body::empty())).await).await
    };
    for id in ["added", "other"] {
        let entry = format!(r#"{{"id": "{id}", "source": "hf:a/{id}"}}"#);
        assert_eq!(gate.post("/v2/catalog/models", &entry).await.status, StatusCode::CREATED);
    }
    for model in ["added", "other"] {
        let running = gate.submit(&TASK.replace("old", health(&gate).await["model_ref"].as_str().unwrap())).await;
        let body = format!(r#"{{"new_model_ref": "{model}"}}"#);
        assert_eq!(gate.post("/v2/pools/default/reload", &body).await.status, StatusCode::ACCEPTED);
        let refused = remove(model).await;
        assert_eq!((refused.status, &refused.json()["pool_id"]), (StatusCode::CONFLICT, &"default".into()));
        gate.events(&running).await;
        ended(&gate).await;
        assert_eq!(remove(model).await.status, StatusCode::CONFLICT);
    }
    assert_eq!(remove("added").await.status, StatusCode::NO_CONTENT);
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn a_reload_ends_where_the_gateway_shuts_down() {
    let gate = good(Room::Instead).await;
    let (running, waiting) = (gate.submit(TASK).await, gate.submit(TASK).await);
    begin(&gate).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    gate.lifecycle.shutdown();
    let health = ended(&gate).await;
    assert_eq!(health["last_error"], "the reload with next failed: the gateway is shutting down");
    for id in [&running, &waiting] {
        assert_eq!(digest(&gate, id).await, OLD_DIGEST);
    }
    gate.finish().await;
}

/// A gateway whose second load, the first of a reload, takes an hour.
async fn with_a_load_that_hangs(room: Room) -> Gate {
    let restored = (room == Room::Instead).then_some(2);
    let number = move |number| if restored == Some(number) { 0 } else { number };
    let gate = gate(move |load| Ok(ScriptedEngine::new(old_and_next(number(load)))), room, &[]).await;
    gate.slow.lock().unwrap().insert(1, Duration::from_secs(3600));
    gate
}

#[tokio::test(start_paused = true)]
async fn the_wait_for_other_loads_is_no_part_of_a_load() {
    let gate = good(Room::Beside).await;
    gate.busy.lock().unwrap().insert(1, Duration::from_secs(500));
    gate.slow.lock().unwrap().insert(1, Duration::from_secs(500));
    begin(&gate).await;
    tokio::time::sleep(Duration::from_secs(999)).await;
    assert_eq!(ended(&gate).await["model_ref"], "next");
    gate.busy.lock().unwrap().insert(2, Duration::from_secs(601));
    begin(&gate).await;
    tokio::time::sleep(Duration::from_secs(599)).await;
    assert_eq!(health(&gate).await["last_error"], Value::Null);
    let reason = "the reload with next failed: \
                  waiting for the model's files, or for another load, takes longer than 600 s (watchdog.load_ms)";
    assert_eq!(ended(&gate).await["last_error"], reason);
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn a_load_that_hangs_is_given_up_and_no_other_one_is_begun_beside_it() {
    for room in [Room::Beside, Room::Instead] {
        let gate = with_a_load_that_hangs(room).await;
        begin(&gate).await;
        tokio::time::sleep(Duration::from_secs(599)).await;
        assert_eq!(health(&gate).await["reload"]["phase"], "loading");
        let health = ended(&gate).await;
        assert_eq!((&health["ready"], &health["model_ref"]), (&true.into(), &"old".into()), "{health}");
        let reason = "the reload with next failed: loading the model takes longer than 600 s (watchdog.load_ms)";
        assert_eq!(health["last_error"], reason);
        assert_eq!(digest(&gate, &gate.submit(TASK).await).await, OLD_DIGEST);
        let refused = reload(&gate).await;
        assert_eq!(refused.status, StatusCode::CONFLICT, "{}", refused.body);
        assert!(refused.json()["message"].as_str().unwrap().starts_with("a load that was given up has not ended yet"));
        // It comes to its end, and what it made is let go.
        tokio::time::sleep(Duration::from_secs(3001)).await;
        begin(&gate).await;
        assert_eq!(ended(&gate).await["model_ref"], "next");
        gate.finish().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_drain_ends_a_reload_at_its_deadline_where_that_began_before() {
    let gate = with_a_load_that_hangs(Room::Beside).await;
    begin(&gate).await;
    gate.post("/v2/pools/default/drain", r#"{"deadline_ms": 60000}"#).await;
    tokio::time::sleep(Duration::from_secs(59)).await;
    assert_eq!(health(&gate).await["reloading"], true);
    tokio::time::sleep(Duration::from_secs(2)).await;
    let health = health(&gate).await;
    assert_eq!(health["last_error"], "the reload with next failed: a drain or a purge of the pool has ended it");
    gate.post("/v2/pools/default/resume", "").await;
    assert_eq!(digest(&gate, &gate.submit(TASK).await).await, OLD_DIGEST);
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn what_a_reload_has_loaded_when_it_is_ended_is_gone_before_the_old_model_comes_back() {
    let told = Arc::new(Mutex::new(Vec::new()));
    let tell = Arc::clone(&told);
    let make = move |number: u32| {
        tell.lock().unwrap().push(format!("load {number}"));
        let tell = Arc::clone(&tell);
        let unloaded = Box::new(move || tell.lock().unwrap().push(format!("unload {number}")));
        Ok(Arc::new(Watched { unloaded, ..Watched::new(ScriptedEngine::new(old_and_next(0))) }) as Arc<dyn Engine>)
    };
    let (name, models) = catalog();
    let settings = [(name, models.as_str()), SERVES_OLD, ("SLUICEGATE_POOLS__0__REPLICAS", "2")];
    let gate = Gate::loading_any(Arc::new(make), Arc::new(|_| Ok(Room::Instead)), &settings).await;
    // The second one of the new model.
    gate.slow.lock().unwrap().insert(3, Duration::from_secs(3600));
    begin(&gate).await;
    gate.post("/v2/pools/default/drain", r#"{"deadline_ms": 30000}"#).await;
    ended(&gate).await;
    let told = told.lock().unwrap().clone();
    assert_eq!(told, ["load 0", "load 1", "unload 0", "unload 1", "load 2", "unload 2", "load 4", "load 5"]);
    gate.post("/v2/pools/default/resume", "").await;
    gate.finish().await;
}

#[tokio::test]
async fn a_task_whose_pool_gets_another_model_while_its_prompt_is_counted_is_not_run_by_that() {
    let (counting, mut counts) = tokio::sync::mpsc::channel(1);
    let (let_go, held) = std::sync::mpsc::channel::<()>();
    let held = Arc::new(Mutex::new(held));
    // So many bytes are counted off the reactor.
    let long = "a".repeat(50_000);
    let make = move |number: u32| {
        let (counting, held) = (counting.clone(), Arc::clone(&held));
        let prepares = Box::new(move |prompt: &Prompt| {
            if matches!(prompt, Prompt::Text(text) if text.len() == 50_000) {
                counting.blocking_send(()).unwrap();
                held.lock().unwrap().recv().unwrap();
            }
        });
        Ok(Arc::new(Watched { prepares, ..Watched::new(ScriptedEngine::new(old_and_next(number))) }) as Arc<dyn Engine>)
    };
    let (name, models) = catalog();
    let settings = [(name, models.as_str()), SERVES_OLD];
    let gate = Gate::loading_any(Arc::new(make), Arc::new(|_| Ok(Room::Beside)), &settings).await;
    let exchange = async {
        counts.recv().await.unwrap();
        begin(&gate).await;
        ended(&gate).await;
        let_go.send(()).unwrap();
    };
    let task = TASK.replace("say it again", &long);
    let (answer, ()) = tokio::join!(gate.post("/v2/tasks", &task), exchange);
    assert_eq!((answer.status, answer.header("retry-after")), (StatusCode::SERVICE_UNAVAILABLE, "0"));
    assert_snapshot!(masked(&answer.body), @r#"{"code":"POOL_UNAVAILABLE","message":"the pool has just got another model; send the task again","retriable":true,"pool_id":"default","retry_after_ms":0,"correlation_id":"<uuid>"}"#);
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn a_purge_by_force_ends_a_reload_and_any_other_one_is_refused() {
    let gate = with_a_load_that_hangs(Room::Beside).await;
    begin(&gate).await;
    let waits = gate.post("/v2/pools/default/purge", r#"{"drain_first": true}"#).await;
    assert_eq!(waits.json()["message"], "a reload of this pool is under way");
    let forced = gate.post("/v2/pools/default/purge", r#"{"force": true}"#).await;
    assert_eq!(forced.status, StatusCode::ACCEPTED, "{}", forced.body);
    let health = gate.until("/v2/pools/default/health", |health| health["purge"]["state"] != "running").await;
    assert_eq!((&health["purge"]["state"], &health["reload"]["state"]), (&"succeeded".into(), &"failed".into()));
    assert_eq!(health["replicas"][0]["state"], "unloaded");
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_does_not_wait_for_a_load() {
    let gate = with_a_load_that_hangs(Room::Beside).await;
    begin(&gate).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(health(&gate).await["reload"]["phase"], "loading");
    gate.lifecycle.shutdown();
    assert_eq!(ended(&gate).await["last_error"], "the reload with next failed: the gateway is shutting down");
    gate.finish().await;
}
