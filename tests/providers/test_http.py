from __future__ import annotations

import asyncio

import pytest
from yarl import URL

from moa.errors import TransientError
from moa.providers.http import Transport, header_lines, proxy_for
from tests.providers.vendor_server import Scripted, VendorServer


async def events_of(server: VendorServer, *pieces: bytes) -> list[bytes]:
    """The events of a body that comes in these pieces."""
    server.script(Scripted(events=pieces))
    transport = Transport({})
    try:
        async with transport.stream(URL(server.base_url), b"{}", timeout_s=10) as incoming:
            return [event async for event in incoming.events()]
    finally:
        await transport.close()


BODY = b": hello\r\nevent: a\r\ndata: one\r\n\r\ndata:two\ndata: three\n\nid: 4\ndata: \xc3\xa9\n\n"


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
async def test_events_do_not_depend_on_how_the_body_comes(
    vendor_server: VendorServer, size: int
) -> None:
    pieces = [BODY[at : at + size] for at in range(0, len(BODY), size)]

    events = await events_of(vendor_server, *pieces)

    assert events == [b"one", b"two\nthree", "\u00e9".encode()]


async def test_the_last_event_needs_no_blank_line(vendor_server: VendorServer) -> None:
    events = await events_of(vendor_server, b"data: one\n\n", b"data: two")

    assert events == [b"one", b"two"]


async def test_an_event_may_be_megabytes_long(vendor_server: VendorServer) -> None:
    long = b"x" * 3_000_000

    events = await events_of(vendor_server, b"data: " + long + b"\n\n")

    assert events == [long]


async def test_many_calls_are_out_at_once(vendor_server: VendorServer) -> None:
    vendor_server.script(Scripted(hang=True))
    transport = Transport({})
    calls = [
        asyncio.create_task(transport.post(URL(vendor_server.base_url), b"{}", timeout_s=30))
        for _ in range(150)
    ]

    async with asyncio.timeout(10):
        while len(vendor_server.requests) < 150:  # noqa: ASYNC110 - the server counts, not signals
            await asyncio.sleep(0.01)

    for call in calls:
        call.cancel()
    await asyncio.wait(calls)
    await transport.close()
    assert len({received.peer for received in vendor_server.requests}) == 150


async def test_calls_one_after_another_share_a_connection(vendor_server: VendorServer) -> None:
    vendor_server.script(Scripted(body=b"{}"))
    transport = Transport({})

    for _ in range(3):
        await transport.post(URL(vendor_server.base_url), b"{}", timeout_s=10)

    await transport.close()
    assert len({received.peer for received in vendor_server.requests}) == 1


async def test_a_body_of_megabytes_is_sent_without_a_warning(vendor_server: VendorServer) -> None:
    vendor_server.script(Scripted(body=b"{}"))
    transport = Transport({})
    body = b'{"text": "' + b"x" * 3_000_000 + b'"}'

    reply = await transport.post(URL(vendor_server.base_url), body, timeout_s=10)

    await transport.close()
    assert reply.status == 200
    assert len(vendor_server.requests[0].body["text"]) == 3_000_000


async def test_a_closed_transport_fails_calls_that_are_out(vendor_server: VendorServer) -> None:
    vendor_server.script(Scripted(hang=True))
    transport = Transport({})
    call = asyncio.create_task(transport.post(URL(vendor_server.base_url), b"{}", timeout_s=30))
    await vendor_server.reached.wait()

    await transport.close()

    with pytest.raises(TransientError):
        await call


@pytest.mark.parametrize(
    ("url", "environ", "proxy"),
    [
        ("https://api.example.com", {"HTTPS_PROXY": "http://p:1"}, "http://p:1"),
        ("https://api.example.com", {"https_proxy": "http://p:1"}, "http://p:1"),
        ("https://api.example.com", {"ALL_PROXY": "http://p:1"}, "http://p:1"),
        ("https://api.example.com", {"HTTP_PROXY": "http://p:1"}, None),
        ("https://api.example.com", {"HTTPS_PROXY": "http://p:1", "NO_PROXY": "example.com"}, None),
        ("http://127.0.0.1:80", {"HTTP_PROXY": "http://p:1"}, None),
        ("https://api.example.com", {}, None),
    ],
)
def test_the_environments_proxy_is_heeded(
    url: str, environ: dict[str, str], proxy: str | None
) -> None:
    assert proxy_for(URL(url), environ) == proxy


def test_header_lines_are_read_as_the_sdks_do() -> None:
    assert header_lines("A: 1\n B : x:y \nnone\n: empty\n") == {"A": "1", "B": "x:y"}
