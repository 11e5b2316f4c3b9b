"""The quick-start of OpenAI's Responses API, with another model.

    pip install openai
    OPENAI_BASE_URL=http://127.0.0.1:8080/v1 OPENAI_API_KEY=none python examples/quickstarts/responses.py
"""

from openai import OpenAI

client = OpenAI()

response = client.responses.create(model="builtin", input="What is Sluicegate?")
print(response.output_text)

stream = client.responses.create(
    model="builtin",
    input="How do I cancel a task?",
    previous_response_id=response.id,
    stream=True,
)
for event in stream:
    if event.type == "response.output_text.delta":
        print(event.delta, end="", flush=True)
print()
