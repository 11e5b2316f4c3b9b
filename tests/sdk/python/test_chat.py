"""Chat completions of the real engine: whole and streamed, and every option that shapes them."""

import unittest

from gateways import QUESTION, client, text_of


def ask(**options):
    options = {"model": "builtin", "messages": QUESTION, "seed": 11, **options}
    return client("real").chat.completions.create(**options)


class Chat(unittest.TestCase):
    def test_a_whole_answer_is_complete(self):
        answer = ask()
        self.assertEqual((answer.object, answer.model), ("chat.completion", "builtin"))
        self.assertTrue(answer.id.startswith("chatcmpl-"))
        self.assertTrue(answer.system_fingerprint)
        [choice] = answer.choices
        self.assertEqual(choice.message.role, "assistant")
        self.assertTrue(choice.message.content)
        self.assertIn(choice.finish_reason, ("stop", "length"))
        usage = answer.usage
        self.assertEqual(usage.total_tokens, usage.prompt_tokens + usage.completion_tokens)
        self.assertEqual(usage.completion_tokens_details.reasoning_tokens, 0)
        self.assertIsNotNone(usage.prompt_tokens_details.cached_tokens)

    def test_a_stream_says_the_same_as_a_whole_answer(self):
        whole = ask()
        chunks = list(ask(stream=True))
        self.assertEqual(text_of(chunks), whole.choices[0].message.content)
        self.assertEqual(chunks[0].choices[0].delta.role, "assistant")
        self.assertEqual(chunks[-1].choices[0].finish_reason, whole.choices[0].finish_reason)
        self.assertEqual({chunk.id for chunk in chunks}, {chunks[0].id})
        self.assertTrue(all(chunk.usage is None for chunk in chunks))

    def test_include_usage_adds_one_last_chunk(self):
        whole = ask()
        chunks = list(ask(stream=True, stream_options={"include_usage": True}))
        self.assertEqual(chunks[-1].choices, [])
        self.assertEqual(chunks[-1].usage, whole.usage)
        self.assertTrue(all(chunk.usage is None for chunk in chunks[:-1]))

    def test_the_helper_for_streams_accumulates_the_same_answer(self):
        with client("real").chat.completions.stream(model="builtin", messages=QUESTION, seed=11) as stream:
            content = [event.content for event in stream if event.type == "content.done"]
            final = stream.get_final_completion()
        self.assertEqual(content, [ask().choices[0].message.content])
        self.assertEqual(final.choices[0].message.content, content[0])

    def test_a_seed_gives_the_same_text_twice_and_another_seed_another(self):
        texts = [ask(seed=seed, temperature=2).choices[0].message.content for seed in (1, 1, 2)]
        self.assertEqual(texts[0], texts[1])
        self.assertNotEqual(texts[0], texts[2])

    def test_a_stop_string_ends_the_answer_before_it(self):
        whole = ask().choices[0].message.content
        stop = whole[len(whole) // 2 :][:3]
        for answer in (ask(stop=stop), ask(stop=[stop, "never said"])):
            [choice] = answer.choices
            self.assertEqual((choice.message.content, choice.finish_reason), (whole[: whole.index(stop)], "stop"))

    def test_limits_on_tokens_end_the_answer(self):
        for limit in ({"max_tokens": 3}, {"max_completion_tokens": 3}):
            answer = ask(**limit)
            self.assertEqual(answer.choices[0].finish_reason, "length")
            self.assertEqual(answer.usage.completion_tokens, 3)

    def test_logprobs_cover_the_text(self):
        answer = ask(logprobs=True, top_logprobs=3, max_tokens=8)
        tokens = answer.choices[0].logprobs.content
        self.assertEqual(len(tokens), 8)
        text = b"".join(bytes(token.bytes) for token in tokens)
        self.assertEqual(text.decode(errors="replace"), answer.choices[0].message.content)
        for token in tokens:
            self.assertLessEqual(token.logprob, 0)
            self.assertEqual(len(token.top_logprobs), 3)
        streamed = list(ask(logprobs=True, top_logprobs=3, max_tokens=8, stream=True))
        lists = [choice.logprobs.content for chunk in streamed for choice in chunk.choices if choice.logprobs]
        self.assertEqual([token for tokens in lists for token in tokens], tokens)

    def test_several_choices(self):
        # Hot enough that two choices differ.
        options = {"max_tokens": 20, "temperature": 2}
        answer = ask(n=2, **options)
        self.assertEqual([choice.index for choice in answer.choices], [0, 1])
        self.assertEqual(answer.choices[0].message.content, ask(**options).choices[0].message.content)
        self.assertNotEqual(answer.choices[0].message.content, answer.choices[1].message.content)
        chunks = list(ask(n=2, stream=True, **options))
        self.assertEqual({choice.index for chunk in chunks for choice in chunk.choices}, {0, 1})
        self.assertEqual(text_of(chunks), answer.choices[0].message.content)

    def test_messages_of_every_role_and_in_parts(self):
        parts = [{"type": "text", "text": "What is "}, {"type": "text", "text": "Sluicegate?"}]
        messages = [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Hello."},
            {"role": "assistant", "content": "Hello!"},
            {"role": "user", "content": parts},
        ]
        self.assertTrue(ask(messages=messages).choices[0].message.content)

    def test_the_raw_response_names_task_and_request(self):
        raw = client("real").chat.completions.with_raw_response.create(model="builtin", messages=QUESTION, max_tokens=2)
        answer = raw.parse()
        self.assertEqual(answer.id, "chatcmpl-" + raw.headers["x-task-id"])
        self.assertEqual(answer._request_id, raw.headers["x-correlation-id"])


class Models(unittest.TestCase):
    def test_models_are_listed_and_found(self):
        models = client("real").models.list().data
        self.assertIn("builtin", [model.id for model in models])
        model = client("real").models.retrieve("builtin")
        self.assertEqual((model.id, model.object), ("builtin", "model"))
