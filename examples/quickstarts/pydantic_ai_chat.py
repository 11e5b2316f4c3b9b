"""The quick-start of Pydantic AI, with another base URL, key and model.

    pip install 'pydantic-ai-slim[openai]'
    OPENAI_BASE_URL=http://127.0.0.1:8080/v1 OPENAI_API_KEY=none python examples/quickstarts/pydantic_ai_chat.py
"""

from pydantic_ai import Agent

agent = Agent("openai-chat:builtin", instructions="Be concise, reply with one sentence.")

result = agent.run_sync("What is Sluicegate?")
print(result.output)
