// Embeddings of the real engine.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import OpenAI from 'openai';
import { client } from './gateways.mjs';

const TEXTS = ['What is a pool?', 'Please explain pools to me.', 'What color is the sky?'];

const embed = (options = {}) =>
  client('real').embeddings.create({ model: 'builtin-embedding', input: TEXTS, ...options });

const near = (one, other) => one.reduce((sum, number, at) => sum + number * other[at], 0);

test('texts that mean the same are near each other', async () => {
  const answer = await embed();
  const vectors = answer.data.map((item) => item.embedding);
  assert.deepEqual(vectors.map((vector) => vector.length), [128, 128, 128]);
  assert.ok(near(vectors[0], vectors[1]) > near(vectors[0], vectors[2]) + 0.2);
  assert.equal(answer.usage.total_tokens, answer.usage.prompt_tokens);
});

test('floats and base64 are the same numbers', async () => {
  // Where nothing is said the client asks for base64 by itself, and decodes it.
  const [decoded, floats] = [await embed(), await embed({ encoding_format: 'float' })];
  assert.deepEqual(decoded.data.map((item) => [...item.embedding]), floats.data.map((item) => item.embedding));
});

test('dimensions, token ids and typed errors', async () => {
  assert.equal((await embed({ dimensions: 8 })).data[0].embedding.length, 8);
  const ids = await embed({ input: [271, 268, 258, 429, 31, 0] });
  const text = await embed({ input: TEXTS[0] });
  assert.deepEqual([...ids.data[0].embedding], [...text.data[0].embedding]);
  await assert.rejects(embed({ input: ['a', ''] }), OpenAI.BadRequestError);
  await assert.rejects(embed({ model: 'text-embedding-4' }), OpenAI.NotFoundError);
});
