"""Failures arrive as the client's typed errors; clients that leave cancel their tasks."""

import asyncio
import unittest

import openai
from gateways import QUESTION, async_client, client, eventually, slots_active, task


def ask(gateway, **options):
    return client(gateway).chat.completions.create(**{"model": "builtin", "messages": QUESTION, **options})


class Errors(unittest.TestCase):
    def test_a_bad_request_names_the_parameter(self):
        cases = [
            ({"temperature": 9}, "temperature", "invalid_value"),
            ({"max_completion_tokens": 999_999}, "max_completion_tokens", "context_length_exceeded"),
            ({"web_search_options": {}}, "web_search_options", "unsupported_parameter"),
        ]
        for options, param, code in cases:
            with self.assertRaises(openai.BadRequestError) as caught:
                ask("real", **options)
            self.assertEqual((caught.exception.param, caught.exception.code), (param, code))
            self.assertTrue(caught.exception.request_id)

    def test_an_unknown_model_is_not_found(self):
        with self.assertRaises(openai.NotFoundError) as caught:
            ask("real", model="gpt-9")
        self.assertEqual((caught.exception.param, caught.exception.code), ("model", "model_not_found"))
        with self.assertRaises(openai.NotFoundError):
            client("real").models.retrieve("no/such/model")

    def test_what_is_not_served_is_not_found(self):
        with self.assertRaises(openai.NotFoundError):
            client("real").get("/no/such/route", cast_to=object)

    def test_a_full_queue_is_a_rate_limit_with_a_time_to_wait(self):
        # The first stream runs when its first chunk is there, so that the second one is the one that waits.
        running = ask("tiny", stream=True)
        next(iter(running))
        waiting = ask("tiny", stream=True)
        with self.assertRaises(openai.RateLimitError) as caught:
            ask("tiny")
        self.assertEqual((caught.exception.code, caught.exception.type), ("server_overloaded", "server_error"))
        headers = caught.exception.response.headers
        self.assertGreaterEqual(int(headers["retry-after"]), 1)
        self.assertGreater(int(headers["retry-after-ms"]), 0)
        waiting.close()
        running.close()
        eventually("both are gone", lambda: slots_active("tiny") == 0)

    def test_a_client_that_retries_gets_its_answer_once_there_is_room(self):
        running = ask("tiny", stream=True, max_tokens=100)
        next(iter(running))
        waiting = ask("tiny", stream=True, max_tokens=10)
        patient = client("tiny", max_retries=10)
        answer = patient.chat.completions.create(model="builtin", messages=QUESTION, max_tokens=5)
        self.assertEqual(answer.usage.completion_tokens, 5)
        waiting.close()
        running.close()

    def test_a_failed_engine_is_an_internal_server_error(self):
        with self.assertRaises(openai.InternalServerError) as caught:
            ask("failing")
        self.assertEqual((caught.exception.status_code, caught.exception.code), (503, "engine_reset"))

    def test_a_failure_in_mid_stream_is_raised_by_the_stream(self):
        # A failed engine refuses tasks until it works again.
        eventually("a stream begins and fails", a_stream_begins_and_fails)

    def test_a_client_that_has_waited_long_enough_gives_up(self):
        with self.assertRaises(openai.APITimeoutError):
            ask("endless", max_tokens=8000, timeout=0.5)
        eventually("its slot is free", lambda: slots_active("endless") == 0)


def a_stream_begins_and_fails():
    seen = []
    try:
        for chunk in ask("failing", stream=True):
            seen.extend(choice.delta.content for choice in chunk.choices if choice.delta.content)
    except openai.InternalServerError:
        return False
    except openai.APIError as error:
        return (error.code, len(seen)) == ("engine_reset", 2)
    raise AssertionError("the stream ended without an error")


class Cancellation(unittest.TestCase):
    def test_closing_a_stream_cancels_its_task(self):
        raw = client("endless").chat.completions.with_raw_response.create(
            model="builtin", messages=QUESTION, stream=True, max_tokens=8000
        )
        task_id, stream = raw.headers["x-task-id"], raw.parse()
        next(iter(stream))
        self.assertEqual(task("endless", task_id)["state"], "running")
        stream.close()
        eventually("it is cancelled", lambda: task("endless", task_id)["state"] == "canceled")
        eventually("its slot is free", lambda: slots_active("endless") == 0)

    def test_cancelling_an_asynchronous_call_cancels_its_task(self):
        async def leave():
            async with async_client("endless") as asked:
                call = asyncio.create_task(
                    asked.chat.completions.create(model="builtin", messages=QUESTION, max_tokens=8000)
                )
                while slots_active("endless") == 0:
                    await asyncio.sleep(0.01)
                call.cancel()
                with self.assertRaises(asyncio.CancelledError):
                    await call

        asyncio.run(asyncio.wait_for(leave(), 20))
        eventually("its slot is free", lambda: slots_active("endless") == 0)

    def test_asynchronous_streams_run_side_by_side(self):
        async def text(asked, seed):
            stream = await asked.chat.completions.create(
                model="builtin", messages=QUESTION, max_tokens=20, seed=seed, stream=True
            )
            return "".join([choice.delta.content or "" async for chunk in stream for choice in chunk.choices])

        async def crowd():
            async with async_client("real") as asked:
                return await asyncio.gather(*[text(asked, seed) for seed in (1, 2, 3, 4, 1)])

        texts = asyncio.run(asyncio.wait_for(crowd(), 20))
        self.assertEqual(texts[0], texts[4])
        self.assertTrue(all(texts))
