//! Texts as tokens and tokens as texts, with the built-in model's own tokenizer; and paths without `/v1`.

use axum::http::StatusCode;
use serde_json::{Value, json};

use crate::harness::{Answer, Gate, says};

async fn ask(gate: &Gate, path: &str, body: Value) -> Answer {
    gate.post(path, &body.to_string()).await
}

async fn tokens(gate: &Gate, body: Value) -> Value {
    let answer = ask(gate, "/tokenize", body).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.body);
    answer.json()
}

#[tokio::test]
async fn a_text_comes_back_from_its_tokens_and_a_conversation_has_those_that_are_charged() {
    let gate = Gate::configured(&[]).await;
    let text = "What is a pool? Größe: 3 €";
    let bare = tokens(&gate, json!({"model": "builtin", "prompt": text, "add_special_tokens": false})).await;
    let ids = bare["tokens"].as_array().unwrap();
    assert_eq!((bare["count"].as_u64(), &bare["token_strs"]), (Some(ids.len() as u64), &Value::Null));
    let back = ask(&gate, "/v1/detokenize", json!({"model": "builtin", "tokens": ids})).await;
    assert_eq!(back.json(), json!({"prompt": text}));

    let question = json!([{"role": "user", "content": "What is a pool?"}]);
    let asked = json!({"model": "builtin", "messages": question, "return_token_strs": true});
    let told = tokens(&gate, asked).await;
    assert_eq!(told["token_strs"].as_array().unwrap().len() as u64, told["count"].as_u64().unwrap());
    let chat =
        ask(&gate, "/chat/completions", json!({"model": "builtin", "messages": question, "max_tokens": 1})).await;
    assert_eq!(chat.json()["usage"]["prompt_tokens"], told["count"]);
    let alone = json!({"model": "builtin", "messages": question, "add_generation_prompt": false});
    let alone = tokens(&gate, alone).await;
    let beginning = &told["tokens"].as_array().unwrap()[..alone["count"].as_u64().unwrap() as usize];
    assert_eq!((beginning, alone["count"] == told["count"]), (alone["tokens"].as_array().unwrap().as_slice(), false));

    let plain = tokens(&gate, json!({"model": "builtin", "prompt": "What is a pool?"})).await;
    let completion = json!({"model": "builtin", "prompt": "What is a pool?", "max_tokens": 1});
    let completion = ask(&gate, "/completions", completion).await;
    assert_eq!(completion.json()["usage"]["prompt_tokens"], plain["count"]);
    let embedded = tokens(&gate, json!({"model": "builtin-embedding", "prompt": "What is a pool?"})).await;
    let vector = ask(&gate, "/embeddings", json!({"model": "builtin-embedding", "input": "What is a pool?"})).await;
    assert_eq!(vector.json()["usage"]["prompt_tokens"], embedded["count"]);

    let bare = json!({"model": "builtin-embedding", "prompt": "What is a pool?", "add_special_tokens": false});
    let bare = tokens(&gate, bare).await;
    let (bare, embedded) = (bare["tokens"].as_array().unwrap(), embedded["tokens"].as_array().unwrap());
    assert_eq!((bare.as_slice(), bare.len() + 1), (&embedded[..bare.len()], embedded.len()));

    let unknown = ask(&gate, "/detokenize", json!({"model": "builtin", "tokens": [1, 4_000_000_000_u32]})).await;
    let error = &unknown.json()["error"];
    assert_eq!((unknown.status, &error["param"]), (StatusCode::BAD_REQUEST, &json!("tokens[1]")), "{}", unknown.body);
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn what_belongs_to_a_conversation_has_no_effect_on_a_text_and_is_named() {
    let gate = Gate::scripted(says(&["hi"])).await;
    let function = json!({"type": "function", "function": {"name": "f"}});
    let all = json!({"model": "builtin", "prompt": "hi", "tools": [function], "add_generation_prompt": false,
        "chat_template_kwargs": {"a": 1}, "continue_final_message": true});
    let answer = ask(&gate, "/tokenize", all).await;
    assert_eq!(
        answer.header("x-sluicegate-ignored"),
        "tools, add_generation_prompt, chat_template_kwargs, continue_final_message"
    );
    gate.finish().await;
}

#[tokio::test]
async fn a_prompt_of_token_ids_is_echoed_as_its_text() {
    let gate = Gate::configured(&[]).await;
    let text = "What is a pool?";
    let ids = tokens(&gate, json!({"model": "builtin", "prompt": text, "add_special_tokens": false})).await;
    for prompt in [ids["tokens"].clone(), json!([ids["tokens"], ids["tokens"]])] {
        let body = json!({"model": "builtin", "prompt": prompt, "echo": true, "max_tokens": 3, "seed": 1});
        let whole = ask(&gate, "/v1/completions", body.clone()).await;
        for choice in whole.json()["choices"].as_array().unwrap() {
            assert!(choice["text"].as_str().unwrap().starts_with(text), "{}", whole.body);
        }
        let mut streamed = body;
        streamed["stream"] = true.into();
        let streamed = ask(&gate, "/v1/completions", streamed).await;
        assert!(streamed.body.contains(&format!(r#""text":"{text}"#)), "{}", streamed.body);
    }
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_told_is_refused_by_its_field() {
    let gate = Gate::scripted(says(&["hi"])).await;
    let question = json!([{"role": "user", "content": "hi"}]);
    let cases = [
        ("/tokenize", json!({"model": "builtin"}), "prompt", "missing_required_parameter"),
        ("/tokenize", json!({"prompt": "hi"}), "model", "missing_required_parameter"),
        ("/tokenize", json!({"model": "builtin", "prompt": ""}), "prompt", "invalid_value"),
        (
            "/tokenize",
            json!({"model": "builtin", "prompt": "a", "messages": question}),
            "messages",
            "invalid_parameter_combination",
        ),
        (
            "/tokenize",
            json!({"model": "builtin", "messages": question, "add_special_tokens": true}),
            "add_special_tokens",
            "unsupported_value",
        ),
        (
            "/tokenize",
            json!({"model": "builtin", "messages": question, "continue_final_message": true, "add_generation_prompt": true}),
            "continue_final_message",
            "invalid_parameter_combination",
        ),
        (
            "/tokenize",
            json!({"model": "builtin", "messages": question, "chat_template": "{{ 1 }}"}),
            "chat_template",
            "unsupported_parameter",
        ),
        (
            "/tokenize",
            json!({"model": "builtin", "messages": [{"role": "user"}]}),
            "messages[0].content",
            "missing_required_parameter",
        ),
        ("/detokenize", json!({"model": "builtin"}), "tokens", "missing_required_parameter"),
        ("/detokenize", json!({"model": "builtin", "tokens": [-1]}), "tokens[0]", "invalid_value"),
        ("/detokenize", json!({"model": "builtin", "tokens": vec![1; 131_073]}), "tokens", "invalid_value"),
        // The scripted engine has no vocabulary.
        ("/detokenize", json!({"model": "builtin", "tokens": [1]}), "model", "unsupported_value"),
    ];
    for (path, body, param, code) in cases {
        let answer = ask(&gate, path, body.clone()).await;
        let error = &answer.json()["error"];
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{path} {body}: {}", answer.body);
        assert_eq!((&error["param"], &error["code"]), (&json!(param), &json!(code)), "{path}: {}", answer.body);
    }
    let unknown = ask(&gate, "/tokenize", json!({"model": "gpt-9", "prompt": "hi"})).await;
    assert_eq!((unknown.status, &unknown.json()["error"]["code"]), (StatusCode::NOT_FOUND, &json!("model_not_found")));
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn every_path_may_leave_its_prefix_out_and_is_answered_in_the_same_words() {
    let gate = Gate::scripted(says(&["hi"])).await;
    let body = r#"{"model": "builtin", "messages": [{"role": "user", "content": "a"}]}"#;
    let short = gate.post("/chat/completions", body).await;
    assert_eq!((short.status, short.header("openai-version")), (StatusCode::OK, "2020-10-01"), "{}", short.body);
    for path in ["/models", "/models/builtin", "/models?x=1"] {
        let (short, whole) = (gate.get(path).await, gate.get(&format!("/v1{path}")).await);
        assert_eq!((short.status, &short.body), (StatusCode::OK, &whole.body), "{path}");
    }
    for path in ["/embeddings", "/rerank", "/completions"] {
        assert!(gate.post(path, "{}").await.body.starts_with(r#"{"error":{"#), "{path}");
    }
    let wrong = gate.get("/chat/completions").await;
    assert_eq!((wrong.status, wrong.header("allow")), (StatusCode::METHOD_NOT_ALLOWED, "POST"));
    assert!(gate.get("/chatter").await.body.contains(r#""code":"NOT_FOUND""#), "that is none of them");
    gate.finish().await;
}
