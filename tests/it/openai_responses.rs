//! `/v1/responses` as OpenAI's clients see it, over the scripted engine.

use axum::body::Body;
use axum::http::StatusCode;
use insta::assert_snapshot;
use serde_json::{Value, json};
use sluicegate::engine::scripted::{Failure, FailureKind, Script};
use tempfile::TempDir;

use crate::harness::{Answer, Gate, masked, read, read_until, request, says};

const PATH: &str = "/v1/responses";

fn ask(change: &Value) -> String {
    let mut body = json!({"model": "builtin", "input": "say it"});
    body.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
    body.to_string()
}

/// An answer with reasoning, text and two calls.
fn eloquent() -> Script {
    says(&[
        "<think>\n",
        "Hm",
        "\n</think>",
        "\n\n",
        "Wait.",
        "<tool_call>{\"name\": \"weather\", \"arguments\": {\"city\": ",
        "\"Rome\"}}</tool_call>",
        "\n",
        "<tool_call>{\"name\": \"weather\"}</tool_call>",
    ])
}

fn weather() -> Value {
    json!([{"type": "function", "name": "weather", "description": "Tells it", "parameters": {"type": "object"}}])
}

fn endless() -> Script {
    Script { tokens: vec!["word ".into()], repeat: true, ..Script::default() }
}

/// The data of each event, which all have the name that their data has.
fn events(stream: &str) -> Vec<Value> {
    let event = |event: &str| {
        let (name, data) = event.strip_prefix("event: ").unwrap().split_once("\ndata: ").unwrap();
        let data: Value = serde_json::from_str(data).unwrap();
        assert_eq!(data["type"], name);
        data
    };
    stream.split_terminator("\n\n").map(event).collect()
}

/// The types of the events, those that follow each other once.
fn outline(events: &[Value]) -> Vec<&str> {
    let mut types: Vec<_> = events.iter().map(|event| event["type"].as_str().unwrap()).collect();
    types.dedup();
    types
}

async fn asked(gate: &Gate, change: &Value) -> Answer {
    let answer = gate.post(PATH, &ask(change)).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.body);
    answer
}

async fn stored(gate: &Gate, id: &str) -> Value {
    gate.get(&format!("{PATH}/{id}")).await.json()
}

#[tokio::test(start_paused = true)]
async fn a_whole_response_is_stored() {
    let gate = Gate::scripted(says(&["one ", "two"])).await;
    let answer = asked(&gate, &json!({"instructions": "Be brief.", "metadata": {"a": "b"}, "why": 1})).await;
    let mut body = answer.json();
    let id = body["id"].as_str().unwrap().to_owned();
    assert_eq!(id, format!("resp_{}", answer.header("x-task-id")));
    assert_eq!((answer.header("x-queue-wait-ms"), answer.header("x-sluicegate-ignored")), ("0", "why"));
    assert_eq!(stored(&gate, &id).await, body);
    // As do all of these paths.
    assert_eq!(gate.get(&format!("/responses/{id}")).await.json(), body);
    assert_eq!(gate.get(&format!("/v2/tasks/{id}")).await.json()["output"], "one two");
    for field in ["created_at", "completed_at"] {
        assert!(body[field].take().is_u64(), "{field}");
    }
    let simple = answer.header("x-task-id").replace('-', "");
    assert_snapshot!(masked(&body.to_string().replace(&simple, "<simple>")), @r#"{"id":"resp_<uuid>","object":"response","created_at":null,"completed_at":null,"status":"completed","error":null,"incomplete_details":null,"output":[{"type":"message","id":"msg_<simple>o0","role":"assistant","status":"completed","content":[{"type":"output_text","text":"one two","annotations":[],"logprobs":[]}]}],"usage":{"input_tokens":4,"input_tokens_details":{"cached_tokens":0,"cache_write_tokens":0},"output_tokens":3,"output_tokens_details":{"reasoning_tokens":0},"total_tokens":7},"background":false,"instructions":"Be brief.","max_output_tokens":null,"max_tool_calls":null,"metadata":{"a":"b"},"model":"builtin","parallel_tool_calls":true,"previous_response_id":null,"prompt_cache_key":null,"reasoning":{"effort":null,"summary":null},"safety_identifier":null,"service_tier":"default","store":true,"temperature":null,"text":{"format":{"type":"text"},"verbosity":"medium"},"tool_choice":"auto","tools":[],"top_logprobs":0,"top_p":null,"truncation":"disabled","user":null}"#);

    let deleted = gate.send(request("DELETE", &format!("{PATH}/{id}"), Body::empty())).await;
    assert_eq!(read(deleted).await.json(), json!({"id": id, "object": "response", "deleted": true}));
    assert_eq!(gate.get(&format!("{PATH}/{id}")).await.status, StatusCode::NOT_FOUND);
    assert_eq!(gate.get(&format!("/v2/tasks/{id}")).await.status, StatusCode::NOT_FOUND);
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn a_stream_says_what_the_whole_response_says() {
    let gate = Gate::scripted(eloquent()).await;
    let tools = weather();
    let events = events(&asked(&gate, &json!({"stream": true, "tools": tools})).await.body);
    assert_eq!(
        outline(&events),
        [
            "response.created",
            "response.in_progress",
            "response.output_item.added",
            "response.content_part.added",
            "response.reasoning_text.delta",
            "response.reasoning_text.done",
            "response.content_part.done",
            "response.output_item.done",
            "response.output_item.added",
            "response.content_part.added",
            "response.output_text.delta",
            "response.output_text.done",
            "response.content_part.done",
            "response.output_item.done",
            "response.output_item.added",
            "response.function_call_arguments.delta",
            "response.function_call_arguments.done",
            "response.output_item.done",
            "response.output_item.added",
            "response.function_call_arguments.delta",
            "response.function_call_arguments.done",
            "response.output_item.done",
            "response.completed",
        ]
    );
    let numbers: Vec<_> = events.iter().map(|event| event["sequence_number"].as_u64().unwrap()).collect();
    assert_eq!(numbers, (0..u64::try_from(events.len()).unwrap()).collect::<Vec<_>>());
    let last = &events.last().unwrap()["response"];
    let output = last["output"].as_array().unwrap();
    let of = |kind: &str| output.iter().filter(|item| item["type"] == kind).collect::<Vec<_>>();
    assert_eq!(of("reasoning")[0]["content"], json!([{"type": "reasoning_text", "text": "Hm\n"}]));
    assert_eq!(of("message")[0]["content"][0]["text"], "Wait.");
    let calls = of("function_call");
    assert_eq!(
        (calls[0]["name"].as_str(), calls[0]["arguments"].as_str()),
        (Some("weather"), Some(r#"{"city": "Rome"}"#))
    );
    assert_ne!(calls[0]["call_id"], calls[1]["call_id"]);
    assert_eq!(stored(&gate, last["id"].as_str().unwrap()).await, *last);
    for event in &events {
        let (Some(place), Some(item)) = (event["output_index"].as_u64(), event["item_id"].as_str()) else { continue };
        assert_eq!(output[usize::try_from(place).unwrap()]["id"], item);
    }
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn a_conversation_goes_on_with_what_the_functions_gave() {
    let gate = Gate::scripted(eloquent()).await;
    let first = asked(&gate, &json!({"tools": weather()})).await.json();
    let calls: Vec<_> =
        first["output"].as_array().unwrap().iter().filter(|item| item["type"] == "function_call").collect();
    let gave = |call: &Value| json!({"type": "function_call_output", "call_id": call["call_id"], "output": "rain"});
    let results: Vec<_> = calls.iter().map(|call| gave(call)).collect();
    let body = json!({"previous_response_id": first["id"], "input": results, "tools": weather()});
    let second = asked(&gate, &body).await.json();
    assert_eq!(second["previous_response_id"], first["id"]);
    let path = format!("{PATH}/{}/input_items", second["id"].as_str().unwrap());
    let items = gate.get(&format!("{path}?order=asc")).await.json();
    let types: Vec<_> = items["data"].as_array().unwrap().iter().map(|item| item["type"].as_str().unwrap()).collect();
    assert_eq!(
        types,
        [
            "message",
            "reasoning",
            "message",
            "function_call",
            "function_call",
            "function_call_output",
            "function_call_output"
        ]
    );
    // Page by page, the newest first.
    let (mut behind, mut seen) = (String::new(), Vec::new());
    loop {
        let page = gate.get(&format!("{path}?limit=2{behind}")).await.json();
        let data = page["data"].as_array().unwrap();
        seen.extend(data.iter().map(|item| item["id"].clone()));
        assert_eq!(page["last_id"], data.last().unwrap()["id"]);
        if page["has_more"] == false {
            break;
        }
        behind = format!("&after={}", page["last_id"].as_str().unwrap());
    }
    let all: Vec<_> = items["data"].as_array().unwrap().iter().rev().map(|item| item["id"].clone()).collect();
    assert_eq!(seen, all);

    // The same by its items, some of them by their ids.
    let mut input: Vec<Value> = first["output"].as_array().unwrap().clone();
    input[1] = json!({"type": "item_reference", "id": input[1]["id"]});
    input.extend(results.iter().cloned());
    asked(&gate, &json!({"input": input, "tools": weather()})).await;

    // A call without its result, and the other way about.
    let half = json!({"previous_response_id": first["id"], "input": [results[0]], "tools": weather()});
    let refused = gate.post(PATH, &ask(&half)).await;
    assert_eq!((refused.status, refused.json()["error"]["param"].as_str()), (StatusCode::BAD_REQUEST, Some("input")));
    let refused = gate.post(PATH, &ask(&json!({"input": [results[0]]}))).await;
    assert_eq!(refused.status, StatusCode::BAD_REQUEST);
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn what_is_referred_to_has_to_be_stored() {
    let gate = Gate::scripted(says(&["one"])).await;
    let loose = asked(&gate, &json!({"store": false})).await.json();
    assert_eq!(gate.get(&format!("{PATH}/{}", loose["id"].as_str().unwrap())).await.status, StatusCode::NOT_FOUND);
    let refused = gate.post(PATH, &ask(&json!({"previous_response_id": loose["id"]}))).await;
    assert_eq!(refused.status, StatusCode::BAD_REQUEST);
    assert_eq!(refused.json()["error"]["code"], "previous_response_not_found");
    assert_eq!(refused.json()["error"]["param"], "previous_response_id");
    let reference = json!([{"type": "item_reference", "id": loose["output"][0]["id"]}]);
    let refused = gate.post(PATH, &ask(&json!({"input": reference}))).await;
    assert_eq!(
        (refused.status, refused.json()["error"]["param"].as_str()),
        (StatusCode::NOT_FOUND, Some("input[0].id"))
    );
    let refused = gate.post(PATH, &ask(&json!({"store": false, "background": true}))).await;
    assert_eq!(
        (refused.status, refused.json()["error"]["param"].as_str()),
        (StatusCode::BAD_REQUEST, Some("background"))
    );
    for id in ["resp_1", "x", "resp_0190c4d6-7f3c-7000-8000-000000000000"] {
        assert_eq!(gate.get(&format!("{PATH}/{id}")).await.status, StatusCode::NOT_FOUND);
    }
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn in_the_background_it_goes_on_by_itself_and_can_be_cancelled() {
    let gate = Gate::with(Script { slots: 1, ..endless() }, &[]).await;
    let first = asked(&gate, &json!({"background": true})).await.json();
    let second = asked(&gate, &json!({"background": true})).await.json();
    assert_eq!((&second["status"], &second["output"], &second["usage"]), (&json!("queued"), &json!([]), &json!(null)));
    let id = |response: &Value| response["id"].as_str().unwrap().to_owned();
    let stop = |response: &Value| format!("{PATH}/{}/cancel", id(response));
    gate.until(&format!("{PATH}/{}", id(&first)), |response| response["status"] == "in_progress").await;

    let stream = request("GET", &format!("{PATH}/{}?stream=true", id(&first)), Body::empty());
    let mut stream = gate.send(stream).await.into_body();
    let mut told = read_until(&mut stream, "response.output_text.delta").await;
    let cancelled = gate.post(&stop(&first), "").await;
    assert_eq!((cancelled.status, cancelled.json()["status"].as_str()), (StatusCode::OK, Some("cancelled")));
    told += &read(axum::response::Response::new(stream)).await.body;
    let told = events(&told);
    assert_eq!(outline(&told)[..3], ["response.created", "response.queued", "response.in_progress"]);
    assert_eq!(outline(&told)[outline(&told).len() - 2..], ["error", "response.failed"]);
    assert_eq!(
        (&told[0]["response"]["status"], told[told.len() - 2]["code"].as_str()),
        (&json!("queued"), Some("task_canceled"))
    );

    // Again is no mistake; one that is not in the background ends with its client only.
    assert_eq!(gate.post(&stop(&first), "").await.status, StatusCode::OK);
    gate.post(&stop(&second), "").await;
    let sync = asked(&gate, &json!({"max_output_tokens": 2})).await.json();
    assert_eq!(
        (sync["status"].as_str(), &sync["incomplete_details"]),
        (Some("incomplete"), &json!({"reason": "max_output_tokens"}))
    );
    assert_eq!(gate.post(&stop(&sync), "").await.status, StatusCode::BAD_REQUEST);
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn a_stream_is_taken_up_where_it_broke_off() {
    let gate = Gate::scripted(eloquent()).await;
    let whole = asked(&gate, &json!({"stream": true, "background": true, "tools": weather()})).await.body;
    let all = events(&whole);
    let id = all[0]["response"]["id"].as_str().unwrap();
    for after in 0..all.len() {
        let rest = gate.get(&format!("{PATH}/{id}?stream=true&starting_after={after}")).await;
        assert_eq!(rest.header("content-type"), "text/event-stream; charset=utf-8");
        assert_eq!(events(&rest.body), all[after + 1..]);
    }
    let told = gate.get(&format!("{PATH}/{id}?stream=true&include[]=a&include[]=b&include=c")).await;
    assert_eq!((told.body, told.headers["x-sluicegate-ignored"].to_str().unwrap()), (whole, "include"));
    let twice = "stream=true&starting_after=1&starting_after=2";
    for query in ["stream=1", "starting_after=1", "stream=true&starting_after=-1", "strem=true", twice] {
        assert_eq!(gate.get(&format!("{PATH}/{id}?{query}")).await.status, StatusCode::BAD_REQUEST, "{query}");
    }
    for after in [all.len().to_string(), u64::MAX.to_string()] {
        let beyond = gate.get(&format!("{PATH}/{id}?stream=true&starting_after={after}")).await;
        assert_eq!(
            (beyond.status, &beyond.json()["error"]["param"]),
            (StatusCode::BAD_REQUEST, &json!("starting_after"))
        );
    }
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn nobody_can_have_had_what_was_not_told_yet() {
    let gate = Gate::with(Script { slots: 1, ..endless() }, &[]).await;
    let first = asked(&gate, &json!({"background": true})).await.json();
    let waiting = asked(&gate, &json!({"background": true})).await.json();
    let path = |response: &Value, after: u64| {
        format!("{PATH}/{}?stream=true&starting_after={after}", response["id"].as_str().unwrap())
    };
    let refused = gate.get(&path(&waiting, 1_000_000)).await;
    assert_eq!(
        (refused.status, &refused.json()["error"]["param"]),
        (StatusCode::BAD_REQUEST, &json!("starting_after"))
    );
    gate.until(&format!("{PATH}/{}", first["id"].as_str().unwrap()), |response| response["output"] != json!([])).await;
    let mut stream = gate.send(request("GET", &path(&first, 2), Body::empty())).await.into_body();
    assert_eq!(
        events(read_until(&mut stream, "\n\n").await.split_inclusive("\n\n").next().unwrap())[0]["sequence_number"],
        3
    );
    drop(stream);
    for response in [first, waiting] {
        gate.post(&format!("{PATH}/{}/cancel", response["id"].as_str().unwrap()), "").await;
    }
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn a_client_that_hangs_up_cancels_what_is_not_in_the_background() {
    let gate = Gate::scripted(endless()).await;
    for (background, status) in [(false, "cancelled"), (true, "in_progress")] {
        let body = ask(&json!({"stream": true, "background": background}));
        let mut stream = gate.send(request("POST", PATH, body.into())).await.into_body();
        let told = read_until(&mut stream, "response.output_text.delta").await;
        let id = events(told.split_inclusive("\n\n").next().unwrap())[0]["response"]["id"].as_str().unwrap().to_owned();
        drop(stream);
        gate.until(&format!("{PATH}/{id}"), |response| response["status"] == status).await;
        let deleted = gate.send(request("DELETE", &format!("{PATH}/{id}"), Body::empty())).await;
        assert_eq!(deleted.status(), StatusCode::OK);
    }
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn a_failure_is_told_in_a_stream_and_in_what_is_stored() {
    let fails = Failure { after: 1, kind: FailureKind::Reset, times: 2 };
    let gate = Gate::scripted(Script { failure: Some(fails), ..says(&["one", "two"]) }).await;
    let told = events(&asked(&gate, &json!({"stream": true})).await.body);
    let (error, failed) = (&told[told.len() - 2], &told[told.len() - 1]);
    assert_eq!((error["type"].as_str(), error["code"].as_str()), (Some("error"), Some("engine_reset")));
    assert_eq!(
        (failed["type"].as_str(), failed["response"]["status"].as_str()),
        (Some("response.failed"), Some("failed"))
    );
    assert_eq!(failed["response"]["error"]["code"], "server_error");
    assert_eq!(stored(&gate, failed["response"]["id"].as_str().unwrap()).await, failed["response"]);
    let whole = gate.post(PATH, &ask(&json!({}))).await;
    assert_eq!((whole.status.as_u16(), whole.json()["error"]["code"].as_str()), (503, Some("engine_reset")));
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn the_same_key_gets_the_same_response() {
    let gate = Gate::scripted(says(&["one"])).await;
    for background in [false, true] {
        let body = ask(&json!({"background": background}));
        let send = async || {
            let mut keyed = request("POST", PATH, Body::from(body.clone()));
            let key = if background { "b" } else { "f" };
            keyed.headers_mut().insert("idempotency-key", key.parse().unwrap());
            read(gate.send(keyed).await).await.json()
        };
        let (first, again) = (send().await, send().await);
        assert_eq!(first["id"], again["id"]);
        let path = format!("{PATH}/{}", first["id"].as_str().unwrap());
        gate.until(&path, |response| response["status"] == "completed").await;
        assert_eq!(gate.send(request("DELETE", &path, Body::empty())).await.status(), StatusCode::OK);
        let gone = send().await;
        assert_eq!(gone["error"]["code"], "conflict", "{gone}");
    }
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn what_may_come_back_is_not_said_to_be_deleted() {
    let gate = Gate::scripted(says(&["one"])).await;
    let kept = asked(&gate, &json!({"background": true})).await.json();
    let path = format!("{PATH}/{}", kept["id"].as_str().unwrap());
    gate.until(&path, |response| response["status"] == "completed").await;
    let before = tokio::time::Instant::now();
    gate.app.store.close().await;
    assert_eq!(before.elapsed(), std::time::Duration::ZERO, "while it closes no time passes, and no retention ends");
    let answer = read(gate.send(request("DELETE", &path, Body::empty())).await).await;
    assert_eq!((answer.status.as_u16(), answer.json()["error"]["code"].as_str()), (500, Some("internal_error")));
    assert_eq!(gate.get(&path).await.status, StatusCode::NOT_FOUND);
    gate.finish().await;
}

#[tokio::test(start_paused = true)]
async fn what_is_in_the_background_outlives_the_process() {
    let folder = TempDir::new().unwrap();
    let url = format!("sqlite:{}/test.db", folder.path().display());
    let settings = [("SLUICEGATE_STORE__URL", url.as_str())];
    let first = Gate::with(Script { slots: 1, ..eloquent() }, &settings).await;
    let background = |change: Value| {
        let mut change = change;
        change["background"] = json!(true);
        change["tools"] = weather();
        change
    };
    let ended = asked(&first, &background(json!({"stream": true}))).await.body;
    let ended = events(&ended);
    let whole = ended.last().unwrap()["response"].clone();
    let id = whole["id"].as_str().unwrap().to_owned();
    first.crash().await;

    let second = Gate::with(Script { slots: 1, ..endless() }, &settings).await;
    assert_eq!(stored(&second, &id).await, whole);
    assert_eq!(second.get(&format!("/v2/tasks/{id}")).await.json()["output"], "Wait.");
    let rest = events(&second.get(&format!("{PATH}/{id}?stream=true&starting_after=5")).await.body);
    assert_eq!(rest.len(), 1);
    assert_eq!((rest[0]["sequence_number"].as_u64(), &rest[0]["response"]), (Some(6), &whole));
    let calls = whole["output"].as_array().unwrap().iter().filter(|item| item["type"] == "function_call");
    let results: Vec<_> = calls
        .map(|call| json!({"type": "function_call_output", "call_id": call["call_id"], "output": "rain"}))
        .collect();
    let running = asked(&second, &background(json!({"previous_response_id": id, "input": results}))).await.json();
    let waiting = asked(&second, &background(json!({}))).await.json();
    let path = |response: &Value| format!("{PATH}/{}", response["id"].as_str().unwrap());
    second.until(&path(&running), |response| response["status"] == "in_progress").await;
    second.crash().await;

    let third = Gate::with(Script { slots: 1, ..says(&["done"]) }, &settings).await;
    let ran = third.get(&path(&running)).await.json();
    assert_eq!((ran["status"].as_str(), ran["error"]["code"].as_str()), (Some("failed"), Some("server_error")));
    let told = events(&third.get(&format!("{}?stream=true", path(&waiting))).await.body);
    assert_eq!(told.last().unwrap()["response"]["output"][0]["content"][0]["text"], "done");
    let deleted = third.send(request("DELETE", &path(&waiting), Body::empty())).await;
    assert_eq!(deleted.status(), StatusCode::OK);
    third.settle().await;
    third.crash().await;

    let fourth = Gate::with(says(&["done"]), &settings).await;
    assert_eq!(fourth.get(&path(&waiting)).await.status, StatusCode::NOT_FOUND);
    assert_eq!(stored(&fourth, &id).await, whole);
    fourth.finish().await;
}

#[tokio::test(start_paused = true)]
async fn the_tokens_of_a_prompt_are_counted_as_the_response_counts_them() {
    let gate = Gate::scripted(eloquent()).await;
    let first = asked(&gate, &json!({"store": true})).await.json();
    let tasks = gate.get("/v2/tasks").await.json()["tasks"].as_array().unwrap().len();
    for change in [json!({"instructions": "Be brief."}), json!({"previous_response_id": first["id"], "colour": 1})] {
        let counted = gate.post(&format!("{PATH}/input_tokens"), &ask(&change)).await;
        assert_eq!(counted.status, StatusCode::OK, "{}", counted.body);
        assert_eq!(counted.json()["object"], "response.input_tokens");
        let usage = asked(&gate, &change).await.json()["usage"].clone();
        assert_eq!(counted.json()["input_tokens"], usage["input_tokens"]);
    }
    assert_eq!(gate.get("/v2/tasks").await.json()["tasks"].as_array().unwrap().len(), tasks + 2);
    let refused = gate.post(&format!("{PATH}/input_tokens"), &ask(&json!({"previous_response_id": "resp_x"}))).await;
    assert_eq!(refused.json()["error"]["param"], "previous_response_id", "{}", refused.body);
    gate.finish().await;
}
