//! What an engine is: the one seam between the gateway and whatever runs a model.
//!
//! An [`Engine`] works at the level of tokens. The gateway asks it to prepare a prompt before admission, which counts it (as
//! token ids where the model runs here), and later to generate from what was prepared. Everything a client can see of the text (decoding, stop strings,
//! log-probabilities) is done by the engine's adapter, and comes out one [`Piece`] per sampled token.
//!
//! Some engines have models that give vectors and not text: they [`evaluate`](Engine::evaluate) inputs, of which each was
//! prepared in the same way.
//!
//! # Cancellation
//!
//! [`Engine::generate`] ends when its [`CancellationToken`] is cancelled, when its [`Sink`] breaks, or when the future is
//! dropped. In the first two cases it returns only once the engine has let go of the sequence (or after
//! [`LET_GO_DEADLINE`]), so that whoever holds a slot for it can hand the slot on without overfilling the engine.
//!
//! # Errors
//!
//! An [`EngineError`] carries nothing of the underlying engine's messages; those are logged where they are met.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use sluicegate_compat::native::{
    EngineName, Input, Message, Modality, Quantization, TokenKind, TokenLogprobs, Tool, ToolDelta, Workload,
};
use smol_str::SmolStr;
use tokio_util::sync::CancellationToken;

use crate::ids::CorrelationId;

mod device;
mod evaluation;
mod form;
mod meter;
pub mod mistral;
mod permit;
pub mod remote;
pub mod scripted;
pub mod text;

pub use device::{Cache, GpuUse};
pub use evaluation::{Batch, Evaluated, Evaluation, Instructions, cosine, normalize, shorten};
pub use form::{Calling, Choice, Grammar, Reading, Unheld};
pub use permit::LoadPermit;

/// How long [`Engine::generate`] waits for the engine to let go of a cancelled sequence before it returns all the same.
pub const LET_GO_DEADLINE: Duration = Duration::from_secs(10);

/// A loaded model on one device, able to run up to [`EngineInfo::slots`] sequences at once.
pub trait Engine: Send + Sync + 'static {
    /// Facts that do not change while the model is loaded.
    fn info(&self) -> &EngineInfo;

    /// Renders (for a chat) and counts a prompt. Pure CPU work, some µs per token: call it off the reactor when long.
    ///
    /// # Errors
    ///
    /// [`PromptError`], which is the caller's fault and says so in words meant for the caller.
    fn prepare(&self, prompt: &Arc<Prompt>) -> Result<Prepared, PromptError>;

    /// The model's text side, where the model runs here.
    fn text(&self) -> Option<&text::TextModel> {
        None
    }

    /// Whether an answer can be held to what a request asks for. Makes the grammar, which takes some ms, and more for a large
    /// schema.
    ///
    /// # Errors
    ///
    /// [`Unheld`], where the engine makes grammars and can make none of this.
    fn hold(&self, _: Option<&Grammar>, _: &Reading) -> Result<(), Unheld> {
        Ok(())
    }

    /// Runs one sequence to its end, handing each sampled token to `sink` as soon as it is known.
    ///
    /// # Errors
    ///
    /// [`EngineError`] when the engine fails; tokens handed over before that stand.
    fn generate<'a>(
        &'a self,
        generation: Generation,
        sink: &'a mut dyn Sink,
    ) -> BoxFuture<'a, Result<Finished, EngineError>>;

    /// Embeds the inputs of a batch, or scores them against its query, and calls `done` after each or after some, to show
    /// that it goes on. Holds one slot, and lets go of it as [`generate`](Self::generate) does.
    ///
    /// # Errors
    ///
    /// [`EngineError`] when the engine fails, or has no such model: see [`EngineInfo::workloads`].
    fn evaluate<'a>(
        &'a self,
        _evaluation: Evaluation,
        _done: &'a mut (dyn FnMut() + Send),
    ) -> BoxFuture<'a, Result<Evaluated, EngineError>> {
        async { Err(EngineError::Rejected) }.boxed()
    }

    /// A snapshot of what runs now.
    fn stats(&self) -> EngineStats;

    /// What went wrong last, in words for the operator; `None` where that is not known, or all has gone well since.
    fn trouble(&self) -> Option<String> {
        None
    }

    /// Runs a real generation of a few tokens after `prompt_tokens` (or as many as there is room for), to learn whether
    /// the engine works (again) and how fast it is.
    ///
    /// # Errors
    ///
    /// As [`Engine::generate`].
    fn probe(&self, prompt_tokens: u32) -> BoxFuture<'_, Result<Finished, EngineError>>;

    /// Stops the engine and frees its memory; generations under way end with [`EngineError::Reset`].
    fn unload(&self) -> BoxFuture<'_, ()>;
}

/// Facts about a loaded engine.
#[derive(Debug, Clone, PartialEq)]
pub struct EngineInfo {
    pub engine: EngineName,
    /// The version of the crate or program that runs the model.
    pub engine_version: String,
    /// Changes whenever the same seed would give other tokens: see [`text::SAMPLER_PROFILE_VERSION`].
    pub sampler_profile_version: String,
    /// `sha256:` and the hex digest over the model's files.
    pub model_digest: String,
    /// Tokens of prompt and output together.
    pub context_length: u32,
    /// Sequences at once.
    pub slots: u32,
    /// The cache that its sequences share; `None` where each slot has room for a whole context of its own.
    pub cache: Option<Cache>,
    /// Where it runs: `cpu`, `cuda:0`, or `none` for the scripted engine.
    pub device: String,
    /// What its weights were turned into when they were loaded; `None`: they are as in the files.
    pub quantization: Option<Quantization>,
    /// Token ids are below this.
    pub vocab_size: u32,
    /// How the model's makers say it should be sampled, for what a request leaves open.
    pub sampling: Sampling,
    /// Fields of a request that the engine cannot follow; admission refuses them by name.
    pub unsupported: &'static [&'static str],
    /// What can be asked of the model.
    pub workloads: Vec<Workload>,
    /// What the messages of a conversation may hold; text always.
    pub modalities: Vec<Modality>,
    /// Numbers of an embedding, where that is known.
    pub dimensions: Option<u32>,
    /// For texts that are compared with each other.
    pub instructions: Instructions,
}

/// What a prompt is made of.
#[derive(Debug, Clone, PartialEq)]
pub enum Prompt {
    /// Plain text, as for completions; special tokens in it are not recognised.
    Text(String),
    /// A conversation, rendered with the model's own chat template.
    Chat(Chat),
    /// Token ids, passed on as they are once each is known to be below the vocabulary's size.
    Tokens(Vec<u32>),
}

impl From<Input> for Prompt {
    fn from(input: Input) -> Self {
        match input {
            Input::Text(text) => Self::Text(text),
            Input::Tokens(ids) => Self::Tokens(ids),
        }
    }
}

/// A prompt as [`Engine::prepare`] leaves it for [`Engine::generate`].
#[derive(Debug, Clone, PartialEq)]
pub enum Prepared {
    /// Its token ids, for an engine that runs the model itself.
    Ids(Arc<[u32]>),
    /// The token ids of a conversation that shows images, for an engine that runs the model itself and takes them as `text`
    /// and images, which are in `prompt`.
    Shown { ids: Arc<[u32]>, text: Arc<str>, prompt: Arc<Prompt> },
    /// The prompt itself, for an engine that hands it on; `tokens` is its length, or an upper bound of it.
    Content { prompt: Arc<Prompt>, tokens: u32 },
}

impl Prepared {
    /// Tokens, or an upper bound of them.
    pub fn len(&self) -> usize {
        match self {
            Self::Ids(ids) | Self::Shown { ids, .. } => ids.len(),
            Self::Content { tokens, .. } => *tokens as usize,
        }
    }

    /// Whether there is nothing to go on from.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The token ids; none where only the content is known.
    pub fn ids(&self) -> &[u32] {
        match self {
            Self::Ids(ids) | Self::Shown { ids, .. } => ids,
            Self::Content { .. } => &[],
        }
    }
}

impl From<Arc<[u32]>> for Prepared {
    fn from(ids: Arc<[u32]>) -> Self {
        Self::Ids(ids)
    }
}

/// What an engine gets of a request.
#[derive(Debug, Clone, PartialEq)]
pub enum Material {
    /// What a text goes on from.
    Prompt(Prepared),
    /// What is to be embedded or scored.
    Batch(Arc<Batch>),
}

/// A conversation with what its template may need.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Chat {
    pub messages: Vec<Message>,
    pub tools: Vec<Tool>,
    /// Extra variables for the template, such as `enable_thinking`.
    pub kwargs: BTreeMap<String, serde_json::Value>,
    /// The answer goes on from the last message, which is the assistant's.
    pub continues: bool,
}

/// A prompt that cannot be used; the message is meant for the caller.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct PromptError {
    /// The field of the native request it is about: `prompt`, `messages`, …
    pub param: &'static str,
    pub message: String,
}

/// One sequence to generate.
#[derive(Debug, Clone)]
pub struct Generation {
    pub prompt: Prepared,
    /// At least 1, and prompt + max_tokens fits the context.
    pub max_tokens: u32,
    pub sampling: Sampling,
    /// The text ends before the first of these; they are never handed to the sink, not even in part.
    pub stop: Vec<String>,
    /// How many alternatives to report with each token's log-probability; `None` reports nothing.
    pub top_logprobs: Option<u8>,
    pub grammar: Option<Grammar>,
    pub reading: Reading,
    /// Keep nothing of earlier sequences' caches: for `strict` determinism and `kv_hint: cold`.
    pub cold: bool,
    /// Whose it is, for an engine that has a log of its own; `None` for a probe.
    pub correlation_id: Option<CorrelationId>,
    pub cancel: CancellationToken,
}

impl Generation {
    /// Whether the engine is to keep the text to a grammar.
    pub fn is_constrained(&self) -> bool {
        let calls = matches!(&self.reading, Reading::Answer(Some(calling)) if calling.is_held());
        self.grammar.is_some() || calls
    }
}

/// How to choose tokens. Ranges were checked at admission.
#[derive(Debug, Clone, PartialEq)]
pub struct Sampling {
    /// 0 takes the likeliest token.
    pub temperature: f32,
    pub top_p: f32,
    pub top_k: Option<u32>,
    pub min_p: f32,
    /// Over generated tokens only.
    pub frequency_penalty: f32,
    /// Over generated tokens only.
    pub presence_penalty: f32,
    /// Over generated tokens only; 1 changes nothing.
    pub repetition_penalty: f32,
    /// (token id, added to its logit), ids in ascending order.
    pub logit_bias: Vec<(u32, f32)>,
    /// The noise is a function of this, the position and the token alone. Differs between the choices of one task.
    pub seed: u64,
    /// Which of these the request itself names, for an engine elsewhere that has its own view of what is left open.
    pub stated: Stated,
}

/// What a request says about how tokens are chosen; what it does not say is the engine's to choose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stated {
    pub temperature: bool,
    pub top_p: bool,
    pub seed: bool,
}

impl Default for Sampling {
    /// Temperature 1 and nothing else, as in the OpenAI API.
    fn default() -> Self {
        Self {
            temperature: 1.0,
            top_p: 1.0,
            top_k: None,
            min_p: 0.0,
            frequency_penalty: 0.0,
            presence_penalty: 0.0,
            repetition_penalty: 1.0,
            logit_bias: Vec::new(),
            seed: 0,
            stated: Stated::default(),
        }
    }
}

/// Where the tokens of one sequence go.
pub trait Sink: Send {
    /// Takes the next token. Must not block: the engine's adapter calls it while it drains the engine.
    ///
    /// `Break` ends the generation as if it had been cancelled.
    fn token(&mut self, piece: Piece) -> ControlFlow<()>;
}

/// Where the tokens of a probe go.
struct Nowhere;

impl Sink for Nowhere {
    fn token(&mut self, _: Piece) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }
}

/// One sampled token that is part of the text (the end token and those of a stop string are not handed over).
#[derive(Debug, Clone, PartialEq)]
pub struct Piece {
    /// The text it completes; empty where the token ends inside a UTF-8 character.
    pub text: SmolStr,
    pub kind: TokenKind,
    /// What it adds to a call, for the kind [`Tool`](TokenKind::Tool) alone.
    pub tool: Option<Arc<ToolDelta>>,
    /// There when [`Generation::top_logprobs`] asked for it.
    pub logprobs: Option<Arc<TokenLogprobs>>,
}

/// Why a sequence ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finish {
    /// The end token, a stop string, or the end of the grammar.
    Stop,
    /// As `Stop`, where the answer has called tools.
    ToolCalls,
    /// `max_tokens`, or the end of the context.
    Length,
    /// The cancellation token, or the sink.
    Canceled,
}

/// How a sequence ended, and what it cost.
#[derive(Debug, Clone, PartialEq)]
pub struct Finished {
    pub finish: Finish,
    /// The stop string that ended it, where the engine knows.
    pub matched_stop: Option<String>,
    /// Tokens sampled: the end token and those of a stop string included.
    pub tokens_out: u32,
    /// Prompt tokens that the engine took from its cache; 0 where it does not say.
    pub cached_tokens: u32,
    /// From the call to the first sampled token: prefill, and the wait for the engine's round.
    pub prefill: Duration,
    /// From the first sampled token to the last.
    pub decode: Duration,
}

/// What an engine does now.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct EngineStats {
    /// Sequences at once at most.
    pub slots: u32,
    /// Sequences that the engine holds now, cancelled ones that it has not let go of included.
    pub running: u32,
    /// Sampled tokens since loading.
    pub tokens_total: u64,
    /// Sampled tokens per second over the last seconds, all sequences together.
    pub tokens_per_s: f64,
    /// Tokens of prompts and output that its sequences hold in its cache now; 0 for one elsewhere, which does not say.
    pub kv_tokens: u64,
    /// Of its device, where that is one.
    pub gpu: Option<GpuUse>,
}

/// How an engine failed under a sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EngineError {
    /// The engine died or lost the sequence; the replica must be probed before it takes more work.
    #[error("the engine failed while it ran the task")]
    Reset,
    /// The engine refused the input, which passed our own checks.
    #[error("the engine does not accept this input")]
    Rejected,
    /// The server elsewhere takes chats and no plain prompts.
    #[error("the server takes no plain prompts")]
    NoPrompts,
    /// The server elsewhere does not have what its pool says that it serves.
    #[error("the server does not serve this workload")]
    NoWorkload,
    /// The grammar cannot be compiled; the message names the place for the caller.
    #[error("the JSON schema cannot be enforced")]
    Grammar,
    /// More numbers are wanted of a vector than the model gives.
    #[error("the model's vectors have fewer numbers")]
    Dimensions,
}

/// Why a model could not be loaded. The message is for the operator: it names the file and the fault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct LoadError(pub String);

/// Makes engines of one model: once at start, and again when one has to be rebuilt.
pub trait Loader: Send + Sync + 'static {
    /// Makes the model's files ready, and then waits until nothing else is loaded onto the device.
    ///
    /// # Errors
    ///
    /// [`LoadError`], in words for the operator.
    fn ready(&self) -> BoxFuture<'_, Result<LoadPermit, LoadError>> {
        async { Ok(LoadPermit::FREE) }.boxed()
    }

    /// Loads the model, which is [`ready`](Self::ready).
    ///
    /// # Errors
    ///
    /// [`LoadError`], in words for the operator.
    fn load<'a>(&'a self, permit: &'a LoadPermit) -> BoxFuture<'a, Result<Arc<dyn Engine>, LoadError>>;

    /// Makes the model's files ready and verifies their digest, with nothing loaded; says where there is room for `engines`
    /// engines of it.
    ///
    /// # Errors
    ///
    /// [`LoadError`], in words for the operator.
    fn verify(&self, engines: usize) -> BoxFuture<'_, Result<Room, LoadError>>;

    /// What loads `model` in the place of this one's. It knows nothing of the files that this one has found, also where the
    /// model is the same.
    ///
    /// # Errors
    ///
    /// [`LoadError`] where the engine can have no other model.
    fn of_model(&self, model: &str) -> Result<Arc<dyn Loader>, LoadError>;

    /// What loads the engine of this replica of its pool, where they are in different places; `None` where all are alike.
    fn for_replica(&self, _number: usize) -> Option<Arc<dyn Loader>> {
        None
    }

    /// What loads the same model from another server; `None` where it runs here.
    fn at(&self, _place: &remote::Place) -> Option<Arc<dyn Loader>> {
        None
    }
}

/// What loads the engine of this replica of a pool.
pub fn loader_for(loader: &Arc<dyn Loader>, replica: usize) -> Arc<dyn Loader> {
    loader.for_replica(replica).unwrap_or_else(|| Arc::clone(loader))
}

/// Where there is memory for more engines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Room {
    /// Beside those that are loaded.
    Beside,
    /// Only once those have gone.
    Instead,
}
