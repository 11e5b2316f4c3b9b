//! Models that tasks bring.

use futures_util::future::join_all;
use serde_json::{Value, json};

use super::{Gate, TASK, folder, gate, load_of};

/// A gateway that takes models in which lie in one of the folders, with so many of them.
async fn hosting(folders: &[tempfile::TempDir], guests: &str, more: &[(&str, &str)]) -> Gate {
    let roots: Vec<_> = folders.iter().map(|folder| format!("\"{}\"", folder.path().display())).collect();
    let roots = format!("[{}]", roots.join(", "));
    let settings = [
        ("SLUICEGATE_CATALOG__ALLOWED_FILE_ROOTS", roots.as_str()),
        ("SLUICEGATE_ADMISSION__PROVISION_REFERENCES", guests),
        ("SLUICEGATE_CATALOG__MODELS", "[]"),
    ];
    gate(folders[0].path(), &[settings.as_slice(), more].concat()).await
}

fn brings(folder: &tempfile::TempDir) -> String {
    TASK.replace("\"m\"", &format!("\"file:{}\"", folder.path().display()))
}

fn source(folder: &tempfile::TempDir) -> Value {
    Value::from(format!("file:{}", folder.path().display()))
}

async fn models(gate: &Gate) -> Vec<Value> {
    gate.get("/v2/catalog/models").await.json()["models"].as_array().unwrap().clone()
}

/// Without those of the program.
async fn brought(gate: &Gate) -> Vec<Value> {
    let sources = models(gate).await.into_iter().map(|model| model["source"].clone());
    sources.filter(|source| source.as_str().unwrap().starts_with("file:")).collect()
}

#[tokio::test(start_paused = true)]
async fn a_task_brings_a_model_and_the_one_that_nobody_needs_goes_for_it() {
    let folders = [folder(), folder(), folder()];
    let gate = hosting(&folders, "2", &[]).await;
    assert_eq!(gate.post("/v2/tasks/preview", &brings(&folders[0])).await.json()["feasible"], true);
    assert_eq!(brought(&gate).await, [] as [Value; 0]);
    for (number, folder) in folders.iter().enumerate() {
        assert_eq!(load_of(&gate, &gate.submit(&brings(folder)).await).await, (number + 1).to_string());
    }
    assert_eq!(brought(&gate).await, [source(&folders[1]), source(&folders[2])]);
    // It is there, and nothing has to be prepared.
    assert_eq!(gate.post("/v2/tasks", &brings(&folders[2])).await.json()["preparation"], json!({"steps": []}));
    for (reference, code) in [
        ("https://127.0.0.1/m.gguf", "INVALID_PARAMS"),
        ("https://[fd00::1]/model", "INVALID_PARAMS"),
        ("http://host/m.gguf", "INVALID_PARAMS"),
        ("https://host/m.tar.gz", "INVALID_PARAMS"),
        ("file:/etc", "INVALID_PARAMS"),
        ("gpt-9", "NOT_FOUND"),
        ("hf:a", "NOT_FOUND"),
    ] {
        let refused = gate.post("/v2/tasks", &TASK.replace("\"m\"", &format!("\"{reference}\""))).await;
        assert_eq!(refused.json()["code"], code, "{reference}: {}", refused.body);
    }
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn no_model_is_brought_where_the_operator_says_so_or_trusts_nobody() {
    let folder = folder();
    let none = [("SLUICEGATE_ADMISSION__PROVISION_REFERENCES", "0"), ("SLUICEGATE_CATALOG__MODELS", "[]")];
    let strict = [("SLUICEGATE_CATALOG__TRUST", "strict"), ("SLUICEGATE_CATALOG__MODELS", "[]")];
    for (settings, code) in [(none, "NOT_FOUND"), (strict, "UNTRUSTED_ARTIFACT")] {
        let gate = gate(folder.path(), &settings).await;
        let task = TASK.replace("\"m\"", &format!("\"file:{}\"", folder.path().display()));
        assert_eq!(gate.post("/v2/tasks", &task).await.json()["code"], code);
        assert!(!gate.get("/v2/catalog/models").await.body.contains("file:"));
        gate.finish().await;
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_goes_for_a_model_whose_task_is_not_let_in() {
    let folders = [folder(), folder()];
    let gate = hosting(&folders, "1", &[("SLUICEGATE_LIMITS", "{ requests_per_minute = 2 }")]).await;
    load_of(&gate, &gate.submit(&brings(&folders[0])).await).await;
    // From now on no pool has it.
    load_of(&gate, &gate.submit(&TASK.replace("\"m\"", "\"builtin\"")).await).await;
    let refused = gate.post("/v2/tasks", &brings(&folders[1])).await;
    assert_eq!(refused.json()["policy_label"], "rate.requests", "{}", refused.body);
    assert_eq!(brought(&gate).await, [source(&folders[0])]);
    let foreseen = gate.post("/v2/tasks/preview", &brings(&folders[1])).await.json();
    assert_eq!((&foreseen["feasible"], &foreseen["error"]["policy_label"]), (&false.into(), &"rate.requests".into()));
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn of_two_models_that_are_brought_at_once_where_there_is_room_for_one_the_second_is_refused() {
    let folders = [folder(), folder()];
    let gate = hosting(&folders, "1", &[]).await;
    let [first, second] = folders.each_ref().map(brings);
    let answers = join_all([&first, &second].map(|task| gate.post("/v2/tasks", task))).await;
    let (good, refused): (Vec<_>, Vec<_>) = answers.into_iter().partition(|answer| answer.status == 202);
    assert_eq!((good.len(), refused.len()), (1, 1));
    assert_eq!(refused[0].json()["policy_label"], "queue.reject");
    assert_eq!(load_of(&gate, good[0].json()["task_id"].as_str().unwrap()).await, "1");
    assert_eq!(brought(&gate).await.len(), 1);
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn no_more_tasks_wait_than_may_however_many_come_at_once() {
    let folders = [folder(), folder(), folder()];
    let gate = hosting(&folders, "8", &[("SLUICEGATE_ADMISSION__PROVISION_WAITING", "1")]).await;
    let tasks = folders.each_ref().map(brings);
    let answers = join_all(tasks.iter().map(|task| gate.post("/v2/tasks", task))).await;
    let good: Vec<_> = answers.iter().filter(|answer| answer.status == 202).collect();
    assert_eq!(good.len(), 1);
    assert!(answers.iter().filter(|answer| answer.status == 429).count() == 2);
    load_of(&gate, good[0].json()["task_id"].as_str().unwrap()).await;
    assert_eq!(brought(&gate).await.len(), 1, "one that is refused brings nothing");
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn a_model_that_is_brought_takes_nobodys_name() {
    let roots = [folder(), folder(), folder()];
    // All that makes a model, in folders of one name.
    let folders = roots.each_ref().map(|root| {
        let place = root.path().join("gpt");
        std::fs::create_dir(&place).unwrap();
        for name in ["config.json", "tokenizer.json", "model.safetensors"] {
            std::fs::copy(root.path().join(name), place.join(name)).unwrap();
        }
        format!("file:{}", place.display())
    });
    let gate = hosting(&roots, "8", &[]).await;
    let task = |model: &str| TASK.replace("\"m\"", &format!("\"{model}\""));
    let answers = join_all(folders[..2].iter().map(async |folder| gate.post("/v2/tasks", &task(folder)).await)).await;
    let mut loads = Vec::new();
    for answer in answers {
        assert_eq!(answer.status, 202, "{}", answer.body);
        loads.push(load_of(&gate, answer.json()["task_id"].as_str().unwrap()).await);
    }
    let mut guests = models(&gate).await;
    guests
        .retain(|model| model["id"].as_str().is_some_and(|id| id.starts_with("gpt-") && id.len() == "gpt-".len() + 16));
    assert_eq!(guests.len(), 2, "{guests:?}");
    assert_eq!(gate.post("/v2/tasks", &task("gpt")).await.json()["code"], "NOT_FOUND");
    // The operator's model has whatever name it is given, that of a guest too which nobody needs.
    // The pool has the one that was loaded last, and either may have come first.
    let first = loads.iter().position(|load| load == "1").unwrap();
    let idle = guests.iter().find(|model| model["source"] == folders[first].as_str()).unwrap();
    for id in ["gpt", idle["id"].as_str().unwrap()] {
        let model = json!({"id": id, "source": folders[2]}).to_string();
        let added = gate.post("/v2/catalog/models", &model).await;
        assert_eq!(
            (added.status.as_u16(), &added.json()["source"]),
            (201, &folders[2].as_str().into()),
            "{}",
            added.body
        );
    }
    assert_eq!(load_of(&gate, &gate.submit(&task("gpt")).await).await, "3");
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn a_secret_in_the_address_of_a_model_is_shown_to_nobody() {
    let folder = folder();
    let trusted = ("SLUICEGATE_CATALOG__WEB__TRUSTED_HOSTS", r#"["127.0.0.1"]"#);
    let gate = hosting(std::slice::from_ref(&folder), "8", &[trusted]).await;
    // Nothing listens there.
    let id = gate.submit(&TASK.replace("\"m\"", "\"http://127.0.0.1:1/m.gguf?token=secret\"")).await;
    let list = gate.get("/v2/catalog/models").await.body;
    assert!(list.contains("http://127.0.0.1:1/m.gguf\"") && !list.contains("secret"), "{list}");
    let events = gate.events(&id).await;
    assert!(events.contains("POOL_UNAVAILABLE") && !events.contains("secret"), "{events}");
    gate.finish().await;
}
