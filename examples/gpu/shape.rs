//! The shapes of models: how many numbers they have, and in what tensors.

use serde_json::{Value, json};

/// A model by its architecture and sizes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Shape {
    /// No real model's: small enough for a CPU.
    #[value(name = "tiny")]
    Tiny,
    #[value(name = "qwen3-0.6b")]
    Qwen3Small,
    #[value(name = "qwen3-8b")]
    Qwen3Large,
    #[value(name = "llama-3.1-8b")]
    Llama,
}

/// What a `config.json` says of the sizes.
pub struct Sizes {
    layers: usize,
    hidden: usize,
    heads: usize,
    key_value_heads: usize,
    head: usize,
    intermediate: usize,
    pub vocabulary: usize,
    context: usize,
    /// The embeddings of the input are also those of the output.
    tied: bool,
}

/// Bytes of a number, as the weights are written and as a GPU's engine keeps keys and values.
pub const BYTES: usize = 2;

impl Shape {
    pub const fn sizes(self) -> Sizes {
        match self {
            Self::Tiny => Sizes {
                layers: 4,
                hidden: 256,
                heads: 4,
                key_value_heads: 2,
                head: 64,
                intermediate: 512,
                vocabulary: 4096,
                context: 32_768,
                tied: true,
            },
            Self::Qwen3Small => Sizes {
                layers: 28,
                hidden: 1024,
                heads: 16,
                key_value_heads: 8,
                head: 128,
                intermediate: 3072,
                vocabulary: 151_936,
                context: 40_960,
                tied: true,
            },
            Self::Qwen3Large => Sizes {
                layers: 36,
                hidden: 4096,
                heads: 32,
                key_value_heads: 8,
                head: 128,
                intermediate: 12_288,
                vocabulary: 151_936,
                context: 40_960,
                tied: false,
            },
            Self::Llama => Sizes {
                layers: 32,
                hidden: 4096,
                heads: 32,
                key_value_heads: 8,
                head: 128,
                intermediate: 14_336,
                vocabulary: 128_256,
                context: 131_072,
                tied: false,
            },
        }
    }

    /// What `config.json` holds.
    pub fn config(self) -> Value {
        let sizes = self.sizes();
        let mut config = json!({
            "vocab_size": sizes.vocabulary,
            "hidden_size": sizes.hidden,
            "num_hidden_layers": sizes.layers,
            "num_attention_heads": sizes.heads,
            "num_key_value_heads": sizes.key_value_heads,
            "head_dim": sizes.head,
            "intermediate_size": sizes.intermediate,
            "max_position_embeddings": sizes.context,
            "tie_word_embeddings": sizes.tied,
            "hidden_act": "silu",
            "attention_bias": false,
            "bos_token_id": null,
            "eos_token_id": 2,
            "pad_token_id": 0,
            "torch_dtype": "bfloat16",
        });
        let own = match self {
            Self::Llama => json!({
                "architectures": ["LlamaForCausalLM"],
                "model_type": "llama",
                "rms_norm_eps": 1e-5,
                "rope_theta": 500_000.0,
                "rope_scaling": {
                    "rope_type": "llama3",
                    "factor": 8.0,
                    "low_freq_factor": 1.0,
                    "high_freq_factor": 4.0,
                    "original_max_position_embeddings": 8192,
                },
            }),
            Self::Tiny | Self::Qwen3Small | Self::Qwen3Large => json!({
                "architectures": ["Qwen3ForCausalLM"],
                "model_type": "qwen3",
                "rms_norm_eps": 1e-6,
                "rope_theta": 1_000_000.0,
                "rope_scaling": null,
                "sliding_window": null,
                "use_sliding_window": false,
                "max_window_layers": sizes.layers,
            }),
        };
        if let (Some(config), Value::Object(own)) = (config.as_object_mut(), own) {
            config.extend(own);
        }
        config
    }

    /// The names of the tensors, and their dimensions.
    pub fn tensors(self) -> Vec<(String, Vec<usize>)> {
        let Sizes { hidden, intermediate, head, vocabulary, .. } = self.sizes();
        let (queries, keys) = (self.sizes().heads * head, self.sizes().key_value_heads * head);
        let mut tensors = vec![
            ("model.embed_tokens.weight".to_owned(), vec![vocabulary, hidden]),
            ("model.norm.weight".to_owned(), vec![hidden]),
        ];
        if !self.sizes().tied {
            tensors.push(("lm_head.weight".to_owned(), vec![vocabulary, hidden]));
        }
        let norms: &[&str] = if self == Self::Llama { &[] } else { &["self_attn.q_norm", "self_attn.k_norm"] };
        for layer in 0..self.sizes().layers {
            let mut add = |name: &str, dimensions| {
                tensors.push((format!("model.layers.{layer}.{name}.weight"), dimensions));
            };
            add("self_attn.q_proj", vec![queries, hidden]);
            add("self_attn.k_proj", vec![keys, hidden]);
            add("self_attn.v_proj", vec![keys, hidden]);
            add("self_attn.o_proj", vec![hidden, queries]);
            add("mlp.gate_proj", vec![intermediate, hidden]);
            add("mlp.up_proj", vec![intermediate, hidden]);
            add("mlp.down_proj", vec![hidden, intermediate]);
            add("input_layernorm", vec![hidden]);
            add("post_attention_layernorm", vec![hidden]);
            norms.iter().for_each(|norm| add(norm, vec![head]));
        }
        tensors
    }
}

/// What one step of a batch reads, whatever computes it: the weights once, and the keys and values of each sequence.
#[derive(Debug, Clone, Copy)]
pub struct Traffic {
    pub weight_bytes: f64,
    pub cache_bytes_per_token: f64,
}

impl Traffic {
    /// From a model's `config.json` and the bytes of its weights. `None` where that is not one of the above shapes.
    pub fn of(config: &Value, weight_bytes: u64) -> Option<Self> {
        let number = |name: &str| config[name].as_u64();
        let tied = config["tie_word_embeddings"].as_bool()?;
        // Of the table of the input a step reads a row for each sequence, of that of the output all.
        let unread = if tied { 0 } else { number("vocab_size")? * number("hidden_size")? * BYTES as u64 };
        let of_token = 2 * number("num_hidden_layers")? * number("num_key_value_heads")? * number("head_dim")?;
        Some(Self {
            weight_bytes: weight_bytes.checked_sub(unread)? as f64,
            cache_bytes_per_token: (of_token * BYTES as u64) as f64,
        })
    }

    /// Bytes of a step of `sequences` that have `tokens` each.
    pub fn of_step(self, sequences: usize, tokens: f64) -> f64 {
        self.weight_bytes + self.cache_bytes_per_token * tokens * sequences as f64
    }
}
