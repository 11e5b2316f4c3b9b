//! Answers of a gateway whose database is away.

use std::time::Duration;

use axum::body::Body;
use axum::http::StatusCode;

use super::super::documents::{Document, Operation};
use super::NOBODY;
use super::Witness;
use crate::harness::{Gate, request, says};
use crate::postgres::Cluster;

/// Whether an operation is documented to need the database.
pub fn needs_the_database(operation: &Operation<'_>) -> bool {
    let response = operation.value["responses"]["503"]["$ref"].as_str();
    response.is_some_and(|reference| reference.ends_with("/DatabaseAway"))
}

#[tokio::test]
async fn what_needs_the_database_is_refused_while_that_is_away() {
    let (mut server, folder) = (Cluster::of_its_own(), tempfile::tempdir().unwrap());
    let folder = folder.path().to_str().unwrap();
    let settings = [("SLUICEGATE_STORE__URL", &*server.public_url()), ("SLUICEGATE_DATA_DIR", folder)];
    let gate = Gate::with(says(&["hi"]), &settings).await.with_key().await;
    server.stop();
    let away = async {
        while gate.get("/readyz").await.status != StatusCode::SERVICE_UNAVAILABLE {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), away).await.unwrap();

    let mut witness = Witness::new();
    let documents = Document::both();
    let operations = documents.iter().flat_map(Document::operations).filter(needs_the_database);
    let (mut asked, mut others) = (0, Vec::new());
    for operation in operations {
        let path = operation.path.replace("/pools/{id}", "/pools/default");
        let path = path.replace("/artifacts/{id}", &format!("/artifacts/{}", "a".repeat(64)));
        let path = path.replace("{id}", NOBODY).replace("{model}", "builtin");
        let body = operation.request_examples().next().map(|(_, body)| body.to_string()).unwrap_or_default();
        let (answer, _) = witness.send(&gate, request(&operation.method.to_uppercase(), &path, Body::from(body))).await;
        if (answer.status, answer.header("retry-after")) != (StatusCode::SERVICE_UNAVAILABLE, "5") {
            others.push(format!("{} {path}: {} {}", operation.method, answer.status, answer.body));
        }
        asked += 1;
    }
    assert!(others.is_empty(), "{others:#?}");
    assert!(asked > 20, "{asked}");
    server.start();
    gate.finish().await;
}
