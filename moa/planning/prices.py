"""The prices of a backlog's capacities: what one more unit of each would buy.

Found on few queries by a bundle method, which needs no smoothness, then on more and more of them by
Newton's method: use is a smooth function of prices where there are many queries, and its slope on
a sample is nearly that on all. So the whole backlog is valued a handful of times only.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from moa.planning.capacity import Backlog, Capacity, Floats, Objective
from moa.planning.remedies import Infeasible, infeasible
from moa.planning.search import Found, search_prices
from moa.planning.valuation import Terms, open_rows

UNMOVED = 1e-9
"""Of a capacity's use: options that differ by less use the same."""


@dataclass(frozen=True, slots=True)
class Prices:
    """One price per capacity, and what is to be expected at them of each query."""

    shape: tuple[int, int]
    """Models and lanes."""
    names: tuple[str, ...]
    """Of the capacities, and `TARGET_GRADE` last where there is one."""
    usd: Floats
    """Worth of one more unit, at least 0, shape (R,); of one less, for minima."""
    bound: float
    """No plan for the backlog that was given is worth more, in USD."""
    rows: int
    """Queries that they are from."""
    open_share: float
    """Of them, those that have an option."""
    jitter: float
    """USD; see `Columns.worths`."""
    use: Floats
    """Mean use of a query at these prices, signed (negative for minima), shape (R,)."""
    use_deviation: Floats
    least: Floats
    """Mean of what a query uses at least, signed, shape (R,)."""
    least_deviation: Floats
    joint: Floats
    """Weights of capacities; see `completion`."""
    joint_least: float
    """Mean of what a query uses at least of their weighted sum."""
    joint_deviation: float
    curvature: Floats
    """By how much a query's mean use falls when prices rise, shape (R, R)."""
    width: float
    """USD of worth, mean, between a query's best and worst options; above 0."""
    reach: Floats
    """The price at which a capacity costs as much as worth is wide, shape (R,); 0 where every
    option uses the same."""
    iterations: int
    """Evaluations of all queries that were given, or of as many as were used."""
    seconds: float

    def marginal(self, name: str) -> float:
        """USD of worth that one more unit of the capacity would buy."""
        return float(self.usd[self.names.index(name)])


def find_prices(
    backlog: Backlog,
    capacities: Sequence[Capacity],
    objective: Objective,
    *,
    seed: int = 0,
) -> Prices | Infeasible:
    """Find the prices at which the capacities are used up, and no more.

    Args:
        backlog: all queries; or a sample, with `capacities` in proportion.
        capacities: their limits.
        objective: what is wanted.
        seed: of the samples on which prices are sought first.
    """
    began = time.perf_counter()
    is_open = open_rows(backlog)
    terms = Terms.of(backlog.shape, capacities, objective, is_open)
    found = search_prices(backlog, terms, seed)
    if found is None:
        return infeasible(backlog, capacities, objective, seed)
    return _told(found, is_open, time.perf_counter() - began)


def _told(found: Found, is_open: int, seconds: float) -> Prices:
    search, sample = found.search, found.sample
    rows = search.dual.backlog.rows
    ranges = search.ranges
    least = ranges.least / max(rows, 1)
    squares = ranges.squares / max(rows, 1)
    joint_use = search.dual.terms.joint_use(found.joint)
    joint, joint_squares = search.dual.least(joint_use) if found.joint.any() else (0.0, 0.0)
    _, deviation = sample.dual.use_moments(found.prices, found.jitter)
    movable = ranges.most - ranges.least > UNMOVED * (np.abs(ranges.most) + np.abs(ranges.least))
    ones = np.ones(len(found.prices))
    return Prices(
        shape=search.dual.backlog.shape,
        names=search.dual.terms.names,
        usd=found.prices,
        bound=found.bound,
        rows=rows,
        open_share=is_open / max(rows, 1),
        jitter=found.jitter,
        use=found.at.use / max(rows, 1),
        use_deviation=deviation,
        least=least,
        least_deviation=np.sqrt(np.maximum(squares - least**2, 0.0)),
        joint=found.joint,
        joint_least=joint / max(rows, 1),
        joint_deviation=max(joint_squares / max(rows, 1) - (joint / max(rows, 1)) ** 2, 0.0) ** 0.5,
        curvature=sample.dual.curvature(found.prices, found.jitter, ones)
        / max(sample.dual.backlog.rows, 1),
        width=ranges.usd / max(rows, 1),
        reach=np.where(movable, ranges.usd / ranges.use, 0.0),
        iterations=search.evaluations,
        seconds=seconds,
    )
