//! What a pool has measured of itself: how fast it prefills and decodes, and how long answers are.
//!
//! Pure: durations come in as values. Each figure is an exponentially weighted mean, so that old measurements fade; the
//! probes that every replica runs before it is ready give the first ones.

use std::time::Duration;

use super::queue::Work;

/// The weight of one new measurement.
const WEIGHT: f64 = 0.1;

/// Measured rates of a pool.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Rates {
    prefill: Curve,
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

/// The time that a prompt takes by its length. A long prompt takes less per token than a short one (each round of an
/// engine costs something by itself), and a very long one more again (attention), so one rate for all would be far off:
/// lengths are told apart by powers of two, and what lies between is interpolated.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
struct Curve {
    points: [Point; 24],
}

/// The mean length and the mean time of the prompts of one power of two.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
struct Point {
    tokens: Mean,
    ms: Mean,
}

impl Curve {
    fn add(&mut self, tokens: u32, ms: f64) {
        let at = (tokens.ilog2() as usize).min(self.points.len() - 1);
        let point = &mut self.points[at];
        point.tokens.add(f64::from(tokens));
        point.ms.add(ms);
    }

    /// How long a prompt of so many tokens takes, in ms; 0 while nothing was measured.
    fn at(&self, tokens: f64) -> f64 {
        let mut known = self.points.iter().filter_map(|point| Some((point.tokens.0?, point.ms.0?)));
        let Some(mut below) = known.next() else { return 0.0 };
        if tokens <= below.0 {
            return below.1;
        }
        let mut slope = below.1 / below.0;
        for above in known {
            slope = ((above.1 - below.1) / (above.0 - below.0)).max(0.0);
            if tokens < above.0 {
                break;
            }
            below = above;
        }
        below.1 + slope * (tokens - below.0)
    }

    /// Tokens per second at the length that takes the least time per token.
    fn best_tokens_per_s(&self) -> f64 {
        let rates = self.points.iter().filter_map(|point| Some(1000.0 * point.tokens.0? / point.ms.0?));
        rates.filter(|rate| rate.is_finite()).fold(0.0, f64::max)
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
            self.prefill.add(measured.tokens_in, ms(measured.prefill));
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

    /// How long a sequence takes on its slot, in ms. `prefill_tokens` is 0 for one that has had its first token.
    pub fn sequence_ms(&self, prefill_tokens: f64, decode_tokens: f64) -> f64 {
        // The first token comes with the end of the prompt.
        let (prefill, decode_tokens) = if prefill_tokens > 0.0 {
            (self.prefill.at(prefill_tokens), (decode_tokens - 1.0).max(0.0))
        } else {
            (0.0, decode_tokens)
        };
        prefill + decode_tokens * self.decode_ms_per_token.0.unwrap_or(0.0)
    }

    /// How long `work` would take one slot, in ms: as many sequences, each of the mean size.
    pub fn work_ms(&self, work: Work) -> f64 {
        if work.sequences == 0 {
            return 0.0;
        }
        let sequences = work.sequences as f64;
        sequences * self.sequence_ms(work.prefill_tokens as f64 / sequences, work.decode_tokens as f64 / sequences)
    }

    /// Prompt tokens per second of one sequence, for the length that goes best; 0 while nothing was measured.
    pub fn prefill_tokens_per_s(&self) -> f64 {
        self.prefill.best_tokens_per_s()
    }

    /// Output tokens per second of one sequence, at the occupancy of late; 0 while nothing was measured.
    pub fn decode_tokens_per_s(&self) -> f64 {
        self.decode_ms_per_token.0.filter(|ms| *ms > 0.0).map_or(0.0, |ms| 1000.0 / ms)
    }
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(prompts: &[(u32, u64)]) -> Rates {
        let mut rates = Rates::default();
        for &(tokens_in, ms) in prompts {
            let (prefill, decode) = (Duration::from_millis(ms), Duration::ZERO);
            rates.measure_speed(Measured { tokens_in, tokens_out: 1, prefill, decode });
        }
        rates
    }

    #[test]
    fn a_long_prompt_is_not_foreseen_by_the_rate_of_short_ones() {
        // 8 ms a round and 0.1 ms a token.
        let rates = measured(&[(10, 9), (100, 18), (12, 9), (1000, 108)]);
        assert_eq!(rates.sequence_ms(4.0, 0.0), 9.0, "a shorter one takes no longer than the shortest measured");
        assert!((rates.sequence_ms(550.0, 0.0) - 63.0).abs() < 0.1, "between two");
        assert!((rates.sequence_ms(3000.0, 0.0) - 308.0).abs() < 0.1, "beyond the longest");
        assert_eq!(rates.sequence_ms(0.0, 0.0), 0.0, "after the first token nothing of the prompt is left");
    }

    #[test]
    fn one_length_alone_is_taken_in_proportion_and_none_as_nothing() {
        assert_eq!(measured(&[(10, 5)]).sequence_ms(40.0, 0.0), 20.0);
        assert_eq!(measured(&[]).sequence_ms(40.0, 0.0), 0.0);
        assert_eq!(measured(&[]).prefill_tokens_per_s(), 0.0);
    }

    #[test]
    fn the_work_of_several_sequences_is_that_of_each() {
        let rates = measured(&[(10, 9), (100, 18)]);
        let work = Work { tasks: 1, sequences: 4, slots: 4, prefill_tokens: 400, decode_tokens: 0 };
        assert_eq!(rates.work_ms(work), 4.0 * 18.0);
        assert_eq!(rates.work_ms(Work::default()), 0.0);
    }
}
