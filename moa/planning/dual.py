"""The dual of a backlog's problem, evaluated: what all queries are worth at given prices.

Its value bounds from above what any plan is worth; its least value is the best such bound.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import numpy as np

from moa.planning.capacity import Backlog, Bools, Choice, Floats
from moa.planning.valuation import CHUNK_ROWS, QUERIES, Columns, Terms, best, over_chunks

T = TypeVar("T")

CLOSE_SHARE = 0.05
"""Of the queries, those whose two best options differ least tell how use answers to prices."""
CLOSE_ROWS = 200
"""At least as many."""
SLIGHT = 1e-9


class Ranges(NamedTuple):
    """Sums over the backlog of what the least and the most demanding options would be."""

    least: Floats
    """Of each capacity's use, signed, shape (R,)."""
    most: Floats
    squares: Floats
    """Sums of the squares of `least`."""
    worst_usd: float
    """Worth of the worst options."""
    best_usd: float
    open_rows: int
    """Queries that have an option."""

    @property
    def use(self) -> Floats:
        """How far each capacity's use can be moved; above 0."""
        return np.maximum(self.most - self.least, 1e-30)

    @property
    def usd(self) -> float:
        """How far worth can be moved; above 0."""
        size = max(abs(self.best_usd), abs(self.worst_usd), 1e-9)
        return max(self.best_usd - self.worst_usd, 1e-6 * size)


class At(NamedTuple):
    """The dual at some prices."""

    value: float
    """USD, with what the jitter adds."""
    use: Floats
    """Of the best options, signed, shape (R,)."""
    sums: Floats
    """Quantities of the best options, shape (6, K)."""


@dataclass(frozen=True, slots=True)
class Dual:
    """A backlog's dual, with its queries as they are, or as columns if there are few of them."""

    terms: Terms
    backlog: Backlog
    columns: tuple[Columns, ...] | None = None

    @classmethod
    def of_few(cls, terms: Terms, backlog: Backlog) -> Dual:
        """Keeps columns, so that it is evaluated faster; they take twice the backlog's memory."""
        return cls(terms, backlog, tuple(over_chunks(backlog, terms.floor, _as_is, CHUNK_ROWS)))

    def each(self, work: Callable[[Columns], T]) -> list[T]:
        """Do something with all queries."""
        if self.columns is not None:
            return [work(chunk) for chunk in self.columns]
        return over_chunks(self.backlog, self.terms.floor, work, CHUNK_ROWS)

    def at(self, prices: Floats, jitter: float = 0.0) -> At:
        """Evaluate at prices in USD per unit of use, shape (R,), each at least 0."""
        coefficients = self.terms.reduced(prices)

        def work(chunk: Columns) -> tuple[float, Floats]:
            worths = chunk.worths(coefficients, jitter)
            choice = best(worths)
            most = worths.max(axis=0)
            return float(most[choice >= 0].sum()), chunk.sums(choice)

        parts = self.each(work)
        sums = np.sum([part[1] for part in parts], axis=0)
        value = sum(part[0] for part in parts) + float(prices @ self.terms.limit)
        return At(value, self.terms.used(sums), sums)

    def ranges(self) -> Ranges:
        """What the least and the most demanding options would use, and what worth there is."""
        parts = self.each(lambda chunk: _ranges(chunk, self.terms))
        return Ranges(*(np.sum(part, axis=0) for part in zip(*parts, strict=True)))

    def least(self, use: Floats) -> tuple[float, float]:
        """The sum over all queries of the least value of a form of shape (6, K), and of squares."""

        def work(chunk: Columns) -> tuple[float, float]:
            most = chunk.worths(-use, 0.0).max(axis=0)[chunk.open]
            return -float(most.sum()), float((most**2).sum())

        total, squares = (sum(part) for part in zip(*self.each(work), strict=True))
        return total, squares

    def curvature(self, prices: Floats, jitter: float, scale: Floats) -> Floats:
        """How use falls with prices: the matrix of second derivatives, shape (R, R).

        Queries whose two best options are nearly alike change over when prices change. Counted
        are those below a margin, as if they lay evenly there. `scale` multiplies rows and columns.
        """
        coefficients = self.terms.reduced(prices)
        parts = self.each(lambda chunk: _close(chunk, self.terms, coefficients, jitter))
        margins = np.concatenate([part[0] for part in parts])
        count = len(margins)
        if not count:
            return np.zeros((len(prices), len(prices)))
        close = min(count, max(CLOSE_ROWS, int(count * CLOSE_SHARE))) - 1
        # Where many are exactly alike, and no jitter tells them apart, use jumps: nearly.
        narrowest = max(SLIGHT * float(margins.mean()), SLIGHT**2)
        width = max(float(np.partition(margins, close)[close]), narrowest)
        change = np.concatenate([part[1][:, part[0] <= width] for part in parts], axis=1)
        change *= scale[:, None]
        return np.asarray(change @ change.T / (2 * width))

    def use_moments(self, prices: Floats, jitter: float) -> tuple[Floats, Floats]:
        """Mean and standard deviation of a query's use, each of shape (R,)."""
        coefficients = self.terms.reduced(prices)

        def work(chunk: Columns) -> tuple[Floats, Floats]:
            use = uses(chunk, self.terms, best(chunk.worths(coefficients, jitter)))
            return use.sum(axis=1), (use**2).sum(axis=1)

        total, squares = (np.sum(part, axis=0) for part in zip(*self.each(work), strict=True))
        rows = max(1, self.backlog.rows)
        mean = total / rows
        return mean, np.sqrt(np.maximum(squares / rows - mean**2, 0.0))


def _as_is(chunk: Columns) -> Columns:
    return chunk


def uses(chunk: Columns, terms: Terms, choice: Choice) -> Floats:
    """What each query's choice uses of each capacity, signed, shape (R, n)."""
    taken = choice >= 0
    option = np.maximum(choice, 0)
    out = np.zeros((terms.count, chunk.rows))
    amounts: dict[int, Floats] = {}
    for row, quantity in zip(*np.nonzero(terms.use.any(axis=2)), strict=True):
        if quantity not in amounts:
            amounts[quantity] = chunk.chosen(int(quantity), choice)
        out[row] += terms.use[row, quantity].take(option) * amounts[quantity]
    if not taken.all():
        out[:, ~taken] = 0.0
    return out


def least_uses(chunk: Columns, terms: Terms, *, most: bool = False) -> Floats:
    """The least (or most) that any option of a query uses of each capacity, shape (R, n)."""
    out = np.zeros((terms.count, chunk.rows))
    side = -1.0 if most else 1.0
    for row, use in enumerate(terms.use):
        counted = use.any(axis=0)
        untouched = _any_open(chunk, ~counted)
        if untouched is True and (side * use >= 0).all():
            continue  # nothing is less than nothing
        least = np.where(untouched, 0.0, np.inf) * np.ones(chunk.rows)
        for option in np.flatnonzero(counted):
            used = side * _option_use(chunk, use, int(option))
            if chunk.barred is not None:
                used[chunk.barred[option]] = np.inf
            np.minimum(least, used, out=least)
        out[row] = side * least
    if chunk.barred is not None:
        out[:, ~chunk.open] = 0.0
    return out


def option_uses(chunk: Columns, terms: Terms, rows: slice) -> Floats:
    """What each option of some queries would use, signed, shape (R, K, n)."""
    options = terms.use.shape[2]
    out = np.zeros((terms.count, options, rows.stop - rows.start))
    for row, option in zip(*np.nonzero(terms.use.any(axis=1)), strict=True):
        out[row, option] = _option_use(chunk, terms.use[row], int(option))[rows]
    return out


def _any_open(chunk: Columns, options: Bools) -> Bools | bool:
    """Whether a query may take any of these; one answer where it is the same for all."""
    if not options.any():
        return False
    if chunk.barred is None:
        return True
    found = ~chunk.barred[options].all(axis=0)
    return True if found.all() else np.asarray(found)


def _option_use(chunk: Columns, use: Floats, option: int) -> Floats:
    """What an option would use of a capacity, signed, shape (n,)."""
    out = np.full(chunk.rows, use[QUERIES, option])
    for quantity in np.flatnonzero(use[:, option]):
        if quantity != QUERIES:
            out += use[quantity, option] * chunk.of_option(int(quantity), option)
    return out


def _ranges(chunk: Columns, terms: Terms) -> tuple[Floats, Floats, Floats, float, float, int]:
    least = least_uses(chunk, terms)
    most = least_uses(chunk, terms, most=True)
    worth = chunk.values(terms.worth)
    high, low = worth, worth
    if chunk.barred is not None:
        high, low = np.where(chunk.barred, -np.inf, worth), np.where(chunk.barred, np.inf, worth)
    is_open = chunk.open
    return (
        least.sum(axis=1),
        most.sum(axis=1),
        (least**2).sum(axis=1),
        float(low.min(axis=0)[is_open].sum()),
        float(high.max(axis=0)[is_open].sum()),
        int(is_open.sum()),
    )


def _close(
    chunk: Columns, terms: Terms, coefficients: Floats, jitter: float
) -> tuple[Floats, Floats]:
    """How far each query's second option is below its best, and how their uses differ."""
    worths = chunk.worths(coefficients, jitter)
    first, most = best(worths), worths.max(axis=0)
    worths[np.maximum(first, 0), np.arange(chunk.rows)] = -np.inf
    second, next_most = best(worths), worths.max(axis=0)
    several = np.flatnonzero(second >= 0)
    change = uses(chunk, terms, first) - uses(chunk, terms, second)
    return most[several] - next_most[several], change[:, several]
