//! Whole answers, as a client reads them.

use async_openai::types::chat::CreateChatCompletionResponse;
use proptest::prelude::*;
use sluicegate_compat::native::{ErrorCode, FinishReason};
use sluicegate_compat::openai::chat::{Answer, ChatContext};

use crate::events::{any_events, ended, meta, reasoning, token, tool, whole, with_logprobs};

#[test]
fn a_whole_answer_has_every_member() {
    let mut answer = Answer::new(&ChatContext::new("m"), meta());
    for event in [token(0, 0, "Hi"), token(0, 1, " you"), ended(FinishReason::Stop)] {
        answer.push(&event);
    }
    insta::assert_snapshot!(serde_json::to_string_pretty(&answer.finish().unwrap()).unwrap(), @r#"
    {
      "id": "chatcmpl-1",
      "object": "chat.completion",
      "created": 1700000000,
      "model": "m",
      "choices": [
        {
          "index": 0,
          "message": {
            "role": "assistant",
            "content": "Hi you",
            "refusal": null,
            "annotations": []
          },
          "logprobs": null,
          "finish_reason": "stop"
        }
      ],
      "usage": {
        "prompt_tokens": 11,
        "completion_tokens": 3,
        "total_tokens": 14,
        "prompt_tokens_details": {
          "cached_tokens": 8
        },
        "completion_tokens_details": {
          "reasoning_tokens": 0
        }
      },
      "service_tier": "default",
      "system_fingerprint": "fp_1"
    }
    "#);
}

#[test]
fn reasoning_and_log_probabilities_have_their_places() {
    let context = ChatContext { logprobs: true, ..ChatContext::new("m") };
    let events = [reasoning(0, "Hm"), with_logprobs(1, "Yes", b"Yes", -0.5), ended(FinishReason::Length)];
    let answer = whole(&context, &events).unwrap();
    let choice = &answer["choices"][0];
    assert_eq!(choice["message"]["reasoning_content"], "Hm");
    assert_eq!(choice["logprobs"]["content"][0]["token"], "Yes");
    assert_eq!(choice["logprobs"]["content"][0]["top_logprobs"][1]["token"], "?");
    assert_eq!(choice["logprobs"]["refusal"], serde_json::Value::Null);
    assert_eq!(choice["finish_reason"], "length");
    assert_eq!(answer["usage"]["completion_tokens_details"]["reasoning_tokens"], 1);
}

#[test]
fn calls_stand_beside_the_content_which_is_null_where_there_is_none() {
    let calls = [
        tool(0, Some(("call_1", "add")), "{\"a\":"),
        tool(1, Some(("call_2", "now")), "{}"),
        tool(0, None, "1}"),
        ended(FinishReason::ToolCalls),
    ];
    insta::assert_snapshot!(whole(&ChatContext::new("m"), &calls).unwrap()["choices"][0], @r#"{"index":0,"message":{"role":"assistant","content":null,"refusal":null,"annotations":[],"tool_calls":[{"id":"call_1","type":"function","function":{"name":"add","arguments":"{\"a\":1}"}},{"id":"call_2","type":"function","function":{"name":"now","arguments":"{}"}}]},"logprobs":null,"finish_reason":"tool_calls"}"#);
    let spoken = [&[token(0, 0, "Wait.")][..], &calls].concat();
    assert_eq!(whole(&ChatContext::new("m"), &spoken).unwrap()["choices"][0]["message"]["content"], "Wait.");
}

#[test]
fn a_task_that_has_not_ended_is_no_answer() {
    let error = whole(&ChatContext::new("m"), &[token(0, 0, "Hi")]).unwrap_err();
    assert_eq!(error.code, ErrorCode::Internal);
}

proptest! {
    #[test]
    fn async_openai_reads_any_whole_answer(events in any_events(), n in 1..4u32, logprobs: bool) {
        let context = ChatContext { n, logprobs, ..ChatContext::new("m") };
        if let Ok(body) = whole(&context, &events) {
            let read: CreateChatCompletionResponse = serde_json::from_value(body.clone()).unwrap();
            prop_assert_eq!(read.choices.len(), body["choices"].as_array().unwrap().len());
            prop_assert_eq!(u64::from(read.usage.unwrap().prompt_tokens), body["usage"]["prompt_tokens"].as_u64().unwrap());
        }
    }
}
