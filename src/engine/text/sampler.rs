//! Chooses tokens: penalties, bias, log-probabilities, temperature, truncation, Gumbel-max noise.
//!
//! The order is part of the sampler's profile ([`SAMPLER_PROFILE_VERSION`](super::SAMPLER_PROFILE_VERSION)):
//!
//! 1. repetition penalty, then frequency and presence penalties, over generated tokens only; then the logit bias;
//! 2. log-probabilities, of the softmax of what is there now;
//! 3. temperature (0: the likeliest token, of equals the lowest id; done);
//! 4. `min_p`, then `top_k`, then `top_p` of what is left;
//! 5. the largest of `logit / temperature` + noise, of equals the lowest id.
//!
//! Nothing is allocated per token once the buffers have grown to the vocabulary's size.

use super::noise::Noise;
use crate::engine::Sampling;

/// How much likelier than this in natural log the likeliest token must be for another one to be left out of sums:
/// below it, even a whole vocabulary adds less than a float can show.
const NEGLIGIBLE: f32 = 40.0;

/// The sampler of one sequence.
#[derive(Debug)]
pub struct Sampler {
    sampling: Sampling,
    top_logprobs: Option<usize>,
    /// Generated tokens and how often each came; as long as the number of different ones.
    counts: Vec<(u32, u32)>,
    counted: usize,
    /// The logits of this position after penalties and bias.
    logits: Vec<f32>,
    /// What truncation works on.
    candidates: Vec<Candidate>,
    /// Likeliest alternatives of the last choice.
    top: Vec<(u32, f32)>,
}

/// A chosen token.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Choice {
    pub token: u32,
    /// Natural log of its probability after penalties and bias; 0 where none were asked for.
    pub logprob: f32,
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct Candidate {
    token: u32,
    logit: f32,
}

impl Candidate {
    /// Likelier first; of equals, the lower id.
    fn rank(a: &Self, b: &Self) -> std::cmp::Ordering {
        b.logit.total_cmp(&a.logit).then(a.token.cmp(&b.token))
    }
}

impl Sampler {
    /// `top_logprobs`: how many alternatives to report with each token, `None` for no log-probabilities at all.
    pub fn new(sampling: Sampling, top_logprobs: Option<u8>) -> Self {
        Self {
            sampling,
            top_logprobs: top_logprobs.map(usize::from),
            counts: Vec::new(),
            counted: 0,
            logits: Vec::new(),
            candidates: Vec::new(),
            top: Vec::new(),
        }
    }

    /// Chooses the token after `generated`. The same arguments give the same choice, however often it is asked.
    ///
    /// A logit that is not a number counts as impossible. Where every token is impossible the choice is token 0.
    pub fn choose(&mut self, logits: &[f32], generated: &[u32]) -> Choice {
        self.logits.clear();
        self.logits.extend(logits.iter().map(|&logit| if logit.is_nan() { f32::NEG_INFINITY } else { logit }));
        self.penalize(generated);
        let (likeliest, max) = argmax(&self.logits);
        let token = if self.sampling.temperature > 0.0 && max.is_finite() {
            self.sample(likeliest, max, Noise::at(self.sampling.seed, generated.len() as u64))
        } else {
            likeliest
        };
        let logprob = if self.top_logprobs.is_some() { self.logprobs(token, max) } else { 0.0 };
        Choice { token, logprob }
    }

    /// The likeliest tokens of the last choice with their natural log-probabilities, likeliest first; empty where none
    /// were asked for.
    pub fn top(&self) -> &[(u32, f32)] {
        &self.top
    }

    fn penalize(&mut self, generated: &[u32]) {
        let Sampling { frequency_penalty, presence_penalty, repetition_penalty, .. } = self.sampling;
        if frequency_penalty != 0.0 || presence_penalty != 0.0 || repetition_penalty != 1.0 {
            self.count(generated);
            for &(token, count) in &self.counts {
                let Some(logit) = self.logits.get_mut(token as usize) else { continue };
                *logit = if *logit > 0.0 { *logit / repetition_penalty } else { *logit * repetition_penalty };
                *logit -= count as f32 * frequency_penalty + presence_penalty;
            }
        }
        for &(token, bias) in &self.sampling.logit_bias {
            if let Some(logit) = self.logits.get_mut(token as usize) {
                *logit += bias;
            }
        }
    }

    fn count(&mut self, generated: &[u32]) {
        if generated.len() < self.counted {
            self.counts.clear();
            self.counted = 0;
        }
        for &token in &generated[self.counted..] {
            match self.counts.binary_search_by_key(&token, |&(token, _)| token) {
                Ok(at) => self.counts[at].1 += 1,
                Err(at) => self.counts.insert(at, (token, 1)),
            }
        }
        self.counted = generated.len();
    }

    fn sample(&mut self, likeliest: u32, max: f32, noise: Noise) -> u32 {
        let Sampling { temperature, top_p, top_k, min_p, .. } = self.sampling;
        if top_k.is_none() && top_p >= 1.0 && min_p <= 0.0 {
            let all = (0..).zip(&self.logits).map(|(token, &logit)| Candidate { token, logit });
            return loudest(all, likeliest, max, temperature, noise);
        }
        let floor = if min_p > 0.0 { max + temperature * min_p.ln() } else { f32::NEG_INFINITY };
        let all = (0..).zip(&self.logits).map(|(token, &logit)| Candidate { token, logit });
        self.candidates.clear();
        self.candidates.extend(all.filter(|c| c.logit >= floor && c.logit > f32::NEG_INFINITY));
        if let Some(k) = top_k {
            keep_top(&mut self.candidates, k.max(1) as usize);
        }
        if top_p < 1.0 {
            keep_mass(&mut self.candidates, max, temperature, top_p);
        }
        loudest(self.candidates.iter().copied(), likeliest, max, temperature, noise)
    }

    /// Fills `top` and returns the natural log-probability of `token`.
    fn logprobs(&mut self, token: u32, max: f32) -> f32 {
        let sum: f64 = self.logits.iter().map(|&logit| weight(logit - max)).sum();
        let log_sum = f64::from(max) + sum.ln();
        let logprob = |logit: f32| (f64::from(logit) - log_sum) as f32;
        self.top.clear();
        let wanted = self.top_logprobs.unwrap_or(0);
        if wanted > 0 {
            self.candidates.clear();
            let all = (0..).zip(&self.logits).map(|(token, &logit)| Candidate { token, logit });
            self.candidates.extend(all.filter(|c| c.logit > f32::NEG_INFINITY));
            keep_top(&mut self.candidates, wanted);
            self.candidates.sort_unstable_by(Candidate::rank);
            self.top.extend(self.candidates.iter().map(|c| (c.token, logprob(c.logit))));
        }
        self.logits.get(token as usize).map_or(f32::NEG_INFINITY, |&logit| logprob(logit))
    }
}

/// The first of the largest, and its logit; token 0 of an empty or impossible list.
fn argmax(logits: &[f32]) -> (u32, f32) {
    let first = (0, logits.first().copied().unwrap_or(f32::NEG_INFINITY));
    (0..).zip(logits).fold(first, |best, (token, &logit)| if logit > best.1 { (token, logit) } else { best })
}

/// The candidate with the largest `logit / temperature` + noise.
fn loudest(
    candidates: impl Iterator<Item = Candidate>,
    likeliest: u32,
    max: f32,
    temperature: f32,
    noise: Noise,
) -> u32 {
    let scale = 1.0 / f64::from(temperature);
    let mut best = (likeliest, noise.gumbel(likeliest));
    for Candidate { token, logit } in candidates {
        let scaled = (f64::from(logit) - f64::from(max)) * scale;
        if scaled + noise.gumbel_bound(token) < best.1 {
            continue;
        }
        let loudness = scaled + noise.gumbel(token);
        if loudness > best.1 || (loudness == best.1 && token < best.0) {
            best = (token, loudness);
        }
    }
    best.0
}

fn keep_top(candidates: &mut Vec<Candidate>, k: usize) {
    if k < candidates.len() {
        candidates.select_nth_unstable_by(k - 1, Candidate::rank);
        candidates.truncate(k);
    }
}

/// Keeps the smallest set of likeliest candidates that has at least the share `top_p` of their mass, at least one.
fn keep_mass(candidates: &mut Vec<Candidate>, max: f32, temperature: f32, top_p: f32) {
    let mass = |c: &Candidate| weight((c.logit - max) / temperature);
    let wanted = candidates.iter().map(mass).sum::<f64>() * f64::from(top_p);
    let (mut sorted, mut gathered) = (0, 0.0);
    let mut step = 64;
    while sorted < candidates.len() {
        let rest = &mut candidates[sorted..];
        if step < rest.len() {
            rest.select_nth_unstable_by(step - 1, Candidate::rank);
        }
        let end = step.min(rest.len());
        rest[..end].sort_unstable_by(Candidate::rank);
        for (at, candidate) in rest[..end].iter().enumerate() {
            gathered += mass(candidate);
            if gathered >= wanted {
                candidates.truncate(sorted + at + 1);
                return;
            }
        }
        sorted += end;
        step *= 4;
    }
}

/// `e^distance`, in single precision, and 0 where it could not show in a sum.
fn weight(distance: f32) -> f64 {
    if distance < -NEGLIGIBLE { 0.0 } else { f64::from(distance.exp()) }
}

#[cfg(test)]
mod tests;
