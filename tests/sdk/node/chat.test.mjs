// Chat completions of the real engine: whole and streamed, and every option that shapes them.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { QUESTION, chunksOf, client, textOf } from './gateways.mjs';

const ask = (options = {}) =>
  client('real').chat.completions.create({ model: 'builtin', messages: QUESTION, seed: 11, ...options });

test('a whole answer is complete', async () => {
  const answer = await ask();
  assert.equal(answer.object, 'chat.completion');
  assert.ok(answer.id.startsWith('chatcmpl-'));
  assert.ok(answer._request_id);
  assert.equal(answer.choices[0].message.role, 'assistant');
  assert.ok(answer.choices[0].message.content);
  assert.equal(answer.usage.total_tokens, answer.usage.prompt_tokens + answer.usage.completion_tokens);
});

test('a stream says the same as a whole answer', async () => {
  const whole = await ask();
  const chunks = await chunksOf(await ask({ stream: true }));
  assert.equal(textOf(chunks), whole.choices[0].message.content);
  assert.equal(chunks[0].choices[0].delta.role, 'assistant');
  assert.equal(chunks.at(-1).choices[0].finish_reason, whole.choices[0].finish_reason);
});

test('include_usage adds one last chunk', async () => {
  const whole = await ask();
  const chunks = await chunksOf(await ask({ stream: true, stream_options: { include_usage: true } }));
  assert.deepEqual(chunks.at(-1).choices, []);
  assert.deepEqual(chunks.at(-1).usage, whole.usage);
  assert.ok(chunks.slice(0, -1).every((chunk) => chunk.usage === null));
});

test('the helper for streams accumulates the same answer', async () => {
  const stream = client('real').chat.completions.stream({ model: 'builtin', messages: QUESTION, seed: 11 });
  const whole = await ask();
  assert.equal(await stream.finalContent(), whole.choices[0].message.content);
});

test('a seed gives the same text twice and another seed another', async () => {
  const texts = [];
  for (const seed of [1, 1, 2]) texts.push((await ask({ seed, temperature: 2 })).choices[0].message.content);
  assert.equal(texts[0], texts[1]);
  assert.notEqual(texts[0], texts[2]);
});

test('a stop string ends the answer before it', async () => {
  const whole = (await ask()).choices[0].message.content;
  const half = Math.floor(whole.length / 2);
  const stop = whole.slice(half, half + 3);
  const [choice] = (await ask({ stop: [stop] })).choices;
  assert.equal(choice.message.content, whole.slice(0, whole.indexOf(stop)));
  assert.equal(choice.finish_reason, 'stop');
});

test('limits on tokens end the answer', async () => {
  for (const limit of [{ max_tokens: 3 }, { max_completion_tokens: 3 }]) {
    const answer = await ask(limit);
    assert.equal(answer.choices[0].finish_reason, 'length');
    assert.equal(answer.usage.completion_tokens, 3);
  }
});

test('logprobs cover the text', async () => {
  const answer = await ask({ logprobs: true, top_logprobs: 3, max_tokens: 8 });
  const tokens = answer.choices[0].logprobs.content;
  assert.equal(tokens.length, 8);
  const text = Buffer.concat(tokens.map((token) => Buffer.from(token.bytes))).toString();
  assert.equal(text, answer.choices[0].message.content);
  assert.ok(tokens.every((token) => token.logprob <= 0 && token.top_logprobs.length === 3));
});

test('several choices', async () => {
  // Hot enough that two choices differ.
  const options = { n: 2, max_tokens: 20, temperature: 2 };
  const answer = await ask(options);
  assert.deepEqual(answer.choices.map((choice) => choice.index), [0, 1]);
  assert.notEqual(answer.choices[0].message.content, answer.choices[1].message.content);
  const chunks = await chunksOf(await ask({ ...options, stream: true }));
  assert.equal(textOf(chunks), answer.choices[0].message.content);
});

test('models are listed and found', async () => {
  const ids = [];
  for await (const model of client('real').models.list()) ids.push(model.id);
  assert.ok(ids.includes('builtin'));
  assert.equal((await client('real').models.retrieve('builtin')).object, 'model');
});
