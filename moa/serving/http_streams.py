"""How answers go out and requests come in: server-sent events, bodies, clients that hang up."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from contextlib import aclosing
from typing import Any, TypeVar

import structlog
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from moa.errors import Refusal
from moa.serving.chat_wire import ChatStream, error_document, event
from moa.serving.endpoint import Endpoint
from moa.serving.inquiry import Inquiry, Piece
from moa.serving.response_frames import ResponseFrame, ResponseStream

BODY_S = 60.0
"""That a request's body may take."""
LAST_WORDS_S = 1.0
"""That a client whose answer took too long has to take the error that says so."""
log = structlog.get_logger()
T = TypeVar("T")


class EventStream(Response):
    """Server-sent events, until they end, the client hangs up, or does not take them.

    Args:
        events: made as they are taken: a client that stops reading stops its vendor, and what
            waits for it is what the sockets on the way hold.
        headers: of the answer.
        total_s: that it may take; who has not taken all by then is cut off.
    """

    media_type = "text/event-stream"

    def __init__(
        self, events: AsyncGenerator[bytes, None], headers: dict[str, str], total_s: float
    ) -> None:
        self._events = events
        self._total_s = total_s
        self.on_end: Callable[[], None] = _nobody
        super().__init__(
            b"", headers={**headers, "cache-control": "no-cache", "x-accel-buffering": "no"}
        )
        del self.headers["content-length"]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See `Response.__call__`."""
        try:
            async with asyncio.timeout(self._total_s):
                await unless_left(receive, self._send(send))
        except ClientDisconnect:
            pass
        except TimeoutError:  # an answer without its end makes the server close the connection
            log.warning("client.cut_off", total_s=self._total_s)
        finally:
            self.on_end()

    async def _send(self, send: Send) -> None:
        start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        async with aclosing(self._events) as events:
            await send(start)
            async for data in events:
                await send({"type": "http.response.body", "body": data, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def _nobody() -> None:
    """Nobody wants to know when a stream has ended."""


async def unless_left(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """Do some work, but cancel it when the client hangs up.

    Raises:
        ClientDisconnect: it has.
    """
    working = asyncio.ensure_future(work)
    watching = asyncio.ensure_future(_gone(receive))
    try:
        await asyncio.wait({working, watching}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise ClientDisconnect
    finally:
        watching.cancel()
        if not working.done():
            working.cancel()
            await asyncio.wait({working})


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def read_body(request: Request, most: int) -> bytes:
    """The body, as long as it is not too long.

    Raises:
        Refusal: 413, or 408: it does not come.
    """
    too_long = Refusal(
        f"the body is longer than {most} bytes", status=413, code="request_too_large"
    )
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared[:20]) > most:
        raise too_long
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_S):
            async for data in request.stream():
                body += data
                if len(body) > most:
                    raise too_long
    except TimeoutError:
        raise Refusal(f"the body did not come within {BODY_S:g} s", status=408) from None
    return bytes(body)


def too_long(total_s: float) -> Refusal:
    """All the time that a request may take is over."""
    return Refusal(
        f"the answer took longer than {total_s:g} s",
        status=504,
        kind="api_error",
        code="total_timeout",
    )


def event_stream(
    events: AsyncGenerator[bytes, None], headers: dict[str, str], total_s: float
) -> EventStream:
    """Events for as long as a request may take."""
    return EventStream(_guarded(events, total_s), headers, total_s + LAST_WORDS_S)


async def _guarded(
    events: AsyncGenerator[bytes, None], total_s: float
) -> AsyncGenerator[bytes, None]:
    until = time.monotonic() + total_s
    async with aclosing(events) as coming:
        while True:
            try:
                async with asyncio.timeout(max(0.0, until - time.monotonic())):
                    data = await anext(coming, None)
            except TimeoutError:
                yield event(error_document(too_long(total_s)))
                return
            if data is None:
                return
            yield data


async def _all(
    first: Sequence[Piece], pieces: AsyncGenerator[Piece, None]
) -> AsyncGenerator[Piece, None]:
    async with aclosing(pieces):
        for piece in first:
            yield piece
        async for piece in pieces:
            yield piece


async def chat_events(
    endpoint: Endpoint,
    inquiry: Inquiry,
    stream: ChatStream,
    pieces: AsyncGenerator[Piece, None],
    first: Sequence[Piece],
) -> AsyncGenerator[bytes, None]:
    """An answer in chunks."""
    begun: set[int] = set()
    try:
        async with aclosing(_all(first, pieces)) as coming:
            async for piece in coming:
                data = b"" if piece.number in begun else stream.begin(piece.number)
                begun.add(piece.number)
                data += stream.piece(piece.delta, piece.number)
                if piece.delta.completion is not None:
                    data += stream.end(piece.delta.completion, piece.number)
                yield data
    except Refusal as refusal:
        yield event(error_document(refusal))
        return
    yield stream.close(
        inquiry.usage, endpoint.explanation(inquiry) if inquiry.asked.explain else None
    )


async def response_events(
    endpoint: Endpoint,
    inquiry: Inquiry,
    frame: ResponseFrame,
    pieces: AsyncGenerator[Piece, None],
    first: Sequence[Piece],
) -> AsyncGenerator[bytes, None]:
    """A response's events."""
    stream = ResponseStream(frame)
    data = stream.begin()
    try:
        async with aclosing(_all(first, pieces)) as coming:
            async for piece in coming:
                data += stream.piece(piece.delta)
                if data:
                    yield data
                data = b""
    except Refusal as refusal:
        yield data + stream.failed(refusal)
        return
    moa = endpoint.explanation(inquiry) if inquiry.asked.explain else None
    yield data + stream.end(inquiry.completions[0], inquiry.usage, moa)
