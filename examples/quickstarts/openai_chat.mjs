// The quick-start of OpenAI's client for Node, with another base URL, key and model.
//
//     npm install openai
//     OPENAI_BASE_URL=http://127.0.0.1:8080/v1 OPENAI_API_KEY=none node examples/quickstarts/openai_chat.mjs

import OpenAI from 'openai';

const client = new OpenAI();

const completion = await client.chat.completions.create({
  model: 'builtin',
  messages: [
    { role: 'developer', content: 'You are a helpful assistant.' },
    { role: 'user', content: 'What is Sluicegate?' },
  ],
});
console.log(completion.choices[0].message.content);
