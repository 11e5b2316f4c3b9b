//! Tenants and keys that the configuration declares.

use axum::body::Body;
use axum::http::StatusCode;
use serde_json::json;
use sluicegate::config::{Config, Overrides};
use sluicegate::tenants::{DeclareError, Secret};
use sluicegate_compat::native::{KeyRequest, TenantRequest};

use crate::harness::{Answer, Gate, read, request, says};

const CHAT: &str = r#"{"model": "builtin", "max_tokens": 2, "messages": [{"role": "user", "content": "hi"}]}"#;

async fn ask(gate: &Gate, key: &str, method: &str, path: &str, body: &str) -> Answer {
    let mut request = request(method, path, Body::from(body.to_owned()));
    request.headers_mut().insert("authorization", format!("Bearer {key}").parse().unwrap());
    read(gate.send(request).await).await
}

async fn status(gate: &Gate, key: &str) -> u16 {
    ask(gate, key, "POST", "/v1/chat/completions", CHAT).await.status.as_u16()
}

/// What a configuration with these lists declares.
fn declared(tenants: &str, keys: &str) -> Result<Config, String> {
    let environment = [("SLUICEGATE_TENANTS", tenants), ("SLUICEGATE_KEYS", keys), ("HOME", "/home/op")];
    let environment = environment.map(|(name, value)| (name.to_owned(), value.to_owned()));
    Config::load(None, environment.into_iter(), Overrides::default()).map_err(|mistakes| mistakes.to_string())
}

/// Declares other tenants and keys while the gateway serves.
async fn redeclare(gate: &Gate, tenants: &str, keys: &str) -> Result<usize, String> {
    let config = declared(tenants, keys)?;
    match gate.app.tenants.declare(&config.declared).await {
        Ok(()) => Ok(gate.app.tenants.record_declared().await.unwrap()),
        Err(DeclareError::Mistakes(mistakes)) => Err(mistakes.join("\n")),
        Err(error) => panic!("{error}"),
    }
}

fn key_line(id: &str, tenant: &str, scopes: &str, key: &Secret) -> String {
    format!(r#"{{ id = "{id}", tenant_id = "{tenant}", scopes = {scopes}, hash = "sha256:{}" }}"#, key.digest())
}

#[tokio::test(start_paused = true)]
async fn what_is_declared_holds_as_long_as_it_stands_there() {
    let (ci, ops) = (Secret::new().unwrap(), Secret::new().unwrap());
    let tenants = r#"[{ id = "team", name = "The Team", weight = 3, limits = { concurrency = 4 } }]"#;
    let (ci_line, ops_line) =
        (key_line("ci", "team", r#"["infer"]"#, &ci), key_line("ops", "team", r#"["admin"]"#, &ops));
    let keys = format!("[{ci_line}, {ops_line}]");
    let gate = Gate::with(says(&["hi"]), &[("SLUICEGATE_TENANTS", tenants), ("SLUICEGATE_KEYS", &keys)]).await;
    assert_eq!(gate.post("/v1/chat/completions", CHAT).await.status, StatusCode::UNAUTHORIZED, "there are keys");
    assert_eq!(status(&gate, ci.reveal()).await, 200);
    let usage = ask(&gate, ops.reveal(), "GET", "/v2/usage?group_by=tenant,key", "").await.json();
    assert_eq!((&usage["groups"][0]["tenant_id"], &usage["groups"][0]["key_id"]), (&json!("team"), &json!("ci")));
    let seen = ask(&gate, ops.reveal(), "GET", "/v2/admin/tenants/team", "").await.json();
    assert_eq!(
        (&seen["weight"], &seen["limits"]["concurrency"], &seen["declared"]),
        (&json!(3), &json!(4), &json!(true))
    );

    // Keys of a declared tenant may be made as well; they go out of use with it.
    let made =
        ask(&gate, ops.reveal(), "POST", "/v2/admin/keys", r#"{"tenant_id": "team", "scopes": ["infer"]}"#).await;
    assert_eq!((made.status, &made.json()["declared"]), (StatusCode::CREATED, &json!(false)), "{}", made.body);
    let rotate = format!("/v2/admin/keys/{}/rotate", made.json()["id"].as_str().unwrap());
    let made = ask(&gate, ops.reveal(), "POST", &rotate, "").await;
    assert_eq!(made.status, StatusCode::CREATED, "{}", made.body);
    let theirs = made.json()["key"].as_str().unwrap().to_owned();
    assert_eq!(status(&gate, &theirs).await, 200);

    // Another key in the place of one, which is good for nothing at once.
    let other = Secret::new().unwrap();
    let keys = format!("[{}, {ops_line}]", key_line("ci", "team", r#"["infer"]"#, &other));
    assert_eq!(redeclare(&gate, tenants, &keys).await, Ok(1), "another hash is told, though it is never shown");
    assert_eq!((status(&gate, ci.reveal()).await, status(&gate, other.reveal()).await), (401, 200));
    let suspended = tenants.replace("weight = 3", "suspended = true");
    assert_eq!(redeclare(&gate, &suspended, &keys).await, Ok(1));
    assert_eq!(status(&gate, other.reveal()).await, 403);
    assert_eq!(redeclare(&gate, r#"[{ id = "else" }]"#, "[]").await, Ok(4));
    for key in [other.reveal(), &theirs, ops.reveal()] {
        assert_eq!(status(&gate, key).await, 401, "the tenant is gone, or the key");
    }
    assert_eq!(gate.post("/v1/chat/completions", CHAT).await.status, StatusCode::UNAUTHORIZED, "that opens nothing");
    // Nobody gets the keys that were made for it.
    let again = TenantRequest { id: "team".into(), ..TenantRequest::default() };
    let refused = gate.app.tenants.create_tenant(&again).await.unwrap_err();
    assert_eq!(refused.to_string(), r#"there is, or was, a tenant "team""#);
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn what_does_not_go_with_the_store_changes_nothing() {
    let gate = Gate::scripted(says(&["hi"])).await.with_key().await;
    let good = Secret::new().unwrap();
    let line = key_line("ci", "acme", r#"["infer"]"#, &good);
    assert_eq!(redeclare(&gate, "[]", &format!("[{line}]")).await, Ok(1), "of a tenant of the store");
    assert_eq!(status(&gate, good.reveal()).await, 200);
    let deleted = ask(&gate, gate.key.as_deref().unwrap(), "DELETE", "/v2/admin/tenants/acme", "").await;
    let why = "the key \"ci\" of the tenant \"acme\" is declared in the configuration; take it out there first";
    assert_eq!((deleted.status, &deleted.json()["message"]), (StatusCode::CONFLICT, &json!(why)));
    let (stored, secret) = {
        let request = KeyRequest { tenant_id: "acme".into(), scopes: vec![], ..KeyRequest::default() };
        gate.app.tenants.create_key(&request).await.unwrap()
    };
    let tenants = r#"[{ id = "acme" }, { id = "new" }]"#;
    let keys = format!(
        "[{}, {}, {}]",
        key_line(&stored.id, "new", r#"["infer"]"#, &Secret::new().unwrap()),
        key_line("same", "new", r#"["infer"]"#, &secret),
        key_line("lost", "nobody", r#"["infer"]"#, &Secret::new().unwrap()),
    );
    let refused = redeclare(&gate, tenants, &keys).await.unwrap_err().replace(&stored.id, "<id>");
    insta::assert_snapshot!(refused, @r#"
    SLUICEGATE_TENANTS: tenants[0].id: the tenant "acme" is in the store; delete it there, or declare another one
    SLUICEGATE_KEYS: keys[0].hash: the key "<id>" is in the store; revoke it there, or declare another one
    SLUICEGATE_KEYS: keys[1].hash: this is the hash of the key "<id>", which is in the store
    SLUICEGATE_KEYS: keys[2].hash: there is no tenant "nobody", here or in the store
    "#);
    assert_eq!(status(&gate, good.reveal()).await, 200, "nothing has changed");
    assert!(gate.app.tenants.tenant("new").is_none());
    let acme = TenantRequest { id: "new".into(), ..TenantRequest::default() };
    gate.app.tenants.create_tenant(&acme).await.unwrap();
    gate.finish().await;
}

#[test]
fn every_mistake_is_told_and_no_key_with_it() {
    let (tenants, keys) = (
        r#"[{ id = "a b" }, { id = "twice" }, { id = "twice", colour = "red", weight = 0, limits = { concurrency = 0 } }, { name = "none" }]"#,
        &format!(
            r#"[{{ id = "a", tenant_id = "t", scopes = ["infer"], hash = "{key}" }}, {{ id = "b", tenant_id = "t", scopes = ["all"], key = "{key}" }},
            {{ id = "cli", tenant_id = "t", scopes = ["infer"], hash = "sha256:12" }}, {{ tenant_id = "t", hash = "sha256:{hash}" }}, "x"]"#,
            key = Secret::new().unwrap().reveal(),
            hash = "0".repeat(64),
        )
        .replace('\n', ""),
    );
    let mistakes = declared(tenants, keys).unwrap_err();
    assert!(!mistakes.contains("sk-sg-"), "{mistakes}");
    insta::assert_snapshot!(mistakes.replace("SLUICEGATE_", ""), @r"
    KEYS: keys[0].hash: this is a key itself, which is known now to whoever can read this place: make another one, and put here what `sluicegate key hash` prints for it
    KEYS: keys[1].hash: `sha256:` and 64 hexadecimal digits, as `sluicegate key hash` prints it
    KEYS: keys[1].key: this is a key itself, which is known now to whoever can read this place: make another one, and put here what `sluicegate key hash` prints for it
    KEYS: keys[1].scopes[0]: unknown variant `all`, expected one of `infer`, `read`, `admin`, `metrics`
    KEYS: keys[2].hash: `sha256:` and 64 hexadecimal digits, as `sluicegate key hash` prints it
    KEYS: keys[2].id: a key has an `id`, or a `name` that can be one: 1 to 64 letters, digits, dots, underscores and hyphens
    KEYS: keys[3].id: a key has an `id`, or a `name` that can be one: 1 to 64 letters, digits, dots, underscores and hyphens
    KEYS: keys[3].scopes: missing field `scopes`
    KEYS: keys[4]: a table is expected here
    TENANTS: tenants[0].id: 1 to 64 letters, digits, dots, underscores and hyphens, and not dots alone
    TENANTS: tenants[2].colour: unknown key
    TENANTS: tenants[2].limits.concurrency: 1 to 1,000,000,000; leave it out for no limit
    TENANTS: tenants[2].weight: 1 to 1,000,000
    TENANTS: tenants[3].id: missing field `id`
    ");
}

#[tokio::test(start_paused = true)]
async fn budgets_and_policies_are_those_of_the_admin_api() {
    let key = Secret::new().unwrap();
    let keys = format!(
        r#"[{{ name = "ci", tenant_id = "team", scopes = ["infer"], allowed_models = ["other"], expires_ms = 9999999999999, hash = "sha256:{}" }}]"#,
        key.digest()
    );
    let tenants = r#"[{ id = "team", priority_ceiling = "batch" }]"#;
    let gate = Gate::with(says(&["hi"]), &[("SLUICEGATE_TENANTS", tenants), ("SLUICEGATE_KEYS", &keys)]).await;
    assert_eq!(status(&gate, key.reveal()).await, 403, "another model");
    let view = serde_json::to_value(gate.app.tenants.key("ci")).unwrap();
    let expected = json!({"id": "ci", "name": "ci", "expires_ms": 9_999_999_999_999_u64, "allowed_models": ["other"]});
    for (name, value) in expected.as_object().unwrap() {
        assert_eq!(&view[name], value, "{view}");
    }
    assert_eq!(serde_json::to_value(gate.app.tenants.tenant("team")).unwrap()["priority_ceiling"], json!("batch"));
    assert!(view["last_used_ms"].as_u64().unwrap() > 0);
    gate.finish().await;
}
