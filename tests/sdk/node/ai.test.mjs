// Vercel's AI SDK, by its package for OpenAI and by the one for services like it.

import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import test from 'node:test';
import { promisify } from 'node:util';
import { createOpenAI } from '@ai-sdk/openai';
import { createOpenAICompatible } from '@ai-sdk/openai-compatible';
import { APICallError, embed, generateObject, generateText, stepCountIs, streamText, tool } from 'ai';
import { z } from 'zod';
import { url } from './gateways.mjs';

const baseURL = url('real', '/v1');
const openai = createOpenAI({ baseURL, apiKey: 'any' });
const compatible = createOpenAICompatible({ name: 'sluicegate', baseURL, includeUsage: true, supportsStructuredOutputs: true });
const chats = { openai: openai.chat('builtin'), compatible: compatible.chatModel('builtin') };
const plain = { temperature: 0, maxRetries: 0, maxOutputTokens: 300 };

for (const [name, model] of Object.entries(chats)) {
  test(`${name}: an answer is the same whole and streamed, and says what it cost`, async () => {
    const whole = await generateText({ model, prompt: 'What is a pool?', ...plain });
    assert.match(whole.text, /queue/);
    assert.equal(whole.finishReason, 'stop');
    const streamed = streamText({ model, prompt: 'What is a pool?', ...plain });
    let text = '';
    for await (const part of streamed.textStream) text += part;
    assert.equal(text, whole.text);
    assert.deepEqual((await streamed.usage).totalTokens, whole.usage.totalTokens);
  });

  test(`${name}: an object has the form of its schema`, async () => {
    const schema = z.object({ replicas: z.number().int() });
    const { object } = await generateObject({ model, schema, prompt: 'How many replicas?', ...plain });
    assert.ok(Number.isInteger(object.replicas));
  });

  test(`${name}: a tool is called and its result read`, async () => {
    const asked = [];
    const state = tool({
      description: 'Says how a pool stands',
      inputSchema: z.object({ pool: z.string() }),
      execute: async ({ pool }) => {
        asked.push(pool);
        return 'ready';
      },
    });
    const first = { toolChoice: 'required' };
    const { steps } = await generateText({
      model,
      tools: { state },
      prompt: 'How does the pool stand?',
      stopWhen: stepCountIs(2),
      prepareStep: ({ stepNumber }) => (stepNumber === 0 ? first : { toolChoice: 'none' }),
      ...plain,
    });
    assert.deepEqual([steps.length, steps[0].finishReason], [2, 'tool-calls']);
    assert.ok(asked.length > 0);
  });
}

test('a text is embedded', async () => {
  const model = compatible.textEmbeddingModel('builtin-embedding');
  const { embedding } = await embed({ model, value: 'What is a pool?', maxRetries: 0 });
  assert.equal(embedding.length, 128);
});

test('a model that is not there is a 404', async () => {
  const asked = generateText({ model: openai.chat('gpt-9'), prompt: 'hi', maxRetries: 0 });
  await assert.rejects(asked, (error) => APICallError.isInstance(error) && error.statusCode === 404);
});

for (const name of ['openai_chat.mjs', 'ai_chat.mjs']) {
  test(`the quick-start ${name} runs`, async () => {
    const env = { ...process.env, OPENAI_BASE_URL: baseURL, OPENAI_API_KEY: 'none' };
    const { stdout } = await promisify(execFile)(process.execPath, [name], { env, timeout: 20_000 });
    assert.match(stdout, /Sluicegate/);
  });
}
