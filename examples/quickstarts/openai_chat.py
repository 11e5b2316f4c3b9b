"""The quick-start of OpenAI's client for Python, with another base URL, key and model.

    pip install openai
    OPENAI_BASE_URL=http://127.0.0.1:8080/v1 OPENAI_API_KEY=none python examples/quickstarts/openai_chat.py
"""

from openai import OpenAI

client = OpenAI()

completion = client.chat.completions.create(
    model="builtin",
    messages=[
        {"role": "developer", "content": "You are a helpful assistant."},
        {"role": "user", "content": "What is Sluicegate?"},
    ],
)
print(completion.choices[0].message.content)
