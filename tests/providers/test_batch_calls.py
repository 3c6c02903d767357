"""Calls about batches that go wrong below the vendors' formats."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moa.catalog import Account
from moa.errors import KeyRefused, ProviderError, TransientError
from moa.providers.accounts import open_batches
from moa.providers.batch import BatchProvider, BatchResult, BatchStatus
from moa.providers.bodies import body_of
from moa.providers.provider import Request
from tests.providers.batch_vendor import batch_vendor
from tests.providers.dialects import KEY, AnthropicDialect, a_chat

ACCOUNT = Account("anthropic", "anthropic", api_key_env="KEY")
MODEL = AnthropicDialect().model
ROW = b'{"custom_id":"a","result":{"type":"expired"}}\n'
ENDED = BatchStatus("b", "ended", results="https://x.example/v1/messages/batches/b/results")


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[BatchProvider]:
    batches = open_batches(ACCOUNT, environ={"KEY": KEY}, base_url=url)
    try:
        yield batches
    finally:
        await batches.close()


@asynccontextmanager
async def wire(reads: int, says: bytes) -> AsyncIterator[str]:
    """A server that reads so many bytes of a call, says that, and hangs up."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(reads)
        writer.write(says)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


def a_line(batches: BatchProvider, text: str = "Hi") -> bytes:
    chat = a_chat(messages=[{"role": "user", "content": text}])
    return batches.line("a", Request("q", chat, MODEL, "batch"))


async def submit(batches: BatchProvider) -> object:
    return await batches.submit(MODEL, [a_line(batches)], reference="r")


async def look(batches: BatchProvider) -> object:
    return await batches.look("b")


async def read(batches: BatchProvider) -> object:
    return [result async for result in batches.results(ENDED)]


ACTS = {"submit": submit, "look": look, "read": read}


@pytest.mark.parametrize(("act", "may_cost"), [("submit", True), ("look", False), ("read", False)])
async def test_a_connection_that_breaks_before_the_answer(act: str, may_cost: bool) -> None:
    async with wire(60, b"") as url, opened(url) as batches:
        with pytest.raises(TransientError) as caught:
            await ACTS[act](batches)

    assert caught.value.maybe_billed == may_cost


@pytest.mark.parametrize("cut_at", [0, 10, len(ROW), len(ROW) + 5])
async def test_results_that_end_early_are_not_whole(cut_at: int) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (2 * len(ROW))
    got: list[BatchResult] = []

    async def read_on(batches: BatchProvider) -> None:
        async for result in batches.results(ENDED):
            got.append(result)  # noqa: PERF401 - what has come before the end counts

    async with wire(60, head + (ROW + ROW)[:cut_at]) as url, opened(url) as batches:
        with pytest.raises(TransientError) as caught:
            await read_on(batches)

    assert len(got) <= cut_at // len(ROW)
    assert not caught.value.maybe_billed


@pytest.mark.parametrize("act", ACTS.values())
async def test_a_redirect_is_not_followed_with_the_key(
    act: Callable[[BatchProvider], object],
) -> None:
    async with batch_vendor() as vendor, opened(vendor.url) as batches:
        for call in ("POST /v1/messages/batches", "GET /v1/messages/batches/b"):
            vendor.say(call, {}, 302, location=f"{vendor.url}/elsewhere")
        vendor.say("GET /v1/messages/batches/b/results", {}, 307, location="/elsewhere")

        with pytest.raises(KeyRefused):
            await act(batches)  # type: ignore[misc]

        assert len(vendor.sent) == 1


@pytest.mark.parametrize("status", [400, 401, 403, 404, 429, 500, 529])
@pytest.mark.parametrize("act", ACTS.values())
async def test_no_error_tells_the_key(act: Callable[[BatchProvider], object], status: int) -> None:
    document = {"type": "error", "error": {"type": KEY, "message": f"the key {KEY} is no key"}}
    async with batch_vendor() as vendor, opened(vendor.url) as batches:
        for call in ("POST /v1/messages/batches", "GET /v1/messages/batches/b"):
            vendor.say(call, document, status)
        vendor.say("GET /v1/messages/batches/b/results", document, status)

        with pytest.raises(ProviderError) as caught:
            await act(batches)  # type: ignore[misc]

    assert KEY not in f"{caught.value} {caught.value.code}"
    assert caught.value.status == status


async def test_after_the_end_nothing_goes_out() -> None:
    async with batch_vendor() as vendor:
        async with opened(vendor.url) as batches:
            pass
        with pytest.raises(TransientError, match="closed") as caught:
            await submit(batches)

        assert not caught.value.maybe_billed
        assert vendor.sent == []


class _Sink:
    """Keeps what is written."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []

    async def write(self, part: bytes) -> None:
        self.parts.append(part)


@settings(max_examples=40)
@given(pieces=st.lists(st.binary(max_size=40)), part=st.integers(1, 60))
def test_pieces_go_out_whole_in_order_and_in_parts(pieces: list[bytes], part: int) -> None:
    sink = _Sink()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("moa.providers.bodies._PART_BYTES", part)
        body = body_of(pieces)

        asyncio.run(body.write_with_length(sink, None))  # type: ignore[arg-type]

    assert b"".join(sink.parts) == b"".join(pieces)
    assert body.size == len(b"".join(pieces))
    assert body.sent
    assert all(len(one) < part + 40 for one in sink.parts)
