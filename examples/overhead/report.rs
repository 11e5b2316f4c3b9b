//! What was measured, as a table or as JSON.

use std::time::Duration;

use serde_json::{Value, json};

use crate::ask::Round;
use crate::quantile::quantile;

/// Everything that one run has measured.
pub struct Report {
    /// What answered.
    pub engine: &'static str,
    pub max_tokens: u32,
    /// Times of rendering and tokenizing one prompt, which is the largest part of what the gateway does before the engine.
    pub tokenizing: Vec<Duration>,
    pub levels: Vec<Level>,
}

/// What was measured with so many sequences at once.
pub struct Level {
    at_once: usize,
    direct: Samples,
    http: Samples,
    /// Of each pair of rounds: tokens per second through the gateway over those of the engine.
    ratios: Vec<f64>,
}

#[derive(Default)]
struct Samples {
    tokens_per_s: Vec<f64>,
    first_token_ms: Vec<f64>,
}

impl Samples {
    fn add(&mut self, round: &Round) {
        self.tokens_per_s.push(round.tokens_per_s());
        self.first_token_ms.extend(round.replies.iter().map(|reply| ms(reply.first_token)));
    }

    fn json(&self) -> Value {
        json!({
            "answers": self.first_token_ms.len(),
            "tokens_per_s": quantile(&self.tokens_per_s, 0.5),
            "first_token_ms": {"median": quantile(&self.first_token_ms, 0.5), "p95": quantile(&self.first_token_ms, 0.95)},
        })
    }
}

impl Level {
    pub fn new(at_once: usize) -> Self {
        Self { at_once, direct: Samples::default(), http: Samples::default(), ratios: Vec::new() }
    }

    /// Takes a round of each side, made one after the other.
    pub fn add(&mut self, direct: &Round, http: &Round) {
        self.direct.add(direct);
        self.http.add(http);
        self.ratios.push(http.tokens_per_s() / direct.tokens_per_s());
    }

    /// What the gateway adds to the median time to the first token, in ms.
    fn added_ms(&self) -> f64 {
        quantile(&self.http.first_token_ms, 0.5) - quantile(&self.direct.first_token_ms, 0.5)
    }

    fn json(&self) -> Value {
        json!({
            "at_once": self.at_once,
            "engine": self.direct.json(),
            "gateway": self.http.json(),
            "throughput_ratio": {
                "median": quantile(&self.ratios, 0.5),
                "lowest": quantile(&self.ratios, 0.0),
                "highest": quantile(&self.ratios, 1.0),
            },
            "first_token_added_ms": self.added_ms(),
        })
    }

    fn line(&self) -> String {
        let first = |samples: &Samples| {
            let times = &samples.first_token_ms;
            format!("{:8.2} {:8.2}", quantile(times, 0.5), quantile(times, 0.95))
        };
        format!(
            "{:7} {:9.0} {:9.0}   {:.3} ({:.3} to {:.3}) {} {} {:+8.2}",
            self.at_once,
            quantile(&self.direct.tokens_per_s, 0.5),
            quantile(&self.http.tokens_per_s, 0.5),
            quantile(&self.ratios, 0.5),
            quantile(&self.ratios, 0.0),
            quantile(&self.ratios, 1.0),
            first(&self.direct),
            first(&self.http),
            self.added_ms(),
        )
    }
}

impl Report {
    pub fn print(&self, as_json: bool) -> Result<(), serde_json::Error> {
        let tokenizing_ms = quantile(&self.tokenizing.iter().copied().map(ms).collect::<Vec<_>>(), 0.5);
        if as_json {
            let levels: Vec<_> = self.levels.iter().map(Level::json).collect();
            let report = json!({
                "engine": self.engine,
                "max_tokens": self.max_tokens,
                "tokenizing_ms": tokenizing_ms,
                "levels": levels,
            });
            println!("{}", serde_json::to_string_pretty(&report)?);
            return Ok(());
        }
        println!("engine: {}; {} tokens for each answer; medians", self.engine, self.max_tokens);
        println!("             tokens per second              time to first token, ms: median and p95");
        println!("at once    engine   gateway   gateway / engine           engine           gateway        added");
        for level in &self.levels {
            println!("{}", level.line());
        }
        println!("of what is added, rendering and tokenizing the prompt takes {tokenizing_ms:.2} ms");
        Ok(())
    }
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}
