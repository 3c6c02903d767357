"""What more money would buy: the best plan at each of several budgets."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from moa.catalog import Lane, Model
from moa.planning.capacities import BUDGET
from moa.planning.capacity import Backlog, Capacity, Objective, with_limits
from moa.planning.planner import Plan, plan
from moa.planning.valuation import open_rows

CHEAPEST = Objective(0.0)
BEST = Objective(1.0, usd_weight=0.0)


@dataclass(frozen=True, slots=True)
class FrontierPoint:
    """The best that a budget buys."""

    usd: float
    """What the plan costs, for the whole backlog."""
    grade: float
    """Mean expected grade of the queries that have an option."""
    right_answers_per_usd: float
    """Of each dollar more, on the way to the next point, as a sum of grades; 0 at the last."""


def frontier(
    backlog: Backlog,
    capacities: Sequence[Capacity],
    models: Sequence[Model],
    lanes: Sequence[Lane],
    *,
    budgets: int = 12,
    max_rows: int = 20_000,
    seed: int = 0,
) -> list[FrontierPoint]:
    """Joint plans from the cheapest possible to the best possible, each dearer and better than the
    one before.

    Args:
        backlog: all queries, or a sample of them with `capacities` in proportion.
        capacities: as of the plan; its budget does not count.
        models: pool order.
        lanes: that may be bought.
        budgets: how many points at most, both ends included.
        max_rows: of larger backlogs so many queries are drawn, and money is scaled up.
        seed: of the draw.

    Empty where no plan keeps the other capacities.
    """
    if backlog.shape != (len(models), len(lanes)):
        raise ValueError(f"a backlog of shape {backlog.shape} has other models or lanes than these")
    others = [one for one in capacities if one.name != BUDGET]
    share = 1.0
    if backlog.rows > max_rows:
        share = max_rows / backlog.rows
        chosen = np.random.default_rng(seed).choice(backlog.rows, max_rows, replace=False)
        backlog, others = backlog.take(np.sort(chosen)), with_limits(others, share)
    count = open_rows(backlog)
    if not count:
        return []
    found = [(one.cost_usd / share, one.grade) for one in _plans(backlog, others, budgets, seed)]
    return _points(_rising(found), count, share)


def _plans(backlog: Backlog, others: Sequence[Capacity], budgets: int, seed: int) -> Iterator[Plan]:
    cheapest = plan(backlog, others, CHEAPEST, seed=seed)
    best = plan(backlog, others, BEST, seed=seed)
    if not isinstance(cheapest, Plan) or not isinstance(best, Plan):
        return
    yield cheapest
    for usd in _between(cheapest.cost_usd, best.cost_usd, budgets):
        budget = Capacity(BUDGET, "usd", np.ones(backlog.shape, np.bool_), usd)
        found = plan(backlog, [budget, *others], BEST, seed=seed)
        if isinstance(found, Plan):
            yield found
    yield best


def _between(least: float, most: float, budgets: int) -> list[float]:
    """Budgets inside the two: grade rises steeply at first, so that they grow by a factor."""
    if budgets < 3 or most <= least:
        return []
    # Free models begin at nothing, of which there is no multiple.
    first = max(least, most / 100)
    if first > least:
        return [float(usd) for usd in np.geomspace(first, most, budgets - 1)[:-1]]
    return [float(usd) for usd in np.geomspace(first, most, budgets)[1:-1]]


def _rising(found: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Those that are better than all cheaper ones: rounding may put two the wrong way round."""
    kept: list[tuple[float, float]] = []
    for usd, grade in sorted(found, key=lambda one: (one[0], -one[1])):
        if not kept or (grade > kept[-1][1] and usd > kept[-1][0]):
            kept.append((usd, grade))
    return kept


def _points(kept: Sequence[tuple[float, float]], count: int, share: float) -> list[FrontierPoint]:
    points = []
    for (usd, grade), (next_usd, next_grade) in pairwise(
        [*kept, (np.inf, kept[-1][1])] if kept else []
    ):
        slope = (next_grade - grade) / share / (next_usd - usd)
        points.append(FrontierPoint(usd, grade / count, slope))
    return points
