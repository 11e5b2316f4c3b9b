//! A gateway in front of another one, whose engine is the real one.

use serde_json::{Value, json};

use super::running::Running;

/// The settings of a gateway in front of `upstream`, that counts prompts as the built-in model does.
fn pools(upstream: &Running) -> String {
    let tokenizer = concat!("file:", env!("CARGO_MANIFEST_DIR"), "/examples/builtin-model/model/tokenizer.json");
    let address = upstream.address;
    let remote = format!(r#"{{ base_url = "http://{address}/v1", model = "builtin", tokenizer = "{tokenizer}" }}"#);
    format!(r#"[{{ id = "front", engine = "remote", remote = {remote} }}]"#)
}

#[tokio::test]
async fn answers_are_those_of_the_server_behind() {
    let upstream = Running::real(&[]);
    let front = Running::real(&[("POOLS", &pools(&upstream))]);
    let settings = [
        json!({"temperature": 0, "logprobs": true, "top_logprobs": 2}),
        json!({"temperature": 1.2, "seed": 7, "top_k": 20, "stop": ["e"]}),
        json!({"temperature": 0.7, "seed": 7, "response_format": {"type": "json_object"}}),
    ];
    for extra in settings {
        let mut body = json!({"model": "builtin", "max_tokens": 24, "messages": [{"role": "user", "content": "What is Sluicegate?"}]});
        body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        let [direct, through] = [&upstream, &front].map(|gateway| gateway.post("/v1/chat/completions", &body));
        let direct: serde_json::Value = direct.await.json().await.unwrap();
        let through: serde_json::Value = through.await.json().await.unwrap();
        assert_eq!(through["choices"], direct["choices"], "{extra}");
        assert!(through["choices"][0]["message"]["content"].is_string(), "{extra}");
        for count in ["prompt_tokens", "completion_tokens"] {
            assert_eq!(through["usage"][count], direct["usage"][count], "{extra}: {count}");
        }
    }
    let started = front.get_json("/v2/pools").await;
    assert_eq!(started.to_string().matches(r#""engine":"remote""#).count(), 1, "{started}");
    front.idle().await;
    upstream.idle().await;
}

/// A message without the ids of its calls, which are new each time.
fn nameless(mut choice: Value) -> Value {
    for call in choice["message"]["tool_calls"].as_array_mut().into_iter().flatten() {
        let id = call.as_object_mut().unwrap().remove("id");
        assert!(id.is_some_and(|id| id.as_str().is_some_and(|id| id.starts_with("call_"))), "{call}");
    }
    choice
}

#[tokio::test]
async fn calls_of_tools_are_those_of_the_server_behind() {
    let upstream = Running::real(&[]);
    let front = Running::real(&[("POOLS", &pools(&upstream))]);
    let parameters = json!({"type": "object", "required": ["city"], "additionalProperties": false,
        "properties": {"city": {"type": "string", "maxLength": 12}}});
    let tool = |name: &str, parameters: &Value| json!({"type": "function", "function": {"name": name, "parameters": parameters}});
    let none = json!({"type": "object", "properties": {}, "additionalProperties": false});
    let tools = [tool("get_weather", &parameters), tool("now", &none)];
    let named = json!({"type": "function", "function": {"name": "get_weather"}});
    let wishes = [
        json!({"tool_choice": "required", "temperature": 0}),
        json!({"tool_choice": "required", "seed": 5, "max_tokens": 60}),
        json!({"tool_choice": named, "seed": 3, "parallel_tool_calls": false}),
        json!({"tool_choice": named, "seed": 4, "n": 2, "max_tokens": 40}),
        json!({"temperature": 0, "logprobs": true}),
        // In the middle of a call.
        json!({"tool_choice": "required", "temperature": 0, "max_tokens": 16}),
    ];
    for wish in wishes {
        let mut body = json!({"model": "builtin", "max_tokens": 200, "tools": tools,
            "messages": [{"role": "user", "content": "What is the weather in Berlin?"}]});
        body.as_object_mut().unwrap().extend(wish.as_object().unwrap().clone());
        let [direct, through] = [&upstream, &front].map(|gateway| gateway.post("/v1/chat/completions", &body));
        let direct: Value = direct.await.json().await.unwrap();
        let through: Value = through.await.json().await.unwrap();
        let choices = |answer: &Value| -> Vec<_> {
            answer["choices"].as_array().unwrap().iter().cloned().map(nameless).collect()
        };
        assert_eq!(choices(&through), choices(&direct), "{wish}");
        assert!(direct["choices"][0]["message"]["tool_calls"][0].is_object(), "{wish}: {direct}");
        assert_eq!(through["usage"]["completion_tokens"], direct["usage"]["completion_tokens"], "{wish}");
    }
    front.idle().await;
    upstream.idle().await;
}

#[tokio::test]
async fn cancelling_in_front_cancels_behind() {
    let upstream = Running::scripted(&[("POOLS__0__SCRIPTED__TOKEN_MS", "50")]);
    let front = Running::real(&[("POOLS", &pools(&upstream))]);
    let body = json!({"model_ref": "builtin", "max_tokens": 4000, "messages": [{"role": "user", "content": "talk"}]});
    let task: serde_json::Value = front.post("/v2/tasks", &body).await.json().await.unwrap();
    let task = task["task_id"].as_str().unwrap();
    front.state_is(task, "running").await;
    front.post(&format!("/v2/tasks/{task}/cancel"), &json!({})).await;
    front.state_is(task, "canceled").await;
    front.idle().await;
    upstream.idle().await;
}

/// The settings of a gateway that has `upstream` embed and score, with a pool that knows the tokenizer and one that does not.
fn embedding_pools(upstream: &Running) -> [(&'static str, String); 2] {
    let tokenizer = concat!("file:", env!("CARGO_MANIFEST_DIR"), "/examples/builtin-embedding/model/tokenizer.json");
    let address = upstream.address;
    let remote = format!(
        r#"base_url = "http://{address}/v1", model = "builtin-embedding", workloads = ["embedding", "rerank"], context_length = 2048"#
    );
    let pool = |id: &str, more: &str| {
        format!(r#"{{ id = "{id}", model = "{id}", engine = "remote", remote = {{ {remote}{more} }} }}"#)
    };
    let models = r#"[{ id = "counted", source = "hf:a/b" }, { id = "bounded", source = "hf:a/c" }]"#;
    let counted = pool("counted", &format!(r#", tokenizer = "{tokenizer}""#));
    [("POOLS", format!("[{counted}, {}]", pool("bounded", ""))), ("CATALOG__MODELS", models.to_owned())]
}

#[tokio::test]
async fn vectors_and_scores_are_those_of_the_server_behind_bit_for_bit() {
    let upstream = Running::real(&[]);
    let settings = embedding_pools(&upstream);
    let front = Running::real(&settings.each_ref().map(|(name, value)| (*name, value.as_str())));
    let texts: Vec<_> = (0..40).map(|number| format!("What does {number} pools cost, and why?")).collect();
    let requests = [
        ("/v1/embeddings", json!({"input": texts})),
        ("/v1/embeddings", json!({"input": texts[0], "dimensions": 17, "encoding_format": "base64"})),
        ("/v1/rerank", json!({"query": "Tell me what a pool is", "documents": texts, "top_n": 5})),
    ];
    for (path, body) in requests {
        let asked = async |gateway: &Running, model: &str| -> Value {
            let mut body = body.clone();
            body["model"] = model.into();
            let mut answer: Value = gateway.post(path, &body).await.json().await.unwrap();
            answer.as_object_mut().unwrap().retain(|name, _| name != "model" && name != "id");
            answer
        };
        let direct = asked(&upstream, "builtin-embedding").await;
        assert!(direct["usage"]["prompt_tokens"].as_u64().is_some_and(|tokens| tokens > 0), "{path}: {direct}");
        for model in ["counted", "bounded"] {
            assert_eq!(asked(&front, model).await, direct, "{path} of {model}");
        }
    }
    let native = async |gateway: &Running, model: &str, change: Value| -> Value {
        let mut task = json!({"model_ref": model, "inputs": texts[..3]});
        task.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        super::embedding::result(gateway, task).await
    };
    for change in [json!({"workload": "embedding"}), json!({"workload": "rerank", "query": texts[3]})] {
        let direct = native(&upstream, "builtin-embedding", change.clone()).await;
        assert_eq!(native(&front, "counted", change.clone()).await, direct, "{change}");
    }
    front.idle().await;
    upstream.idle().await;
}
