//! Transcripts of streams, as a client reads them.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_openai::types::chat::{CreateChatCompletionStreamResponse, FinishReason as TheirFinish};
use proptest::prelude::*;
use sluicegate_compat::native::{ChoiceEnd, End, ErrorCode, ErrorEnvelope, Event, FinishReason, Metrics, PolicyLabel};
use sluicegate_compat::openai::chat::{CallStyle, ChatContext, ServiceTier};

use crate::events::{
    any_events, chunks, end, ended, reasoning, said, started, stream, token, tool, whole, with_logprobs,
};

#[test]
fn a_stream_says_the_role_the_text_the_finish_and_done() {
    let events = [started(), token(0, 0, "Hi"), token(0, 1, ""), token(0, 2, " \"you\"\n"), ended(FinishReason::Stop)];
    insta::assert_snapshot!(stream(&ChatContext::new("m/1"), &events), @r#"
    data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1700000000,"model":"m/1","service_tier":"default","system_fingerprint":"fp_1","choices":[{"index":0,"delta":{"role":"assistant","content":"","refusal":null},"logprobs":null,"finish_reason":null}]}

    data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1700000000,"model":"m/1","service_tier":"default","system_fingerprint":"fp_1","choices":[{"index":0,"delta":{"content":"Hi"},"logprobs":null,"finish_reason":null}]}

    data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1700000000,"model":"m/1","service_tier":"default","system_fingerprint":"fp_1","choices":[{"index":0,"delta":{"content":" \"you\"\n"},"logprobs":null,"finish_reason":null}]}

    data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1700000000,"model":"m/1","service_tier":"default","system_fingerprint":"fp_1","choices":[{"index":0,"delta":{},"logprobs":null,"finish_reason":"stop"}]}

    data: [DONE]
    "#);
}

#[test]
fn usage_is_null_until_the_last_chunk_which_has_no_choices() {
    let context = ChatContext { include_usage: true, service_tier: ServiceTier::Flex, ..ChatContext::new("m") };
    let events = [token(0, 0, "Hi"), ended(FinishReason::Deadline)];
    insta::assert_snapshot!(stream(&context, &events), @r#"
    data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1700000000,"model":"m","service_tier":"flex","system_fingerprint":"fp_1","choices":[{"index":0,"delta":{"role":"assistant","content":"","refusal":null},"logprobs":null,"finish_reason":null}],"usage":null}

    data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1700000000,"model":"m","service_tier":"flex","system_fingerprint":"fp_1","choices":[{"index":0,"delta":{"content":"Hi"},"logprobs":null,"finish_reason":null}],"usage":null}

    data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1700000000,"model":"m","service_tier":"flex","system_fingerprint":"fp_1","choices":[{"index":0,"delta":{},"logprobs":null,"finish_reason":"length"}],"usage":null}

    data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1700000000,"model":"m","service_tier":"flex","system_fingerprint":"fp_1","choices":[],"usage":{"prompt_tokens":11,"completion_tokens":3,"total_tokens":14,"prompt_tokens_details":{"cached_tokens":8},"completion_tokens_details":{"reasoning_tokens":0}}}

    data: [DONE]
    "#);
}

#[test]
fn reasoning_streams_beside_the_content_and_is_counted() {
    let context = ChatContext { include_usage: true, ..ChatContext::new("m") };
    let transcript =
        stream(&context, &[reasoning(0, "Hm"), reasoning(1, ""), token(0, 2, "Yes"), ended(FinishReason::Stop)]);
    let chunks = chunks(&transcript);
    assert_eq!(chunks[1]["choices"][0]["delta"], serde_json::json!({"reasoning_content": "Hm"}));
    assert_eq!(chunks[2]["choices"][0]["delta"], serde_json::json!({"content": "Yes"}));
    assert_eq!(chunks[4]["usage"]["completion_tokens_details"]["reasoning_tokens"], 2);
}

#[test]
fn log_probabilities_come_with_their_token_also_where_it_completes_no_character() {
    let context = ChatContext { logprobs: true, ..ChatContext::new("m") };
    let half = with_logprobs(0, "", &[0xf0, 0x9f], f32::NEG_INFINITY);
    let events = [half, with_logprobs(1, "😀", &[0x98, 0x80], -0.25), ended(FinishReason::Stop)];
    insta::assert_snapshot!(said(&stream(&context, &events)), @r#"
    [{"index":0,"delta":{"role":"assistant","content":"","refusal":null},"logprobs":null,"finish_reason":null}]}
    [{"index":0,"delta":{"content":""},"logprobs":{"content":[{"token":"�","logprob":-9999.0,"bytes":[240,159],"top_logprobs":[{"token":"�","logprob":-9999.0,"bytes":[240,159]},{"token":"?","logprob":-3.5,"bytes":[63]}]}],"refusal":null},"finish_reason":null}]}
    [{"index":0,"delta":{"content":"😀"},"logprobs":{"content":[{"token":"��","logprob":-0.25,"bytes":[152,128],"top_logprobs":[{"token":"��","logprob":-0.25,"bytes":[152,128]},{"token":"?","logprob":-3.5,"bytes":[63]}]}],"refusal":null},"finish_reason":null}]}
    [{"index":0,"delta":{},"logprobs":null,"finish_reason":"stop"}]}
    "#);
}

#[test]
fn each_choice_has_its_own_role_and_finish() {
    let choices = vec![
        ChoiceEnd { choice: 0, finish_reason: FinishReason::Stop, tokens_out: 1 },
        ChoiceEnd { choice: 1, finish_reason: FinishReason::Length, tokens_out: 2 },
    ];
    let context = ChatContext { n: 3, ..ChatContext::new("m") };
    let last = Event::End(Arc::new(End { choices, ..end(FinishReason::ToolCalls) }));
    let transcript = stream(&context, &[token(1, 0, "b"), token(0, 0, "a"), last]);
    insta::assert_snapshot!(said(&transcript), @r#"
    [{"index":1,"delta":{"role":"assistant","content":"","refusal":null},"logprobs":null,"finish_reason":null}]}
    [{"index":1,"delta":{"content":"b"},"logprobs":null,"finish_reason":null}]}
    [{"index":0,"delta":{"role":"assistant","content":"","refusal":null},"logprobs":null,"finish_reason":null}]}
    [{"index":0,"delta":{"content":"a"},"logprobs":null,"finish_reason":null}]}
    [{"index":0,"delta":{},"logprobs":null,"finish_reason":"stop"}]}
    [{"index":1,"delta":{},"logprobs":null,"finish_reason":"length"}]}
    [{"index":2,"delta":{"role":"assistant","content":"","refusal":null},"logprobs":null,"finish_reason":null}]}
    [{"index":2,"delta":{},"logprobs":null,"finish_reason":"tool_calls"}]}
    "#);
}

#[test]
fn an_error_on_an_open_stream_is_one_error_object_and_done() {
    let error = ErrorEnvelope::rejected(PolicyLabel::BudgetTokens, "The budget is spent.").with_retry_after_ms(5);
    let events = [token(0, 0, "Hi"), Event::Error(Arc::new(error)), token(0, 1, "late")];
    let transcript = stream(&ChatContext::new("m"), &events);
    let (_, last) = transcript.split_once("\"Hi\"").unwrap();
    insta::assert_snapshot!(last, @r#"
    },"logprobs":null,"finish_reason":null}]}

    data: {"error":{"message":"The budget is spent.","type":"insufficient_quota","param":null,"code":"insufficient_quota","policy_label":"budget.tokens","retry_after_ms":5}}

    data: [DONE]
    "#);
}

#[test]
fn a_task_that_somebody_else_cancelled_ends_in_an_error() {
    let transcript = stream(&ChatContext::new("m"), &[ended(FinishReason::Canceled)]);
    insta::assert_snapshot!(transcript, @r#"
    data: {"error":{"message":"The task was cancelled before it ended.","type":"invalid_request_error","param":null,"code":"task_canceled"}}

    data: [DONE]
    "#);
}

#[test]
fn what_happens_while_waiting_is_not_said() {
    let metrics = Event::Metrics(Arc::new(Metrics { queue_position: Some(3), ..Metrics::default() }));
    assert_eq!(stream(&ChatContext::new("m"), &[metrics, started()]), "");
}

#[test]
fn names_with_quotes_stay_inside_their_strings() {
    let chunks = chunks(&stream(&ChatContext::new("m\"},\n{"), &[token(0, 0, "x"), ended(FinishReason::Stop)]));
    assert!(chunks.iter().all(|chunk| chunk["model"] == "m\"},\n{"));
}

#[test]
fn async_openai_reads_the_finish_reason() {
    let transcript = stream(&ChatContext::new("m"), &[token(0, 0, "Hi"), ended(FinishReason::Length)]);
    let read: Vec<CreateChatCompletionStreamResponse> =
        chunks(&transcript).into_iter().map(|chunk| serde_json::from_value(chunk).unwrap()).collect();
    assert_eq!(read[1].choices[0].delta.content.as_deref(), Some("Hi"));
    assert_eq!(read.last().unwrap().choices[0].finish_reason, Some(TheirFinish::Length));
}

proptest! {
    #[test]
    fn streamed_and_whole_say_the_same(
        events in any_events(), n in 1..4u32, include_usage: bool, logprobs: bool,
    ) {
        let context = ChatContext { n, include_usage, logprobs, ..ChatContext::new("m") };
        let transcript = stream(&context, &events);
        prop_assert!(transcript.ends_with("data: [DONE]\n\n"));
        prop_assert_eq!(transcript.matches("data: [DONE]\n\n").count(), 1);
        let chunks = chunks(&transcript);
        match whole(&context, &events) {
            Ok(whole) => {
                for choice in whole["choices"].as_array().unwrap() {
                    assert_choice_is_the_sum_of_its_chunks(choice, &chunks, logprobs);
                }
                let usage = if include_usage { &whole["usage"] } else { &serde_json::Value::Null };
                prop_assert_eq!(&chunks.last().unwrap()["usage"], usage);
            }
            Err(error) => {
                prop_assert_eq!(&chunks.last().unwrap()["error"]["message"], &error.message);
                prop_assert!(matches!(error.code, ErrorCode::WorkerReset | ErrorCode::Conflict));
            }
        }
    }

    #[test]
    fn async_openai_reads_every_chunk_of_any_stream(events in any_events(), n in 1..4u32, include_usage: bool) {
        let context = ChatContext { n, include_usage, ..ChatContext::new("m") };
        for chunk in chunks(&stream(&context, &events)) {
            if chunk.get("error").is_none() {
                let read: CreateChatCompletionStreamResponse = serde_json::from_value(chunk).unwrap();
                prop_assert_eq!(read.object, "chat.completion.chunk");
            }
        }
    }
}

fn assert_choice_is_the_sum_of_its_chunks(choice: &serde_json::Value, chunks: &[serde_json::Value], logprobs: bool) {
    let own: Vec<_> = chunks
        .iter()
        .filter_map(|chunk| chunk["choices"].get(0))
        .filter(|part| part["index"] == choice["index"])
        .collect();
    let joined = |field: &str| own.iter().filter_map(|part| part["delta"][field].as_str()).collect::<String>();
    assert_eq!(own[0]["delta"]["role"], "assistant");
    assert_eq!(own.iter().filter(|part| part["delta"].get("role").is_some()).count(), 1);
    assert_eq!(joined("content"), choice["message"]["content"].as_str().unwrap_or_default());
    assert_eq!(calls(&own), choice["message"]["tool_calls"].as_array().cloned().unwrap_or_default());
    assert_eq!(joined("reasoning_content"), choice["message"]["reasoning_content"].as_str().unwrap_or_default());
    assert_eq!(own.last().unwrap()["finish_reason"], choice["finish_reason"]);
    assert_eq!(own.iter().filter(|part| !part["finish_reason"].is_null()).count(), 1);
    if logprobs {
        let streamed = own.iter().filter_map(|part| part["logprobs"]["content"].as_array()).flatten();
        assert!(streamed.eq(choice["logprobs"]["content"].as_array().unwrap()));
    }
}

/// The calls that the deltas of one choice add up to, as clients put them together.
fn calls(chunks: &[&serde_json::Value]) -> Vec<serde_json::Value> {
    let mut calls = BTreeMap::new();
    for delta in chunks.iter().filter_map(|chunk| chunk["delta"]["tool_calls"].as_array()).flatten() {
        let call = calls.entry(delta["index"].as_u64().unwrap()).or_insert_with(<[String; 3]>::default);
        for (text, part) in
            call.iter_mut().zip([&delta["id"], &delta["function"]["name"], &delta["function"]["arguments"]])
        {
            text.push_str(part.as_str().unwrap_or_default());
        }
    }
    let call = |[id, name, arguments]: [String; 3]| serde_json::json!({"id": id, "type": "function", "function": {"name": name, "arguments": arguments}});
    calls.into_values().map(call).collect()
}

#[test]
fn a_call_streams_its_head_and_then_its_arguments() {
    let events = [
        tool(0, Some(("call_1", "add")), ""),
        tool(0, None, "{\"a\": 1"),
        tool(0, None, ""),
        tool(0, None, "}"),
        tool(1, Some(("call_2", "now")), "{}"),
        ended(FinishReason::ToolCalls),
    ];
    insta::assert_snapshot!(said(&stream(&ChatContext::new("m"), &events)), @r#"
    [{"index":0,"delta":{"role":"assistant","content":null,"refusal":null},"logprobs":null,"finish_reason":null}]}
    [{"index":0,"delta":{"tool_calls":[{"index":0,"id":"call_1","type":"function","function":{"name":"add","arguments":""}}]},"logprobs":null,"finish_reason":null}]}
    [{"index":0,"delta":{"tool_calls":[{"index":0,"function":{"arguments":"{\"a\": 1"}}]},"logprobs":null,"finish_reason":null}]}
    [{"index":0,"delta":{"tool_calls":[{"index":0,"function":{"arguments":"}"}}]},"logprobs":null,"finish_reason":null}]}
    [{"index":0,"delta":{"tool_calls":[{"index":1,"id":"call_2","type":"function","function":{"name":"now","arguments":"{}"}}]},"logprobs":null,"finish_reason":null}]}
    [{"index":0,"delta":{},"logprobs":null,"finish_reason":"tool_calls"}]}
    "#);
}

#[test]
fn text_before_a_call_is_content() {
    let events = [token(0, 0, "Wait."), tool(0, Some(("call_1", "add")), "{}"), ended(FinishReason::ToolCalls)];
    insta::assert_snapshot!(said(&stream(&ChatContext::new("m"), &events)), @r#"
    [{"index":0,"delta":{"role":"assistant","content":"","refusal":null},"logprobs":null,"finish_reason":null}]}
    [{"index":0,"delta":{"content":"Wait."},"logprobs":null,"finish_reason":null}]}
    [{"index":0,"delta":{"tool_calls":[{"index":0,"id":"call_1","type":"function","function":{"name":"add","arguments":"{}"}}]},"logprobs":null,"finish_reason":null}]}
    [{"index":0,"delta":{},"logprobs":null,"finish_reason":"tool_calls"}]}
    "#);
}

#[test]
fn who_asked_with_functions_reads_one_call_of_a_function() {
    let context = ChatContext { calls: CallStyle::Function, ..ChatContext::new("m") };
    let events = [tool(0, Some(("call_1", "add")), ""), tool(0, None, "{}"), ended(FinishReason::ToolCalls)];
    insta::assert_snapshot!(said(&stream(&context, &events)), @r#"
    [{"index":0,"delta":{"role":"assistant","content":null,"refusal":null},"logprobs":null,"finish_reason":null}]}
    [{"index":0,"delta":{"function_call":{"name":"add","arguments":""}},"logprobs":null,"finish_reason":null}]}
    [{"index":0,"delta":{"function_call":{"arguments":"{}"}},"logprobs":null,"finish_reason":null}]}
    [{"index":0,"delta":{},"logprobs":null,"finish_reason":"function_call"}]}
    "#);
    let message = &whole(&context, &events).unwrap()["choices"][0];
    insta::assert_snapshot!(message, @r#"{"index":0,"message":{"role":"assistant","content":null,"refusal":null,"annotations":[],"function_call":{"name":"add","arguments":"{}"}},"logprobs":null,"finish_reason":"function_call"}"#);
}

#[test]
fn what_goes_wrong_on_a_stream_is_named_in_the_words_of_the_client() {
    let error = ErrorEnvelope::invalid("json_schema", "`json_schema` is odd");
    let said = stream(&ChatContext::new("m"), &[Event::Error(Arc::new(error))]);
    insta::assert_snapshot!(said, @r#"
    data: {"error":{"message":"`response_format.json_schema.schema` is odd","type":"invalid_request_error","param":"response_format.json_schema.schema","code":"invalid_value"}}

    data: [DONE]
    "#);
}
