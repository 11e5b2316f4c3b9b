//! Completions of plain prompts as an OpenAI client sees them, over the scripted engine.

use axum::body::Body;
use axum::http::StatusCode;
use insta::assert_snapshot;
use serde_json::{Value, json};
use sluicegate::engine::scripted::Script;

use crate::harness::{Gate, masked, read, read_until, request, says};

const PATH: &str = "/v1/completions";

fn ask(change: &Value) -> String {
    let mut body = json!({"model": "builtin", "prompt": "say it"});
    body.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
    body.to_string()
}

#[tokio::test(start_paused = true)]
async fn a_whole_answer() {
    let gate = Gate::scripted(says(&["one ", "two"])).await;
    let answer = gate.post(PATH, &ask(&json!({"echo": true}))).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.body);
    assert_snapshot!(masked(&answer.body), @r#"{"id":"cmpl-<uuid>","object":"text_completion","created":<time>,"model":"builtin","choices":[{"text":"say itone two","index":0,"logprobs":null,"finish_reason":"stop"}],"usage":{"prompt_tokens":2,"completion_tokens":3,"total_tokens":5,"prompt_tokens_details":{"cached_tokens":0},"completion_tokens_details":{"reasoning_tokens":0}},"system_fingerprint":"fp_6d38afad65"}"#);
    let id = answer.header("x-task-id").to_owned();
    assert_eq!(answer.header("x-queue-wait-ms"), "0");
    assert_eq!(gate.get(&format!("/v2/tasks/cmpl-{id}")).await.json()["output"], "one two");
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn several_prompts_are_one_stream_with_one_end() {
    let gate = Gate::scripted(says(&["one"])).await;
    let body = json!({"prompt": ["a b", "c"], "stream": true, "stream_options": {"include_usage": true}});
    let answer = gate.post(PATH, &ask(&body)).await;
    assert_eq!(answer.header("content-type"), "text/event-stream; charset=utf-8");
    assert_snapshot!(masked(&answer.body), @r#"
    data: {"id":"cmpl-<uuid>","object":"text_completion","created":<time>,"model":"builtin","system_fingerprint":"fp_6d38afad65","choices":[{"index":0,"text":"one","logprobs":null,"finish_reason":null}],"usage":null}

    data: {"id":"cmpl-<uuid>","object":"text_completion","created":<time>,"model":"builtin","system_fingerprint":"fp_6d38afad65","choices":[{"index":1,"text":"one","logprobs":null,"finish_reason":null}],"usage":null}

    data: {"id":"cmpl-<uuid>","object":"text_completion","created":<time>,"model":"builtin","system_fingerprint":"fp_6d38afad65","choices":[{"index":0,"text":"","logprobs":null,"finish_reason":"stop"}],"usage":null}

    data: {"id":"cmpl-<uuid>","object":"text_completion","created":<time>,"model":"builtin","system_fingerprint":"fp_6d38afad65","choices":[{"index":1,"text":"","logprobs":null,"finish_reason":"stop"}],"usage":null}

    data: {"id":"cmpl-<uuid>","object":"text_completion","created":<time>,"model":"builtin","system_fingerprint":"fp_6d38afad65","choices":[],"usage":{"prompt_tokens":3,"completion_tokens":4,"total_tokens":7,"prompt_tokens_details":{"cached_tokens":0},"completion_tokens_details":{"reasoning_tokens":0}}}

    data: [DONE]
    "#);
    assert_eq!(gate.get("/v2/tasks").await.json()["tasks"].as_array().unwrap().len(), 2);
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn log_probabilities_stand_in_four_lists() {
    let gate = Gate::scripted(says(&["one ", "two"])).await;
    let answer = gate.post(PATH, &ask(&json!({"prompt": [1, 2], "n": 2, "logprobs": 1, "max_tokens": 2}))).await.json();
    assert_eq!(answer["choices"].as_array().unwrap().len(), 2);
    assert_snapshot!(answer["choices"][1]["logprobs"], @r#"{"text_offset":[0,4],"token_logprobs":[0.0,0.0],"tokens":["one ","two"],"top_logprobs":[{"one ":0.0},{"two":0.0}]}"#);
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn the_output_is_short_where_nothing_is_said() {
    let gate = Gate::scripted(Script::default()).await;
    let answer = gate.post(PATH, &ask(&json!({}))).await.json();
    assert_eq!(
        (&answer["usage"]["completion_tokens"], &answer["choices"][0]["finish_reason"]),
        (&16.into(), &"length".into())
    );
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn a_prompt_that_is_refused_takes_the_others_with_it() {
    let gate = Gate::scripted(Script { slots: 1, ..Script::default() }).await;
    let body = ask(&json!({"prompt": ["a", "b", ""], "max_tokens": 500}));
    let refused = gate.post(PATH, &body).await;
    assert_eq!(refused.status, StatusCode::BAD_REQUEST);
    assert_snapshot!(refused.body, @r#"{"error":{"message":"the prompt has no tokens","type":"invalid_request_error","param":"prompt[2]","code":"invalid_value"}}"#);
    // Nothing of it goes on.
    let list = gate.get("/v2/tasks").await.json();
    for task in list["tasks"].as_array().unwrap() {
        let events = gate.events(task["task_id"].as_str().unwrap()).await;
        assert!(events.contains(r#""finish_reason":"canceled""#), "{events}");
    }
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn hanging_up_cancels_every_prompt() {
    let gate = Gate::scripted(Script::default()).await;
    let body = ask(&json!({"prompt": ["a", "b"], "max_tokens": 500, "stream": true}));
    let mut stream = gate.send(request("POST", PATH, Body::from(body))).await.into_body();
    read_until(&mut stream, "\"index\":1").await;
    drop(stream);
    let list = gate.get("/v2/tasks").await.json();
    assert_eq!(list["tasks"].as_array().unwrap().len(), 2);
    for task in list["tasks"].as_array().unwrap() {
        let events = gate.events(task["task_id"].as_str().unwrap()).await;
        assert!(events.contains(r#""finish_reason":"canceled""#), "{events}");
    }
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn a_key_stands_for_all_of_its_prompts() {
    let gate = Gate::scripted(says(&["one"])).await;
    let keyed = |body: &str| {
        let mut keyed = request("POST", PATH, Body::from(body.to_owned()));
        keyed.headers_mut().insert("idempotency-key", "k".parse().unwrap());
        keyed
    };
    let body = ask(&json!({"prompt": ["a", "b"]}));
    let first = read(gate.send(keyed(&body)).await).await;
    let again = read(gate.send(keyed(&body)).await).await;
    assert_eq!((first.status, &first.body), (again.status, &again.body));
    assert_eq!(gate.get("/v2/tasks").await.json()["tasks"].as_array().unwrap().len(), 2);
    let other = read(gate.send(keyed(&ask(&json!({"prompt": ["a", "c"]})))).await).await;
    assert_eq!(other.status, StatusCode::UNPROCESSABLE_ENTITY);
    gate.finish().await;
}

/// One slot, which a task holds already, and a queue of two.
async fn narrow(limits: &str) -> Gate {
    let pools = r#"[{ id = "default", engine = "scripted", queue = { capacity = 2 } }]"#;
    let script = Script { slots: 1, ..Script::default() };
    let gate = Gate::with(script, &[("SLUICEGATE_LIMITS", limits), ("SLUICEGATE_POOLS", pools)]).await;
    gate.submit(r#"{"model_ref": "builtin", "prompt": "hi", "max_tokens": 400}"#).await;
    let running = |health: &Value| health["metrics"]["slots_active"] == 1;
    gate.until("/v2/pools/default/health", running).await;
    gate
}

async fn tasks(gate: &Gate) -> usize {
    gate.get("/v2/tasks").await.json()["tasks"].as_array().unwrap().len()
}

#[tokio::test(start_paused = true)]
async fn a_queue_without_room_for_every_prompt_takes_none_and_nothing_is_charged() {
    let gate = narrow("{ requests_per_minute = 100, tokens_per_minute = 1000, concurrency = 50 }").await;
    gate.submit(r#"{"model_ref": "builtin", "prompt": "hi", "max_tokens": 400}"#).await;
    let body = ask(&json!({"prompt": ["a", "b"], "max_tokens": 5}));
    for _ in 0..20 {
        let refused = gate.post(PATH, &body).await;
        assert_eq!(refused.status, StatusCode::TOO_MANY_REQUESTS, "{}", refused.body);
        assert_eq!(refused.json()["error"]["policy_label"], "queue.reject");
        let rates =
            ["requests", "tokens"].map(|what| refused.header(&format!("x-ratelimit-remaining-{what}")).to_owned());
        assert_eq!(rates, ["98", "198"]);
        assert_ne!(refused.header("retry-after"), "");
    }
    assert_eq!(tasks(&gate).await, 2);
    let health = gate.get("/v2/pools/default/health").await.json();
    assert_eq!(health["metrics"]["queue_depth"], 1, "{health}");
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn prompts_that_never_fit_the_queue_are_not_to_be_sent_again() {
    let gate = narrow("{ requests_per_minute = 100 }").await;
    let refused = gate.post(PATH, &ask(&json!({"prompt": ["a", "b", "c"]}))).await;
    assert_eq!(refused.status, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!((refused.header("x-should-retry"), refused.header("retry-after")), ("false", ""));
    assert_snapshot!(refused.body, @r#"{"error":{"message":"`prompt`: it asks for 3 tasks, which wait together, and the queue takes 2","type":"server_error","param":"prompt","code":"server_overloaded","policy_label":"queue.reject"}}"#);
    assert_eq!(refused.header("x-ratelimit-remaining-requests"), "99");
    assert_eq!(tasks(&gate).await, 1);
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn prompts_that_never_fit_a_limit_together_name_the_field_and_the_bound() {
    let cases = [
        ("{ requests_per_minute = 2 }", 1),
        ("{ concurrency = 2 }", 1),
        ("{ tokens_per_minute = 20 }", 10),
        ("{ tokens_per_minute = 3 }", 1),
    ];
    let mut told = Vec::new();
    for (limits, max_tokens) in cases {
        let gate = Gate::with(says(&["one"]), &[("SLUICEGATE_LIMITS", limits)]).await;
        let body = ask(&json!({"prompt": ["a", "b", "c"], "max_tokens": max_tokens}));
        let refused = gate.post(PATH, &body).await;
        assert_eq!(refused.status, StatusCode::TOO_MANY_REQUESTS);
        assert_eq!((refused.header("x-should-retry"), refused.header("retry-after")), ("false", ""));
        told.push(refused.json()["error"].to_string());
        assert_eq!(tasks(&gate).await, 0);
        gate.finish().await;
    }
    assert_snapshot!(told.join("\n"), @r#"
    {"message":"`prompt`: it asks for 3 tasks, and 2 requests per minute is the limit","type":"requests","param":"prompt","code":"rate_limit_exceeded","policy_label":"rate.requests"}
    {"message":"`prompt`: it asks for 3 tasks, and 2 tasks at once is the limit","type":"requests","param":"prompt","code":"rate_limit_exceeded","policy_label":"rate.concurrency"}
    {"message":"`max_tokens`: the request may take 33 tokens with all of its output, and 20 tokens per minute is the limit","type":"tokens","param":"max_tokens","code":"rate_limit_exceeded","policy_label":"rate.tokens"}
    {"message":"`prompt`: the request may take 6 tokens with all of its output, and 3 tokens per minute is the limit","type":"tokens","param":"prompt","code":"rate_limit_exceeded","policy_label":"rate.tokens"}
    "#);
}

#[tokio::test(start_paused = true)]
async fn a_budget_that_does_not_cover_every_prompt_is_left_as_it_was() {
    let gate = Gate::scripted(says(&["one"])).await;
    let session = "018f0000-0000-7000-8000-000000000001";
    gate.post(&format!("/v2/sessions/{session}"), r#"{"budget": {"tokens": 25}}"#).await;
    let body =
        |prompts: &Value| ask(&json!({"prompt": prompts, "max_tokens": 9, "sluicegate": {"session_id": session}}));
    let refused = gate.post(PATH, &body(&json!(["a", "b", "c"]))).await;
    assert_eq!(refused.status, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!((refused.header("x-should-retry"), refused.header("retry-after")), ("false", ""));
    assert_snapshot!(refused.body, @r#"{"error":{"message":"`max_tokens`: the request may take 30 tokens with all of its output, and the budget leaves 25","type":"insufficient_quota","param":"max_tokens","code":"insufficient_quota","policy_label":"budget.tokens"}}"#);
    let left = gate.get(&format!("/v2/sessions/{session}")).await.json();
    assert_eq!(left["tokens_budget_remaining"], 25, "{left}");
    assert_eq!(tasks(&gate).await, 0);
    let answer = gate.post(PATH, &body(&json!(["a", "b"]))).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.body);
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn prompts_wait_in_the_queue_together() {
    let gate = narrow("{ concurrency = 3 }").await;
    let body = ask(&json!({"prompt": ["a", "b"], "max_tokens": 3}));
    let answer = gate.post(PATH, &body).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.body);
    assert_eq!(answer.json()["choices"].as_array().unwrap().len(), 2);
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn prompts_of_one_request_spread_over_the_pools_of_their_model() {
    let pools = r#"[{ id = "a", engine = "scripted", queue.capacity = 2 }, { id = "b", engine = "scripted", queue.capacity = 1 }]"#;
    let gate = Gate::with(Script { slots: 1, ..says(&["one"]) }, &[("SLUICEGATE_POOLS", pools)]).await;
    let answer = gate.post(PATH, &ask(&json!({"prompt": ["a", "b", "c"]}))).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.body);
    let tasks = gate.get("/v2/tasks").await.json();
    let mut pools: Vec<_> = tasks["tasks"].as_array().unwrap().iter().map(|task| task["pool_id"].to_string()).collect();
    pools.sort();
    assert_eq!(pools, [r#""a""#, r#""a""#, r#""b""#]);
    let refused = gate.post(PATH, &ask(&json!({"prompt": ["a", "b", "c", "d"]}))).await;
    assert_eq!((refused.status, refused.header("x-should-retry")), (StatusCode::TOO_MANY_REQUESTS, "false"));
    gate.finish().await;
}
