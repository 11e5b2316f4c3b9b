"""The quick-start of LlamaIndex's integration of services like OpenAI's, with another base URL, key and model.

    pip install llama-index-llms-openai-like
    OPENAI_BASE_URL=http://127.0.0.1:8080/v1 python examples/quickstarts/llama_index_chat.py
"""

import os

from llama_index.core.llms import ChatMessage
from llama_index.llms.openai_like import OpenAILike

llm = OpenAILike(model="builtin", api_base=os.environ["OPENAI_BASE_URL"], api_key="none", is_chat_model=True)

print(llm.complete("What is Sluicegate?"))
print(llm.chat([ChatMessage(role="user", content="What is a pool?")]))
