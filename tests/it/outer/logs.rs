//! One line per request, with what ties it to its client, and nothing of what the client said.

use serde_json::{Value, json};

use super::running::{Running, eventually, in_time};

/// Appears in everything that clients say, and must appear nowhere else.
const CANARY: &str = "canary-5d1f";

async fn line_of(gateway: &Running, correlation: &str) -> Value {
    let lines = || {
        let log = gateway.log().into_iter();
        log.filter(|line| line["message"] == "request" && line["correlation_id"] == correlation).collect::<Vec<_>>()
    };
    eventually("the request is in the log", async || !lines().is_empty()).await;
    let lines = lines();
    assert_eq!(lines.len(), 1, "{lines:?}");
    lines[0].clone()
}

#[tokio::test]
async fn each_request_is_one_line_with_its_correlation_id() {
    let gateway = Running::scripted(&[]);
    let send = async |id: &str, body: &Value| {
        let request = gateway.client().post(gateway.url("/v1/chat/completions")).header("x-correlation-id", id);
        in_time(id, request.json(body).send()).await.unwrap()
    };
    let messages = json!([{"role": "user", "content": "hi"}]);
    let whole = send("whole-1", &json!({"model": "builtin", "max_tokens": 5, "messages": messages})).await;
    let task = whole.headers()["x-task-id"].to_str().unwrap().to_owned();
    whole.text().await.unwrap();
    let line = line_of(&gateway, "whole-1").await;
    assert_eq!((&line["status"], &line["outcome"], &line["task_id"]), (&json!(200), &json!("complete"), &json!(task)));
    assert_eq!((&line["method"], &line["route"]), (&json!("POST"), &json!("/v1/chat/completions")));

    let refused = send("refused-1", &json!({"model": "builtin", "messages": messages, "temperature": 9})).await;
    assert_eq!(refused.status().as_u16(), 400);
    let line = line_of(&gateway, "refused-1").await;
    assert_eq!((&line["status"], &line["code"]), (&json!(400), &json!("INVALID_PARAMS")));

    let stream = json!({"model": "builtin", "stream": true, "max_tokens": 8000, "messages": messages});
    let mut left = send("left-1", &stream).await;
    left.chunk().await.unwrap();
    drop(left);
    assert_eq!(line_of(&gateway, "left-1").await["outcome"], "aborted");
    assert!(gateway.stderr().lines().all(|line| serde_json::from_str::<Value>(line).is_ok()), "{}", gateway.stderr());
}

#[tokio::test]
async fn the_address_of_a_client_is_in_the_log_unless_that_is_switched_off() {
    let settings = [("SERVER__TRUSTED_PROXIES", r#"["127.0.0.1"]"#)];
    for (more, direct, forwarded) in [
        (&[][..], json!("127.0.0.1"), json!("203.0.113.7")),
        (&[("TELEMETRY__LOG_CLIENTS", "false")], Value::Null, Value::Null),
    ] {
        let gateway = Running::scripted(&[&settings[..], more].concat());
        let send = async |id: &str, forwarded: &str| {
            let request = gateway.client().get(gateway.url("/healthz")).header("x-correlation-id", id);
            in_time(id, request.header("x-forwarded-for", forwarded).send()).await.unwrap();
            line_of(&gateway, id).await["client"].clone()
        };
        assert_eq!(send("nonsense-1", "nonsense").await, direct);
        assert_eq!(send("forwarded-1", "9.9.9.9, 203.0.113.7").await, forwarded);
    }
}

#[tokio::test]
async fn nothing_that_clients_say_is_in_the_log() {
    let said = format!(r#"["{CANARY} "]"#);
    for (gateway, model) in [
        (Running::real(&[("TELEMETRY__LOG_LEVEL", "trace")]), "real"),
        (Running::scripted(&[("TELEMETRY__LOG_LEVEL", "trace"), ("POOLS__0__SCRIPTED__TOKENS", &said)]), "scripted"),
    ] {
        let messages = json!([{"role": "system", "content": CANARY}, {"role": "user", "content": CANARY}]);
        let chat = |extra: Value| {
            let mut body = json!({"model": "builtin", "messages": messages, "max_tokens": 4});
            body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
            body
        };
        for body in [
            chat(json!({"stop": CANARY, "user": CANARY, "metadata": {"a": CANARY}})),
            chat(json!({"stream": true})),
            chat(json!({"temperature": CANARY})),
            chat(json!({"model": CANARY})),
            chat(json!({CANARY: CANARY})),
            chat(
                json!({"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": CANARY}}}}),
            ),
        ] {
            gateway.post("/v1/chat/completions", &body).await.text().await.unwrap();
        }
        let task = json!({"model_ref": "builtin", "prompt": CANARY, "max_tokens": 4, "metadata": {"a": CANARY}});
        gateway.post("/v2/tasks", &task).await.text().await.unwrap();
        gateway.get(&format!("/v2/{CANARY}")).await.text().await.unwrap();
        gateway.get(&format!("/v1/models/{CANARY}")).await.text().await.unwrap();
        gateway.idle().await;
        gateway.terminate();
        let exit = gateway.wait_for_exit();
        assert_eq!(exit.code, Some(0));
        let told: Vec<_> = exit.stderr.lines().filter(|line| line.contains(CANARY)).collect();
        assert!(told.is_empty(), "{model}: {told:?}");
    }
}
