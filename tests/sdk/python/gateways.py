"""What the tests share: clients of the gateways that the surrounding test has started, and how to look behind the API."""

import json
import os
import time
import urllib.request

import openai

QUESTION = [{"role": "user", "content": "What is Sluicegate?"}]
PATIENCE_S = 20


def client(gateway, **options):
    """A client of the gateway called `gateway`; the key is whatever a program happens to have."""
    options.setdefault("max_retries", 0)
    return openai.OpenAI(base_url=url(gateway, "/v1"), api_key="any", **options)


def async_client(gateway, **options):
    options.setdefault("max_retries", 0)
    return openai.AsyncOpenAI(base_url=url(gateway, "/v1"), api_key="any", **options)


def url(gateway, path):
    return os.environ[f"{gateway.upper()}_URL"] + path


def task(gateway, task_id):
    """A task as the native API shows it."""
    with urllib.request.urlopen(url(gateway, f"/v2/tasks/{task_id}"), timeout=PATIENCE_S) as answer:
        return json.load(answer)


def slots_active(gateway):
    with urllib.request.urlopen(url(gateway, "/metrics"), timeout=PATIENCE_S) as answer:
        lines = answer.read().decode().splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith("slots_active{"))


def eventually(what, is_so):
    """Looks until it is so, or fails after a while."""
    deadline = time.monotonic() + PATIENCE_S
    while not is_so():
        assert time.monotonic() < deadline, f"waited too long until {what}"
        time.sleep(0.01)


def text_of(chunks):
    """The text of the first choice of a stream."""
    deltas = (choice.delta.content or "" for chunk in chunks for choice in chunk.choices if choice.index == 0)
    return "".join(deltas)
