"""A circuit breaker: when a model's vendor is out, stop asking it and look again now and then."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

OPENS_AFTER = 5
"""Failures in a row, of different queries: one query that always fails opens nothing."""
FIRST_PAUSE_S = 5.0
LONGEST_PAUSE_S = 60.0
LOOK_AGAIN_S = 10.0
"""While a probe is out: it may hang, and those who wait may have something better to do by then."""


class Breaker:
    """Closed: calls go through. Open: none do, until a pause is over; then one probe."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._failed: set[str] = set()
        self._pause_s = FIRST_PAUSE_S
        self._probe_at: float | None = None
        self._probe: str | None = None
        """The query whose call is out to find out; others that are out were sent before."""
        self._opened_at = 0.0
        self._news = asyncio.Event()

    def open_s(self) -> float:
        """Seconds since it opened; 0 when closed."""
        return 0.0 if self._probe_at is None else self._clock() - self._opened_at

    def wait_s(self) -> float:
        """Seconds until a call may be tried, as far as is known: 0 when closed, or when a probe is
        due.
        """
        if self._probe_at is None:
            return 0.0
        if self._probe is not None:
            return self._pause_s
        return max(0.0, self._probe_at - self._clock())

    def admit(self, query_id: str) -> bool:
        """Whether a call may be sent now. The one admitted while open is the probe: its fate, or
        `release`, must be told.
        """
        if self._probe_at is None:
            return True
        if self._probe is not None or self._clock() < self._probe_at:
            return False
        self._probe = query_id
        return True

    def release(self, query_id: str) -> None:
        """The admitted call was not sent after all, or says nothing: another may be the probe."""
        if self._probe == query_id:
            self._end_probe()

    async def wait(self) -> None:
        """Return when `admit` should be asked again."""
        self._news.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LOOK_AGAIN_S if self._probe is not None else self.wait_s()):
                await self._news.wait()

    def answered(self) -> None:
        """The vendor answered: whatever it said, it is there."""
        self._failed.clear()
        self._pause_s = FIRST_PAUSE_S
        self._probe_at = None
        self._end_probe()

    def failed(self, query_id: str) -> None:
        """A call ended without an answer, or with the vendor's own failure."""
        self._failed.add(query_id)
        if self._probe == query_id:
            self._pause_s = min(LONGEST_PAUSE_S, 2 * self._pause_s)
            self._probe_at = self._clock() + self._pause_s
            self._end_probe()
        elif self._probe_at is None and len(self._failed) >= OPENS_AFTER:
            self._opened_at = self._clock()
            self._probe_at = self._opened_at + self._pause_s

    def _end_probe(self) -> None:
        self._probe = None
        self._news.set()
