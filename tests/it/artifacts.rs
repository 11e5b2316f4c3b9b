//! Documents that are named by their content.

use axum::http::StatusCode;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

use crate::harness::{Answer, Gate, says};

const ARTIFACTS: &str = "/v2/artifacts";

async fn file(gate: &Gate, body: &Value) -> Answer {
    gate.post(ARTIFACTS, &body.to_string()).await
}

async fn filed(gate: &Gate, body: &Value) -> String {
    let answer = file(gate, body).await;
    assert!(answer.status.is_success(), "{}", answer.body);
    answer.json()["id"].as_str().unwrap().to_owned()
}

fn digest(canonical: &str) -> String {
    format!("{:x}", Sha256::digest(canonical))
}

#[tokio::test]
async fn the_id_is_the_digest_of_the_canonical_text_however_it_was_written() {
    let gate = Gate::scripted(says(&["hi"])).await;
    let first = gate.post(ARTIFACTS, r#"{"document": {"b": 1.0, "a": [true, "\u00e9\n"]}}"#).await;
    let again = gate.post(ARTIFACTS, "{\"document\":{\"a\":[true,\"é\\n\"],\n\"b\":1}}").await;
    assert_eq!((first.status, again.status), (StatusCode::CREATED, StatusCode::OK));
    assert_eq!(first.json(), again.json());
    assert_eq!(first.json()["id"], digest("{\"a\":[true,\"é\\n\"],\"b\":1}"));
    let other = gate.post(ARTIFACTS, r#"{"document": {"b": 1, "a": [true, "e"]}}"#).await;
    assert_eq!(other.status, StatusCode::CREATED);
    gate.finish().await;
}

#[tokio::test]
async fn tags_and_parents_are_added_and_lineage_has_no_circle() {
    let gate = Gate::scripted(says(&["hi"])).await;
    let parent = filed(&gate, &json!({"document": "parent"})).await;
    let child = filed(&gate, &json!({"document": "child", "parents": [parent], "tags": ["b"]})).await;
    let more = file(&gate, &json!({"document": "child", "tags": ["a", "b"]})).await;
    assert_eq!((more.status, &more.json()["tags"]), (StatusCode::OK, &json!(["a", "b"])));
    let seen = gate.get(&format!("{ARTIFACTS}/{parent}")).await.json();
    assert_eq!(seen["lineage"], json!({"parents": [], "children": [child]}));
    let seen = gate.get(&format!("{ARTIFACTS}/{child}")).await.json();
    assert_eq!(seen["lineage"], json!({"parents": [parent], "children": []}));

    let own = digest("\"parent\"");
    for (parents, why) in
        [(&child, "not older"), (&own, "not older"), (&digest("nothing"), "there is no such artifact")]
    {
        let refused = file(&gate, &json!({"document": "parent", "parents": [parents], "tags": ["lost"]})).await;
        assert_eq!((refused.status, &refused.json()["param"]), (StatusCode::BAD_REQUEST, &json!("parents")));
        assert!(refused.body.contains(why), "{}", refused.body);
    }
    // Nothing of what was refused is there.
    assert_eq!(gate.get(&format!("{ARTIFACTS}/{parent}")).await.json()["tags"], json!([]));
    gate.finish().await;
}

#[tokio::test]
async fn tags_are_bounded_over_all_posts_of_a_document() {
    let gate = Gate::scripted(says(&["hi"])).await;
    let tags = |range: std::ops::Range<u32>| range.map(|number| format!("{number:02}")).collect::<Vec<_>>();
    let id = filed(&gate, &json!({"document": 1, "tags": tags(0..30)})).await;
    let refused = file(&gate, &json!({"document": 1, "tags": tags(29..33)})).await;
    assert_eq!((refused.status, &refused.json()["param"]), (StatusCode::BAD_REQUEST, &json!("tags")));
    assert_eq!(gate.get(&format!("{ARTIFACTS}/{id}")).await.json()["tags"], json!(tags(0..30)));
    filed(&gate, &json!({"document": 1, "tags": tags(30..32)})).await;
    gate.finish().await;
}

#[tokio::test]
async fn an_artifact_is_there_in_the_next_process() {
    let folder = TempDir::new().unwrap();
    let url = format!("sqlite:{}/test.db", folder.path().display());
    let settings = [("SLUICEGATE_STORE__URL", url.as_str())];
    let first = Gate::with(says(&["hi"]), &settings).await;
    let answer = file(&first, &json!({"document": {"a": null}, "tags": ["kept"]})).await.json();
    first.crash().await;
    let second = Gate::with(says(&["hi"]), &settings).await;
    let found = second.get(&format!("{ARTIFACTS}/{}", answer["id"].as_str().unwrap())).await;
    assert_eq!(found.json(), answer);
    second.finish().await;
}

#[tokio::test]
async fn an_id_that_is_none_is_not_found() {
    let gate = Gate::scripted(says(&["hi"])).await;
    for id in ["x", "%00", "..", &"A".repeat(64), &"0".repeat(64), "sha256:00"] {
        let answer = gate.get(&format!("{ARTIFACTS}/{id}")).await;
        assert_eq!(answer.status, StatusCode::NOT_FOUND, "{id}: {}", answer.body);
    }
    gate.finish().await;
}
