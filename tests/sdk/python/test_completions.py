"""Completions of plain prompts by the real engine."""

import unittest

import openai

from gateways import client, task


def complete(**options):
    options = {"model": "builtin", "prompt": "A pool is", "seed": 11, **options}
    return client("real").completions.create(**options)


class Completions(unittest.TestCase):
    def test_a_whole_answer_is_complete(self):
        answer = complete()
        self.assertEqual((answer.object, answer.model), ("text_completion", "builtin"))
        self.assertTrue(answer.id.startswith("cmpl-"))
        [choice] = answer.choices
        self.assertTrue(choice.text)
        self.assertIn(choice.finish_reason, ("stop", "length"))
        self.assertLessEqual(answer.usage.completion_tokens, 16)
        self.assertEqual(task("real", answer.id)["output"], choice.text)

    def test_a_stream_says_the_same_as_a_whole_answer(self):
        prompts = ["A pool is", "A queue is"]
        whole = complete(prompt=prompts, n=2, echo=True)
        texts = {}
        for chunk in complete(prompt=prompts, n=2, echo=True, stream=True):
            for choice in chunk.choices:
                texts[choice.index] = texts.get(choice.index, "") + choice.text
        self.assertEqual(texts, {choice.index: choice.text for choice in whole.choices})
        self.assertTrue(texts[3].startswith("A queue is"))

    def test_a_stream_tells_its_usage_once(self):
        chunks = list(complete(prompt=["a b", "c"], stream=True, stream_options={"include_usage": True}))
        self.assertEqual([chunk for chunk in chunks if chunk.usage], chunks[-1:])
        self.assertEqual(chunks[-1].usage, complete(prompt=["a b", "c"]).usage)

    def test_log_probabilities_are_beside_their_tokens(self):
        logprobs = complete(logprobs=2, max_tokens=4, temperature=0).choices[0].logprobs
        self.assertEqual(len(logprobs.tokens), 4)
        for token, logprob, top in zip(logprobs.tokens, logprobs.token_logprobs, logprobs.top_logprobs):
            self.assertAlmostEqual(top[token], logprob, places=5)
            self.assertEqual(max(top.values()), top[token])
        self.assertEqual(logprobs.text_offset[:2], [0, len(logprobs.tokens[0])])

    def test_the_best_of_several_is_among_them(self):
        made = complete(n=4, max_tokens=4, logprobs=0)
        mean = {choice.text: sum(choice.logprobs.token_logprobs) / 4 for choice in made.choices}
        best = complete(best_of=4, max_tokens=4)
        self.assertEqual(best.choices[0].text, max(mean, key=mean.get))
        self.assertEqual(best.usage.completion_tokens, made.usage.completion_tokens)

    def test_errors_are_typed(self):
        with self.assertRaises(openai.BadRequestError) as caught:
            complete(suffix="and so on")
        self.assertEqual((caught.exception.param, caught.exception.code), ("suffix", "unsupported_parameter"))
        with self.assertRaises(openai.BadRequestError) as caught:
            complete(prompt=["a", "b"], max_tokens=99999)
        self.assertEqual(caught.exception.code, "context_length_exceeded")
        with self.assertRaises(openai.NotFoundError):
            complete(model="gpt-9")
