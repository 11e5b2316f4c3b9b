"""Anthropic's own client, unchanged but for the address: messages whole and streamed, tools, counts, failures, leaving."""

import asyncio
import json
import os
import subprocess
import sys
import unittest
from typing import Annotated

import anthropic
from gateways import QUESTION, eventually, slots_active, task, url
from pydantic import BaseModel, ConfigDict, Field

WEATHER = {
    "name": "get_weather",
    "description": "Get the weather in a city",
    "input_schema": {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 20}},
        "required": ["city"],
        "additionalProperties": False,
    },
}
ASK = [{"role": "user", "content": "What is the weather in Berlin?"}]


def client(gateway, **options):
    options.setdefault("max_retries", 0)
    return anthropic.Anthropic(base_url=url(gateway, ""), api_key="any", **options)


def async_client(gateway, **options):
    options.setdefault("max_retries", 0)
    return anthropic.AsyncAnthropic(base_url=url(gateway, ""), api_key="any", **options)


def options(**more):
    # The client has no parameter for the temperature; Anthropic's newest models take none.
    extra = {"temperature": 0}
    return {"model": "builtin", "max_tokens": 64, "messages": QUESTION, "extra_body": extra, **more}


def ask(gateway="real", **more):
    return client(gateway).messages.create(**options(**more))


def text_of(message):
    return "".join(block.text for block in message.content if block.type == "text")


class Messages(unittest.TestCase):
    def test_a_whole_answer_is_complete(self):
        answer = ask(system="Answer in one sentence.")
        self.assertEqual((answer.type, answer.role, answer.model), ("message", "assistant", "builtin"))
        self.assertTrue(answer.id.startswith("msg_"))
        self.assertTrue(answer._request_id)
        self.assertTrue(answer.content[0].text)
        self.assertIn(answer.stop_reason, ("end_turn", "max_tokens"))
        self.assertIsNone(answer.stop_sequence)
        self.assertGreater(answer.usage.input_tokens, 0)
        self.assertGreater(answer.usage.output_tokens, 0)
        self.assertEqual(answer.usage.output_tokens_details.thinking_tokens, 0)

    def test_a_stream_says_the_same_as_a_whole_answer(self):
        whole = ask()
        with client("real").messages.stream(**options()) as stream:
            text = "".join(stream.text_stream)
            final = stream.get_final_message()
        self.assertEqual((text, text_of(final)), (text_of(whole), text_of(whole)))
        # What the second one finds in a cache it does not have to read.
        tokens = [usage.input_tokens + usage.cache_read_input_tokens for usage in (whole.usage, final.usage)]
        self.assertEqual(tokens[0], tokens[1])
        self.assertEqual(final.usage.output_tokens, whole.usage.output_tokens)
        self.assertEqual((final.stop_reason, final.stop_sequence), (whole.stop_reason, whole.stop_sequence))

    def test_raw_events_come_in_their_order(self):
        events = [event.type for event in ask(stream=True)]
        self.assertEqual(events[:2], ["message_start", "content_block_start"])
        self.assertEqual(events[-3:], ["content_block_stop", "message_delta", "message_stop"])
        self.assertEqual(set(events[2:-3]), {"content_block_delta"})

    def test_a_stop_sequence_ends_the_answer_and_is_named(self):
        whole = text_of(ask())
        stop = whole[len(whole) // 2 :][:3]
        answer = ask(stop_sequences=["never said", stop])
        self.assertEqual((answer.stop_reason, answer.stop_sequence), ("stop_sequence", stop))
        self.assertEqual(text_of(answer), whole[: whole.index(stop)])

    def test_an_answer_that_was_begun_goes_on(self):
        whole = text_of(ask())
        begun = whole[: whole.index(" ", len(whole) // 3)]
        rest = text_of(ask(messages=[*QUESTION, {"role": "assistant", "content": begun}]))
        self.assertEqual(begun + rest, whole)

    def test_a_limit_ends_the_answer(self):
        answer = ask(max_tokens=3)
        self.assertEqual((answer.stop_reason, answer.usage.output_tokens), ("max_tokens", 3))

    def test_counts_are_those_of_the_answer(self):
        prompt = {"model": "builtin", "system": "Be brief.", "messages": ASK, "tools": [WEATHER]}
        counted = client("real").messages.count_tokens(**prompt)
        usage = client("real").messages.create(max_tokens=1, **prompt).usage
        self.assertEqual(counted.input_tokens, usage.input_tokens + usage.cache_read_input_tokens)

    def test_headers_tell_of_the_task_and_of_what_is_ignored(self):
        blocks = [{"type": "text", "text": "Hello", "cache_control": {"type": "ephemeral"}}]
        raw = client("real").messages.with_raw_response.create(**options(messages=[{"role": "user", "content": blocks}]))
        self.assertEqual(raw.headers["x-sluicegate-ignored"], "messages[].content[].cache_control")
        self.assertEqual(raw.headers["request-id"], raw.parse()._request_id)
        self.assertEqual(task("real", raw.parse().id)["task_id"], raw.headers["x-task-id"])

    def test_the_quick_start_runs(self):
        environment = {**os.environ, "ANTHROPIC_BASE_URL": url("real", ""), "ANTHROPIC_API_KEY": "none"}
        script = os.path.join(os.environ["QUICKSTARTS"], "messages.py")
        done = subprocess.run([sys.executable, "-B", script], env=environment, capture_output=True, text=True, timeout=20)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("TextBlock", done.stdout)

    def test_the_beta_namespace_works_as_well(self):
        answer = client("real").beta.messages.create(**options(), betas=["output-128k-2025-02-19"])
        self.assertEqual(text_of(answer), text_of(ask()))


class Weather(BaseModel):
    """What a structured answer is read as."""

    model_config = ConfigDict(extra="forbid")
    days: int


class Tools(unittest.TestCase):
    def test_a_loop_of_a_call_and_its_result(self):
        first = ask(messages=ASK, tools=[WEATHER])
        self.assertEqual(first.stop_reason, "tool_use")
        [call] = [block for block in first.content if block.type == "tool_use"]
        self.assertEqual((call.name, call.input), ("get_weather", {"city": "Berlin"}))
        self.assertTrue(call.id.startswith("toolu_"))
        result = {"type": "tool_result", "tool_use_id": call.id, "content": '{"temperature": 21, "condition": "sunny"}'}
        history = [*ASK, {"role": "assistant", "content": first.content}, {"role": "user", "content": [result]}]
        second = ask(messages=history, tools=[WEATHER])
        self.assertEqual(second.stop_reason, "end_turn")
        self.assertTrue(text_of(second))

    def test_the_tool_runner_calls_and_goes_on(self):
        @anthropic.beta_tool
        def get_weather(city: Annotated[str, Field(max_length=20)]) -> str:
            """Get the weather in a city"""
            asked.append(city)
            return '{"temperature": 21, "condition": "sunny"}'

        # The runner would have the server hold the conversation; it is told that this one does not.
        asked = []
        answer = client("real").beta.messages.tool_runner(**options(messages=ASK), tools=[get_weather]).until_done()
        self.assertEqual((asked, answer.stop_reason), (["Berlin"], "end_turn"))
        self.assertTrue(text_of(answer))

    def test_a_stream_accumulates_the_same_call(self):
        with client("real").messages.stream(**options(messages=ASK, tools=[WEATHER])) as stream:
            parts = [event.partial_json for event in stream if event.type == "input_json"]
            final = stream.get_final_message()
        [call] = [block for block in final.content if block.type == "tool_use"]
        self.assertEqual((json.loads("".join(parts)), call.input), ({"city": "Berlin"}, {"city": "Berlin"}))

    def test_a_call_that_is_required_is_made_whatever_was_asked(self):
        hello = [{"role": "user", "content": "Hello!"}]
        for choice in ({"type": "any", "disable_parallel_tool_use": True}, {"type": "tool", "name": "get_weather"}):
            answer = ask(messages=hello, tools=[WEATHER], tool_choice=choice)
            self.assertEqual([list(block.input) for block in answer.content], [["city"]])

    def test_no_call_where_none_is_allowed(self):
        answer = ask(messages=ASK, tools=[WEATHER], tool_choice={"type": "none"})
        self.assertEqual({block.type for block in answer.content}, {"text"})

    def test_parse_reads_a_structured_answer(self):
        answer = client("real").messages.parse(**options(messages=ASK), output_format=Weather)
        self.assertIsInstance(answer.parsed_output, Weather)


class Errors(unittest.TestCase):
    def test_a_bad_request_names_the_field(self):
        cases = [
            ({"extra_body": {"temperature": 1.5}}, "temperature"),
            ({"max_tokens": 999_999}, "max_tokens"),
            ({"messages": [{"role": "system", "content": "Be brief."}]}, "messages[0].role"),
            ({"messages": [*ASK, {"role": "assistant", "content": "It is "}]}, "messages[1].content"),
            ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools[0].type"),
        ]
        for more, field in cases:
            with self.assertRaises(anthropic.BadRequestError) as caught:
                ask(**more, timeout=20)
            self.assertEqual(caught.exception.type, "invalid_request_error")
            self.assertIn(field, caught.exception.api_message)
            self.assertTrue(caught.exception.request_id)

    def test_an_unknown_model_is_not_found(self):
        with self.assertRaises(anthropic.NotFoundError) as caught:
            ask(model="claude-9")
        self.assertEqual(caught.exception.type, "not_found_error")

    def test_a_full_queue_is_an_overload(self):
        # The first stream runs when its first event is there, so that the second one is the one that waits.
        running = ask("tiny", stream=True)
        next(iter(running))
        waiting = ask("tiny", stream=True)
        with self.assertRaises(anthropic.APIStatusError) as caught:
            ask("tiny")
        self.assertEqual((caught.exception.status_code, caught.exception.type), (529, "overloaded_error"))
        self.assertGreaterEqual(int(caught.exception.response.headers["retry-after"]), 1)
        waiting.close()
        running.close()
        eventually("both are gone", lambda: slots_active("tiny") == 0)

    def test_a_client_that_retries_gets_its_answer_once_there_is_room(self):
        running = ask("tiny", stream=True, max_tokens=100)
        next(iter(running))
        waiting = ask("tiny", stream=True, max_tokens=10)
        answer = client("tiny", max_retries=10).messages.create(**options(max_tokens=5))
        self.assertEqual(answer.usage.output_tokens, 5)
        waiting.close()
        running.close()
        eventually("all are gone", lambda: slots_active("tiny") == 0)

    def test_a_failed_engine_is_a_server_error(self):
        with self.assertRaises(anthropic.APIStatusError) as caught:
            ask("failing")
        self.assertEqual(caught.exception.status_code, 503)
        self.assertIn(caught.exception.type, ("api_error", "overloaded_error"))

    def test_a_failure_in_mid_stream_is_raised_by_the_stream(self):
        # A failed engine refuses tasks until it works again.
        eventually("a stream begins and fails", a_stream_begins_and_fails)

    def test_a_client_that_has_waited_long_enough_gives_up(self):
        with self.assertRaises(anthropic.APITimeoutError):
            ask("endless", max_tokens=8000, timeout=0.5)
        eventually("its slot is free", lambda: slots_active("endless") == 0)


def a_stream_begins_and_fails():
    seen = []
    try:
        seen.extend(event.type for event in ask("failing", stream=True))
    except anthropic.APIStatusError as error:
        return (error.type, seen.count("content_block_delta")) == ("api_error", 2)
    raise AssertionError("the stream ended without an error")


class Cancellation(unittest.TestCase):
    def test_closing_a_stream_cancels_its_task(self):
        with client("endless").messages.stream(**options(max_tokens=8000)) as stream:
            next(stream.text_stream)
            message_id = stream.current_message_snapshot.id
            self.assertEqual(task("endless", message_id)["state"], "running")
        eventually("it is cancelled", lambda: task("endless", message_id)["state"] == "canceled")
        eventually("its slot is free", lambda: slots_active("endless") == 0)

    def test_cancelling_an_asynchronous_call_cancels_its_task(self):
        async def leave():
            async with async_client("endless") as asked:
                call = asyncio.create_task(asked.messages.create(**options(max_tokens=8000), timeout=20))
                while slots_active("endless") == 0:
                    await asyncio.sleep(0.01)
                call.cancel()
                with self.assertRaises(asyncio.CancelledError):
                    await call

        asyncio.run(asyncio.wait_for(leave(), 20))
        eventually("its slot is free", lambda: slots_active("endless") == 0)
