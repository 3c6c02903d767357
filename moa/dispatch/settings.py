"""What a dispatcher is told, and what it tells."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from types import MappingProxyType
from typing import NamedTuple

from moa.dispatch.retry import RetryPolicy
from moa.dispatch.tallies import Tallied


@dataclass(frozen=True, slots=True)
class DispatchSettings:
    """What a dispatcher is told."""

    max_in_flight: int
    """Calls out at once, per account."""
    total_timeout_s: float
    """Of one call."""
    retry: RetryPolicy
    fallback: bool
    """Whether a query that its model cannot answer goes to its next best."""
    seed: int
    waiting_usd_per_hour: Decimal | None = None
    """What it is worth to have one answer an hour earlier; `None`: more than any other model."""
    max_usd_per_query: Decimal | None = None
    hold_unknown: bool = False
    """Whether a query is not asked again whose call was out when its process died."""
    interactive: bool = False
    """Somebody waits for the answers: these calls go before those of other dispatchers."""
    reserve: float = 0.0
    """Share of each limit that is kept for interactive calls while this dispatcher lives."""


@dataclass(frozen=True, slots=True)
class BatchSettings:
    """What the batch lane is told."""

    deadline_s: float | None = None
    """Since 1970: when all answers shall be there, those of batches that end late included."""
    queue_tokens: Mapping[str, float] = field(default_factory=dict)
    """Catalog id → input tokens that this lane may have in batches at once."""
    max_in_flight: int = 256
    """Live calls out at once, of all replicas: what a late batch's queries could be bought by."""
    replicas: int = 1
    """That have batches out, each about as many: they would share the live lane."""
    max_usd_per_query: Decimal | None = None
    """See `DispatchSettings`."""
    first_look_s: float = 1.0
    longest_look_s: float = 60.0
    """Between two looks at a batch; they grow with its age."""


class LineProgress(NamedTuple):
    """Where one model stands."""

    answered: int = 0
    """Calls, since the dispatcher began."""
    waiting: int = 0
    """Calls."""
    out: bool = False
    """Nothing can be sent to it for now, and perhaps for long."""

    def plus(self, other: LineProgress) -> LineProgress:
        """Of both."""
        return LineProgress(
            self.answered + other.answered, self.waiting + other.waiting, self.out or other.out
        )


class HandedOver(NamedTuple):
    """A finished piece that its dispatcher no longer counts, as its result is under way."""

    done: int
    dead: int
    spent_usd: Decimal


class Progress(NamedTuple):
    """Where a dispatcher stands, without what it was told to forget."""

    of: str
    """Which dispatcher; one that was started again is another."""
    at_s: float
    """Since 1970."""
    done: int
    dead: int
    retried: int
    in_flight: int
    waiting: int
    spent_usd: Decimal
    unsettled: Mapping[str, int]
    """Provider → assignments without an outcome, by the provider that was decided on."""
    in_batches: int = 0
    """Queries in batches that have not been fetched."""
    lines: Mapping[str, LineProgress] = MappingProxyType({})
    """By catalog id."""
    happened: Tallied = Tallied()
    """Since it began; nothing is taken off when it is told to forget."""
    handed_over: Mapping[str, HandedOver] = MappingProxyType({})
    """By piece; whoever takes results need not have that one yet."""

    def plus(self, pieces: Iterable[HandedOver]) -> Progress:
        """With these pieces counted again."""
        found = list(pieces)
        return self._replace(
            done=self.done + sum(piece.done for piece in found),
            dead=self.dead + sum(piece.dead for piece in found),
            spent_usd=sum((piece.spent_usd for piece in found), self.spent_usd),
        )
