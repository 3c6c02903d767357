"""Whatever comes in, it is answered with an error object of the right status, never with a 500."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from moa.errors import Refusal
from moa.serving.chat_wire import read_chat
from moa.serving.config import HttpConfig
from moa.serving.responses_wire import read_response
from tests.serving.conftest import Serving

Start = Callable[..., Awaitable[Serving]]
USER = {"role": "user", "content": "Hi"}
GOOD: dict[str, Any] = {"model": "moa", "messages": [USER]}
LIMITS = HttpConfig()

BAD_BODIES = {
    "no JSON": b"{",
    "no object": b"[]",
    "nothing": b"",
    "no UTF-8": b'{"model": "\xff"}',
    "a lone surrogate": b'{"model": "moa", "messages": [{"role": "user", "content": "\\ud800"}]}',
    "nested deeply": b'{"model": "moa", "messages": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "NaN": b'{"model": "moa", "temperature": NaN}',
}
BAD_FIELDS: dict[str, dict[str, Any]] = {
    "unknown": {"frobnicate": 1},
    "n": {"n": 17},
    "n as text": {"n": "2"},
    "both limits": {"max_tokens": 5, "max_completion_tokens": 5},
    "a limit beyond all": {"max_tokens": 2**40},
    "temperature": {"temperature": 3},
    "logit_bias": {"logit_bias": {"5": 1}},
    "store": {"store": True},
    "modalities": {"modalities": ["audio"]},
    "functions": {"functions": [{"name": "f"}]},
    "no messages": {"messages": []},
    "messages as text": {"messages": "Hi"},
    "an unknown role": {"messages": [{"role": "boss", "content": "Hi"}]},
    "audio": {"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]},
    "a file": {
        "messages": [
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "file:///etc"}}]}
        ]
    },
    "deep schema": {
        "tools": [
            {"type": "function", "function": {"name": "f", "parameters": orjson.loads(
                b'{"a":' * 300 + b"1" + b"}" * 300)}}
        ]
    },
    "stream_options": {"stream_options": {"include_usage": True}},
}  # fmt: skip


@pytest.mark.parametrize("body", BAD_BODIES.values(), ids=BAD_BODIES)
@pytest.mark.parametrize("path", ["/chat/completions", "/responses", "/route", "/feedback"])
async def test_a_body_that_is_none_is_a_400(served: Serving, path: str, body: bytes) -> None:
    status, document, _ = await served.post(path, data=body)

    assert status == 400
    assert set(document["error"]) == {"message", "type", "param", "code"}  # type: ignore[call-overload]


@pytest.mark.parametrize("fields", BAD_FIELDS.values(), ids=BAD_FIELDS)
async def test_what_cannot_be_done_is_a_400_and_not_dropped(
    served: Serving, fields: dict[str, Any]
) -> None:
    status, document, _ = await served.post("/chat/completions", {**GOOD, **fields})

    assert status == 400, document


async def test_sizes_are_bounded(start: Start) -> None:
    served = await start(
        "http.max_body_bytes=2048", "http.max_messages=3", "http.max_image_bytes=1024"
    )
    long = {**GOOD, "messages": [{"role": "user", "content": "x" * 4000}]}
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 1200}}
    many = [USER] * 4

    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(100):
            yield b" " * 1024

    url = f"{served.base_url}/chat/completions"
    async with served.http.post(url, data=pieces()) as chunked:
        chunked_status = chunked.status
    statuses = [
        (await served.post("/chat/completions", one))[0]
        for one in (long, {**GOOD, "messages": many}, {**GOOD, "messages": [
            {"role": "user", "content": [image]}]})
    ]  # fmt: skip

    assert chunked_status == 413
    assert statuses == [413, 400, 400]


async def test_paths_and_methods_that_are_none_are_error_objects(served: Serving) -> None:
    missing, document, _ = await served.post("/nothing", {})
    async with served.http.get(f"{served.base_url}/chat/completions") as wrong:
        status, said = wrong.status, await wrong.json()

    assert (missing, status) == (404, 405)
    assert document["error"]
    assert said["error"]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3)
    ),
    max_leaves=8,
)
CHAT_FIELDS = st.sampled_from(
    ["messages", "model", "n", "stream", "stop", "tools", "tool_choice", "response_format",
     "max_tokens", "temperature", "seed", "logprobs", "top_logprobs", "stream_options", "moa"]
)  # fmt: skip
RESPONSE_FIELDS = st.sampled_from(
    ["input", "model", "instructions", "stream", "tools", "tool_choice", "text", "reasoning",
     "max_output_tokens", "store", "include", "previous_response_id", "truncation", "metadata"]
)  # fmt: skip


@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(CHAT_FIELDS, JSON, max_size=4))
def test_any_chat_body_is_read_or_refused(fields: dict[str, Any]) -> None:
    _read_or_refused(read_chat, {**GOOD, **fields})


@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(RESPONSE_FIELDS, JSON, max_size=4))
def test_any_response_body_is_read_or_refused(fields: dict[str, Any]) -> None:
    _read_or_refused(read_response, {"model": "moa", "input": "Hi", **fields})


@settings(max_examples=200, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.dictionaries(st.sampled_from(
    ["type", "role", "content", "call_id", "name", "arguments", "output"]), JSON |
    st.sampled_from(["message", "function_call", "function_call_output", "user", "assistant"]),
    max_size=4), max_size=3))  # fmt: skip
def test_any_items_are_read_or_refused(items: list[Any]) -> None:
    _read_or_refused(read_response, {"model": "moa", "input": items})


def _read_or_refused(read: Callable[[bytes, HttpConfig], object], document: object) -> None:
    try:
        body = orjson.dumps(document)
    except TypeError:  # beyond 64 bits: no client can send it so
        return
    status = 200
    try:
        read(body, LIMITS)
    except Refusal as refusal:
        status = refusal.status
    assert status < 500
