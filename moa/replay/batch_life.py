"""One batch: when it and its requests begin and end, on its vendor's clock."""

from __future__ import annotations

import math
import time
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple

from moa.catalog import Wire
from moa.replay.script import Batches, BatchFate
from moa.replay.wire import Answer, Asked, Trouble

State = Literal["waiting", "running", "finalizing", "cancelling", "ended"]
End = Literal["completed", "failed", "expired", "cancelled"]


class Clock:
    """A vendor's time, in seconds since 1970: the machine's, or faster.

    It never goes back, and never falls behind the machine's.

    Args:
        machine: monotonic seconds.
    """

    def __init__(self, machine: Callable[[], float] = time.monotonic) -> None:
        self._machine = machine
        self._machine_s = machine()
        self._vendor_s = time.time()
        self._scale = 1.0

    def now(self) -> float:
        """The vendor's time."""
        return self._vendor_s + (self._machine() - self._machine_s) * self._scale

    def go(self, scale: float) -> None:
        """Go at another speed from now on."""
        self._vendor_s, self._machine_s = self.now(), self._machine()
        self._scale = scale

    def monotonic(self, vendor_s: float) -> float:
        """The machine's monotonic clock at one of the vendor's moments, as if the speed had always
        been what it is.
        """
        return self._machine_s + (vendor_s - self._vendor_s) / self._scale


@dataclass(slots=True)
class Row:
    """A request of a batch."""

    number: int
    """From 0, in order of submission."""
    custom_id: str
    asked: Asked | None
    """`None` when it could not be read."""
    model: str
    prompt: int
    outcome: Answer | Trouble
    """What becomes of it when its turn comes."""
    line: bytes = b""
    """As it was submitted, where the vendor gives that back."""


class Failure(NamedTuple):
    """Why all of a batch fails."""

    code: str
    message: str
    line: int | None = None


@dataclass(slots=True)
class Batch:
    """Rows in order of ending; times are the vendor's, `inf` for never."""

    id: str
    provider: Wire
    owner: str
    """Who may see it."""
    key: str
    model: str
    """As `Row.model`."""
    rows: list[Row]
    ends: list[float]
    """When each row does."""
    answered: list[int]
    """How many of its first 0, 1, 2… rows have an answer."""
    created_s: float
    runs_s: float
    finalizes_s: float
    ends_s: float
    expires_s: float
    end: End
    failure: Failure | None = None
    cancel_s: float | None = None
    cancels: int = 0
    fetches: int = 0
    looks: int = 0
    settled: int = 0
    """So many of its rows have been looked at for the bill."""
    billed: int = 0
    deleted: bool = False

    def state(self, now_s: float) -> State:
        """Where it stands."""
        if now_s >= self.ends_s:
            return "ended"
        if self.cancel_s is not None:
            return "cancelling"
        if now_s < self.runs_s:
            return "waiting"
        return "running" if now_s < self.finalizes_s else "finalizing"

    def done(self, now_s: float) -> int:
        """How many of its rows have ended by themselves."""
        return bisect_right(self.ends, min(now_s, self.ends_s))

    def finished(self) -> list[Row]:
        """Rows that ended by themselves, once the batch has ended."""
        return self.rows[: self.done(math.inf)]

    def unfinished(self) -> list[Row]:
        """The others."""
        return self.rows[self.done(math.inf) :]

    def tally(self, now_s: float) -> tuple[int, int]:
        """How many rows were answered, and how many failed."""
        done = self.done(now_s)
        answered = self.answered[done]
        return answered, done - answered


@dataclass(frozen=True, slots=True)
class Plan:
    """When a batch and its rows are to begin and end, unless it is cancelled."""

    created_s: float
    runs_s: float
    finalizes_s: float
    ends_s: float
    expires_s: float
    ends: list[float] = field(repr=False)
    end: End = "completed"

    @classmethod
    def of(cls, script: Batches, now_s: float, rows: int) -> Plan:
        """As the script has it when nothing goes wrong."""
        runs_s = now_s + script.waits_s
        takes_s = script.takes_s + script.per_request_s * rows
        last_s = runs_s + takes_s
        ends = [runs_s + takes_s * (rank + 1) / rows for rank in range(rows)]
        return cls(
            created_s=now_s,
            runs_s=runs_s,
            finalizes_s=last_s,
            ends_s=last_s + script.finalizes_s,
            expires_s=now_s + script.expires_after_s,
            ends=[min(end_s, last_s) for end_s in ends],
        )

    def failing(self) -> Plan:
        """It is found to be none when it is looked through."""
        never = [math.inf] * len(self.ends)
        return replace(self, ends=never, ends_s=self.runs_s, end="failed")

    def slowed(self, fate: BatchFate, script: Batches) -> Plan:
        """Rows beyond a share never end."""
        if fate == "stuck":
            share, ends_s = script.finished_when_stuck, math.inf
        else:
            share, ends_s = 1 - script.unfinished_when_expired, self.expires_s
        kept = round(share * len(self.ends))
        ends = [*self.ends[:kept], *[math.inf] * (len(self.ends) - kept)]
        end: End = "completed" if fate == "stuck" else "expired"
        return replace(self, ends=ends, ends_s=ends_s, finalizes_s=ends_s, end=end)

    def until_expiry(self, keeps: bool) -> Plan:
        """No batch but a stuck one outlives its expiry."""
        if self.end == "expired" or self.expires_s < self.ends_s < math.inf:
            never = [math.inf] * len(self.ends)
            ends = self.ends if keeps else never
            return replace(self, ends=ends, ends_s=self.expires_s, end="expired")
        return self
