//! Images and recordings on their way to a server elsewhere.

use insta::assert_snapshot;

use super::*;

const PIXEL: &str = "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==";

#[tokio::test]
async fn what_is_shown_is_handed_on_as_it_came_and_counts_as_configured() {
    let server = Arc::<Server>::default();
    let remote = format!(
        r#"{{ base_url = "http://{}/v1", model = "m", modalities = ["text", "image", "audio"], media_tokens = 500 }}"#,
        server.start().await
    );
    let pools = format!(r#"[{{ id = "default", engine = "remote", slots = 4, remote = {remote} }}]"#);
    let gate = Gate::configured(&[("SLUICEGATE_POOLS", &pools)]).await;
    let parts = json!([
        {"type": "text", "text": "what is this"},
        {"type": "image_url", "image_url": {"url": PIXEL, "detail": "high"}},
        {"type": "input_audio", "input_audio": {"data": "UklGRiQAAABXQVZFZm10IBAAAAA=", "format": "wav"}},
    ]);
    let messages = json!([{"role": "user", "content": parts}]);
    let id = gate.submit(&json!({"model_ref": "builtin", "messages": messages, "max_tokens": 5}).to_string()).await;
    let events = gate.events(&id).await;
    assert!(events.contains(r#""finish_reason":"stop""#), "{events}");
    let sent = server.requests.lock().unwrap().iter().find(|request| request.contains("what is this")).cloned();
    let sent = sent.expect("it was sent");
    let body: serde_json::Value = serde_json::from_str(sent.split_once("\r\n\r\n").unwrap().1).unwrap();
    assert_eq!(body["messages"][0]["content"], parts);

    let many = vec![parts[1].clone(); 16];
    let body = json!({"model_ref": "builtin", "messages": [{"role": "user", "content": many}], "ctx": 7000});
    let refused = gate.post("/v2/tasks", &body.to_string()).await.json();
    assert_snapshot!(refused["message"].as_str().unwrap(), @"the model's context is 7000 tokens; the prompt has 8032 and 1 are asked for as output");
    gate.finish().await;
}
