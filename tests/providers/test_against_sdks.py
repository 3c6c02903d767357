"""The same conversations through the vendors' own clients and through ours: what the vendor sees,
and what comes back.
"""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from google import genai
from google.oauth2.credentials import Credentials

from moa.catalog import Account
from moa.providers.accounts import open_provider
from moa.providers.provider import Request
from tests.providers.dialects import (
    DIALECTS,
    KEY,
    AnthropicDialect,
    GeminiDialect,
    OpenAIDialect,
    a_chat,
    a_model,
)
from tests.providers.sdks import (
    ANTHROPIC_CALLS,
    CALL,
    GEMINI_CALLS,
    OPENAI_CALLS,
    anthropic_client,
    gemini_client,
    levelled,
    openai_client,
    ours,
)
from tests.providers.vendor_server import Scripted, VendorServer, answer

# google-genai makes a class of its own from aiohttp's, which aiohttp discourages.
pytestmark = pytest.mark.filterwarnings("ignore:Inheritance class Aiohttp:DeprecationWarning")


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
    client = gemini_client(vendor_server)
    await client.aio.models.generate_content(model="gemini-3-flash", **arguments)
    await client.aio.aclose()

    await ours(vendor_server, "gemini", chat)

    theirs, mine = vendor_server.requests
    assert mine.body == levelled(theirs.body)
    assert mine.path == theirs.path
    assert mine.headers["x-goog-api-key"] == theirs.headers["x-goog-api-key"]


async def test_openai_is_asked_for_flex_alike(vendor_server: VendorServer) -> None:
    vendor_server.script(DIALECTS["openai"].ok("Paris"))
    call: Any = OPENAI_CALLS["plain"]
    async with openai_client(vendor_server) as client:
        await client.chat.completions.create(model="gpt-6-mini", service_tier="flex", **call)

    await ours(vendor_server, "openai", call, "flex")

    theirs, mine = vendor_server.requests
    assert mine.body == theirs.body


async def test_gemini_is_asked_for_flex_alike(vendor_server: VendorServer) -> None:
    vendor_server.script(DIALECTS["gemini"].ok("Paris"))
    chat, call = GEMINI_CALLS["plain"]
    arguments: Any = {**call, "config": {"service_tier": "flex"}}
    client = gemini_client(vendor_server)
    await client.aio.models.generate_content(model="gemini-3-flash", **arguments)
    await client.aio.aclose()

    await ours(vendor_server, "gemini", chat, "flex")

    theirs, mine = vendor_server.requests
    assert mine.body == levelled(theirs.body)


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
    document = dialect.document(message, "tool_calls")
    token = {"token": "Let", "logprob": -0.1, "bytes": [76, 101, 116], "top_logprobs": []}
    document["choices"][0]["logprobs"] = {"content": [token], "refusal": None}
    vendor_server.script(answer(document))
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
    assert choice.logprobs is not None
    assert orjson.loads(mine.logprobs or "{}") == choice.logprobs.model_dump()
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
    client = gemini_client(vendor_server)
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
