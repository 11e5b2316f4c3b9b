//! Inputs that a server elsewhere embeds or scores, and what clients see when it does that wrong.

use serde_json::Value;

use super::*;

/// The body in a request, and the place that it was sent to.
fn asked(request: &str) -> (&str, Value) {
    let (head, body) = request.split_once("\r\n\r\n").unwrap_or_default();
    let path = head.split(' ').nth(1).and_then(|path| path.rsplit('/').next()).unwrap_or_default();
    (path, serde_json::from_str(body).unwrap_or_default())
}

fn texts(body: &Value, field: &str) -> Vec<String> {
    body[field].as_array().into_iter().flatten().filter_map(|text| Some(text.as_str()?.to_owned())).collect()
}

/// What the server answers to inputs; nothing for deeds that are the same for every request.
pub fn answer(request: &str, deed: &str) -> Option<String> {
    let (path, body) = asked(request);
    let body = match path {
        "embeddings" => embedded(&body, deed)?,
        "rerank" => scored(&body, deed)?,
        _ => return None,
    };
    let length = if deed == "cut" { body.len() + 1 } else { body.len() };
    Some(format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
    ))
}

/// A vector says how long its text is, and how many there are; the last comes first.
fn embedded(body: &Value, deed: &str) -> Option<String> {
    let texts = texts(body, "input");
    let wanted = body["dimensions"].as_u64().filter(|_| deed != "ignore the dimensions");
    let vector = |text: &String| match wanted {
        Some(2) => json!([0.6, 0.8]),
        _ => json!([text.len(), texts.len(), 0.5]),
    };
    let item = |(index, text)| json!({"object": "embedding", "index": index, "embedding": vector(text)});
    let mut data: Vec<Value> = texts.iter().enumerate().map(item).collect();
    let first = data[0].clone();
    let mut usage = json!({"prompt_tokens": 3, "total_tokens": 3});
    match deed {
        "fewer" => data.truncate(1),
        "more" => data.push(json!({"index": 2, "embedding": [1, 2, 3]})),
        "twice" => data[1] = first,
        "no index" => data[1] = json!({"embedding": [1, 2, 3]}),
        "below" => data[1]["index"] = (-1).into(),
        "beyond" => data[1]["index"] = u64::MAX.into(),
        "text" => data[1]["embedding"] = json!(["geheim", 1, 2]),
        "null" => data[1]["embedding"][0] = Value::Null,
        "base64" => data[1]["embedding"] = "AACAPwAAgD8=".into(),
        "too large a number" => data[1]["embedding"][0] = json!(1e39),
        "unequal" => data[1]["embedding"] = json!([1, 2]),
        "empty" => data.iter_mut().for_each(|item| item["embedding"] = json!([])),
        "one number" => data.iter_mut().for_each(|item| item["embedding"] = json!([1])),
        "no usage" => usage = Value::Null,
        "usage of nothing" => usage = json!({"prompt_tokens": 0, "total_tokens": 0}),
        "endless usage" => usage = json!({"prompt_tokens": 4_000_000_000_u64}),
        "strange usage" => usage = json!({"prompt_tokens": "geheim", "total_tokens": -1}),
        "ignore the dimensions" | "not at all" | "cut" | "oversized" | "not a number" | "no list" => {}
        _ => return None,
    }
    data.reverse();
    let body = json!({"object": "list", "model": "m", "data": data, "usage": usage}).to_string();
    Some(match deed {
        "oversized" => format!("{body}{}", " ".repeat(64 * (256 << 10))),
        "not a number" => body.replacen("0.5", "NaN", 1),
        "no list" => r#"{"data": "geheim"}"#.to_owned(),
        _ => body,
    })
}

/// The longer a document, the better; the best comes first.
fn scored(body: &Value, deed: &str) -> Option<String> {
    let documents = texts(body, "documents");
    let score = |(index, text): (usize, &String)| json!({"index": index, "relevance_score": text.len() as f64 / 64.0, "document": {"text": text}});
    let mut results: Vec<Value> = documents.iter().enumerate().map(score).collect();
    match deed {
        "fewer" => results.truncate(1),
        "twice" => results[1] = results[0].clone(),
        "no index" => _ = results[1].as_object_mut().unwrap().remove("index"),
        "text" => results[1]["relevance_score"] = "geheim".into(),
        "too large a number" => results[1]["relevance_score"] = json!(1e39),
        "not at all" | "cut" | "oversized" | "no list" => {}
        _ => return None,
    }
    results.sort_by_key(|result| std::cmp::Reverse(result["document"]["text"].as_str().map(str::len)));
    let body = json!({"id": "r", "results": results, "usage": {"total_tokens": 7}}).to_string();
    Some(match deed {
        "oversized" => format!("{body}{}", " ".repeat(1 << 20)),
        "no list" => r#"{"results": {}}"#.to_owned(),
        _ => body,
    })
}

fn task(inputs: &[&str], change: Value) -> Value {
    let mut body = json!({"workload": "embedding", "model_ref": "builtin", "inputs": inputs});
    body.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
    body
}

async fn seen(gate: &Gate, task: &Value) -> String {
    let id = gate.submit(&task.to_string()).await;
    gate.events(&id).await
}

/// What two inputs come to of which the second says what to do.
async fn of(gate: &Gate, deed: &str, change: Value) -> String {
    seen(gate, &task(&["plain", &format!("misbehave: {deed}")], change)).await
}

fn data(stream: &str, event: &str) -> Value {
    let data = stream.split_once(&format!("event: {event}\ndata: ")).unwrap_or_else(|| panic!("{stream}")).1;
    serde_json::from_str(data.lines().next().unwrap()).unwrap()
}

/// The bodies that the server got at a place for a deed.
fn bodies(server: &Server, place: &str, deed: &str) -> Vec<Value> {
    let requests = server.requests.lock().unwrap();
    let bodies = requests.iter().map(|request| asked(request));
    bodies.filter(|(path, body)| *path == place && body.to_string().contains(deed)).map(|(_, body)| body).collect()
}

#[tokio::test]
async fn vectors_come_in_the_order_of_their_inputs_and_cost_what_the_server_says() {
    let server = Arc::default();
    let gate = before_for(&server, "embedding").await;
    let stream = of(&gate, "not at all", json!({})).await;
    assert_eq!(data(&stream, "result"), json!({"embeddings": [[5.0, 2.0, 0.5], [21.0, 2.0, 0.5]]}));
    assert_eq!((&data(&stream, "end")["tokens_in"], &data(&stream, "end")["tokens_out"]), (&json!(3), &json!(0)));
    assert_eq!(
        bodies(&server, "embeddings", "not at all"),
        [json!({"model": "m", "input": ["plain", "misbehave: not at all"], "encoding_format": "float"})]
    );
    let body = json!({"model": "builtin", "input": ["plain", "misbehave: not at all"]}).to_string();
    let answer = gate.post("/v1/embeddings", &body).await.json();
    assert_eq!(answer["data"][0]["embedding"], json!([5.0, 2.0, 0.5]), "{answer}");
    assert_eq!(answer["usage"], json!({"prompt_tokens": 3, "total_tokens": 3}));
    gate.finish().await;
}

#[tokio::test]
async fn scores_come_in_the_order_of_their_documents() {
    let server = Arc::default();
    let gate = before_for(&server, "rerank").await;
    let query = json!({"workload": "rerank", "query": "why"});
    let stream = of(&gate, "not at all", query.clone()).await;
    assert_eq!(data(&stream, "result"), json!({"scores": [0.078125, 0.328125]}));
    assert_eq!(data(&stream, "end")["tokens_in"], 7);
    let sent = json!({"model": "m", "query": "why", "documents": ["plain", "misbehave: not at all"], "top_n": 2,
        "return_documents": false});
    assert_eq!(bodies(&server, "rerank", "not at all"), [sent]);
    for deed in ["fewer", "twice", "no index", "text", "too large a number", "cut", "oversized", "no list", "500"] {
        let stream = of(&gate, deed, query.clone()).await;
        assert!(stream.contains("WORKER_RESET") && !stream.contains("geheim"), "{deed}: {stream}");
        gate.recovered().await;
    }
    let body = json!({"model": "builtin", "query": "why", "documents": ["short", "quite long"]}).to_string();
    let answer = gate.post("/v1/rerank", &body).await.json();
    assert_eq!(
        (&answer["results"][0]["index"], &answer["results"][0]["relevance_score"]),
        (&json!(1), &json!(0.15625))
    );
    gate.finish().await;
}

#[tokio::test]
async fn what_is_no_vector_for_each_input_ends_the_task_and_the_pool_goes_on() {
    let gate = before_for(&Arc::default(), "embedding").await;
    let deeds = [
        "fewer",
        "more",
        "twice",
        "no index",
        "below",
        "beyond",
        "text",
        "null",
        "base64",
        "too large a number",
        "not a number",
        "unequal",
        "empty",
        "no list",
        "cut",
        "oversized",
        "stall before the head",
        "stall in the middle",
        "wrong type",
        "redirect",
        "500",
        "429",
        "garbage",
    ];
    for deed in deeds {
        let stream = of(&gate, deed, json!({})).await;
        assert!(stream.contains("WORKER_RESET") && !stream.contains("event: result"), "{deed}: {stream}");
        let error = gate.get("/v2/pools").await.json()["pools"][0]["last_error"].to_string();
        assert!(!stream.contains("geheim") && !error.contains("geheim"), "{deed}: {stream} {error}");
        gate.recovered().await;
        let after = of(&gate, "not at all", json!({})).await;
        assert!(after.contains("event: result"), "{deed}: {after}");
    }
    gate.finish().await;
}

#[tokio::test]
async fn a_refusal_is_the_callers_fault_and_one_of_the_path_the_configurations() {
    let gate = before_for(&Arc::default(), "embedding").await;
    for (deed, param) in [("400", Value::Null), ("404", "workload".into())] {
        let error = data(&of(&gate, deed, json!({})).await, "error");
        assert_eq!((&error["code"], &error["param"]), (&json!("INVALID_PARAMS"), &param), "{error}");
        assert_eq!(gate.app.pools[0].health(), sluicegate::pools::Health::Ready);
    }
    gate.finish().await;
}

#[tokio::test]
async fn usage_is_held_against_what_was_admitted_and_no_budget_is_overspent() {
    let gate = before_for(&Arc::default(), "embedding").await;
    let session = "01a20a7d-a21e-77b5-a166-c2154022f8c7";
    gate.post(&format!("/v2/sessions/{session}"), r#"{"budget": {"tokens": 1000}}"#).await;
    let mut left = 1000;
    for (deed, tokens) in [
        ("not at all", 3),
        ("usage of nothing", 2),
        // A byte counts as a token, and 16 more for each input.
        ("no usage", 5 + 19 + 2 * 16),
        ("endless usage", 5 + 24 + 2 * 16),
        ("strange usage", 5 + 24 + 2 * 16),
    ] {
        let stream = of(&gate, deed, json!({"session_id": session})).await;
        assert_eq!(data(&stream, "end")["tokens_in"], tokens, "{deed}: {stream}");
        left -= tokens;
        let budget = gate.get(&format!("/v2/sessions/{session}")).await.json()["tokens_budget_remaining"].clone();
        assert_eq!(budget, left, "{deed}");
    }
    gate.finish().await;
}

#[tokio::test]
async fn many_inputs_are_several_requests_and_each_has_its_own_context() {
    let server = Arc::default();
    let gate = before_for(&server, "embedding").await;
    let long = "word ".repeat(900);
    let mut inputs = vec![long.as_str(); 33];
    inputs[0] = "first";
    let stream = seen(&gate, &task(&inputs, json!({}))).await;
    let vectors = data(&stream, "result")["embeddings"].clone();
    assert_eq!(
        [0, 31, 32].map(|at| vectors[at].clone()),
        [json!([5.0, 32.0, 0.5]), json!([4500.0, 32.0, 0.5]), json!([4500.0, 1.0, 0.5])]
    );
    assert_eq!(bodies(&server, "embeddings", "word word").len(), 2);
    assert_eq!(data(&stream, "end")["tokens_in"], 32 + 3, "each request has no fewer tokens than inputs");
    gate.finish().await;
}

#[tokio::test]
async fn fewer_dimensions_are_asked_of_the_server_and_seen_to_where_it_does_not_know_them() {
    let server = Arc::default();
    let gate = before_for(&server, "embedding").await;
    let two = json!({"dimensions": 2});
    let stream = of(&gate, "not at all", two.clone()).await;
    assert_eq!(data(&stream, "result"), json!({"embeddings": [[0.6, 0.8], [0.6, 0.8]]}));
    assert_eq!(bodies(&server, "embeddings", "not at all")[0]["dimensions"], 2);
    let stream = of(&gate, "ignore the dimensions", two.clone()).await;
    let vector = data(&stream, "result")["embeddings"][0].clone();
    let numbers: Vec<f64> = serde_json::from_value(vector).unwrap();
    assert!((numbers[0] / numbers[1] - 5.0 / 2.0).abs() < 1e-6, "{numbers:?}");
    assert!((numbers[0].hypot(numbers[1]) - 1.0).abs() < 1e-6, "{numbers:?}");
    let error = data(&of(&gate, "one number", two).await, "error");
    assert_eq!((&error["code"], &error["param"]), (&json!("INVALID_PARAMS"), &json!("dimensions")));
    gate.finish().await;
}

#[tokio::test]
async fn a_batch_whose_server_fails_is_sent_once_more_and_to_another_where_there_is_one() {
    let [first, second]: [Arc<Server>; 2] = Default::default();
    let gate = before_for(&first, "embedding").await;
    let stream = of(&gate, "500 once", json!({})).await;
    assert!(stream.contains("event: result") && !stream.contains("event: error"), "{stream}");
    assert_eq!(first.times("500 once"), 2);
    gate.recovered().await;
    let body =
        json!({"worker_id": "other", "pool_id": "default", "base_url": format!("http://{}/v1", second.start().await)});
    assert_eq!(gate.post("/v2/workers/register", &body.to_string()).await.status.as_u16(), 200);
    let ready =
        |health: &Value| health["replicas"].as_array().is_some_and(|all| all.iter().all(|it| it["state"] == "ready"));
    gate.until("/v2/pools/default/health", |health| health["replicas"][1].is_object() && ready(health)).await;
    first.down.store(true, Ordering::SeqCst);
    let stream = of(&gate, "not at all", json!({})).await;
    assert!(stream.contains("event: result") && !stream.contains("event: error"), "{stream}");
    assert_eq!(bodies(&second, "embeddings", "not at all").len(), 1);
    first.down.store(false, Ordering::SeqCst);
    gate.until("/v2/pools/default/health", ready).await;
    gate.finish().await;
}

#[tokio::test]
async fn a_pool_serves_what_it_is_said_to_serve_and_nothing_else() {
    let gate = before_for(&Arc::default(), "embedding").await;
    let pool = gate.get("/v2/meta/capabilities").await.json()["pools"][0].clone();
    assert_eq!(pool["workloads"], json!(["embedding"]));
    assert!(!pool["features"].as_array().unwrap().contains(&json!("seed")), "{pool}");
    assert_eq!(gate.get("/v2/catalog/models/builtin").await.json()["workloads"], json!(["embedding"]));
    let rerank = task(&["a"], json!({"workload": "rerank", "query": "b"}));
    let chat = json!({"model_ref": "builtin", "prompt": "hi"});
    let tokens = json!({"workload": "embedding", "model_ref": "builtin", "inputs": ["a", [1, 2]]});
    for (body, param) in [(rerank, "workload"), (chat, "workload"), (tokens, "inputs[1]")] {
        let refused = gate.post("/v2/tasks", &body.to_string()).await;
        assert_eq!((refused.status.as_u16(), &refused.json()["param"]), (400, &json!(param)), "{}", refused.body);
    }
    let long = task(&["a", &"b".repeat(9000)], json!({}));
    let refused = gate.post("/v2/tasks", &long.to_string()).await.json();
    assert_eq!(refused["param"], "inputs[1]", "{refused}");
    gate.finish().await;
}

#[tokio::test]
async fn a_batch_that_is_cancelled_leaves_its_server() {
    let gate = before_for(&Arc::default(), "embedding").await;
    let id = gate.submit(&task(&["a", "misbehave: stall before the head"], json!({})).to_string()).await;
    gate.until(&format!("/v2/tasks/{id}"), |task| task["state"] == "running").await;
    gate.post(&format!("/v2/tasks/{id}/cancel"), "").await;
    let stream = gate.events(&id).await;
    assert!(stream.contains(r#""finish_reason":"canceled""#) && !stream.contains("event: result"), "{stream}");
    gate.settle().await;
    assert_eq!(gate.app.pools[0].health(), sluicegate::pools::Health::Ready);
    gate.finish().await;
}
