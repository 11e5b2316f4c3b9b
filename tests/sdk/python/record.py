"""Has OpenAI's and Anthropic's own clients send what programs use them for, to a server that notes it: see
`tests/it/outer/goldens.rs`. The address of each client says whose request it is, and what for.
"""

import base64
import os

import anthropic
import openai
from pydantic import BaseModel, ConfigDict

QUESTION = [{"role": "user", "content": "What is the weather in Berlin?"}]
PARAMETERS = {
    "type": "object",
    "properties": {"city": {"type": "string", "description": "Its name"}},
    "required": ["city"],
    "additionalProperties": False,
}
# The smallest there is: one pixel.
PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
DATA_URL = "data:image/png;base64," + base64.b64encode(PNG).decode()


class Forecast(BaseModel):
    """What the weather will be."""

    model_config = ConfigDict(extra="forbid")
    city: str
    days: int
    note: str | None = None


def openai_client(case):
    base_url = os.environ["RECORDER_URL"] + f"/openai-python/{case}/v1"
    return openai.OpenAI(base_url=base_url, api_key="any", max_retries=0)


def anthropic_client(case):
    base_url = os.environ["RECORDER_URL"] + f"/anthropic-python/{case}"
    return anthropic.Anthropic(base_url=base_url, api_key="any", max_retries=0)


def served_or_not(refused, ask):
    """Some of what is sent may be refused; then that is what it is."""
    try:
        ask()
    except refused:
        pass


def chat_completions():
    def create(case, **options):
        options = {"model": "builtin", "messages": QUESTION, **options}
        return openai_client(case).chat.completions.create(**options)

    create("chat")
    list(create("chat_stream", stream=True, stream_options={"include_usage": True}))
    create(
        "chat_options",
        messages=[
            {"role": "system", "content": "Be brief."},
            {"role": "developer", "content": [{"type": "text", "text": "Be kind."}]},
            {"role": "user", "content": [{"type": "text", "text": "Hello!"}], "name": "Ada"},
            {"role": "assistant", "content": "Hello, Ada."},
            {"role": "user", "content": "What is the weather in Berlin?"},
        ],
        max_completion_tokens=100,
        temperature=0.5,
        top_p=0.9,
        n=2,
        stop=["\n\n", "END"],
        seed=7,
        presence_penalty=0.1,
        frequency_penalty=-0.1,
        logit_bias={"50": -100},
        logprobs=True,
        top_logprobs=2,
        reasoning_effort="low",
        verbosity="low",
        service_tier="flex",
        prompt_cache_key="a",
        safety_identifier="b",
        user="c",
        metadata={"for": "a golden"},
        store=False,
        modalities=["text"],
        moderation={"model": "omni-moderation-latest"},
        prompt_cache_retention="24h",
        extra_body={"top_k": 20, "min_p": 0.05, "chat_template_kwargs": {"enable_thinking": False}},
    )
    create("chat_json", response_format={"type": "json_object"}, max_tokens=50)

    function = {"name": "get_weather", "description": "Get the weather", "parameters": PARAMETERS, "strict": True}
    tools = [{"type": "function", "function": function}]
    first = create("chat_tools", tools=tools, tool_choice="auto", parallel_tool_calls=False).choices[0].message
    result = {"role": "tool", "tool_call_id": first.tool_calls[0].id, "content": '{"temperature": 21}'}
    create("chat_tools", messages=[*QUESTION, first, result], tools=tools)
    create("chat_tool_named", tools=tools, tool_choice={"type": "function", "function": {"name": "get_weather"}})

    create("chat_functions", functions=[{"name": "get_weather", "parameters": PARAMETERS}], function_call="auto")

    helper = openai_client("chat_parse").chat.completions
    helper.parse(model="builtin", messages=QUESTION, response_format=Forecast)
    helper = openai_client("chat_parse_tools").chat.completions
    helper.parse(model="builtin", messages=QUESTION, tools=[openai.pydantic_function_tool(Forecast)])
    helper = openai_client("chat_stream_helper").chat.completions
    with helper.stream(model="builtin", messages=QUESTION, response_format=Forecast) as stream:
        stream.until_done()

    image = {"type": "image_url", "image_url": {"url": DATA_URL, "detail": "low"}}
    messages = [{"role": "user", "content": [{"type": "text", "text": "What is this?"}, image]}]
    served_or_not(openai.BadRequestError, lambda: create("chat_image", messages=messages))
    sound = {"type": "input_audio", "input_audio": {"data": "UklGRg==", "format": "wav"}}
    messages = [{"role": "user", "content": [{"type": "text", "text": "Who speaks?"}, sound]}]
    served_or_not(openai.BadRequestError, lambda: create("chat_audio", messages=messages))
    served_or_not(openai.BadRequestError, lambda: create("chat_web_search", web_search_options={}))


def responses():
    def create(case, **options):
        options = {"model": "builtin", "input": "What is the weather in Berlin?", **options}
        return openai_client(case).responses.create(**options)

    first = create("responses")
    create("responses_go_on", previous_response_id=first.id, input="And tomorrow?")
    list(create("responses_stream", stream=True))
    create(
        "responses_options",
        instructions="Be brief.",
        input=[
            {"role": "developer", "content": "Be kind."},
            {"role": "user", "content": [{"type": "input_text", "text": "Hello!"}]},
            {"role": "assistant", "content": "Hello."},
            {"type": "message", "role": "user", "content": "What is the weather in Berlin?"},
        ],
        max_output_tokens=100,
        temperature=0.5,
        top_p=0.9,
        top_logprobs=2,
        include=["message.output_text.logprobs", "reasoning.encrypted_content"],
        reasoning={"effort": "low", "summary": "auto"},
        text={"format": {"type": "json_object"}, "verbosity": "low"},
        service_tier="flex",
        prompt_cache_key="a",
        safety_identifier="b",
        truncation="disabled",
        metadata={"for": "a golden"},
        store=False,
        max_tool_calls=3,
        prompt_cache_retention="24h",
        parallel_tool_calls=True,
    )
    create("responses_background", background=True)

    tools = [{"type": "function", "name": "get_weather", "parameters": PARAMETERS, "strict": True}]
    conversation = [*QUESTION]
    answer = create("responses_tools", input=conversation, tools=tools, tool_choice="required")
    conversation += answer.output
    result = {"type": "function_call_output", "call_id": answer.output[0].call_id, "output": '{"temperature": 21}'}
    create("responses_tools", input=[*conversation, result], tools=tools)

    openai_client("responses_parse").responses.parse(
        model="builtin", input="What is the weather in Berlin?", text_format=Forecast
    )
    with openai_client("responses_stream_helper").responses.stream(
        model="builtin", input="What is the weather in Berlin?", tools=[openai.pydantic_function_tool(Forecast)]
    ) as stream:
        stream.until_done()

    image = {"type": "input_image", "image_url": DATA_URL, "detail": "auto"}
    messages = [{"role": "user", "content": [{"type": "input_text", "text": "What is this?"}, image]}]
    served_or_not(openai.BadRequestError, lambda: create("responses_image", input=messages))
    served_or_not(openai.BadRequestError, lambda: create("responses_web_search", tools=[{"type": "web_search"}]))


def completions_and_embeddings():
    openai_client("completions").completions.create(model="builtin", prompt="A pool is", max_tokens=16, echo=True)
    openai_client("completions_options").completions.create(
        model="builtin",
        prompt=["A pool is", "A queue is"],
        best_of=2,
        n=1,
        logprobs=2,
        seed=7,
        stop="\n",
        temperature=0.5,
        user="c",
    )
    embeddings = openai_client("embeddings").embeddings
    embeddings.create(model="builtin-embedding", input="What is a pool?")
    embeddings.create(model="builtin-embedding", input=["a", "b"], encoding_format="float", dimensions=2, user="c")
    embeddings.create(model="builtin-embedding", input=[[1, 2], [3]])


def messages():
    def options(**more):
        return {"model": "builtin", "max_tokens": 100, "messages": QUESTION, **more}

    def create(case, **more):
        return anthropic_client(case).messages.create(**options(**more))

    create("messages")
    list(create("messages_raw_stream", stream=True))
    with anthropic_client("messages_stream").messages.stream(**options()) as stream:
        stream.get_final_message()
    create(
        "messages_options",
        system=[{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}],
        messages=[
            {"role": "user", "content": [{"type": "text", "text": "Hello!"}]},
            {"role": "assistant", "content": "Hello."},
            *QUESTION,
            {"role": "assistant", "content": "It is"},
        ],
        # The client takes these no more; programs go on sending them.
        extra_body={"temperature": 0.5, "top_k": 20, "top_p": 0.9},
        stop_sequences=["\n\n"],
        metadata={"user_id": "c"},
        service_tier="auto",
        cache_control={"type": "ephemeral"},
    )

    tools = [{"name": "get_weather", "description": "Get the weather", "input_schema": PARAMETERS}]
    first = create("messages_tools", tools=tools, tool_choice={"type": "any", "disable_parallel_tool_use": True})
    call = first.content[-1]
    result = {"type": "tool_result", "tool_use_id": call.id, "content": [{"type": "text", "text": "21"}], "is_error": False}
    answers = [{"role": "assistant", "content": first.content}, {"role": "user", "content": [result]}]
    create("messages_tools", messages=[*QUESTION, *answers], tools=tools)

    thinking = {"type": "enabled", "budget_tokens": 1024}
    first = create("messages_thinking", max_tokens=2000, thinking=thinking)
    answers = [{"role": "assistant", "content": first.content}, {"role": "user", "content": "And tomorrow?"}]
    create("messages_thinking", max_tokens=2000, thinking=thinking, messages=[*QUESTION, *answers])
    create("messages_effort", thinking={"type": "adaptive"}, output_config={"effort": "medium"})

    anthropic_client("messages_parse").messages.parse(**options(), output_format=Forecast)
    anthropic_client("messages_beta").beta.messages.create(**options(), betas=["interleaved-thinking-2025-05-14"])

    @anthropic.beta_tool
    def get_weather(city: str) -> str:
        """Get the weather.

        Args:
            city: Its name
        """
        return f"21 degrees in {city}"

    runner = anthropic_client("messages_tool_runner").beta.messages.tool_runner(**options(), tools=[get_weather])
    runner.until_done()

    anthropic_client("count_tokens").messages.count_tokens(
        model="builtin", messages=QUESTION, system="Be brief.", tools=tools, thinking=thinking
    )

    source = {"type": "base64", "media_type": "image/png", "data": base64.b64encode(PNG).decode()}
    content = [{"type": "image", "source": source}, {"type": "text", "text": "What is this?"}]
    ask = lambda: create("messages_image", messages=[{"role": "user", "content": content}])
    served_or_not(anthropic.BadRequestError, ask)
    search = [{"type": "web_search_20250305", "name": "web_search"}]
    served_or_not(anthropic.BadRequestError, lambda: create("messages_web_search", tools=search))


chat_completions()
responses()
completions_and_embeddings()
messages()
