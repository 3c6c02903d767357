"""A vendor on localhost: it gives scripted answers and keeps what it was sent."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field
from typing import Any, Self

import orjson
from aiohttp import web


@dataclass(frozen=True, slots=True)
class Scripted:
    """One answer, and what goes wrong with it."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    events: tuple[bytes, ...] | None = None
    """Server-sent events, instead of a body."""
    cut_after: int | None = None
    """Bytes of the body, or events, after which the connection is reset."""
    hang: bool = False
    """Nothing more comes after `cut_after`, or at all."""


def answer(
    document: object, *, status: int = 200, headers: dict[str, str] | None = None
) -> Scripted:
    return Scripted(status, orjson.dumps(document), headers or {})


@dataclass(frozen=True, slots=True)
class Received:
    """One request as it came in."""

    path: str
    headers: dict[str, str]
    """Names in lower case."""
    body: dict[str, Any]
    peer: Any
    """The connection's other end: the same for calls over one connection."""


class VendorServer:
    """Answers POSTs to any path, in the script's order; the last answer is repeated."""

    def __init__(self) -> None:
        self.requests: list[Received] = []
        self.reached = asyncio.Event()
        self.hung_up = asyncio.Event()
        """Set when a client leaves before its answer has ended."""
        self.base_url = ""
        self._script: deque[Scripted] = deque()
        self._by_path: dict[str, Scripted] = {}

    def script(self, *answers: Scripted) -> None:
        self._script = deque(answers)

    def script_by_path(self, answers: dict[str, Scripted]) -> None:
        """The same answer to each call of a path, whatever comes when."""
        self._by_path = answers

    async def __aenter__(self) -> Self:
        app = web.Application(client_max_size=64 << 20)
        app.router.add_post("/{path:.*}", self._serve)
        self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        port = self._runner.addresses[0][1]
        self.base_url = f"http://127.0.0.1:{port}"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        raw = await request.read()
        document = orjson.loads(raw) if request.content_type == "application/json" else {}
        peer = request.transport.get_extra_info("peername") if request.transport else None
        headers = {name.lower(): value for name, value in request.headers.items()}
        self.requests.append(Received(request.path_qs, headers, document, peer))
        self.reached.set()
        scripted = self._by_path.get(request.path) or (
            self._script.popleft() if len(self._script) > 1 else self._script[0]
        )
        try:
            return await self._answer(request, scripted)
        except (asyncio.CancelledError, ConnectionResetError):
            self.hung_up.set()
            raise

    async def _answer(self, request: web.Request, scripted: Scripted) -> web.StreamResponse:
        if scripted.events is not None:
            return await self._stream(request, scripted, scripted.events)
        if not scripted.hang and scripted.cut_after is None:
            headers = {"Content-Type": "application/json", **scripted.headers}
            return web.Response(status=scripted.status, body=scripted.body, headers=headers)
        response = web.StreamResponse(status=scripted.status, headers=scripted.headers)
        response.content_length = len(scripted.body)
        await response.prepare(request)
        await response.write(scripted.body[: scripted.cut_after or 0])
        await self._break_off(request, scripted)
        return response

    async def _stream(
        self, request: web.Request, scripted: Scripted, events: tuple[bytes, ...]
    ) -> web.StreamResponse:
        headers = {"Content-Type": "text/event-stream", **scripted.headers}
        response = web.StreamResponse(status=scripted.status, headers=headers)
        await response.prepare(request)
        for event in events[: scripted.cut_after]:
            await response.write(event)
            await asyncio.sleep(0)
        if scripted.hang or scripted.cut_after is not None:
            await self._break_off(request, scripted)
        return response

    async def _break_off(self, request: web.Request, scripted: Scripted) -> None:
        if scripted.hang:
            await asyncio.sleep(60)
        assert request.transport is not None
        request.transport.close()
