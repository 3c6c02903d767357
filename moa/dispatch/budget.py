"""Money is reserved before it is spent: one purse a run, from which its dispatchers lease."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from decimal import ROUND_DOWN, Decimal

from moa.prices import USD_STEP

Lease = Callable[[Decimal], Awaitable[Decimal]]
"""Asks for so much at least; gets that or more, or 0 when it is no longer there."""

ANSWERS_TO_TRUST = 50
"""After so many, what they have cost says what others will."""
PORTION = 16
"""A lease takes one part in so many, per holder, of what is left: few leases while there is plenty,
and at the end hardly anything lies idle with one holder while another has run out."""


class Purse:
    """What a run may still spend. What was leased never comes back: it is spent, or lost with a
    dispatcher that died, until the next start counts what the outcomes and journals say.
    """

    def __init__(self, limit_usd: Decimal, holders: int) -> None:
        self._left_usd = limit_usd
        self._holders = holders

    @property
    def left_usd(self) -> Decimal:
        """Not leased to anybody."""
        return self._left_usd

    def lease(self, least_usd: Decimal) -> Decimal:
        """At least so much, or 0 when it is no longer there."""
        if least_usd > self._left_usd:
            return Decimal(0)
        portion_usd = (self._left_usd / (PORTION * self._holders)).quantize(USD_STEP, ROUND_DOWN)
        granted_usd = max(least_usd, portion_usd)
        self._left_usd -= granted_usd
        return granted_usd

    def set_aside(self, usd: Decimal) -> None:
        """So much is for something else than calls; what is left may fall below 0."""
        self._left_usd -= usd


class Budget:
    """What one dispatcher may spend.

    A call is let through only when its expected cost has been set aside, so a run exceeds its
    limit at most by what the calls under way cost above their estimates.

    Args:
        lease: where more comes from; `None` is without a limit.
    """

    def __init__(self, lease: Lease | None = None) -> None:
        self._lease = lease
        self._left_usd = Decimal(0)
        self._one_asks = asyncio.Lock()

    async def reserve(self, expected_usd: Decimal) -> bool:
        """Set money aside for one call; false when there is not enough left."""
        if self._lease is None:
            return True
        async with self._one_asks:
            while expected_usd > self._left_usd:  # what others settle meanwhile changes it
                granted_usd = await self._lease(expected_usd - self._left_usd)
                self._left_usd += granted_usd
                if not granted_usd:
                    break
            if expected_usd > self._left_usd:
                return False
            self._left_usd -= expected_usd
            return True

    @property
    def in_hand_usd(self) -> Decimal:
        """Leased, and neither spent nor reserved; below zero after calls that cost more than was
        expected.
        """
        return self._left_usd

    def settle(self, expected_usd: Decimal, actual_usd: Decimal) -> None:
        """The call that reserved `expected_usd` has cost `actual_usd` (0 when it failed)."""
        self._left_usd += expected_usd - actual_usd


class Dearness:
    """What answers have cost, to what was expected of them, as far as that was too little."""

    def __init__(self) -> None:
        self._answers = 0
        self._expected_usd = self._paid_usd = Decimal(0)

    @property
    def factor(self) -> Decimal:
        """At least 1, and 1 while few answers tell."""
        if self._answers < ANSWERS_TO_TRUST or not self._expected_usd:
            return Decimal(1)
        return max(Decimal(1), self._paid_usd / self._expected_usd)

    def learn(self, answers: int, expected_usd: Decimal, paid_usd: Decimal) -> None:
        """So many answers have come."""
        self._answers += answers
        self._expected_usd += expected_usd
        self._paid_usd += paid_usd
