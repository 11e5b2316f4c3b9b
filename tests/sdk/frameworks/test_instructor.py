"""Instructor's ways to an answer in the form of a class, against the real engine."""

import os

import instructor
import openai
import pytest
from pydantic import BaseModel


class Pool(BaseModel):
    replicas: int


def client(mode):
    plain = openai.OpenAI(base_url=os.environ["REAL_URL"] + "/v1", api_key="any", max_retries=0)
    return instructor.from_openai(plain, mode=mode)


@pytest.mark.parametrize("mode", [instructor.Mode.TOOLS, instructor.Mode.JSON_SCHEMA, instructor.Mode.TOOLS_STRICT])
def test_an_answer_has_the_form_of_a_class(mode):
    pool, completion = client(mode).chat.completions.create_with_completion(
        model="builtin",
        response_model=Pool,
        max_retries=0,
        temperature=0,
        messages=[{"role": "user", "content": "How many replicas?"}],
    )
    assert isinstance(pool.replicas, int) and completion.usage.prompt_tokens > 0
