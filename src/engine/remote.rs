//! A remote engine: any server that speaks the OpenAI API, such as vLLM, llama.cpp, TGI or another Sluicegate.
//!
//! A prompt is handed on as it is, so nothing is lost in between: a chat as `/chat/completions`, a text as `/completions`,
//! always streamed. It is counted here with the server's tokenizer where that is given, else by an upper bound, so that
//! admission never lets in what cannot fit.
//!
//! Inputs are embedded by `/embeddings` and scored by `/rerank`, where the server is said to do that.
//!
//! What comes back is not trusted: an event and a stream have a limit in bytes, a sequence ends at `max_tokens` whatever
//! the server goes on to say, usage is held against what was seen, redirects are not followed. Each failure is
//! [`EngineError::Reset`], but for a 4xx that blames the request. What the server says of it is logged, cut short.

mod body;
mod calls;
mod chunk;
mod evaluate;
mod events;
mod exchange;
mod prompt;
mod run;

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use reqwest::redirect::Policy;
use reqwest::{Client, RequestBuilder, Url};
use sluicegate_compat::native::{Content, ContentPart, EngineName, Message, Modality, Role, Workload};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::meter::Meter;
use super::{
    Batch, Chat, Engine, EngineError, EngineInfo, EngineStats, Evaluated, Evaluation, Finish, Finished, Generation,
    Instructions, LoadError, Nowhere, Prepared, Prompt, PromptError, Reading, Sampling, Sink, Stated,
};
use crate::ids::CorrelationId;
use prompt::Counter;

/// Output tokens of a probe.
const PROBE_TOKENS: u32 = 2;

/// Tokens that a probe of a server that embeds has at most: many such models have short contexts.
const PROBE_INPUT: u32 = 128;

/// A probe waits no longer than this for the end of a server's `Retry-After`.
const LONGEST_REST: Duration = Duration::from_secs(20);

/// Where the server is, and what it is.
#[derive(Debug, Clone)]
pub struct RemoteSpec {
    /// The program that is declared to be there.
    pub engine: EngineName,
    /// Without a slash at its end.
    pub base_url: String,
    pub api_key: Option<Secret>,
    /// The model's name there.
    pub model: String,
    /// A `tokenizer.json`, with a chat template beside it if there is one.
    pub tokenizer: Option<PathBuf>,
    /// Tokens of prompt and output together.
    pub context_length: u32,
    /// Sequences at once.
    pub slots: u32,
    /// What it is said to serve; at least one.
    pub workloads: Vec<Workload>,
    /// What its messages may hold; text always.
    pub modalities: Vec<Modality>,
    /// As how many tokens an image or a recording counts.
    pub media_tokens: u32,
    pub limits: Limits,
}

/// How long a server may take. The pool's watchdog comes on top.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// To take a connection.
    pub connect: Duration,
    /// From the request to the head of the answer.
    pub first_byte: Duration,
    /// Between two pieces of the answer.
    pub idle: Duration,
}

/// Another server with the same model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Without a slash at its end.
    pub base_url: String,
    /// The model's name there; as on the first server where it is `None`.
    pub model: Option<String>,
    /// Not the first server's, which is nobody else's concern.
    pub api_key: Option<Secret>,
    /// Sequences at once; as on the first server where it is `None`.
    pub slots: Option<u32>,
}

impl RemoteSpec {
    /// The same at another server.
    #[must_use]
    pub fn at(&self, place: &Place) -> Self {
        Self {
            base_url: place.base_url.clone(),
            model: place.model.clone().unwrap_or_else(|| self.model.clone()),
            api_key: place.api_key.clone(),
            slots: place.slots.unwrap_or(self.slots),
            ..self.clone()
        }
    }
}

/// An address without a slash at its end; `None` for what is no address of a server, or has a user, a password, a query or a
/// fragment.
pub fn base_url(text: &str) -> Option<String> {
    let url = reqwest::Url::parse(text).ok().filter(|_| text.bytes().all(|byte| byte.is_ascii_graphic()))?;
    let server = matches!(url.scheme(), "http" | "https") && url.has_host();
    let nobody = url.username().is_empty() && url.password().is_none();
    let plain = url.query().is_none() && url.fragment().is_none();
    (server && nobody && plain).then(|| text.trim_end_matches('/').to_owned())
}

/// A key; never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("***")
    }
}

/// A server with the connections to it.
pub struct RemoteEngine {
    spec: RemoteSpec,
    /// That of `spec`, read.
    base: Url,
    info: EngineInfo,
    client: Client,
    counter: Counter,
    meter: Arc<Meter>,
    /// The server has asked not to be called before then.
    rest_until: Mutex<Option<Instant>>,
    /// What went wrong last. A plain mutex, held to copy or to replace it.
    trouble: Mutex<Option<String>>,
    /// Ends what runs when the engine is unloaded.
    closed: CancellationToken,
}

impl RemoteEngine {
    /// Reads the tokenizer (which blocks), and makes the client; nothing is sent yet.
    ///
    /// # Errors
    ///
    /// [`LoadError`] where the tokenizer or its template cannot be used.
    pub fn new(spec: RemoteSpec) -> Result<Self, LoadError> {
        let client = Client::builder()
            .no_proxy()
            .redirect(Policy::none())
            .connect_timeout(spec.limits.connect)
            .tcp_nodelay(true)
            .build()
            .map_err(|error| LoadError(format!("{}: {error}", spec.base_url)))?;
        let base = Url::parse(&spec.base_url)
            .ok()
            .filter(|url| !url.cannot_be_a_base())
            .ok_or_else(|| LoadError(format!("{} is no address of a server", spec.base_url)))?;
        let counter = Counter::load(spec.tokenizer.as_deref())?;
        let info = EngineInfo {
            engine: spec.engine,
            engine_version: "none".to_owned(),
            sampler_profile_version: "remote".to_owned(),
            model_digest: "none".to_owned(),
            context_length: spec.context_length,
            slots: spec.slots,
            cache: None,
            device: "none".to_owned(),
            quantization: None,
            vocab_size: counter.vocab_size(),
            sampling: Sampling::default(),
            unsupported: body::unsupported(spec.engine),
            workloads: spec.workloads.clone(),
            modalities: spec.modalities.clone(),
            dimensions: None,
            instructions: Instructions::default(),
        };
        Ok(Self {
            spec,
            base,
            info,
            client,
            counter,
            meter: Arc::new(Meter::new()),
            rest_until: Mutex::new(None),
            trouble: Mutex::new(None),
            closed: CancellationToken::new(),
        })
    }

    /// `of` is what the server's log and ours tell the same task by.
    fn post(&self, path: &str, of: Option<&CorrelationId>, body: Vec<u8>) -> RequestBuilder {
        let mut url = self.base.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(path.split('/'));
        }
        let request = self.client.post(url);
        let request = request.header("content-type", "application/json");
        let request = match &self.spec.api_key {
            Some(Secret(key)) => request.bearer_auth(key),
            None => request,
        };
        let request = match of {
            Some(id) => request.header("x-request-id", id.as_str()),
            None => request,
        };
        request.body(body)
    }

    /// Notes that the server wants to be left alone for a while.
    fn rest(&self, seconds: u64) {
        let until = Instant::now() + Duration::from_secs(seconds).min(LONGEST_REST);
        *self.rest_until.lock().unwrap_or_else(PoisonError::into_inner) = Some(until);
    }

    fn note(&self, trouble: Option<String>) {
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = trouble;
    }

    async fn rested(&self) {
        let until = *self.rest_until.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(until) = until {
            tokio::time::sleep_until(until).await;
        }
    }

    /// Tokens of a prompt to try the server with. What it counts may be more: its template comes on top.
    fn trial_tokens(&self, wanted: u32) -> u32 {
        wanted.clamp(1, (self.info.context_length / 2).max(1))
    }

    /// A few tokens after a prompt of about so many.
    fn trial(&self, prompt_tokens: u32) -> Generation {
        let tokens = self.trial_tokens(prompt_tokens);
        let stated = Stated { temperature: true, ..Stated::default() };
        let messages = vec![Message::text(Role::User, "a ".repeat(tokens as usize))];
        Generation {
            prompt: Prepared::Content { prompt: Arc::new(Prompt::Chat(Chat { messages, ..Chat::default() })), tokens },
            max_tokens: PROBE_TOKENS,
            sampling: Sampling { temperature: 0.0, stated, ..Sampling::default() },
            stop: Vec::new(),
            top_logprobs: None,
            grammar: None,
            reading: Reading::Plain,
            cold: false,
            correlation_id: None,
            cancel: CancellationToken::new(),
        }
    }

    /// An input of about so many tokens to embed; to score where that is all that the server does.
    fn trial_batch(&self, prompt_tokens: u32) -> Evaluation {
        let tokens = self.trial_tokens(prompt_tokens.min(PROBE_INPUT));
        let text = |tokens: u32| {
            let prompt = Arc::new(Prompt::Text("a ".repeat(tokens as usize).trim_end().to_owned()));
            Prepared::Content { prompt, tokens }
        };
        let query = (!self.serves(Workload::Embedding)).then(|| text(1));
        let batch = Arc::new(Batch { query, inputs: vec![text(tokens)] });
        Evaluation { batch, dimensions: None, correlation_id: None, cancel: CancellationToken::new() }
    }

    fn serves(&self, workload: Workload) -> bool {
        self.info.workloads.contains(&workload)
    }
}

/// How many images and recordings a prompt shows. The server is to fetch none by itself.
fn shown(prompt: &Prompt) -> Result<u32, PromptError> {
    let Prompt::Chat(chat) = prompt else { return Ok(0) };
    let mut shown = 0;
    for part in chat.messages.iter().filter_map(|message| message.content.as_ref()).flat_map(Content::parts) {
        match part {
            ContentPart::Text { .. } => {}
            ContentPart::ImageUrl { image_url } if !image_url.url.starts_with("data:") => {
                let message = "an image has not been fetched".to_owned();
                return Err(PromptError { param: "messages", message });
            }
            ContentPart::ImageUrl { .. } | ContentPart::InputAudio { .. } => shown += 1,
        }
    }
    Ok(shown)
}

impl Engine for RemoteEngine {
    fn info(&self) -> &EngineInfo {
        &self.info
    }

    fn prepare(&self, prompt: &Arc<Prompt>) -> Result<Prepared, PromptError> {
        let tokens = self.counter.count(prompt)?;
        let tokens = tokens.saturating_add(self.spec.media_tokens.saturating_mul(shown(prompt)?));
        Ok(Prepared::Content { prompt: Arc::clone(prompt), tokens })
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
        evaluate::run(self, evaluation, done).boxed()
    }

    fn stats(&self) -> EngineStats {
        EngineStats { slots: self.info.slots, ..self.meter.stats() }
    }

    fn trouble(&self) -> Option<String> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn probe(&self, prompt_tokens: u32) -> BoxFuture<'_, Result<Finished, EngineError>> {
        async move {
            self.rested().await;
            if self.serves(Workload::Completion) {
                return self.generate(self.trial(prompt_tokens), &mut Nowhere).await;
            }
            let trial = self.trial_batch(prompt_tokens);
            // It may be shorter than it was to be.
            let missing = prompt_tokens.saturating_sub(u32::try_from(trial.batch.tokens()).unwrap_or(u32::MAX));
            let Evaluated { took: prefill, .. } = self.evaluate(trial, &mut || ()).await?;
            let (finish, decode) = (Finish::Length, Duration::ZERO);
            Ok(Finished { finish, matched_stop: None, tokens_out: 0, cached_tokens: missing, prefill, decode })
        }
        .boxed()
    }

    fn unload(&self) -> BoxFuture<'_, ()> {
        async { self.closed.cancel() }.boxed()
    }
}
