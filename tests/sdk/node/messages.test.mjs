// Anthropic's own client, unchanged but for the address: messages whole and streamed, tools, counts, failures, leaving.

import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { test } from 'node:test';
import { promisify } from 'node:util';
import Anthropic from '@anthropic-ai/sdk';
import { betaTool } from '@anthropic-ai/sdk/helpers/beta/json-schema';
import { QUESTION, chunksOf, eventually, slotsActive, task, url } from './gateways.mjs';

const WEATHER = {
  name: 'get_weather',
  description: 'Get the weather in a city',
  input_schema: {
    type: 'object',
    properties: { city: { type: 'string', maxLength: 20 } },
    required: ['city'],
    additionalProperties: false,
  },
};
const ASK = [{ role: 'user', content: 'What is the weather in Berlin?' }];

const client = (gateway, options = {}) =>
  new Anthropic({ baseURL: url(gateway, ''), apiKey: 'any', maxRetries: 0, ...options });

const body = (more) => ({ model: 'builtin', max_tokens: 64, messages: QUESTION, temperature: 0, ...more });

const ask = (gateway, more = {}, request = {}) => client(gateway).messages.create(body(more), request);

const textOf = (message) =>
  message.content
    .filter((block) => block.type === 'text')
    .map((block) => block.text)
    .join('');

/** The error that the promise is rejected with, which is of this class. */
async function failure(promise, type) {
  const error = await promise.then(() => assert.fail('it succeeded'), (error) => error);
  assert.ok(error instanceof type, `${error}`);
  return error;
}

test('a stream says the same as a whole answer', async () => {
  const whole = await ask('real', { system: 'Answer in one sentence.' });
  assert.deepEqual([whole.type, whole.role, whole.model], ['message', 'assistant', 'builtin']);
  assert.ok(whole._request_id && textOf(whole));
  const stream = client('real').messages.stream(body({ system: 'Answer in one sentence.' }));
  let text = '';
  stream.on('text', (delta) => (text += delta));
  const final = await stream.finalMessage();
  assert.deepEqual([text, textOf(final)], [textOf(whole), textOf(whole)]);
  assert.deepEqual([final.stop_reason, final.stop_sequence], [whole.stop_reason, whole.stop_sequence]);
  assert.equal(final.usage.output_tokens, whole.usage.output_tokens);
});

test('the quick-start runs', async () => {
  const env = { ...process.env, ANTHROPIC_BASE_URL: url('real', ''), ANTHROPIC_API_KEY: 'none' };
  const { stdout } = await promisify(execFile)(process.execPath, ['messages.mjs'], { env, timeout: 20_000 });
  assert.match(stdout, /type: 'text'/);
});

test('a stop sequence ends the answer and is named', async () => {
  const whole = textOf(await ask('real'));
  const stop = whole.slice(whole.length / 2).slice(0, 3);
  const answer = await ask('real', { stop_sequences: ['never said', stop] });
  assert.deepEqual([answer.stop_reason, answer.stop_sequence], ['stop_sequence', stop]);
  assert.equal(textOf(answer), whole.slice(0, whole.indexOf(stop)));
});

test('counts are those of the answer', async () => {
  const prompt = { model: 'builtin', system: 'Be brief.', messages: ASK, tools: [WEATHER] };
  const counted = await client('real').messages.countTokens(prompt);
  const { usage } = await client('real').messages.create({ ...prompt, max_tokens: 1 });
  assert.equal(counted.input_tokens, usage.input_tokens + usage.cache_read_input_tokens);
});

test('a loop of a call and its result', async () => {
  const first = await ask('real', { messages: ASK, tools: [WEATHER] });
  assert.equal(first.stop_reason, 'tool_use');
  const [call] = first.content.filter((block) => block.type === 'tool_use');
  assert.deepEqual([call.name, call.input], ['get_weather', { city: 'Berlin' }]);
  const result = { type: 'tool_result', tool_use_id: call.id, content: '{"temperature": 21, "condition": "sunny"}' };
  const messages = [...ASK, { role: 'assistant', content: first.content }, { role: 'user', content: [result] }];
  const second = await ask('real', { messages, tools: [WEATHER] });
  assert.equal(second.stop_reason, 'end_turn');
  assert.ok(textOf(second));
});

test('the tool runner calls and goes on', async () => {
  // The runner would have the server hold the conversation; it is told that this one does not.
  const asked = [];
  const run = ({ city }) => asked.push(city) && '{"temperature": 21, "condition": "sunny"}';
  const weather = betaTool({ name: WEATHER.name, description: WEATHER.description, inputSchema: WEATHER.input_schema, run });
  const answer = await client('real').beta.messages.toolRunner(body({ messages: ASK, tools: [weather] }));
  assert.deepEqual([asked, answer.stop_reason], [['Berlin'], 'end_turn']);
  assert.ok(textOf(answer));
});

test('a stream accumulates the same call', async () => {
  const stream = client('real').messages.stream(body({ messages: ASK, tools: [WEATHER], tool_choice: { type: 'any' } }));
  let partial = '';
  stream.on('inputJson', (delta) => (partial += delta));
  const final = await stream.finalMessage();
  const [call] = final.content.filter((block) => block.type === 'tool_use');
  assert.deepEqual(JSON.parse(partial), call.input);
  assert.deepEqual(Object.keys(call.input), ['city']);
});

test('a bad request names the field', async () => {
  const cases = [
    [{ temperature: 1.5 }, 'temperature'],
    [{ max_tokens: 20_000 }, 'max_tokens'],
    [{ tools: [{ type: 'web_search_20250305', name: 'web_search' }] }, 'tools[0].type'],
  ];
  for (const [more, field] of cases) {
    const error = await failure(ask('real', more), Anthropic.BadRequestError);
    assert.equal(error.error.error.type, 'invalid_request_error');
    assert.ok(error.error.error.message.includes(field), error.message);
    assert.ok(error.requestID);
  }
  await failure(ask('real', { model: 'claude-9' }), Anthropic.NotFoundError);
});

test('a full queue is an overload, and a client that retries gets its answer', async () => {
  // The first stream runs when its first event is there, so that the second one is the one that waits.
  const running = await ask('tiny', { stream: true, max_tokens: 100 });
  await running[Symbol.asyncIterator]().next();
  const waiting = await ask('tiny', { stream: true, max_tokens: 10 });
  const error = await failure(ask('tiny'), Anthropic.InternalServerError);
  assert.deepEqual([error.status, error.error.error.type], [529, 'overloaded_error']);
  const answer = await client('tiny', { maxRetries: 10 }).messages.create(body({ max_tokens: 5 }));
  assert.equal(answer.usage.output_tokens, 5);
  waiting.controller.abort();
  running.controller.abort();
  await eventually('all are gone', async () => (await slotsActive('tiny')) === 0);
});

test('a failure in mid-stream is thrown by the stream', async () => {
  await eventually('a stream begins and fails', async () => {
    const error = await failure(ask('failing', { stream: true }).then(chunksOf), Anthropic.APIError);
    // The pool is still recovering where it is refused.
    return error.error.error.type === 'api_error';
  });
});

test('a client that has waited long enough gives up', async () => {
  await failure(ask('endless', { max_tokens: 8000 }, { timeout: 500 }), Anthropic.APIConnectionTimeoutError);
  await eventually('its slot is free', async () => (await slotsActive('endless')) === 0);
});

test('leaving a stream cancels its task', async () => {
  const { data: stream, response } = await ask('endless', { stream: true, max_tokens: 8000 }).withResponse();
  const id = response.headers.get('x-task-id');
  for await (const event of stream) {
    if (event.type === 'content_block_delta') break;
  }
  await eventually('it is cancelled', async () => (await task('endless', id)).state === 'canceled');
  await eventually('its slot is free', async () => (await slotsActive('endless')) === 0);
});

test('aborting a whole answer cancels its task', async () => {
  const controller = new AbortController();
  const call = ask('endless', { max_tokens: 8000 }, { signal: controller.signal, timeout: 20_000 });
  const aborted = failure(call, Anthropic.APIUserAbortError);
  await eventually('it runs', async () => (await slotsActive('endless')) === 1);
  controller.abort();
  await aborted;
  await eventually('its slot is free', async () => (await slotsActive('endless')) === 0);
});
