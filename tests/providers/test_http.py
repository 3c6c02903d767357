from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import pytest
from yarl import URL

from moa.errors import ConfigError, KeyRefused, TransientError
from moa.providers.http import Transport, base_url, failure, header_lines, proxy_for
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


@pytest.mark.parametrize(
    ("value", "proxy"),
    [("proxy.example:3128", "http://proxy.example:3128"), ("https://p:1", "https://p:1")],
)
def test_a_proxy_without_a_scheme_is_an_http_proxy(value: str, proxy: str) -> None:
    assert proxy_for(URL("https://api.example.com"), {"HTTPS_PROXY": value}) == proxy


@pytest.mark.parametrize("value", ["socks5://user:secret@p:1080", "http://", "http://p:port"])
def test_a_proxy_that_cannot_be_used_is_named_by_its_variable(value: str) -> None:
    with pytest.raises(ConfigError, match=r"ALL_PROXY=.*http://host:port") as caught:
        proxy_for(URL("https://api.example.com"), {"ALL_PROXY": value})

    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("status", [407, 403])
async def test_a_proxy_that_refuses_us_refuses_the_account(status: int) -> None:
    async with answering(f"HTTP/1.1 {status} No\r\nContent-Length: 0\r\n\r\n") as proxy:
        transport = Transport({}, proxy=proxy)

        with pytest.raises(KeyRefused, match="proxy") as caught:
            await transport.post(URL("https://api.example.com"), b"{}", timeout_s=10)

        await transport.close()
    assert caught.value.status == status


def test_an_address_that_cannot_be_called_refuses_the_account() -> None:
    error = failure(aiohttp.InvalidURL("http://user:secret@"), 10, sent=False)

    assert isinstance(error, KeyRefused)
    assert "secret" not in str(error)


async def test_a_proxy_that_fails_may_be_tried_again() -> None:
    async with answering("HTTP/1.1 502 No\r\nContent-Length: 0\r\n\r\n") as proxy:
        transport = Transport({}, proxy=proxy)

        with pytest.raises(TransientError, match="proxy") as caught:
            await transport.post(URL("https://api.example.com"), b"{}", timeout_s=10)

        await transport.close()
    assert not caught.value.maybe_billed


async def test_time_that_is_up_before_there_is_a_connection_is_not_billed() -> None:
    async with answering("") as proxy:
        transport = Transport({}, proxy=proxy)

        with pytest.raises(TransientError) as caught:
            await transport.post(URL("https://api.example.com"), b"{}", timeout_s=0.2)

        await transport.close()
    assert caught.value.code == "connect"
    assert not caught.value.maybe_billed


async def test_time_that_is_up_after_the_request_has_left_may_be_billed(
    vendor_server: VendorServer,
) -> None:
    vendor_server.script(Scripted(body=b"{}", hang=True))
    transport = Transport({})

    with pytest.raises(TransientError) as caught:
        await transport.post(URL(vendor_server.base_url), b"{}", timeout_s=0.2)

    await transport.close()
    assert caught.value.code == "timeout"
    assert caught.value.maybe_billed


@asynccontextmanager
async def answering(said: str) -> AsyncIterator[str]:
    """The address of a proxy that says this to whatever it is asked, once."""
    over = asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(said.encode())
        await reader.read()  # until whoever asked has left
        writer.close()
        await writer.wait_closed()
        over.set()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        await asyncio.wait_for(over.wait(), 10)


@pytest.mark.parametrize(
    "url",
    ["https://user:secret@api.example.com", "https://x.example/v1?key=secret", "https://x/#secret"],
)
def test_a_base_url_holds_no_secret(url: str) -> None:
    with pytest.raises(ConfigError, match="has more than host and path") as caught:
        base_url(url, where="account 'a'")

    assert "secret" not in str(caught.value)


def test_header_lines_are_read_as_the_sdks_do() -> None:
    assert header_lines("A: 1\n B : x:y \nnone\n: empty\n") == {"A": "1", "B": "x:y"}
