"""Has frameworks send what programs use them for, to a server that notes it: see `tests/it/outer/goldens.rs`. The address
of each client says whose request it is, and what for.
"""

import asyncio
import base64
import os

import instructor
import openai
from instructor.core import InstructorRetryException
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from llama_index.core.llms import ChatMessage, ImageBlock, TextBlock
from llama_index.core.tools import FunctionTool
from llama_index.llms.openai_like import OpenAILike
from pydantic import BaseModel
from pydantic_ai import Agent, BinaryContent, ModelHTTPError, NativeOutput, PromptedOutput
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.openai import OpenAIProvider

QUESTION = "What is the weather in Berlin?"
# The smallest there is: one pixel.
PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
DATA_URL = "data:image/png;base64," + base64.b64encode(PNG).decode()


class Forecast(BaseModel):
    """What the weather will be."""

    city: str
    days: int


def address(client, case):
    return os.environ["RECORDER_URL"] + f"/{client}/{case}/v1"


def served_or_not(refused, ask):
    """Some of what is sent may be refused; then that is what it is."""
    try:
        ask()
    except refused:
        pass


def langchain():
    def model(case, **options):
        options = {"model": "builtin", "api_key": "any", "max_retries": 0, **options}
        return ChatOpenAI(base_url=address("langchain", case), **options)

    @tool
    def get_weather(city: str) -> str:
        """Get the weather."""
        return f"21 degrees in {city}"

    model("chat", temperature=0.5, max_tokens=100, seed=7, stop=["\n\n"]).invoke(QUESTION)
    list(model("chat_stream", stream_usage=True).stream([("system", "Be brief."), ("human", QUESTION)]))

    conversation = [HumanMessage(QUESTION)]
    able = model("chat_tools").bind_tools([get_weather], tool_choice="any")
    call = able.invoke(conversation)
    conversation += [call, ToolMessage("21", tool_call_id=call.tool_calls[0]["id"])]
    model("chat_tools").bind_tools([get_weather]).invoke(conversation)

    for method in ("json_schema", "function_calling"):
        model(f"structured_{method}").with_structured_output(Forecast, method=method).invoke(QUESTION)
    image = {"type": "image", "base64": base64.b64encode(PNG).decode(), "mime_type": "image/png"}
    message = HumanMessage([{"type": "text", "text": "What is this?"}, image])
    served_or_not(openai.BadRequestError, lambda: model("chat_image").invoke([message]))

    model("responses", use_responses_api=True).invoke(QUESTION)
    able = model("responses_tools", use_responses_api=True).bind_tools([get_weather], strict=True)
    call = able.invoke(QUESTION)
    able.invoke([HumanMessage(QUESTION), call, ToolMessage("21", tool_call_id=call.tool_calls[0]["id"])])

    # Texts as they are: tokens would be those of OpenAI's models.
    embeddings = OpenAIEmbeddings(
        model="builtin-embedding",
        base_url=address("langchain", "embeddings"),
        api_key="any",
        check_embedding_ctx_length=False,
    )
    embeddings.embed_documents(["What is a pool?", "And a queue?"])


def llama_index():
    def model(case, **options):
        return OpenAILike(
            model="builtin",
            api_base=address("llama-index", case),
            api_key="any",
            is_chat_model=True,
            is_function_calling_model=True,
            max_retries=0,
            **options,
        )

    def get_weather(city: str) -> str:
        """Get the weather."""
        return f"21 degrees in {city}"

    question = [ChatMessage(role="system", content="Be brief."), ChatMessage(role="user", content=QUESTION)]
    model("chat", temperature=0.5, max_tokens=100).chat(question)
    list(model("chat_stream").stream_chat(question))
    completing = model("completions")
    completing.is_chat_model = False
    completing.complete("A pool is")

    able, weather = model("chat_tools"), FunctionTool.from_defaults(fn=get_weather)
    called = able.chat_with_tools([weather], chat_history=question)
    [call] = able.get_tool_calls_from_response(called)
    result = ChatMessage(role="tool", content="21", additional_kwargs={"tool_call_id": call.tool_id})
    able.chat_with_tools([weather], chat_history=[*question, called.message, result])

    model("structured").as_structured_llm(Forecast).chat(question)
    blocks = [TextBlock(text="What is this?"), ImageBlock(image=PNG, image_mimetype="image/png")]
    ask = lambda: model("chat_image").chat([ChatMessage(role="user", blocks=blocks)])
    served_or_not(openai.BadRequestError, ask)


async def pydantic_ai():
    def model(case, kind=OpenAIChatModel):
        plain = openai.AsyncOpenAI(base_url=address("pydantic-ai", case), api_key="any", max_retries=0)
        return kind("builtin", provider=OpenAIProvider(openai_client=plain))

    agent = Agent(model("chat"), instructions="Be brief.", model_settings={"temperature": 0.5, "max_tokens": 100})
    await agent.run(QUESTION)
    async with Agent(model("chat_stream"), system_prompt="Be brief.").run_stream(QUESTION) as streamed:
        await streamed.get_output()

    def get_weather(city: str) -> str:
        """Get the weather."""
        return f"21 degrees in {city}"

    await Agent(model("chat_tools"), tools=[get_weather]).run(QUESTION)
    await Agent(model("structured_tool"), output_type=Forecast).run(QUESTION)
    await Agent(model("structured_native"), output_type=NativeOutput(Forecast)).run(QUESTION)
    try:
        await Agent(model("chat_image")).run(["What is this?", BinaryContent(PNG, media_type="image/png")])
    except ModelHTTPError as error:
        assert error.status_code == 400
    await Agent(model("responses", OpenAIResponsesModel)).run(QUESTION)
    await Agent(model("responses_tools", OpenAIResponsesModel), tools=[get_weather]).run(QUESTION)


def with_instructor():
    for mode in (instructor.Mode.TOOLS, instructor.Mode.TOOLS_STRICT, instructor.Mode.JSON_SCHEMA, instructor.Mode.JSON):
        plain = openai.OpenAI(base_url=address("instructor", mode.name.lower()), api_key="any", max_retries=0)
        asked = {"model": "builtin", "messages": [{"role": "user", "content": QUESTION}], "max_retries": 0}
        create = instructor.from_openai(plain, mode=mode).chat.completions.create
        # In one of the modes nothing holds the answer to the form.
        served_or_not(InstructorRetryException, lambda: create(response_model=Forecast, **asked))


langchain()
llama_index()
asyncio.run(pydantic_ai())
with_instructor()
