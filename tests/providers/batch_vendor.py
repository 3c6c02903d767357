"""A vendor on localhost: one answer to each method and path; it keeps what it was sent."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import orjson
from aiohttp import web


class Sent(NamedTuple):
    """One call as it came in."""

    method: str
    path: str
    """With its query."""
    headers: dict[str, str]
    """Names in lower case."""
    body: bytes


@dataclass
class BatchVendor:
    """Answers of a status and a document, or of bytes as they are; the last one is repeated."""

    url: str = ""
    sent: list[Sent] = field(default_factory=list)
    _answers: dict[tuple[str, str], list[tuple[int, bytes, dict[str, str]]]] = field(
        default_factory=lambda: defaultdict(list)
    )

    def say(self, call: str, document: object, status: int = 200, **headers: str) -> None:
        """Answer `GET /path` with a document, or with bytes."""
        body = document if isinstance(document, bytes) else orjson.dumps(document)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        method, _, path = call.partition(" ")
        self._answers[method, path].append((status, body, named))

    def bodies(self, call: str) -> list[Any]:
        """The JSON of each such call so far."""
        method, _, path = call.partition(" ")
        return [
            orjson.loads(sent.body)
            for sent in self.sent
            if (sent.method, sent.path.partition("?")[0]) == (method, path)
        ]

    def calls(self) -> list[str]:
        """Methods and paths so far."""
        return [f"{sent.method} {sent.path}" for sent in self.sent]

    async def _serve(self, request: web.Request) -> web.Response:
        headers = {name.lower(): value for name, value in request.headers.items()}
        body = await request.read()
        self.sent.append(Sent(request.method, request.path_qs, headers, body))
        answers = self._answers.get((request.method, request.path))
        if not answers:
            return web.json_response({"error": {"message": "no such thing"}}, status=404)
        status, body, named = answers.pop(0) if len(answers) > 1 else answers[0]
        return web.Response(status=status, body=body, headers=named)


@asynccontextmanager
async def batch_vendor() -> AsyncIterator[BatchVendor]:
    """A vendor that listens."""
    vendor = BatchVendor()
    app = web.Application(client_max_size=1 << 30)
    app.router.add_route("*", "/{path:.*}", vendor._serve)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    vendor.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield vendor
    finally:
        await runner.cleanup()
