"""Tools and structured outputs of the real engine, through the client's own helpers."""

import json
import unittest

import openai
from gateways import client
from pydantic import BaseModel, ConfigDict

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the weather in a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 20}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}
ASK = [{"role": "user", "content": "What is the weather in Berlin?"}]


class Weather(BaseModel):
    """Arguments of a tool, as pydantic knows them."""

    model_config = ConfigDict(extra="forbid")
    days: int


def ask(**options):
    options = {"model": "builtin", "messages": ASK, "temperature": 0, "tools": [WEATHER], **options}
    return client("real").chat.completions.create(**options)


class Tools(unittest.TestCase):
    def test_a_loop_of_a_call_and_its_result(self):
        first = ask().choices[0]
        self.assertEqual(first.finish_reason, "tool_calls")
        [call] = first.message.tool_calls
        self.assertEqual(json.loads(call.function.arguments), {"city": "Berlin"})
        result = {"role": "tool", "tool_call_id": call.id, "content": '{"temperature": 21, "condition": "sunny"}'}
        second = ask(messages=[*ASK, first.message, result]).choices[0]
        self.assertEqual(second.finish_reason, "stop")
        self.assertTrue(second.message.content)

    def test_a_stream_says_the_same_call(self):
        whole = ask().choices[0].message.tool_calls[0].function
        calls = [call for chunk in ask(stream=True) for call in chunk.choices[0].delta.tool_calls or []]
        self.assertEqual([call.function.name for call in calls if call.function.name], ["get_weather"])
        self.assertTrue(calls[0].id)
        self.assertEqual("".join(call.function.arguments for call in calls), whole.arguments)

    def test_the_helper_for_streams_accumulates_the_call(self):
        with client("real").chat.completions.stream(
            model="builtin", messages=ASK, temperature=0, tools=[WEATHER]
        ) as stream:
            done = [event for event in stream if event.type == "tool_calls.function.arguments.done"]
            final = stream.get_final_completion()
        self.assertEqual(json.loads(done[0].arguments), {"city": "Berlin"})
        self.assertEqual(final.choices[0].message.tool_calls[0].function.name, "get_weather")

    def test_a_call_that_is_required_is_made_whatever_was_asked(self):
        named = {"type": "function", "function": {"name": "get_weather"}}
        for choice in ("required", named):
            answer = ask(messages=[{"role": "user", "content": "Hello!"}], tool_choice=choice, parallel_tool_calls=False)
            [call] = answer.choices[0].message.tool_calls
            self.assertEqual(list(json.loads(call.function.arguments)), ["city"])
            self.assertIsNone(answer.choices[0].message.content)

    def test_no_call_where_none_is_allowed(self):
        self.assertIsNone(ask(tool_choice="none").choices[0].message.tool_calls)

    def test_parse_reads_strict_arguments(self):
        tool = openai.pydantic_function_tool(Weather, name="forecast")
        choice = {"type": "function", "function": {"name": "forecast"}}
        answer = client("real").chat.completions.parse(
            model="builtin", messages=ASK, temperature=0, tools=[tool], tool_choice=choice
        )
        [call] = answer.choices[0].message.tool_calls
        self.assertIsInstance(call.function.parsed_arguments, Weather)

    def test_parse_reads_a_structured_answer(self):
        answer = client("real").chat.completions.parse(
            model="builtin", messages=ASK, temperature=0, response_format=Weather
        )
        self.assertIsInstance(answer.choices[0].message.parsed, Weather)

    def test_tools_that_are_none_are_a_typed_error(self):
        with self.assertRaises(openai.BadRequestError) as caught:
            ask(tools=[WEATHER, WEATHER])
        self.assertEqual(caught.exception.param, "tools[1].function.name")
