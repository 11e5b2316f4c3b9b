//! One seed, one text: alone and in a crowd, on the real engine.

use futures_util::future::join_all;
use serde_json::{Value, json};

use super::running::{Running, in_time};

/// Beside the one that counts.
const OTHERS: u64 = 12;

async fn text(gateway: &Running, question: &str, seed: u64) -> String {
    let body = json!({"model": "builtin", "temperature": 2.0, "seed": seed, "max_tokens": 60,
        "messages": [{"role": "user", "content": question}]});
    let answer: Value = in_time("the answer", gateway.post("/v1/chat/completions", &body).await.json()).await.unwrap();
    answer["choices"][0]["message"]["content"].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned()
}

async fn native_text(gateway: &Running, strict: bool, seed: u64) -> String {
    let task = json!({"model_ref": "builtin", "temperature": 2.0, "seed": seed, "max_tokens": 40,
        "determinism": if strict { "strict" } else { "best_effort" },
        "messages": [{"role": "user", "content": "What is Sluicegate?"}]});
    let admitted: Value = gateway.post("/v2/tasks", &task).await.json().await.unwrap();
    let id = admitted["task_id"].as_str().unwrap_or_else(|| panic!("{admitted}"));
    gateway.state_is(id, "finished").await;
    gateway.get_json(&format!("/v2/tasks/{id}")).await["output"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_seed_gives_the_same_text_alone_and_among_others() {
    let gateway = Running::real(&[]);
    let alone = text(&gateway, "What is Sluicegate?", 7).await;
    assert_eq!(text(&gateway, "What is Sluicegate?", 7).await, alone);
    assert_ne!(text(&gateway, "What is Sluicegate?", 8).await, alone);
    let questions = ["How do I cancel a task?", "What is a pool?", "Tell me a story about a very long queue."];
    let others = join_all((0..OTHERS).map(|seed| text(&gateway, questions[seed as usize % questions.len()], seed)));
    let (_, amid) = tokio::join!(others, text(&gateway, "What is Sluicegate?", 7));
    assert_eq!(amid, alone);
}

#[tokio::test]
async fn strict_tasks_say_the_same_whatever_else_runs() {
    let gateway = Running::real(&[]);
    let alone = native_text(&gateway, true, 7).await;
    let others = join_all((0..OTHERS).map(|seed| native_text(&gateway, false, seed)));
    let strict = join_all((0..3).map(|_| native_text(&gateway, true, 7)));
    let (_, amid) = tokio::join!(others, strict);
    assert!(amid.iter().all(|text| *text == alone), "{alone:?} and {amid:?}");
    assert_eq!(native_text(&gateway, false, 7).await, alone, "best effort, alone on the CPU");
}
