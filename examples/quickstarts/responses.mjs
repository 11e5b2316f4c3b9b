// The quick-start of OpenAI's Responses API, with another model.
//
//     npm install openai
//     OPENAI_BASE_URL=http://127.0.0.1:8080/v1 OPENAI_API_KEY=none node examples/quickstarts/responses.mjs

import OpenAI from 'openai';

const client = new OpenAI();

const response = await client.responses.create({ model: 'builtin', input: 'What is Sluicegate?' });
console.log(response.output_text);

const stream = await client.responses.create({
  model: 'builtin',
  input: 'How do I cancel a task?',
  previous_response_id: response.id,
  stream: true,
});
for await (const event of stream) {
  if (event.type === 'response.output_text.delta') process.stdout.write(event.delta);
}
console.log();
