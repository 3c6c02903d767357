from __future__ import annotations

import json
from typing import Any, get_type_hints

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from multidict import CIMultiDict
from yarl import URL

from moa.catalog import Wire as WireName
from moa.errors import ProviderError
from moa.providers.accounts import open_provider
from moa.providers.anthropic import AnthropicWire
from moa.providers.faults import Fault
from moa.providers.gemini import GeminiWire
from moa.providers.http import Reply, Transport
from moa.providers.openai import OpenAIWire
from moa.providers.provider import Completion, Request, Usage
from moa.providers.wire import Wire, WireProvider
from tests.providers.dialects import DIALECTS, a_chat
from tests.providers.vendor_server import Scripted, VendorServer

# An unknown finish reason makes google-genai warn, in words that no test can choose.
pytestmark = pytest.mark.filterwarnings("ignore:.* is not a valid:UserWarning")

URL_OF_TEST = URL("http://127.0.0.1:1")
WIRES: dict[WireName, Wire] = {
    "openai": OpenAIWire("v", URL_OF_TEST, ""),
    "anthropic": AnthropicWire("v", URL_OF_TEST, ""),
    "gemini": GeminiWire("v", URL_OF_TEST, "", None, vertex=False),
}
LEAVES = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=9)
)
JSON = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=9,
)


def dumps(value: object) -> bytes:
    return json.dumps(value).encode()


def provider(name: WireName) -> WireProvider:
    return WireProvider("v", WIRES[name], Transport({}))


def bodies(name: WireName) -> list[Any]:
    """What the vendor says when all is well, and when it is not."""
    dialect = DIALECTS[name]
    detail = {
        "@type": "q",
        "reason": "R",
        "retryDelay": "1s",
        "violations": [{"quotaId": "PerDay"}],
    }
    error = {"type": "t", "code": "c", "status": "S", "message": "m", "details": [detail]}
    return [
        json.loads(dialect.ok("Paris").body),
        json.loads(dialect.tool_call("f", {"a": 1}).body),
        json.loads(dialect.refusal().body),
        {"type": "error", "error": error},
        {"error": {**error, "details": {"error_code": "e"}, "metadata": {"flagged_input": "x"}}},
    ]


def places(document: Any) -> list[tuple[Any, ...]]:  # noqa: ANN401 - it is any JSON
    """The path of every value of a document, its own first."""
    inside: list[tuple[Any, Any]] = []
    if isinstance(document, dict):
        inside = list(document.items())
    elif isinstance(document, list):
        inside = list(enumerate(document))
    return [(), *((key, *path) for key, value in inside for path in places(value))]


def changed(document: Any, path: tuple[Any, ...], value: object) -> object:  # noqa: ANN401
    if not path:
        return value
    copy = document.copy()
    copy[path[0]] = changed(copy[path[0]], path[1:], value)
    return copy


@st.composite
def almost_right(draw: st.DrawFn, name: WireName) -> bytes:
    """A vendor's body in which something stands that does not belong there."""
    document = draw(st.sampled_from(bodies(name)))
    for _ in range(draw(st.integers(1, 2))):
        path = draw(st.sampled_from(places(document)))
        document = changed(document, path, draw(JSON))
    return dumps(document)


def is_sound(verdict: Completion | Fault) -> bool:
    """Whether all fields are of the types that they say they are."""
    if isinstance(verdict, Fault):
        return isinstance(verdict.error(a_chat(), "key"), ProviderError)
    hints = get_type_hints(Completion)
    counts = [getattr(verdict.usage, field) for field in get_type_hints(Usage)]
    return (
        all(isinstance(getattr(verdict, field), hint) for field, hint in hints.items())
        and all(type(count) is int for count in counts)
        and min(counts) >= 0
    )


def verdict_of(name: WireName, body: bytes, status: int) -> Completion | Fault | ProviderError:
    reply = Reply(status, CIMultiDict({"retry-after": "soon"}), body)
    try:
        return provider(name).read(body) if status == 200 else provider(name).reject(reply)
    except ProviderError as error:
        return error


@pytest.mark.parametrize("name", WIRES)
@given(data=st.data(), status=st.sampled_from([200, 400, 401, 429, 500, 503]))
def test_an_answer_with_anything_in_it_is_a_completion_or_an_error(
    name: WireName, data: st.DataObject, status: int
) -> None:
    body = data.draw(almost_right(name) | JSON.map(dumps))

    verdict = verdict_of(name, body, status)

    assert isinstance(verdict, ProviderError) or is_sound(verdict)


@pytest.mark.parametrize("name", WIRES)
@given(body=st.binary(max_size=50), status=st.integers(200, 599))
def test_bytes_of_any_kind_are_an_error(name: WireName, body: bytes, status: int) -> None:
    verdict = verdict_of(name, body, status)

    assert isinstance(verdict, ProviderError) or is_sound(verdict)


@pytest.mark.parametrize("name", WIRES)
@settings(max_examples=40)
@given(data=st.data())
async def test_an_event_with_anything_in_it_is_text_or_an_error(
    name: WireName, data: st.DataObject
) -> None:
    dialect = DIALECTS[name]
    events = list(dialect.stream("Par", "is"))
    place = data.draw(st.sampled_from([n for n, e in enumerate(events) if b"[DONE]" not in e]))
    head, _, document = events[place].partition(b"data: ")
    path = data.draw(st.sampled_from(places(json.loads(document))))
    wrong = dumps(changed(json.loads(document), path, data.draw(JSON)))
    events[place] = head + b"data: " + wrong + b"\n\n"

    async with VendorServer() as server:
        server.script(Scripted(events=tuple(events)))
        url = server.base_url + dialect.suffix
        asked = open_provider(dialect.account, environ=dialect.environ, base_url=url)
        verdict: Completion | ProviderError | None = None
        try:
            async for delta in asked.stream(Request("q", a_chat(), dialect.model), timeout_s=10):
                verdict = delta.completion
        except ProviderError as error:
            verdict = error
        await asked.close()

    assert isinstance(verdict, ProviderError) or (verdict is not None and is_sound(verdict))
