"""The quick-starts of `examples/quickstarts` for frameworks, each as it stands, against the real engine."""

import os
import pathlib
import subprocess
import sys

import pytest

FOLDER = pathlib.Path(os.environ["QUICKSTARTS"])
NAMES = ["openai_chat", "langchain_chat", "llama_index_chat", "pydantic_ai_chat", "instructor_chat"]


@pytest.mark.parametrize("name", NAMES)
def test_a_quick_start_says_something(name):
    address = {"OPENAI_BASE_URL": os.environ["REAL_URL"] + "/v1", "OPENAI_API_KEY": "none"}
    command = [sys.executable, "-B", FOLDER / f"{name}.py"]
    done = subprocess.run(command, env={**os.environ, **address}, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and done.stdout.strip(), done.stderr
