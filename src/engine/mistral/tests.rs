//! The engine's failures, provoked from inside.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use futures_util::future::join_all;
use mistralrs::{CustomLogitsProcessor, Result, Tensor};

use super::*;
use crate::engine::{Finish, Piece};

/// Fails the engine at the nth token of the sequence that it is injected into.
struct Fault {
    countdown: AtomicU32,
    panics: bool,
}

impl Fault {
    fn at(token: u32, panics: bool) -> Option<Arc<dyn CustomLogitsProcessor>> {
        Some(Arc::new(Self { countdown: AtomicU32::new(token), panics }))
    }
}

impl CustomLogitsProcessor for Fault {
    fn apply(&self, logits: &Tensor, _: &[u32]) -> Result<Tensor> {
        if self.countdown.fetch_sub(1, Ordering::Relaxed) > 0 {
            return Ok(logits.clone());
        }
        assert!(!self.panics, "provoked by a test");
        // Adding tensors of different lengths.
        logits + Tensor::from_vec(vec![0f32; 3], 3, &mistralrs::Device::Cpu)?
    }
}

async fn engine(slots: u32) -> MistralEngine {
    engine_of("examples/builtin-model/model", slots).await
}

async fn engine_of(model: &str, slots: u32) -> MistralEngine {
    let model = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(model);
    let spec = LoadSpec {
        model: ModelFiles::Folder(model),
        digest: "sha256:00".into(),
        device: Device::Cpu,
        slots: Some(slots),
        gpu_memory_share: 0.9,
        quantization: None,
        context_length: None,
    };
    MistralEngine::load(spec).await.expect("the built-in model loads")
}

fn endless(engine: &MistralEngine, max_tokens: u32) -> Generation {
    let sampling =
        Sampling { logit_bias: engine.ends.iter().map(|&end| (end, -100.0)).collect(), ..Sampling::default() };
    Generation { max_tokens, sampling, ..engine.trial(1) }
}

#[derive(Default)]
struct Count(u32);

impl Sink for Count {
    fn token(&mut self, _: Piece) -> ControlFlow<()> {
        self.0 += 1;
        ControlFlow::Continue(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_panic_or_an_error_in_the_engine_the_task_is_reset_and_the_next_one_works() {
    let engine = engine(1).await;
    for panics in [true, false, true] {
        *engine.fault.lock().expect("locks") = Fault::at(5, panics);
        let mut sink = Count::default();
        let failed = engine.generate(endless(&engine, 50), &mut sink).await;
        assert_eq!((failed, sink.0, engine.stats().running), (Err(EngineError::Reset), 5, 0));
        assert!(engine.lanes.first().is_suspect());
        let finished = engine.generate(endless(&engine, 50), &mut Count::default()).await.expect("works again");
        assert_eq!((finished.finish, finished.tokens_out), (Finish::Length, 50));
        assert!(!engine.lanes.first().is_suspect());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_ends_the_sequences_of_its_own_engine_only() {
    let engine = engine(4).await;
    *engine.fault.lock().expect("locks") = Fault::at(3, true);
    let runs =
        join_all((0..4).map(|_| async { engine.generate(endless(&engine, 300), &mut Count::default()).await })).await;
    assert_eq!(runs.iter().filter(|run| **run == Err(EngineError::Reset)).count(), 1);
    assert_eq!(runs.iter().filter(|run| run.as_ref().is_ok_and(|finished| finished.tokens_out == 300)).count(), 3);
    assert!(engine.probe(1).await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_panic_under_an_input_the_next_one_is_embedded() {
    let engine = engine_of("examples/builtin-embedding/model", 1).await;
    let batch = Arc::new(Batch { query: None, inputs: vec![engine.trial(5).prompt] });
    let evaluation = Evaluation { batch, dimensions: None, correlation_id: None, cancel: CancellationToken::new() };
    let before = engine.evaluate(evaluation.clone(), &mut || ()).await.expect("works");
    for _ in 0..2 {
        let place = engine.lanes.take().await.expect("a place");
        // A single token, which is never let in, makes it panic.
        let failed = embed::vector_in(&engine, place, &[5], &CancellationToken::new()).await;
        assert_eq!((failed, engine.stats().running), (Err(EngineError::Reset), 0));
        assert!(engine.lanes.first().is_suspect());
        let after = engine.evaluate(evaluation.clone(), &mut || ()).await.expect("works again");
        assert_eq!(after.result, before.result);
        assert!(!engine.lanes.first().is_suspect());
    }
}

#[test]
fn the_version_is_the_one_in_the_lock_file() {
    let lock = include_str!("../../../Cargo.lock");
    assert!(lock.contains(&format!("name = \"mistralrs\"\nversion = \"{ENGINE_VERSION}\"\n")));
}
