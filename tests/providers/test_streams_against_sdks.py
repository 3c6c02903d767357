"""The same streamed answers through the vendors' own clients and through ours."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from moa.providers.provider import Completion
from tests.providers.dialects import DIALECTS, AnthropicDialect, GeminiDialect, OpenAIDialect
from tests.providers.sdks import (
    ANTHROPIC_CALLS,
    GEMINI_CALLS,
    OPENAI_CALLS,
    anthropic_client,
    gemini_client,
    levelled,
    openai_client,
    our_stream,
)
from tests.providers.vendor_server import Scripted, VendorServer

# google-genai makes a class of its own from aiohttp's, which aiohttp discourages.
pytestmark = pytest.mark.filterwarnings("ignore:Inheritance class Aiohttp:DeprecationWarning")

HELLO: Any = {"messages": [{"role": "user", "content": "Hi"}]}


def the_call(completion: Completion) -> tuple[str, str, Any]:
    (call,) = orjson.loads(completion.tool_calls or "[]")
    function = call["function"]
    return call["id"], function["name"], orjson.loads(function["arguments"])


@pytest.mark.parametrize("name", OPENAI_CALLS)
async def test_openai_streams_the_same(vendor_server: VendorServer, name: str) -> None:
    vendor_server.script(Scripted(events=DIALECTS["openai"].stream("Par", "is")))
    call: Any = {**OPENAI_CALLS[name], "stream": True, "stream_options": {"include_usage": True}}
    async with openai_client(vendor_server) as client:
        stream = await client.chat.completions.create(model="gpt-6-mini", **call)
        chunks: list[Any] = [chunk async for chunk in stream]

    texts, whole = await our_stream(vendor_server, "openai", OPENAI_CALLS[name])

    theirs, mine = vendor_server.requests
    assert mine.body == theirs.body
    assert mine.path == theirs.path
    deltas = [choice.delta.content for chunk in chunks for choice in chunk.choices]
    assert texts == [text for text in deltas if text]
    assert whole.usage.input_tokens == chunks[-1].usage.prompt_tokens
    assert whole.usage.output_tokens == chunks[-1].usage.completion_tokens
    assert (whole.response_id, whole.served_model) == (chunks[0].id, chunks[0].model)


@pytest.mark.parametrize("name", ANTHROPIC_CALLS)
async def test_anthropic_streams_the_same(vendor_server: VendorServer, name: str) -> None:
    vendor_server.script(Scripted(events=DIALECTS["anthropic"].stream("Par", "is")))
    chat, call = ANTHROPIC_CALLS[name]
    arguments: Any = call
    async with (
        anthropic_client(vendor_server) as client,
        client.messages.stream(model="claude-opus-5-5", **arguments) as stream,
    ):
        said = [text async for text in stream.text_stream]
        final = await stream.get_final_message()

    texts, whole = await our_stream(vendor_server, "anthropic", chat)

    theirs, mine = vendor_server.requests
    assert mine.body == theirs.body
    assert mine.path == theirs.path
    assert texts == said
    assert whole.usage.output_tokens == final.usage.output_tokens
    assert whole.usage.cached_input_tokens == final.usage.cache_read_input_tokens
    assert (whole.response_id, whole.served_model) == (final.id, final.model)


@pytest.mark.parametrize("name", GEMINI_CALLS)
async def test_gemini_streams_the_same(vendor_server: VendorServer, name: str) -> None:
    vendor_server.script(Scripted(events=DIALECTS["gemini"].stream("Par", "is")))
    chat, call = GEMINI_CALLS[name]
    arguments: Any = call
    client = gemini_client(vendor_server)
    models = client.aio.models
    stream = await models.generate_content_stream(model="gemini-3-flash", **arguments)
    chunks: list[Any] = [chunk async for chunk in stream]
    await client.aio.aclose()

    texts, whole = await our_stream(vendor_server, "gemini", chat)

    theirs, mine = vendor_server.requests
    assert mine.body == levelled(theirs.body)
    assert mine.path == theirs.path
    assert texts == [chunk.text for chunk in chunks if chunk.text]
    usage = chunks[-1].usage_metadata
    assert whole.usage.input_tokens == usage.prompt_token_count
    assert whole.usage.output_tokens == usage.total_token_count - usage.prompt_token_count
    assert (whole.response_id, whole.served_model) == ("resp_1", chunks[-1].model_version)


async def test_openais_streamed_tool_call_is_the_same(vendor_server: VendorServer) -> None:
    events = OpenAIDialect().tool_stream('{"ci', 'ty":"Paris"}')
    vendor_server.script(Scripted(events=events))
    async with (
        openai_client(vendor_server) as client,
        client.chat.completions.stream(model="gpt-6-mini", **HELLO) as stream,
    ):
        final = await stream.get_final_completion()

    _, whole = await our_stream(vendor_server, "openai", HELLO)

    made = final.choices[0].message.tool_calls
    assert made is not None
    (call,) = made
    function = call.function
    assert the_call(whole) == (call.id, function.name, orjson.loads(function.arguments))
    assert whole.finish_reason == final.choices[0].finish_reason


async def test_anthropics_streamed_tool_call_is_the_same(vendor_server: VendorServer) -> None:
    events = AnthropicDialect().tool_stream('{"ci', 'ty":"Paris"}')
    vendor_server.script(Scripted(events=events))
    async with (
        anthropic_client(vendor_server) as client,
        client.messages.stream(model="claude-opus-5-5", max_tokens=9, **HELLO) as stream,
    ):
        final = await stream.get_final_message()

    _, whole = await our_stream(vendor_server, "anthropic", HELLO)

    (used,) = final.content
    assert used.type == "tool_use"
    assert the_call(whole) == (used.id, used.name, used.input)
    assert whole.finish_reason == "tool_calls"


async def test_geminis_streamed_tool_call_is_the_same(vendor_server: VendorServer) -> None:
    dialect = GeminiDialect()
    call = {"functionCall": {"id": "fc_1", "name": "weather", "args": {"city": "Paris"}}}
    document = orjson.dumps(dialect.document([call], None))
    events = (b"data: " + document + b"\n\n", *dialect.stream())
    vendor_server.script(Scripted(events=events))
    client = gemini_client(vendor_server)
    stream = await client.aio.models.generate_content_stream(model="gemini-3-flash", contents="Hi")
    chunks = [chunk async for chunk in stream]
    await client.aio.aclose()

    _, whole = await our_stream(vendor_server, "gemini", HELLO)

    (made,) = [made for chunk in chunks for made in chunk.function_calls or ()]
    assert the_call(whole) == (made.id, made.name, made.args)
    assert whole.finish_reason == "tool_calls"
