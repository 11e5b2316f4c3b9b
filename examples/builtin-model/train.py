"""Trains the built-in model from nothing on the CPU and writes model/.

    python train.py                    # the model in the repository: about half an hour on two cores
    python train.py --steps 250 --out /tmp/quick

The same seed, versions and processor give the same file.
"""

import argparse
import os
import random
import time
from pathlib import Path

os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=true intra_op_parallelism_threads=2")

import jax
import jax.numpy as jnp
import numpy as np
from safetensors.numpy import load_file
from tokenizers import Tokenizer

import chat
import model
from dataset import Builder, check

HERE = Path(__file__).parent
# (up to this part of the steps, sequence length, sequences per step, most pieces in a conversation)
PHASES_OF_ROUND = {
    1: [(0.86, 256, 12, 6), (0.96, 512, 6, 14), (1.0, 1024, 3, 30)],
    2: [(0.60, 256, 12, 6), (0.88, 512, 6, 14), (1.0, 1024, 3, 30)],
    3: [(0.85, 512, 6, 6), (1.0, 1024, 3, 20)],
    4: [(0.85, 384, 8, 6), (1.0, 1024, 3, 20)],
}
COPYING = 0.12  # for this part of the steps, much of the data is text to repeat
READING = 0.15  # weight of the tokens that others write; those of the assistant weigh 1


class Batches:
    """Packs conversations into sequences; each keeps its own positions and sees only itself."""

    def __init__(self, tokenizer, seed, round):
        self.tokenizer, self.builder, self.rng = tokenizer, Builder(seed, round=round), random.Random(seed + 1)
        self.copying = 0.0
        self.header = tokenizer.encode("<|im_start|>assistant\n").ids

    def conversation(self, most):
        messages, tools = self.builder.copying() if self.rng.random() < self.copying else self.builder.conversation()
        while most > 6 and tools is None and self.rng.random() < 1 - 3 / most:
            more, their_tools = self.builder.conversation()
            if their_tools is None:
                messages = messages + [m for m in more if m["role"] != "system"]
        ids = self.tokenizer.encode(chat.render(messages, tools, compact=self.rng.random() < 0.4)).ids
        mask = chat.answer_mask(ids, self.header)
        positions, jumps = np.arange(len(ids)), self.rng.random() < 0.2
        if jumps:  # far apart turns, as in a long conversation
            room = 3900 - len(ids)
            for at, token in enumerate(ids):
                if token == chat.START and at and room > 0 and self.rng.random() < 0.4:
                    gap = self.rng.randint(0, room)
                    positions[at:] += gap
                    room -= gap
        return ids, mask, positions

    def batch(self, length, count, most):
        tokens = np.zeros((count, length + 1), np.int32)
        wanted = np.zeros((count, length + 1), np.float32)
        positions = np.zeros((count, length + 1), np.float32)
        documents = np.full((count, length + 1), -1, np.int32)
        for row in range(count):
            at, number = 0, 0
            while at < length - 8:
                ids, mask, places = self.conversation(most)
                if len(ids) > length + 1 - at and at > length * 0.7:
                    break
                take = min(len(ids), length + 1 - at)
                tokens[row, at : at + take] = ids[:take]
                wanted[row, at : at + take] = np.where(mask[:take], 1.0, READING)
                wanted[row, at] = 0.0  # the first token of a document does not follow from the one before it
                positions[row, at : at + take] = places[:take]
                documents[row, at : at + take] = number
                at, number = at + take, number + 1
        return tokens[:, :-1], tokens[:, 1:], wanted[:, 1:], positions[:, :-1], documents[:, :-1]


def orthogonal(matrix):
    """The nearest semi-orthogonal matrix, roughly: five Newton-Schulz rounds (the Muon optimizer)."""
    tall = matrix.shape[-2] > matrix.shape[-1]
    x = jnp.swapaxes(matrix, -1, -2) if tall else matrix
    x = x / (jnp.linalg.norm(x, axis=(-2, -1), keepdims=True) + 1e-7)
    for _ in range(5):
        square = x @ jnp.swapaxes(x, -1, -2)
        x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
    return jnp.swapaxes(x, -1, -2) if tall else x


def is_matrix(name):
    return "_proj" in name


def update(weights, state, gradients, rate, step):
    """Muon for the layers' matrices, Adam for the embedding and the norms."""
    new, kept = {}, {}
    for name, gradient in gradients.items():
        if is_matrix(name):
            momentum = 0.95 * state[name] + gradient
            kept[name] = momentum
            rows, columns = gradient.shape
            turn = orthogonal(gradient + 0.95 * momentum) * max(1.0, rows / columns) ** 0.5
            new[name] = weights[name] * (1 - 0.02 * rate) - 0.02 * rate * turn
        else:
            first, second = state[name]
            first, second = 0.9 * first + 0.1 * gradient, 0.98 * second + 0.02 * gradient**2
            kept[name] = (first, second)
            size = first / (1 - 0.9**step) / (jnp.sqrt(second / (1 - 0.98**step)) + 1e-8)
            new[name] = weights[name] - 0.005 * rate * size
    return new, kept


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--steps", type=int, default=1600)
    arguments.add_argument("--seed", type=int, default=7)
    arguments.add_argument("--start", type=Path, help="go on from the model in this folder, with its tokenizer")
    arguments.add_argument("--round", type=int, choices=[1, 2, 3, 4], help="which mixture of the data; by default 1, with --start 2")
    arguments.add_argument("--peak", type=float, default=1.0, help="learning rate at the beginning, as a part of the usual one")
    arguments.add_argument("--out", type=Path, default=HERE / "model")
    arguments = arguments.parse_args()
    number = arguments.round or (2 if arguments.start else 1)

    builder = Builder(arguments.seed)
    problems = check(builder)
    if problems:
        raise SystemExit("\n".join(problems))
    shape = model.SHAPE
    if arguments.start:
        tokenizer = Tokenizer.from_file(str(arguments.start / "tokenizer.json"))
        fresh = {name: value.astype(np.float32) for name, value in load_file(arguments.start / "model.safetensors").items()}
    else:
        tokenizer = chat.train_tokenizer(builder.corpus(), shape["vocab_size"])
        fresh = model.init(shape, arguments.seed)
    arguments.out.mkdir(parents=True, exist_ok=True)
    chat.save_tokenizer(tokenizer, arguments.out)

    weights = {name: jnp.asarray(value) for name, value in fresh.items()}
    print(f"{sum(value.size for value in weights.values())} parameters", flush=True)
    state = {name: jnp.zeros_like(value) if is_matrix(name) else (jnp.zeros_like(value), jnp.zeros_like(value)) for name, value in weights.items()}
    batches = Batches(tokenizer, arguments.seed, number)

    def loss(weights, tokens, targets, wanted, positions, documents):
        logits = model.forward(weights, shape, tokens, positions, documents)
        score = jnp.take_along_axis(logits, targets[..., None], -1)[..., 0] - jax.nn.logsumexp(logits, -1)
        return -jnp.sum(score * wanted) / jnp.sum(wanted)

    @jax.jit
    def train(weights, state, rate, step, *batch):
        value, gradients = jax.value_and_grad(loss)(weights, *batch)
        weights, state = update(weights, state, gradients, rate, step)
        return weights, state, value

    began, seen, recent = time.time(), 0, []
    for step in range(1, arguments.steps + 1):
        part = step / arguments.steps
        length, count, most = next(phase[1:] for phase in PHASES_OF_ROUND[number] if part <= phase[0])
        rate = arguments.peak * min(1.0, step / 20) * (1.01 - part)
        batches.copying = 0.6 if part <= COPYING and number == 1 else 0.06 if number == 3 else 0.03 if number == 4 else 0.02
        weights, state, value = train(weights, state, rate, float(step), *batches.batch(length, count, most))
        seen += length * count
        recent.append(float(value))
        if step % 50 == 0 or step == arguments.steps:
            elapsed = time.time() - began
            print(f"step {step}  loss {np.mean(recent[-50:]):.4f}  {elapsed:.0f} s  {seen / elapsed:.0f} tokens/s", flush=True)
        if step % 200 == 0 or step == arguments.steps:
            model.save(arguments.out, shape, weights)


if __name__ == "__main__":
    main()
