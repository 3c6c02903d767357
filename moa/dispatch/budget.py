"""Money is reserved before it is spent."""

from __future__ import annotations

from decimal import Decimal


class Budget:
    """What may still be spent in this replica; `None` is without a limit.

    A call is let through only while its expected cost fits what is neither spent nor reserved, so
    a run exceeds its budget at most by what the calls under way cost above their estimates.
    """

    def __init__(self, limit_usd: Decimal | None) -> None:
        self._limit_usd = limit_usd
        self.spent_usd = Decimal(0)
        self.reserved_usd = Decimal(0)

    def reserve(self, expected_usd: Decimal) -> bool:
        """Set money aside for one call; false when there is not enough left."""
        if (
            self._limit_usd is not None
            and self.spent_usd + self.reserved_usd + expected_usd > self._limit_usd
        ):
            return False
        self.reserved_usd += expected_usd
        return True

    def settle(self, expected_usd: Decimal, actual_usd: Decimal) -> None:
        """The call that reserved `expected_usd` has cost `actual_usd` (0 when it failed)."""
        self.reserved_usd -= expected_usd
        self.spent_usd += actual_usd
