//! So many streams at once, from both sides in turn.

use std::time::{Duration, Instant};

use serde::Serialize;
use tokio::task::JoinSet;

use crate::quantile::quantile;
use crate::shape::Traffic;
use crate::sides::{Question, Reply, Side};
use crate::{Failure, Runtimes};

/// Streams at once that are measured, one after the other, as far as the engine has slots.
pub const AT_ONCE: [usize; 5] = [1, 8, 32, 128, 256];

/// Rounds of each side, and where they are long. Even, so that each side goes first as often as the other.
const ROUNDS: usize = 4;
const LONG_ROUNDS: usize = 2;

/// Tokens of the prompts: from the first number to below the second.
pub type Lengths = (usize, usize);
pub const ALIKE: Lengths = (64, 65);
pub const MIXED: Lengths = (16, 113);

/// Tokens of the answers.
const ANSWER: u32 = 128;

/// What came of a round.
struct Round {
    replies: Vec<Reply>,
    wall: Duration,
}

/// One number of streams at once.
#[derive(Debug, Serialize)]
pub struct Level {
    pub at_once: usize,
    pub engine: Speed,
    pub gateway: Speed,
    /// Of tokens per second, gateway over engine, in each pair of rounds.
    pub ratio: Spread,
}

#[derive(Debug, Serialize)]
pub struct Speed {
    /// Of all streams together.
    pub tokens_per_s: f64,
    pub first_token_ms: f64,
    pub first_token_p95_ms: f64,
    /// Of one stream from its first token to its last.
    pub stream_tokens_per_s: f64,
    /// Bytes that these steps have to read at least, over those that the device copies in that time.
    pub bandwidth_share: Option<f64>,
}

#[derive(Debug, Serialize)]
pub struct Spread {
    pub median: f64,
    pub lowest: f64,
    pub highest: f64,
}

impl Spread {
    pub fn of(samples: &[f64]) -> Self {
        let [lowest, median, highest] = [0.0, 0.5, 1.0].map(|part| quantile(samples, part));
        Self { median, lowest, highest }
    }
}

/// So many clients, which ask so many questions each, one after the other.
#[derive(Clone, Copy)]
struct Load {
    at_once: usize,
    answers: usize,
    lengths: Lengths,
}

/// Questions begin with this number; the same number is the same question.
async fn round<S: Side>(side: S, load: Load, first_number: usize) -> Result<Round, Failure> {
    let Load { at_once, answers, lengths: (least, most) } = load;
    let began = Instant::now();
    let mut clients = JoinSet::new();
    for client in 0..at_once {
        let side = side.clone();
        clients.spawn(async move {
            let mut replies = Vec::with_capacity(answers);
            for turn in 0..answers {
                let number = first_number + turn * at_once + client;
                // Spread over all lengths, and the same for both sides.
                let tokens = least + number * 37 % (most - least);
                replies.push(side.ask(Question::new(number as u64, tokens, ANSWER), number).await?);
            }
            Ok::<_, Failure>(replies)
        });
    }
    let mut replies = Vec::with_capacity(at_once * answers);
    while let Some(client) = clients.join_next().await {
        replies.extend(client??);
    }
    Ok(Round { replies, wall: began.elapsed() })
}

/// What is needed to measure both sides of a gateway.
pub struct Both<'a, D, H> {
    pub direct: D,
    pub http: H,
    pub runtimes: &'a Runtimes,
    pub traffic: Option<Traffic>,
    /// Bytes per second.
    pub bandwidth: f64,
}

impl<D: Side, H: Side> Both<'_, D, H> {
    /// Rounds that take about `time` together, the sides in turn: engine, gateway, gateway, engine, and so on. Both are asked the
    /// same.
    pub fn measure(&self, (at_once, lengths): (usize, Lengths), time: Duration) -> Result<Level, Failure> {
        // The first round of each side is for warming up, and tells how long one takes.
        let trial = Load { at_once, answers: 1, lengths };
        let took = self.direct(trial, 0)?.wall.max(self.http(trial, 0)?.wall);
        let each = time.as_secs_f64() / (2 * ROUNDS) as f64;
        let rounds = if took.as_secs_f64() > each { LONG_ROUNDS } else { ROUNDS };
        let answers = (each / took.as_secs_f64()).round().max(1.0) as usize;
        let load = Load { answers, ..trial };
        let (mut direct, mut http, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
        for number in 0..rounds {
            let first = at_once + number * at_once * answers;
            let (one, other) = if number % 2 == 0 {
                let one = self.direct(load, first)?;
                (one, self.http(load, first)?)
            } else {
                let other = self.http(load, first)?;
                (self.direct(load, first)?, other)
            };
            ratios.push(tokens_per_s(&other) / tokens_per_s(&one));
            direct.push(one);
            http.push(other);
        }
        let tokens = (lengths.0 + lengths.1) as f64 / 2.0 + f64::from(ANSWER) / 2.0;
        let speed = |rounds: &[Round]| self.speed((at_once, tokens), rounds);
        Ok(Level { at_once, engine: speed(&direct), gateway: speed(&http), ratio: Spread::of(&ratios) })
    }

    fn direct(&self, load: Load, first: usize) -> Result<Round, Failure> {
        self.runtimes.gateway.block_on(round(self.direct.clone(), load, first))
    }

    fn http(&self, load: Load, first: usize) -> Result<Round, Failure> {
        self.runtimes.clients.block_on(round(self.http.clone(), load, first))
    }

    /// Of streams that have so many tokens each on average while they are written.
    fn speed(&self, (at_once, tokens): (usize, f64), rounds: &[Round]) -> Speed {
        let replies = || rounds.iter().flat_map(|round| &round.replies);
        let first: Vec<_> = replies().map(|reply| ms(reply.first)).collect();
        let decode: Vec<_> =
            replies().map(|reply| f64::from(reply.tokens - 1) / (reply.last - reply.first).as_secs_f64()).collect();
        let steps_per_s = quantile(&decode, 0.5);
        let share = |traffic: Traffic| steps_per_s * traffic.of_step(at_once, tokens) / self.bandwidth;
        Speed {
            tokens_per_s: quantile(&rounds.iter().map(tokens_per_s).collect::<Vec<_>>(), 0.5),
            first_token_ms: quantile(&first, 0.5),
            first_token_p95_ms: quantile(&first, 0.95),
            stream_tokens_per_s: steps_per_s,
            bandwidth_share: self.traffic.map(share),
        }
    }
}

fn tokens_per_s(round: &Round) -> f64 {
    let tokens: u32 = round.replies.iter().map(|reply| reply.tokens).sum();
    f64::from(tokens) / round.wall.as_secs_f64()
}

pub fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

/// The time to the first token of a prompt of so many tokens, which nothing else runs beside.
#[derive(Debug, Serialize)]
pub struct Prompted {
    pub prompt_tokens: usize,
    pub engine_ms: f64,
    pub gateway_ms: f64,
    /// The same prompts once more, so that a cache of prefixes could help.
    pub engine_again_ms: f64,
    pub gateway_again_ms: f64,
}

pub const PROMPTS: [usize; 3] = [128, 2048, 16_384];

/// Prompts of each length, for each side.
const TIMES: u64 = 3;

impl<D: Side, H: Side> Both<'_, D, H> {
    pub fn prompted(&self, prompt_tokens: usize) -> Result<Prompted, Failure> {
        let question = |number| Question::new(number, prompt_tokens, 2);
        let direct = |number| self.runtimes.gateway.block_on(self.direct.ask(question(number), 0));
        let http = |number| self.runtimes.clients.block_on(self.http.ask(question(number), 0));
        // Warms up what has not had such a prompt before.
        direct(0)?;
        let mut times: [Vec<f64>; 4] = Default::default();
        for number in 1..=TIMES {
            // Each side has prompts of its own.
            let (own, others) = (2 * number, 2 * number + 1);
            let replies = [direct(own)?, http(others)?, direct(own)?, http(others)?];
            times.iter_mut().zip(replies).for_each(|(times, reply)| times.push(ms(reply.first)));
        }
        let [engine_ms, gateway_ms, engine_again_ms, gateway_again_ms] = times.map(|times| quantile(&times, 0.5));
        Ok(Prompted { prompt_tokens, engine_ms, gateway_ms, engine_again_ms, gateway_again_ms })
    }
}
