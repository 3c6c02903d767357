"""Queries get their options, in the order in which they come, with every limit kept.

Prices say what each query's best option is. What they cannot say is left to two corrections:
prices are moved a little whenever what was used so far, and what the rest is expected to use,
miss a limit; and no option is taken that leaves too little for the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from moa.planning.capacity import Backlog, Capacity, Choice, Floats, Objective
from moa.planning.dual import uses
from moa.planning.guard import Guard, Seen, running
from moa.planning.prices import Prices
from moa.planning.search import newton_step
from moa.planning.valuation import GRADE, QUANTITIES, QUERIES, USD, Columns, Terms, best

STEERINGS = 512
"""How often prices are looked at again, at most."""
FEWEST_ROWS, MOST_ROWS = 32, 8192
"""Between two looks."""
FURTHEST = 4.0
"""How far a price may be moved, in units of itself."""


@dataclass(frozen=True, slots=True)
class Begun:
    """How far a pass is: with it, another one goes on, and decides as the first would have."""

    rows: int
    """Queries that were given options, or none."""
    used: Floats
    """Of each capacity, as in `Pass.used`."""
    sums: Floats | None = None
    """Quantities of the chosen options; without, worth and counts are those of the rest."""
    natural: Floats | None = None
    """What the same queries would have used at the prices as they are, signed; their share of the
    mean without."""
    least: Floats | None = None
    """What they would have used at least, signed, and of what is joint; likewise."""
    now: Floats | None = None
    """Prices in force."""
    over: int = 0


class Pass:
    """Gives a backlog's queries their options, block by block.

    Decides alike however the backlog is cut into blocks. Ties go to the cheaper option, with a
    floor then to the better one, then to the smaller number.
    """

    def __init__(
        self,
        prices: Prices,
        capacities: Sequence[Capacity],
        objective: Objective,
        *,
        rows: int,
        begun: Begun | None = None,
        headroom: float = 1.0,
    ) -> None:
        """Begin, or go on.

        Args:
            prices: of the same capacities.
            capacities: with limits for all queries, those of `begun` included.
            objective: as for the prices.
            rows: how many queries there will be, those of `begun` included.
            begun: what was given already.
            headroom: aim at limits less the use of so many queries: the last ones rarely fit.
        """
        self._prices = prices
        self._terms = Terms.of(prices.shape, capacities, objective, prices.open_share * rows)
        self._all = rows
        self._headroom = headroom
        self._exact = rows == prices.rows
        self._period = int(np.clip(rows // STEERINGS, FEWEST_ROWS, MOST_ROWS))
        sign = np.ones(self._terms.count)
        sign[: len(capacities)] = [-1.0 if c.at_least else 1.0 for c in capacities]
        sign[len(capacities) :] = -1.0
        start = begun or Begun(0, np.zeros(self._terms.count))
        self._rows = start.rows
        self._guard = Guard(prices, self._terms, sign, rows)
        self._guard.begin(start.rows, start.used, start.least, start.over)
        zero = np.zeros((QUANTITIES, self._terms.models * self._terms.lanes))
        self._sums = zero if start.sums is None else start.sums.copy()
        self._natural = start.rows * prices.use if start.natural is None else start.natural.copy()
        self._now = prices.usd.copy() if start.now is None else start.now.copy()

    @property
    def begun(self) -> Begun:
        """How far it is, for another pass to go on."""
        return Begun(
            self._rows,
            self.used,
            self._sums.copy(),
            self._natural.copy(),
            self._guard.least.copy(),
            self._now.copy(),
            self.over,
        )

    @property
    def rows(self) -> int:
        """Queries so far."""
        return self._rows

    @property
    def used(self) -> Floats:
        """Of each capacity so far, in the order of `Prices.names`."""
        return self._guard.used

    @property
    def over(self) -> int:
        """Queries of which every option exceeded a maximum: they got the one that does least."""
        return self._guard.over

    @property
    def worth(self) -> float:
        """Of the chosen options, in USD."""
        return float((self._terms.worth * self._sums).sum())

    @property
    def grade(self) -> float:
        """The sum of expected grades."""
        return float(self._sums[GRADE].sum())

    @property
    def cost_usd(self) -> float:
        """Expected, of all."""
        return float(self._sums[USD].sum())

    @property
    def counts(self) -> NDArray[np.int64]:
        """Queries per model and lane, shape (m, L)."""
        return np.asarray(self._sums[QUERIES].round().astype(np.int64).reshape(self._prices.shape))

    def take(self, block: Backlog) -> Choice:
        """The option of each query of the next block, `model * lanes + lane` or `NO_OPTION`."""
        if self._rows + block.rows > self._all:
            raise ValueError(f"more than the {self._all} queries that were announced")
        out = np.empty(block.rows, np.int16)
        start = 0
        while start < block.rows:
            since = self._rows % self._period
            if since == 0:
                self._steer()
            stop = min(block.rows, start + self._period - since)
            piece = Columns.of(block, start, stop, self._terms.floor, first=self._rows)
            out[start:stop] = self._settle(piece)
            start = stop
        return out

    def preferred(self, block: Backlog) -> Choice:
        """The best option of each query at the prices in force; nothing is given, nothing used."""
        piece = Columns.of(block, 0, block.rows, self._terms.floor, first=self._rows)
        return first_best(piece.worths(self._terms.reduced(self._now), self._prices.jitter), piece)

    def _steer(self) -> None:
        """Move prices so that what was used and what the rest will use meet the limits."""
        left, prices = self._all - self._rows, self._prices
        few = (np.abs(prices.use) + prices.use_deviation) * (prices.usd > 0)
        aim = self._terms.limit - self._headroom * few
        gap = aim - self._guard.signed - self._expected()
        # Less than a query's use is no reason: prices that are right would be spoilt.
        gap = np.sign(gap) * np.maximum(np.abs(gap) - few, 0.0)
        moved = np.flatnonzero(prices.reach)
        reach = prices.reach[moved]
        point = prices.usd[moved] / reach
        scale = reach / (left * prices.width)
        step = newton_step(
            left * prices.curvature[np.ix_(moved, moved)] * np.outer(reach, scale),
            gap[moved] * scale,
            point,
            np.maximum(FURTHEST * point, 0.1),
        )
        self._now = prices.usd.copy()
        self._now[moved] += step * reach

    def _expected(self) -> Floats:
        """What the rest would use at the prices as they are, signed."""
        prices = self._prices
        if self._exact:
            return np.asarray(self._all * prices.use - self._natural)
        done = Seen(self._rows, self._all, prices.rows)
        return done.rest(prices.use, prices.use_deviation, self._natural)[0]

    def _settle(self, piece: Columns) -> Choice:
        """Choose for a piece between two steerings."""
        worths = piece.worths(self._terms.reduced(self._now), self._prices.jitter)
        choice = self._guard.admit(piece, worths, first_best(worths, piece), self._rows)
        self._sums += piece.sums(choice)
        self._count_natural(piece)
        self._rows += piece.rows
        return choice

    def _count_natural(self, piece: Columns) -> None:
        base = self._prices.usd
        worths = piece.worths(self._terms.reduced(base), self._prices.jitter)
        use = uses(piece, self._terms, best(worths))
        self._natural = running(self._natural, use)[:, -1].copy()


def first_best(worths: Floats, piece: Columns) -> Choice:
    """The best option of each query; of equals the cheapest, with a floor then the best graded."""
    choice = best(worths)
    most = worths.max(axis=0)
    equal = (worths == most) & (choice >= 0)
    if np.count_nonzero(equal) == np.count_nonzero(choice >= 0):
        return choice
    tied = np.flatnonzero(equal.sum(axis=0) > 1)
    some = equal[:, tied]
    cost = np.where(some, piece.cost[:, tied], np.inf)
    some &= cost == cost.min(axis=0)
    if piece.lacking is not None:
        lanes = len(worths) // len(piece.grade)
        grade = np.where(some, np.repeat(piece.grade[:, tied], lanes, axis=0), -np.inf)
        some &= grade == grade.max(axis=0)
    choice[tied] = some.argmax(axis=0)
    return choice
