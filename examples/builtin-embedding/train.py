"""Trains the built-in embedding model from nothing on the CPU, writes model/ and evaluation.json.

    python train.py                    # the model in the repository: some minutes on two cores
    python train.py --evaluate         # measures what is in model/

The same seed, versions and processor give the same file.
"""

import argparse
import json
import os
import random
import sys
import time
from pathlib import Path

os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=true intra_op_parallelism_threads=2")
HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "builtin-model"))

import jax
import jax.numpy as jnp
import numpy as np
from safetensors.numpy import load_file, save_file
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

import chat
import model
import train as chat_training
from dataset import Builder, check, load

SHAPE = {
    "vocab_size": 1024,
    "hidden_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 64,
    "intermediate_size": 256,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "max_position_embeddings": 2048,
}
END = "<|endoftext|>"  # after each text: its place in the last layer is the text's embedding
LENGTH = 64  # tokens of a text in training, with its end; longer ones lose what comes before the end
ENTRIES = 96  # in a step, each with two texts
SHARPNESS = 20.0  # cosines are multiplied by this before the softmax


def make_tokenizer(texts):
    """A byte-level BPE over lower-case text, with the end mark after each text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(chat.PIECES), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])
    tokenizer.train_from_iterator(texts, trainers.BpeTrainer(
        vocab_size=SHAPE["vocab_size"], special_tokens=[AddedToken(END, special=True, normalized=False)],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    tokenizer.post_processor = processors.TemplateProcessing(single=f"$A {END}", special_tokens=[(END, 0)])
    return tokenizer


class Pairs:
    """Texts that mean the same: two phrasings of a question, or a question and its answer."""

    def __init__(self, tokenizer, seed):
        self.tokenizer, self.builder, self.rng = tokenizer, Builder(seed, round=2), random.Random(seed + 1)

    def batch(self):
        entries = self.rng.sample(self.builder.all, ENTRIES)
        left = [self.builder.ask(entry) for entry in entries]
        right = [self.builder.ask(entry) if self.rng.random() < 0.6 else self.rng.choice(entry.answers) for entry in entries]
        # Entries with one answer mean the same, and are not to be told apart.
        same = np.array([[a.id == b.id or bool(set(a.answers) & set(b.answers)) for b in entries] for a in entries])
        return tokens_of(self.tokenizer, left + right), same & ~np.eye(ENTRIES, dtype=bool)


def tokens_of(tokenizer, texts):
    """(ids, where each text ends), cut to LENGTH."""
    ids = np.zeros((len(texts), LENGTH), np.int32)
    ends = np.zeros(len(texts), np.int32)
    for row, encoding in enumerate(tokenizer.encode_batch(texts)):
        kept = encoding.ids[: LENGTH - 1] + [0] if len(encoding.ids) > LENGTH else encoding.ids
        ids[row, : len(kept)], ends[row] = kept, len(kept) - 1
    return ids, ends


def embed(weights, ids, ends):
    """Unit vectors. What stands after the end is not seen, because attention is causal."""
    rows, length = ids.shape
    positions = jnp.broadcast_to(jnp.arange(length, dtype=jnp.float32), (rows, length))
    states = model.hidden(weights, SHAPE, ids, positions, jnp.zeros((rows, length), jnp.int32))
    last = jnp.take_along_axis(states, ends[:, None, None], 1)[:, 0]
    return last / jnp.linalg.norm(last, axis=-1, keepdims=True)


def evaluate(weights, tokenizer):
    """Retrieval: the nearest of all entries, by their canonical question or by their answer."""
    builder, compute = Builder(1000), jax.jit(embed)

    def vectors(texts):
        made = []
        for at in range(0, len(texts), 64):
            some = texts[at : at + 64]
            ids, ends = tokens_of(tokenizer, some + [""] * (64 - len(some)))
            made.append(np.asarray(compute(weights, ids, ends))[: len(some)])
        return np.concatenate(made)

    entries = [entry for entry in builder.all]
    indexes = {"canonical questions": [entry.questions[0] for entry in entries], "answers": [entry.answers[0] for entry in entries]}
    ids = [entry.id for entry in entries]
    heldout = [item for item in load("heldout_paraphrases") if item["id"] in ids]
    others = [(question, entry.id) for entry in entries for question in entry.questions[1:]]
    queries = {
        "held-out paraphrases": ([item["q"] for item in heldout], [item["id"] for item in heldout]),
        "the other written phrasings": ([q for q, _ in others], [i for _, i in others]),
    }
    table = {}
    for what, (texts, wanted) in queries.items():
        asked = vectors(texts)
        for where, index in indexes.items():
            order = np.argsort(-(asked @ vectors(index).T), axis=1)
            place = [[ids[at] for at in row].index(right) for row, right in zip(order, wanted)]
            table[f"{what}, among {len(ids)} {where}"] = {
                "first": sum(p == 0 for p in place), "in the first five": sum(p < 5 for p in place), "of": len(place)}
    for name, row in table.items():
        print(f"{name:70} first {row['first']:4}  first five {row['in the first five']:4}  of {row['of']}", flush=True)
    return table


def save(folder, weights, tokenizer):
    """As a sentence-transformers model: the network, the last token's state, unit length."""
    folder.joinpath("1_Pooling").mkdir(parents=True, exist_ok=True)
    plain = {name.removeprefix("model."): np.asarray(value).astype(np.float16) for name, value in weights.items()}
    save_file(plain, folder / "model.safetensors", metadata={"format": "pt"})
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    files = {
        "config.json": {
            "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", **SHAPE, "hidden_act": "silu", "attention_bias": False,
            "attention_dropout": 0.0, "initializer_range": 0.02, "tie_word_embeddings": True, "use_sliding_window": False,
            "sliding_window": None, "max_window_layers": SHAPE["num_hidden_layers"], "rope_scaling": None, "bos_token_id": None,
            "eos_token_id": 0, "pad_token_id": 0, "torch_dtype": "float16",
        },
        "modules.json": [
            {"idx": number, "name": str(number), "path": path, "type": f"sentence_transformers.models.{kind}"}
            for number, (path, kind) in enumerate([("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")])
        ],
        "1_Pooling/config.json": {
            "word_embedding_dimension": SHAPE["hidden_size"], "pooling_mode_cls_token": False, "pooling_mode_mean_tokens": False,
            "pooling_mode_max_tokens": False, "pooling_mode_mean_sqrt_len_tokens": False, "pooling_mode_weightedmean_tokens": False,
            "pooling_mode_lasttoken": True, "include_prompt": True,
        },
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": SHAPE["max_position_embeddings"], "add_bos_token": False,
            "bos_token": None, "eos_token": END, "pad_token": END, "clean_up_tokenization_spaces": False,
        },
    }
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content, indent=2) + "\n")


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--steps", type=int, default=320)
    arguments.add_argument("--seed", type=int, default=7)
    arguments.add_argument("--out", type=Path, default=HERE / "model")
    arguments.add_argument("--evaluate", action="store_true", help="train nothing")
    arguments = arguments.parse_args()
    if arguments.evaluate:
        tokenizer = Tokenizer.from_file(str(arguments.out / "tokenizer.json"))
        stored = load_file(arguments.out / "model.safetensors")
        weights = {f"model.{name}": jnp.asarray(value.astype(np.float32)) for name, value in stored.items()}
        return evaluate(weights, tokenizer)

    builder = Builder(arguments.seed)
    problems = check(builder)
    if problems:
        raise SystemExit("\n".join(problems))
    tokenizer = make_tokenizer(builder.corpus())
    weights = {name: jnp.asarray(value) for name, value in model.init(SHAPE, arguments.seed).items()}
    print(f"{sum(value.size for value in weights.values())} parameters", flush=True)
    matrix = chat_training.is_matrix
    state = {name: jnp.zeros_like(value) if matrix(name) else (jnp.zeros_like(value),) * 2 for name, value in weights.items()}
    pairs = Pairs(tokenizer, arguments.seed)

    def loss(weights, ids, ends, same):
        vectors = embed(weights, ids, ends)
        close = jnp.where(same, -1e9, SHARPNESS * vectors[:ENTRIES] @ vectors[ENTRIES:].T)
        right = jnp.diagonal(close)
        return jnp.mean(jax.nn.logsumexp(close, 0) - right + jax.nn.logsumexp(close, 1) - right) / 2

    @jax.jit
    def step_of(weights, state, rate, step, *batch):
        value, gradients = jax.value_and_grad(loss)(weights, *batch)
        weights, state = chat_training.update(weights, state, gradients, rate, step)
        return weights, state, value

    began, recent = time.time(), []
    for step in range(1, arguments.steps + 1):
        rate = 0.5 * min(1.0, step / 20) * (1.01 - step / arguments.steps)
        (ids, ends), same = pairs.batch()
        weights, state, value = step_of(weights, state, rate, float(step), ids, ends, same)
        recent.append(float(value))
        if step % 50 == 0 or step == arguments.steps:
            print(f"step {step}  loss {np.mean(recent[-50:]):.4f}  {time.time() - began:.0f} s", flush=True)
    # As they are stored.
    weights = {name: jnp.asarray(np.asarray(value).astype(np.float16).astype(np.float32)) for name, value in weights.items()}
    save(arguments.out, weights, tokenizer)
    table = evaluate(weights, tokenizer)
    if arguments.out == HERE / "model":
        (HERE / "evaluation.json").write_text(json.dumps(table, indent=2) + "\n")


if __name__ == "__main__":
    main()
