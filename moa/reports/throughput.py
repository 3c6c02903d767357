"""When a run's queries were answered, its pauses left out."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal

from moa.reports.tally import OutcomeTally

MOST_BINS = 60


@dataclass(frozen=True, slots=True)
class Moment:
    """A stretch of the run at work: pauses between its starts are left out, within it too."""

    starts_at: datetime
    length_s: float
    queries: int
    """Answered or refused."""
    cost_usd: Decimal


def throughput_of(
    outcomes: OutcomeTally, starts: Sequence[tuple[datetime, datetime]]
) -> tuple[Moment, ...]:
    """Bins of equal length, at most `MOST_BINS`, from the first finished query to the last."""
    if not outcomes.finished:
        return ()
    work = _WorkTime(outcomes, starts)
    finished = [(work.at_ms(when), *amounts) for when, amounts in outcomes.finished.items()]
    first, last = min(finished)[0], max(finished)[0]
    length_ms = _length_ms(last - first + 1)
    first -= first % length_ms
    bins: dict[int, tuple[int, Decimal]] = {}
    for at_ms, queries, cost in finished:
        number = (at_ms - first) // length_ms
        before = bins.get(number, (0, Decimal(0)))
        bins[number] = before[0] + queries, before[1] + cost
    return tuple(
        Moment(
            datetime.fromtimestamp(work.clock_ms(first + n * length_ms) / 1000, UTC),
            length_ms / 1000,
            *bins.get(n, (0, Decimal(0))),
        )
        for n in range((last - first) // length_ms + 1)
    )


class _WorkTime:
    """A clock that begins as all others and stands still between the starts of a run."""

    def __init__(self, outcomes: OutcomeTally, starts: Sequence[tuple[datetime, datetime]]) -> None:
        self._step_ms = outcomes.step_ms
        self._begins_ms = begins_ms = outcomes.begins_ms
        worked_ms = [moment_ms(end) - moment_ms(begin) for begin, end in starts] or [0]
        for number, step in outcomes.finished:  # of a killed start, the noted end is too early
            worked_ms[number] = max(worked_ms[number], (step + 1) * self._step_ms)
        self._at_ms = [begins_ms[0]]
        for number in range(1, len(begins_ms)):
            between_ms = begins_ms[number] - begins_ms[number - 1]
            self._at_ms.append(self._at_ms[-1] + min(worked_ms[number - 1], between_ms))

    def at_ms(self, when: tuple[int, int]) -> int:
        """What it shows at a key of `OutcomeTally.finished`."""
        number, step = when
        return self._at_ms[number] + step * self._step_ms

    def clock_ms(self, at_ms: int) -> int:
        """What all others show then."""
        number = max(0, bisect_right(self._at_ms, at_ms) - 1)
        return self._begins_ms[number] + at_ms - self._at_ms[number]


def moment_ms(at: datetime) -> int:
    """Milliseconds since 1970."""
    return int(at.timestamp() * 1000)


def _length_ms(span_ms: int) -> int:
    """1, 2, 5, 10, ... ms up to a second, then round numbers of seconds, minutes and hours."""
    short = [digit * 10**power for power in range(3) for digit in (1, 2, 5)]
    long = [1000 * s for s in (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600)]
    enough = (length for length in (*short, *long) if length * MOST_BINS >= span_ms)
    hours = -(-span_ms // (MOST_BINS * 3_600_000))
    return next(enough, hours * 3_600_000)
