//! What a configuration claims of a model's sizes, held against its weights.
//!
//! The engine makes room for what is claimed before it looks for the weights: for each layer, for each position. A claim that
//! no weights of this size could bear out is refused, so that a few bytes of JSON cannot use up the machine's memory.

use serde_json::Value;

/// No layout of weights keeps more parameters than this in a byte.
const PER_BYTE: u64 = 8;

/// The longest context that the engine is asked to make tables for, in tokens. Published models end at 10 million.
pub const LONGEST_CONTEXT: u64 = 1 << 24;

/// Each layer has tensors of its own.
const LAYERS: [&str; 3] = ["num_hidden_layers", "num_layers", "n_layer"];

/// Each is the length of a row or column of some tensor, or how many of them there are.
const LENGTHS: [&str; 18] = [
    "hidden_size",
    "vocab_size",
    "intermediate_size",
    "moe_intermediate_size",
    "shared_expert_intermediate_size",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "v_head_dim",
    "qk_nope_head_dim",
    "qk_rope_head_dim",
    "kv_lora_rank",
    "q_lora_rank",
    "num_experts",
    "num_local_experts",
    "n_routed_experts",
    "n_shared_experts",
    "hidden_size_per_layer_input",
];

/// Each, times the hidden size, is the size of some tensor.
const SIDES: [&str; 3] = ["vocab_size", "intermediate_size", "num_attention_heads"];

const CONTEXTS: [&str; 3] = ["max_position_embeddings", "original_max_position_embeddings", "n_positions"];

/// What there is of weights.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Weights {
    pub tensors: u64,
    pub bytes: u64,
}

impl Weights {
    pub fn and(self, other: Self) -> Self {
        Self { tensors: self.tensors + other.tensors, bytes: self.bytes.saturating_add(other.bytes) }
    }

    /// Parameters at most.
    pub fn parameters(self) -> u64 {
        self.bytes.saturating_mul(PER_BYTE)
    }
}

/// Whether the weights can be those of a model with this `config.json`.
///
/// # Errors
///
/// What it claims and they are not.
pub fn check(config: &Value, weights: Weights) -> Result<(), String> {
    // Models that also see or hear keep the sizes of what writes in a table of its own.
    [config, &config["text_config"]].into_iter().try_for_each(|config| check_one(config, weights))
}

fn check_one(config: &Value, weights: Weights) -> Result<(), String> {
    let claimed = |name: &'static str| config[name].as_u64().map(|size| (name, size));
    let too_much = |(name, size): (&str, u64), most: u64| {
        Err(format!("`{name}` is {size}, and the weights allow {most} at most: they are of another model"))
    };
    if let Some(layers) = LAYERS.into_iter().filter_map(claimed).find(|(_, layers)| *layers > weights.tensors) {
        return too_much(layers, weights.tensors);
    }
    if let Some(length) = LENGTHS.into_iter().filter_map(claimed).find(|(_, length)| *length > weights.parameters()) {
        return too_much(length, weights.parameters());
    }
    if let Some((_, hidden)) = claimed("hidden_size").filter(|(_, hidden)| *hidden > 0) {
        let most = weights.parameters() / hidden;
        if let Some(side) = SIDES.into_iter().filter_map(claimed).find(|(_, side)| *side > most) {
            return too_much(side, most);
        }
    }
    match CONTEXTS.into_iter().filter_map(claimed).find(|(_, context)| *context > LONGEST_CONTEXT) {
        Some((name, context)) => {
            Err(format!("`{name}` is {context}, and {LONGEST_CONTEXT} is the most that is served"))
        }
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// As the built-in model has them.
    const WEIGHTS: Weights = Weights { tensors: 46, bytes: 3_000_000 };

    fn config() -> Value {
        json!({"hidden_size": 192, "vocab_size": 1024, "num_hidden_layers": 4, "intermediate_size": 384,
            "num_attention_heads": 3, "head_dim": 64, "max_position_embeddings": 4096, "sliding_window": null})
    }

    #[test]
    fn what_no_weights_of_this_size_could_bear_out_is_refused_by_name() {
        assert_eq!(check(&config(), WEIGHTS), Ok(()));
        for (name, size) in [
            ("num_hidden_layers", 1_000_000_000_u64),
            ("num_hidden_layers", 47),
            ("hidden_size", u64::MAX),
            ("vocab_size", 200_000),
            ("intermediate_size", 1 << 40),
            ("num_key_value_heads", 1 << 40),
            ("max_position_embeddings", 1 << 40),
        ] {
            let mut claim = config();
            claim[name] = size.into();
            let error = check(&claim, WEIGHTS).unwrap_err();
            assert!(error.starts_with(&format!("`{name}` is {size}, and ")), "{error}");
            assert_eq!(check(&json!({"text_config": claim}), WEIGHTS), Err(error));
        }
    }

    #[test]
    fn weights_of_four_bits_and_less_are_still_believed() {
        // 7 billion parameters in 2 GB.
        let packed = Weights { tensors: 900, bytes: 2_000_000_000 };
        let config = json!({"hidden_size": 4096, "vocab_size": 128_256, "num_hidden_layers": 32,
            "intermediate_size": 14_336, "max_position_embeddings": 10_485_760});
        assert_eq!(check(&config, packed), Ok(()));
    }
}
