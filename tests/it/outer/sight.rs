//! Images before the started gateway: a model that sees in its own process, and behind a second one.

use serde_json::{Value, json};
use tempfile::TempDir;

use super::running::Running;
use crate::engine::sight::{image_of, seeing_model};

fn chat(parts: &[Value]) -> Value {
    let content = [&[json!({"type": "text", "text": "What is this?"})], parts].concat();
    let messages = json!([{"role": "user", "content": content}]);
    json!({"model": "sees", "temperature": 0, "max_tokens": 4, "logprobs": true, "messages": messages})
}

fn image(colour: [u8; 3]) -> Value {
    json!({"type": "image_url", "image_url": {"url": image_of(colour, 30, 50)}})
}

async fn answer(gateway: &Running, body: &Value) -> Value {
    let answer = gateway.post("/v1/chat/completions", body).await;
    assert_eq!(answer.status(), 200, "{}", answer.text().await.unwrap());
    answer.json().await.unwrap()
}

#[tokio::test]
async fn an_image_is_seen_by_the_model_in_the_process_and_through_another_gateway() {
    let folder = TempDir::new().unwrap();
    seeing_model(folder.path());
    let path = folder.path().display();
    let models = format!(r#"[{{ id = "sees", source = "file:{path}" }}]"#);
    let roots = format!(r#"["{path}"]"#);
    let catalog = [("CATALOG__MODELS", models.as_str()), ("CATALOG__ALLOWED_FILE_ROOTS", roots.as_str())];
    let pools = ("POOLS", r#"[{ id = "default", model = "sees", slots = 2 }]"#);
    let inner = Running::real(&[&catalog[..], &[pools]].concat());
    let shown: Value = inner.get_json("/v1/models/sees").await;
    assert_eq!(shown["sluicegate"]["modalities"], json!(["text", "image"]));

    let red = answer(&inner, &chat(&[image([250, 0, 0])])).await;
    let blue = answer(&inner, &chat(&[image([0, 0, 250])])).await;
    assert_ne!(red["choices"][0]["logprobs"], blue["choices"][0]["logprobs"]);
    let again = answer(&inner, &chat(&[image([250, 0, 0])])).await;
    assert_eq!(red["choices"], again["choices"]);
    let without = answer(&inner, &chat(&[])).await;
    let tokens = |answer: &Value| answer["usage"]["prompt_tokens"].as_u64().unwrap();
    assert!(tokens(&red) >= tokens(&without) + 6, "the image, and what is around it");

    let server = format!(
        r#"{{ base_url = "{}", model = "sees", modalities = ["text", "image"], media_tokens = 12 }}"#,
        inner.url("/v1")
    );
    let remote = format!(r#"[{{ id = "default", model = "sees", engine = "remote", remote = {server} }}]"#);
    let outer = Running::real(&[&catalog[..], &[("POOLS", remote.as_str())]].concat());
    let through = answer(&outer, &chat(&[image([250, 0, 0])])).await;
    assert_eq!(through["choices"][0]["message"], red["choices"][0]["message"]);
    assert!(tokens(&through) >= tokens(&red), "a bound of what the server counts");
}
