//! Embeddings and rerank: what clients send, and what they read back.

use std::sync::Arc;

use proptest::prelude::*;
use serde_json::{Value, json};
use sluicegate_compat::native::{
    CanceledBy, End, ErrorCode, ErrorEnvelope, Event, FinishReason, Input, PolicyLabel, TaskResult, Workload,
};
use sluicegate_compat::openai::{Outcome, embeddings, rerank};
use uuid::Uuid;

fn end(finish_reason: FinishReason) -> Event {
    let end = json!({"tokens_in": 7, "tokens_out": 0, "queue_ms": 1, "first_token_ms": null, "decode_ms": 0, "finish_reason": finish_reason});
    Event::End(Arc::new(serde_json::from_value::<End>(end).unwrap()))
}

fn outcome(result: TaskResult) -> Outcome {
    let mut outcome = Outcome::default();
    outcome.push(&Event::Result(Arc::new(result)));
    outcome.push(&end(FinishReason::Stop));
    outcome
}

fn embedding(change: Value) -> Value {
    let mut body = json!({"model": "m", "input": "a"});
    body.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
    body
}

fn embedded(change: Value, vectors: Vec<Vec<f32>>) -> Value {
    let (_, context) = embeddings::parse(embedding(change).to_string().as_bytes()).unwrap();
    serde_json::to_value(context.answer(outcome(TaskResult::Embeddings(vectors))).unwrap()).unwrap()
}

#[test]
fn an_input_is_a_text_token_ids_or_a_list_of_either() {
    let tokens = |ids: &[u32]| Input::Tokens(ids.to_vec());
    let cases = [
        (json!("a b"), vec![Input::from("a b")]),
        (json!(["a", "b"]), vec!["a".into(), "b".into()]),
        (json!([5, 6]), vec![tokens(&[5, 6])]),
        (json!([[5], [6, 7]]), vec![tokens(&[5]), tokens(&[6, 7])]),
        (json!(["a", [5]]), vec!["a".into(), tokens(&[5])]),
        (json!([]), vec![]),
    ];
    for (input, inputs) in cases {
        let body = embedding(json!({"input": input, "dimensions": 3}));
        let (task, _) = embeddings::parse(body.to_string().as_bytes()).unwrap();
        assert_eq!((task.workload, task.model_ref.as_str(), task.dimensions), (Workload::Embedding, "m", Some(3)));
        assert_eq!(task.inputs, Some(inputs));
    }
}

#[test]
fn what_is_wrong_is_named_as_the_client_wrote_it() {
    let cases = [
        (json!({"input": null}), "input"),
        (json!({"model": null}), "model"),
        (json!({"input": 5}), "input"),
        (json!({"input": [1, "a"]}), "input"),
        (json!({"input": ["a", 1]}), "input"),
        (json!({"input": [1.5]}), "input[0]"),
        (json!({"input": [[1], [-1]]}), "input[1][0]"),
        (json!({"input": [4_294_967_296_u64]}), "input[0]"),
        (json!({"encoding_format": "hex"}), "encoding_format"),
        (json!({"dimensions": "many"}), "dimensions"),
        (json!({"sluicegate": {"priority": "high"}}), "sluicegate.priority"),
    ];
    for (change, param) in cases {
        let error = embeddings::parse(embedding(change).to_string().as_bytes()).unwrap_err();
        assert_eq!((error.code, error.param.as_deref()), (ErrorCode::InvalidParams, Some(param)), "{error:?}");
    }
    let renamed = |input: Value, native: &str| {
        let (_, context) = embeddings::parse(embedding(json!({"input": input})).to_string().as_bytes()).unwrap();
        context.rename(sluicegate_compat::native::ErrorEnvelope::invalid(native, "why")).param.unwrap()
    };
    assert_eq!(renamed(json!("a"), "inputs[0]"), "input");
    assert_eq!(renamed(json!(["a"]), "inputs[0]"), "input[0]");
    assert_eq!(renamed(json!("a"), "placement.pin_pool_id"), "sluicegate.placement.pin_pool_id");
    assert_eq!(renamed(json!("a"), "workload"), "model");
}

#[test]
fn an_answer_has_the_vectors_in_their_order_and_what_they_cost() {
    let answer = embedded(json!({}), vec![vec![0.5, -1.0], vec![0.1, 0.0]]);
    let expected = json!({"object": "list", "model": "m", "usage": {"prompt_tokens": 7, "total_tokens": 7}, "data": [
        {"object": "embedding", "index": 0, "embedding": [0.5, -1.0]},
        {"object": "embedding", "index": 1, "embedding": [f64::from(0.1_f32), 0.0]},
    ]});
    assert_eq!(answer, expected);
    let base64 = embedded(json!({"encoding_format": "base64"}), vec![vec![0.5, -1.0]]);
    assert_eq!(base64["data"][0]["embedding"], "AAAAPwAAgL8=");
}

#[test]
fn a_task_without_a_result_is_an_error() {
    let (_, context) = embeddings::parse(embedding(json!({})).to_string().as_bytes()).unwrap();
    let drained = End { canceled_by: Some(CanceledBy::Drain), ..crate::events::end(FinishReason::Canceled) };
    let budget = ErrorEnvelope::rejected(PolicyLabel::BudgetTime, "the budget was used up before the result came");
    for (last, code) in [
        (end(FinishReason::Canceled), ErrorCode::Conflict),
        (Event::End(Arc::new(drained)), ErrorCode::PoolUnready),
        (Event::Error(Arc::new(budget)), ErrorCode::AdmissionReject),
        (end(FinishReason::Stop), ErrorCode::Internal),
    ] {
        let mut outcome = Outcome::default();
        outcome.push(&last);
        assert_eq!(context.answer(outcome).unwrap_err().code, code);
    }
    assert_eq!(context.answer(Outcome::default()).unwrap_err().code, ErrorCode::Internal);
    assert_eq!(context.answer(outcome(TaskResult::Scores(vec![1.0]))).unwrap_err().code, ErrorCode::Internal);
}

#[test]
fn documents_come_back_the_best_first() {
    let body = |change: Value| {
        let mut body = json!({"model": "m", "query": "q", "documents": ["a", {"text": "b"}, "c", "d"]});
        body.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        body.to_string()
    };
    let answer = |change: Value| {
        let (task, context) = rerank::parse(body(change).as_bytes()).unwrap();
        assert_eq!((task.workload, task.query.as_deref()), (Workload::Rerank, Some("q")));
        assert_eq!(task.inputs, Some(vec!["a".into(), "b".into(), "c".into(), "d".into()]));
        let answer = context.answer(Uuid::nil(), outcome(TaskResult::Scores(vec![0.25, 0.75, -0.5, 0.75])));
        serde_json::to_value(answer.unwrap()).unwrap()
    };
    let expected = json!({"id": format!("rerank-{}", Uuid::nil()), "object": "list", "model": "m",
        "usage": {"prompt_tokens": 7, "total_tokens": 7}, "results": [
        {"index": 1, "relevance_score": 0.75, "document": {"text": "b"}},
        {"index": 3, "relevance_score": 0.75, "document": {"text": "d"}},
        {"index": 0, "relevance_score": 0.25, "document": {"text": "a"}},
        {"index": 2, "relevance_score": -0.5, "document": {"text": "c"}},
    ]});
    assert_eq!(answer(json!({})), expected);
    let one = answer(json!({"top_n": 1, "return_documents": false}));
    assert_eq!(one["results"], json!([{"index": 1, "relevance_score": 0.75}]));
    for (change, param) in [
        (json!({"query": null}), "query"),
        (json!({"documents": null}), "documents"),
        (json!({"documents": ["a", {"title": "b"}]}), "documents[1].text"),
        (json!({"documents": ["a", 5]}), "documents[1]"),
        (json!({"top_n": 0}), "top_n"),
    ] {
        assert_eq!(rerank::parse(body(change).as_bytes()).unwrap_err().param.as_deref(), Some(param));
    }
    let (_, context) = rerank::parse(body(json!({"rank_fields": ["a"]})).as_bytes()).unwrap();
    assert_eq!(context.ignored, ["rank_fields"]);
}

fn bytes_of(base64: &str) -> Vec<u8> {
    let value = |byte: u8| match byte {
        b'A'..=b'Z' => byte - b'A',
        b'a'..=b'z' => byte - b'a' + 26,
        b'0'..=b'9' => byte - b'0' + 52,
        b'+' => 62,
        _ => 63,
    };
    let bits: Vec<u8> = base64.bytes().filter(|byte| *byte != b'=').map(value).collect();
    let group = |four: &[u8]| {
        let number = (0..4).fold(0_u32, |number, at| number << 6 | u32::from(four.get(at).copied().unwrap_or(0)));
        number.to_be_bytes()[1..four.len()].to_vec()
    };
    bits.chunks(4).flat_map(group).collect()
}

proptest! {
    #[test]
    fn floats_and_base64_are_the_same_bits(vector in prop::collection::vec(any::<f32>().prop_filter("finite", |x| x.is_finite()), 1..20)) {
        let floats = embedded(json!({"encoding_format": "float"}), vec![vector.clone()]);
        let read: Vec<f64> = serde_json::from_value(floats["data"][0]["embedding"].clone()).unwrap();
        let base64 = embedded(json!({"encoding_format": "base64"}), vec![vector.clone()]);
        let bytes = bytes_of(base64["data"][0]["embedding"].as_str().unwrap());
        let decoded: Vec<f32> = bytes.chunks(4).map(|four| f32::from_le_bytes(four.try_into().unwrap())).collect();
        prop_assert_eq!(decoded.iter().map(|x| x.to_bits()).collect::<Vec<_>>(), vector.iter().map(|x| x.to_bits()).collect::<Vec<_>>());
        // A client that reads 64-bit floats reads the very same numbers either way.
        prop_assert_eq!(read, decoded.iter().map(|x| f64::from(*x)).collect::<Vec<_>>());
    }
}
