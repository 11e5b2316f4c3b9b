//! What of a gateway's tasks is still there in the next process: over a database file that two gateways open in turn.

use std::path::Path;

use axum::body::Body;
use insta::assert_snapshot;
use serde_json::json;
use sluicegate::engine::scripted::Script;
use tempfile::TempDir;

use super::harness::{Gate, masked, read, request, says};

mod filing;
mod pools;
mod sessions;
mod spending;

/// Over the database in `folder`, with one slot.
async fn gate(folder: &Path, script: Script, settings: &[(&str, &str)]) -> Gate {
    let url = format!("sqlite:{}/test.db", folder.display());
    let settings = [&[("SLUICEGATE_STORE__URL", url.as_str())], settings].concat();
    Gate::with(Script { slots: 1, ..script }, &settings).await
}

fn endless() -> Script {
    Script { tokens: vec!["word ".into()], repeat: true, ..Script::default() }
}

const TASK: &str = r#"{"model_ref": "builtin", "prompt": "a canary in a prompt", "max_tokens": 1000}"#;

#[tokio::test(start_paused = true)]
async fn after_a_crash_what_waited_is_run_in_its_order_and_what_ran_is_told_to_come_again() {
    let folder = TempDir::new().unwrap();
    let first = gate(folder.path(), endless(), &[]).await;
    let ran = first.submit(TASK).await;
    let waited = [first.submit(TASK).await, first.submit(TASK).await, first.submit(TASK).await];
    let mut body = first.send(request("GET", &format!("/v2/tasks/{ran}/events"), Body::empty())).await.into_body();
    super::harness::read_until(&mut body, "event: token").await;
    first.crash().await;

    let second = gate(folder.path(), says(&["done"]), &[]).await;
    assert_snapshot!(masked(&second.events(&ran).await), @r#"
    id: 2
    event: error
    data: {"code":"WORKER_RESET","message":"the gateway ended while the task ran; send it again","retriable":true,"retry_after_ms":0,"correlation_id":"<uuid>"}
    "#);
    for id in &waited {
        let stream = second.events(id).await;
        assert_eq!(stream.matches("event: started").count(), 1, "{stream}");
        assert!(stream.contains(r#""finish_reason":"stop""#), "{stream}");
        assert_eq!(second.get(&format!("/v2/tasks/{id}")).await.json()["output"], "done");
    }
    let list = second.get("/v2/tasks").await.json();
    let ids: Vec<_> = list["tasks"].as_array().unwrap().iter().map(|task| task["task_id"].clone()).collect();
    let newest_first: Vec<_> = std::iter::once(&ran).chain(&waited).rev().map(String::as_str).collect();
    assert_eq!(ids, newest_first);
    let starts = waited.map(|id| {
        list["tasks"].as_array().unwrap().iter().find(|task| task["task_id"] == id).unwrap()["started_at_ms"]
            .as_u64()
            .unwrap()
    });
    assert!(starts.is_sorted(), "{starts:?}");
    second.crash().await;

    // What ended once has ended.
    let third = gate(folder.path(), endless(), &[]).await;
    assert_eq!(third.get(&format!("/v2/tasks/{ran}")).await.json()["error"]["code"], "WORKER_RESET");
    third.finish().await;
}

#[tokio::test(start_paused = true)]
async fn an_ended_task_keeps_its_state_and_output_and_its_stream_replays_the_last_event() {
    let folder = TempDir::new().unwrap();
    let first = gate(folder.path(), says(&["Hello", " world"]), &[]).await;
    let id = first.submit(TASK).await;
    let whole = first.events(&id).await;
    let before = first.get(&format!("/v2/tasks/{id}")).await.json();
    first.crash().await;

    let second = gate(folder.path(), endless(), &[]).await;
    let after = second.get(&format!("/v2/tasks/{id}")).await.json();
    assert_eq!((&after["output"], &after["state"]), (&"Hello world".into(), &"finished".into()));
    assert_eq!(before, after);
    let last = &whole[whole.rfind("id: ").unwrap()..];
    assert_eq!(second.events(&id).await, last);
    assert_eq!(second.get("/v2/tasks?state=finished").await.json()["tasks"].as_array().unwrap().len(), 1);
    second.finish().await;
}

#[tokio::test(start_paused = true)]
async fn a_key_gives_the_first_answer_in_the_next_process_too() {
    let folder = TempDir::new().unwrap();
    let send = async |gate: &Gate, body: &str| {
        let mut request = request("POST", "/v2/tasks", Body::from(body.to_owned()));
        request.headers_mut().insert("idempotency-key", "key-1".parse().unwrap());
        read(gate.send(request).await).await
    };
    let first = gate(folder.path(), says(&["done"]), &[]).await;
    let answer = send(&first, TASK).await;
    first.settle().await;
    first.crash().await;

    let second = gate(folder.path(), says(&["done"]), &[]).await;
    let again = send(&second, TASK).await;
    assert_eq!((again.status.as_u16(), again.json()), (202, answer.json()));
    let other = send(&second, r#"{"model_ref": "builtin", "prompt": "another"}"#).await;
    assert_eq!(other.status.as_u16(), 422);
    assert_eq!(second.get("/v2/tasks").await.json()["tasks"].as_array().unwrap().len(), 1);
    second.finish().await;
}

/// Over the database in `folder`, with a pool of this model out of two.
async fn serving(folder: &Path, model: &str, script: Script) -> Gate {
    let pools = format!(r#"[{{id = "default", engine = "scripted", model = "{model}"}}]"#);
    let named = r#"[{id = "old", source = "hf:a/b"}]"#;
    gate(folder, script, &[("SLUICEGATE_CATALOG__MODELS", named), ("SLUICEGATE_POOLS", &pools)]).await
}

#[tokio::test(start_paused = true)]
async fn a_task_whose_model_no_pool_serves_waits_for_one_that_does() {
    let folder = TempDir::new().unwrap();
    let first = serving(folder.path(), "old", endless()).await;
    let task = TASK.replace("builtin", "old");
    let _running = first.submit(&task).await;
    let waited = [first.submit(&task).await, first.submit(&task).await];
    let urgent = first.submit(&task.replace('{', r#"{"deadline_ms": 900000, "#)).await;
    let canceled = first.submit(&task).await;
    first.crash().await;

    let second = serving(folder.path(), "builtin", says(&["done"])).await;
    assert_eq!(second.get(&format!("/v2/tasks/{}", waited[0])).await.json()["state"], "queued");
    second.post(&format!("/v2/tasks/{canceled}/cancel"), "").await;
    assert_eq!(second.get(&format!("/v2/tasks/{canceled}")).await.json()["state"], "canceled");
    assert!(second.events(&urgent).await.contains(r#""finish_reason":"deadline""#));
    // A reload with another model brings them nothing.
    for model in ["builtin", "old"] {
        assert_eq!(second.get(&format!("/v2/tasks/{}", waited[0])).await.json()["state"], "queued");
        second.post("/v2/pools/default/reload", &json!({"new_model_ref": model}).to_string()).await;
        second.until("/v2/pools/default/health", |health| health["reloading"] == false).await;
    }
    for id in &waited {
        assert!(second.events(id).await.contains(r#""finish_reason":"stop""#));
        assert_eq!(second.get(&format!("/v2/tasks/{id}")).await.json()["output"], "done");
    }
    second.finish().await;
}

#[tokio::test(start_paused = true)]
async fn a_task_whose_model_stays_gone_ends_after_an_hour_with_an_error_that_says_so() {
    let folder = TempDir::new().unwrap();
    let first = serving(folder.path(), "old", endless()).await;
    let task = TASK.replace("builtin", "old");
    let _running = first.submit(&task).await;
    let waited = first.submit(&task).await;
    first.crash().await;

    let began = tokio::time::Instant::now();
    let second = serving(folder.path(), "builtin", says(&["done"])).await;
    second.events(&waited).await;
    assert_eq!(began.elapsed().as_secs() / 60, 60);
    let error = second.get(&format!("/v2/tasks/{waited}")).await.json()["error"].clone();
    assert_eq!(
        (&error["code"], &error["message"]),
        (&"POOL_UNAVAILABLE".into(), &r#"no pool serves the model "old""#.into())
    );
    second.finish().await;
}

#[tokio::test(start_paused = true)]
async fn models_that_were_added_and_what_became_of_them_are_there_in_the_next_process() {
    let folder = TempDir::new().unwrap();
    let model = TempDir::new().unwrap();
    for name in ["config.json", "tokenizer.json", "model.safetensors"] {
        std::fs::write(model.path().join(name), name).unwrap();
    }
    let roots = format!("[\"{}\"]", model.path().display());
    let settings = [("SLUICEGATE_CATALOG__ALLOWED_FILE_ROOTS", roots.as_str())];
    let models = "/v2/catalog/models";
    let digest = format!("sha256:{}", "0".repeat(64));
    let first = gate(folder.path(), says(&["done"]), &settings).await;
    for body in [
        json!({"id": "gone", "source": "hf:a/gone"}),
        json!({"id": "small", "source": "hf:a/b", "aliases": ["s"], "digest": digest, "quantization": "q8_0"}),
        json!({"id": "changed", "source": format!("file:{}", model.path().display()), "digest": digest}),
    ] {
        let answer = first.post(models, &body.to_string()).await;
        assert_eq!(answer.status.as_u16(), 201, "{}", answer.body);
    }
    let gone = first.send(request("DELETE", &format!("{models}/gone"), Body::empty())).await;
    assert_eq!(gone.status().as_u16(), 204);
    first.post(&format!("{models}/small/state"), r#"{"state": "Retired"}"#).await;
    first.post(&format!("{models}/builtin/state"), r#"{"state": "Retired"}"#).await;
    first.post(&format!("{models}/changed/verify"), "").await;
    first.until(&format!("{models}/changed"), |model| model["trust"] == "failed").await;
    first.settle().await;
    let before = first.get(models).await.json();
    first.crash().await;

    let second = gate(folder.path(), says(&["done"]), &settings).await;
    let after = second.get(models).await.json();
    let told = |list: &serde_json::Value| {
        let mut models = list["models"].as_array().unwrap().clone();
        // Nothing has become of it that would have been filed.
        models.retain(|model| model["id"] != "builtin-embedding");
        let names = ["id", "aliases", "source", "quantization", "state", "trust", "configured", "created_at_ms"];
        models.iter().map(|model| names.map(|name| model[name].clone())).collect::<Vec<_>>()
    };
    assert_eq!(told(&before), told(&after));
    assert_eq!(told(&after).len(), 3);
    let why = |list: &serde_json::Value| list["models"][3]["verification"]["reason"].clone();
    assert!(why(&after).as_str().unwrap().contains("its files have the digest"), "{after}");
    assert_eq!(why(&before), why(&after));
    assert_eq!(second.post("/v2/tasks", TASK).await.status.as_u16(), 410);
    second.crash().await;

    // A model that is outside of what the configuration allows now is left out.
    let third = gate(folder.path(), says(&["done"]), &[]).await;
    assert_eq!(told(&third.get(models).await.json()).len(), 2);
    third.finish().await;
}

#[tokio::test(start_paused = true)]
async fn a_deadline_goes_on_from_where_it_was_when_the_gateway_crashed() {
    let folder = TempDir::new().unwrap();
    let first = gate(folder.path(), endless(), &[]).await;
    first.submit(TASK).await;
    let waited = first.submit(&TASK.replace("1000}", r#"10, "deadline_ms": 50000}"#)).await;
    first.crash().await;
    let slow = Script { token: std::time::Duration::from_secs(10), ..endless() };
    let second = gate(folder.path(), slow, &[]).await;
    let stream = second.events(&waited).await;
    assert!(stream.contains(r#""finish_reason":"deadline""#), "{stream}");
    second.finish().await;
}

#[tokio::test(start_paused = true)]
async fn when_retention_ends_prompts_and_outputs_are_gone_from_the_files() {
    let folder = TempDir::new().unwrap();
    let holds = |text: &str| {
        let files = std::fs::read_dir(folder.path()).unwrap().map(|file| std::fs::read(file.unwrap().path()).unwrap());
        files.into_iter().any(|bytes| bytes.windows(text.len()).any(|window| window == text.as_bytes()))
    };
    let gate =
        gate(folder.path(), says(&["a canary", " in an output"]), &[("SLUICEGATE_ADMISSION__RETENTION_MS", "1000")])
            .await;
    let id = gate.submit(TASK).await;
    assert!(holds("a canary in a prompt"));
    gate.events(&id).await;
    assert!(holds("a canary in an output"));
    tokio::time::sleep(std::time::Duration::from_secs(3)).await;
    assert_eq!(gate.app.store.tasks().await.unwrap(), []);
    assert!(!holds("a canary"));
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_stored_is_refused_and_never_answered_with_202() {
    let folder = TempDir::new().unwrap();
    let gate = gate(folder.path(), says(&["done"]), &[]).await;
    gate.app.store.close().await;
    let answer = gate.post("/v2/tasks", TASK).await;
    assert_eq!((answer.status.as_u16(), answer.header("retry-after")), (503, "5"));
    let error = answer.json();
    assert_eq!((&error["code"], &error["retriable"]), (&"POOL_UNREADY".into(), &true.into()));
    // What need not be kept is served.
    let chat = r#"{"model": "builtin", "messages": [{"role": "user", "content": "hi"}]}"#;
    assert_eq!(gate.post("/v1/chat/completions", chat).await.status.as_u16(), 200);
    gate.finish().await;
}
