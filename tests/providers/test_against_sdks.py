"""The same conversations through the vendors' own clients and through ours.

What differs on purpose, and is levelled here before comparing: google-genai writes some names in
snake_case, base64 in its URL-safe letters, and an empty `generationConfig`; Google takes either.
"""

from __future__ import annotations

import re
from typing import Any

import anthropic
import openai
import orjson
import pytest
from google import genai
from google.oauth2.credentials import Credentials

from moa.catalog import Account, Wire
from moa.providers.accounts import open_provider
from moa.providers.provider import Completion, Request
from tests.providers.dialects import (
    DIALECTS,
    KEY,
    AnthropicDialect,
    GeminiDialect,
    OpenAIDialect,
    a_chat,
    a_model,
)
from tests.providers.vendor_server import Scripted, VendorServer, answer

# google-genai makes a class of its own from aiohttp's, which aiohttp discourages.
pytestmark = pytest.mark.filterwarnings("ignore:Inheritance class Aiohttp:DeprecationWarning")

PIXEL = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJg"
)
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}
WEATHER = {"name": "weather", "description": "Of a city.", "parameters": SCHEMA}
CALL = {
    "id": "call_1",
    "type": "function",
    "function": {"name": "weather", "arguments": '{"city":"Paris"}'},
}
IMAGE = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXEL}"}}
TALK: list[dict[str, Any]] = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "How warm is it in Paris?"},
    {"role": "assistant", "content": "Let me look.", "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "call_1", "content": '{"celsius": 11}'},
    {"role": "user", "content": [{"type": "text", "text": "And here?"}, IMAGE]},
]

LINK = {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}
LINKED: list[dict[str, Any]] = [
    {"role": "user", "content": [{"type": "text", "text": "What is it?"}, LINK]}
]

OPENAI_CALLS: dict[str, dict[str, Any]] = {
    "plain": {"messages": [{"role": "user", "content": "Hello, \u00e9 \u4f60"}]},
    "sampling": {
        "messages": TALK[:2],
        "temperature": 0.5,
        "top_p": 0.9,
        "seed": 7,
        "stop": ["END"],
        "frequency_penalty": 0.1,
        "presence_penalty": -0.1,
        "logprobs": True,
        "top_logprobs": 3,
        "reasoning_effort": "low",
    },
    "tools": {
        "messages": TALK,
        "tools": [{"type": "function", "function": {**WEATHER, "strict": True}}],
        "tool_choice": {"type": "function", "function": {"name": "weather"}},
        "parallel_tool_calls": False,
    },
    "schema": {
        "messages": TALK[:2],
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "place", "schema": SCHEMA, "strict": True},
        },
    },
    "json": {"messages": TALK[:2], "response_format": {"type": "json_object"}},
    "link": {"messages": LINKED},
}

ANTHROPIC_CALLS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "link": (
        {"messages": LINKED},
        {
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {"type": "text", "text": "What is it?"},
                        {
                            "type": "image",
                            "source": {"type": "url", "url": "https://example.com/a.png"},
                        },
                    ],
                }
            ],
            "max_tokens": 8_000,
        },
    ),
    "plain": (
        {"messages": [{"role": "user", "content": "Hello, \u00e9 \u4f60"}]},
        {"messages": [{"role": "user", "content": "Hello, \u00e9 \u4f60"}], "max_tokens": 8_000},
    ),
    "talk": (
        {
            "messages": TALK,
            "max_output_tokens": 100,
            "stop": ["END"],
            "tools": [{"type": "function", "function": WEATHER}],
            "tool_choice": "auto",
            "parallel_tool_calls": False,
            "reasoning_effort": "high",
        },
        {
            "system": "Be brief.",
            "max_tokens": 100,
            "stop_sequences": ["END"],
            "thinking": {"type": "adaptive"},
            "output_config": {"effort": "high"},
            "tools": [{"name": "weather", "description": "Of a city.", "input_schema": SCHEMA}],
            "tool_choice": {"type": "auto", "disable_parallel_tool_use": True},
            "messages": [
                {"role": "user", "content": "How warm is it in Paris?"},
                {
                    "role": "assistant",
                    "content": [
                        {"type": "text", "text": "Let me look."},
                        {
                            "type": "tool_use",
                            "id": "call_1",
                            "name": "weather",
                            "input": {"city": "Paris"},
                        },
                    ],
                },
                {
                    "role": "user",
                    "content": [
                        {
                            "type": "tool_result",
                            "tool_use_id": "call_1",
                            "content": '{"celsius": 11}',
                        },
                        {"type": "text", "text": "And here?"},
                        {
                            "type": "image",
                            "source": {"type": "base64", "media_type": "image/png", "data": PIXEL},
                        },
                    ],
                },
            ],
        },
    ),
    "schema": (
        {
            "messages": TALK[:2],
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "place", "schema": SCHEMA},
            },
        },
        {
            "system": "Be brief.",
            "messages": TALK[1:2],
            "max_tokens": 8_000,
            "output_config": {"format": {"type": "json_schema", "schema": SCHEMA}},
        },
    ),
}

GEMINI_CALLS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "plain": (
        {"messages": [{"role": "user", "content": "Hello, \u00e9 \u4f60"}]},
        {"contents": [{"role": "user", "parts": [{"text": "Hello, \u00e9 \u4f60"}]}]},
    ),
    "sampling": (
        {
            "messages": TALK[:2],
            "temperature": 1.5,
            "top_p": 0.9,
            "seed": 7,
            "stop": ["END"],
            "frequency_penalty": 0.1,
            "presence_penalty": -0.1,
            "logprobs": True,
            "top_logprobs": 3,
            "reasoning_effort": "low",
            "max_output_tokens": 50,
        },
        {
            "contents": [{"role": "user", "parts": [{"text": "How warm is it in Paris?"}]}],
            "config": {
                "system_instruction": "Be brief.",
                "temperature": 1.5,
                "top_p": 0.9,
                "seed": 7,
                "stop_sequences": ["END"],
                "frequency_penalty": 0.1,
                "presence_penalty": -0.1,
                "response_logprobs": True,
                "logprobs": 3,
                "thinking_config": {"thinking_level": "LOW"},
                "max_output_tokens": 50,
            },
        },
    ),
    "talk": (
        {
            "messages": TALK,
            "tools": [{"type": "function", "function": WEATHER}],
            "tool_choice": {"type": "function", "function": {"name": "weather"}},
        },
        {
            "contents": [
                {"role": "user", "parts": [{"text": "How warm is it in Paris?"}]},
                {
                    "role": "model",
                    "parts": [
                        {"text": "Let me look."},
                        {
                            "function_call": {
                                "id": "call_1",
                                "name": "weather",
                                "args": {"city": "Paris"},
                            },
                            "thought_signature": b"skip_thought_signature_validator",
                        },
                    ],
                },
                {
                    "role": "user",
                    "parts": [
                        {
                            "function_response": {
                                "id": "call_1",
                                "name": "weather",
                                "response": {"celsius": 11},
                            }
                        },
                        {"text": "And here?"},
                        {"inline_data": {"mime_type": "image/png", "data": PIXEL}},
                    ],
                },
            ],
            "config": {
                "system_instruction": "Be brief.",
                "tools": [
                    {
                        "function_declarations": [
                            {
                                "name": "weather",
                                "description": "Of a city.",
                                "parameters_json_schema": SCHEMA,
                            }
                        ]
                    }
                ],
                "tool_config": {
                    "function_calling_config": {
                        "mode": "ANY",
                        "allowed_function_names": ["weather"],
                    }
                },
            },
        },
    ),
    "schema": (
        {
            "messages": TALK[1:2],
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "place", "schema": SCHEMA},
            },
        },
        {
            "contents": [{"role": "user", "parts": [{"text": "How warm is it in Paris?"}]}],
            "config": {
                "response_mime_type": "application/json",
                "response_json_schema": SCHEMA,
            },
        },
    ),
}


def levelled(value: object, name: str = "") -> object:
    """A body of google-genai's in camelCase and plain base64, without what is empty."""
    if isinstance(value, dict):
        camel = {re.sub("_(.)", lambda m: m[1].upper(), k): v for k, v in value.items()}
        return {k: levelled(v, k) for k, v in camel.items() if (k, v) != ("generationConfig", {})}
    if isinstance(value, list):
        return [levelled(item) for item in value]
    if name in ("data", "thoughtSignature"):
        return str(value).replace("-", "+").replace("_", "/")
    return value


async def ours(server: VendorServer, wire: Wire, chat: dict[str, Any]) -> Completion:
    dialect = DIALECTS[wire]
    base_url = server.base_url + dialect.suffix
    provider = open_provider(dialect.account, environ=dialect.environ, base_url=base_url)
    request = Request("q1", a_chat(**chat), dialect.model)
    try:
        return (await provider.complete(request, timeout_s=10)).completion
    finally:
        await provider.close()


def openai_client(server: VendorServer) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(api_key=KEY, base_url=server.base_url + "/v1", max_retries=0)


def anthropic_client(server: VendorServer) -> anthropic.AsyncAnthropic:
    return anthropic.AsyncAnthropic(api_key=KEY, base_url=server.base_url, max_retries=0)


@pytest.mark.parametrize("name", OPENAI_CALLS)
async def test_openai_sees_the_same_request(vendor_server: VendorServer, name: str) -> None:
    vendor_server.script(DIALECTS["openai"].ok("Paris"))
    call: Any = OPENAI_CALLS[name]
    async with openai_client(vendor_server) as client:
        await client.chat.completions.create(model="gpt-6-mini", **call)

    await ours(vendor_server, "openai", call)

    theirs, mine = vendor_server.requests
    assert mine.body == theirs.body
    assert mine.path == theirs.path
    assert mine.headers["authorization"] == theirs.headers["authorization"]


@pytest.mark.parametrize("name", ANTHROPIC_CALLS)
async def test_anthropic_sees_the_same_request(vendor_server: VendorServer, name: str) -> None:
    vendor_server.script(DIALECTS["anthropic"].ok("Paris"))
    chat, call = ANTHROPIC_CALLS[name]
    arguments: Any = call
    async with anthropic_client(vendor_server) as client:
        await client.messages.create(model="claude-opus-5-5", **arguments)

    await ours(vendor_server, "anthropic", chat)

    theirs, mine = vendor_server.requests
    assert mine.body == theirs.body
    assert mine.path == theirs.path
    for header in ("authorization", "anthropic-version", "content-type"):
        assert mine.headers[header] == theirs.headers[header]


@pytest.mark.parametrize("name", GEMINI_CALLS)
async def test_the_gemini_developer_api_sees_the_same_request(
    vendor_server: VendorServer, name: str
) -> None:
    vendor_server.script(DIALECTS["gemini"].ok("Paris"))
    chat, call = GEMINI_CALLS[name]
    arguments: Any = call
    client = genai.Client(api_key=KEY, http_options={"base_url": vendor_server.base_url})
    await client.aio.models.generate_content(model="gemini-3-flash", **arguments)
    await client.aio.aclose()

    await ours(vendor_server, "gemini", chat)

    theirs, mine = vendor_server.requests
    assert mine.body == levelled(theirs.body)
    assert mine.path == theirs.path
    assert mine.headers["x-goog-api-key"] == theirs.headers["x-goog-api-key"]


@pytest.mark.parametrize("stream", [False, True])
async def test_vertex_sees_the_same_request(vendor_server: VendorServer, stream: bool) -> None:
    dialect = GeminiDialect()
    vendor_server.script(
        Scripted(events=dialect.stream("Paris")) if stream else dialect.ok("Paris")
    )
    account = Account("vertex", "gemini", project_env="PROJECT_OF_TEST", location="europe-west4")
    environ = {"PROJECT_OF_TEST": "our-project"}
    chat, call = GEMINI_CALLS["talk"]
    arguments: Any = call
    client = genai.Client(
        vertexai=True,
        project="our-project",
        location="europe-west4",
        credentials=Credentials(token="x"),  # type: ignore[no-untyped-call]
        http_options={"base_url": vendor_server.base_url},
    )
    if stream:
        models = client.aio.models
        pieces = await models.generate_content_stream(model="gemini-3-flash", **arguments)
        async for _ in pieces:
            pass
    else:
        await client.aio.models.generate_content(model="gemini-3-flash", **arguments)
    await client.aio.aclose()

    provider = open_provider(account, environ=environ, base_url=vendor_server.base_url)
    request = Request("q1", a_chat(**chat), dialect.model)
    if stream:
        async for _ in provider.stream(request, timeout_s=10):
            pass
    else:
        await provider.complete(request, timeout_s=10)
    await provider.close()

    theirs, mine = vendor_server.requests
    assert mine.body == levelled(theirs.body)
    assert mine.path == theirs.path


@pytest.mark.parametrize(
    "api_name",
    [
        "google/gemini-3-flash",
        "publishers/google/models/gemini-3-flash",
        "projects/theirs/locations/us-central1/endpoints/7",
    ],
)
async def test_vertex_is_asked_for_the_same_model(
    vendor_server: VendorServer, api_name: str
) -> None:
    dialect = GeminiDialect()
    vendor_server.script(dialect.ok("Paris"))
    account = Account("vertex", "gemini", project_env="PROJECT_OF_TEST", location="europe-west4")
    client = genai.Client(
        vertexai=True,
        project="our-project",
        location="europe-west4",
        credentials=Credentials(token="x"),  # type: ignore[no-untyped-call]
        http_options={"base_url": vendor_server.base_url},
    )
    await client.aio.models.generate_content(model=api_name, contents="Hi")
    await client.aio.aclose()

    environ = {"PROJECT_OF_TEST": "our-project"}
    provider = open_provider(account, environ=environ, base_url=vendor_server.base_url)
    request = Request("q1", a_chat(), a_model("gemini", api_name))
    await provider.complete(request, timeout_s=10)
    await provider.close()

    theirs, mine = vendor_server.requests
    assert mine.path == theirs.path


async def test_vertex_with_a_key_is_called_as_the_sdk_does(
    monkeypatch: pytest.MonkeyPatch, vendor_server: VendorServer
) -> None:
    monkeypatch.delenv("GOOGLE_CLOUD_PROJECT", raising=False)
    dialect = GeminiDialect()
    vendor_server.script(dialect.ok("Paris"))
    client = genai.Client(
        vertexai=True, api_key=KEY, http_options={"base_url": vendor_server.base_url}
    )
    await client.aio.models.generate_content(model="gemini-3-flash", contents="Hi")
    await client.aio.aclose()

    account = Account("vertex", "gemini", api_key_env="KEY", location="global")
    provider = open_provider(account, environ={"KEY": KEY}, base_url=vendor_server.base_url)
    await provider.complete(Request("q1", a_chat(), dialect.model), timeout_s=10)
    await provider.close()

    theirs, mine = vendor_server.requests
    assert mine.path == theirs.path
    assert mine.headers["x-goog-api-key"] == theirs.headers["x-goog-api-key"] == KEY


async def test_we_read_what_the_openai_client_reads(vendor_server: VendorServer) -> None:
    dialect = OpenAIDialect()
    message = {"content": "Let me look.", "tool_calls": [CALL]}
    vendor_server.script(answer(dialect.document(message, "tool_calls")))
    async with openai_client(vendor_server) as client:
        theirs = await client.chat.completions.create(
            model="gpt-6-mini", messages=[{"role": "user", "content": "Hi"}]
        )

    mine = await ours(vendor_server, "openai", {})

    choice = theirs.choices[0]
    assert theirs.usage is not None
    assert theirs.usage.prompt_tokens_details is not None
    assert theirs.usage.completion_tokens_details is not None
    assert mine.text == choice.message.content
    assert mine.finish_reason == choice.finish_reason
    calls = [call.model_dump() for call in choice.message.tool_calls or ()]
    assert orjson.loads(mine.tool_calls or "[]") == calls
    assert (mine.response_id, mine.served_model) == (theirs.id, theirs.model)
    assert mine.usage.input_tokens == theirs.usage.prompt_tokens
    assert mine.usage.output_tokens == theirs.usage.completion_tokens
    assert mine.usage.cached_input_tokens == theirs.usage.prompt_tokens_details.cached_tokens
    assert mine.usage.reasoning_tokens == theirs.usage.completion_tokens_details.reasoning_tokens
    assert mine.service_tier == theirs.service_tier


async def test_we_read_what_the_anthropic_client_reads(vendor_server: VendorServer) -> None:
    dialect = AnthropicDialect()
    content = [
        {"type": "thinking", "thinking": "Hm.", "signature": "c2ln"},
        {"type": "text", "text": "Let me "},
        {"type": "text", "text": "look."},
        {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"city": "Paris"}},
    ]
    vendor_server.script(answer(dialect.document(content, "tool_use")))
    async with anthropic_client(vendor_server) as client:
        theirs = await client.messages.create(
            model="claude-opus-5-5", max_tokens=9, messages=[{"role": "user", "content": "Hi"}]
        )

    mine = await ours(vendor_server, "anthropic", {})

    usage = theirs.usage
    tool_use = theirs.content[-1]
    assert tool_use.type == "tool_use"
    assert mine.text == "".join(b.text for b in theirs.content if b.type == "text")
    (call,) = orjson.loads(mine.tool_calls or "[]")
    assert (call["id"], call["function"]["name"]) == (tool_use.id, tool_use.name)
    assert orjson.loads(call["function"]["arguments"]) == tool_use.input
    assert (mine.response_id, mine.served_model) == (theirs.id, theirs.model)
    assert mine.usage.cached_input_tokens == usage.cache_read_input_tokens
    assert mine.usage.cache_write_tokens == usage.cache_creation_input_tokens
    everything = usage.input_tokens + mine.usage.cached_input_tokens + mine.usage.cache_write_tokens
    assert mine.usage.input_tokens == everything
    assert mine.usage.output_tokens == usage.output_tokens


async def test_we_read_what_the_gemini_client_reads(vendor_server: VendorServer) -> None:
    dialect = GeminiDialect()
    parts = [
        {"text": "Hm.", "thought": True},
        {"text": "Let me look."},
        {"functionCall": {"id": "fc_1", "name": "weather", "args": {"city": "Paris"}}},
    ]
    vendor_server.script(answer(dialect.document(parts, "STOP")))
    client = genai.Client(api_key=KEY, http_options={"base_url": vendor_server.base_url})
    theirs = await client.aio.models.generate_content(model="gemini-3-flash", contents="Hi")
    await client.aio.aclose()

    mine = await ours(vendor_server, "gemini", {})

    usage = theirs.usage_metadata
    assert usage is not None
    assert theirs.candidates is not None
    assert theirs.candidates[0].content is not None
    spoken = [p.text for p in theirs.candidates[0].content.parts or () if p.text and not p.thought]
    assert mine.text == "".join(spoken)
    (call,) = orjson.loads(mine.tool_calls or "[]")
    their_call = (theirs.function_calls or [])[0]
    assert (call["id"], call["function"]["name"]) == (their_call.id, their_call.name)
    assert orjson.loads(call["function"]["arguments"]) == their_call.args
    assert (mine.response_id, mine.served_model) == (theirs.response_id, theirs.model_version)
    assert mine.usage.input_tokens == usage.prompt_token_count
    assert mine.usage.output_tokens == (usage.total_token_count or 0) - mine.usage.input_tokens
    assert mine.usage.reasoning_tokens == usage.thoughts_token_count
