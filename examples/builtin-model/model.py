"""The network: a Qwen3-shaped decoder, once in JAX for training and once in numpy for answering.

Weights are a flat dict with the names that `Qwen3ForCausalLM` has in a safetensors file; a linear
layer's weight is stored as (out, in). Both versions compute in float32.
"""

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

SHAPE = {
    "vocab_size": 1024,
    "hidden_size": 192,
    "num_hidden_layers": 4,
    "num_attention_heads": 3,
    "num_key_value_heads": 3,
    "head_dim": 64,
    "intermediate_size": 384,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "max_position_embeddings": 4096,
}


def init(shape, seed):
    """Fresh weights: normal with 1/sqrt(fan-in), the two output projections of a layer at zero."""
    rng = np.random.default_rng(seed)
    hidden, inner, head = shape["hidden_size"], shape["intermediate_size"], shape["head_dim"]
    query, key = shape["num_attention_heads"] * head, shape["num_key_value_heads"] * head

    def normal(rows, columns):
        return (rng.standard_normal((rows, columns)) / np.sqrt(columns)).astype(np.float32)

    weights = {
        "model.embed_tokens.weight": (rng.standard_normal((shape["vocab_size"], hidden)) * 0.05).astype(np.float32),
        "model.norm.weight": np.ones(hidden, np.float32),
    }
    for layer in range(shape["num_hidden_layers"]):
        at = f"model.layers.{layer}."
        weights |= {
            at + "input_layernorm.weight": np.ones(hidden, np.float32),
            at + "post_attention_layernorm.weight": np.ones(hidden, np.float32),
            at + "self_attn.q_norm.weight": np.ones(head, np.float32),
            at + "self_attn.k_norm.weight": np.ones(head, np.float32),
            at + "self_attn.q_proj.weight": normal(query, hidden),
            at + "self_attn.k_proj.weight": normal(key, hidden),
            at + "self_attn.v_proj.weight": normal(key, hidden),
            at + "self_attn.o_proj.weight": np.zeros((hidden, query), np.float32),
            at + "mlp.gate_proj.weight": normal(inner, hidden),
            at + "mlp.up_proj.weight": normal(inner, hidden),
            at + "mlp.down_proj.weight": np.zeros((hidden, inner), np.float32),
        }
    return weights


def forward(weights, shape, tokens, positions, documents):
    """Logits (batch, length, vocabulary) in JAX. A token sees earlier tokens of its own document only."""
    return hidden(weights, shape, tokens, positions, documents) @ weights["model.embed_tokens.weight"].T


def hidden(weights, shape, tokens, positions, documents):
    """As `forward`, up to the states (batch, length, hidden) after the last norm."""
    import jax
    import jax.numpy as jnp

    heads, kv_heads, head = shape["num_attention_heads"], shape["num_key_value_heads"], shape["head_dim"]
    batch, length = tokens.shape

    def norm(x, weight):
        return x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + shape["rms_norm_eps"]) * weight

    frequencies = shape["rope_theta"] ** (-jnp.arange(0, head, 2, dtype=jnp.float32) / head)
    angles = positions[:, :, None, None] * frequencies
    cosine, sine = jnp.cos(angles), jnp.sin(angles)

    def rotate(x):
        left, right = jnp.split(x, 2, -1)
        return jnp.concatenate([left * cosine - right * sine, right * cosine + left * sine], -1)

    causal = jnp.tril(jnp.ones((length, length), bool))
    mask = (causal & (documents[:, :, None] == documents[:, None, :]))[:, None, None]

    x = weights["model.embed_tokens.weight"][tokens]
    for layer in range(shape["num_hidden_layers"]):
        at = f"model.layers.{layer}."
        get = lambda name: weights[at + name + ".weight"]
        h = norm(x, get("input_layernorm"))
        q = (h @ get("self_attn.q_proj").T).reshape(batch, length, heads, head)
        k = (h @ get("self_attn.k_proj").T).reshape(batch, length, kv_heads, head)
        v = (h @ get("self_attn.v_proj").T).reshape(batch, length, kv_heads, head)
        q, k = rotate(norm(q, get("self_attn.q_norm"))), rotate(norm(k, get("self_attn.k_norm")))
        q = q.reshape(batch, length, kv_heads, heads // kv_heads, head)
        scores = jnp.einsum("blkgd,bmkd->bkglm", q, k) * head**-0.5
        scores = jax.nn.softmax(jnp.where(mask, scores, -1e9), -1)
        mixed = jnp.einsum("bkglm,bmkd->blkgd", scores, v).reshape(batch, length, heads * head)
        x = x + mixed @ get("self_attn.o_proj").T
        h = norm(x, get("post_attention_layernorm"))
        x = x + (jax.nn.silu(h @ get("mlp.gate_proj").T) * (h @ get("mlp.up_proj").T)) @ get("mlp.down_proj").T
    return norm(x, weights["model.norm.weight"])


class Decoder:
    """Greedy answers in plain numpy, with a key-value cache."""

    def __init__(self, folder, rounding=None):
        folder = Path(folder)
        self.shape = json.loads((folder / "config.json").read_text())
        self.weights = {}
        for name, value in load_file(folder / "model.safetensors").items():
            value = value if rounding is None else value.astype(rounding)
            self.weights[name] = np.ascontiguousarray(value.astype(np.float32).T)
        head = self.shape["head_dim"]
        frequencies = self.shape["rope_theta"] ** (-np.arange(0, head, 2, dtype=np.float32) / head)
        angles = np.arange(self.shape["max_position_embeddings"], dtype=np.float32)[:, None, None] * frequencies
        self.cosine, self.sine = np.cos(angles), np.sin(angles)

    def _norm(self, x, weight):
        return x / np.sqrt(np.mean(x * x, -1, keepdims=True) + self.shape["rms_norm_eps"]) * weight

    def _rotate(self, x, start):
        left, right = np.split(x, 2, -1)
        cosine, sine = self.cosine[start : start + len(x)], self.sine[start : start + len(x)]
        return np.concatenate([left * cosine - right * sine, right * cosine + left * sine], -1)

    def logits(self, tokens, cache):
        """Logits after the last of `tokens`, which continue what `cache` (a list, empty at first) holds."""
        shape, weights = self.shape, self.weights
        heads, kv_heads, head = shape["num_attention_heads"], shape["num_key_value_heads"], shape["head_dim"]
        start, length = (len(cache[0][0]) if cache else 0), len(tokens)
        x = weights["model.embed_tokens.weight"].T[tokens]
        mask = np.triu(np.full((length, start + length), -1e9, np.float32), start + 1)
        for layer in range(shape["num_hidden_layers"]):
            at = f"model.layers.{layer}."
            get = lambda name: weights[at + name + ".weight"]
            h = self._norm(x, get("input_layernorm"))
            q = (h @ get("self_attn.q_proj")).reshape(length, heads, head)
            k = (h @ get("self_attn.k_proj")).reshape(length, kv_heads, head)
            v = (h @ get("self_attn.v_proj")).reshape(length, kv_heads, head)
            q, k = self._norm(q, get("self_attn.q_norm")), self._norm(k, get("self_attn.k_norm"))
            q, k = self._rotate(q, start), self._rotate(k, start)
            if layer < len(cache):
                k, v = np.concatenate([cache[layer][0], k]), np.concatenate([cache[layer][1], v])
                cache[layer] = (k, v)
            else:
                cache.append((k, v))
            mixed = np.empty((length, heads, head), np.float32)
            for number in range(heads):
                of = number * kv_heads // heads
                scores = q[:, number] @ k[:, of].T * head**-0.5 + mask
                scores = np.exp(scores - scores.max(-1, keepdims=True))
                mixed[:, number] = scores / scores.sum(-1, keepdims=True) @ v[:, of]
            x = x + mixed.reshape(length, heads * head) @ get("self_attn.o_proj")
            h = self._norm(x, get("post_attention_layernorm"))
            gate = h @ get("mlp.gate_proj")
            x = x + (gate / (1 + np.exp(-gate)) * (h @ get("mlp.up_proj"))) @ get("mlp.down_proj")
        return self._norm(x[-1], weights["model.norm.weight"]) @ weights["model.embed_tokens.weight"]

    def answer(self, tokens, end, max_tokens=512, temperature=0.0, rng=None):
        """The ids that follow `tokens`, without the end token, and whether it ended by itself."""
        cache, fresh, out = [], list(tokens), []
        while len(out) < max_tokens:
            logits = self.logits(fresh, cache)
            if temperature > 0:
                logits = logits / temperature + rng.gumbel(size=logits.shape)
            token = int(np.argmax(logits))
            if token == end:
                return out, True
            out.append(token)
            fresh = [token]
        return out, False


def save(folder, shape, weights, dtype=np.float16):
    """Writes model.safetensors and the two configurations."""
    folder = Path(folder)
    save_file({name: np.asarray(value).astype(dtype) for name, value in weights.items()}, folder / "model.safetensors",
              metadata={"format": "pt"})
    config = {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        **shape,
        "hidden_act": "silu",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "initializer_range": 0.02,
        "tie_word_embeddings": True,
        "use_cache": True,
        "use_sliding_window": False,
        "sliding_window": None,
        "max_window_layers": shape["num_hidden_layers"],
        "rope_scaling": None,
        "bos_token_id": None,
        "eos_token_id": 2,
        "pad_token_id": 0,
        "torch_dtype": "float16",
    }
    generation = {"do_sample": True, "temperature": 0.7, "top_p": 0.95, "eos_token_id": [2, 0], "pad_token_id": 0}
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    (folder / "generation_config.json").write_text(json.dumps(generation, indent=2) + "\n")
