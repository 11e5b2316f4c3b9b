"""LlamaIndex's class for services like OpenAI's, against the real engine."""

import os

import pytest
from llama_index.core.llms import ChatMessage
from llama_index.core.tools import FunctionTool
from llama_index.llms.openai_like import OpenAILike
from pydantic import BaseModel

QUESTION = "What is a pool?"


@pytest.fixture
def llm():
    return OpenAILike(
        model="builtin",
        api_base=os.environ["REAL_URL"] + "/v1",
        api_key="any",
        is_chat_model=True,
        is_function_calling_model=True,
        context_window=4096,
        temperature=0,
        max_retries=0,
    )


def test_a_chat_is_the_same_whole_and_streamed(llm):
    messages = [ChatMessage(role="user", content=QUESTION)]
    whole = llm.chat(messages).message.content
    streamed = "".join(part.delta for part in llm.stream_chat(messages))
    assert "queue" in whole and streamed == whole


async def test_it_waits_without_blocking(llm):
    messages = [ChatMessage(role="user", content=QUESTION)]
    parts = [part.delta async for part in await llm.astream_chat(messages)]
    assert "".join(parts) == (await llm.achat(messages)).message.content


def test_a_prompt_is_completed(llm):
    llm.is_chat_model = False
    assert llm.complete("A pool is", max_tokens=8).text


def test_a_tool_is_called(llm):
    def state_of(pool: str) -> str:
        """Says how a pool stands."""
        return pool

    tool = FunctionTool.from_defaults(fn=state_of)
    answer = llm.chat_with_tools([tool], user_msg=QUESTION, tool_required=True)
    calls = llm.get_tool_calls_from_response(answer)
    assert calls[0].tool_name == "state_of" and isinstance(calls[0].tool_kwargs["pool"], str)


class Pool(BaseModel):
    replicas: int


def test_an_answer_has_the_form_of_a_class(llm):
    answer = llm.as_structured_llm(Pool).chat([ChatMessage(role="user", content="How many replicas?")])
    assert isinstance(answer.raw, Pool)
