//! The two ways to an engine: itself, and through a gateway over HTTP.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use eventsource_stream::Eventsource as _;
use futures_util::StreamExt as _;
use reqwest::StatusCode;
use reqwest::header::RETRY_AFTER;
use serde::Deserialize;
use serde_json::json;
use sluicegate::engine::{Engine, Finish, Generation, Piece, Prepared, Reading, Sampling, Sink};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::make::END_TOKENS;
use crate::{Failure, MODEL};

/// The ids that every tokenizer of [`make`](crate::make) has for words.
const WORDS: std::ops::Range<u32> = 300..1000;

/// A text to be gone on from, for exactly so many tokens.
#[derive(Clone)]
pub struct Question {
    pub prompt: Arc<[u32]>,
    pub max_tokens: u32,
    /// Of a text that is sampled; without one, the likeliest tokens are taken.
    pub seed: Option<u64>,
    /// Gets a permit with the first token.
    pub began: Option<Arc<Semaphore>>,
}

impl Question {
    /// A prompt of words of no meaning. The same number has the same ones.
    pub fn new(number: u64, tokens: usize, max_tokens: u32) -> Self {
        let mut random = fastrand::Rng::with_seed(number);
        let prompt = std::iter::repeat_with(|| random.u32(WORDS)).take(tokens).collect();
        Self { prompt, max_tokens, seed: None, began: None }
    }

    pub fn seeded(self, seed: u64) -> Self {
        Self { seed: Some(seed), ..self }
    }

    pub fn telling(self, began: &Arc<Semaphore>) -> Self {
        Self { began: Some(Arc::clone(began)), ..self }
    }

    fn temperature(&self) -> f32 {
        if self.seed.is_some() { 1.0 } else { 0.0 }
    }
}

/// What came of a question.
#[derive(Debug, Clone)]
pub struct Reply {
    pub text: String,
    pub tokens: u32,
    /// From the question to the first piece of text, and to the last.
    pub first: Duration,
    pub last: Duration,
}

/// A reply that comes in.
struct Incoming {
    began: Instant,
    told: Option<Arc<Semaphore>>,
    text: String,
    first: Option<Duration>,
    last: Duration,
}

impl Incoming {
    fn new(question: &Question) -> Self {
        Self {
            began: Instant::now(),
            told: question.began.clone(),
            text: String::new(),
            first: None,
            last: Duration::ZERO,
        }
    }

    fn take(&mut self, text: &str) {
        if text.is_empty() {
            return;
        }
        self.last = self.began.elapsed();
        if self.first.is_none() {
            self.first = Some(self.last);
            self.told.iter().for_each(|told| told.add_permits(1));
        }
        self.text.push_str(text);
    }

    fn finish(self, tokens: u32, wanted: u32) -> Result<Reply, Failure> {
        let first = self.first.ok_or("an answer without text")?;
        if tokens != wanted {
            return Err(format!("an answer has {tokens} tokens, not {wanted}").into());
        }
        Ok(Reply { text: self.text, tokens, first, last: self.last })
    }
}

impl Sink for Incoming {
    fn token(&mut self, piece: Piece) -> ControlFlow<()> {
        self.take(&piece.text);
        ControlFlow::Continue(())
    }
}

/// Somebody who answers.
pub trait Side: Clone + Send + Sync + 'static {
    /// Question `number` of a round. Whoever drops the future hangs up.
    fn ask(&self, question: Question, number: usize) -> impl Future<Output = Result<Reply, Failure>> + Send;
}

/// The engines themselves, in turn. Prompts come as token ids: there is nothing to tokenize on either side.
#[derive(Clone)]
pub struct Direct(pub Arc<[Arc<dyn Engine>]>);

impl Direct {
    fn generation(question: &Question, cancel: CancellationToken) -> Generation {
        Generation {
            prompt: Prepared::Ids(Arc::clone(&question.prompt)),
            max_tokens: question.max_tokens,
            sampling: Sampling {
                temperature: question.temperature(),
                seed: question.seed.unwrap_or_default(),
                logit_bias: END_TOKENS.map(|token| (token, -100.0)).into(),
                ..Sampling::default()
            },
            stop: Vec::new(),
            top_logprobs: None,
            grammar: None,
            reading: Reading::Plain,
            cold: false,
            correlation_id: None,
            cancel,
        }
    }

    /// Asks a question whose answer is cancelled after its first token; how long the engine then holds on to its place.
    pub async fn let_go(&self, question: &Question) -> Result<Duration, Failure> {
        let (engine, cancel) = (&self.0[0], CancellationToken::new());
        let began = Arc::new(Semaphore::new(0));
        let mut incoming = Incoming::new(&question.clone().telling(&began));
        let generate = async {
            let finished = engine.generate(Self::generation(question, cancel.clone()), &mut incoming).await;
            // Also where there was no token.
            began.add_permits(1);
            finished
        };
        let hang_up = async {
            drop(began.acquire().await);
            cancel.cancel();
            Instant::now()
        };
        let (finished, canceled) = tokio::join!(generate, hang_up);
        match finished?.finish {
            Finish::Canceled => Ok(canceled.elapsed()),
            other => Err(format!("an answer ended by {other:?} before it was cancelled").into()),
        }
    }
}

impl Side for Direct {
    async fn ask(&self, question: Question, number: usize) -> Result<Reply, Failure> {
        let mut incoming = Incoming::new(&question);
        let engine = &self.0[number % self.0.len()];
        let finished = engine.generate(Self::generation(&question, CancellationToken::new()), &mut incoming).await?;
        incoming.finish(finished.tokens_out, question.max_tokens)
    }
}

/// The gateway as a client of its OpenAI API sees it.
#[derive(Clone)]
pub struct OverHttp {
    client: reqwest::Client,
    base: Arc<str>,
}

/// Nothing that is asked of it takes longer.
const PATIENCE: Duration = Duration::from_secs(120);

/// An answer that is none.
#[derive(Debug, thiserror::Error)]
#[error("{status}: {body}")]
pub struct Refused {
    pub status: StatusCode,
    /// After which to come again.
    pub seconds: Option<u64>,
    pub body: String,
}

impl Refused {
    /// Whether the pool takes nothing now, and says when to come again.
    pub fn is_put_off(&self) -> bool {
        self.status == StatusCode::SERVICE_UNAVAILABLE && self.seconds.is_some()
    }
}

/// What is looked at in a chunk.
#[derive(Deserialize)]
struct Chunk {
    choices: Vec<Choice>,
    usage: Option<Usage>,
}

#[derive(Deserialize)]
struct Choice {
    text: String,
}

#[derive(Deserialize)]
struct Usage {
    completion_tokens: u32,
}

impl OverHttp {
    pub fn new(address: SocketAddr) -> Result<Self, Failure> {
        let client = reqwest::Client::builder().no_proxy().http1_only().timeout(PATIENCE).build()?;
        Ok(Self { client, base: format!("http://{address}").into() })
    }

    pub fn get(&self, path: &str) -> reqwest::RequestBuilder {
        self.client.get(format!("{}{path}", self.base))
    }

    pub fn post(&self, path: &str) -> reqwest::RequestBuilder {
        self.client.post(format!("{}{path}", self.base))
    }
}

/// The bias of an answer that has all the tokens that it may have.
pub fn never_ends() -> BTreeMap<String, i32> {
    END_TOKENS.map(|token| (token.to_string(), -100)).into()
}

impl Side for OverHttp {
    async fn ask(&self, question: Question, _: usize) -> Result<Reply, Failure> {
        let body = json!({
            "model": MODEL, "prompt": &*question.prompt, "max_tokens": question.max_tokens, "seed": question.seed,
            "temperature": question.temperature(), "logit_bias": never_ends(),
            "stream": true, "stream_options": {"include_usage": true},
        });
        let mut incoming = Incoming::new(&question);
        let response = self.post("/v1/completions").json(&body).send().await?;
        if !response.status().is_success() {
            let (status, headers) = (response.status(), response.headers());
            let seconds = headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
            return Err(Refused { status, seconds, body: response.text().await? }.into());
        }
        let (mut events, mut tokens) = (response.bytes_stream().eventsource(), 0);
        while let Some(event) = events.next().await {
            let data = event?.data;
            if data == "[DONE]" {
                break;
            }
            let chunk: Chunk = serde_json::from_str(&data).map_err(|_| data)?;
            chunk.choices.iter().for_each(|choice| incoming.take(&choice.text));
            tokens = chunk.usage.map_or(tokens, |usage| usage.completion_tokens);
        }
        incoming.finish(tokens, question.max_tokens)
    }
}
