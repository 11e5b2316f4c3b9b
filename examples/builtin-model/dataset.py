"""Conversations by program, from the texts in data/.

`Builder(seed).conversation()` gives (messages, tools). Phrasing, letter case, punctuation, typing mistakes, system
prompts and what went before vary; the answers do not, except where an entry has several.
"""

import json
import random
import re
import string
from pathlib import Path

import yaml

HERE = Path(__file__).parent
ONES = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
        "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty"]
COUNT_UP = ["Count from {a} to {b}.", "Count {a} to {b}.", "Please count from {a} to {b}.", "Can you count from {a} to {b}?",
            "List the numbers from {a} to {b}.", "Write the numbers from {a} to {b}.", "Numbers from {a} to {b}",
            "Say the numbers from {a} to {b}.", "Start at {a} and count to {b}."]
COUNT_TO = ["Count to {b}.", "Count up to {b}.", "Please count to {b}.", "Can you count to {b}?", "Count to {b} for me.",
            "Could you count to {b}?"]
COUNT_DOWN = ["Count down from {b}.", "Count backwards from {b}.", "Count down from {b} to 1.", "Countdown from {b}"]
REPEAT = ["Repeat after me: {x}", "Repeat: {x}", "Say {x}.", "Say the word {x}.", "Say \"{x}\".", "Reply with {x}.", "Reply with exactly {x}",
          "Reply with only: {x}", "Echo {x}", "Echo: {x}", "Please repeat: {x}", "Say exactly: {x}", "Only say {x}", "Just say {x}.",
          "Repeat the words {x}", "Repeat this: {x}", "Respond with {x}", "Answer with {x}.", "Write {x}.", "Can you say {x}?",
          "Output only {x}", "Say: {x}", "Type {x}", "Reply with just the word {x}", "Return {x}"]
SUM = ["What is {a} plus {b}?", "What is {a} + {b}?", "{a} + {b} = ?", "{a}+{b}", "How much is {a} plus {b}?", "Add {a} and {b}.",
       "What is {a}+{b}?", "Compute {a} + {b}.", "{a} plus {b}", "What is the sum of {a} and {b}?", "Calculate {a} + {b}."]
AGAIN = ["Say that again.", "Repeat that.", "Repeat your answer.", "What did you say?", "Again please.", "Can you repeat that?",
         "Please repeat your last answer.", "Come again?"]
SUM_TOO_LARGE = "I can only add small numbers up to ten. Use a tool for more."
TOOLS_IN_ROUND = {3: 0.45, 4: 0.25}
# Weights of the kinds of pieces, in the order of `piece`; 2 stands for the first two rounds.
PIECES_IN_ROUND = {2: [60, 5, 1, 7, 1, 4, 5, 3, 6, 7, 1], 3: [56, 5, 1, 7, 1, 7, 13, 6, 6, 10, 1], 4: [62, 6, 1, 7, 1, 6, 8, 7, 6, 7, 1]}
VERBS = ["get", "find", "make", "check", "run", "open", "read", "list", "create", "delete", "update", "count", "compute", "start", "stop", "order",
         "book", "play", "print", "move", "save", "load", "close", "rename", "copy"]
NOUNS = ["file", "note", "task", "page", "image", "song", "ticket", "room", "event", "order", "list", "card", "user", "report", "letter", "map",
         "number", "label", "door", "record", "flight", "hotel", "recipe", "book", "magic", "function", "score", "color", "device", "invoice"]
MADE_UP_NAMES = ["input", "value", "id", "name", "key", "text", "number", "item", "target", "title", "size", "amount", "label", "code", "x", "n", "arg",
                 "person", "place", "count", "file", "topic", "level", "kind"]
MADE_UP_VALUES = {"word": "string", "name": "string", "city": "string", "n": "integer", "a": "integer", "color": "string"}
MADE_UP_ASK = ["Use the {tool} tool with {x}.", "Call {tool} with {x}.", "Use {tool} with {x}.", "Call the tool {tool} with {x}.", "Run {tool} with {x}.",
               "Use the tool {tool} for {x}.", "Please call {tool} with {x}.", "What is the result of {tool} for {x}?", "What is {tool} of {x}?",
               "{tool} {x}", "Call the function {tool} with {x}.", "Can you run {tool} with {x}?", "What does {tool} say for {x}?"]
ALWAYS_SAID = {"hello", "yes", "no", "ready", "done", "test", "pong", "ping"}


def load(name):
    return yaml.safe_load((HERE / "data" / f"{name}.yaml").read_text())


def plain(text):
    """For comparing questions: lower case, letters and digits only."""
    return re.sub(r"[^a-z0-9]+", " ", text.lower()).strip()


class Entry:
    def __init__(self, topic, data):
        self.topic, self.id = topic, data["id"]
        self.questions = data["q"]
        self.about, self.howto = data.get("about", []), data.get("howto", [])
        self.answers = data["a"] if isinstance(data["a"], list) else [data["a"]]
        self.short, self.more = data.get("short"), data.get("more")


TOPICS = ["about", "usage", "smalltalk", "general", "instructions", "open_questions"]


class Builder:
    def __init__(self, seed, values="train", round=1):
        """`values` is "train" or "heldout". From the second round on, entries with more phrasings come more often; in the
        third, nearly half of the conversations have tools, some of them made up; in the fourth, a quarter."""
        self.rng, self.round, self.even = random.Random(seed), round, round > 1
        self.entries = {topic: [Entry(topic, data) for data in load(topic)] for topic in TOPICS}
        self.all = [entry for topic in TOPICS for entry in self.entries[topic]]
        self.short = [entry for entry in self.all if entry.short]
        self.more = [entry for entry in self.all if entry.more]
        self.frames, self.unknown, self.systems = load("frames"), load("unknown"), load("system_prompts")
        self.tools, self.json, self.memory = load("tools"), load("json"), load("multi_turn")
        slots = load("slots")
        self.names, self.cities, self.words = (slots[key][values] for key in ("names", "cities", "words"))
        self.fixed = {key: slots[key] for key in ("colors", "animals", "jobs", "foods")}
        self.invent = values == "train"
        self.heldout = {plain(item["q"]) for item in load("heldout_paraphrases")}

    # values

    def chance(self, probability):
        return self.rng.random() < probability

    def invented(self):
        """A word that is nobody's name, so that copying is learned and not a list of names."""
        pick = self.rng.choice
        return "".join(pick("bcdfghjklmnprstvwz") + pick("aeiou") + pick(["", "", "n", "r", "l", "s"]) for _ in range(self.rng.choice([2, 2, 3])))

    def name(self):
        return self.invented().capitalize() if self.invent and self.chance(0.35) else self.rng.choice(self.names)

    def city(self):
        return self.invented().capitalize() if self.invent and self.chance(0.35) else self.rng.choice(self.cities)

    def word(self):
        return self.invented() if self.invent and self.chance(0.3) else self.rng.choice(self.words)

    def number(self):
        digits = self.rng.choice([1, 2, 2, 2, 2, 3, 4])
        return self.rng.randint(10 ** (digits - 1), 10**digits - 1)

    def values(self):
        rng = self.rng
        names, cities = [self.name(), self.name()], [self.city(), self.city()]
        a, b = self.number(), self.number()
        return {"name": names[0], "city": cities[0], "city2": cities[1], "word": self.word(), "n": self.rng.randint(2, 99), "a": a, "b": b,
                "color": rng.choice(self.fixed["colors"]), "animal": rng.choice(self.fixed["animals"]), "job": rng.choice(self.fixed["jobs"]),
                "food": rng.choice(self.fixed["foods"]), "sky": rng.choice(["sunny", "cloudy", "rainy", "windy", "snowy", "foggy", "clear"]),
                "h": f"{rng.randint(0, 23):02}", "m": f"{rng.randint(0, 59):02}", "room": rng.choice(["kitchen", "garden", "hall", "office", "bathroom", "garage", "bedroom", "cellar"]),
                "from": rng.choice(["EUR", "USD", "GBP", "JPY", "CHF"]), "to": rng.choice(["EUR", "USD", "GBP", "JPY", "CHF"]), "x": ""}

    # phrasing

    def vary(self, text, values=None, strength=1.0):
        """`text` as a person might type it. {slots} are filled last, so that values stay as they are."""
        rng = self.rng
        held = []
        if values is not None:
            def hold(match):
                held.append(str(values[match[1]]))
                return chr(0xE000 + len(held) - 1)
            text = re.sub(r"\{(\w+)\}", hold, text)
        for _ in range(2):
            if self.chance(0.25 * strength):
                text = self.swap(text)
        if self.chance(0.12 * strength):
            text = text.replace("What is ", rng.choice(["What's ", "Whats ", "what's ", "what is "]), 1)
        if self.chance(0.08 * strength):
            drop = [at for at, word in enumerate(text.split()) if word.lower() in self.frames["drop"] and at > 0]
            if drop:
                words = text.split()
                del words[rng.choice(drop)]
                text = " ".join(words)
        if self.chance(0.10 * strength):
            text = self.mistype(text)
        if self.chance(0.13 * strength):
            before = rng.choice(self.frames["before"])
            if before[-2:] not in (": ", "! ", ". ") and not re.match(r"I\b|[A-Z]{2}|GET|POST", text):
                text = text[:1].lower() + text[1:]
            text = before + text
        if self.chance(0.08 * strength):
            text = text + rng.choice(self.frames["after"])
        roll = rng.random()
        if roll < 0.22 * strength:
            text = text.lower()
        elif roll < 0.30 * strength:
            text = text[:1].lower() + text[1:]
        elif roll < 0.34 * strength:
            text = text.upper()
        roll = rng.random()
        if roll < 0.22 * strength:
            text = text.rstrip(".?!")
        elif roll < 0.27 * strength and text[-1:] in ".?!":
            text = text[:-1] + rng.choice(["?", ".", "!", "??", "...", "?!"])
        elif roll < 0.32 * strength and text[-1:] not in ".?!":
            text += rng.choice(".?!")
        for at, value in enumerate(held):
            text = text.replace(chr(0xE000 + at), value)
        return text

    def swap(self, text):
        """Other words for one of the words."""
        known = [group for group in self.frames["swap"] if re.search(rf"\b{group[0]}\b", text)]
        if not known:
            return text
        group = self.rng.choice(known)
        return re.sub(rf"\b{group[0]}\b", self.rng.choice(group[1:]), text, count=1)

    def mistype(self, text):
        rng, words = self.rng, text.split(" ")
        for _ in range(rng.choice([1, 1, 2])):
            places = [at for at, word in enumerate(words) if len(word) > 3 and word.isascii() and word.isalpha()]
            if not places:
                break
            at = rng.choice(places)
            word, spot = words[at], rng.randrange(1, len(words[at]) - 1)
            kind = rng.randrange(4)
            if kind == 0:
                word = word[:spot] + word[spot + 1] + word[spot] + word[spot + 2 :]
            elif kind == 1:
                word = word[:spot] + word[spot + 1 :]
            elif kind == 2:
                word = word[:spot] + word[spot] + word[spot:]
            else:
                word = word[:spot] + rng.choice(string.ascii_lowercase) + word[spot + 1 :]
            words[at] = word
        return " ".join(words)

    def phrase(self, entry):
        """One of an entry's questions, before it is varied."""
        kinds = [("q", 3 if self.even else 2)] + ([("about", 2)] if entry.about else []) + ([("howto", 2)] if entry.howto else [])
        kind = self.rng.choices([k for k, _ in kinds], [w for _, w in kinds])[0]
        if kind == "q":
            return self.rng.choice(entry.questions)
        return self.rng.choice(self.frames[kind]).replace("{}", self.rng.choice(getattr(entry, kind)))

    def ask(self, entry, frames=None, strength=1.0):
        while True:
            text = self.phrase(entry)
            if frames:
                frame = self.rng.choice(frames)
                if not frame.startswith("{}") and self.chance(0.5):
                    text = text[:1].lower() + text[1:]
                text = frame.replace("{}", text)
            text = self.vary(text, strength=strength)
            if plain(text) not in self.heldout:
                return text

    # pieces of a conversation: lists of (user, assistant)

    def fact(self):
        if self.even:
            topic = self.rng.choices(TOPICS, [26, 32, 22, 9, 3, 12])[0]
            entry = self.rng.choices(self.entries[topic], [len(e.questions) + 4 * bool(e.about) + 4 * bool(e.howto) for e in self.entries[topic]])[0]
        else:
            topic = self.rng.choices(TOPICS, [30, 36, 15, 11, 3, 9])[0]
            entry = self.rng.choice(self.entries[topic])
        light = topic in ("smalltalk", "instructions")
        return [(self.ask(entry, strength=0.7 if light else 1.0), self.rng.choice(entry.answers))]

    def one_word(self):
        entry = self.rng.choice(self.short)
        if self.chance(0.25):
            return [(self.ask(entry), self.rng.choice(entry.answers)), (self.vary(self.rng.choice(self.frames["short_follow"])), entry.short)]
        return [(self.ask(entry, self.frames["short"], 0.6), entry.short)]

    def tell_more(self):
        entry = self.rng.choice(self.more)
        return [(self.ask(entry), entry.answers[0]), (self.vary(self.rng.choice(self.frames["more"])), entry.more)]

    def not_known(self):
        if self.chance(0.15):
            text, values = self.rng.choice(["Who is {name}?", "How old is {name}?", "Where is {city}?", "What do you know about {name}?", "How far is {city}?",
                                            "How many people live in {city}?", "Where does {name} live?"]), self.values()
        else:
            text = self.rng.choice(self.unknown["q"]) if self.chance(0.35) else self.rng.choice(self.unknown["templates"]).replace("{}", self.rng.choice(self.unknown["topics"]))
            values = None
        text = self.vary(text, values)
        return [(text, self.unknown["answer"])] if plain(text) not in self.heldout else self.not_known()

    def no_tool(self):
        at = self.rng.randrange(2)
        entry = next(e for e in self.entries["smalltalk"] if e.id == ["weather-none", "time-none"][at])
        return [(self.vary(self.rng.choice(self.tools[at]["ask"][:10]), self.values()), entry.answers[0])]

    def count(self):
        rng = self.rng
        top = rng.choice([3, 4, 5, 5, 6, 7, 8, 9, 10, 10, 10, 11, 12, 13, 14, 15, 16, 18, 20, 20, 25, 30, 40, 50, 100])
        low = rng.choice([1, 1, 1, 1, rng.randint(0, min(top - 2, 20))])
        if self.chance(0.15):
            top, text = min(top, 20), rng.choice(COUNT_DOWN)
            numbers = list(range(top, 0, -1))
        else:
            numbers = list(range(low, top + 1))
            text = rng.choice(COUNT_UP) if low != 1 or self.chance(0.6) else rng.choice(COUNT_TO)
        if top <= 20 and self.chance(0.35):
            answer = ", ".join(ONES[number] for number in numbers).capitalize() + "."
            return [(self.vary(text, {"a": ONES[numbers[0]], "b": ONES[top]}, 0.6), answer)]
        spoken = {25: "twenty-five", 30: "thirty", 40: "forty", 50: "fifty", 100: "one hundred"}.get(top) if self.chance(0.3) else None
        return [(self.vary(text, {"a": low, "b": spoken or top}, 0.6), ", ".join(map(str, numbers)) + ".")]

    def repeat(self):
        words = [self.word() for _ in range(self.rng.choice([1, 1, 1, 2, 2, 3, 4]))]
        said = " ".join(words)
        if said in ALWAYS_SAID:
            return self.repeat()
        if self.chance(0.2):
            said = said.capitalize()
        if self.chance(0.1):
            said = str(self.number())
        return [(self.vary(self.rng.choice(REPEAT), {"x": said}, 0.5), said)]

    def sum(self):
        if self.chance(0.75):
            a, b = self.rng.randint(0, 10), self.rng.randint(0, 10)
            return [(self.vary(self.rng.choice(SUM), {"a": a, "b": b}, 0.6), f"{a} plus {b} is {a + b}.")]
        a, b = self.rng.randint(11, 9999), self.number()
        return [(self.vary(self.rng.choice(SUM), {"a": a, "b": b}, 0.6), SUM_TOO_LARGE)]

    def json_object(self):
        rng = self.rng
        if self.chance(0.15):
            entry = rng.choice(self.short)
            return [(self.ask(entry, self.frames["answer_json"], 0.6), json.dumps({"answer": entry.short.rstrip(".")}))]
        weights = [5, 3, 3, 2, 2, 2, 2, 1, 1, 1, 1]
        kind, values = rng.choices(self.json, weights)[0], self.values()
        return [(self.vary(rng.choice(kind["ask"]), values, 0.5), kind["a"].format(**values))]

    def remember(self):
        """A fact, perhaps other things, then the question for it. Sometimes two facts, sometimes none."""
        rng, turns = self.rng, []
        kinds = rng.sample(self.memory, 2 if self.chance(0.3) else 1)
        told = []
        for kind in kinds:
            value = {"names": self.name, "cities": self.city, "words": self.word, "numbers": lambda: str(self.number())}.get(kind["values"])
            value = value() if value else rng.choice(self.fixed[kind["values"]])
            told.append(value)
            turns.append((self.vary(rng.choice(kind["tell"]).replace("{}", "{v}"), {"v": value}, 0.6), kind["reply"].format(value)))
        for _ in range(rng.choice([0, 0, 0, 1, 1, 2, 3])):
            turns += rng.choice([self.fact, self.fact, self.not_known, self.sum])()
        at = rng.randrange(len(kinds))
        kind, answer = kinds[at], kinds[at]["answer"].format(told[at])
        if self.chance(0.15):
            kind = rng.choice(self.memory)
            if kind not in kinds:
                answer = kind["missing"]
            else:
                kind = kinds[at]
        turns.append((self.vary(rng.choice(kind["ask"]), strength=0.7), answer))
        return turns

    def again(self):
        turns = self.rng.choice([self.fact, self.repeat, self.sum])()
        return turns + [(self.vary(self.rng.choice(AGAIN)), turns[-1][1])] if len(turns[-1][1]) < 200 else turns

    def piece(self):
        kinds = [self.fact, self.one_word, self.tell_more, self.not_known, self.no_tool, self.count, self.repeat, self.sum, self.json_object, self.remember, self.again]
        return self.rng.choices(kinds, PIECES_IN_ROUND[max(self.round, 2)])[0]()

    # whole conversations

    def system(self):
        return self.rng.choice(self.systems)

    def copying(self):
        """Long texts to repeat: the quickest way to learn to copy. For the beginning of the training."""
        messages = []
        for _ in range(self.rng.choice([1, 2, 3])):
            said = " ".join(self.rng.choice([self.invented, self.word, self.name, lambda: str(self.number())])() for _ in range(self.rng.randint(2, 12)))
            messages += [{"role": "user", "content": self.rng.choice(REPEAT).replace("{x}", said)}, {"role": "assistant", "content": said}]
        return messages, None

    def conversation(self):
        """(messages, tools or None)"""
        rng, messages = self.rng, []
        if self.chance(TOOLS_IN_ROUND.get(self.round, 0.13)):
            return self.tool_conversation()
        roll = rng.random()
        if roll < 0.03:
            messages.append({"role": "system", "content": rng.choice(self.frames["short_system"])})
            pieces = [[(self.ask(e), e.short)] for e in rng.sample(self.short, rng.choice([1, 1, 2, 3]))]
        elif roll < 0.045:
            messages.append({"role": "system", "content": rng.choice(self.frames["json_system"])})
            pieces = [[(self.ask(e), json.dumps({"answer": e.short.rstrip(".")}))] for e in rng.sample(self.short, rng.choice([1, 1, 2, 3]))]
        else:
            if roll < 0.4:
                messages.append({"role": "system", "content": self.system()})
            pieces = [self.piece() for _ in range(rng.choice([1, 1, 1, 2, 3, 4, 6]))]
        for piece in pieces:
            for user, assistant in piece:
                messages += [{"role": "user", "content": user}, {"role": "assistant", "content": assistant}]
        return messages, None

    # tools

    def tool(self, kind):
        """A definition of one tool, and how its values are named in it."""
        rng = self.rng
        named = {key: rng.choice(spec["names"]) for key, spec in kind["parameters"].items()}
        if len(set(named.values())) < len(named):
            named = {key: spec["names"][0] for key, spec in kind["parameters"].items()}
        properties = {}
        for key, spec in kind["parameters"].items():
            properties[named[key]] = {"type": spec["type"]}
            if self.chance(0.25):
                properties[named[key]]["description"] = rng.choice(["The " + key, "The value", named[key].capitalize(), "Which " + key])
        if self.chance(0.25):
            properties |= kind.get("optional", {})
        parameters = {"type": "object", "properties": properties}
        if self.chance(0.8):
            parameters["required"] = list(named.values())
        if self.chance(0.15):
            parameters["additionalProperties"] = False
        function = {"name": rng.choice(kind["names"])}
        if self.chance(0.85):
            function["description"] = rng.choice(kind["about"])
        function["parameters"] = parameters
        definition = {"type": "function", "function": function}
        if self.chance(0.1):
            definition = {"function": function, "type": "function"}
        return definition, named

    def made_up(self):
        """A tool that exists nowhere, so that calls are learned from definitions and not from a list of tools."""
        rng = self.rng
        verb, noun = rng.choice(VERBS), rng.choice(NOUNS) if self.chance(0.7) else self.invented()
        name = rng.choice([f"{verb}_{noun}", f"{verb}_{noun}", f"{verb}{noun.capitalize()}", f"{noun}_{verb}", noun, f"{noun}_tool"])
        keys = rng.sample(list(MADE_UP_VALUES), rng.choice([1, 1, 1, 2]))
        named = [rng.choice(MADE_UP_NAMES) if self.chance(0.7) else self.invented() for _ in keys]
        if named[0] == named[-1]:
            named = [named[0], named[0] + "_2"][: len(keys)]
        with_values = " and ".join(f"{{{key}}}" for key in keys)
        with_names = " and ".join(f"{{p{at}}} {{{key}}}" for at, key in enumerate(keys))
        said = [with_names] if len(keys) > 1 else [with_values, with_names]
        ask = [form.replace("{x}", rng.choice(said)) for form in MADE_UP_ASK]
        if len(keys) == 1:
            ask += [f"{verb.capitalize()} the {noun} {with_values}.", f"Please {verb} the {noun} {with_values}.", f"Can you {verb} the {noun} {with_values}?"] * 2
        return {
            "names": [name],
            "about": [f"{verb.capitalize()} a {noun}", f"{verb.capitalize()} the {noun}", f"To {verb} a {noun}."],
            "parameters": {key: {"type": MADE_UP_VALUES[key], "names": [label]} for key, label in zip(keys, named)},
            "values": {"tool": name} | {f"p{at}": label for at, label in enumerate(named)},
            "ask": ask,
            "results": ['{{"result": {r}}}', "{r}", '{{"value": {r}}}'], "says": "The result of {tool} is {r}.",
            "results2": ["ok", "done", '{{"status": "ok"}}', '{{"result": "{word}"}}'],
            "says2": ["{tool} is done.", "{tool} is done.", "{tool} is done.", "The result of {tool} is {word}."],
        }

    def call(self, kind, definition, named, values):
        arguments = {}
        for key, spec in kind["parameters"].items():
            arguments[named[key]] = values[key]
        return {"id": f"call_{self.rng.randrange(10**6)}", "type": "function",
                "function": {"name": definition["function"]["name"], "arguments": json.dumps(arguments, ensure_ascii=False)}}

    def tool_values(self, kind):
        values = self.values()
        a, b, n = values["a"], values["b"], values["n"]
        values |= kind.get("values", {})
        values["r"] = a + b if "add" in kind["names"] else a * b if "multiply" in kind["names"] else n + self.rng.randint(1, 50)
        return values

    def tool_conversation(self):
        rng = self.rng
        kinds = rng.sample(self.tools, rng.choice([1, 1, 2, 2, 3]))
        if self.round > 2 and self.chance(0.4):
            kinds = rng.sample(kinds, len(kinds) - 1) + [self.made_up(), self.made_up()][: rng.choice([1, 1, 2])]
            rng.shuffle(kinds)
        made = [self.tool(kind) for kind in kinds]
        messages = [{"role": "system", "content": self.system()}] if self.chance(0.4) else []
        for _ in range(rng.choice([1, 1, 2])):
            if self.chance(0.22):
                for user, assistant in self.fact() if self.chance(0.7) else self.not_known():
                    messages += [{"role": "user", "content": user}, {"role": "assistant", "content": assistant}]
                continue
            at = rng.randrange(len(kinds))
            messages += self.tool_turn(kinds[at], *made[at])
        return messages, [definition for definition, _ in made]

    def tool_turn(self, kind, definition, named):
        rng, values = self.rng, self.tool_values(kind)
        sets = [values]
        ask = self.vary(rng.choice(kind["ask"]), values, 0.5)
        if list(kind["parameters"]) == ["city"] and self.chance(0.12):
            sets.append({**self.tool_values(kind), "city": values["city2"]})
            ask = self.vary(rng.choice(["What is the {t} in {city} and {city2}?", "Tell me the {t} in {city} and in {city2}.", "{t} in {city} and {city2}", "Get the {t} for {city} and {city2}."]).replace(
                "{t}", "weather" if "get_weather" in kind["names"] else "time"), values, 0.5)
        messages = [{"role": "user", "content": ask},
                    {"role": "assistant", "content": "", "tool_calls": [self.call(kind, definition, named, v) for v in sets]}]
        if self.chance(0.3):
            return messages
        said = []
        for values in sets:
            form = rng.randrange(len(kind["results"]) + len(kind.get("results2", [])))
            if form < len(kind["results"]):
                result, words = kind["results"][form], kind["says"]
            else:
                result, words = kind["results2"][form - len(kind["results"])], kind["says2"][form - len(kind["results"])]
            messages.append({"role": "tool", "content": result.format(**values)})
            said.append(words.format(**values))
        messages.append({"role": "assistant", "content": " ".join(said)})
        return messages

    # other views of the data

    def corpus(self):
        """Texts to train the tokenizer on: everything that is written down, hardly any values to copy."""
        texts = ["user\nassistant\nsystem\n"] * 200
        for entry in self.all:
            questions = entry.questions + [f"What is {x}?" for x in entry.about] + [f"How do I {x}?" for x in entry.howto]
            texts += questions * 2 + [q.lower() for q in questions]
            texts += (entry.answers + [x for x in (entry.short, entry.more) if x]) * 4
        for key, frames in self.frames.items():
            texts += [frame.replace("{}", "") for frame in frames if isinstance(frame, str)] * 2
        texts += self.systems * 2 + self.unknown["q"] + [self.unknown["answer"]] * 8
        texts += [template.replace("{}", topic) for topic in self.unknown["topics"] for template in self.unknown["templates"][:2]]
        texts += COUNT_UP + COUNT_TO + COUNT_DOWN + REPEAT + SUM + AGAIN + [SUM_TOO_LARGE] * 3 + [", ".join(ONES) + "."] * 4
        for kind in self.memory:
            texts += kind["tell"] + kind["ask"] * 2 + [kind["reply"], kind["answer"], kind["missing"]] * 4
        for kind in self.json:
            texts += kind["ask"] + [kind["a"].replace("{{", "{").replace("}}", "}")] * 4
        for kind in self.tools:
            texts += kind["ask"] * 2 + [kind["says"]] * 4
            for _ in range(6):
                definition, _ = self.tool(kind)
                texts.append(json.dumps(definition) + "\n# Tools\n\nTo call a tool, answer with\n{\"name\": ..., \"arguments\": {...}}\n")
                texts.append(json.dumps(definition, separators=(",", ":")))
        return texts


def check(builder):
    """Problems in the data: one question with two answers, held-out questions in training, unknown ids."""
    seen, problems = {}, []
    for entry in builder.all:
        phrased = entry.questions + [f.replace("{}", x) for f in builder.frames["about"] for x in entry.about] + [f.replace("{}", x) for f in builder.frames["howto"] for x in entry.howto]
        for question in phrased:
            key = plain(question)
            if seen.setdefault(key, entry.id) != entry.id:
                problems.append(f"{question!r} is in {seen[key]} and in {entry.id}")
            if key in builder.heldout:
                problems.append(f"{question!r} of {entry.id} is held out")
    ids = {entry.id for entry in builder.all} | {"unknown"}
    problems += [f"no entry {item['id']}" for item in load("heldout_paraphrases") if item["id"] not in ids]
    if len(ids) != len(builder.all) + 1:
        problems.append("an id is used twice")
    return problems


if __name__ == "__main__":
    builder = Builder(0)
    for problem in check(builder):
        print(problem)
    phrased = sum(len(e.questions) + len(e.about) * len(builder.frames["about"]) + len(e.howto) * len(builder.frames["howto"]) for e in builder.all)
    print(f"{len(builder.all)} entries, {phrased} phrasings before variation, {len(builder.heldout)} held out")
    from chat import render
    for _ in range(6):
        print(render(*builder.conversation()))
