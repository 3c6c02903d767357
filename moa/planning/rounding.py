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

from moa.planning.capacity import NO_OPTION, Backlog, Bools, Capacity, Choice, Floats, Objective
from moa.planning.dual import least_uses, option_uses, uses
from moa.planning.prices import Prices
from moa.planning.search import newton_step
from moa.planning.valuation import GRADE, QUANTITIES, QUERIES, USD, Columns, Terms, best

STEERINGS = 512
"""How often prices are looked at again, at most."""
FEWEST_ROWS, MOST_ROWS = 32, 8192
"""Between two looks."""
ONE_BY_ONE_ROWS = 64
"""After an option that is best had to be refused; then all that are left are tried at once."""
ROUNDING = 1e-12
"""Of a limit: what sums in double precision may be off by."""
FURTHEST = 4.0
"""How far a price may be moved, in units of itself."""
SIGMAS = 3.0
"""By how many standard deviations a sample may mislead about the rest."""


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
    """What they would have used at least, signed; likewise."""
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
        self._sign = np.ones(self._terms.count)
        self._sign[: len(capacities)] = [-1.0 if c.at_least else 1.0 for c in capacities]
        self._sign[len(capacities) :] = -1.0
        self._all = rows
        self._headroom = headroom
        self._exact = rows == prices.rows
        self._limit = self._terms.limit + ROUNDING * np.abs(self._terms.limit)
        self._period = int(np.clip(rows // STEERINGS, FEWEST_ROWS, MOST_ROWS))
        self._unit = np.maximum(np.abs(self._terms.limit), 1e-9)
        start = begun or Begun(0, np.zeros(self._terms.count))
        self._rows = start.rows
        self._used = self._sign * start.used
        zero = np.zeros((QUANTITIES, self._terms.models * self._terms.lanes))
        self._sums = zero if start.sums is None else start.sums.copy()
        self._natural = start.rows * prices.use if start.natural is None else start.natural.copy()
        self._least = start.rows * prices.least if start.least is None else start.least.copy()
        self._now = prices.usd.copy() if start.now is None else start.now.copy()
        self.over = start.over
        """Queries of which even the least using option exceeded a maximum."""

    @property
    def begun(self) -> Begun:
        """How far it is, for another pass to go on."""
        return Begun(
            self._rows,
            self.used,
            self._sums.copy(),
            self._natural.copy(),
            self._least.copy(),
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
        return np.asarray(self._sign * self._used)

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

    def _steer(self) -> None:
        """Move prices so that what was used and what the rest will use meet the limits."""
        left, prices = self._all - self._rows, self._prices
        few = (np.abs(prices.use) + prices.use_deviation) * (prices.usd > 0)
        aim = self._terms.limit - self._headroom * few
        gap = aim - self._used - self._expected(left)
        # Less than a query's use is no reason: prices that are right would be spoilt.
        gap = np.sign(gap) * np.maximum(np.abs(gap) - few, 0.0)
        reach = prices.reach
        point = prices.usd / reach
        scale = reach / (left * float(reach @ np.abs(prices.use)) + 1e-300)
        step = newton_step(
            left * prices.curvature * np.outer(reach, scale),
            gap * scale,
            point,
            np.maximum(FURTHEST * point, 0.1),
        )
        self._now = prices.usd + step * reach

    def _expected(self, left: int) -> Floats:
        """What the rest would use at the prices as they are, signed."""
        prices = self._prices
        if self._exact:
            return np.asarray(self._all * prices.use - self._natural)
        return self._rest_of(prices.use, prices.use_deviation, self._natural, left)[0]

    def _rest_of(
        self, mean: Floats, deviation: Floats, seen: Floats, left: int
    ) -> tuple[Floats, Floats]:
        """What a sample says of the rest: a sum, and its standard deviation.

        Either the rest is like what came so far and the sample, or, where these two differ by more
        than chance, it is what makes up for it.
        """
        sample, done = self._prices.rows, self._rows
        makes_up = self._all * mean - seen
        like = left * (sample * mean + seen) / (sample + done)
        apart = deviation * (self._all / sample**0.5 + self._all**0.5)
        other = np.abs(makes_up - like) > SIGMAS * apart
        close = deviation * (left**0.5 + left / sample**0.5)
        # Nothing makes up with the other sign.
        makes_up = np.where(mean < 0, np.minimum(makes_up, 0.0), np.maximum(makes_up, 0.0))
        return np.where(other, makes_up, like), np.where(other, apart, close)

    def _settle(self, piece: Columns) -> Choice:
        """Choose for a piece between two steerings."""
        worths = piece.worths(self._terms.reduced(self._now), self._prices.jitter)
        choice = first_best(worths, piece)
        done = 0
        rest = self._rest(piece)
        while done < piece.rows:
            done = self._accept(piece, worths, choice, rest, done)
            if done < piece.rows:
                stop = min(piece.rows, done + ONE_BY_ONE_ROWS)
                self._one_by_one(piece, worths, choice, rest, done, stop)
                done = stop
        self._sums += piece.sums(choice)
        self._count_natural(piece)
        self._rows += piece.rows
        return choice

    def _rest(self, piece: Columns) -> Floats:
        """What the queries after each of the piece will use at least, signed, shape (R, n)."""
        prices = self._prices
        if self._exact:
            seen = running(self._least, least_uses(piece, self._terms))
            self._least = seen[:, -1]
            return np.asarray(self._all * prices.least[:, None] - seen)
        left = self._all - self._rows
        total, apart = self._rest_of(prices.least, prices.least_deviation, self._least, left)
        self._least = running(self._least, least_uses(piece, self._terms))[:, -1]
        after = (left - 1.0 - np.arange(piece.rows)) / left
        return np.asarray(total[:, None] * after + SIGMAS * apart[:, None] * np.sqrt(after))

    def _accept(
        self, piece: Columns, worths: Floats, choice: Choice, rest: Floats, done: int
    ) -> int:
        """Take the best options as far as they fit; gives the first query whose does not."""
        used = running(self._used, uses(piece, self._terms, choice)[:, done:])
        fits = self._fit(used, rest[:, done:])
        count = len(fits) if fits.all() else int(fits.argmin())
        if count:
            self._used = used[:, count - 1].copy()
        return done + count

    def _fit(self, used: Floats, rest: Floats) -> Bools:
        """Whether no maximum is exceeded and enough is left, by use and rest of shape (R, n)."""
        limit = self._limit[:, None]
        kept = (used + rest <= limit) & ((used <= limit) | (self._sign < 0)[:, None])
        return np.asarray(kept.all(axis=0))

    def _one_by_one(
        self,
        piece: Columns,
        worths: Floats,
        choice: Choice,
        rest: Floats,
        start: int,
        stop: int,
    ) -> None:
        """Choose the best options that fit, of which the best might not."""
        used = option_uses(piece, self._terms, slice(start, stop))
        for row in range(start, stop):
            if choice[row] == NO_OPTION:
                continue
            after = self._used[:, None] + used[:, :, row - start]
            option = self._fitting(worths[:, row], piece.cost[:, row], after, rest[:, row])
            choice[row] = option
            self._used = after[:, option]

    def _fitting(self, worths: Floats, cost: Floats, after: Floats, rest: Floats) -> int:
        """The best option that fits; else the one that leaves most; else the least excess."""
        barred = np.isneginf(worths)
        limit, unit = self._limit[:, None], self._unit[:, None]
        maximum = (self._sign > 0)[:, None]
        excess = (np.maximum(after - limit, 0.0) * maximum / unit).sum(axis=0)
        short = (np.maximum(after + rest[:, None] - limit, 0.0) / unit).sum(axis=0)
        excess[barred] = short[barred] = np.inf
        if excess.min() > 0:
            self.over += 1
            short = excess
        else:
            short[excess > 0] = np.inf
        order = np.lexsort((cost, -worths, short))
        return int(order[0])

    def _count_natural(self, piece: Columns) -> None:
        base = self._prices.usd
        worths = piece.worths(self._terms.reduced(base), self._prices.jitter)
        use = uses(piece, self._terms, best(worths))
        self._natural = running(self._natural, use)[:, -1].copy()


def running(before: Floats, use: Floats) -> Floats:
    """Sums so far, shape (R, n): added one after the other, so that cuts change no rounding."""
    return np.asarray(np.cumsum(np.hstack([before[:, None], use]), axis=1)[:, 1:])


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
