//! Laws of the sampler: distributions, truncation sets, independence of company.

use proptest::prelude::*;

use super::*;

fn chooses(sampling: Sampling, logits: &[f32], generated: &[u32]) -> u32 {
    Sampler::new(sampling, None).choose(logits, generated).token
}

/// Draws at many positions, as if each were the next of a longer text.
fn histogram(sampling: &Sampling, logits: &[f32], draws: u32) -> Vec<u32> {
    let mut counts = vec![0; logits.len()];
    for seed in 0..u64::from(draws) {
        counts[chooses(Sampling { seed, ..sampling.clone() }, logits, &[]) as usize] += 1;
    }
    counts
}

fn softmax(logits: &[f32], temperature: f32) -> Vec<f64> {
    let weights: Vec<f64> = logits.iter().map(|&l| (f64::from(l) / f64::from(temperature)).exp()).collect();
    let sum: f64 = weights.iter().sum();
    weights.iter().map(|w| w / sum).collect()
}

fn chi_square(counts: &[u32], probabilities: &[f64]) -> f64 {
    let draws: f64 = counts.iter().map(|&c| f64::from(c)).sum();
    counts.iter().zip(probabilities).map(|(&c, p)| (f64::from(c) - draws * p).powi(2) / (draws * p)).sum()
}

const LOGITS: [f32; 8] = [1.0, 0.5, 0.0, -0.5, 2.0, -1.0, 0.25, 1.5];

#[test]
fn draws_follow_the_softmax_at_each_temperature() {
    for temperature in [0.5, 1.0, 2.0] {
        let counts = histogram(&Sampling { temperature, ..Default::default() }, &LOGITS, 20_000);
        // 7 degrees of freedom: above 24.3 in one of a thousand fair experiments.
        assert!(chi_square(&counts, &softmax(&LOGITS, temperature)) < 24.3, "{temperature}: {counts:?}");
    }
}

#[test]
fn draws_at_successive_positions_follow_the_softmax_too() {
    let mut counts = vec![0; LOGITS.len()];
    let generated = vec![0; 20_000];
    let mut sampler = Sampler::new(Sampling::default(), None);
    for position in 0..generated.len() {
        counts[sampler.choose(&LOGITS, &generated[..position]).token as usize] += 1;
    }
    assert!(chi_square(&counts, &softmax(&LOGITS, 1.0)) < 24.3, "{counts:?}");
}

#[test]
fn draws_within_top_k_follow_the_softmax_of_what_is_left() {
    let counts = histogram(&Sampling { top_k: Some(3), ..Default::default() }, &LOGITS, 20_000);
    let kept = [4, 7, 0];
    assert_eq!(kept.iter().map(|&t| counts[t]).sum::<u32>(), 20_000);
    let logits: Vec<f32> = kept.iter().map(|&t| LOGITS[t]).collect();
    let counts: Vec<u32> = kept.iter().map(|&t| counts[t]).collect();
    // 2 degrees of freedom.
    assert!(chi_square(&counts, &softmax(&logits, 1.0)) < 13.8, "{counts:?}");
}

#[test]
fn temperature_zero_takes_the_likeliest_and_of_equals_the_lowest_id() {
    let greedy = Sampling { temperature: 0.0, ..Default::default() };
    assert_eq!(chooses(greedy.clone(), &LOGITS, &[]), 4);
    assert_eq!(chooses(greedy, &[0.0, 3.0, 3.0], &[]), 1);
}

#[test]
fn penalties_count_generated_tokens_only_and_bias_is_added() {
    let sampling = Sampling { temperature: 0.0, frequency_penalty: 1.0, presence_penalty: 0.5, ..Default::default() };
    assert_eq!(chooses(sampling.clone(), &[2.0, 1.0, 0.0], &[]), 0);
    assert_eq!(chooses(sampling.clone(), &[2.0, 1.0, 0.0], &[0]), 1, "2 - 1.5 < 1");
    assert_eq!(chooses(sampling, &[2.0, 1.0, 0.0], &[0, 0, 1, 1]), 2);
    let repetition = Sampling { temperature: 0.0, repetition_penalty: 2.0, ..Default::default() };
    assert_eq!(chooses(repetition, &[-1.0, -1.5, -3.0], &[0]), 1, "-1 doubles to -2");
    let bias = Sampling { temperature: 0.0, logit_bias: vec![(2, 100.0), (9, 1.0)], ..Default::default() };
    assert_eq!(chooses(bias, &[2.0, 1.0, 0.0], &[]), 2);
}

#[test]
fn logprobs_are_natural_logs_after_penalties_and_bias_and_before_temperature() {
    let sampling = Sampling { temperature: 0.3, top_k: Some(1), logit_bias: vec![(1, 2.0)], ..Default::default() };
    let mut sampler = Sampler::new(sampling, Some(2));
    let choice = sampler.choose(&[1.0, 0.0, -1.0], &[]);
    let sum = (1f64.exp() + 2f64.exp() + (-1f64).exp()).ln();
    assert_eq!(choice.token, 1);
    assert!((f64::from(choice.logprob) - (2.0 - sum)).abs() < 1e-6);
    let top: Vec<u32> = sampler.top().iter().map(|&(token, _)| token).collect();
    assert_eq!(top, [1, 0]);
    assert!((f64::from(sampler.top()[1].1) - (1.0 - sum)).abs() < 1e-6);
}

#[test]
fn odd_logits_neither_panic_nor_win() {
    let any = Sampling { top_p: 0.9, top_k: Some(2), min_p: 0.1, ..Default::default() };
    assert_eq!(chooses(any.clone(), &[f32::NAN, f32::NEG_INFINITY, 1.0], &[]), 2);
    assert_eq!(chooses(any.clone(), &[f32::NEG_INFINITY; 3], &[]), 0);
    assert_eq!(chooses(any.clone(), &[], &[]), 0);
    assert_eq!(chooses(any, &[0.0, f32::INFINITY, 1.0], &[]), 1);
    let mut sampler = Sampler::new(Sampling::default(), Some(5));
    assert!(sampler.choose(&[f32::NEG_INFINITY, 0.0], &[]).logprob.abs() < 1e-6);
    assert_eq!(sampler.top().len(), 1, "impossible tokens are no alternatives");
}

proptest! {
    #[test]
    fn one_seed_gives_one_choice_whatever_was_sampled_before(
        logits in prop::collection::vec(-8f32..8.0, 1..300),
        generated in prop::collection::vec(0u32..300, 0..20),
        seed: u64,
        temperature in 0.1f32..3.0,
        other in prop::collection::vec(-8f32..8.0, 1..300),
    ) {
        let sampling = Sampling { seed, temperature, presence_penalty: 0.3, ..Default::default() };
        let alone = chooses(sampling.clone(), &logits, &generated);
        let mut busy = Sampler::new(sampling, Some(3));
        busy.choose(&other, &generated);
        busy.choose(&other, &[]);
        prop_assert_eq!(busy.choose(&logits, &generated).token, alone);
        prop_assert_eq!(busy.choose(&logits, &generated).token, alone);
    }

    #[test]
    fn truncation_never_lets_through_what_is_outside(
        logits in prop::collection::vec(-6f32..6.0, 1..400),
        seed: u64,
        temperature in 0.2f32..2.0,
        top_k in prop::option::of(1u32..50),
        top_p in 0.01f32..=1.0,
        min_p in 0f32..0.9,
    ) {
        let token = chooses(Sampling { seed, temperature, top_k, top_p, min_p, ..Default::default() }, &logits, &[]);
        let probabilities = softmax(&logits, temperature);
        let chosen = probabilities[token as usize];
        let likelier: Vec<f64> = probabilities.iter().copied().filter(|&p| p > chosen * (1.0 + 1e-5)).collect();
        prop_assert!(chosen >= probabilities.iter().copied().fold(0.0, f64::max) * f64::from(min_p) * (1.0 - 1e-4));
        prop_assert!(top_k.is_none_or(|k| likelier.len() < k as usize));
        let mut kept = probabilities;
        kept.sort_by(|a, b| b.total_cmp(a));
        kept.truncate(top_k.map_or(usize::MAX, |k| k as usize));
        kept.retain(|&p| p >= kept_floor(min_p, &softmax(&logits, temperature)));
        let mass: f64 = kept.iter().sum();
        prop_assert!(likelier.iter().sum::<f64>() < mass * f64::from(top_p) + 1e-4);
    }

    #[test]
    fn pruning_by_bounds_never_changes_the_winner(
        logits in prop::collection::vec(-30f32..30.0, 1..500),
        seed: u64,
    ) {
        let noise = Noise::at(seed, 0);
        let key = |token: usize| f64::from(logits[token]) + noise.gumbel(token as u32);
        let best = (0..logits.len()).map(key).fold(f64::NEG_INFINITY, f64::max);
        let token = chooses(Sampling { seed, ..Default::default() }, &logits, &[]);
        prop_assert!((key(token as usize) - best).abs() < 1e-9);
    }
}

fn kept_floor(min_p: f32, probabilities: &[f64]) -> f64 {
    probabilities.iter().copied().fold(0.0, f64::max) * f64::from(min_p) * (1.0 - 1e-4)
}
