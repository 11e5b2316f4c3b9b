// Has OpenAI's, Anthropic's and Vercel's own clients send what programs use them for, to a server that notes it: see
// `tests/it/outer/goldens.rs`. The address of each client says whose request it is, and what for.

import Anthropic from '@anthropic-ai/sdk';
import { betaZodTool } from '@anthropic-ai/sdk/helpers/beta/zod';
import { zodOutputFormat } from '@anthropic-ai/sdk/helpers/zod';
import { createOpenAI } from '@ai-sdk/openai';
import { createOpenAICompatible } from '@ai-sdk/openai-compatible';
import { APICallError, embed, generateObject, generateText, stepCountIs, streamText, tool } from 'ai';
import OpenAI from 'openai';
import { zodFunction, zodResponseFormat, zodTextFormat } from 'openai/helpers/zod';
import { z } from 'zod';

const QUESTION = [{ role: 'user', content: 'What is the weather in Berlin?' }];
const PARAMETERS = {
  type: 'object',
  properties: { city: { type: 'string', description: 'Its name' } },
  required: ['city'],
  additionalProperties: false,
};
const Forecast = z.object({ city: z.string(), days: z.number().int() });
// The smallest there is: one pixel.
const PNG =
  'iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==';

const address = (client, thing, rest = '/v1') => `${process.env.RECORDER_URL}/${client}/${thing}${rest}`;

/** Some of what is sent may be refused; then that is what it is. */
const servedOrNot = (asked, type) =>
  asked.catch((error) => {
    if (!(error instanceof type)) throw error;
  });

async function openai() {
  const client = (thing) => new OpenAI({ baseURL: address('openai-node', thing), apiKey: 'any', maxRetries: 0 });
  const chat = (thing, more = {}) =>
    client(thing).chat.completions.create({ model: 'builtin', messages: QUESTION, ...more });

  await chat('chat');
  for await (const _ of await chat('chat_stream', { stream: true, stream_options: { include_usage: true } }));
  await client('chat_stream_helper').chat.completions.stream({ model: 'builtin', messages: QUESTION }).finalContent();

  const definition = { name: 'get_weather', description: 'Get the weather', parameters: PARAMETERS };
  const { message } = (await chat('chat_tools', { tools: [{ type: 'function', function: definition }] })).choices[0];
  const result = { role: 'tool', tool_call_id: message.tool_calls[0].id, content: '{"temperature": 21}' };
  const tools = [{ type: 'function', function: definition }];
  await chat('chat_tools', { messages: [...QUESTION, message, result], tools });
  const run = { ...definition, function: () => '21', parse: JSON.parse };
  await client('chat_run_tools')
    .chat.completions.runTools({ model: 'builtin', messages: QUESTION, tools: [{ type: 'function', function: run }] })
    .finalContent();

  const asked = { model: 'builtin', messages: QUESTION };
  const format = zodResponseFormat(Forecast, 'forecast');
  await client('chat_parse').chat.completions.parse({ ...asked, response_format: format });
  const forecast = zodFunction({ name: 'forecast', description: 'Says what will be', parameters: Forecast });
  await client('chat_parse_tools').chat.completions.parse({ ...asked, tools: [forecast], tool_choice: 'required' });
  const image = { type: 'image_url', image_url: { url: `data:image/png;base64,${PNG}` } };
  const content = [{ type: 'text', text: 'What is this?' }, image];
  await servedOrNot(chat('chat_image', { messages: [{ role: 'user', content }] }), OpenAI.BadRequestError);

  const respond = (thing, more = {}) =>
    client(thing).responses.create({ model: 'builtin', input: 'What is the weather in Berlin?', ...more });
  const first = await respond('responses', { instructions: 'Be brief.' });
  await respond('responses_go_on', { previous_response_id: first.id, input: 'And tomorrow?' });
  for await (const _ of await respond('responses_stream', { stream: true }));
  const called = await respond('responses_tools', { tools: [{ type: 'function', strict: true, ...definition }] });
  const output = { type: 'function_call_output', call_id: called.output[0].call_id, output: '{"temperature": 21}' };
  await respond('responses_tools', { input: [...QUESTION, ...called.output, output] });
  const text = { format: zodTextFormat(Forecast, 'forecast') };
  await client('responses_parse').responses.parse({ model: 'builtin', input: 'What will be?', text });

  await client('completions').completions.create({ model: 'builtin', prompt: 'A pool is', max_tokens: 16 });
  await client('embeddings').embeddings.create({ model: 'builtin-embedding', input: ['What is a pool?', 'And a queue?'] });
}

async function anthropic() {
  const client = (thing) =>
    new Anthropic({ baseURL: address('anthropic-node', thing, ''), apiKey: 'any', maxRetries: 0 });
  const body = (more = {}) => ({ model: 'builtin', max_tokens: 100, messages: QUESTION, ...more });
  const create = (thing, more) => client(thing).messages.create(body(more));

  await create('messages', { system: 'Be brief.' });
  for await (const _ of await create('messages_raw_stream', { stream: true }));
  await client('messages_stream').messages.stream(body()).finalMessage();

  const tools = [{ name: 'get_weather', description: 'Get the weather', input_schema: PARAMETERS }];
  const first = await create('messages_tools', { tools, tool_choice: { type: 'tool', name: 'get_weather' } });
  const result = { type: 'tool_result', tool_use_id: first.content[0].id, content: '21' };
  const answers = [{ role: 'assistant', content: first.content }, { role: 'user', content: [result] }];
  await create('messages_tools', { tools, messages: [...QUESTION, ...answers] });

  const thinking = { type: 'enabled', budget_tokens: 1024 };
  const thought = await create('messages_thinking', { max_tokens: 2000, thinking });
  const on = [{ role: 'assistant', content: thought.content }, { role: 'user', content: 'And tomorrow?' }];
  await create('messages_thinking', { max_tokens: 2000, thinking, messages: [...QUESTION, ...on] });

  await client('messages_parse').messages.parse(body({ output_config: { format: zodOutputFormat(Forecast) } }));
  const inputSchema = z.object({ city: z.string() });
  const weather = { name: 'get_weather', description: 'Get the weather', inputSchema, run: () => '21' };
  await client('messages_tool_runner').beta.messages.toolRunner(body({ tools: [betaZodTool(weather)] }));
  await client('count_tokens').messages.countTokens({ model: 'builtin', messages: QUESTION, system: 'Be brief.', tools });
  const source = { type: 'base64', media_type: 'image/png', data: PNG };
  const content = [{ type: 'image', source }, { type: 'text', text: 'What is this?' }];
  await servedOrNot(create('messages_image', { messages: [{ role: 'user', content }] }), Anthropic.BadRequestError);
}

async function vercel() {
  const provider = (thing) => createOpenAI({ baseURL: address('vercel-ai', thing), apiKey: 'any' });
  const compatible = (thing) =>
    createOpenAICompatible({
      name: 'sluicegate',
      baseURL: address('vercel-ai', thing),
      apiKey: 'any',
      includeUsage: true,
      supportsStructuredOutputs: true,
    });
  const models = {
    chat: (thing) => provider(`chat_${thing}`).chat('builtin'),
    responses: (thing) => provider(`responses_${thing}`).responses('builtin'),
    compatible: (thing) => compatible(`compatible_${thing}`).chatModel('builtin'),
  };
  const prompt = 'What is the weather in Berlin?';
  const weather = tool({ description: 'Get the weather', inputSchema: z.object({ city: z.string() }), execute: () => '21' });
  for (const model of Object.values(models)) {
    const options = { temperature: 0.5, maxOutputTokens: 100, topP: 0.9 };
    await generateText({ model: model('text'), system: 'Be brief.', prompt, maxRetries: 0, ...options });
    await streamText({ model: model('stream'), prompt, maxRetries: 0 }).text;
    const tools = { get_weather: weather };
    await generateText({ model: model('tools'), tools, prompt, stopWhen: stepCountIs(2), maxRetries: 0 });
    await generateObject({ model: model('object'), schema: Forecast, prompt, maxRetries: 0 });
    const content = [{ type: 'text', text: 'What is this?' }, { type: 'image', image: Buffer.from(PNG, 'base64') }];
    const asked = generateText({ model: model('image'), messages: [{ role: 'user', content }], maxRetries: 0 });
    await servedOrNot(asked, APICallError);
  }
  const models_of = [provider('embedding').embedding('builtin-embedding'), compatible('compatible_embedding').textEmbeddingModel('builtin-embedding')];
  for (const model of models_of) await embed({ model, value: 'What is a pool?', maxRetries: 0 });
}

await openai();
await anthropic();
await vercel();
