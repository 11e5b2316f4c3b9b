"""Pydantic AI's agents, against the real engine."""

import os

import pytest
from pydantic import BaseModel
from pydantic_ai import Agent, ModelHTTPError, NativeOutput
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider

QUESTION = "What is a pool?"


def model(name="builtin"):
    provider = OpenAIProvider(base_url=os.environ["REAL_URL"] + "/v1", api_key="any")
    return OpenAIChatModel(name, provider=provider, settings={"temperature": 0, "max_tokens": 300})


async def test_an_agent_answers_whole_and_streamed():
    agent = Agent(model(), instructions="Be concise.")
    whole = await agent.run(QUESTION)
    async with agent.run_stream(QUESTION) as streamed:
        text = await streamed.get_output()
    assert "queue" in whole.output and text == whole.output
    assert whole.usage.output_tokens > 0


async def test_an_answer_has_the_form_of_a_class():
    class Pool(BaseModel):
        replicas: int

    agent = Agent(model(), output_type=NativeOutput(Pool))
    assert isinstance((await agent.run("How many replicas?")).output, Pool)


async def test_a_model_that_is_not_there_is_a_404():
    with pytest.raises(ModelHTTPError) as failed:
        await Agent(model("gpt-9")).run(QUESTION)
    assert failed.value.status_code == 404
