"""Several streams as one, in the order in which their pieces come."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import TypeVar

T = TypeVar("T")
AHEAD = 16
"""Pieces that nobody has taken yet: who reads slowly slows the streams down."""


async def merged(
    streams: Sequence[AsyncGenerator[T, None]],
) -> AsyncGenerator[tuple[int, T], None]:
    """The pieces of all streams with the streams' numbers. Closing it closes all of them.

    Raises:
        Exception: the first that one of them raises; the others are closed.
    """
    queue: asyncio.Queue[tuple[int, T] | Exception | None] = asyncio.Queue(AHEAD)

    async def read(number: int, stream: AsyncGenerator[T, None]) -> None:
        try:
            async with aclosing(stream) as pieces:
                async for piece in pieces:
                    await queue.put((number, piece))
        except Exception as error:  # whatever it is, it is raised where the pieces are read
            await queue.put(error)
        else:
            await queue.put(None)

    tasks = [asyncio.create_task(read(n, stream)) for n, stream in enumerate(streams)]
    try:
        left = len(tasks)
        while left:
            got = await queue.get()
            if got is None:
                left -= 1
            elif isinstance(got, Exception):
                raise got
            else:
                yield got
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
