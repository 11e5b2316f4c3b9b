//! Weights with fewer bits than their files have.

use sluicegate::engine::mistral::{LoadSpec, MistralEngine, ModelFiles};
use sluicegate::engine::{Engine, Generation};
use sluicegate_compat::native::Quantization;

use super::{builtin_model, collect, greedy, question, spec};

/// The log-probability of the first token of an answer.
async fn first(quantization: Option<Quantization>) -> f64 {
    let spec = LoadSpec { quantization, ..spec(ModelFiles::Folder(builtin_model())) };
    let engine = MistralEngine::load(spec).await.expect("the built-in model loads");
    assert_eq!(engine.info().quantization, quantization);
    let prompt = question(&engine, "What is Sluicegate?");
    let (pieces, finished) = collect(&engine, Generation { top_logprobs: Some(0), ..greedy(prompt, 8) }).await;
    assert_eq!(finished.expect("finishes").tokens_out, 8);
    f64::from(pieces[0].logprobs.as_ref().expect("was asked for").logprob)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_fewer_bits_weights_have_the_further_off_is_the_answer() {
    let whole = first(None).await;
    let [eight, four] = [Quantization::Q8_0, Quantization::Q4_0].map(|kind| first(Some(kind)));
    let (eight, four) = ((eight.await - whole).abs(), (four.await - whole).abs());
    assert!(0.0 < eight && eight < four, "{eight} and {four} off {whole}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gguf_file_keeps_the_bits_that_it_has() {
    let spec = LoadSpec { quantization: Some(Quantization::Q4K), ..spec(ModelFiles::Gguf("/models/m.gguf".into())) };
    let error = MistralEngine::load(spec).await.err().expect("is refused").to_string();
    assert_eq!(error, "/models/m.gguf: a GGUF file has its quantization already, and is not turned into q4k");
}
