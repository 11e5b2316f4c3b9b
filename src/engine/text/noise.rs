//! Noise for sampling: a pure function of (seed, position, token).
//!
//! Adding standard Gumbel noise to `logit / temperature` and taking the largest is the same as drawing from the softmax
//! (the Gumbel-max trick). Because nothing is drawn from a generator that moves on, a position may be sampled twice, in
//! any company, and gives the same token for the same logits.
//!
//! The hash is the finalizer of SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", 2014).

/// The noise of one position of one sequence.
#[derive(Debug, Clone, Copy)]
pub struct Noise {
    key: u64,
}

impl Noise {
    /// `position` counts generated tokens from 0.
    pub const fn at(seed: u64, position: u64) -> Self {
        Self { key: mix(mix(seed).wrapping_add(position.wrapping_mul(0x9e37_79b9_7f4a_7c15))) }
    }

    /// 53 random bits, which stand for `1 - u` with `u` uniform in the open interval (0, 1).
    const fn bits(self, token: u32) -> u64 {
        mix(self.key ^ (token as u64).wrapping_mul(0xd1b5_4a32_d192_ed03)) >> 11
    }

    /// The standard Gumbel noise `-ln(-ln u)` of `token`.
    pub fn gumbel(self, token: u32) -> f64 {
        let distance = (self.bits(token) as f64 + 0.5) / (1u64 << 53) as f64;
        -(-(-distance).ln_1p()).ln()
    }

    /// A number that [`gumbel`](Self::gumbel) of `token` does not exceed, found without a logarithm.
    ///
    /// Since `-ln u >= 1 - u`, the noise is at most `-ln(1 - u)`, which the leading zeros of the bits bound.
    pub fn gumbel_bound(self, token: u32) -> f64 {
        let zeros = self.bits(token).leading_zeros() - 11;
        f64::from(zeros + 1) * std::f64::consts::LN_2
    }
}

const fn mix(mut x: u64) -> u64 {
    x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bound_holds() {
        let noise = Noise::at(7, 3);
        for token in 0..200_000 {
            assert!(noise.gumbel(token) <= noise.gumbel_bound(token), "token {token}");
        }
    }

    #[test]
    fn the_noise_has_the_mean_and_variance_of_a_gumbel_variable() {
        let samples: Vec<f64> =
            (0..400).flat_map(|position| (0..500).map(move |token| Noise::at(11, position).gumbel(token))).collect();
        let mean = samples.iter().sum::<f64>() / samples.len() as f64;
        let variance = samples.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / samples.len() as f64;
        assert!((mean - 0.577_215_664_9).abs() < 0.01, "{mean}");
        assert!((variance - std::f64::consts::PI.powi(2) / 6.0).abs() < 0.02, "{variance}");
    }

    #[test]
    fn seeds_positions_and_tokens_each_change_the_noise() {
        let noise = Noise::at(1, 1).gumbel(1);
        assert_ne!(noise, Noise::at(2, 1).gumbel(1));
        assert_ne!(noise, Noise::at(1, 2).gumbel(1));
        assert_ne!(noise, Noise::at(1, 1).gumbel(2));
    }

    #[test]
    fn the_noise_never_changes() {
        assert_eq!(Noise::at(42, 0).bits(0), 3485554412553231);
        assert_eq!(Noise::at(42, 7).bits(1000), 2281754697398008);
    }
}
