"""How a run is told: a live line on a terminal, events in a log."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TextIO

import structlog

from moa.pipeline.details import Progress

LINE_EVERY_S = 0.5
EVENT_EVERY_S = 10.0
FEWEST_FOR_A_PACE = 0.02
"""Share of the queries; the first seconds of a run say nothing of its pace."""

log = structlog.get_logger()


class LiveLine:
    """One line of a terminal, written over and over."""

    def __init__(self, out: TextIO, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._out = out
        self._pace = Pace(LINE_EVERY_S, clock)

    def __call__(self, progress: Progress) -> None:
        """Show where the run stands."""
        if self._pace.due(progress):
            self._out.write(f"\r\x1b[2K{line(progress, self._pace.per_s)}")
            self._out.flush()

    def end(self) -> None:
        """Leave the line as it is, and go to the next one."""
        self._out.write("\n")


class Events:
    """The same as structured events."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._pace = Pace(EVENT_EVERY_S, clock)

    def __call__(self, progress: Progress) -> None:
        """Log where the run stands."""
        if self._pace.due(progress):
            told = {k: v for k, v in progress._asdict().items() if k != "details"}
            log.info(
                "run.progressed",
                **{**told, "spent_usd": float(progress.spent_usd)},
                per_s=round(self._pace.per_s, 2),
                left_s=left_s(progress, self._pace.per_s),
            )

    def end(self) -> None:
        """Nothing is left open."""


class Pace:
    """Says when it is time to tell, and how many queries this start gets done a second."""

    def __init__(self, every_s: float, clock: Callable[[], float]) -> None:
        self._every_s = every_s
        self._clock = clock
        self._told_at = -every_s
        self._turn = (False, False)
        """Whether the run has ended, whether it drains: told at once when it changes."""
        self._began_at: float | None = None
        self.per_s = 0.0

    def due(self, progress: Progress) -> bool:
        """Whether it is; it is asked each time that there is something to tell."""
        now = self._clock()
        fresh = progress.done - progress.earlier
        if self._began_at is None and (fresh or progress.in_flight):
            self._began_at = now
        if self._began_at is not None and now > self._began_at:
            self.per_s = fresh / (now - self._began_at)
        turn = (progress.done >= progress.queries, progress.draining)
        if now - self._told_at < self._every_s and turn == self._turn:
            return False
        self._told_at = now
        self._turn = turn
        return True


def left_s(progress: Progress, per_s: float) -> int | None:
    """Seconds until the end at this pace; `None` while there is none to speak of."""
    return _takes_s(progress.queries - progress.done, progress, per_s)


def in_hand_s(progress: Progress, per_s: float) -> int | None:
    """Likewise until what dispatchers have in hand is done, without batches: no run ends sooner."""
    return _takes_s(progress.waiting + progress.in_flight, progress, per_s)


def _takes_s(queries: int, progress: Progress, per_s: float) -> int | None:
    fresh = progress.done - progress.earlier
    if not per_s or fresh < FEWEST_FOR_A_PACE * (progress.queries - progress.earlier):
        return None
    return round(queries / per_s)


def line(progress: Progress, per_s: float) -> str:
    """Done, in flight, rate, spend so far, time left, in one line of less than 120 characters."""
    share = progress.done / progress.queries if progress.queries else 1.0
    left = left_s(progress, per_s)
    parts = [
        f"{progress.done:,}/{progress.queries:,} ({share:.0%})",
        f"{progress.in_flight:,} in flight",
        f"{per_s:,.0f}/s",
        f"${progress.spent_usd:,.4f}",
        _rest(progress, left),
    ]
    if progress.in_batches:
        parts.insert(2, f"{progress.in_batches:,} in batches")
    if progress.dead:
        parts.append(f"{progress.dead:,} dead letters")
    if progress.retried:
        parts.append(f"{progress.retried:,} retries")
    return "  ".join(parts)


def _rest(progress: Progress, left: int | None) -> str:
    if progress.draining:
        return "stopping: waiting for what is out; Ctrl-C again ends it at once"
    if left is not None:
        return f"{_duration(left)} left"
    return "deciding" if progress.deciding else "starting"


def _duration(seconds: int) -> str:
    hours, rest = divmod(seconds, 3600)
    minutes, seconds = divmod(rest, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}"
