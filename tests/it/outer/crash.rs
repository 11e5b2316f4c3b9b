//! `kill -9` under load, again and again over one data folder: what was answered with 202 is not lost and ends once.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::running::{Running, eventually};

const ROUNDS: usize = 4;
const SUBMITTERS: usize = 6;
/// Accepted tasks after which a process is killed.
const ACCEPTED: usize = 150;

/// The tasks that were answered with 202, each with the last event that a client has seen of it.
type Seen = Arc<Mutex<HashMap<String, Option<String>>>>;

fn start(folder: &TempDir) -> Running {
    let data = folder.path().display().to_string();
    Running::scripted(&[
        ("DATA_DIR", &data),
        ("POOLS__0__SLOTS", "2"),
        ("POOLS__0__QUEUE__CAPACITY", "5000"),
        ("POOLS__0__SCRIPTED__FIRST_TOKEN_MS", "2"),
        ("POOLS__0__SCRIPTED__TOKEN_MS", "1"),
    ])
}

fn last_event(stream: &str) -> Option<String> {
    let last = stream.trim_end().rsplit("\n\n").next()?;
    let ends = last.contains("event: end") || last.contains("event: error");
    ends.then(|| last.to_owned())
}

/// Submits until the process is gone, and follows every fourth task to its end.
async fn submit(client: reqwest::Client, address: std::net::SocketAddr, seen: Seen) {
    let task = json!({"model_ref": "builtin", "prompt": "hi", "max_tokens": 5});
    for number in 0_usize.. {
        let sent = client.post(format!("http://{address}/v2/tasks")).json(&task).send().await;
        let Ok(answer) = sent else { return };
        assert_eq!(answer.status(), 202);
        let Ok(answer) = answer.json::<Value>().await else { return };
        let id = answer["task_id"].as_str().unwrap().to_owned();
        seen.lock().unwrap().insert(id.clone(), None);
        if number.is_multiple_of(4) {
            let stream = client.get(format!("http://{address}/v2/tasks/{id}/events")).send().await;
            let Ok(stream) = stream else { return };
            let Ok(stream) = stream.text().await else { return };
            seen.lock().unwrap().insert(id, last_event(&stream));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_accepted_task_is_lost_and_none_ends_twice() {
    let folder = TempDir::new().unwrap();
    let seen = Seen::default();
    for round in 1..=ROUNDS {
        let gateway = start(&folder);
        let submitters: Vec<_> = (0..SUBMITTERS)
            .map(|_| tokio::spawn(submit(gateway.client().clone(), gateway.address, Arc::clone(&seen))))
            .collect();
        eventually("tasks are accepted", async || seen.lock().unwrap().len() >= round * ACCEPTED).await;
        // Killed, not asked.
        drop(gateway);
        for submitter in submitters {
            submitter.await.unwrap();
        }
    }
    let gateway = start(&folder);
    gateway.idle().await;
    let seen = seen.lock().unwrap().clone();
    let (mut reset, mut compared) = (0, 0);
    for (id, earlier) in &seen {
        let stream = gateway.get(&format!("/v2/tasks/{id}/events")).await;
        assert_eq!(stream.status(), 200, "{id} is lost");
        let last = last_event(&stream.text().await.unwrap());
        assert!(last.is_some(), "{id} has not ended");
        reset += usize::from(last.as_ref().is_some_and(|last| last.contains("WORKER_RESET")));
        if earlier.is_some() {
            assert_eq!(&last, earlier, "{id} has ended twice");
            compared += 1;
        }
    }
    println!("{} tasks accepted, {compared} seen to end before a crash, {reset} interrupted by one", seen.len());
    assert!(compared > 0);
    // Each process ran two tasks at most when it was killed.
    assert!(reset <= 2 * ROUNDS, "{reset}");
}
