// Tools and structured outputs of the real engine, through the client's own helpers.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import OpenAI from 'openai';
import { zodFunction, zodResponseFormat } from 'openai/helpers/zod';
import { z } from 'zod';
import { chunksOf, client } from './gateways.mjs';

const ASK = [{ role: 'user', content: 'What is the weather in Berlin?' }];
const PARAMETERS = {
  type: 'object',
  properties: { city: { type: 'string', maxLength: 20 } },
  required: ['city'],
  additionalProperties: false,
};
const definition = { name: 'get_weather', description: 'Get the weather in a city', parameters: PARAMETERS };
const WEATHER = { type: 'function', function: definition };
const base = { model: 'builtin', messages: ASK, temperature: 0 };
const ask = (options = {}) => client('real').chat.completions.create({ ...base, tools: [WEATHER], ...options });

test('the helper runs the loop of a call and its result', async () => {
  const asked = [];
  const run = (city) => {
    asked.push(city);
    return '{"temperature": 21, "condition": "sunny"}';
  };
  const tool = { type: 'function', function: { ...definition, function: run, parse: JSON.parse } };
  const runner = client('real').chat.completions.runTools({ ...base, tools: [tool] });
  assert.ok(await runner.finalContent());
  assert.deepEqual(asked, [{ city: 'Berlin' }]);
});

test('a stream says the same call as a whole answer', async () => {
  const whole = (await ask()).choices[0].message.tool_calls[0].function;
  const chunks = await chunksOf(await ask({ stream: true }));
  const calls = chunks.flatMap((chunk) => chunk.choices[0].delta.tool_calls ?? []);
  assert.equal(calls.map((call) => call.function.arguments).join(''), whole.arguments);
  assert.equal(chunks.at(-1).choices[0].finish_reason, 'tool_calls');
});

test('the helper for streams accumulates the call', async () => {
  const stream = client('real').chat.completions.stream({ ...base, tools: [WEATHER] });
  const call = await stream.finalFunctionToolCall();
  assert.deepEqual([call.name, JSON.parse(call.arguments)], ['get_weather', { city: 'Berlin' }]);
});

test('a call that is required is made, and keeps to its schema', async () => {
  const hello = [{ role: 'user', content: 'Hello!' }];
  const answer = await ask({ messages: hello, tool_choice: 'required', parallel_tool_calls: false });
  const [call] = answer.choices[0].message.tool_calls;
  assert.deepEqual(Object.keys(JSON.parse(call.function.arguments)), ['city']);
});

test('parse reads strict arguments and structured answers', async () => {
  const schema = {
    type: 'object',
    properties: { days: { type: 'integer' } },
    required: ['days'],
    additionalProperties: false,
  };
  const forecast = { type: 'function', function: { name: 'forecast', parameters: schema, strict: true } };
  const choice = { type: 'function', function: { name: 'forecast' } };
  const called = await client('real').chat.completions.parse({ ...base, tools: [forecast], tool_choice: choice });
  const call = called.choices[0].message.tool_calls[0].function;
  assert.equal(typeof call.parsed_arguments.days, 'number');
  const format = { type: 'json_schema', json_schema: { name: 'forecast', schema, strict: true } };
  const said = await client('real').chat.completions.create({ ...base, response_format: format });
  assert.equal(typeof JSON.parse(said.choices[0].message.content).days, 'number');
});

const Step = z.object({
  text: z.string().max(8),
  kind: z.enum(['rain', 'sun']),
  note: z.string().max(4).nullable(),
  degrees: z.union([z.number().int().min(-9).max(9), z.literal('none')]),
});
const Forecast = z.object({ steps: z.array(Step).max(2), sure: z.boolean() });

test("zod's schemas are kept to", async () => {
  const format = zodResponseFormat(Forecast, 'forecast');
  const said = await client('real').chat.completions.parse({ ...base, response_format: format });
  assert.ok(Forecast.parse(said.choices[0].message.parsed));
  const tools = [zodFunction({ name: 'forecast', parameters: Forecast })];
  const called = await client('real').chat.completions.parse({ ...base, tools, tool_choice: 'required' });
  assert.ok(Forecast.parse(called.choices[0].message.tool_calls[0].function.parsed_arguments));
});

test('a schema that no answer can be held to is a typed error with its place', async () => {
  const tried = async (property) => {
    const schema = { type: 'object', properties: { code: property } };
    const format = { type: 'json_schema', json_schema: { name: 'odd', schema, strict: true } };
    const error = await client('real')
      .chat.completions.create({ ...base, response_format: format })
      .then(assert.fail, (error) => error);
    assert.ok(error instanceof OpenAI.BadRequestError, error);
    return error.param;
  };
  assert.equal(await tried({ not: {} }), 'response_format.json_schema.schema.properties.code.not');
  assert.equal(await tried({ type: 'string', pattern: '(?<=a)b' }), 'response_format.json_schema.schema');
});
