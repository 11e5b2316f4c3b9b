"""Embeddings of the real engine."""

import unittest

import openai
from gateways import async_client, client

TEXTS = ["What is a pool?", "Please explain pools to me.", "What color is the sky?"]


def embed(gateway="real", **options):
    return client(gateway).embeddings.create(**{"model": "builtin-embedding", "input": TEXTS, **options})


def near(one, other):
    return sum(a * b for a, b in zip(one, other))


class Embeddings(unittest.TestCase):
    def test_texts_that_mean_the_same_are_near_each_other(self):
        answer = embed()
        self.assertEqual((answer.object, answer.model), ("list", "builtin-embedding"))
        self.assertEqual([item.index for item in answer.data], [0, 1, 2])
        vectors = [item.embedding for item in answer.data]
        self.assertEqual({len(vector) for vector in vectors}, {128})
        self.assertAlmostEqual(near(vectors[0], vectors[0]), 1, places=5)
        self.assertGreater(near(vectors[0], vectors[1]), near(vectors[0], vectors[2]) + 0.2)
        self.assertEqual(answer.usage.prompt_tokens, answer.usage.total_tokens)

    def test_floats_and_base64_are_the_same_numbers(self):
        # Where nothing is said the client asks for base64 by itself, and decodes it.
        decoded = [item.embedding for item in embed().data]
        floats = [item.embedding for item in embed(encoding_format="float").data]
        self.assertEqual(decoded, floats)

    def test_one_text_alone_is_the_same_as_among_others(self):
        self.assertEqual(embed(input=TEXTS[2]).data[0].embedding, embed().data[2].embedding)

    def test_dimensions_are_the_first_ones(self):
        whole, short = embed().data[0].embedding, embed(dimensions=8).data[0].embedding
        self.assertEqual(len(short), 8)
        self.assertAlmostEqual(near(short, short), 1, places=5)
        self.assertAlmostEqual(near(short, whole[:8]), near(whole[:8], whole[:8]) ** 0.5, places=5)

    def test_token_ids_are_taken_as_they_are(self):
        [one] = embed(input=[271, 268, 258, 429, 31, 0]).data
        self.assertEqual(one.embedding, embed(input=TEXTS[0]).data[0].embedding)
        self.assertEqual(len(embed(input=[[271, 0], [268, 0]]).data), 2)

    def test_errors_are_typed(self):
        with self.assertRaises(openai.BadRequestError) as raised:
            embed(input=["a", ""])
        self.assertEqual(raised.exception.param, "input")
        with self.assertRaises(openai.BadRequestError) as raised:
            embed(model="builtin")
        self.assertEqual(raised.exception.param, "model")
        with self.assertRaises(openai.NotFoundError):
            embed(model="text-embedding-4")

    def test_a_large_batch(self):
        texts = [f"text number {number}" for number in range(300)]
        answer = embed(input=texts)
        self.assertEqual([item.index for item in answer.data], list(range(300)))


class Asynchronous(unittest.IsolatedAsyncioTestCase):
    async def test_the_asynchronous_client_reads_the_same(self):
        answer = await async_client("real").embeddings.create(model="builtin-embedding", input=TEXTS)
        self.assertEqual(answer.data, embed().data)


if __name__ == "__main__":
    unittest.main()
