//! Chat completions as an OpenAI client sees them, over the scripted engine.

use std::time::Duration;

use axum::body::Body;
use axum::http::StatusCode;
use insta::assert_snapshot;
use sluicegate::engine::scripted::Script;

use crate::harness::{Gate, masked, read, read_until, request, says};

fn chat(extra: &str) -> String {
    format!(r#"{{"model": "builtin", "messages": [{{"role": "user", "content": "say it"}}]{extra}}}"#)
}

#[tokio::test(start_paused = true)]
async fn a_whole_answer() {
    let gate = Gate::scripted(says(&["one ", "two"])).await;
    let answer = gate.post("/v1/chat/completions", &chat("")).await;
    assert_eq!(answer.status, StatusCode::OK);
    assert_snapshot!(masked(&answer.body), @r#"{"id":"chatcmpl-<uuid>","object":"chat.completion","created":<time>,"model":"builtin","choices":[{"index":0,"message":{"role":"assistant","content":"one two","refusal":null,"annotations":[]},"logprobs":null,"finish_reason":"stop"}],"usage":{"prompt_tokens":2,"completion_tokens":3,"total_tokens":5,"prompt_tokens_details":{"cached_tokens":0},"completion_tokens_details":{"reasoning_tokens":0}},"service_tier":"default","system_fingerprint":"fp_6d38afad65"}"#);
    let id = answer.header("x-task-id").to_owned();
    assert_eq!(answer.header("x-queue-wait-ms"), "0");
    assert_eq!(gate.get(&format!("/v2/tasks/{id}")).await.json()["output"], "one two");
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn a_streamed_answer_with_usage() {
    let gate = Gate::scripted(says(&["one ", "two"])).await;
    let body = chat(r#", "stream": true, "stream_options": {"include_usage": true}"#);
    let answer = gate.post("/v1/chat/completions", &body).await;
    assert_eq!(answer.header("content-type"), "text/event-stream; charset=utf-8");
    assert_snapshot!(masked(&answer.body), @r#"
    data: {"id":"chatcmpl-<uuid>","object":"chat.completion.chunk","created":<time>,"model":"builtin","service_tier":"default","system_fingerprint":"fp_6d38afad65","choices":[{"index":0,"delta":{"role":"assistant","content":"","refusal":null},"logprobs":null,"finish_reason":null}],"usage":null}

    data: {"id":"chatcmpl-<uuid>","object":"chat.completion.chunk","created":<time>,"model":"builtin","service_tier":"default","system_fingerprint":"fp_6d38afad65","choices":[{"index":0,"delta":{"content":"one "},"logprobs":null,"finish_reason":null}],"usage":null}

    data: {"id":"chatcmpl-<uuid>","object":"chat.completion.chunk","created":<time>,"model":"builtin","service_tier":"default","system_fingerprint":"fp_6d38afad65","choices":[{"index":0,"delta":{"content":"two"},"logprobs":null,"finish_reason":null}],"usage":null}

    data: {"id":"chatcmpl-<uuid>","object":"chat.completion.chunk","created":<time>,"model":"builtin","service_tier":"default","system_fingerprint":"fp_6d38afad65","choices":[{"index":0,"delta":{},"logprobs":null,"finish_reason":"stop"}],"usage":null}

    data: {"id":"chatcmpl-<uuid>","object":"chat.completion.chunk","created":<time>,"model":"builtin","service_tier":"default","system_fingerprint":"fp_6d38afad65","choices":[],"usage":{"prompt_tokens":2,"completion_tokens":3,"total_tokens":5,"prompt_tokens_details":{"cached_tokens":0},"completion_tokens_details":{"reasoning_tokens":0}}}

    data: [DONE]
    "#);
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn a_stop_string_is_never_shown_not_even_in_part() {
    let gate = Gate::scripted(says(&["one t", "wo thr", "ee"])).await;
    let whole = gate.post("/v1/chat/completions", &chat(r#", "stop": ["two three"]"#)).await.json();
    assert_eq!(whole["choices"][0]["message"]["content"], "one ");
    assert_eq!(whole["choices"][0]["finish_reason"], "stop");
    let stream = gate.post("/v1/chat/completions", &chat(r#", "stop": "two three", "stream": true"#)).await.body;
    assert!(!stream.contains("\"t\"") && stream.contains(r#""content":"one ""#), "{stream}");
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn max_tokens_ends_an_answer_with_length() {
    let gate = Gate::scripted(Script::default()).await;
    for name in ["max_tokens", "max_completion_tokens"] {
        let answer = gate.post("/v1/chat/completions", &chat(&format!(r#", "{name}": 3"#))).await.json();
        assert_eq!(answer["choices"][0]["finish_reason"], "length");
        assert_eq!(answer["usage"]["completion_tokens"], 3);
    }
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn a_client_that_hangs_up_cancels_its_task() {
    let gate = Gate::scripted(Script { slots: 1, ..Script::default() }).await;
    // Streamed.
    let stream = gate.send(request("POST", "/v1/chat/completions", Body::from(chat(r#", "stream": true"#)))).await;
    let id = stream.headers()["x-task-id"].to_str().unwrap().to_owned();
    let mut body = stream.into_body();
    read_until(&mut body, "scripted").await;
    assert_eq!(gate.slots_used(), 1);
    // Another one waits behind it, whole: its client gives up while it is queued.
    let (whole, queued) = (chat(""), chat(r#", "stream": true"#));
    let waiting = gate.post("/v1/chat/completions", &whole);
    assert!(tokio::time::timeout(Duration::from_secs(1), waiting).await.is_err());
    let stream = gate.send(request("POST", "/v1/chat/completions", Body::from(queued))).await;
    drop(stream);
    assert_eq!(gate.app.pools[0].queue_depth(), 0);
    drop(body);
    // Its end is seen once it is in the ledger.
    gate.until(&format!("/v2/tasks/{id}"), |task| task["state"] == "canceled").await;
    // One that runs, whole.
    let running = gate.post("/v1/chat/completions", &whole);
    assert!(tokio::time::timeout(Duration::from_secs(1), running).await.is_err());
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn a_task_that_somebody_else_cancels_ends_the_answer_with_an_error() {
    let gate = Gate::scripted(Script::default()).await;
    let stream = gate.send(request("POST", "/v1/chat/completions", Body::from(chat(r#", "stream": true"#)))).await;
    let id = stream.headers()["x-task-id"].to_str().unwrap().to_owned();
    let mut body = stream.into_body();
    read_until(&mut body, "scripted").await;
    gate.post(&format!("/v2/tasks/{id}/cancel"), "").await;
    let rest = read_until(&mut body, "[DONE]").await;
    assert!(rest.contains(r#"data: {"error":{"#), "{rest}");
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn errors_name_the_field_in_openai_words() {
    let gate = Gate::scripted(says(&["hi"])).await;
    let cases = [
        (chat(r#", "max_completion_tokens": 99999"#), 400, "max_completion_tokens", "context_length_exceeded"),
        (chat(r#", "temperature": 9"#), 400, "temperature", "invalid_value"),
        (chat(r#", "web_search_options": {}"#), 400, "web_search_options", "unsupported_parameter"),
        (chat("").replace("builtin", "gpt-9"), 404, "model", "model_not_found"),
    ];
    for (body, status, param, code) in cases {
        let answer = gate.post("/v1/chat/completions", &body).await;
        let error = &answer.json()["error"];
        assert_eq!(answer.status.as_u16(), status, "{error}");
        assert_eq!((error["param"].as_str(), error["code"].as_str()), (Some(param), Some(code)), "{error}");
    }
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn fields_without_effect_are_named_in_a_header() {
    let gate = Gate::scripted(says(&["hi"])).await;
    let answer = gate.post("/v1/chat/completions", &chat(r#", "store": true, "verbosity": "low""#)).await;
    assert_eq!(answer.status, StatusCode::OK);
    let mut names: Vec<_> = answer.header("x-sluicegate-ignored").split(", ").collect();
    names.sort_unstable();
    assert_eq!(names, ["store", "verbosity"]);
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn models_are_listed_and_found() {
    let gate = Gate::scripted(says(&["hi"])).await;
    let list = gate.get("/v1/models").await.json();
    assert_eq!(list["object"], "list");
    assert_eq!(list["data"][0]["id"], "builtin");
    assert_eq!(gate.get("/v1/models/builtin").await.json(), list["data"][0]);
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn a_field_without_effect_is_named_or_refused_by_configuration() {
    let body = r#"{"model": "builtin", "store": true, "messages": [{"role": "user", "content": "a"}]}"#;
    let gate = Gate::scripted(says(&["hi"])).await;
    let answer = gate.post("/v1/chat/completions", body).await;
    assert_eq!((answer.status, answer.header("x-sluicegate-ignored")), (StatusCode::OK, "store"));
    gate.finish().await;
    let strict = Gate::with(says(&["hi"]), &[("SLUICEGATE_SERVER__UNKNOWN_FIELDS", "refuse")]).await;
    let refused = strict.post("/v1/chat/completions", body).await;
    assert_eq!(refused.status, StatusCode::BAD_REQUEST);
    assert_snapshot!(refused.body, @r#"{"error":{"message":"`store` has no effect here, and this gateway refuses such fields","type":"invalid_request_error","param":"store","code":"unsupported_parameter"}}"#);
    for (path, body) in [
        ("/v1/completions", r#"{"model": "builtin", "prompt": "a", "colour": 1}"#),
        ("/v1/embeddings", r#"{"model": "builtin", "input": "a", "colour": 1}"#),
        ("/v1/rerank", r#"{"model": "builtin", "query": "a", "documents": ["a"], "colour": 1}"#),
        ("/v1/tokenize", r#"{"model": "builtin", "prompt": "a", "colour": 1}"#),
        ("/v1/detokenize", r#"{"model": "builtin", "tokens": [1], "colour": 1}"#),
        (
            "/v1/messages",
            r#"{"model": "builtin", "max_tokens": 9, "messages": [{"role": "user", "content": "a"}], "colour": 1}"#,
        ),
        (
            "/v1/messages/count_tokens",
            r#"{"model": "builtin", "messages": [{"role": "user", "content": "a"}], "colour": 1}"#,
        ),
        ("/v1/responses", r#"{"model": "builtin", "input": "a", "colour": 1}"#),
    ] {
        let refused = strict.post(path, body).await;
        assert!(
            refused.status == StatusCode::BAD_REQUEST && refused.body.contains("`colour`"),
            "{path}: {}",
            refused.body
        );
    }
    let response = strict.post("/v1/responses", r#"{"model": "builtin", "input": "a"}"#).await.json();
    let path = format!("/v1/responses/{}", response["id"].as_str().unwrap());
    for path in [format!("{path}?include[]=x"), format!("{path}/input_items?include=x")] {
        let refused = strict.get(&path).await;
        assert!(refused.status == StatusCode::BAD_REQUEST && refused.body.contains("`include`"), "{}", refused.body);
    }
    strict.finish().await;
}

#[tokio::test(start_paused = true)]
async fn an_answer_says_how_urgently_it_was_served_also_where_a_header_says_so() {
    let gate = Gate::scripted(says(&["hi"])).await;
    for (path, body) in [
        (
            "/v1/chat/completions",
            r#"{"model": "builtin", "service_tier": "flex", "messages": [{"role": "user", "content": "a"}]}"#,
        ),
        ("/v1/responses", r#"{"model": "builtin", "service_tier": "flex", "input": "a"}"#),
    ] {
        for (priority, tier) in [("batch", "flex"), ("interactive", "default")] {
            let mut urgent = request("POST", path, body.into());
            urgent.headers_mut().insert("x-priority", priority.parse().unwrap());
            let answer = read(gate.send(urgent).await).await.json();
            assert_eq!(answer["service_tier"], tier, "{path}");
        }
    }
    gate.finish().await;
}
