"""How many calls one line has out: as many as help, and no more than it may."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable

LEAST_RESULTS = 16
"""Of a round, whose results are judged together: about as many as are out at once."""
OVERLOADED = 0.1
"""Share of a round that fails for being too much. Fewer is chance: some always fail."""
REFUSED = 0.2
"""Of a failure: a round of which half are 429s is lowered."""
SLOWED = 2.0
"""Times the usual latency: then calls wait at the vendor, where they help nobody."""
LESS = 0.7
MORE = 1 / 8
"""Of what it is, added after a round without trouble."""
FULL_AFTER_S = 0.1
JUST_NOW_S = 0.03
USUAL = 0.1
"""Weight of the latest round in what is usual."""


class Congestion:
    """Additive increase and multiplicative decrease, by rounds of about one round trip each."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._limit = float(most)
        self._results = 0
        self._too_much = 0.0
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

    def refused(self) -> None:
        """A 429: a matter of rates, which pauses see to, unless most calls end so."""
        self._too_much += REFUSED
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
        self._results = self._answers = 0
        self._too_much = self._slowness = 0.0

    def _is_slow(self, slowness: float | None) -> bool:
        if slowness is None or self._usual is None:
            return False
        return slowness > SLOWED * self._usual


class _Growth:
    """How many more calls may be out than a moment ago. At once as many as have just come back, and
    then so many a second that all are out after `FULL_AFTER_S`: a vendor whose limits nobody
    knows sees no burst at the start, or after a pause.
    """

    def __init__(self, most: int, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._per_s = most / FULL_AFTER_S
        self._at_once = max(4.0, most / 32)
        self._room = self._at_once
        self._at = clock()

    def wait_s(self) -> float:
        """Seconds until one more may go out."""
        now = self._clock()
        passed_s, self._at = now - self._at, now
        if self._room > self._at_once:
            above = self._room - self._at_once
            self._room = self._at_once + above * math.exp(-passed_s / JUST_NOW_S)
        else:
            self._room = min(self._at_once, self._room + passed_s * self._per_s)
        return max(0.0, 1 - self._room) / self._per_s

    def grow(self) -> None:
        """One goes out."""
        self._room -= 1

    def shrink(self) -> None:
        """One has come back."""
        self._room += 1


class InFlight:
    """The calls that are out, below limits that change."""

    def __init__(self, most: int, clock: Callable[[], float]) -> None:
        self.congestion = Congestion(most)
        self.out = 0
        self._share = math.inf
        self._growth = _Growth(most, clock)
        self._waiting: deque[asyncio.Future[None]] = deque()

    def allow(self, share: int | None) -> None:
        """The line's share of what the account may have out; `None` is without a limit."""
        self._share = math.inf if share is None else share
        self._wake()

    async def take(self) -> None:
        """Wait until one more may go out."""
        while True:
            while self.out >= min(self.congestion.limit, self._share):
                await self._come_back()
            if (wait_s := self._growth.wait_s()) <= 0:
                break
            await asyncio.sleep(wait_s)
        self._growth.grow()
        self.out += 1
        self._wake()  # there may be room for another

    def release(self) -> None:
        """One has come back."""
        self._growth.shrink()
        self.out -= 1
        self._wake()

    async def _come_back(self) -> None:
        free = asyncio.get_running_loop().create_future()
        self._waiting.append(free)
        try:
            await free
        except asyncio.CancelledError:
            self._wake()  # it may have been woken for nothing
            raise

    def _wake(self) -> None:
        while self._waiting and self.out < min(self.congestion.limit, self._share):
            free = self._waiting.popleft()
            if not free.done():
                free.set_result(None)
                return
