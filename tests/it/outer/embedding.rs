//! Embeddings and rerank of the real engine, by a gateway that nobody has configured.

use serde_json::{Value, json};

use super::running::Running;

/// The data of the `result` event of a task.
pub async fn result(gateway: &Running, task: Value) -> Value {
    let accepted: Value = gateway.post("/v2/tasks", &task).await.json().await.unwrap();
    let id = accepted["task_id"].as_str().unwrap_or_else(|| panic!("{accepted}"));
    let stream = gateway.get(&format!("/v2/tasks/{id}/events")).await.text().await.unwrap();
    let data = stream.split_once("event: result\ndata: ").unwrap_or_else(|| panic!("{stream}")).1;
    serde_json::from_str(data.lines().next().unwrap()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn without_configuration_there_are_a_pool_that_chats_and_one_that_embeds() {
    let gateway = Running::real(&[]);
    let pools: Value = gateway.get_json("/v2/pools").await;
    let pools: Vec<_> =
        pools["pools"].as_array().unwrap().iter().map(|pool| (&pool["pool_id"], &pool["ready"])).collect();
    assert_eq!(pools, [(&json!("default"), &json!(true)), (&json!("embedding"), &json!(true))]);
    let models: Value = gateway.get_json("/v1/models").await;
    let models: Vec<_> = models["data"].as_array().unwrap().iter().map(|model| &model["id"]).collect();
    assert_eq!(models, ["builtin", "builtin-embedding"]);

    let texts = ["What is a pool?", "Please explain pools to me.", "What color is the sky?"];
    let task = |change: Value| {
        let mut task = json!({"workload": "embedding", "model_ref": "builtin-embedding", "inputs": texts});
        task.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        task
    };
    let whole = result(&gateway, task(json!({}))).await;
    assert_eq!(whole["embeddings"][2].as_array().unwrap().len(), 128);
    let alone = result(&gateway, task(json!({"inputs": [texts[2]]}))).await;
    assert_eq!(alone["embeddings"][0], whole["embeddings"][2]);
    let scores = result(&gateway, task(json!({"workload": "rerank", "query": texts[0], "inputs": texts[1..]}))).await;
    let scores: Vec<f64> = serde_json::from_value(scores["scores"].clone()).unwrap();
    assert!(scores[0] > scores[1] + 0.2, "{scores:?}");
    let single = task(json!({"inputs": [texts[0], [7]]}));
    let refused: Value = gateway.post("/v2/tasks", &single).await.json().await.unwrap();
    assert_eq!((&refused["code"], &refused["param"]), (&json!("INVALID_PARAMS"), &json!("inputs[1]")));
}
