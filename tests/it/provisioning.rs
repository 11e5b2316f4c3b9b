//! Models that are made ready because tasks ask for them, as clients and operators see it.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::StatusCode;
use insta::assert_snapshot;
use serde_json::{Value, json};
use sluicegate::engine::scripted::{Script, ScriptedEngine};
use sluicegate::engine::{Engine, LoadError, Room};

use crate::harness::{Gate, Make, MakeAny, masked, read, request};

mod guests;
mod together;

/// For the model that no pool has at the start.
const TASK: &str = r#"{"model_ref": "m", "prompt": "say it", "max_tokens": 3}"#;
/// For the one that the pool has; 5 s.
const LONG: &str = r#"{"model_ref": "builtin", "prompt": "say it again", "max_tokens": 500}"#;

/// A folder that holds all that makes a model.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for name in ["config.json", "tokenizer.json", "model.safetensors"] {
        std::fs::write(folder.path().join(name), name).unwrap();
    }
    folder
}

/// A gateway whose pool has one slot, and may be given the model `m`, which lies in `folder`.
async fn loading(make: Arc<Make>, folder: &Path, more: &[(&str, &str)]) -> Gate {
    loading_any(Arc::new(move |number| make(number).map(|engine| Arc::new(engine) as Arc<dyn Engine>)), folder, more)
        .await
}

async fn loading_any(make: Arc<MakeAny>, folder: &Path, more: &[(&str, &str)]) -> Gate {
    let models = format!("[{{ id = \"m\", source = \"file:{}\", aliases = [\"other\"] }}]", folder.display());
    let roots = format!("[\"{}\"]", folder.display());
    let settings = [
        ("SLUICEGATE_ADMISSION__PROVISION", "on-demand"),
        ("SLUICEGATE_POOLS__0__ON_DEMAND", "true"),
        ("SLUICEGATE_CATALOG__ALLOWED_FILE_ROOTS", roots.as_str()),
        ("SLUICEGATE_CATALOG__MODELS", models.as_str()),
    ];
    let named = |name: &str| more.iter().any(|(other, _)| *other == name);
    let settings: Vec<_> = settings.into_iter().filter(|(name, _)| !named(name)).chain(more.iter().copied()).collect();
    Gate::loading_any(make, Arc::new(|_| Ok(Room::Beside)), &settings).await
}

/// As [`loading`], whose engines say by their digest which load they are of.
async fn gate(folder: &Path, more: &[(&str, &str)]) -> Gate {
    loading(Arc::new(|number| Ok(numbered(number))), folder, more).await
}

fn numbered(number: u32) -> ScriptedEngine {
    ScriptedEngine::new(Script { slots: 1, model_digest: format!("sha256:{number}"), ..Script::default() })
}

async fn state(gate: &Gate, id: &str) -> Value {
    gate.get(&format!("/v2/tasks/{id}")).await.json()["state"].clone()
}

/// The load whose engine a task ran on, once it has ended well.
async fn load_of(gate: &Gate, id: &str) -> String {
    let events = gate.events(id).await;
    assert!(events.contains("event: end") && events.contains(r#""finish_reason":"length""#), "{events}");
    let (_, rest) = events.split_once(r#""model_digest":"sha256:"#).unwrap_or_else(|| panic!("{events}"));
    rest[..rest.find('"').unwrap()].to_owned()
}

#[tokio::test(start_paused = true)]
async fn a_task_waits_until_a_pool_has_its_model_and_is_told_how_it_goes() {
    let folder = folder();
    let gate = gate(folder.path(), &[]).await;
    let answer = gate.post("/v2/tasks", TASK).await;
    assert_eq!(answer.status, StatusCode::ACCEPTED, "{}", answer.body);
    let steps = answer.json()["preparation"]["steps"].clone();
    let ids: Vec<_> = steps.as_array().unwrap().iter().map(|step| step["id"].clone()).collect();
    assert_eq!(ids, ["fetch", "engine", "warmup"]);
    let id = answer.json()["task_id"].as_str().unwrap().to_owned();
    assert_eq!(state(&gate, &id).await, "preparing");
    assert_eq!(gate.get("/v2/tasks?state=preparing").await.json()["tasks"].as_array().unwrap().len(), 1);
    let verbose = gate.get(&format!("/v2/tasks/{id}/events?verbose=true")).await.body;
    let first = verbose.lines().find(|line| line.starts_with("data: ")).unwrap();
    assert_snapshot!(first, @r#"data: {"prep":{"engine":{"status":"pending","bytes_total":null,"bytes_done":0,"pct":null,"phase":"pending","human":"next: wait for a pool that is idle"},"fetch":{"status":"pending","bytes_total":null,"bytes_done":0,"pct":null,"phase":"pending","human":"next: fetch the files of the model where they are missing, and check them"},"warmup":{"status":"pending","bytes_total":null,"bytes_done":0,"pct":null,"phase":"pending","human":"next: load the model, and try it with a generation"}},"phase":"preparing","human":"waiting for the model"}"#);
    assert_eq!(verbose.matches("event: started").count(), 1, "{verbose}");
    assert_eq!(load_of(&gate, &id).await, "1");
    let health = gate.get("/v2/pools/default/health").await.json();
    assert_eq!((&health["model_ref"], &health["ready"]), (&"m".into(), &true.into()));
    assert_eq!(state(&gate, &id).await, "finished");
    // From now on there is nothing to prepare.
    assert_eq!(gate.post("/v2/tasks", TASK).await.json()["preparation"], json!({"steps": []}));
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn tasks_of_one_model_share_its_preparation_and_keep_their_order() {
    let folder = folder();
    let gate = gate(folder.path(), &[]).await;
    let mut ids = Vec::new();
    for model in ["m", "other", "m"] {
        let answer = gate.post("/v2/tasks", &TASK.replace("\"m\"", &format!("\"{model}\""))).await.json();
        assert_eq!(answer["queue_position"], ids.len());
        ids.push(answer["task_id"].as_str().unwrap().to_owned());
    }
    let mut starts = Vec::new();
    for id in &ids {
        assert_eq!(load_of(&gate, id).await, "1");
        starts.push(gate.get(&format!("/v2/tasks/{id}")).await.json()["started_at_ms"].as_u64().unwrap());
    }
    assert!(starts.is_sorted(), "{starts:?}");
    assert_eq!(gate.loads.load(std::sync::atomic::Ordering::SeqCst), 2);
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn a_pool_is_given_another_model_once_it_is_idle_and_its_tasks_never_run_on_that() {
    let folder = folder();
    let gate = gate(folder.path(), &[]).await;
    let running = [gate.submit(LONG).await, gate.submit(LONG).await];
    let waits = gate.submit(TASK).await;
    // Both models are asked for, and there is one pool.
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(state(&gate, &waits).await, "preparing");
    for id in &running {
        assert_eq!(load_of(&gate, id).await, "0");
    }
    gate.until(&format!("/v2/tasks/{waits}"), |task| task["state"] == "finished").await;
    assert_eq!(load_of(&gate, &waits).await, "1");
    let back = gate.submit(&LONG.replace("500", "5")).await;
    assert_eq!(load_of(&gate, &back).await, "2");
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn a_task_that_waits_is_cancelled_or_runs_out_at_once_and_with_the_last_one_the_preparation_ends() {
    let folder = folder();
    let gate = gate(folder.path(), &[]).await;
    let running = gate.submit(LONG).await;
    let canceled = gate.submit(TASK).await;
    let late = gate.submit(&TASK.replace("3}", "3, \"deadline_ms\": 1000}")).await;
    gate.post(&format!("/v2/tasks/{canceled}/cancel"), "").await;
    assert_eq!(state(&gate, &canceled).await, "canceled");
    assert!(gate.events(&late).await.contains(r#""finish_reason":"deadline""#));
    assert_eq!(load_of(&gate, &running).await, "0");
    tokio::time::sleep(Duration::from_secs(10)).await;
    let health = gate.get("/v2/pools/default/health").await.json();
    assert_eq!((&health["model_ref"], &health["ready"]), (&"builtin".into(), &true.into()));
    // Asked for again, it is prepared again.
    assert_eq!(load_of(&gate, &gate.submit(TASK).await).await, "1");
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn a_model_that_cannot_be_made_ready_ends_its_tasks_with_the_reason_and_the_pool_keeps_its_own() {
    let folder = folder();
    let make = |number| match number {
        // Each task may have had a preparation of its own.
        1 | 2 => Err(LoadError("out of memory in /some/path".into())),
        number => Ok(numbered(number)),
    };
    let gate = loading(Arc::new(make), folder.path(), &[]).await;
    let ids = [gate.submit(TASK).await, gate.submit(TASK).await];
    let events = gate.events(&ids[0]).await;
    assert_snapshot!(masked(events.trim().lines().last().unwrap()), @r#"data: {"code":"POOL_UNAVAILABLE","message":"the model could not be loaded; the health of the pool \"default\" says why","retriable":true,"pool_id":"default","retry_after_ms":5000,"correlation_id":"<uuid>"}"#);
    for id in &ids {
        assert_eq!(gate.events(id).await.matches("event: error").count(), 1);
        assert_eq!(state(&gate, id).await, "failed");
    }
    let health = gate.get("/v2/pools/default/health").await.json();
    assert_eq!((&health["model_ref"], &health["ready"]), (&"builtin".into(), &true.into()), "{health}");
    assert_eq!(load_of(&gate, &gate.submit(&LONG.replace("500", "5")).await).await, "0");

    std::fs::remove_file(folder.path().join("tokenizer.json")).unwrap();
    let events = gate.events(&gate.submit(TASK).await).await;
    assert_snapshot!(masked(events.trim().lines().last().unwrap()), @r#"data: {"code":"UNTRUSTED_ARTIFACT","message":"the files of \"m\" make no model: tokenizer.json is missing","retriable":false,"param":"model_ref","correlation_id":"<uuid>"}"#);
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn files_that_are_not_what_was_verified_are_not_served() {
    let folder = folder();
    let gate = gate(folder.path(), &[]).await;
    gate.post("/v2/catalog/models/m/verify", "").await;
    gate.until("/v2/catalog/models/m", |model| model["verification"]["state"] == "ended").await;
    std::fs::write(folder.path().join("model.safetensors"), "model.safetensorz").unwrap();
    let events = gate.events(&gate.submit(TASK).await).await;
    assert!(events.contains("UNTRUSTED_ARTIFACT") && events.contains("model.safetensors has changed"), "{events}");
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn under_strict_trust_a_model_is_prepared_where_its_digest_is_pinned() {
    let folder = folder();
    let strict = ("SLUICEGATE_CATALOG__TRUST", "strict");
    let first = gate(folder.path(), &[strict]).await;
    let refused = first.post("/v2/tasks", TASK).await;
    assert_eq!(refused.json()["code"], "UNTRUSTED_ARTIFACT", "{}", refused.body);
    first.post("/v2/catalog/models/m/verify", "").await;
    let model = first.until("/v2/catalog/models/m", |model| model["verification"]["state"] == "ended").await;
    assert_eq!(load_of(&first, &first.submit(TASK).await).await, "1");
    first.finish().await;

    let pinned = |digest: &str| {
        format!("[{{ id = \"m\", source = \"file:{}\", digest = \"{digest}\" }}]", folder.path().display())
    };
    let good = pinned(model["digest"].as_str().unwrap());
    let second = gate(folder.path(), &[strict, ("SLUICEGATE_CATALOG__MODELS", &good)]).await;
    assert_eq!(load_of(&second, &second.submit(TASK).await).await, "1");
    second.finish().await;
    let bad = pinned(&format!("sha256:{}", "0".repeat(64)));
    let third = gate(folder.path(), &[strict, ("SLUICEGATE_CATALOG__MODELS", &bad)]).await;
    let events = third.events(&third.submit(TASK).await).await;
    assert!(events.contains("UNTRUSTED_ARTIFACT"), "{events}");
    third.finish().await;
}

#[tokio::test(start_paused = true)]
async fn what_cannot_wait_is_refused_and_the_preview_says_the_same() {
    let folder = folder();
    let pools = r#"[{ id = "default", engine = "scripted", on_demand = true }, { id = "b", engine = "scripted" }]"#;
    let gate =
        gate(folder.path(), &[("SLUICEGATE_POOLS", pools), ("SLUICEGATE_ADMISSION__PROVISION_WAITING", "1")]).await;
    let foreseen = gate.post("/v2/tasks/preview", TASK).await;
    assert_snapshot!(masked(&foreseen.body), @r#"{"feasible":true,"queue_position":0,"predicted_start_ms":90,"predicted_end_ms":90,"pool_id":"default","preparation":{"steps":[{"id":"fetch","kind":"model_fetch","group":"m","description":"fetch the files of the model where they are missing, and check them","estimated_ms":null,"bytes_total":null,"status":"pending"},{"id":"engine","kind":"engine_provision","group":"m","description":"wait for a pool that is idle","estimated_ms":null,"bytes_total":null,"status":"pending"},{"id":"warmup","kind":"pool_warmup","group":"m","description":"load the model, and try it with a generation","estimated_ms":90,"bytes_total":null,"status":"pending"}]}}"#);
    assert_eq!(gate.get("/v2/pools/default/health").await.json()["model_ref"], "builtin");
    // The model could not go where the task wants to.
    let pinned = TASK.replace("3}", r#"3, "placement": {"mode": "pin", "pin_pool_id": "b"}}"#);
    let malformed = TASK.replace("3}", "3, \"top_p\": 7}");
    let running =
        gate.submit(&LONG.replace("500}", r#"100, "placement": {"mode": "pin", "pin_pool_id": "default"}}"#)).await;
    for (task, code) in [(&pinned, "POOL_UNAVAILABLE"), (&malformed, "INVALID_PARAMS")] {
        let refused = gate.post("/v2/tasks", task).await;
        assert_eq!(refused.json()["code"], code, "{}", refused.body);
        let foreseen = gate.post("/v2/tasks/preview", task).await.json();
        assert_eq!((&foreseen["feasible"], &foreseen["error"]["code"]), (&false.into(), &code.into()));
    }
    let waits = gate.submit(TASK).await;
    let refused = gate.post("/v2/tasks", TASK).await;
    assert_eq!(
        (refused.status, &refused.json()["policy_label"]),
        (StatusCode::TOO_MANY_REQUESTS, &"queue.reject".into())
    );
    assert_eq!(gate.post("/v2/tasks/preview", TASK).await.json()["feasible"], false);
    gate.events(&waits).await;
    gate.events(&running).await;
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn a_preparation_that_takes_too_long_is_given_up() {
    let folder = folder();
    let gate = gate(folder.path(), &[("SLUICEGATE_ADMISSION__PROVISION_DEADLINE_MS", "2000")]).await;
    let running = gate.submit(LONG).await;
    let events = gate.events(&gate.submit(TASK).await).await;
    assert!(events.contains("POOL_UNAVAILABLE") && events.contains("was not ready within 2 s"), "{events}");
    assert_eq!(load_of(&gate, &running).await, "0");
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn a_chat_waits_for_its_model_and_ends_it_by_hanging_up() {
    let folder = folder();
    let gate = gate(folder.path(), &[]).await;
    let chat = r#"{"model": "m", "max_tokens": 3, "messages": [{"role": "user", "content": "hi"}]}"#;
    let answer = gate.post("/v1/chat/completions", chat).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.body);
    assert_eq!(answer.json()["usage"]["completion_tokens"], 3);
    let running = gate.submit(&LONG.replace("builtin", "m")).await;
    let stream = chat.replace("\"m\"", "\"builtin\"").replace("3,", "3, \"stream\": true,");
    let response = gate.send(request("POST", "/v1/chat/completions", Body::from(stream))).await;
    assert_eq!(gate.get("/v2/tasks?state=preparing").await.json()["tasks"].as_array().unwrap().len(), 1);
    drop(response);
    // Its end is seen once it is in the ledger.
    gate.until("/v2/tasks?state=preparing", |list| list["tasks"] == json!([])).await;
    gate.events(&running).await;
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn a_task_that_waited_when_the_process_ended_waits_again_in_the_next_one() {
    let (folder, data) = (folder(), tempfile::tempdir().unwrap());
    let url = format!("sqlite:{}/test.db", data.path().display());
    let store = [("SLUICEGATE_STORE__URL", url.as_str())];
    let first = gate(folder.path(), &store).await;
    first.submit(LONG).await;
    let ids = [first.submit(TASK).await, first.submit(TASK).await];
    first.crash().await;
    let second = gate(folder.path(), &store).await;
    for id in &ids {
        assert_eq!(load_of(&second, id).await, "1");
    }
    second.finish().await;
}

#[tokio::test(start_paused = true)]
async fn a_key_attaches_to_the_task_that_waits() {
    let folder = folder();
    let gate = gate(folder.path(), &[]).await;
    let send = async || {
        let mut request = request("POST", "/v2/tasks", Body::from(TASK));
        request.headers_mut().insert("idempotency-key", "key".parse().unwrap());
        read(gate.send(request).await).await.json()
    };
    let (first, second) = (send().await, send().await);
    assert_eq!(first["task_id"], second["task_id"]);
    assert_eq!(second["preparation"]["steps"][0]["id"], "fetch");
    assert_eq!(load_of(&gate, first["task_id"].as_str().unwrap()).await, "1");
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn at_a_shutdown_what_waits_for_a_model_does_not_hold_it_up_for_ever() {
    let folder = folder();
    let gate = gate(folder.path(), &[]).await;
    gate.submit(&LONG.replace("500", "100")).await;
    let waits = gate.submit(TASK).await;
    let chat = r#"{"model": "m", "stream": true, "messages": [{"role": "user", "content": "hi"}]}"#;
    let response = gate.send(request("POST", "/v1/chat/completions", Body::from(chat))).await;
    gate.lifecycle.shutdown();
    let chat = read(response).await.body;
    assert!(chat.contains("shutting down"), "{chat}");
    // It is for the next process.
    assert_eq!(state(&gate, &waits).await, "preparing");
    gate.post(&format!("/v2/tasks/{waits}/cancel"), "").await;
    gate.finish().await;
}

/// How many preparations have ended in this way, as the counter and the histogram say.
async fn ended(gate: &Gate, outcome: &str) -> f64 {
    let count = gate.metric(&format!("preparations_total{{outcome=\"{outcome}\"}}")).await;
    assert_eq!(gate.metric(&format!("preparation_duration_ms_count{{outcome=\"{outcome}\"}}")).await, count);
    count
}

#[tokio::test(start_paused = true)]
async fn preparations_are_counted_by_how_they_end() {
    let folder = folder();
    let make = |number| if number == 2 { Err(LoadError("no".into())) } else { Ok(numbered(number)) };
    let gate = loading(Arc::new(make), folder.path(), &[]).await;
    for outcome in ["ready", "failed", "abandoned", "interrupted"] {
        assert_eq!(ended(&gate, outcome).await, 0.0, "{outcome}");
    }
    assert_eq!(gate.metric("preparation_bytes_total").await, 0.0);
    load_of(&gate, &gate.submit(TASK).await).await;
    assert_eq!(ended(&gate, "ready").await, 1.0);
    // Each file holds its name.
    let bytes = "config.json".len() + "tokenizer.json".len() + "model.safetensors".len();
    assert_eq!(gate.metric("preparation_bytes_total").await, bytes as f64);

    assert!(gate.events(&gate.submit(LONG).await).await.contains("POOL_UNAVAILABLE"));
    assert_eq!(ended(&gate, "failed").await, 1.0);

    let running = gate.submit(&LONG.replace("builtin", "m")).await;
    let waits = gate.submit(LONG).await;
    assert_eq!(gate.metric("preparations_active").await, 1.0);
    // All of that time it waits for the pool.
    tokio::time::sleep(Duration::from_millis(600)).await;
    gate.post(&format!("/v2/tasks/{waits}/cancel"), "").await;
    tokio::time::sleep(Duration::from_millis(10)).await;
    assert_eq!(ended(&gate, "abandoned").await, 1.0);
    let duration = gate.metric("preparation_duration_ms_sum{outcome=\"abandoned\"}").await;
    assert!((600.0..700.0).contains(&duration), "{duration}");
    assert_eq!(gate.metric("preparations_active").await, 0.0);

    let waits = gate.submit(LONG).await;
    gate.lifecycle.shutdown();
    tokio::time::sleep(Duration::from_millis(10)).await;
    assert_eq!(ended(&gate, "interrupted").await, 1.0);
    assert_eq!((gate.metric("preparations_active").await, ended(&gate, "ready").await), (0.0, 1.0));
    for task in [waits, running] {
        gate.post(&format!("/v2/tasks/{task}/cancel"), "").await;
    }
    gate.finish().await;
}
