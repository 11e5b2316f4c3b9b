// Responses of the real engine through OpenAI's own client.

import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { test } from 'node:test';
import { promisify } from 'node:util';
import OpenAI from 'openai';
import { zodTextFormat } from 'openai/helpers/zod';
import { z } from 'zod';
import { chunksOf, client, url } from './gateways.mjs';

const base = { model: 'builtin', input: 'What is Sluicegate?', temperature: 0 };
const ask = (options = {}) => client('real').responses.create({ ...base, ...options });

test('a stream says what a whole response says', async () => {
  const whole = await ask();
  assert.ok(whole.output_text);
  const events = await chunksOf(await ask({ stream: true }));
  const deltas = events.filter((event) => event.type === 'response.output_text.delta');
  assert.equal(deltas.map((event) => event.delta).join(''), whole.output_text);
  assert.deepEqual(events.at(-1).response.usage, whole.usage);
});

test('counts are those of the response', async () => {
  const prompt = { model: 'builtin', input: base.input, instructions: 'Be brief.' };
  const counted = await client('real').responses.inputTokens.count(prompt);
  assert.equal(counted.object, 'response.input_tokens');
  const { usage } = await client('real').responses.create({ ...prompt, max_output_tokens: 1 });
  assert.equal(counted.input_tokens, usage.input_tokens);
});

test('the helper for streams accumulates the response', async () => {
  const stream = client('real').responses.stream(base);
  const final = await stream.finalResponse();
  assert.equal(final.output_text, (await ask()).output_text);
});

test('a conversation goes on by the id of what was said', async () => {
  const first = await ask();
  const second = await ask({ input: 'And who made it?', previous_response_id: first.id });
  assert.ok(second.output_text);
  const items = await chunksOf(client('real').responses.inputItems.list(second.id, { order: 'asc' }));
  assert.deepEqual(
    items.map((item) => item.role),
    ['user', 'assistant', 'user'],
  );
  await client('real').responses.delete(second.id);
  await assert.rejects(client('real').responses.retrieve(second.id), OpenAI.NotFoundError);
});

test('the helper for formats reads a structured answer', async () => {
  const City = z.object({ name: z.string(), population: z.int() });
  const response = await client('real').responses.parse({
    ...base,
    input: 'Name a city.',
    text: { format: zodTextFormat(City, 'city') },
  });
  assert.ok(City.parse(response.output_parsed));
});

test('the quick-start runs', async () => {
  const env = { ...process.env, OPENAI_BASE_URL: url('real', '/v1'), OPENAI_API_KEY: 'none' };
  const { stdout } = await promisify(execFile)(process.execPath, ['responses.mjs'], { env, timeout: 20_000 });
  assert.ok(stdout.trim().split('\n').length > 1, stdout);
});

test('a stream in the background is taken up again', async () => {
  const stream = await ask({ background: true, stream: true });
  const begun = [];
  for await (const event of stream) {
    begun.push(event);
    if (begun.length === 5) break;
  }
  const after = { stream: true, starting_after: begun.at(-1).sequence_number };
  const rest = await chunksOf(await client('real').responses.retrieve(begun[0].response.id, after));
  const numbers = [...begun, ...rest].map((event) => event.sequence_number);
  assert.deepEqual(numbers, [...numbers.keys()]);
  assert.equal(rest.at(-1).type, 'response.completed');
});
