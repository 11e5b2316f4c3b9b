"""The quick-start of Anthropic's Messages API, with another model.

    pip install anthropic
    ANTHROPIC_BASE_URL=http://127.0.0.1:8080 ANTHROPIC_API_KEY=none python examples/quickstarts/messages.py
"""

import anthropic

client = anthropic.Anthropic()

message = client.messages.create(
    model="builtin",
    max_tokens=100,
    messages=[{"role": "user", "content": "What is Sluicegate?"}],
)
print(message.content)

with client.messages.stream(
    model="builtin",
    max_tokens=100,
    messages=[{"role": "user", "content": "Hello"}],
) as stream:
    for text in stream.text_stream:
        print(text, end="", flush=True)
print()
