"""Log odds → a probability to bet on, per model: a monotone curve through points."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
PER_POINT = 100
"""Observations behind one point, at least."""
MOST_POINTS = 20


@dataclass(frozen=True, slots=True)
class Curve:
    """Straight between its points, level beyond them."""

    log_odds: Floats
    """Ascending, shape (points,)."""
    grade: Floats
    """Ascending, in [0, 1], same shape."""

    def __call__(self, log_odds: Floats) -> Floats:
        """Expected grades, in [0, 1], same shape."""
        return np.interp(log_odds, self.log_odds, self.grade)


def fit_curve(log_odds: Floats, grade: Floats, weight: Floats) -> Curve:
    """The curve of one model.

    Args:
        log_odds: of queries that the head was not fitted on, shape (n,), n ≥ 1.
        grade: measured on them, in [0, 1], same shape.
        weight: of each query, > 0, same shape.

    Points are means of equally many queries; those that fall are pooled with their neighbours.

    Source: pool adjacent violators; Zadrozny and Elkan, 2002.
    """
    order = np.argsort(log_odds, kind="stable")
    points = int(np.clip(len(order) // PER_POINT, 1, MOST_POINTS))
    pools = [
        (
            float(np.average(log_odds[part], weights=weight[part])),
            float(np.average(grade[part], weights=weight[part])),
            float(weight[part].sum()),
        )
        for part in np.array_split(order, points)
    ]
    rising: list[tuple[float, float, float]] = []
    for pool in pools:
        rising.append(pool)
        while len(rising) > 1 and rising[-2][1] >= rising[-1][1]:
            rising[-2:] = [_pooled(rising[-2:])]
    return Curve(np.array([x for x, _, _ in rising]), np.array([y for _, y, _ in rising]))


def _pooled(pools: Sequence[tuple[float, float, float]]) -> tuple[float, float, float]:
    count = sum(n for _, _, n in pools)
    return (
        sum(x * n for x, _, n in pools) / count,
        sum(y * n for _, y, n in pools) / count,
        count,
    )
