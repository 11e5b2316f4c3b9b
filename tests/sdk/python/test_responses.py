"""Responses of the real engine through OpenAI's own client: whole, streamed, stored, gone on with, in the background."""

import json
import os
import subprocess
import sys
import unittest

import openai
from gateways import async_client, client, eventually, task, url
from pydantic import BaseModel, ConfigDict

QUESTION = "What is Sluicegate?"
WEATHER = {
    "type": "function",
    "name": "get_weather",
    "description": "Get the weather in a city",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 20}},
        "required": ["city"],
        "additionalProperties": False,
    },
    "strict": True,
}


def ask(gateway="real", **options):
    options = {"model": "builtin", "input": QUESTION, "temperature": 0, **options}
    return client(gateway).responses.create(**options)


class Responses(unittest.TestCase):
    def test_a_whole_response_is_complete(self):
        response = ask(instructions="Answer in one sentence.", metadata={"for": "a test"})
        self.assertEqual((response.object, response.status, response.model), ("response", "completed", "builtin"))
        self.assertTrue(response.id.startswith("resp_"))
        self.assertTrue(response._request_id)
        self.assertTrue(response.output_text)
        self.assertEqual(response.metadata, {"for": "a test"})
        usage = response.usage
        self.assertEqual(usage.total_tokens, usage.input_tokens + usage.output_tokens)
        self.assertGreaterEqual(response.completed_at, response.created_at)
        self.assertIsNone(response.error)

    def test_counts_are_those_of_the_response(self):
        prompt = {"model": "builtin", "input": QUESTION, "instructions": "Be brief.", "tools": [WEATHER]}
        counted = client("real").responses.input_tokens.count(**prompt)
        self.assertEqual(counted.object, "response.input_tokens")
        usage = client("real").responses.create(max_output_tokens=1, **prompt).usage
        self.assertEqual(counted.input_tokens, usage.input_tokens)

    def test_a_stream_says_the_same_as_a_whole_response(self):
        whole = ask()
        events = list(ask(stream=True))
        self.assertEqual([event.sequence_number for event in events], list(range(len(events))))
        deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
        self.assertEqual("".join(deltas), whole.output_text)
        self.assertEqual((events[0].type, events[-1].type), ("response.created", "response.completed"))
        self.assertEqual(events[-1].response.output_text, whole.output_text)
        self.assertEqual(events[-1].response.usage, whole.usage)

    def test_the_helper_for_streams_accumulates_the_same_response(self):
        with client("real").responses.stream(model="builtin", input=QUESTION, temperature=0) as stream:
            done = [event.text for event in stream if event.type == "response.output_text.done"]
            final = stream.get_final_response()
        self.assertEqual(done, [final.output_text])
        self.assertEqual(final.output_text, ask().output_text)

    def test_a_limit_leaves_it_incomplete(self):
        response = ask(max_output_tokens=3)
        self.assertEqual((response.status, response.incomplete_details.reason), ("incomplete", "max_output_tokens"))
        self.assertEqual(response.usage.output_tokens, 3)

    def test_log_probabilities_cover_the_text(self):
        response = ask(include=["message.output_text.logprobs"], top_logprobs=2)
        part = response.output[0].content[0]
        said = bytes(byte for token in part.logprobs for byte in token.bytes)
        self.assertTrue(said.decode().startswith(part.text))
        self.assertTrue(all(token.logprob <= 0 and len(token.top_logprobs) == 2 for token in part.logprobs))

    def test_a_loop_of_a_call_and_its_result(self):
        conversation = [{"role": "user", "content": "What is the weather in Berlin?"}]
        first = ask(input=conversation, tools=[WEATHER], tool_choice="required")
        call = next(item for item in first.output if item.type == "function_call")
        self.assertEqual((call.name, json.loads(call.arguments)), ("get_weather", {"city": "Berlin"}))
        result = {"type": "function_call_output", "call_id": call.call_id, "output": '{"temperature": 21}'}
        # With the items, as a client that keeps them itself sends them; and with the id of what is stored.
        whole = ask(input=[*conversation, *first.output, result], tools=[WEATHER], store=False)
        stored = ask(input=[result], previous_response_id=first.id, tools=[WEATHER])
        self.assertTrue(whole.output_text)
        self.assertEqual(stored.output_text, whole.output_text)
        self.assertEqual(stored.usage.input_tokens, whole.usage.input_tokens)

    def test_a_call_is_streamed(self):
        options = {"model": "builtin", "input": "What is the weather in Berlin?", "tools": [WEATHER], "temperature": 0}
        with client("real").responses.stream(**options, tool_choice={"type": "function", "name": "get_weather"}) as stream:
            events = list(stream)
            final = stream.get_final_response()
        deltas = [event.delta for event in events if event.type == "response.function_call_arguments.delta"]
        [call] = [item for item in final.output if item.type == "function_call"]
        self.assertEqual("".join(deltas), call.arguments)
        self.assertEqual(json.loads(call.arguments), {"city": "Berlin"})

    def test_parse_reads_a_structured_answer(self):
        class City(BaseModel):
            model_config = ConfigDict(extra="forbid")
            name: str
            population: int

        response = client("real").responses.parse(model="builtin", input="Name a city.", text_format=City, temperature=0)
        self.assertIsInstance(response.output_parsed, City)

    def test_what_is_stored_is_found_listed_and_deleted(self):
        answers = client("real").responses
        first = ask(instructions="Be brief.")
        self.assertEqual(answers.retrieve(first.id), first)
        second = ask(input="And who made it?", previous_response_id=first.id)
        items = list(answers.input_items.list(second.id, limit=1, order="asc"))
        self.assertEqual([item.role for item in items], ["user", "assistant", "user"])
        self.assertEqual(items[1].id, first.output[0].id)
        answers.delete(second.id)
        with self.assertRaises(openai.NotFoundError):
            answers.retrieve(second.id)
        loose = ask(store=False)
        with self.assertRaises(openai.NotFoundError):
            answers.retrieve(loose.id)
        with self.assertRaises(openai.BadRequestError) as refused:
            ask(previous_response_id=loose.id)
        self.assertEqual(refused.exception.code, "previous_response_not_found")

    def test_in_the_background_it_is_asked_for_until_it_is_there(self):
        answers = client("real").responses
        response = ask(background=True)
        self.assertIn(response.status, ("queued", "in_progress", "completed"))
        eventually("the response is there", lambda: answers.retrieve(response.id).status == "completed")
        self.assertEqual(answers.retrieve(response.id).output_text, ask().output_text)

    def test_a_stream_in_the_background_is_taken_up_again(self):
        answers = client("real").responses
        stream = ask(background=True, stream=True)
        begun = [next(iter(stream)) for _ in range(5)]
        stream.close()
        rest = list(answers.retrieve(begun[0].response.id, stream=True, starting_after=begun[-1].sequence_number))
        numbers = [event.sequence_number for event in begun + rest]
        self.assertEqual(numbers, list(range(len(numbers))))
        self.assertEqual(rest[-1].response.output_text, ask().output_text)

    def test_one_in_the_background_is_cancelled(self):
        response = ask("endless", background=True)
        cancelled = client("endless").responses.cancel(response.id)
        self.assertEqual(cancelled.status, "cancelled")
        self.assertEqual(task("endless", response.id)["finish_reason"], "canceled")

    def test_the_quick_start_runs(self):
        environment = {**os.environ, "OPENAI_BASE_URL": url("real", "/v1"), "OPENAI_API_KEY": "none"}
        script = os.path.join(os.environ["QUICKSTARTS"], "responses.py")
        done = subprocess.run([sys.executable, "-B", script], env=environment, capture_output=True, text=True, timeout=20)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertGreater(len(done.stdout.strip().splitlines()), 1)

    def test_refusals_name_the_parameter(self):
        for options, param in [
            ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
            ({"temperature": 3}, "temperature"),
            ({"max_output_tokens": 10_000_000}, "max_output_tokens"),
            ({"background": True, "store": False}, "background"),
        ]:
            with self.assertRaises(openai.BadRequestError) as refused:
                ask(**options)
            self.assertEqual(refused.exception.param, param)


class Asynchronous(unittest.IsolatedAsyncioTestCase):
    async def test_a_stream_says_the_text(self):
        async with async_client("real") as own:
            stream = await own.responses.create(model="builtin", input=QUESTION, temperature=0, stream=True)
            deltas = [event.delta async for event in stream if event.type == "response.output_text.delta"]
        self.assertEqual("".join(deltas), ask().output_text)
