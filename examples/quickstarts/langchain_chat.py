"""The quick-start of LangChain's integration of OpenAI, with another base URL, key and model.

    pip install langchain-openai
    OPENAI_BASE_URL=http://127.0.0.1:8080/v1 OPENAI_API_KEY=none python examples/quickstarts/langchain_chat.py
"""

from langchain_openai import ChatOpenAI

llm = ChatOpenAI(model="builtin")

messages = [
    ("system", "You are a helpful assistant."),
    ("human", "What is Sluicegate?"),
]
print(llm.invoke(messages).content)

for chunk in llm.stream(messages):
    print(chunk.text, end="", flush=True)
print()
