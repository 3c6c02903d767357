"""How many calls one line has out: as many as help, and no more than it may."""

from __future__ import annotations

import asyncio
import math
from collections import deque

LEAST_RESULTS = 16
"""Of a round, whose results are judged together: about as many as are out at once."""
OVERLOADED = 0.1
"""Share of a round that fails for being too much. Fewer is chance: some always fail."""
SLOWED = 2.0
"""Times the usual latency: then calls wait at the vendor, where they help nobody."""
LESS = 0.7
MORE = 1 / 16
"""Of what it is, added after a round without trouble."""
USUAL = 0.1
"""Weight of the latest round in what is usual."""


class Congestion:
    """Additive increase and multiplicative decrease, by rounds of about one round trip each."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._limit = float(most)
        self._results = 0
        self._too_much = 0
        self._answers = 0
        self._slowness = 0.0
        self._usual: float | None = None

    @property
    def limit(self) -> int:
        """Calls that may be out."""
        return max(1, int(self._limit))

    def answered(self, slowness: float) -> None:
        """An answer came, after so many times what it was expected to take."""
        self._answers += 1
        self._slowness += slowness
        self._count()

    def too_much(self) -> None:
        """A call failed because the vendor has too much to do."""
        self._too_much += 1
        self._count()

    def _count(self) -> None:
        self._results += 1
        if self._results < max(LEAST_RESULTS, self.limit):
            return
        slowness = self._slowness / self._answers if self._answers else None
        if self._too_much > OVERLOADED * self._results or self._is_slow(slowness):
            self._limit = max(1.0, self._limit * LESS)
        else:
            self._limit = min(float(self._most), self._limit + max(1.0, MORE * self._limit))
        if slowness is not None:
            usual = slowness if self._usual is None else self._usual
            self._usual = usual + USUAL * (slowness - usual)
        self._results = self._too_much = self._answers = 0
        self._slowness = 0.0

    def _is_slow(self, slowness: float | None) -> bool:
        if slowness is None or self._usual is None:
            return False
        return slowness > SLOWED * self._usual


class InFlight:
    """The calls that are out, below limits that change."""

    def __init__(self, most: int) -> None:
        self.congestion = Congestion(most)
        self.out = 0
        self._share = math.inf
        self._waiting: deque[asyncio.Future[None]] = deque()

    def allow(self, share: int | None) -> None:
        """The line's share of what the account may have out; `None` is without a limit."""
        self._share = math.inf if share is None else share
        self._wake()

    async def take(self) -> None:
        """Wait until one more may go out."""
        while self.out >= min(self.congestion.limit, self._share):
            free = asyncio.get_running_loop().create_future()
            self._waiting.append(free)
            try:
                await free
            except asyncio.CancelledError:
                self._wake()  # it may have been woken for nothing
                raise
        self.out += 1
        self._wake()  # there may be room for another

    def release(self) -> None:
        """One has come back."""
        self.out -= 1
        self._wake()

    def _wake(self) -> None:
        while self._waiting and self.out < min(self.congestion.limit, self._share):
            free = self._waiting.popleft()
            if not free.done():
                free.set_result(None)
                return
