"""Where a run stands: what everybody is told, and what is known besides, for whoever watches it."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import NamedTuple

from moa.decisions.decided import Decided
from moa.dispatch.settings import LineProgress
from moa.dispatch.tallies import Tallied


class Progress(NamedTuple):
    """Where a run stands."""

    queries: int
    """That are asked; those that share an equal one's answer are not counted."""
    done: int
    """Of those, with what earlier starts of the run have done."""
    dead: int
    in_flight: int
    waiting: int
    retried: int
    spent_usd: Decimal
    """With what earlier starts have spent, as far as it is known."""
    deciding: bool
    """Whether the router is still at work."""
    earlier: int
    """Done by earlier starts."""
    details: Details
    draining: bool = False
    """Nothing new is sent any more."""
    in_batches: int = 0
    """In batches that have not been fetched."""


class Expects(NamedTuple):
    """What a plan expects of its run."""

    usd: Decimal
    """Of the whole bill, by the first plan of this start."""
    end_s: float
    """Since 1970, by the plan in force."""


class Details(NamedTuple):
    """What is known of this start of a run. What it counts never falls."""

    scored: int
    decided: Mapping[Decided, int]
    """Queries that were decided on alike."""
    happened: Mapping[str, Tallied]
    """By dispatcher; one that was started again is another."""
    lines: Mapping[str, LineProgress]
    """By catalog id."""
    oldest_s: float
    """For how long the oldest live piece has been with a dispatcher; 0 when none is. What waits for
    one is not counted: in a long night that is most of the backlog.
    """
    oldest_batch_s: float
    """Likewise in batches, in this start."""
    budget_usd: Decimal | None
    """That the run may spend, with what it has spent; a redrive what the run has left. `None` is
    without a limit.
    """
    expects: Expects | None
