// The quick-start of Vercel's AI SDK, with another base URL, key and model.
//
//     npm install ai @ai-sdk/openai
//     OPENAI_BASE_URL=http://127.0.0.1:8080/v1 OPENAI_API_KEY=none node examples/quickstarts/ai_chat.mjs

import { openai } from '@ai-sdk/openai';
import { generateText, streamText } from 'ai';

const { text } = await generateText({
  model: openai.chat('builtin'),
  prompt: 'What is Sluicegate?',
});
console.log(text);

const { textStream } = streamText({
  model: openai.chat('builtin'),
  prompt: 'What is a pool?',
});
for await (const part of textStream) process.stdout.write(part);
console.log();
