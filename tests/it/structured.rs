//! Answers that are held to a schema, by the built-in model, and schemas that no answer can be held to.

use axum::http::StatusCode;
use insta::assert_snapshot;
use serde_json::{Value, json};

use crate::harness::{Gate, says};

fn chat(schema: &Value) -> String {
    let format = json!({"type": "json_schema", "json_schema": {"name": "a", "strict": true, "schema": schema}});
    let messages = json!([{"role": "user", "content": "say it"}]);
    json!({"model": "builtin", "messages": messages, "response_format": format, "max_tokens": 200}).to_string()
}

/// Schemas with something in them that is refused before any engine sees it.
fn refused() -> Vec<Value> {
    let either = json!({"anyOf": [{"required": ["a"]}, {"required": ["b"]}]});
    vec![
        json!({"type": "object", "properties": {"x": {"type": "object", "not": {"required": ["a"]}}}}),
        json!({"type": "object", "properties": {"list": {"items": {"type": "text"}}}}),
        json!({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}}),
        json!({"$ref": "https://example.com/schema.json"}),
        json!({"allOf": vec![either; 40]}),
        json!({"properties": {"x": {"type": "string", "pattern": "a".repeat(1000)}}}),
    ]
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_held_is_refused_with_its_place() {
    let gate = Gate::scripted(says(&["{}"])).await;
    let mut lines = String::new();
    for schema in refused() {
        let answer = gate.post("/v1/chat/completions", &chat(&schema)).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{}", answer.body);
        let error = &answer.json()["error"];
        lines += &format!("{} | {}\n", error["param"].as_str().unwrap(), error["message"].as_str().unwrap());
    }
    assert_snapshot!(lines, @r##"
    response_format.json_schema.schema.properties.x.not | `response_format.json_schema.schema.properties.x.not`: an answer cannot be held to this keyword
    response_format.json_schema.schema.properties.list.items.type | `response_format.json_schema.schema.properties.list.items.type`: a type is null, boolean, object, array, number, string or integer
    response_format.json_schema.schema.$defs.a.$ref | `response_format.json_schema.schema.$defs.a.$ref`: this reference leads back to itself
    response_format.json_schema.schema.$ref | `response_format.json_schema.schema.$ref`: a reference leads to a place in the same schema, as in "#/$defs/name"
    response_format.json_schema.schema | `response_format.json_schema.schema`: the combinations in it are too many
    response_format.json_schema.schema.properties.x.pattern | `response_format.json_schema.schema.properties.x.pattern`: a pattern has at most 512 bytes
    "##);
    let native = json!({"model_ref": "builtin", "prompt": "a", "output_mode": "json", "json_schema": refused()[0]});
    let error = gate.post("/v2/tasks", &native.to_string()).await.json();
    assert_eq!(error["param"], "json_schema.properties.x.not");
    let strict = json!({"model_ref": "builtin", "messages": [{"role": "user", "content": "a"}],
        "tools": [{"type": "function", "function": {"name": "f", "strict": true, "parameters": refused()[0]}}]});
    let error = gate.post("/v2/tasks", &strict.to_string()).await.json();
    assert_eq!(error["param"], "tools[0].function.parameters.properties.x.not");
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn an_object_that_no_engine_could_follow_is_refused_at_its_place_in_each_dialect() {
    let gate = Gate::scripted(says(&["{}"])).await;
    let properties: serde_json::Map<_, _> = (0..600).map(|n| (format!("p{n}"), json!({"type": "string"}))).collect();
    let wide = json!({"type": "object", "properties": {"x": {"type": "object", "properties": properties}}});
    let messages = json!([{"role": "user", "content": "say it"}]);
    let format = json!({"type": "json_schema", "name": "a", "schema": wide});
    let function = json!({"name": "f", "strict": true, "parameters": wide});
    let tool = json!({"type": "function", "name": "f", "strict": true, "parameters": wide});
    let cases = [
        (
            "/v1/chat/completions",
            json!({"messages": messages, "stream": true, "response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": wide}}}),
        ),
        ("/v1/chat/completions", json!({"messages": messages, "tools": [{"type": "function", "function": function}]})),
        ("/v1/responses", json!({"input": "a", "background": true, "text": {"format": format}})),
        ("/v1/responses", json!({"input": "a", "tools": [tool]})),
        (
            "/v1/messages",
            json!({"messages": messages, "max_tokens": 9, "output_config": {"format": {"type": "json_schema", "schema": wide}}}),
        ),
        ("/v2/tasks", json!({"model_ref": "builtin", "prompt": "a", "output_mode": "json", "json_schema": wide})),
    ];
    let mut lines = String::new();
    for (path, mut body) in cases {
        if path != "/v2/tasks" {
            body["model"] = json!("builtin");
        }
        let answer = gate.post(path, &body.to_string()).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{path}: {}", answer.body);
        let said = answer.json();
        let message = said["error"]["message"].as_str().or(said["message"].as_str()).unwrap_or_default().to_owned();
        lines += &format!("{path}: {message}\n");
    }
    assert_snapshot!(lines, @"
    /v1/chat/completions: `response_format.json_schema.schema.properties.x.properties`: at most 448 properties in a row are not required
    /v1/chat/completions: `tools[0].function.parameters.properties.x.properties`: at most 448 properties in a row are not required
    /v1/responses: `text.format.schema.properties.x.properties`: at most 448 properties in a row are not required
    /v1/responses: `tools[0].parameters.properties.x.properties`: at most 448 properties in a row are not required
    /v1/messages: `output_config.format.schema.properties.x.properties`: at most 448 properties in a row are not required
    /v2/tasks: `json_schema.properties.x.properties`: at most 448 properties in a row are not required
    ");
    assert_eq!(gate.get("/v2/tasks").await.json()["tasks"], json!([]));
    gate.finish().await;
}
