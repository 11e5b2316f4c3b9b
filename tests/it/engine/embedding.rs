//! The real engine with the built-in model that embeds.

use std::path::PathBuf;
use std::sync::Arc;

use futures_util::future::join_all;
use sluicegate::engine::mistral::{MistralEngine, ModelFiles};
use sluicegate::engine::{
    Batch, Engine, EngineError, Evaluated, Evaluation, Instructions, Prepared, Prompt, PromptError, cosine,
};
use sluicegate_compat::native::{TaskResult, Workload};
use tokio_util::sync::CancellationToken;

use super::{builtin_model, greedy, spec};

pub fn builtin_embedding() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("examples/builtin-embedding/model")
}

async fn engine() -> MistralEngine {
    MistralEngine::load(spec(ModelFiles::Folder(builtin_embedding()))).await.expect("the built-in model loads")
}

fn prepared(engine: &MistralEngine, text: &str) -> Prepared {
    engine.prepare(&Arc::new(Prompt::Text(text.to_owned()))).expect("tokenizes")
}

fn batch(engine: &MistralEngine, query: Option<&str>, texts: &[&str]) -> Evaluation {
    let inputs = texts.iter().map(|text| prepared(engine, text)).collect();
    let query = query.map(|query| prepared(engine, query));
    Evaluation {
        batch: Arc::new(Batch { query, inputs }),
        dimensions: None,
        correlation_id: None,
        cancel: CancellationToken::new(),
    }
}

async fn vectors(engine: &MistralEngine, texts: &[&str]) -> Vec<Vec<f32>> {
    match engine.evaluate(batch(engine, None, texts), &mut || ()).await.expect("evaluates").result {
        Some(TaskResult::Embeddings(vectors)) => vectors,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_vectors_are_those_that_the_model_was_trained_to_give() {
    let engine = engine().await;
    let info = engine.info();
    assert_eq!(info.workloads, [Workload::Embedding, Workload::Rerank]);
    assert_eq!((info.dimensions, info.context_length, info.slots), (Some(128), 2048, 8));
    assert_eq!(info.instructions, Instructions::default());
    let texts = ["What is a pool?", "Could you explain to me what a pool is?", "What color is the sky?"];
    let made = vectors(&engine, &texts).await;
    // By the network that it was trained with.
    let expected = [
        [-0.024_579_57, -0.006_537_97, 0.044_682_68],
        [0.016_706_85, 0.022_659_51, 0.092_743_79],
        [-0.254_568_25, -0.054_466_98, -0.067_137_6],
    ];
    for (made, expected) in made.iter().zip(expected) {
        assert_eq!(made.len(), 128);
        assert!((cosine(made, made) - 1.0).abs() < 1e-6);
        assert!((made.iter().map(|number| number * number).sum::<f32>() - 1.0).abs() < 1e-5, "it has length 1");
        assert!(made.iter().zip(expected).all(|(made, expected)| (made - expected).abs() < 1e-4), "{:?}", &made[..3]);
    }
    assert!((cosine(&made[0], &made[1]) - 0.807).abs() < 0.001);
    assert!(cosine(&made[0], &made[2]) < 0.3);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_stands_beside_an_input_changes_nothing_of_its_vector() {
    let engine = engine().await;
    let long = "and then it rained ".repeat(60);
    let texts = ["Hi", "What is a pool?", long.as_str(), "Tell me about budgets, please.", "Hi"];
    let mut alone = Vec::new();
    for text in texts {
        alone.extend(vectors(&engine, &[text]).await);
    }
    assert_eq!(vectors(&engine, &texts).await, alone);
    // More tasks than slots, at once.
    let at_once = join_all((0..12).map(|_| vectors(&engine, &texts))).await;
    assert!(at_once.iter().all(|vectors| *vectors == alone));
    assert_eq!(engine.stats().running, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn documents_are_scored_by_how_near_they_are_to_the_query() {
    let engine = engine().await;
    let documents = ["The sky is blue.", "A pool is one queue and one or more replicas of a model.", "I like soup."];
    let evaluation = batch(&engine, Some("Tell me what a pool is"), &documents);
    let mut done = 0;
    let evaluated = engine.evaluate(evaluation, &mut || done += 1).await.expect("evaluates");
    let Some(TaskResult::Scores(scores)) = evaluated.result else { panic!("{evaluated:?}") };
    assert_eq!(done, 4, "the query and three documents");
    assert!(scores[1] > 0.5 && scores[1] > scores[0] + 0.2 && scores[1] > scores[2] + 0.2, "{scores:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_engine_would_panic_over_never_reaches_it() {
    let engine = engine().await;
    let single = engine.prepare(&Arc::new(Prompt::Tokens(vec![5])));
    assert!(matches!(single, Err(PromptError { message, .. }) if message.contains("single token")));
    assert!(engine.prepare(&Arc::new(Prompt::Tokens(vec![5, 1024]))).is_err(), "beyond the vocabulary");
    let ids = |ids: Vec<u32>| Batch { query: None, inputs: vec![Prepared::Ids(ids.into())] };
    for batch in [ids(vec![5]), ids(vec![5; 2049]), ids(vec![5, 1024])] {
        let evaluation = Evaluation {
            batch: Arc::new(batch),
            dimensions: None,
            correlation_id: None,
            cancel: CancellationToken::new(),
        };
        assert_eq!(engine.evaluate(evaluation, &mut || ()).await, Err(EngineError::Rejected));
    }
    let whole = Evaluation {
        batch: Arc::new(ids(vec![5; 2048])),
        dimensions: None,
        correlation_id: None,
        cancel: CancellationToken::new(),
    };
    assert!(engine.evaluate(whole, &mut || ()).await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_does_what_it_is_for_and_nothing_else() {
    let embeds = engine().await;
    let prompt: Arc<[u32]> = vec![5, 6].into();
    let (_, refused) = super::collect(&embeds, greedy(prompt, 1)).await;
    assert_eq!(refused, Err(EngineError::Rejected));
    let writes = MistralEngine::load(spec(ModelFiles::Folder(builtin_model()))).await.expect("loads");
    let evaluation = batch(&writes, None, &["Hi there"]);
    assert_eq!(writes.evaluate(evaluation, &mut || ()).await, Err(EngineError::Rejected));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_stops_where_it_is_cancelled_and_an_unloaded_engine_takes_none() {
    let engine = engine().await;
    let evaluation = batch(&engine, None, &["Hi there"; 50]);
    let cancel = evaluation.cancel.clone();
    let mut done = 0;
    let mut count = || {
        done += 1;
        if done == 3 {
            cancel.cancel();
        }
    };
    let evaluated = engine.evaluate(evaluation, &mut count).await;
    assert!(matches!(evaluated, Ok(Evaluated { result: None, .. })));
    assert_eq!((done, engine.stats().running), (3, 0));
    let probed = engine.probe(100).await.expect("works");
    assert_eq!(probed.tokens_out, 0);
    let evaluation = batch(&engine, None, &["Hi there"]);
    engine.unload().await;
    assert_eq!(engine.evaluate(evaluation, &mut || ()).await, Err(EngineError::Reset));
}
