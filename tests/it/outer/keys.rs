//! Keys and tenants, as an operator makes them beside a running gateway.

use reqwest::StatusCode;
use serde_json::{Value, json};

use super::commands::sluicegate_in;
use super::running::{Running, wait_for};
use crate::postgres;

#[tokio::test]
async fn keys_that_are_made_beside_a_gateway_close_it_and_open_it_for_their_owners() {
    keys_close_and_open("sqlite:").await;
}

#[tokio::test]
async fn keys_that_are_made_beside_a_gateway_on_postgresql_close_it_and_open_it_for_their_owners() {
    keys_close_and_open(&postgres::fresh_url()).await;
}

async fn keys_close_and_open(store: &str) {
    let gateway = Running::scripted(&[("STORE__URL", store)]);
    let (folder, url) = (gateway.data_dir(), gateway.url(""));
    let variables = [
        ("SLUICEGATE_DATA_DIR", folder.to_str().unwrap()),
        ("SLUICEGATE_URL", url.as_str()),
        ("SLUICEGATE_STORE__URL", store),
    ];
    let run = |arguments: &[&str]| sluicegate_in(&variables, arguments, "");
    assert_eq!(gateway.get("/v1/models").await.status(), StatusCode::OK);

    let made = run(&["key", "create", "--admin", "--name", "ops", "--json"]);
    assert_eq!(made.code, Some(0), "{}", made.stderr);
    let (id, admin) = (made.json()["id"].as_str().unwrap().to_owned(), made.json()["key"].as_str().unwrap().to_owned());
    wait_for("the gateway to hear of it", || (run(&["pool", "list"]).code == Some(1)).then_some(()));
    assert_eq!(gateway.get("/v1/models").await.status(), StatusCode::UNAUTHORIZED);
    let asked = |key: &str| sluicegate_in(&[variables[1], ("SLUICEGATE_API_KEY", key)], &["pool", "list"], "");
    assert_eq!(asked(&admin).code, Some(0), "{}", asked(&admin).stderr);

    assert_eq!(run(&["tenant", "create", "acme", "--weight", "3"]).code, Some(0));
    let again = run(&["tenant", "create", "acme"]);
    assert_eq!(
        (again.code, again.stderr.trim()),
        (Some(1), "sluicegate: CONFLICT: there is, or was, a tenant \"acme\"")
    );
    let made = run(&["key", "create", "--tenant", "acme"]);
    let key = made.stdout.lines().next().unwrap().to_owned();
    let listed = run(&["key", "list", "--json"]);
    assert_eq!(listed.stdout.lines().count(), 2, "{}", listed.stdout);
    assert!(!listed.stdout.contains(&key), "a key is shown once");
    wait_for("the key to be good", || {
        let drained = sluicegate_in(&[variables[1], ("SLUICEGATE_API_KEY", &key)], &["pool", "drain", "default"], "");
        assert_eq!(drained.code, Some(1));
        drained.stderr.contains("scope `admin`").then_some(())
    });
    assert_eq!(asked(&key).code, Some(0));
    assert_eq!(run(&["tenant", "suspend", "acme"]).code, Some(0));
    wait_for("the suspension", || asked(&key).stderr.contains("suspended").then_some(()));
    assert_eq!(run(&["key", "revoke", &id]).code, Some(0));
    wait_for("the revocation", || asked(&admin).stderr.contains("revoked").then_some(()));
    let log = gateway.stderr();
    assert!(!log.contains(&key) && !log.contains(&admin), "no key is in the log");
    assert!(!log.contains(postgres::PASSWORD), "no password is in the log");
}

#[tokio::test]
async fn commands_beside_a_gateway_take_none_of_its_writes_away() {
    commands_take_nothing_away("sqlite:".to_owned()).await;
}

#[tokio::test]
async fn commands_beside_a_gateway_on_postgresql_take_none_of_its_writes_away() {
    commands_take_nothing_away(postgres::fresh_url()).await;
}

async fn commands_take_nothing_away(store: String) {
    let gateway = Running::scripted(&[
        ("STORE__URL", &store),
        ("POOLS__0__SCRIPTED__FIRST_TOKEN_MS", "0"),
        ("POOLS__0__SCRIPTED__TOKEN_MS", "0"),
        ("POOLS__0__SCRIPTED__REPEAT", "false"),
    ]);
    let folder = gateway.data_dir().to_str().unwrap().to_owned();
    let commands = tokio::task::spawn_blocking(move || {
        for number in 0..12 {
            let made = sluicegate_in(
                &[("SLUICEGATE_DATA_DIR", &folder), ("SLUICEGATE_STORE__URL", &store)],
                &["tenant", "create", &format!("t{number}"), "--json"],
                "",
            );
            assert_eq!(made.code, Some(0), "{}", made.stderr);
        }
    });
    let task = json!({"model_ref": "builtin", "prompt": "hi"});
    let mut ids = Vec::new();
    while !commands.is_finished() || ids.len() < 50 {
        let accepted = gateway.post("/v2/tasks", &task).await;
        assert_eq!(accepted.status(), StatusCode::ACCEPTED, "{}", accepted.text().await.unwrap());
        let accepted: Value = accepted.json().await.unwrap();
        ids.push(accepted["task_id"].as_str().unwrap().to_owned());
    }
    commands.await.unwrap();
    for id in &ids {
        gateway.state_is(id, "finished").await;
    }
    let troubled: Vec<_> =
        gateway.log().into_iter().filter(|line| matches!(line["level"].as_str(), Some("ERROR" | "WARN"))).collect();
    assert!(troubled.is_empty(), "{troubled:?}");
}
