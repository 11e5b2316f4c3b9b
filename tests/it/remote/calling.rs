//! Calls of tools, reasoning, refusals and log-probabilities of a server elsewhere, in each form that servers have for them.

use insta::assert_snapshot;
use serde_json::Value;

use super::*;

/// What the server streams for a deed; nothing for those that are not told in chunks of a chat.
pub fn answer(request: &str, deed: &str) -> Option<String> {
    if !request.starts_with("POST /v1/chat/completions ") {
        return None;
    }
    let choices = choices(deed)?;
    let chunk = |mut choice: Value| {
        choice.as_object_mut().unwrap().entry("index").or_insert(0.into());
        format!("data: {}\n\n", json!({"object": "chat.completion.chunk", "choices": [choice]}))
    };
    Some(format!("{HEAD}{}{USAGE}", choices.into_iter().map(chunk).collect::<String>()))
}

/// The choices of the chunks. Most call for the weather in Berlin and for the time.
fn choices(deed: &str) -> Option<Vec<Value>> {
    let (weather, now) = (r#"{"city": "Berlin"}"#, "{}");
    let part = |index: u32, id: Option<&str>, name: Option<&str>, arguments: &str| json!({"index": index, "id": id, "type": "function", "function": {"name": name, "arguments": arguments}});
    let calls = |calls: &[Value]| json!({"delta": {"tool_calls": calls}});
    let ends = |reason: &str| json!({"delta": {}, "finish_reason": reason});
    let whole = [part(0, Some("a"), Some("weather"), weather), part(1, Some("b"), Some("now"), now)];
    Some(match deed {
        "call in pieces" => {
            let mut parts = vec![json!({"delta": {"role": "assistant", "content": null}})];
            parts.push(calls(&[part(0, Some("a"), Some("weather"), "")]));
            parts.extend(weather.split_inclusive(['{', 'B', ' ']).map(|cut| calls(&[part(0, None, None, cut)])));
            parts.extend([calls(&[part(1, Some("b"), Some("now"), "")]), calls(&[part(1, None, None, now)])]);
            parts.push(ends("tool_calls"));
            parts
        }
        "call at once" => vec![calls(&whole), ends("tool_calls")],
        "call and stop" => vec![calls(&whole), ends("stop")],
        "call without numbers" => {
            let bare = whole.map(|mut call| {
                call.as_object_mut().unwrap().retain(|name, _| name == "function");
                calls(&[call])
            });
            bare.into_iter().chain([ends("tool_calls")]).collect()
        }
        "call once and again" => {
            let once = |cut: &str| calls(&[part(3, Some("a"), Some("weather"), cut)]);
            vec![
                once("{\"city\": "),
                once("\"Berlin\"}"),
                calls(&[part(u32::MAX, Some("b"), Some("now"), now)]),
                ends("stop"),
            ]
        }
        "call as of old" => vec![
            json!({"delta": {"function_call": {"name": "weather", "arguments": ""}}}),
            json!({"delta": {"function_call": {"arguments": weather}}}),
            ends("function_call"),
        ],
        "think, talk and call" => vec![
            json!({"delta": {"reasoning": "hm", "reasoning_content": "hm"}}),
            json!({"delta": {"content": "Wait.", "tool_calls": whole}}),
            ends("tool_calls"),
        ],
        "say that it calls" => vec![json!({"delta": {"content": "well"}}), ends("tool_calls")],
        "refuse" => vec![json!({"delta": {"refusal": "I will "}}), json!({"delta": {"refusal": "not."}}), ends("stop")],
        "say more than one answer" => vec![
            json!({"index": 1, "delta": {"content": "geheim"}}),
            json!({"delta": {"content": "well"}}),
            json!({"index": 1, "delta": {}, "finish_reason": "length"}),
            ends("stop"),
        ],
        "call a number" => vec![calls(&[json!({"index": 0, "id": "a", "function": {"name": 7}})])],
        "tell all logprobs" => {
            let token = |text: &str, logprob: Value| {
                json!({"token": text, "logprob": logprob, "bytes": text.as_bytes(),
                "top_logprobs": [{"token": text, "logprob": logprob}, {"token": "?", "logprob": null}]})
            };
            let told = |delta: Value, tokens: &[Value]| json!({"delta": delta, "logprobs": {"content": tokens}});
            let mut end = told(json!({"content": ""}), &[token("</s>", json!(-0.1))]);
            end["finish_reason"] = "tool_calls".into();
            vec![
                told(
                    json!({"reasoning_content": "hm", "content": "all "}),
                    &[token("hm", json!(-1)), token("all ", json!(-2))],
                ),
                told(json!({"content": "is well"}), &[token("is ", json!(-3)), token("well", Value::Null)]),
                told(json!({"tool_calls": [whole[0]]}), &[token("{", json!(-4))]),
                end,
            ]
        }
        _ => return None,
    })
}

fn tool(name: &str) -> Value {
    json!({"type": "function", "function": {"name": name, "parameters": {"type": "object"}, "strict": true}})
}

fn chat(deed: &str, change: Value) -> String {
    let mut body = json!({"model": "builtin", "max_tokens": 16, "tools": [tool("weather"), tool("now")],
        "messages": [{"role": "user", "content": format!("misbehave: {deed}")}]});
    body.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
    body.to_string()
}

/// The choice of a whole answer.
async fn choice(gate: &Gate, deed: &str, change: Value) -> Value {
    let answer = gate.post("/v1/chat/completions", &chat(deed, change)).await;
    assert_eq!(answer.status.as_u16(), 200, "{deed}: {}", answer.body);
    answer.json()["choices"][0].clone()
}

/// Names and arguments of its calls, and their ids.
fn calls(choice: &Value) -> (Vec<String>, Vec<String>) {
    let calls = choice["message"]["tool_calls"].as_array().into_iter().flatten();
    let said = |call: &Value| {
        format!("{}{}", call["function"]["name"], call["function"]["arguments"]).replace(['"', '\\'], "")
    };
    calls.map(|call| (said(call), call["id"].as_str().unwrap().to_owned())).unzip()
}

#[tokio::test]
async fn calls_are_the_same_in_whatever_form_the_server_has_them() {
    let gate = gate().await;
    for deed in ["call in pieces", "call at once", "call and stop", "call without numbers", "call once and again"] {
        let choice = choice(&gate, deed, json!({})).await;
        let (said, ids) = calls(&choice);
        assert_eq!(said, ["weather{city: Berlin}", "now{}"], "{deed}: {choice}");
        assert_eq!((&choice["finish_reason"], &choice["message"]["content"]), (&json!("tool_calls"), &Value::Null));
        match deed {
            "call without numbers" => {
                assert!(ids[0] != ids[1] && ids.iter().all(|id| id.starts_with("call_")), "{ids:?}")
            }
            _ => assert_eq!(ids, ["a", "b"], "{deed}"),
        }
    }
    let choice = choice(&gate, "call as of old", json!({})).await;
    assert_eq!(calls(&choice).0, ["weather{city: Berlin}"], "{choice}");
    let body = chat(
        "call in pieces",
        json!({"tools": null, "functions": [tool("weather")["function"], tool("now")["function"]]}),
    );
    let answer = gate.post("/v1/chat/completions", &body).await.json();
    let called = json!({"name": "weather", "arguments": r#"{"city": "Berlin"}"#});
    assert_eq!(answer["choices"][0]["message"]["function_call"], called, "{answer}");
    gate.finish().await;
}

#[tokio::test]
async fn calls_are_streamed_with_their_id_and_name_once() {
    let gate = gate().await;
    let body = gate.post("/v1/chat/completions", &chat("call once and again", json!({"stream": true}))).await.body;
    let said = |line: &str| line.split_once("\"choices\":[").map(|(_, said)| said.to_owned() + "\n");
    assert_snapshot!(body.lines().filter_map(said).collect::<String>(), @r#"
    {"index":0,"delta":{"role":"assistant","content":null,"refusal":null},"logprobs":null,"finish_reason":null}]}
    {"index":0,"delta":{"tool_calls":[{"index":0,"id":"a","type":"function","function":{"name":"weather","arguments":"{\"city\": "}}]},"logprobs":null,"finish_reason":null}]}
    {"index":0,"delta":{"tool_calls":[{"index":0,"function":{"arguments":"\"Berlin\"}"}}]},"logprobs":null,"finish_reason":null}]}
    {"index":0,"delta":{"tool_calls":[{"index":1,"id":"b","type":"function","function":{"name":"now","arguments":"{}"}}]},"logprobs":null,"finish_reason":null}]}
    {"index":0,"delta":{},"logprobs":null,"finish_reason":"tool_calls"}]}
    "#);
    gate.finish().await;
}

#[tokio::test]
async fn reasoning_text_and_calls_come_in_one_chunk_and_a_refusal_is_what_it_says() {
    let gate = gate().await;
    let all = choice(&gate, "think, talk and call", json!({})).await;
    assert_eq!((&all["message"]["reasoning_content"], &all["message"]["content"]), (&json!("hm"), &json!("Wait.")));
    assert_eq!(calls(&all).0.len(), 2, "{all}");
    let refusal = choice(&gate, "refuse", json!({})).await;
    assert_eq!((&refusal["message"]["content"], &refusal["finish_reason"]), (&json!("I will not."), &json!("stop")));
    for deed in ["say that it calls", "say more than one answer"] {
        let none = choice(&gate, deed, json!({})).await;
        assert_eq!((&none["message"]["content"], &none["finish_reason"]), (&json!("well"), &json!("stop")), "{deed}");
    }
    gate.finish().await;
}

#[tokio::test]
async fn only_what_may_be_called_is_and_no_more_than_may_be() {
    let gate = gate().await;
    let single = choice(&gate, "call at once", json!({"parallel_tool_calls": false})).await;
    assert_eq!((calls(&single).0.len(), &single["finish_reason"]), (1, &json!("tool_calls")), "{single}");
    for change in [json!({"tool_choice": "none"}), json!({"tools": null})] {
        let unasked = choice(&gate, "think, talk and call", change).await;
        assert_eq!((calls(&unasked).0.len(), &unasked["finish_reason"]), (0, &json!("stop")), "{unasked}");
    }
    let id = gate.submit(&chat("call a number", json!({})).replace("\"model\"", "\"model_ref\"")).await;
    assert!(gate.events(&id).await.contains("WORKER_RESET"));
    gate.recovered().await;
    let error = gate.get("/v2/pools").await.json()["pools"][0]["last_error"].clone();
    assert_eq!(error, Value::Null);
    gate.finish().await;
}

#[tokio::test]
async fn each_choice_has_its_own_calls() {
    let server = Arc::default();
    let gate = before(&server).await;
    let answer = gate.post("/v1/chat/completions", &chat("call without numbers", json!({"n": 2}))).await.json();
    let choices = answer["choices"].as_array().unwrap();
    let ids: std::collections::BTreeSet<_> = choices.iter().flat_map(|choice| calls(choice).1).collect();
    assert_eq!((choices.len(), ids.len(), server.times("call without numbers")), (2, 4, 2), "{answer}");
    gate.finish().await;
}

#[tokio::test]
async fn log_probabilities_stay_with_the_tokens_that_they_are_of() {
    let gate = gate().await;
    let wish = json!({"logprobs": true, "top_logprobs": 2});
    let whole = choice(&gate, "tell all logprobs", wish.clone()).await;
    let told = whole["logprobs"]["content"].as_array().unwrap().iter();
    let told: Vec<_> = told
        .map(|token| (token["token"].clone(), token["logprob"].clone(), token["top_logprobs"][1]["logprob"].clone()))
        .collect();
    let is = |text: &str, logprob: f64| (json!(text), json!(logprob), json!(-9999.0));
    assert_eq!(told, [is("all ", -2.0), is("is ", -3.0), is("well", -9999.0)], "{whole}");
    let id = gate.submit(&chat("tell all logprobs", wish).replace("\"model\"", "\"model_ref\"")).await;
    let events = gate.events(&id).await;
    let tokens: Vec<Value> = events
        .lines()
        .filter_map(|line| {
            serde_json::from_str(line.strip_prefix("data: {\"t\"")?.replacen(':', "{\"t\":", 1).as_str()).ok()
        })
        .collect();
    let told: Vec<_> = tokens.iter().map(|token| (token["kind"].as_str(), token["logprob"].clone())).collect();
    let of = |kind, logprob: f64| (kind, json!(logprob));
    assert_eq!(
        told,
        [of(Some("reasoning"), -1.0), of(None, -2.0), of(None, -3.0), of(None, -9999.0), of(Some("tool"), -4.0)],
        "{events}"
    );
    gate.finish().await;
}

#[tokio::test]
async fn a_server_gets_tools_and_earlier_calls_as_the_client_has_them() {
    let server = Arc::default();
    let gate = before(&server).await;
    let call = json!({"id": "a", "type": "function", "function": {"name": "now", "arguments": "{}"}});
    let messages = json!([
        {"role": "user", "content": "misbehave: not at all"},
        {"role": "assistant", "content": null, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "a", "content": "noon"},
    ]);
    let schema = json!({"type": "object", "properties": {"x": {"type": "integer"}}});
    let changes = [
        json!({}),
        json!({"tool_choice": "required", "parallel_tool_calls": false}),
        json!({"tool_choice": {"type": "function", "function": {"name": "now"}}, "messages": messages}),
        json!({"tools": null, "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}}),
        json!({"tool_choice": "none", "response_format": {"type": "json_object"}}),
    ];
    for change in &changes {
        let answer = gate.post("/v1/chat/completions", &chat("not at all", change.clone())).await;
        assert_eq!(answer.status.as_u16(), 200, "{}", answer.body);
    }
    let requests = server.requests.lock().unwrap().clone();
    let requests = requests.iter().filter(|request| request.contains("misbehave"));
    let bodies: Vec<Value> =
        requests.map(|request| serde_json::from_str(request.split_once("\r\n\r\n").unwrap().1).unwrap()).collect();
    let tools = json!([tool("weather"), tool("now")]);
    let of = |body: usize, field: &str| bodies[body].get(field).cloned();
    assert_eq!((of(0, "tools"), of(0, "tool_choice"), of(0, "parallel_tool_calls")), (Some(tools.clone()), None, None));
    assert_eq!((of(1, "tool_choice"), of(1, "parallel_tool_calls")), (Some(json!("required")), Some(json!(false))));
    assert_eq!((of(2, "tool_choice"), of(2, "messages")), (Some(changes[2]["tool_choice"].clone()), Some(messages)));
    let format = json!({"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": true}});
    assert_eq!((of(3, "tools"), of(3, "response_format")), (None, Some(format)));
    assert_eq!(
        (of(4, "tools"), of(4, "tool_choice"), of(4, "response_format")),
        (None, None, Some(json!({"type": "json_object"})))
    );
    gate.finish().await;
}
