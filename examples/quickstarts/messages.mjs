// The quick-start of Anthropic's Messages API, with another model.
//
//     npm install @anthropic-ai/sdk
//     ANTHROPIC_BASE_URL=http://127.0.0.1:8080 ANTHROPIC_API_KEY=none node examples/quickstarts/messages.mjs

import Anthropic from '@anthropic-ai/sdk';

const client = new Anthropic();

const message = await client.messages.create({
  model: 'builtin',
  max_tokens: 100,
  messages: [{ role: 'user', content: 'What is Sluicegate?' }],
});
console.log(message.content);

await client.messages
  .stream({
    model: 'builtin',
    max_tokens: 100,
    messages: [{ role: 'user', content: 'Hello' }],
  })
  .on('text', (text) => process.stdout.write(text))
  .finalMessage();
console.log();
