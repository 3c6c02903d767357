"""The non-decreasing convex hull of points of cost and grade: what mixing them can reach.

Many sets of points at once, one per row, since a bootstrap draws the hull again each time.

Source: RouterBench, arXiv:2403.12031, section 3. Two points can be mixed by sending a share of the
queries by the one and the rest by the other, so that the straight line between them can be had; and
a grade that can be had can be had for more money. Left of the cheapest point the paper's null
router is mixed in, which answers nothing at no cost: the line goes on to the origin.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]


class _Segment(NamedTuple):
    """A straight piece of every row's hull, or nothing where `there` is false. Shapes (rows,)."""

    there: Bools
    from_cost: Floats
    to_cost: Floats
    from_grade: Floats
    slope: Floats
    """Grade per unit of cost, ≥ 0."""


def area(cost: Floats, grade: Floats, low: Floats, high: Floats) -> Floats:
    """Mean height of each row's hull between two costs: RouterBench's AIQ.

    Args:
        cost: of the points, ≥ 0, shape (rows, points).
        grade: of the points, same shape.
        low: where the range of costs begins, shape (rows,).
        high: where it ends; NaN comes back where it is not above `low`.
    """
    total = np.zeros(len(cost))
    for one in _segments(cost, grade):
        left, right = np.maximum(one.from_cost, low), np.minimum(one.to_cost, high)
        middle = one.from_grade + one.slope * ((left + right) / 2 - one.from_cost)
        total += np.where(one.there & (right > left), middle * (right - left), 0)
    some = high > low
    return np.asarray(np.where(some, total / np.where(some, high - low, 1), np.nan))


def height(cost: Floats, grade: Floats, at: Floats) -> Floats:
    """Grade of each row's hull at some costs.

    Args:
        cost: of the points, ≥ 0, shape (rows, points).
        grade: of the points, same shape.
        at: costs, shape (places,).

    Returns:
        Shape (rows, places).
    """
    out = np.zeros((len(cost), len(at)))
    for one in _segments(cost, grade):
        reached = one.there[:, None] & (at >= one.from_cost[:, None])
        along = np.minimum(at, one.to_cost[:, None]) - one.from_cost[:, None]
        out = np.where(reached, one.from_grade[:, None] + one.slope[:, None] * along, out)
    return out


def corners(cost: Floats, grade: Floats) -> list[int]:
    """Which of some points are corners of their hull, cheapest first; shapes (points,)."""
    now = int(np.lexsort((-grade, cost))[0])
    found = [now]
    while True:
        better = np.flatnonzero((cost > cost[now]) & (grade > grade[now]))
        if not len(better):
            return found
        slope = (grade[better] - grade[now]) / (cost[better] - cost[now])
        now = int(better[np.lexsort((-cost[better], -slope))[0]])
        found.append(now)


def _segments(cost: Floats, grade: Floats) -> Iterator[_Segment]:
    """From the origin to the cheapest point, from corner to corner, and level without an end."""
    rows = np.arange(len(cost))
    everywhere = np.ones(len(cost), bool)
    at_cost = cost.min(axis=1)
    at_grade = np.where(cost == at_cost[:, None], grade, -np.inf).max(axis=1)
    nothing = np.zeros(len(cost))
    rise = np.where(at_cost > 0, at_grade / np.where(at_cost > 0, at_cost, 1), 0)
    yield _Segment(at_cost > 0, nothing, at_cost, nothing, rise)
    going = everywhere
    while True:
        run, climb = cost - at_cost[:, None], grade - at_grade[:, None]
        ahead = (run > 0) & (climb > 0)
        going = ahead.any(axis=1)
        if not going.any():
            break
        slopes = np.where(ahead, climb / np.where(ahead, run, 1), -1.0)
        # The farthest of the steepest, so that points on one line are one piece.
        steepest = slopes.max(axis=1)
        farthest = np.where(slopes == steepest[:, None], run, -1.0).argmax(axis=1)
        to_cost = np.where(going, cost[rows, farthest], at_cost)
        yield _Segment(going, at_cost, to_cost, at_grade, np.where(going, steepest, 0))
        at_grade = np.where(going, grade[rows, farthest], at_grade)
        at_cost = to_cost
    yield _Segment(everywhere, at_cost, np.full(len(cost), np.inf), at_grade, nothing)
