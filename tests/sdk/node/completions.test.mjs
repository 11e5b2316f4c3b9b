// Completions of plain prompts by the real engine.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { chunksOf, client } from './gateways.mjs';

const complete = (options = {}) =>
  client('real').completions.create({ model: 'builtin', prompt: 'A pool is', seed: 11, ...options });

test('a stream says the same as a whole answer', async () => {
  const whole = await complete({ echo: true });
  assert.ok(whole.choices[0].text.startsWith('A pool is'));
  const chunks = await chunksOf(await complete({ echo: true, stream: true }));
  assert.equal(chunks.map((chunk) => chunk.choices[0].text).join(''), whole.choices[0].text);
  assert.equal(chunks.at(-1).choices[0].finish_reason, whole.choices[0].finish_reason);
});

test('several prompts have their choices one after the other', async () => {
  const answer = await complete({ prompt: ['A pool is', 'A queue is'], n: 2, echo: true });
  assert.deepEqual(answer.choices.map((choice) => choice.index), [0, 1, 2, 3]);
  assert.ok(answer.choices[2].text.startsWith('A queue is'));
});
