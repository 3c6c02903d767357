"""Log odds → a probability to bet on, per model: a monotone curve through points.

Several kinds of curve are fitted, and the one with the least log loss on queries that it was not
fitted on is kept; all are stored alike.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
PER_POINT = 100
"""Observations behind one point of an isotonic curve, at least."""
MOST_POINTS = 20
GRID = np.linspace(-8, 8, 129)
"""Log odds that a smooth curve is stored at; between them it errs by less than 0.0005."""
EDGE = 1e-3
"""No grade is taken to be surer than this, when log losses are compared."""
WORTH = 2e-4
"""Log loss per query by which a kind has to beat a simpler one."""


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


def calibrate(
    log_odds: Floats, grade: Floats, weight: Floats, folds: NDArray[np.intp]
) -> tuple[str, Curve]:
    """The kind of curve of one model that does best, and the curve.

    Args:
        log_odds: of queries whose factors are told by maps that had not seen them, shape (n,),
            n ≥ 1. A head's few numbers have seen them: to hold them out as well made no difference
            that counts, at 200 grades and at 500.
        grade: measured on them, in [0, 1], same shape.
        weight: of each query, > 0, same shape.
        folds: of a cross-validation, same shape.
    """
    best, least = "as_it_is", np.inf
    for kind, fit in KINDS.items():
        loss = 0.0
        for fold in np.unique(folds):
            mine = folds == fold
            rest = ~mine if not mine.all() else mine
            curve = fit(log_odds[rest], grade[rest], weight[rest])
            loss += float(weight[mine] @ log_loss(curve(log_odds[mine]), grade[mine]))
        loss /= float(weight.sum())
        if loss < least - WORTH:
            best, least = kind, loss
    return best, KINDS[best](log_odds, grade, weight)


def log_loss(expected: Floats, grade: Floats) -> Floats:
    """Of each query; a fraction counts as so much of a success."""
    likely = np.clip(expected, EDGE, 1 - EDGE)
    return np.asarray(-(grade * np.log(likely) + (1 - grade) * np.log(1 - likely)))


def as_it_is(log_odds: Floats, grade: Floats, weight: Floats) -> Curve:
    """The head's own probability."""
    return Curve(GRID, _probability(GRID))


def temperature(log_odds: Floats, grade: Floats, weight: Floats) -> Curve:
    """Log odds times one factor. Source: Guo et al., arXiv:1706.04599."""
    scale = _newton(log_odds[:, None], grade, weight, np.ones(1))
    return Curve(GRID, _probability(GRID * max(float(scale[0]), 0)))


def platt(log_odds: Floats, grade: Floats, weight: Floats) -> Curve:
    """Log odds times a factor, and a shift. Source: Platt, 1999."""
    design = np.column_stack([log_odds, np.ones(len(log_odds))])
    scale, shift = _newton(design, grade, weight, np.array([1.0, 0.0]))
    return Curve(GRID, _probability(GRID * max(float(scale), 0) + shift))


def beta(log_odds: Floats, grade: Floats, weight: Floats) -> Curve:
    """A factor each for being sure of success and of failure. Source: Kull et al., 2017."""

    def design(values: Floats) -> Floats:
        up, down = -np.logaddexp(0, -values), -np.logaddexp(0, values)
        return np.column_stack([up, -down, np.ones(len(values))])

    up, down, shift = _newton(design(log_odds), grade, weight, np.array([1.0, 1.0, 0.0]))
    curve = design(GRID) @ np.array([max(up, 0), max(down, 0), shift])
    return Curve(GRID, _probability(curve))


def isotonic(log_odds: Floats, grade: Floats, weight: Floats) -> Curve:
    """Means of equally many queries; those that fall are pooled with their neighbours.

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


KINDS: Mapping[str, Callable[[Floats, Floats, Floats], Curve]] = {
    "as_it_is": as_it_is,
    "temperature": temperature,
    "platt": platt,
    "beta": beta,
    "isotonic": isotonic,
}
"""Simple ones first."""


def _probability(log_odds: Floats) -> Floats:
    return np.asarray(1 / (1 + np.exp(-np.clip(log_odds, -30, 30))))


def _newton(design: Floats, grade: Floats, weight: Floats, start: Floats) -> Floats:
    """Logistic regression without an intercept of its own, pulled a little towards `start`: with
    few or separable queries it stays there.

    A step that makes things worse is halved: from far away, Newton's method runs off.
    """

    def loss(coefficients: Floats) -> float:
        log_odds = design @ coefficients
        pull = coefficients - start
        return float(weight @ (np.logaddexp(0, log_odds) - grade * log_odds) + pull @ pull / 2)

    coefficients, now = start.copy(), loss(start)
    for _ in range(50):
        expected = _probability(design @ coefficients)
        gradient = design.T @ (weight * (expected - grade)) + (coefficients - start)
        curvature = weight * np.maximum(expected * (1 - expected), 1e-6)
        hessian = (design * curvature[:, None]).T @ design + np.eye(len(start))
        step = np.linalg.solve(hessian, gradient)
        while (then := loss(coefficients - step)) > now and np.abs(step).max() >= 1e-9:
            step /= 2
        coefficients, now = coefficients - step, min(then, now)
        if np.abs(step).max() < 1e-9:
            break
    return coefficients


def _pooled(pools: Sequence[tuple[float, float, float]]) -> tuple[float, float, float]:
    count = sum(n for _, _, n in pools)
    return (
        sum(x * n for x, _, n in pools) / count,
        sum(y * n for _, y, n in pools) / count,
        count,
    )
