//! One question, to the engine itself or through HTTP, and rounds of them.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Deserialize;
use sluicegate::engine::{Chat, Engine, Generation, Piece, Prepared, Prompt, Reading, Sampling, Sink};
use sluicegate_compat::native::{Message, Role};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::Failure;

/// Of each answer, exactly: the tokens that end one are ruled out.
pub const MAX_TOKENS: u32 = 64;

/// The tokens that end a text of the built-in model.
const END_TOKENS: [u32; 2] = [0, 2];

pub const PROMPTS: [&str; 4] = [
    "What is Sluicegate?",
    "How do I cancel a task, and what happens to its tokens?",
    "Tell me a story about a river.",
    "What does the queue position mean?",
];

/// What came of one question.
pub struct Reply {
    pub text: String,
    pub tokens: u32,
    /// From the question to the first piece of text.
    pub first_token: Duration,
}

/// What came of a round.
pub struct Round {
    pub replies: Vec<Reply>,
    pub wall: Duration,
}

impl Round {
    pub fn tokens_per_s(&self) -> f64 {
        let tokens: u32 = self.replies.iter().map(|reply| reply.tokens).sum();
        f64::from(tokens) / self.wall.as_secs_f64()
    }
}

/// Has `at_once` askers ask `answers` questions each, one after the other. Question `number` is the same for both sides.
pub async fn round<F, R>(at_once: usize, answers: usize, ask: F) -> Result<Round, Failure>
where
    F: Fn(usize) -> R + Clone + Send + 'static,
    R: Future<Output = Result<Reply, Failure>> + Send,
{
    let began = Instant::now();
    let mut askers = JoinSet::new();
    for asker in 0..at_once {
        let ask = ask.clone();
        askers.spawn(async move {
            let mut replies = Vec::with_capacity(answers);
            for turn in 0..answers {
                replies.push(ask(asker + turn).await?);
            }
            Ok::<_, Failure>(replies)
        });
    }
    let mut replies = Vec::with_capacity(at_once * answers);
    while let Some(asker) = askers.join_next().await {
        replies.extend(asker??);
    }
    let wall = began.elapsed();
    match replies.iter().find(|reply| reply.tokens != MAX_TOKENS) {
        Some(reply) => Err(format!("an answer has {} tokens, not {MAX_TOKENS}", reply.tokens).into()),
        None => Ok(Round { replies, wall }),
    }
}

/// The engine without the gateway. The prompts are rendered and tokenized beforehand: that is the gateway's work.
#[derive(Clone)]
pub struct Direct {
    engine: Arc<dyn Engine>,
    prompts: [Prepared; PROMPTS.len()],
}

/// Notes when the first text came, and keeps it all.
struct Collect {
    began: Instant,
    first_token: Option<Duration>,
    text: String,
}

impl Sink for Collect {
    fn token(&mut self, piece: Piece) -> ControlFlow<()> {
        // As the other side: a piece without text is no sign of life to a client.
        if !piece.text.is_empty() {
            self.first_token.get_or_insert_with(|| self.began.elapsed());
        }
        self.text.push_str(&piece.text);
        ControlFlow::Continue(())
    }
}

fn prepare(engine: &dyn Engine, prompt: &str) -> Result<Prepared, Failure> {
    let messages = vec![Message::text(Role::User, prompt)];
    Ok(engine.prepare(&Arc::new(Prompt::Chat(Chat { messages, ..Chat::default() })))?)
}

impl Direct {
    pub fn new(engine: Arc<dyn Engine>) -> Result<Self, Failure> {
        let prompts =
            PROMPTS.into_iter().map(|prompt| prepare(engine.as_ref(), prompt)).collect::<Result<Vec<_>, _>>()?;
        let prompts = prompts.try_into().map_err(|_| "one prompt, one list of tokens")?;
        Ok(Self { engine, prompts })
    }

    /// How long rendering and tokenizing a prompt takes, a hundred times.
    pub fn tokenizing(&self) -> Result<Vec<Duration>, Failure> {
        let time = |prompt: &&str| {
            let began = Instant::now();
            prepare(self.engine.as_ref(), prompt).map(|_| began.elapsed())
        };
        PROMPTS.iter().cycle().take(100).map(time).collect()
    }

    pub async fn ask(self, number: usize) -> Result<Reply, Failure> {
        let generation = Generation {
            prompt: self.prompts[number % PROMPTS.len()].clone(),
            max_tokens: MAX_TOKENS,
            sampling: Sampling {
                temperature: 0.0,
                logit_bias: END_TOKENS.map(|token| (token, -100.0)).into(),
                ..Sampling::default()
            },
            stop: Vec::new(),
            top_logprobs: None,
            grammar: None,
            reading: Reading::Plain,
            cold: false,
            correlation_id: None,
            cancel: CancellationToken::new(),
        };
        let mut sink = Collect { began: Instant::now(), first_token: None, text: String::new() };
        let finished = self.engine.generate(generation, &mut sink).await?;
        let first_token = sink.first_token.ok_or("the engine gave no token")?;
        Ok(Reply { text: sink.text, tokens: finished.tokens_out, first_token })
    }
}

/// The gateway as a client of its OpenAI API sees it.
#[derive(Clone)]
pub struct OverHttp {
    client: reqwest::Client,
    url: String,
}

/// What the client looks at in a chunk.
#[derive(Deserialize)]
struct Chunk<'a> {
    #[serde(borrow)]
    choices: Vec<Choice<'a>>,
    usage: Option<Usage>,
}

#[derive(Deserialize)]
struct Choice<'a> {
    #[serde(borrow)]
    delta: Delta<'a>,
}

#[derive(Deserialize)]
struct Delta<'a> {
    #[serde(borrow)]
    content: Option<Cow<'a, str>>,
}

#[derive(Deserialize)]
struct Usage {
    completion_tokens: u32,
}

impl OverHttp {
    pub fn new(address: SocketAddr) -> Result<Self, Failure> {
        let client = reqwest::Client::builder().no_proxy().http1_only().build()?;
        Ok(Self { client, url: format!("http://{address}/v1/chat/completions") })
    }

    pub async fn ask(self, number: usize) -> Result<Reply, Failure> {
        let [first, second] = END_TOKENS.map(|token| token.to_string());
        let body = serde_json::json!({
            "model": "builtin", "stream": true, "stream_options": {"include_usage": true}, "temperature": 0,
            "max_completion_tokens": MAX_TOKENS, "logit_bias": {first: -100, second: -100},
            "messages": [{"role": "user", "content": PROMPTS[number % PROMPTS.len()]}],
        });
        let began = Instant::now();
        let mut response = self.client.post(&self.url).json(&body).send().await?.error_for_status()?;
        let mut reply = Reply { text: String::new(), tokens: 0, first_token: Duration::ZERO };
        let mut unread = Vec::new();
        while let Some(bytes) = response.chunk().await? {
            unread.extend_from_slice(&bytes);
            let mut read = 0;
            while let Some(end) = unread[read..].windows(2).position(|pair| pair == b"\n\n") {
                reply.take(&unread[read..read + end], began)?;
                read += end + 2;
            }
            unread.drain(..read);
        }
        Ok(reply)
    }
}

impl Reply {
    /// Takes one event of the stream.
    fn take(&mut self, event: &[u8], began: Instant) -> Result<(), Failure> {
        let Some(data) = event.strip_prefix(b"data: ") else { return Ok(()) };
        if data == b"[DONE]" {
            return Ok(());
        }
        let chunk: Chunk<'_> = serde_json::from_slice(data)?;
        let delta = chunk.choices.first().and_then(|choice| choice.delta.content.as_deref());
        if let Some(text) = delta.filter(|text| !text.is_empty()) {
            if self.text.is_empty() {
                self.first_token = began.elapsed();
            }
            self.text.push_str(text);
        }
        self.tokens = chunk.usage.map_or(self.tokens, |usage| usage.completion_tokens);
        Ok(())
    }
}
