//! What administrators are answered who try to change what the configuration declares.

use axum::http::StatusCode;
use serde_json::{Value, json};
use sluicegate::tenants::Secret;

use super::super::super::witness::Witness;
use super::ask;
use crate::harness::{Gate, says};

pub(super) async fn see(witness: &mut Witness) {
    let key = Secret::new().unwrap();
    let keys =
        format!(r#"[{{ id = "ci", tenant_id = "team", scopes = ["admin"], hash = "sha256:{}" }}]"#, key.digest());
    let settings = [("SLUICEGATE_TENANTS", r#"[{ id = "team" }]"#), ("SLUICEGATE_KEYS", &keys)];
    let mut gate = Gate::with(says(&["hi"]), &settings).await;
    gate.key = Some(key.reveal().to_owned());
    for path in ["/v2/admin/tenants/team", "/v2/admin/keys/ci"] {
        let seen = ask(witness, &gate, "GET", path, Value::Null).await;
        assert_eq!((seen.status, &seen.json()["declared"]), (StatusCode::OK, &json!(true)), "{}", seen.body);
        for (method, body) in [("PATCH", json!({"name": "x"})), ("DELETE", Value::Null)] {
            let refused = ask(witness, &gate, method, path, body).await;
            assert_eq!(refused.status, StatusCode::CONFLICT, "{method} {path}: {}", refused.body);
            assert!(refused.body.contains("declared in the configuration"), "{}", refused.body);
        }
    }
    let rotated = ask(witness, &gate, "POST", "/v2/admin/keys/ci/rotate", Value::Null).await;
    assert_eq!(rotated.status, StatusCode::CONFLICT, "{}", rotated.body);
    let again = ask(witness, &gate, "POST", "/v2/admin/tenants", json!({"id": "team"})).await;
    assert_eq!(again.status, StatusCode::CONFLICT, "{}", again.body);
    gate.finish().await;
}
