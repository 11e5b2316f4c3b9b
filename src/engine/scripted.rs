//! The scripted engine: tokens, delays and failures from a script, the same every time.
//!
//! For tests under paused time, demonstrations and load tests. A prompt's tokens are its whitespace-separated words, so
//! counts are easy to foresee; a chat counts the words of its messages. Everything else behaves like a real engine: slots
//! are counted, cancellation ends a sequence at its next token, stop strings and `max_tokens` hold.
//!
//! It can embed and score as well, at the same pace and with the same failures, an input for a token: a text's vector is
//! made of its words, so texts that share words are near each other.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use futures_util::future::{BoxFuture, FutureExt as _};
use sluicegate_compat::native::{Content, ContentPart, EngineName, Modality, TokenLogprobs, TopLogprob, Workload};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::text::{AnswerReader, CallFormat, Markup, Output};
use super::{
    Batch, Cache, Engine, EngineError, EngineInfo, EngineStats, Evaluated, Evaluation, Finish, Finished, Generation,
    Instructions, Prepared, Prompt, PromptError, Reading, Sampling, Sink, normalize,
};

/// Numbers of a vector.
const DIMENSIONS: u32 = 8;

/// What every sequence of the engine does.
#[derive(Debug, Clone, PartialEq)]
pub struct Script {
    /// From the call to the first token.
    pub first_token: Duration,
    /// Between tokens.
    pub token: Duration,
    /// The texts of the tokens, in order.
    pub tokens: Vec<String>,
    /// Start again when the tokens run out, until `max_tokens`; otherwise the sequence ends with `stop`.
    pub repeat: bool,
    /// Fail after so many tokens of a sequence.
    pub failure: Option<Failure>,
    /// Sequences at once.
    pub slots: u32,
    /// The cache that they share.
    pub cache: Option<Cache>,
    /// Where it says that it runs.
    pub device: String,
    /// Tokens of prompt and output together.
    pub context_length: u32,
    /// What it says of its model's files.
    pub model_digest: String,
    /// What can be asked of it.
    pub workloads: Vec<Workload>,
    /// What its messages may hold; text always.
    pub modalities: Vec<Modality>,
    /// How answers in a conversation are read.
    pub markup: Markup,
}

/// A scripted failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Failure {
    /// Tokens that come before it.
    pub after: u32,
    pub kind: FailureKind,
    /// How many sequences fail, the first ones; later ones work.
    pub times: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureKind {
    /// [`EngineError::Reset`].
    Reset,
    /// The engine's code panics.
    Panic,
    /// Nothing comes any more, until the sequence is cancelled.
    Stall,
    /// [`EngineError::Reset`], and from then on for everything, probes included.
    Death,
}

impl Default for Script {
    fn default() -> Self {
        let words = "This is the scripted engine: it says the same words to everyone, at a steady pace. ";
        Self {
            first_token: Duration::from_millis(20),
            token: Duration::from_millis(10),
            tokens: words.split_inclusive(' ').map(str::to_owned).collect(),
            repeat: true,
            failure: None,
            slots: 8,
            cache: None,
            device: "none".to_owned(),
            context_length: 8192,
            model_digest: "none".to_owned(),
            workloads: vec![Workload::Completion],
            modalities: vec![Modality::Text],
            markup: Markup { calls: Some(CallFormat::Hermes), reasoning: true },
        }
    }
}

/// An engine that follows a [`Script`].
pub struct ScriptedEngine {
    script: Script,
    info: EngineInfo,
    running: AtomicU32,
    failures_left: AtomicU32,
    dead: AtomicBool,
    tokens_total: AtomicU64,
    kv_tokens: AtomicU64,
    loaded: Instant,
}

impl ScriptedEngine {
    pub fn new(script: Script) -> Self {
        let info = EngineInfo {
            engine: EngineName::Scripted,
            engine_version: env!("CARGO_PKG_VERSION").to_owned(),
            sampler_profile_version: "scripted-1".to_owned(),
            model_digest: script.model_digest.clone(),
            context_length: script.context_length,
            slots: script.slots,
            cache: script.cache,
            device: script.device.clone(),
            quantization: None,
            vocab_size: u32::MAX,
            sampling: Sampling::default(),
            unsupported: if script.markup.calls.is_some() { &[] } else { &["tools"] },
            workloads: script.workloads.clone(),
            modalities: script.modalities.clone(),
            dimensions: Some(DIMENSIONS),
            instructions: Instructions::default(),
        };
        let failures_left = AtomicU32::new(script.failure.map_or(0, |failure| failure.times));
        Self {
            script,
            info,
            running: AtomicU32::new(0),
            failures_left,
            dead: AtomicBool::new(false),
            tokens_total: AtomicU64::new(0),
            kv_tokens: AtomicU64::new(0),
            loaded: Instant::now(),
        }
    }

    fn text(&self, index: u32) -> Option<&str> {
        let tokens = &self.script.tokens;
        let index = usize::try_from(index).ok()?;
        if self.script.repeat && !tokens.is_empty() {
            return Some(&tokens[index % tokens.len()]);
        }
        tokens.get(index).map(String::as_str)
    }

    /// Takes one of the scripted failures, if one is left and due.
    fn failure_due(&self, tokens_out: u32) -> Option<FailureKind> {
        let failure = self.script.failure.filter(|failure| failure.after == tokens_out)?;
        let left = self.failures_left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        left.ok().map(|_| failure.kind)
    }

    /// Fails as the script says after so many tokens; `Canceled` where that means to do nothing until then.
    async fn fail_where_due(&self, tokens_out: u32, cancel: &CancellationToken) -> Result<Finish, EngineError> {
        match self.failure_due(tokens_out) {
            _ if self.dead.load(Ordering::Relaxed) => Err(EngineError::Reset),
            Some(FailureKind::Reset) => Err(EngineError::Reset),
            Some(FailureKind::Death) => {
                self.dead.store(true, Ordering::Relaxed);
                Err(EngineError::Reset)
            }
            Some(FailureKind::Panic) => panic!("the script says so"),
            Some(FailureKind::Stall) => {
                cancel.cancelled().await;
                Ok(Finish::Canceled)
            }
            None => Ok(Finish::Stop),
        }
    }

    /// The vector of each input, the query's before them; `None` where it was cancelled.
    async fn vectors(
        &self,
        evaluation: &Evaluation,
        done: &mut (dyn FnMut() + Send),
    ) -> Result<Option<Vec<Vec<f32>>>, EngineError> {
        let Batch { query, inputs } = evaluation.batch.as_ref();
        let mut vectors = Vec::with_capacity(inputs.len());
        for (made, input) in (0..).zip(query.iter().chain(inputs)) {
            let pause = if made == 0 { self.script.first_token } else { self.script.token };
            tokio::select! {
                biased;
                () = evaluation.cancel.cancelled() => return Ok(None),
                () = sleep(pause) => {}
            }
            if self.fail_where_due(made, &evaluation.cancel).await? == Finish::Canceled {
                return Ok(None);
            }
            vectors.push(vector(input.ids()));
            done();
        }
        Ok(Some(vectors))
    }

    async fn run_evaluation(
        &self,
        evaluation: Evaluation,
        done: &mut (dyn FnMut() + Send),
    ) -> Result<Evaluated, EngineError> {
        let _running = Running::enter(&self.running);
        let began = Instant::now();
        let vectors = self.vectors(&evaluation, done).await?;
        let result = vectors.map(|vectors| evaluation.batch.result(vectors));
        Ok(Evaluated { result, took: began.elapsed(), tokens_in: None })
    }

    async fn run(&self, generation: Generation, sink: &mut dyn Sink) -> Result<Finished, EngineError> {
        let _running = Running::enter(&self.running);
        let mut held = Held::new(&self.kv_tokens, generation.prompt.len());
        let began = Instant::now();
        let mut first = None;
        let mut tokens_out = 0;
        let reader = match &generation.reading {
            Reading::Plain => None,
            Reading::Answer(calling) => Some(AnswerReader::new(self.script.markup, calling.clone(), false)),
        };
        let mut output = Output::read_by(generation.stop.clone(), reader);
        let finish = loop {
            let pause = if tokens_out == 0 { self.script.first_token } else { self.script.token };
            tokio::select! {
                biased;
                () = generation.cancel.cancelled() => break Finish::Canceled,
                () = sleep(pause) => {}
            }
            if self.fail_where_due(tokens_out, &generation.cancel).await? == Finish::Canceled {
                break Finish::Canceled;
            }
            first.get_or_insert_with(Instant::now);
            tokens_out += 1;
            self.tokens_total.fetch_add(1, Ordering::Relaxed);
            held.add(1);
            let ended = self.push(tokens_out, &generation, &mut output);
            while let Some(piece) = output.pop() {
                if sink.token(piece).is_break() {
                    return Ok(finished(Finish::Canceled, tokens_out, began, first));
                }
            }
            if let Some(finish) = ended {
                break finish;
            }
        };
        let matched_stop = output.matched_stop().map(str::to_owned);
        Ok(Finished { matched_stop, ..finished(finish, tokens_out, began, first) })
    }

    /// Puts token number `tokens_out` (from 1) into the output, and says whether the sequence ends with it.
    fn push(&self, tokens_out: u32, generation: &Generation, output: &mut Output) -> Option<Finish> {
        let Some(text) = self.text(tokens_out - 1) else {
            return Some(output.finish(Finish::Stop));
        };
        let logprobs = generation.top_logprobs.map(|top| certain(text, top));
        let ended = output.push(text.as_bytes(), logprobs);
        ended.or_else(|| (tokens_out >= generation.max_tokens).then(|| output.finish(Finish::Length)))
    }
}

/// The script leaves no choice: each token has probability 1.
fn certain(text: &str, top: u8) -> Arc<TokenLogprobs> {
    let bytes: Box<[u8]> = text.as_bytes().into();
    let only = TopLogprob { bytes: bytes.clone(), logprob: 0.0 };
    Arc::new(TokenLogprobs { logprob: 0.0, bytes, top: std::iter::repeat_n(only, usize::from(top.min(1))).collect() })
}

fn finished(finish: Finish, tokens_out: u32, began: Instant, first: Option<Instant>) -> Finished {
    let now = Instant::now();
    let first = first.unwrap_or(now);
    let (prefill, decode) = (first - began, now - first);
    Finished { finish, matched_stop: None, tokens_out, cached_tokens: 0, prefill, decode }
}

/// Counts a sequence while it runs, also when its future is dropped.
struct Running<'a>(&'a AtomicU32);

impl<'a> Running<'a> {
    fn enter(running: &'a AtomicU32) -> Self {
        running.fetch_add(1, Ordering::Relaxed);
        Self(running)
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What a sequence would hold in a cache, given back when it is dropped.
struct Held<'a> {
    sum: &'a AtomicU64,
    own: u64,
}

impl<'a> Held<'a> {
    fn new(sum: &'a AtomicU64, tokens: usize) -> Self {
        let mut held = Self { sum, own: 0 };
        held.add(tokens as u64);
        held
    }

    fn add(&mut self, tokens: u64) {
        self.own += tokens;
        self.sum.fetch_add(tokens, Ordering::Relaxed);
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.sum.fetch_sub(self.own, Ordering::Relaxed);
    }
}

impl Engine for ScriptedEngine {
    fn info(&self) -> &EngineInfo {
        &self.info
    }

    fn prepare(&self, prompt: &Arc<Prompt>) -> Result<Prepared, PromptError> {
        let ids: Arc<[u32]> = match prompt.as_ref() {
            Prompt::Text(text) => words(text).collect(),
            Prompt::Chat(chat) => chat.messages.iter().flat_map(|message| content_words(&message.content)).collect(),
            Prompt::Tokens(tokens) => tokens.as_slice().into(),
        };
        Ok(ids.into())
    }

    fn generate<'a>(
        &'a self,
        generation: Generation,
        sink: &'a mut dyn Sink,
    ) -> BoxFuture<'a, Result<Finished, EngineError>> {
        self.run(generation, sink).boxed()
    }

    fn evaluate<'a>(
        &'a self,
        evaluation: Evaluation,
        done: &'a mut (dyn FnMut() + Send),
    ) -> BoxFuture<'a, Result<Evaluated, EngineError>> {
        self.run_evaluation(evaluation, done).boxed()
    }

    fn stats(&self) -> EngineStats {
        let tokens_total = self.tokens_total.load(Ordering::Relaxed);
        let seconds = self.loaded.elapsed().as_secs_f64();
        EngineStats {
            slots: self.script.slots,
            running: self.running.load(Ordering::Relaxed),
            tokens_total,
            tokens_per_s: if seconds > 0.0 { tokens_total as f64 / seconds } else { 0.0 },
            kv_tokens: self.kv_tokens.load(Ordering::Relaxed),
            gpu: None,
        }
    }

    /// Follows the script's pace for two tokens, but takes none of its failures.
    fn probe(&self, _: u32) -> BoxFuture<'_, Result<Finished, EngineError>> {
        async {
            if self.dead.load(Ordering::Relaxed) {
                return Err(EngineError::Reset);
            }
            let began = Instant::now();
            sleep(self.script.first_token).await;
            let first = Instant::now();
            sleep(self.script.token).await;
            Ok(finished(Finish::Length, 2, began, Some(first)))
        }
        .boxed()
    }

    fn unload(&self) -> BoxFuture<'_, ()> {
        self.dead.store(true, Ordering::Relaxed);
        async {}.boxed()
    }
}

/// One token id per word: a hash of it (32-bit FNV-1a), below the vocabulary's size.
fn words(text: &str) -> impl Iterator<Item = u32> + '_ {
    let hash = |word: &str| {
        word.bytes().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
    };
    text.split_whitespace().map(move |word| hash(word).min(u32::MAX - 1))
}

/// The sum of a direction for each word, with length 1.
fn vector(words: &[u32]) -> Vec<f32> {
    let number = |at: u32| {
        let part = |word: &u32| {
            f64::from(word.wrapping_add(at).wrapping_mul(0x9e37_79b1).rotate_left(at) >> 8) / f64::from(1 << 23) - 1.0
        };
        words.iter().map(part).sum::<f64>() as f32
    };
    let mut vector: Vec<f32> = (0..DIMENSIONS).map(number).collect();
    normalize(&mut vector);
    vector
}

/// What is shown counts as one word.
fn part_words(part: &ContentPart) -> Vec<u32> {
    match part {
        ContentPart::Text { text } => words(text).collect(),
        ContentPart::ImageUrl { image_url } => words(&image_url.url).collect(),
        ContentPart::InputAudio { input_audio } => words(&input_audio.data).collect(),
    }
}

fn content_words(content: &Option<Content>) -> Vec<u32> {
    match content {
        None => Vec::new(),
        Some(Content::Text(text)) => words(text).collect(),
        Some(Content::Parts(parts)) => parts.iter().flat_map(part_words).collect(),
    }
}
