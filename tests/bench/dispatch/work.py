"""What a side is given to do, and what it has to say for itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from moa.catalog import Wire

SDK_TIMEOUT_S = 600.0
"""The SDKs' default, and the job's."""


@dataclass(frozen=True, slots=True)
class Work:
    """The calls of one side. Equal work is equal prompts, which meet equal latencies and faults."""

    wire: Wire
    server_url: str
    calls: int
    in_flight: int
    """At once, per account."""
    warm_up: int = 20
    """Calls before the clock starts."""
    accounts: int = 1
    """Keys, each with a model of its own; calls take turns."""
    rpm: float | None = None
    """What each of them is allowed."""
    timeout_s: float = SDK_TIMEOUT_S
    attempts: int = 1
    """Of the bare loop, for one query; others try again as they are made to."""

    def prompts(self, *, warm_up: bool = False) -> list[str]:
        """One a call, all different."""
        word, count = ("warm", self.warm_up) if warm_up else ("query", self.calls)
        return [f"{word} {n}: how many primes below {n}?" for n in range(count)]

    def api_names(self, name: str) -> list[str]:
        """One an account: the server keeps its books by these."""
        return [name] if self.accounts == 1 else [f"{name}-{n}" for n in range(self.accounts)]


def key_of(account: int) -> str:
    """A key that the server takes."""
    return f"replay-{account}"


@dataclass(slots=True)
class Tally:
    """What became of the calls."""

    answered: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    """Queries without an answer, by the error that was the last."""

    @property
    def lost(self) -> int:
        """Queries without an answer."""
        return self.failed.total()


class Side(Protocol):
    """Somebody who makes calls. Opened inside an event loop."""

    def prepare(self, prompts: Sequence[str]) -> None:
        """Do what is done before the clock starts."""
        ...

    async def run(self) -> Tally:
        """Make the calls that were prepared."""
        ...

    async def close(self) -> None:
        """Close the connections."""
        ...
