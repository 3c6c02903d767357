"""No limit is exceeded, and enough is left for the queries that are still to come."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from moa.planning.capacity import NO_OPTION, Bools, Choice, Floats
from moa.planning.dual import least_uses, option_uses, uses
from moa.planning.prices import Prices
from moa.planning.valuation import Columns, Terms

ONE_BY_ONE_ROWS = 64
"""After an option that is best had to be refused; then all that are left are tried at once."""
ROUNDING = 1e-12
"""Of a limit: what sums in double precision may be off by."""
SIGMAS = 3.0
"""By how many standard deviations a sample may mislead about the rest."""


class Seen(NamedTuple):
    """How far a pass is, whose prices are from a sample."""

    rows: int
    all_rows: int
    sample: int

    def rest(self, mean: Floats, deviation: Floats, seen: Floats) -> tuple[Floats, Floats]:
        """What a sample's mean says of the rest: a sum, and its standard deviation.

        Either the rest is like what came so far and the sample, or, where these two differ by more
        than chance, it is what makes up for it.
        """
        left = self.all_rows - self.rows
        makes_up = self.all_rows * mean - seen
        like = left * (self.sample * mean + seen) / (self.sample + self.rows)
        apart = deviation * (self.all_rows / self.sample**0.5 + self.all_rows**0.5)
        other = np.abs(makes_up - like) > SIGMAS * apart
        close = deviation * (left**0.5 + left / self.sample**0.5)
        # Nothing makes up with the other sign.
        makes_up = np.where(mean < 0, np.minimum(makes_up, 0.0), np.maximum(makes_up, 0.0))
        return np.where(other, makes_up, like), np.where(other, apart, close)


class Guard:
    """What was used, what the rest needs, and so which options still fit.

    Beside each capacity alone it minds one sum of them (`Prices.joint`): the cheapest options of
    the rest may be full, and then the others must still be affordable.
    """

    def __init__(self, prices: Prices, terms: Terms, sign: Floats, all_rows: int) -> None:
        """`sign` is -1 for minima, of which less than the limit is no excess."""
        self._prices = prices
        self._terms = terms.with_joint(prices.joint)
        extra = self._terms.count - terms.count
        self._sign = np.append(sign, -np.ones(extra))
        self._given = terms.count
        self._all = all_rows
        self._exact = all_rows == prices.rows
        self._mean = np.append(prices.least, [prices.joint_least] * extra)
        self._deviation = np.append(prices.least_deviation, [prices.joint_deviation] * extra)
        self._limit = self._terms.limit + ROUNDING * np.abs(self._terms.limit)
        self._unit = np.maximum(np.abs(self._terms.limit), 1e-9)
        self._used = np.zeros(self._terms.count)
        self.least = np.zeros(self._terms.count)
        """What the queries so far would have used at least, signed."""
        self.over = 0
        """Queries of which every option exceeded a maximum."""

    def begin(self, rows: int, used: Floats, least: Floats | None, over: int) -> None:
        """Go on after so many queries."""
        signed = self._sign[: self._given] * used
        joint = [self._prices.joint @ signed] * (len(self._used) - self._given)
        self._used = np.append(signed, joint)
        self.least = rows * self._mean if least is None else least.copy()
        self.over = over

    @property
    def signed(self) -> Floats:
        """Use of each capacity, negative for minima."""
        return self._used[: self._given]

    @property
    def used(self) -> Floats:
        """Use of each capacity."""
        return np.asarray(self._sign[: self._given] * self.signed)

    def admit(self, piece: Columns, worths: Floats, choice: Choice, rows: int) -> Choice:
        """The choices as far as they fit, and else the best that do; `rows` came before."""
        rest = self._rest(piece, rows)
        choice = choice.copy()
        done = 0
        while done < piece.rows:
            done = self._accept(piece, choice, rest, done)
            if done < piece.rows:
                stop = min(piece.rows, done + ONE_BY_ONE_ROWS)
                self._one_by_one(piece, worths, choice, rest, slice(done, stop))
                done = stop
        return choice

    def _rest(self, piece: Columns, rows: int) -> Floats:
        """What the queries after each of the piece will use at least, signed, shape (R, n)."""
        before = self.least
        seen = running(before, least_uses(piece, self._terms))
        self.least = seen[:, -1].copy()
        if self._exact:
            return np.asarray(self._all * self._mean[:, None] - seen)
        at = Seen(rows, self._all, self._prices.rows)
        total, apart = at.rest(self._mean, self._deviation, before)
        after = 1.0 - np.arange(1.0, piece.rows + 1.0) / (self._all - rows)
        return np.asarray(total[:, None] * after + SIGMAS * apart[:, None] * np.sqrt(after))

    def _accept(self, piece: Columns, choice: Choice, rest: Floats, done: int) -> int:
        """Take the choices as far as they fit; gives the first query whose does not."""
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
        self, piece: Columns, worths: Floats, choice: Choice, rest: Floats, rows: slice
    ) -> None:
        """Choose the best options that fit, of which the best might not."""
        used = option_uses(piece, self._terms, rows)
        for row in range(rows.start, rows.stop):
            if choice[row] == NO_OPTION:
                continue
            after = self._used[:, None] + used[:, :, row - rows.start]
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
        return int(np.lexsort((cost, -worths, short))[0])


def running(before: Floats, use: Floats) -> Floats:
    """Sums so far, shape (R, n): added one after the other, so that cuts change no rounding."""
    return np.asarray(np.cumsum(np.hstack([before[:, None], use]), axis=1)[:, 1:])
