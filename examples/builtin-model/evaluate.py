"""Measures the model in model/ with greedy decoding in numpy and writes evaluation.json.

    python evaluate.py
    python evaluate.py --show          # also prints each miss
    python evaluate.py --chat "What is a pool?"
"""

import argparse
import json
from pathlib import Path

import ml_dtypes
import numpy as np
from tokenizers import Tokenizer

import chat
from dataset import Builder, Entry, TOPICS, load
from model import Decoder

HERE = Path(__file__).parent


class Model:
    def __init__(self, folder, rounding=None):
        self.decoder, self.tokenizer = Decoder(folder, rounding), Tokenizer.from_file(str(Path(folder) / "tokenizer.json"))
        self.asked = self.ended = 0

    def reply(self, messages, tools=None, **how):
        ids = self.tokenizer.encode(chat.render(messages, tools, add_generation_prompt=True)).ids
        out, ended = self.decoder.answer(ids, chat.END, **how)
        self.asked, self.ended = self.asked + 1, self.ended + ended
        return self.tokenizer.decode(out, skip_special_tokens=False)

    def ask(self, question, system=None, before=(), **how):
        messages = [{"role": "system", "content": system}] if system else []
        return self.reply(messages + list(before) + [{"role": "user", "content": question}], **how)


class Table:
    def __init__(self, show):
        self.rows, self.show = {}, show

    def add(self, name, results):
        """`results` are (right, question, answer, wanted)."""
        results = list(results)
        right = sum(bool(result[0]) for result in results)
        self.rows[name] = {"right": right, "of": len(results), "percent": round(100 * right / len(results), 1)}
        print(f"{name:58} {right:5} of {len(results):5}  {100 * right / len(results):5.1f} %", flush=True)
        if self.show:
            for good, question, answer, wanted in results:
                if not good:
                    print(f"    {question!r}\n      said   {answer!r}\n      wanted {wanted!r}")


def calls(text):
    """The tool calls in an answer, or None if it is anything but calls."""
    parsed = []
    for piece in text.split("<tool_call>\n")[1:]:
        body, end, rest = piece.partition("\n</tool_call>")
        try:
            call = json.loads(body)
            parsed.append((call["name"], call["arguments"]))
        except (ValueError, KeyError, TypeError):
            return None
        if not end or rest.strip():
            return None
    return parsed


def last_turns(messages):
    """(what comes before, the answer) for each answer in a conversation."""
    for at, message in enumerate(messages):
        if message["role"] == "assistant":
            yield messages[:at], message


def tool_cases(builder, count):
    for _ in range(count):
        kinds = builder.rng.sample(builder.tools, builder.rng.choice([1, 2, 3]))
        made = [builder.tool(kind) for kind in kinds]
        messages = []
        while len(messages) < 4:
            messages = builder.tool_turn(kinds[0], *made[0])
        tools = [definition for definition, _ in made]
        builder.rng.shuffle(tools)
        yield messages, tools


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--model", type=Path, default=HERE / "model")
    arguments.add_argument("--show", action="store_true")
    arguments.add_argument("--quick", action="store_true", help="the two main figures only")
    arguments.add_argument("--bfloat16", action="store_true", help="round the weights to bfloat16 first")
    arguments.add_argument("--chat", nargs="+", help="ask these one after another in one conversation")
    arguments = arguments.parse_args()
    model = Model(arguments.model, ml_dtypes.bfloat16 if arguments.bfloat16 else None)
    if arguments.chat:
        messages = []
        for question in arguments.chat:
            messages.append({"role": "user", "content": question})
            messages.append({"role": "assistant", "content": model.reply(messages)})
            print(f"> {question}\n{messages[-1]['content']}")
        return

    table = Table(arguments.show)
    builder = Builder(1000, values="heldout")
    unknown = Entry("unknown", {"id": "unknown", "q": builder.unknown["q"], "a": builder.unknown["answer"]})
    by_id = {entry.id: entry for entry in builder.all} | {"unknown": unknown}

    def match(question, entry, **how):
        answer = model.ask(question, **how)
        return answer in entry.answers, question, answer, entry.answers[0]

    own = [(entry.questions[0], entry) for entry in builder.all] + [(question, unknown) for question in unknown.questions]
    table.add("own questions", (match(*case) for case in own))
    table.add("held-out paraphrases", (match(item["q"], by_id[item["id"]]) for item in load("heldout_paraphrases")))
    if not arguments.quick:
        table.add("own questions, all lower case, no punctuation", (match(q.lower().rstrip(".?!"), e) for q, e in own))
        table.add("own questions, with a system prompt", (match(q, e, system="You are a helpful assistant.") for q, e in own))
        every = [(question, entry) for entry in builder.all for question in entry.questions[1:]]
        table.add("the other written phrasings", (match(*case) for case in every))
        for topic in TOPICS:
            table.add(f"own questions: {topic}", (match(e.questions[0], e) for e in builder.entries[topic]))

        def long_talk(size):
            before = []
            while len(model.tokenizer.encode(chat.render(before)).ids) < size - 60:
                for user, assistant in builder.fact():
                    before += [{"role": "user", "content": user}, {"role": "assistant", "content": assistant}]
            return before

        for size in (500, 1500, 3000):
            cases = builder.rng.sample(own, 40)
            table.add(f"own questions after about {size} tokens of other talk", (match(q, e, before=long_talk(size)) for q, e in cases))

        def turns(kind, count):
            for _ in range(count):
                messages = [m for user, assistant in kind() for m in ({"role": "user", "content": user}, {"role": "assistant", "content": assistant})]
                *_, (before, wanted) = last_turns(messages)
                answer = model.reply(before)
                yield answer == wanted["content"], before[-1]["content"], answer, wanted["content"]

        for name, kind, count in [("facts about the user, held-out values", builder.remember, 100), ("repeating held-out words", builder.repeat, 100),
                                  ("counting", builder.count, 60), ("adding numbers", builder.sum, 60), ("answers in one word", builder.one_word, 100),
                                  ("questions outside its knowledge", builder.not_known, 100)]:
            table.add(name, turns(kind, count))

        valid, exact = [], []
        for _ in range(100):
            (question, wanted), = builder.json_object()
            answer = model.ask(question)
            try:
                json.loads(answer)
                good = True
            except ValueError:
                good = False
            valid.append((good, question, answer, wanted))
            exact.append((answer == wanted, question, answer, wanted))
        table.add("JSON objects with held-out values: valid", valid)
        table.add("JSON objects with held-out values: exact", exact)

        valid, exact, words = [], [], []
        for messages, tools in tool_cases(builder, 120):
            question = messages[0]["content"]
            wanted = [(c["function"]["name"], json.loads(c["function"]["arguments"])) for c in messages[1]["tool_calls"]]
            answer = model.reply(messages[:1], tools)
            valid.append((calls(answer), question, answer, wanted))
            exact.append((calls(answer) == wanted, question, answer, wanted))
            answer = model.reply(messages[:-1], tools)
            words.append((answer == messages[-1]["content"], messages[-2]["content"], answer, messages[-1]["content"]))
        table.add("tool calls with held-out values: valid", valid)
        table.add("tool calls with held-out values: exact", exact)
        table.add("answers in words after a tool result", words)
        cases = builder.rng.sample(own, 60)
        tools = [builder.tool(kind)[0] for kind in builder.tools[:2]]
        table.add("own questions with tools offered that do not fit", ((a in e.answers, q, a, e.answers[0]) for q, e in cases
                                                                       for a in [model.reply([{"role": "user", "content": q}], tools)]))

        rng = np.random.default_rng(5)
        print("different answers in 12 samples at temperature 1:")
        variety = {}
        for entry in builder.entries["open_questions"]:
            if len(entry.answers) > 3:
                said = {model.ask(entry.questions[0], temperature=1.0, rng=rng) for _ in range(12)}
                variety[entry.id] = {"different": len(said), "written": len(entry.answers), "word for word": len(said & set(entry.answers))}
                print(f"    {entry.id:20} {variety[entry.id]}", flush=True)
        table.rows["variety"] = variety
    table.rows["ended with the end token"] = {"right": model.ended, "of": model.asked, "percent": round(100 * model.ended / model.asked, 1)}
    print(f"{'ended with the end token':58} {model.ended:5} of {model.asked:5}")
    if not arguments.quick and not arguments.bfloat16 and arguments.model.resolve() == HERE / "model":
        (HERE / "evaluation.json").write_text(json.dumps(table.rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
