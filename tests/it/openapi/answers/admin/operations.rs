//! What administrators are answered about prices, tasks of all tenants, and what they did.

use axum::body::Body;
use axum::http::StatusCode;
use serde_json::{Value, json};

use super::super::super::witness::Witness;
use super::super::{NOBODY, TASK};
use super::{ask, ask_if};
use crate::harness::{Gate, request, says};

const PRICES: &str = "/v2/admin/prices";

pub(super) async fn see(witness: &mut Witness) {
    prices(witness).await;
    tasks(witness).await;
    audit(witness).await;
}

async fn prices(witness: &mut Witness) {
    let settings = [("SLUICEGATE_SERVER__MAX_BODY_BYTES", "2000")];
    let gate = Gate::with(says(&["hi"]), &settings).await.with_key().await;
    let price = format!("{PRICES}/builtin");
    let seen = ask(witness, &gate, "GET", &price, Value::Null).await;
    let set = ask(witness, &gate, "PUT", &price, json!({"input_per_mtok": 5, "engine_second": null})).await;
    assert_eq!((set.status, &set.json()["input_per_mtok"]), (StatusCode::OK, &json!(5)), "{}", set.body);
    assert_eq!(ask(witness, &gate, "GET", PRICES, Value::Null).await.json()["prices"][0], set.json());
    for method in ["PUT", "DELETE"] {
        let late = ask_if(witness, &gate, method, &price, seen.header("etag")).await;
        assert_eq!(late, StatusCode::PRECONDITION_FAILED, "{method}");
    }
    for (body, param) in
        [(json!({"engine_second": 1_000_000_000_000_001_u64}), "engine_second"), (json!({"a": 1}), "a")]
    {
        let refused = ask(witness, &gate, "PUT", &price, body).await;
        assert_eq!((refused.status, &refused.json()["param"]), (StatusCode::BAD_REQUEST, &json!(param)));
    }
    let large = ask(witness, &gate, "PUT", &price, json!("x".repeat(2001))).await;
    assert_eq!(large.status, StatusCode::PAYLOAD_TOO_LARGE);
    let mut form = request("PUT", &price, Body::from("{}"));
    form.headers_mut().insert("content-type", "text/plain".parse().unwrap());
    assert_eq!(witness.send(&gate, form).await.0.status, StatusCode::UNSUPPORTED_MEDIA_TYPE);
    assert_eq!(ask_if(witness, &gate, "DELETE", &price, set.header("etag")).await, StatusCode::NO_CONTENT);
    for (method, body) in [("GET", Value::Null), ("PUT", json!({})), ("DELETE", Value::Null)] {
        let nowhere = ask(witness, &gate, method, &format!("{PRICES}/no%2Fmodel"), body).await;
        assert_eq!(nowhere.status, StatusCode::NOT_FOUND, "{method}");
    }
    gate.finish().await;
}

async fn tasks(witness: &mut Witness) {
    let gate = Gate::scripted(says(&["hi"])).await.with_key().await;
    let id = gate.submit(TASK).await;
    gate.events(&id).await;
    let seen = ask(witness, &gate, "GET", "/v2/admin/tasks?tenant_id=default&limit=1", Value::Null).await;
    assert_eq!(seen.json()["tasks"][0]["task_id"], json!(id), "{}", seen.body);
    let wrong = ask(witness, &gate, "GET", "/v2/admin/tasks?limit=0", Value::Null).await;
    assert_eq!(wrong.status, StatusCode::BAD_REQUEST);
    for (id, status) in [(id.as_str(), StatusCode::NO_CONTENT), (NOBODY, StatusCode::NOT_FOUND)] {
        let canceled = ask(witness, &gate, "POST", &format!("/v2/admin/tasks/{id}/cancel"), Value::Null).await;
        assert_eq!(canceled.status, status);
    }
    gate.finish().await;
}

async fn audit(witness: &mut Witness) {
    let gate = Gate::scripted(says(&["hi"])).await.with_key().await;
    for weight in 1..=3 {
        let changed = ask(witness, &gate, "PATCH", "/v2/admin/tenants/acme", json!({"weight": weight})).await;
        assert_eq!(changed.status, StatusCode::OK);
    }
    for format in ["json", "jsonl"] {
        let page = ask(witness, &gate, "GET", &format!("/v2/admin/audit?limit=2&format={format}"), Value::Null).await;
        assert_eq!((page.status, page.header("x-next-cursor").len()), (StatusCode::OK, 36), "{}", page.body);
    }
    let whole = ask(witness, &gate, "GET", "/v2/admin/audit", Value::Null).await;
    assert_eq!(whole.json()["entries"].as_array().unwrap().len(), 3, "{}", whole.body);
    let wrong = ask(witness, &gate, "GET", "/v2/admin/audit?limit=0", Value::Null).await;
    assert_eq!(wrong.status, StatusCode::BAD_REQUEST);
    gate.finish().await;
}
