"""Clients below HTTP: one that hangs up in a stream, and one that does not read it."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import orjson
import pytest
from yarl import URL

from moa.catalog import Wire
from tests.providers.dialects import OpenAIDialect
from tests.providers.vendor_server import Scripted, VendorServer
from tests.serving.conftest import ASKED, MODELS, Serving

Start = Callable[..., Awaitable[Serving]]
pytestmark = pytest.mark.parametrize("wire", ["openai"], indirect=True)

ANSWER_BYTES = 64 << 20
PIECE_BYTES = 32 << 10
ON_THE_WAY_BYTES = 32 << 20
"""More than the sockets between a vendor and a client hold (about 14 MB here, at most)."""


@asynccontextmanager
async def asking(served: Serving, wire: Wire) -> AsyncIterator[socket.socket]:
    """A connection over which a stream was asked for, with hardly any room for the answer."""
    body = orjson.dumps({"model": MODELS[wire], "messages": ASKED, "stream": True})
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
    loop = asyncio.get_running_loop()
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.setblocking(False)
        await loop.sock_connect(client, ("127.0.0.1", URL(served.base_url).port))
        await loop.sock_sendall(client, head.encode() + body)
        yield client


async def test_a_client_that_hangs_up_in_a_stream_is_seen_upstream(
    vendor_served: Serving, vendor: VendorServer, wire: Wire
) -> None:
    vendor.script(Scripted(events=OpenAIDialect().stream("Sun", "ny"), cut_after=3, hang=True))

    async with asyncio.timeout(10), asking(vendor_served, wire) as client:
        seen = b""
        while b"ny" not in seen:
            seen += await asyncio.get_running_loop().sock_recv(client, 1 << 16)
        client.close()
        await vendor.hung_up.wait()

    assert b"Sun" in seen


async def test_a_client_that_does_not_read_is_cut_off_and_nothing_piles_up(
    begin_vendor_served: Start, vendor: VendorServer, wire: Wire
) -> None:
    served = await begin_vendor_served("calls.total_s=2")
    piece = OpenAIDialect().delta({"content": "x" * PIECE_BYTES})
    events = (piece,) * (ANSWER_BYTES // PIECE_BYTES) + OpenAIDialect().stream()[1:]
    vendor.script(Scripted(events=events))

    async with asyncio.timeout(30), asking(served, wire) as client:
        await vendor.hung_up.wait()
        came = await _until_closed(client)

    assert len(came) < ON_THE_WAY_BYTES
    assert b"[DONE]" not in came
    assert served.endpoint.caller.in_flight() == 0
    assert served.tally.total("moa_clients_left") == 1


async def _until_closed(client: socket.socket) -> bytes:
    came = bytearray()
    while data := await asyncio.get_running_loop().sock_recv(client, 1 << 20):
        came += data
    return bytes(came)
