//! The mistral.rs engine, embedded: the only module that knows the `mistralrs` crates.
//!
//! mistral.rs is used at the level of tokens. It runs the model (weights, forward pass, batching, the cache of keys and
//! values, grammars); everything else is ours. A request carries token ids and a logits processor of ours; the processor
//! chooses each token (`text::Sampler`), records it, and answers with logits that leave the engine no other choice. Text,
//! stop strings, lengths and log-probabilities are made here from the recorded tokens.
//!
//! What this fences in, each with a test:
//!
//! - The engine waits for whoever reads its responses. Its channel has room for every chunk of its sequence, so it never
//!   waits for us, and what it says is only looked at for errors.
//! - It has no way to abort a sequence. Ours ends by choosing the end token (or, under a grammar, by hanging up), and the
//!   processor's own drop tells when the engine has let go.
//! - On the CPU it computes batches wrong. There, each sequence runs alone in an engine of its own (`lanes`).
//! - It loses requests after a failure and restarts itself. Any sequence that it drops without a word is
//!   [`EngineError::Reset`], and so are then all others of its engine, because an error in one sequence can leave the
//!   others of its batch wrong without notice. Before such an engine is given work again it must pass a trial run.
//! - It takes images only with a prompt that it tokenizes itself, and loses those that are shown beside a prompt without
//!   any. There the tokens are foreseen, and sequences run one at a time (`sight`).
//! - It pads the inputs of a batch to embed, and takes the vectors of the padding. Each input runs alone.
//! - Its messages carry paths and backtraces. They are logged, their first line, once per failure.
//!
//! # Cold and warm
//!
//! Every sequence runs cold: the engine is loaded without its prefix cache, so `Generation::cold` asks for what is
//! anyway the case, and `Finished::cached_tokens` is 0. In mistralrs 0.8.1 that cache cannot be passed over for one
//! request, so a cold run could not be had with it. Without paged attention it keeps the keys and values of every
//! finished sequence in memory for ever (it evicts only what is not in the CPU's memory). With paged attention it is wrong: of
//! prompts of different lengths that are scheduled together it computes those of one length, and takes the blocks of the
//! others for computed (`PagedAttentionScheduler::_preempt`), so that answers depend on what was in them before.
//!
//! The price on a GPU: in one step the engine computes only sequences of one length. It gives the blocks of the others away, and
//! computes those from their beginning when it is their turn, for each of their tokens
//! (<https://github.com/EricLBuehler/mistral.rs/issues/2024>). Sequences that have the same length and begin together are
//! computed together to their end.

mod check;
mod defaults;
mod embed;
mod gpu;
mod grammar;
mod lanes;
mod load;
mod processor;
mod replies;
mod run;
mod sight;
mod tap;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use sluicegate_compat::native::{Quantization, Workload};
use tokio_util::sync::CancellationToken;

use super::meter::Meter;
use super::text::TextModel;
use super::{
    Batch, Engine, EngineError, EngineInfo, EngineStats, Evaluated, Evaluation, Finish, Finished, Generation, Grammar,
    LET_GO_DEADLINE, LoadError, Nowhere, Prepared, Prompt, PromptError, Reading, Sampling, Sink, Unheld,
};
use gpu::Gpu;
pub use gpu::uuid as gpu_uuid;
use lanes::Lanes;
pub use load::copies_on_cpu;
use processor::Answers;
use sight::Sight;

/// The version of the `mistralrs` crates that the lock file holds.
const ENGINE_VERSION: &str = "0.8.1";

/// Tokens of an input to embed at least: with a single one the engine has no mask, and panics.
const LEAST_TO_EMBED: usize = 2;

/// Output tokens of a trial.
const TRIAL_TOKENS: u32 = 4;

/// How often unloading looks whether the engine's thread has dropped the model.
const UNLOAD_POLL: Duration = Duration::from_millis(5);

/// What to load, and how.
#[derive(Debug, Clone, PartialEq)]
pub struct LoadSpec {
    pub model: ModelFiles,
    /// Of the model's files, as `sha256:` and hex; computed by whoever provided them.
    pub digest: String,
    pub device: Device,
    /// Sequences at once. On the CPU each of them needs a copy of the model: by default as many as fit 256 MiB together,
    /// between 1 and 8. On a GPU by default as many as the cache has room for, 256 at most.
    pub slots: Option<u32>,
    /// Part of the GPU's memory for weights and cache, above 0 to 1.
    pub gpu_memory_share: f32,
    /// What the weights are turned into while they are loaded; `None`: they stay as they are in the files.
    pub quantization: Option<Quantization>,
    /// At most this many tokens of context, and never more than the model has.
    pub context_length: Option<u32>,
}

/// Where a model's files are. Nothing is ever downloaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ModelFiles {
    /// A folder as on Hugging Face: `config.json`, `tokenizer.json`, `*.safetensors`, and where it can chat
    /// `tokenizer_config.json` or `chat_template.jinja`. With a `modules.json` (sentence-transformers) it is a model that
    /// embeds.
    Folder(PathBuf),
    /// One GGUF file. Tokenizer and chat template are those in the file, or of a `tokenizer.json` beside it.
    Gguf(PathBuf),
}

/// Where a model runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Device {
    /// The first GPU where there is one and this program was built for it, else the CPU.
    #[default]
    Auto,
    Cpu,
    Cuda(usize),
}

/// A model loaded into mistral.rs.
pub struct MistralEngine {
    info: EngineInfo,
    text: TextModel,
    /// Tokens that end a text, as the engine sees it too.
    ends: Arc<[u32]>,
    answers: Arc<Answers>,
    /// The engine's own compiler of grammars; none where its tokenizer allows none.
    grammars: Option<Arc<mistralrs::llguidance::ParserFactory>>,
    meter: Arc<Meter>,
    lanes: Arc<Lanes>,
    /// The model gives vectors and no text.
    embeds: bool,
    /// How it is shown images, where it sees.
    sight: Option<Arc<Sight>>,
    gpu: Option<Gpu>,
    #[cfg(test)]
    fault: std::sync::Mutex<Option<Arc<dyn mistralrs::CustomLogitsProcessor>>>,
}

impl MistralEngine {
    /// Loads a model: reads its files, builds it on its device, starts the engine's thread. Nothing else may be loaded onto a GPU
    /// meanwhile: what that takes would count as this one's.
    ///
    /// Reads and builds on a thread of its own.
    ///
    /// # Errors
    ///
    /// [`LoadError`] in one line that names the file or the device and the fault.
    pub async fn load(spec: LoadSpec) -> Result<Self, LoadError> {
        let loaded = load::load(spec).await?;
        Ok(Self {
            embeds: loaded.info.workloads.contains(&Workload::Embedding),
            gpu: loaded.gpu,
            info: loaded.info,
            text: loaded.text,
            ends: loaded.ends,
            answers: Arc::default(),
            grammars: loaded.grammars,
            meter: Arc::new(Meter::new()),
            lanes: loaded.lanes,
            sight: loaded.sight.map(Arc::new),
            #[cfg(test)]
            fault: Default::default(),
        })
    }

    /// In tests: a logits processor that runs before ours, to fail the engine from inside.
    #[cfg(test)]
    fn inject_fault(&self, request: &mut mistralrs::NormalRequest) {
        let fault = self.fault.lock().expect("no test panics with it").take();
        request
            .logits_processors
            .iter_mut()
            .for_each(|processors| processors.splice(..0, fault.clone()).for_each(drop));
    }

    /// The token ids of a prompt.
    ///
    /// # Errors
    ///
    /// As [`Engine::prepare`].
    pub fn tokenize(&self, prompt: &Prompt) -> Result<Arc<[u32]>, PromptError> {
        self.text.tokenize(prompt)
    }

    /// Whether the engine could embed this; what it cannot take would panic it.
    fn accepts_input(&self, ids: &[u32]) -> bool {
        let lengths = LEAST_TO_EMBED..=self.info.context_length as usize;
        self.embeds && lengths.contains(&ids.len()) && ids.iter().all(|&id| id < self.info.vocab_size)
    }

    /// What keeps the text of a generation to its grammar.
    fn constraint(&self, generation: &Generation) -> mistralrs::Constraint {
        let (grammar, reading) = (generation.grammar.as_ref(), &generation.reading);
        let thinking = self.text.is_thinking(reading, generation.prompt.ids());
        grammar::constraint(&self.text, &self.ends, grammar, reading, thinking)
    }

    /// A few tokens, to see whether the engine works.
    fn trial(&self, prompt_tokens: u32) -> Generation {
        let text = self.text.tokenize(&Prompt::Text("Hello".into())).unwrap_or_default();
        let text = if text.is_empty() { &[0] } else { text.as_ref() };
        let most = self.info.context_length.saturating_sub(TRIAL_TOKENS).max(1);
        let least = if self.embeds { LEAST_TO_EMBED } else { 1 };
        let length = (prompt_tokens.clamp(1, most) as usize).max(least);
        let prompt: Arc<[u32]> = text.iter().copied().cycle().take(length).collect();
        Generation {
            max_tokens: TRIAL_TOKENS.min(self.info.context_length.saturating_sub(prompt.len() as u32)),
            prompt: prompt.into(),
            sampling: Sampling { temperature: 0.0, ..Sampling::default() },
            stop: Vec::new(),
            top_logprobs: None,
            grammar: None,
            reading: Reading::Plain,
            cold: true,
            correlation_id: None,
            cancel: CancellationToken::new(),
        }
    }

    /// Whether the engine could take this; what it cannot take would fail it, and others with it.
    fn accepts(&self, generation: &Generation) -> bool {
        let tokens = generation.prompt.len() as u64 + u64::from(generation.max_tokens);
        !self.embeds
            && generation.max_tokens > 0
            && !generation.prompt.ids().is_empty()
            && tokens <= u64::from(self.info.context_length)
            && generation.prompt.ids().iter().all(|&id| id < self.info.vocab_size)
    }
}

impl Engine for MistralEngine {
    fn info(&self) -> &EngineInfo {
        &self.info
    }

    fn prepare(&self, prompt: &Arc<Prompt>) -> Result<Prepared, PromptError> {
        if let Some(shown) = self.sight.as_ref().and_then(|sight| sight.prepare(&self.text, prompt)) {
            return shown;
        }
        let ids = self.text.tokenize(prompt)?;
        if self.embeds && ids.len() < LEAST_TO_EMBED {
            let message = "a single token cannot be embedded by this engine".to_owned();
            return Err(PromptError { param: "prompt", message });
        }
        Ok(Prepared::Ids(ids))
    }

    fn text(&self) -> Option<&TextModel> {
        Some(&self.text)
    }

    fn hold(&self, grammar: Option<&Grammar>, reading: &Reading) -> Result<(), Unheld> {
        self.grammars.as_ref().map_or(Ok(()), |factory| grammar::check(factory, &self.text, grammar, reading))
    }

    fn generate<'a>(
        &'a self,
        generation: Generation,
        sink: &'a mut dyn Sink,
    ) -> BoxFuture<'a, Result<Finished, EngineError>> {
        run::run(self, generation, sink).boxed()
    }

    fn evaluate<'a>(
        &'a self,
        evaluation: Evaluation,
        done: &'a mut (dyn FnMut() + Send),
    ) -> BoxFuture<'a, Result<Evaluated, EngineError>> {
        embed::run(self, evaluation, done).boxed()
    }

    fn stats(&self) -> EngineStats {
        EngineStats { slots: self.info.slots, gpu: self.gpu.as_ref().and_then(Gpu::usage), ..self.meter.stats() }
    }

    fn probe(&self, prompt_tokens: u32) -> BoxFuture<'_, Result<Finished, EngineError>> {
        async move {
            let generation = self.trial(prompt_tokens);
            if !self.embeds {
                return self.generate(generation, &mut Nowhere).await;
            }
            let batch = Arc::new(Batch { query: None, inputs: vec![generation.prompt] });
            let evaluation = Evaluation { batch, dimensions: None, correlation_id: None, cancel: generation.cancel };
            let evaluated = self.evaluate(evaluation, &mut || ()).await?;
            let (finish, prefill, decode) = (Finish::Length, evaluated.took, Duration::ZERO);
            Ok(Finished { finish, matched_stop: None, tokens_out: 0, cached_tokens: 0, prefill, decode })
        }
        .boxed()
    }

    fn unload(&self) -> BoxFuture<'_, ()> {
        async {
            self.lanes.close();
            let gone = async {
                while !self.lanes.are_gone() {
                    tokio::time::sleep(UNLOAD_POLL).await;
                }
            };
            if tokio::time::timeout(LET_GO_DEADLINE, gone).await.is_err() {
                tracing::warn!(model = %self.info.model_digest, "the engine has not dropped the model in time");
            }
        }
        .boxed()
    }
}

/// The message of an error without the backtrace that follows it.
fn first_line(message: &str) -> &str {
    message.lines().next().unwrap_or_default()
}

#[cfg(test)]
mod tests;
