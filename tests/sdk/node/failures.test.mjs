// Failures arrive as the client's typed errors; clients that leave cancel their tasks.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import OpenAI from 'openai';
import { QUESTION, chunksOf, client, eventually, slotsActive, task } from './gateways.mjs';

const ask = (gateway, options = {}, request = {}) =>
  client(gateway).chat.completions.create({ model: 'builtin', messages: QUESTION, ...options }, request);

/** The error that the promise is rejected with, which is of this class. */
async function failure(promise, type) {
  const error = await promise.then(() => assert.fail('it succeeded'), (error) => error);
  assert.ok(error instanceof type, `${error}`);
  return error;
}

test('a bad request names the parameter', async () => {
  const cases = [
    [{ temperature: 9 }, 'temperature', 'invalid_value'],
    [{ max_completion_tokens: 999_999 }, 'max_completion_tokens', 'context_length_exceeded'],
  ];
  for (const [options, param, code] of cases) {
    const error = await failure(ask('real', options), OpenAI.BadRequestError);
    assert.deepEqual([error.param, error.code], [param, code]);
    assert.ok(error.requestID);
  }
});

test('an unknown model is not found', async () => {
  const error = await failure(ask('real', { model: 'gpt-9' }), OpenAI.NotFoundError);
  assert.deepEqual([error.param, error.code], ['model', 'model_not_found']);
  await failure(client('real').models.retrieve('no/such/model'), OpenAI.NotFoundError);
});

test('a full queue is a rate limit with a time to wait', async () => {
  // The first stream runs when its first chunk is there, so that the second one is the one that waits.
  const running = await ask('tiny', { stream: true });
  await running[Symbol.asyncIterator]().next();
  const waiting = await ask('tiny', { stream: true });
  const error = await failure(ask('tiny'), OpenAI.RateLimitError);
  assert.equal(error.code, 'server_overloaded');
  assert.ok(Number(error.headers.get('retry-after')) >= 1);
  waiting.controller.abort();
  running.controller.abort();
  await eventually('both are gone', async () => (await slotsActive('tiny')) === 0);
});

test('a failed engine is an internal server error', async () => {
  const error = await failure(ask('failing'), OpenAI.InternalServerError);
  assert.deepEqual([error.status, error.code], [503, 'engine_reset']);
});

test('a failure in mid-stream is thrown by the stream', async () => {
  await eventually('a stream begins and fails', async () => {
    const error = await failure(ask('failing', { stream: true }).then(chunksOf), OpenAI.APIError);
    // A refusal has a status; the pool is still recovering then.
    if (error.status !== undefined) return false;
    assert.equal(error.code, 'engine_reset');
    return true;
  });
});

test('a client that has waited long enough gives up', async () => {
  await failure(ask('endless', { max_tokens: 8000 }, { timeout: 500 }), OpenAI.APIConnectionTimeoutError);
  await eventually('its slot is free', async () => (await slotsActive('endless')) === 0);
});

test('leaving a stream cancels its task', async () => {
  for (const leave of ['break', 'abort']) {
    const call = ask('endless', { stream: true, max_tokens: 8000 });
    const { data: stream, response } = await call.withResponse();
    const id = response.headers.get('x-task-id');
    for await (const chunk of stream) {
      assert.ok(chunk.id.endsWith(id));
      if (leave === 'abort') stream.controller.abort();
      else break;
    }
    await eventually('it is cancelled', async () => (await task('endless', id)).state === 'canceled');
    await eventually('its slot is free', async () => (await slotsActive('endless')) === 0);
  }
});

test('aborting a whole answer cancels its task', async () => {
  const controller = new AbortController();
  const call = ask('endless', { max_tokens: 8000 }, { signal: controller.signal });
  const aborted = failure(call, OpenAI.APIUserAbortError);
  await eventually('it runs', async () => (await slotsActive('endless')) === 1);
  controller.abort();
  await aborted;
  await eventually('its slot is free', async () => (await slotsActive('endless')) === 0);
});
