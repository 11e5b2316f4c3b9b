"""LangChain's own standard tests of chat models, against the real engine.

The built-in model is tiny. What it would have to be clever for is expected to fail: each such test by its name, with the
reason. What the API itself does in those tests is also done in others, which pass.
"""

import os

import pytest
from langchain_openai import ChatOpenAI
from langchain_tests.integration_tests import ChatModelIntegrationTests


class TestChatOpenAI(ChatModelIntegrationTests):
    @property
    def chat_model_class(self):
        return ChatOpenAI

    @property
    def chat_model_params(self):
        # LangChain asks for the usage of streams by itself only where the base URL is OpenAI's.
        return {
            "model": "builtin",
            "base_url": os.environ["REAL_URL"] + "/v1",
            "api_key": "any",
            "max_retries": 0,
            "temperature": 0,
            "max_tokens": 1500,
            "stream_usage": True,
        }

    @property
    def model_override_value(self):
        return "builtin"

    @property
    def supports_json_mode(self):
        return True

    @pytest.mark.xfail(reason="the model calls the tool with an argument too many, which its schema allows")
    def test_tool_calling(self, model):
        super().test_tool_calling(model)

    @pytest.mark.xfail(reason="the model calls the tool with an argument too many, which its schema allows")
    async def test_tool_calling_async(self, model):
        await super().test_tool_calling_async(model)

    @pytest.mark.xfail(reason="the model calls the tool with arguments, which its schema allows")
    def test_tool_calling_with_no_arguments(self, model):
        super().test_tool_calling_with_no_arguments(model)

    @pytest.mark.xfail(reason="the model repeats itself inside a string until the limit")
    def test_structured_output_optional_param(self, model):
        super().test_structured_output_optional_param(model)

    @pytest.mark.xfail(reason="the model writes JSON with other names than the prompt asks for; no schema holds it there")
    def test_json_mode(self, model):
        super().test_json_mode(model)

    @pytest.mark.xfail(reason="the model has never seen Chinese, and does not repeat it")
    def test_unicode_tool_call_integration(self, model):
        super().test_unicode_tool_call_integration(model)
