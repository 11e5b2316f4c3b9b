//! What a pool has measured of itself: how fast it prefills and decodes, and how long answers are.
//!
//! Pure: durations come in as values. Each figure is a weighted mean in which old measurements fade; the
//! probes that every replica runs before it is ready give the first ones.

use std::time::Duration;

use super::queue::Work;

/// The weight that earlier measurements have together, at most: older ones fade.
const MEMORY: f64 = 9.0;

/// As many intervals between tokens weigh as much as one measurement: what was measured over a few tokens, such as those of
/// a probe, is soon outweighed.
const INTERVALS: f64 = 100.0;

/// Measured rates of a pool.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Rates {
    /// The ms that a prompt takes, by its tokens. A long prompt takes less for each token than a short one (each round of
    /// an engine costs something by itself) and a very long one more again (attention).
    prefill: Curve,
    /// The ms between two tokens of a sequence, by how many sequences run.
    decode: Curve,
    /// The tokens of an answer, by the limit that it had.
    lengths: Curve,
}

#[derive(Debug, Clone, Copy, PartialEq, Default)]
struct Mean {
    value: f64,
    /// 0 while nothing was measured.
    weight: f64,
}

impl Mean {
    fn add(&mut self, value: f64, weight: f64) {
        self.weight = self.weight.min(MEMORY) + weight;
        self.value += weight / self.weight * (value - self.value);
    }

    fn get(&self) -> Option<f64> {
        (self.weight > 0.0).then_some(self.value)
    }
}

/// A quantity that depends on a size. Sizes are told apart by powers of two; what lies between is interpolated.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
struct Curve {
    points: [Point; 24],
}

/// The mean size and the mean value of what was measured in one power of two.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
struct Point {
    size: Mean,
    value: Mean,
}

impl Curve {
    fn add(&mut self, size: f64, value: f64, weight: f64) {
        let at = (size.max(1.0).log2() as usize).min(self.points.len() - 1);
        self.points[at].size.add(size, weight);
        self.points[at].value.add(value, weight);
    }

    fn known(&self) -> impl Iterator<Item = (f64, f64)> {
        self.points.iter().filter_map(|point| Some((point.size.get()?, point.value.get()?)))
    }

    /// The value at a size: below the smallest that was measured the value there, beyond the largest as it went on up to
    /// there, and `slope` where only one is known. `None` while nothing was measured.
    fn at(&self, size: f64, slope: impl FnOnce(f64, f64) -> f64) -> Option<f64> {
        let mut known = self.known();
        let mut below = known.next()?;
        if size <= below.0 {
            return Some(below.1);
        }
        let mut slope = slope(below.0, below.1);
        for above in known {
            slope = ((above.1 - below.1) / (above.0 - below.0)).max(0.0);
            if size < above.0 {
                break;
            }
            below = above;
        }
        Some(below.1 + slope * (size - below.0))
    }
}

/// In proportion to the size.
fn proportional(size: f64, value: f64) -> f64 {
    value / size
}

/// One finished sequence.
#[derive(Debug, Clone, Copy)]
pub struct Measured {
    pub tokens_in: u32,
    pub tokens_out: u32,
    pub prefill: Duration,
    pub decode: Duration,
    /// Sequences that ran meanwhile, this one included, on average; at least 1.
    pub occupancy: f64,
}

impl Rates {
    /// Learns how fast a sequence went.
    pub fn measure_speed(&mut self, measured: Measured) {
        if measured.tokens_in > 0 {
            self.prefill.add(f64::from(measured.tokens_in), ms(measured.prefill), 1.0);
        }
        if measured.tokens_out > 1 {
            let intervals = f64::from(measured.tokens_out - 1);
            self.decode.add(measured.occupancy, ms(measured.decode) / intervals, (intervals / INTERVALS).min(1.0));
        }
    }

    /// Learns how long an answer was that might have been `max_tokens`.
    pub fn measure_length(&mut self, max_tokens: u32, tokens_out: u32) {
        self.lengths.add(f64::from(max_tokens), f64::from(tokens_out), 1.0);
    }

    /// Output tokens to expect of a sequence that may make up to `max_tokens`.
    pub fn expected_tokens(&self, max_tokens: u32) -> u32 {
        let expected = self.lengths.at(f64::from(max_tokens), proportional).unwrap_or_else(|| f64::from(max_tokens));
        // In range: `as` saturates, and the limit is a u32.
        (expected.ceil() as u32).clamp(1, max_tokens.max(1))
    }

    /// How long a sequence takes on its slot, in ms, while `occupancy` sequences run. `prefill_tokens` is 0 for one that
    /// has had its first token.
    pub fn sequence_ms(&self, occupancy: u32, prefill_tokens: f64, decode_tokens: f64) -> f64 {
        // The first token comes with the end of the prompt.
        let (prefill, decode_tokens) = if prefill_tokens > 0.0 {
            (self.prefill.at(prefill_tokens, proportional).unwrap_or(0.0), (decode_tokens - 1.0).max(0.0))
        } else {
            (0.0, decode_tokens)
        };
        prefill + decode_tokens * self.decode.at(f64::from(occupancy), |_, _| 0.0).unwrap_or(0.0)
    }

    /// How long `work` would take one slot of `occupancy` that run, in ms: as many sequences, each of the mean size.
    pub fn work_ms(&self, occupancy: u32, work: Work) -> f64 {
        if work.sequences == 0 {
            return 0.0;
        }
        let sequences = work.sequences as f64;
        let (prefill, decode) = (work.prefill_tokens as f64 / sequences, work.decode_tokens as f64 / sequences);
        sequences * self.sequence_ms(occupancy, prefill, decode)
    }

    /// Prompt tokens per second of one sequence, for the length that goes best; 0 while nothing was measured.
    pub fn prefill_tokens_per_s(&self) -> f64 {
        let rates = self.prefill.known().map(|(tokens, ms)| 1000.0 * tokens / ms);
        rates.filter(|rate| rate.is_finite()).fold(0.0, f64::max)
    }

    /// Output tokens per second of all sequences together, at the occupancy that goes best; 0 while nothing was measured.
    pub fn decode_tokens_per_s(&self) -> f64 {
        let rates = self.decode.known().map(|(occupancy, ms)| 1000.0 * occupancy / ms);
        rates.filter(|rate| rate.is_finite()).fold(0.0, f64::max)
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
            rates.measure_speed(Measured { tokens_in, tokens_out: 1, prefill, decode, occupancy: 1.0 });
        }
        rates
    }

    #[test]
    fn a_long_prompt_is_not_foreseen_by_the_rate_of_short_ones() {
        // 8 ms a round and 0.1 ms a token.
        let rates = measured(&[(10, 9), (100, 18), (12, 9), (1000, 108)]);
        assert_eq!(rates.sequence_ms(1, 4.0, 0.0), 9.0, "a shorter one takes no longer than the shortest measured");
        assert!((rates.sequence_ms(1, 550.0, 0.0) - 63.0).abs() < 0.1, "between two");
        assert!((rates.sequence_ms(1, 3000.0, 0.0) - 308.0).abs() < 0.1, "beyond the longest");
        assert_eq!(rates.sequence_ms(1, 0.0, 0.0), 0.0, "after the first token nothing of the prompt is left");
    }

    #[test]
    fn one_length_alone_is_taken_in_proportion_and_none_as_nothing() {
        assert_eq!(measured(&[(10, 5)]).sequence_ms(1, 40.0, 0.0), 20.0);
        assert_eq!(measured(&[]).sequence_ms(1, 40.0, 0.0), 0.0);
        assert_eq!(measured(&[]).prefill_tokens_per_s(), 0.0);
    }

    #[test]
    fn the_work_of_several_sequences_is_that_of_each() {
        let rates = measured(&[(10, 9), (100, 18)]);
        let work = Work { tasks: 1, sequences: 4, slots: 4, cache: 0, prefill_tokens: 400, decode_tokens: 0 };
        assert_eq!(rates.work_ms(1, work), 4.0 * 18.0);
        assert_eq!(rates.work_ms(1, Work::default()), 0.0);
    }

    #[test]
    fn tokens_come_as_slowly_as_they_did_with_as_many_beside() {
        let mut rates = Rates::default();
        for (occupancy, ms) in [(1.0, 100), (8.0, 450)] {
            let (prefill, decode) = (Duration::ZERO, Duration::from_millis(ms));
            rates.measure_speed(Measured { tokens_in: 0, tokens_out: 101, prefill, decode, occupancy });
        }
        let per_token = |occupancy| rates.sequence_ms(occupancy, 0.0, 100.0) / 100.0;
        assert_eq!((per_token(1), per_token(8)), (1.0, 4.5));
        assert!((per_token(4) - 2.5).abs() < 0.01, "between two");
        assert!((rates.decode_tokens_per_s() - 8000.0 / 4.5).abs() < 0.1);
    }

    #[test]
    fn answers_are_foreseen_as_long_as_those_with_such_a_limit_were() {
        let mut rates = Rates::default();
        assert_eq!(rates.expected_tokens(100), 100, "while nothing is known, the limit");
        for _ in 0..50 {
            rates.measure_length(16, 16);
            rates.measure_length(4096, 300);
        }
        assert_eq!((rates.expected_tokens(16), rates.expected_tokens(4096), rates.expected_tokens(2)), (16, 300, 2));
    }

    #[test]
    fn a_slow_probe_is_outweighed_by_the_first_real_answer() {
        let mut rates = Rates::default();
        for (tokens_out, ms) in [(4, 30), (201, 200)] {
            let (prefill, decode) = (Duration::ZERO, Duration::from_millis(ms));
            rates.measure_speed(Measured { tokens_in: 0, tokens_out, prefill, decode, occupancy: 1.0 });
        }
        let per_token = rates.sequence_ms(1, 0.0, 100.0) / 100.0;
        assert!((1.0..1.5).contains(&per_token), "10 ms in the probe, 1 ms since: {per_token}");
    }
}
