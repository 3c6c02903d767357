"""What a dispatcher counts: what it has in hand, and, for whoever watches, what has happened."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from decimal import Decimal
from types import MappingProxyType
from typing import NamedTuple

from moa.dispatch.outcome import DeadLetter, Outcome, Settled
from moa.errors import ProviderError

ANSWERED_CALL = "answered"
NO_ANSWER = "no_answer"
"""How a call ended that has no HTTP status: cut off, never connected, hung."""


class Tallied(NamedTuple):
    """What has happened since a dispatcher began: no number ever falls."""

    calls: Mapping[tuple[str, str], int] = MappingProxyType({})
    """Live ones, by catalog id and how they ended: `answered`, an HTTP status, or `no_answer`."""
    cost_usd: Mapping[tuple[str, str], Decimal] = MappingProxyType({})
    """By catalog id and lane."""
    passed_on: Mapping[tuple[str, str], int] = MappingProxyType({})
    """Queries that left a model for their next best, by catalog id and reason."""
    letters: Mapping[str, int] = MappingProxyType({})
    """Dead letters by reason."""
    retried: int = 0
    """Calls that were, or will be, made again to the same model."""


class Tallies:
    """Plain numbers: a call must not pay for being counted."""

    def __init__(self) -> None:
        self.done = self.dead = self.retried = 0
        self.spent_usd = Decimal(0)
        self._calls: Counter[tuple[str, str]] = Counter()
        self._cost_usd: dict[tuple[str, str], Decimal] = {}
        self._passed_on: Counter[tuple[str, str]] = Counter()
        self._letters: Counter[str] = Counter()

    def answered(self, model: str) -> None:
        """A call was."""
        self._calls[model, ANSWERED_CALL] += 1

    def failed(self, model: str, error: ProviderError) -> None:
        """A call has."""
        status = NO_ANSWER if error.status is None else str(error.status)
        self._calls[model, status] += 1

    def pass_on(self, model: str, reason: str) -> None:
        """A query leaves this model."""
        self._passed_on[model, reason] += 1

    def count(self, outcome: Outcome, letter: DeadLetter | None, *, earlier: bool = False) -> None:
        """A query has its outcome; `earlier`: another process has seen it happen."""
        self.done += 1
        self.dead += letter is not None
        self.spent_usd += outcome.cost_usd
        if earlier:
            return
        if letter is not None:
            self._letters[letter.reason] += 1
        elif outcome.model is not None:
            bought = outcome.model, outcome.lane or ""
            self._cost_usd[bought] = self._cost_usd.get(bought, Decimal(0)) + outcome.cost_usd

    def forget(self, settled: Sequence[Settled]) -> None:
        """Somebody else has these in hand from now on; they have happened all the same."""
        self.done -= len(settled)
        self.dead -= sum(letter is not None for _, letter in settled)
        self.spent_usd -= sum((outcome.cost_usd for outcome, _ in settled), Decimal(0))

    def happened(self) -> Tallied:
        """So far."""
        return Tallied(
            dict(self._calls),
            dict(self._cost_usd),
            dict(self._passed_on),
            dict(self._letters),
            self.retried,
        )
