"""Bodies of calls: they note when they leave, and a large one is not held twice."""

from __future__ import annotations

import io
from collections.abc import Sequence

import aiohttp
from aiohttp.abc import AbstractStreamWriter

JSON = "application/json"

_LARGE_BODY_BYTES = 1 << 20
"""aiohttp writes bytes in one go, and warns above this; a file object is written in parts."""

_PART_BYTES = 1 << 18
"""About how much of many pieces is joined and written at once."""


class Noting(aiohttp.Payload):
    """A body that notes when it leaves. aiohttp's tracing would say so too, for 12 µs."""

    sent = False
    """Whether any of the request may have reached the vendor; headers leave with the body."""

    async def write_with_length(
        self, writer: AbstractStreamWriter, content_length: int | None
    ) -> None:
        """As its class does."""
        self.sent = True
        await super().write_with_length(writer, content_length)


class _Body(Noting, aiohttp.BytesPayload):
    """Written in one go."""


class _LargeBody(Noting, aiohttp.BytesIOPayload):
    """Written in parts."""


class _Pieces(Noting):
    """Many pieces, one after the other: the file of a batch has tens of thousands of lines."""

    def __init__(self, pieces: Sequence[bytes]) -> None:
        super().__init__(pieces)
        self._pieces = pieces
        self._size = sum(map(len, pieces))

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        """All of it as text."""
        return b"".join(self._pieces).decode(encoding, errors)

    async def write(self, writer: AbstractStreamWriter) -> None:
        """Write it in parts; `writer` waits while the other side reads slowly."""
        part: list[bytes] = []
        waiting_bytes = 0
        for piece in self._pieces:
            part.append(piece)
            waiting_bytes += len(piece)
            if waiting_bytes >= _PART_BYTES:
                await writer.write(b"".join(part))
                part, waiting_bytes = [], 0
        await writer.write(b"".join(part))


def body_of(content: bytes | Sequence[bytes]) -> Noting:
    """A body of bytes, or of pieces. What it is, the call's headers say."""
    if not isinstance(content, bytes):
        return _Pieces(content)
    if len(content) < _LARGE_BODY_BYTES:
        return _Body(content, content_type=JSON)
    return _LargeBody(io.BytesIO(content), content_type=JSON)
