"""What is known of a run's money and progress when its backlog is planned."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import NamedTuple

from moa.dispatch.settings import LineProgress
from moa.dispatch.used import Used
from moa.storage.run_folder import PieceName


class Money(NamedTuple):
    """Of the budget, when a start begins."""

    left_usd: Decimal | None
    """Without what finished pieces have cost; `None` is without a limit."""
    open_usd: Mapping[PieceName, Decimal]
    """Spent by earlier starts on each piece that is not finished, with what its batches that are
    out will cost."""
    spent_usd: Decimal = Decimal(0)
    """What finished pieces have cost."""

    def at_most(self, limit_usd: Decimal | None) -> Money:
        """The same where no more than that may be spent on calls, whatever the budget is."""
        if limit_usd is None:
            return self
        left_usd = limit_usd - self.spent_usd
        if self.left_usd is not None:
            left_usd = min(left_usd, self.left_usd)
        return self._replace(left_usd=left_usd)

    @property
    def free_usd(self) -> Decimal | None:
        """What may be spent by calls that are not out yet."""
        if self.left_usd is None:
            return None
        return max(Decimal(0), self.left_usd - sum(self.open_usd.values(), Decimal(0)))


class Facts(NamedTuple):
    """What the driver knows of a run that is under way."""

    left_usd: Decimal | None
    """Of the budget, without what finished pieces have cost; `None` is without a limit."""
    open_usd: Decimal
    """Spent on pieces that are not finished, as far as this start has gone on with them."""
    open_share: float
    """Of the queries of these pieces, those without an outcome."""
    used: Mapping[str, Used]
    """By catalog id, of finished pieces."""
    lines: Mapping[str, LineProgress]
    """By catalog id, of all replicas."""
