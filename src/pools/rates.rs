//! What a pool has measured of itself: how fast it prefills and decodes, and how long answers are.
//!
//! Pure: durations come in as values. Each figure is an exponentially weighted mean, so that old measurements fade; the
//! probe that every replica runs before it is ready gives the first ones.

use std::time::Duration;

/// The weight of one new measurement.
const WEIGHT: f64 = 0.1;

/// Measured rates of a pool.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Rates {
    prefill_ms_per_token: Mean,
    decode_ms_per_token: Mean,
    tokens_out: Mean,
}

#[derive(Debug, Clone, Copy, PartialEq, Default)]
struct Mean(Option<f64>);

impl Mean {
    fn add(&mut self, value: f64) {
        self.0 = Some(self.0.map_or(value, |mean| mean + WEIGHT * (value - mean)));
    }
}

/// One finished sequence.
#[derive(Debug, Clone, Copy)]
pub struct Measured {
    pub tokens_in: u32,
    pub tokens_out: u32,
    pub prefill: Duration,
    pub decode: Duration,
}

impl Rates {
    /// Learns how fast a sequence went.
    pub fn measure_speed(&mut self, measured: Measured) {
        if measured.tokens_in > 0 {
            self.prefill_ms_per_token.add(ms(measured.prefill) / f64::from(measured.tokens_in));
        }
        if measured.tokens_out > 1 {
            self.decode_ms_per_token.add(ms(measured.decode) / f64::from(measured.tokens_out - 1));
        }
    }

    /// Learns how long an answer was.
    pub fn measure_length(&mut self, tokens_out: u32) {
        self.tokens_out.add(f64::from(tokens_out));
    }

    /// Output tokens to expect of a sequence that may make up to `max_tokens`.
    pub fn expected_tokens(&self, max_tokens: u32) -> u32 {
        let mean = self.tokens_out.0.unwrap_or_else(|| f64::from(max_tokens));
        // In range: the mean of u32 values, bounded by one of them.
        (mean.ceil() as u32).clamp(1, max_tokens.max(1))
    }

    /// How long a sequence takes on its slot, in ms.
    pub fn duration_ms(&self, prefill_tokens: f64, decode_tokens: f64) -> f64 {
        prefill_tokens * self.prefill_ms_per_token.0.unwrap_or(0.0)
            + decode_tokens * self.decode_ms_per_token.0.unwrap_or(0.0)
    }

    /// Prompt tokens per second of one sequence; 0 while nothing was measured.
    pub fn prefill_tokens_per_s(&self) -> f64 {
        per_second(self.prefill_ms_per_token)
    }

    /// Output tokens per second of one sequence, at the occupancy of late; 0 while nothing was measured.
    pub fn decode_tokens_per_s(&self) -> f64 {
        per_second(self.decode_ms_per_token)
    }
}

fn per_second(ms_per_token: Mean) -> f64 {
    ms_per_token.0.filter(|ms| *ms > 0.0).map_or(0.0, |ms| 1000.0 / ms)
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}
