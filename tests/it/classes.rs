//! The two classes and the policies of a full queue, as clients see them.

use axum::body::Body;
use axum::http::{HeaderName, HeaderValue, StatusCode};
use serde_json::{Value, json};
use sluicegate::engine::scripted::Script;

use crate::harness::{Answer, Gate, read, request, says};

/// One slot, a few words for each task: what is submitted second waits.
async fn gate(settings: &[(&str, &str)]) -> Gate {
    Gate::with(Script { slots: 1, ..says(&["one ", "two "]) }, settings).await
}

async fn submit(gate: &Gate, priority: &str) -> Answer {
    let body = json!({"model_ref": "builtin", "prompt": "say it", "priority": priority, "max_tokens": 20});
    gate.post("/v2/tasks", &body.to_string()).await
}

async fn accepted(gate: &Gate, priority: &str) -> (String, u64) {
    let answer = submit(gate, priority).await;
    assert_eq!(answer.status, StatusCode::ACCEPTED, "{}", answer.body);
    let json = answer.json();
    (json["task_id"].as_str().unwrap().to_owned(), json["queue_position"].as_u64().unwrap())
}

async fn started_at(gate: &Gate, id: &str) -> u64 {
    gate.get(&format!("/v2/tasks/{id}")).await.json()["queue_ms"].as_u64().unwrap()
}

async fn last_event(gate: &Gate, id: &str) -> Value {
    serde_json::from_str(gate.events(id).await.rsplit("data: ").next().unwrap()).unwrap()
}

#[tokio::test(start_paused = true)]
async fn interactive_tasks_go_before_batch_tasks_and_the_positions_say_so() {
    let gate = gate(&[("SLUICEGATE_POOLS__0__QUEUE__BATCH_FLOOR", "0")]).await;
    let (running, _) = accepted(&gate, "interactive").await;
    let (batch, position) = accepted(&gate, "batch").await;
    assert_eq!(position, 0);
    let (interactive, position) = accepted(&gate, "interactive").await;
    assert_eq!(position, 0, "before the batch task");
    assert_eq!(gate.get(&format!("/v2/tasks/{batch}")).await.json()["queue_position"], 1);
    assert_eq!(
        gate.metric(r#"queue_depth{engine="scripted",engine_version="0.1.0",pool_id="default",priority="batch"}"#)
            .await,
        1.0
    );
    for id in [&running, &batch, &interactive] {
        assert_eq!(last_event(&gate, id).await["finish_reason"], "stop");
    }
    assert!(started_at(&gate, &interactive).await < started_at(&gate, &batch).await);
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn headers_say_on_the_openai_api_what_its_body_cannot() {
    let gate = gate(&[]).await;
    let chat = r#"{"model": "builtin", "messages": [{"role": "user", "content": "hi"}], "sluicegate": {"priority": "interactive"}}"#;
    let with = |name: &'static str, value: &'static str| {
        let mut request = request("POST", "/v1/chat/completions", Body::from(chat));
        request.headers_mut().insert(name.parse::<HeaderName>().unwrap(), HeaderValue::from_static(value));
        async { read(gate.send(request).await).await }
    };
    let batch = with("x-priority", "batch").await;
    let id = batch.header("x-task-id").to_owned();
    assert_eq!(gate.get(&format!("/v2/tasks/{id}")).await.json()["priority"], "batch");
    for (name, bad) in
        [("X-Priority", "urgent"), ("X-Deadline-Ms", "0"), ("X-Deadline-Ms", "soon"), ("X-Session-Id", "1")]
    {
        let refused = with(name, bad).await;
        assert_eq!(
            (refused.status, &refused.json()["error"]["param"]),
            (StatusCode::BAD_REQUEST, &name.into()),
            "{bad}"
        );
    }
    accepted(&gate, "interactive").await;
    assert_eq!(with("x-deadline-ms", "1").await.json()["error"]["code"], "deadline_unmet");
    gate.settle().await;
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn batch_tasks_get_their_floor_while_interactive_ones_keep_coming() {
    let gate = gate(&[("SLUICEGATE_POOLS__0__QUEUE__BATCH_FLOOR", "0.25")]).await;
    let (_, _) = accepted(&gate, "interactive").await;
    let mut ids = Vec::new();
    for _ in 0..12 {
        ids.push(accepted(&gate, "interactive").await.0);
    }
    let (batch, position) = accepted(&gate, "batch").await;
    // Three interactive tasks of the same cost earn the price of one batch task.
    assert_eq!(position, 3);
    last_event(&gate, &batch).await;
    let mut ended = 0;
    for id in &ids {
        let view = gate.get(&format!("/v2/tasks/{id}")).await.json();
        ended += u32::from(view["state"] == "finished");
    }
    assert_eq!(ended, 3, "served before the batch task");
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn drop_lru_drops_the_longest_waiting_of_the_lowest_class() {
    let gate =
        gate(&[("SLUICEGATE_POOLS__0__QUEUE__POLICY", "drop-lru"), ("SLUICEGATE_POOLS__0__QUEUE__CAPACITY", "2")])
            .await;
    accepted(&gate, "interactive").await;
    let (batch, _) = accepted(&gate, "batch").await;
    let (first, _) = accepted(&gate, "interactive").await;
    let (second, _) = accepted(&gate, "interactive").await;
    let dropped = last_event(&gate, &batch).await;
    assert_eq!((&dropped["code"], &dropped["retriable"]), (&json!("QUEUE_FULL_DROP_LRU"), &json!(true)));
    assert!(dropped["retry_after_ms"].as_u64().unwrap() > 0, "{dropped}");
    assert!(!gate.events(&batch).await.contains("event: started"));
    // No batch task waits: now the longest waiting interactive one goes, but never for a batch task.
    let refused = submit(&gate, "batch").await;
    assert_eq!(
        (refused.status, &refused.json()["policy_label"]),
        (StatusCode::TOO_MANY_REQUESTS, &json!("queue.reject"))
    );
    let (third, _) = accepted(&gate, "interactive").await;
    assert_eq!(last_event(&gate, &first).await["code"], "QUEUE_FULL_DROP_LRU");
    for id in [&second, &third] {
        assert_eq!(last_event(&gate, id).await["finish_reason"], "stop");
    }
    assert_eq!(gate.metric(r#"tasks_dropped_total{engine="scripted",pool_id="default",reason="drop_lru"}"#).await, 2.0);
    assert_eq!(gate.metric(r#"admission_backpressure_events_total{engine="scripted",policy="drop-lru"}"#).await, 3.0);
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn shed_batch_makes_room_for_interactive_tasks_only() {
    let gate =
        gate(&[("SLUICEGATE_POOLS__0__QUEUE__POLICY", "shed-batch"), ("SLUICEGATE_POOLS__0__QUEUE__CAPACITY", "2")])
            .await;
    accepted(&gate, "interactive").await;
    let (kept, _) = accepted(&gate, "batch").await;
    let (shed, _) = accepted(&gate, "batch").await;
    let refused = submit(&gate, "batch").await;
    assert_eq!(refused.json()["policy_label"], "queue.shed_batch", "{}", refused.body);
    assert_ne!(refused.header("retry-after"), "");
    accepted(&gate, "interactive").await;
    let told = last_event(&gate, &shed).await;
    assert_eq!((&told["code"], &told["policy_label"]), (&json!("ADMISSION_REJECT"), &json!("queue.shed_batch")));
    accepted(&gate, "interactive").await;
    assert_eq!(last_event(&gate, &kept).await["policy_label"], "queue.shed_batch");
    let refused = submit(&gate, "interactive").await;
    assert_eq!(refused.json()["policy_label"], "queue.reject", "{}", refused.body);
    assert_eq!(
        gate.metric(r#"tasks_dropped_total{engine="scripted",pool_id="default",reason="shed_batch"}"#).await,
        2.0
    );
    gate.finish().await;
}
