//! Answers of a gateway whose database is away.

use axum::body::Body;
use axum::http::StatusCode;

use super::super::documents::{Document, Operation};
use super::NOBODY;
use super::Witness;
use crate::away::{gateway, until_ready};
use crate::harness::request;
use crate::postgres::Cluster;

/// Whether an operation is documented to need the database.
pub fn needs_the_database(operation: &Operation<'_>) -> bool {
    let response = operation.value["responses"]["503"]["$ref"].as_str();
    response.is_some_and(|reference| reference.ends_with("/DatabaseAway"))
}

#[tokio::test]
async fn what_needs_the_database_is_refused_while_that_is_away() {
    let mut server = Cluster::of_its_own();
    let (gate, _folder) = gateway(&server).await;
    server.stop();
    until_ready(&gate, false).await;
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
