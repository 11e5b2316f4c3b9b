//! The real engine with the built-in model, through the trait that the gateway uses.
//!
//! Most tests pin down one of the engine's odd sides that the adapter fences in.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;

use futures_util::future::join_all;
use serde_json::{Value, json};
use sluicegate::engine::mistral::{Device, LoadSpec, MistralEngine, ModelFiles};
use sluicegate::engine::{
    Chat, Engine, EngineError, Finish, Finished, Generation, Grammar, Piece, Prompt, Reading, Sampling, Sink,
};
use sluicegate_compat::native::{Message, Role};
use tokio_util::sync::CancellationToken;

mod calls;
mod embedding;
mod gguf;
mod loading;
mod quantized;
pub mod sight;

pub fn builtin_model() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("examples/builtin-model/model")
}

pub fn spec(model: ModelFiles) -> LoadSpec {
    LoadSpec {
        model,
        digest: "sha256:00".into(),
        device: Device::Cpu,
        slots: None,
        gpu_memory_share: 0.9,
        quantization: None,
        context_length: None,
    }
}

async fn engine() -> MistralEngine {
    MistralEngine::load(spec(ModelFiles::Folder(builtin_model()))).await.expect("the built-in model loads")
}

fn question(engine: &MistralEngine, text: &str) -> Arc<[u32]> {
    let messages = vec![Message::text(Role::User, text)];
    engine.tokenize(&Prompt::Chat(Chat { messages, ..Chat::default() })).expect("tokenizes")
}

fn greedy(prompt: Arc<[u32]>, max_tokens: u32) -> Generation {
    Generation {
        prompt: prompt.into(),
        max_tokens,
        sampling: Sampling { temperature: 0.0, ..Sampling::default() },
        stop: Vec::new(),
        top_logprobs: None,
        grammar: None,
        reading: Reading::Plain,
        cold: false,
        correlation_id: None,
        cancel: CancellationToken::new(),
    }
}

fn seeded(prompt: Arc<[u32]>, max_tokens: u32, temperature: f32, seed: u64) -> Generation {
    Generation { sampling: Sampling { temperature, seed, ..Sampling::default() }, ..greedy(prompt, max_tokens) }
}

/// Keeps every piece, and breaks off after `limit` of them.
struct Pieces {
    pieces: Vec<Piece>,
    limit: usize,
}

impl Sink for Pieces {
    fn token(&mut self, piece: Piece) -> ControlFlow<()> {
        self.pieces.push(piece);
        if self.pieces.len() < self.limit { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    }
}

async fn collect(engine: &MistralEngine, generation: Generation) -> (Vec<Piece>, Result<Finished, EngineError>) {
    let mut sink = Pieces { pieces: Vec::new(), limit: usize::MAX };
    let finished = engine.generate(generation, &mut sink).await;
    (sink.pieces, finished)
}

async fn text(engine: &MistralEngine, generation: Generation) -> (String, Finished) {
    let (pieces, finished) = collect(engine, generation).await;
    (pieces.iter().map(|piece| piece.text.as_str()).collect(), finished.expect("finishes"))
}

/// The id of the token that stands for these bytes.
fn token(engine: &MistralEngine, text: &str) -> u32 {
    let ids = engine.tokenize(&Prompt::Text(text.into())).expect("tokenizes");
    ids[ids.len() - 1]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_greedy_answer_is_the_same_each_time_and_one_piece_per_token() {
    let engine = engine().await;
    let prompt = question(&engine, "What is Sluicegate?");
    let (pieces, finished) = collect(&engine, greedy(prompt.clone(), 64)).await;
    let finished = finished.expect("finishes");
    assert!(pieces.len() as u32 == finished.tokens_out - u32::from(finished.finish == Finish::Stop));
    let (again, _) = collect(&engine, greedy(prompt, 64)).await;
    assert_eq!(pieces, again);
    assert_eq!((engine.stats().running, finished.cached_tokens), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_seed_gives_one_text_whatever_else_is_in_the_batch() {
    let engine = engine().await;
    let prompt = question(&engine, "Tell me a story.");
    let (alone, _) = text(&engine, seeded(prompt.clone(), 40, 2.5, 7)).await;
    let same = (0..12).map(|_| text(&engine, seeded(prompt.clone(), 40, 2.5, 7)));
    let others = (0..12).map(|n| {
        let other = question(&engine, &"why? ".repeat(1 + n as usize % 4));
        text(&engine, seeded(other, 30 + n, 2.5, u64::from(n)))
    });
    let (same, others) = tokio::join!(join_all(same), join_all(others));
    assert!(same.iter().all(|(text, _)| *text == alone), "{alone:?} {same:?}");
    assert!(others.iter().any(|(text, _)| *text != alone));
    let (other_seed, _) = text(&engine, seeded(prompt, 40, 2.5, 8)).await;
    assert_ne!(other_seed, alone);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_runs_beside_a_sequence_changes_nothing_in_it() {
    let engine = engine().await;
    // Of one length, so that an engine that batches would batch them.
    let asked = |n: u32| {
        let prompt: Vec<u32> = (0..16).map(|k| 20 + (n * 37 + k * 11) % 900).collect();
        Generation { top_logprobs: Some(1), ..seeded(prompt.into(), 24, 1.0, 7) }
    };
    let mut alone = Vec::new();
    for n in 0..12 {
        alone.push(collect(&engine, asked(n)).await.0);
    }
    let together = join_all((0..12).map(|n| collect(&engine, asked(n)))).await;
    for ((together, _), alone) in together.into_iter().zip(alone) {
        assert_eq!(together, alone, "to the last bit of each log-probability");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn max_tokens_ends_the_text_with_the_last_token_handed_over() {
    let engine = engine().await;
    for max_tokens in [1, 2, 9] {
        // Without end tokens the model goes on for as long as it may.
        let mut generation = seeded(question(&engine, "Hello"), max_tokens, 1.0, 3);
        generation.sampling.logit_bias = vec![(0, -100.0), (2, -100.0)];
        let (pieces, finished) = collect(&engine, generation).await;
        let finished = finished.expect("finishes");
        assert_eq!((finished.finish, finished.tokens_out), (Finish::Length, max_tokens));
        assert_eq!(pieces.len() as u32, max_tokens);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_text_that_ends_with_its_first_token_is_empty_and_leaves_the_engine() {
    let engine = engine().await;
    let mut generation = greedy(question(&engine, "Hello"), 20);
    generation.sampling.logit_bias = vec![(2, 1000.0)];
    let (pieces, finished) = collect(&engine, generation).await;
    let finished = finished.expect("finishes");
    assert_eq!((finished.finish, finished.tokens_out, pieces.len()), (Finish::Stop, 1, 0));
    assert_eq!(engine.stats().running, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_inside_a_character_is_an_end_like_any_other() {
    let engine = engine().await;
    // The first byte of a character, over and over: never valid, and at the end unfinished.
    let first_byte = engine.tokenize(&Prompt::Text("\u{a7}".into())).expect("tokenizes")[0];
    let mut generation = greedy(question(&engine, "Hello"), 3);
    generation.sampling.logit_bias = vec![(first_byte, 1000.0)];
    let (text, finished) = text(&engine, generation).await;
    assert_eq!((finished.finish, finished.tokens_out), (Finish::Length, 3));
    assert_eq!(text, "\u{fffd}\u{fffd}");
}

#[tokio::test(flavor = "multi_thread")]
async fn stop_strings_are_never_shown_and_end_the_sequence() {
    let engine = engine().await;
    let mut free = seeded(question(&engine, "What is Sluicegate?"), 60, 1.5, 5);
    free.sampling.logit_bias = vec![(0, -100.0), (2, -100.0)];
    let (whole, _) = text(&engine, free.clone()).await;
    let middle: Vec<char> = whole.chars().skip(whole.chars().count() / 2).take(4).collect();
    let stop: String = middle.into_iter().collect();
    let stopped = Generation { stop: vec![stop.clone()], ..free };
    let (shown, finished) = text(&engine, stopped).await;
    assert_eq!(Some(shown.as_str()), whole.split(&stop).next(), "{whole:?} at {stop:?}");
    assert_eq!(finished.finish, Finish::Stop);
    assert!(finished.tokens_out < 60);
    assert_eq!(engine.stats().running, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn logprobs_are_natural_logs_of_a_distribution_and_know_no_temperature() {
    let engine = engine().await;
    let prompt = question(&engine, "What is Sluicegate?");
    let asked = |temperature| Generation { top_logprobs: Some(20), ..seeded(prompt.clone(), 12, temperature, 1) };
    let (pieces, _) = collect(&engine, asked(0.0)).await;
    for piece in &pieces {
        let logprobs = piece.logprobs.as_ref().expect("asked for");
        assert_eq!(logprobs.top.len(), 20);
        assert_eq!((logprobs.top[0].logprob, &logprobs.top[0].bytes), (logprobs.logprob, &logprobs.bytes));
        let sum: f32 = logprobs.top.iter().map(|top| top.logprob.exp()).sum();
        assert!(logprobs.top.is_sorted_by(|a, b| a.logprob >= b.logprob) && sum <= 1.0001, "{sum}");
    }
    let (hot, _) = collect(&engine, asked(3.0)).await;
    let top = |pieces: &[Piece]| pieces[0].logprobs.as_ref().map(|logprobs| logprobs.top.clone());
    assert_eq!(top(&hot), top(&pieces), "the first position has the same logits");
}

#[tokio::test(flavor = "multi_thread")]
async fn penalties_do_not_count_the_prompt() {
    let engine = engine().await;
    let prompt = question(&engine, "What is Sluicegate?");
    let (plain, _) = text(&engine, greedy(prompt.clone(), 1)).await;
    let mut penalized = greedy([&*prompt, &[token(&engine, &plain)], &prompt].concat().into(), 1);
    let (before, _) = text(&engine, penalized.clone()).await;
    penalized.sampling.presence_penalty = 2.0;
    penalized.sampling.frequency_penalty = 2.0;
    penalized.sampling.repetition_penalty = 5.0;
    assert_eq!(text(&engine, penalized).await.0, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_generation_returns_when_the_engine_has_let_go() {
    let engine = engine().await;
    struct CancelAfter(CancellationToken, usize);
    impl Sink for CancelAfter {
        fn token(&mut self, _: Piece) -> ControlFlow<()> {
            // More may come with the one that it stops at.
            self.1 = self.1.saturating_sub(1);
            if self.1 == 0 {
                self.0.cancel();
            }
            ControlFlow::Continue(())
        }
    }
    let mut generation = seeded(question(&engine, "Hello"), 3000, 1.0, 3);
    generation.sampling.logit_bias = vec![(0, -100.0), (2, -100.0)];
    let mut sink = CancelAfter(generation.cancel.clone(), 3);
    let finished = engine.generate(generation.clone(), &mut sink).await.expect("is cancelled");
    assert_eq!((finished.finish, engine.stats().running), (Finish::Canceled, 0));

    let mut sink = Pieces { pieces: Vec::new(), limit: 4 };
    generation.cancel = CancellationToken::new();
    let finished = engine.generate(generation.clone(), &mut sink).await.expect("is cancelled");
    assert_eq!((finished.finish, sink.pieces.len(), engine.stats().running), (Finish::Canceled, 4, 0));

    generation.cancel.cancel();
    let (pieces, finished) = collect(&engine, generation).await;
    assert_eq!((finished.expect("is cancelled").finish, pieces.len()), (Finish::Canceled, 0));
    assert_eq!(engine.stats().running, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_generation_under_a_grammar_can_be_cancelled_where_no_end_is_allowed() {
    let engine = engine().await;
    let mut generation = seeded(question(&engine, "Hello"), 3000, 1.0, 3);
    generation.grammar = Some(Grammar::JsonSchema(json!({"type": "string", "minLength": 9000})));
    let mut sink = Pieces { pieces: Vec::new(), limit: 5 };
    let finished = engine.generate(generation, &mut sink).await.expect("is cancelled");
    assert_eq!((finished.finish, engine.stats().running), (Finish::Canceled, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_generation_leaves_the_engine() {
    let engine = engine().await;
    let mut generation = greedy(question(&engine, "Hello"), 3000);
    generation.sampling.logit_bias = vec![(0, -100.0), (2, -100.0)];
    let mut sink = Pieces { pieces: Vec::new(), limit: usize::MAX };
    {
        let mut running = pin!(engine.generate(generation, &mut sink));
        assert!(futures_util::poll!(&mut running).is_pending());
        assert_eq!(engine.stats().running, 1);
    }
    while engine.stats().running > 0 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_generation_that_nobody_polls_stalls_no_other() {
    let engine = engine().await;
    let prompt = question(&engine, "Hello");
    let mut sink = Pieces { pieces: Vec::new(), limit: usize::MAX };
    let mut long = greedy(prompt.clone(), 500);
    long.sampling.logit_bias = vec![(0, -100.0), (2, -100.0)];
    let mut unpolled = pin!(engine.generate(long, &mut sink));
    assert!(futures_util::poll!(&mut unpolled).is_pending());
    for seed in 0..4 {
        text(&engine, seeded(prompt.clone(), 200, 1.0, seed)).await;
    }
    let finished = unpolled.await.expect("finishes");
    assert_eq!((finished.finish, finished.tokens_out), (Finish::Length, 500));
}

#[tokio::test(flavor = "multi_thread")]
async fn json_stays_in_its_grammar_and_ends() {
    let engine = engine().await;
    let prompt = question(&engine, "Give me JSON.");
    let schema = json!({"type": "object", "additionalProperties": false, "required": ["ok", "kind"],
        "properties": {"ok": {"type": "boolean"}, "kind": {"enum": ["red", "blue"]}}});
    for seed in 0..6 {
        let grammar = Some(Grammar::JsonSchema(schema.clone()));
        let (answer, finished) = text(&engine, Generation { grammar, ..seeded(prompt.clone(), 300, 1.5, seed) }).await;
        assert_eq!(finished.finish, Finish::Stop, "{answer:?}");
        let value: Value = serde_json::from_str(&answer).expect("is JSON");
        assert!(value["ok"].is_boolean() && (value["kind"] == "red" || value["kind"] == "blue"), "{value}");
    }
    let object = Generation { grammar: Some(Grammar::JsonObject), ..seeded(prompt.clone(), 40, 1.0, 1) };
    let ((one, _), (two, _)) = tokio::join!(text(&engine, object.clone()), text(&engine, object));
    assert!(one.trim_start().starts_with('{'), "{one:?}");
    assert_eq!(one, two, "the same seed, sampled twice at some positions");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schema_that_cannot_be_compiled_is_refused_and_harms_no_one() {
    let engine = engine().await;
    let prompt = question(&engine, "Hello");
    for schema in [
        json!({"type": "no such type"}),
        json!({"$ref": "https://example.com/x.json"}),
        json!({"$ref": "#"}),
        json!(false),
    ] {
        let refused = Generation { grammar: Some(Grammar::JsonSchema(schema)), ..greedy(prompt.clone(), 20) };
        let (refused, other) = tokio::join!(collect(&engine, refused), text(&engine, greedy(prompt.clone(), 30)));
        assert_eq!(refused.1, Err(EngineError::Grammar));
        assert!(other.1.tokens_out > 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_engine_cannot_take_never_reaches_it() {
    let engine = engine().await;
    let info = engine.info().clone();
    let prompt = question(&engine, "Hello");
    for refused in [
        greedy(vec![5; info.context_length as usize + 1].into(), 1),
        greedy(prompt.clone(), info.context_length),
        greedy(vec![info.vocab_size].into(), 1),
        greedy([].into(), 1),
        greedy(prompt.clone(), 0),
    ] {
        assert_eq!(collect(&engine, refused).await.1, Err(EngineError::Rejected));
    }
    text(&engine, greedy(prompt, 5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_context_is_used_to_its_last_token() {
    let engine = MistralEngine::load(LoadSpec {
        context_length: Some(64),
        slots: Some(2),
        ..spec(ModelFiles::Folder(builtin_model()))
    });
    let engine = engine.await.expect("loads");
    assert_eq!((engine.info().context_length, engine.info().slots), (64, 2));
    let mut generation = greedy(vec![50; 60].into(), 4);
    generation.sampling.logit_bias = vec![(0, -100.0), (2, -100.0)];
    let (_, finished) = text(&engine, generation).await;
    assert_eq!((finished.finish, finished.tokens_out), (Finish::Length, 4));
}

#[tokio::test(flavor = "multi_thread")]
async fn more_generations_than_slots_all_finish() {
    let engine = engine().await;
    let runs = (0..40).map(|n| {
        let prompt = question(&engine, &"x ".repeat(n % 7 + 1));
        text(&engine, seeded(prompt, 20, 1.0, n as u64))
    });
    let finished = join_all(runs).await;
    assert!(finished.iter().all(|(_, finished)| finished.tokens_out > 0));
    let stats = engine.stats();
    let sampled: u64 = finished.iter().map(|(_, finished)| u64::from(finished.tokens_out)).sum();
    assert_eq!((stats.running, stats.tokens_total), (0, sampled));
    assert!(stats.tokens_per_s > 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_probe_runs_the_model_and_unloading_ends_what_runs() {
    let engine = engine().await;
    assert!(engine.probe(1).await.expect("works").tokens_out > 0);
    let mut generation = greedy(question(&engine, "Hello"), 3000);
    generation.sampling.logit_bias = vec![(0, -100.0), (2, -100.0)];
    let (running, ()) = tokio::join!(collect(&engine, generation), async {
        while engine.stats().running == 0 {
            tokio::task::yield_now().await;
        }
        engine.unload().await;
    });
    assert_eq!(running.1, Err(EngineError::Reset));
    assert_eq!(engine.probe(1).await, Err(EngineError::Reset));
}
