"""The request fields that OpenAI and Anthropic publish, as their own clients type them, recorded for the Rust tests.

`python published.py` writes the records anew; `test_published.py` fails where they and the pinned clients disagree.

A record holds each object of a request by its name, with its fields: whether a field is required, and which values it takes.
A value is "string", "integer", "number", "boolean", "null" or "any"; the name of an object; or `values` (an enumeration),
`list` or `map`, with what these hold.
"""

import inspect
import json
import os
import pathlib
import typing
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version

import pydantic
import typing_extensions
from anthropic.types import message_count_tokens_params, message_create_params
from openai.types import completion_create_params, embedding_create_params
from openai.types.chat import completion_create_params as chat_create_params
from openai.types.responses import response_create_params

FOLDER = pathlib.Path(__file__).parent.parent / "published"

# By client and endpoint. The clients split the parameters of some by whether the answer is streamed.
REQUESTS = {
    "openai": {
        "chat/completions": (chat_create_params.CompletionCreateParamsBase, chat_create_params.CompletionCreateParamsStreaming),
        "completions": (completion_create_params.CompletionCreateParamsBase, completion_create_params.CompletionCreateParamsStreaming),
        "embeddings": (embedding_create_params.EmbeddingCreateParams,),
        "responses": (response_create_params.ResponseCreateParamsBase, response_create_params.ResponseCreateParamsStreaming),
    },
    "anthropic": {
        "messages": (message_create_params.MessageCreateParamsBase, message_create_params.MessageCreateParamsStreaming),
        "messages/count_tokens": (message_count_tokens_params.MessageCountTokensParams,),
    },
}

PLAIN = {str: "string", int: "integer", float: "number", bool: "boolean", type(None): "null", object: "any", typing.Any: "any"}

# What `typing` tells of a list or a map; a client's own sequence of strings is a list of them.
LISTS = (list, Iterable, Sequence)
MAPS = (dict, Mapping)
FILES = (typing.IO, os.PathLike)


class Record:
    def __init__(self):
        self.names = {}
        self.objects = {}

    def of(self, *types):
        """The fields of the objects together; only the last of them knows whether its own are required."""
        fields = {}
        for kind in types:
            hints = typing_extensions.get_type_hints(kind, include_extras=True)
            for name, hint in hints.items():
                required, hint = self.unwrapped(hint)
                if name == "stream" and len(types) > 1:
                    required, hint = False, bool
                fields[name] = {"required": required, "takes": self.takes(hint)}
        return dict(sorted(fields.items()))

    @staticmethod
    def unwrapped(hint):
        required = False
        while True:
            origin = typing_extensions.get_origin(hint)
            if origin is typing_extensions.Annotated:
                metadata = getattr(hint, "__metadata__", ())
                alias = next((m.alias for m in metadata if getattr(m, "alias", None)), None)
                assert alias is None, f"{hint} has the alias {alias}"
                hint = typing_extensions.get_args(hint)[0]
            elif origin is typing_extensions.Required:
                required, hint = True, typing_extensions.get_args(hint)[0]
            elif origin is typing_extensions.NotRequired:
                hint = typing_extensions.get_args(hint)[0]
            else:
                return required, hint

    def takes(self, hint):
        """What the type takes, each alternative once."""
        _, hint = self.unwrapped(hint)
        origin, args = typing_extensions.get_origin(hint), typing_extensions.get_args(hint)
        if str(origin) in ("typing.Union", "<class 'types.UnionType'>"):
            alternatives = [one for arg in args for one in self.takes(arg)]
        elif origin is typing_extensions.Literal:
            alternatives = [{"values": list(args)}]
        elif origin in LISTS or getattr(origin, "__name__", "") == "SequenceNotStr":
            alternatives = [{"list": self.takes(args[0])}]
        elif origin in MAPS:
            alternatives = [{"map": self.takes(args[1])}]
        elif hint in FILES or origin in FILES:
            alternatives = []  # a string in the request
        elif typing_extensions.is_typeddict(hint):
            alternatives = [self.object(hint)]
        elif hint in PLAIN:
            alternatives = [PLAIN[hint]]
        elif inspect.isclass(hint) and issubclass(hint, pydantic.BaseModel):
            alternatives = []  # of an answer; an object beside it says the same of a request
        else:
            raise TypeError(f"{hint} is nothing that is known")
        if "string" in alternatives:
            # Words beside it are examples.
            alternatives = [one for one in alternatives if not (isinstance(one, dict) and "values" in one)]
        return [one for index, one in enumerate(alternatives) if one not in alternatives[:index]]

    def object(self, kind):
        """The name of the object; two that are called alike are told apart by their number."""
        if kind not in self.names:
            alike = sum(known.__name__ == kind.__name__ for known in self.names)
            name = kind.__name__ + (str(alike + 1) if alike else "")
            self.names[kind] = name
            self.objects[name] = None
            self.objects[name] = self.of(kind)
        return self.names[kind]


def record(client):
    """What is published about the requests to one service."""
    found = Record()
    requests = {name: found.of(*types) for name, types in REQUESTS[client].items()}
    source = f"the request parameters of {client} {version(client)} (PyPI)"
    return {"source": source, "requests": requests, "objects": dict(sorted(found.objects.items()))}


def text(value):
    """JSON with a line for each field."""

    def objects(objects):
        fields = lambda fields: ",\n".join(f"    {json.dumps(name)}: {json.dumps(field)}" for name, field in fields.items())
        return ",\n".join(f"  {json.dumps(name)}: {{\n{fields(object)}\n  }}" for name, object in objects.items())

    parts = [f'"{key}": {{\n{objects(value[key])}\n }}' for key in ("requests", "objects")]
    return "{\n " + ",\n ".join([f'"source": {json.dumps(value["source"])}', *parts]) + "\n}\n"


def path(client):
    return FOLDER / f"{client}.json"


if __name__ == "__main__":
    for client in REQUESTS:
        path(client).write_text(text(record(client)))
