"""When no plan keeps all limits: which ones exclude each other, and what would be enough."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from moa.planning.capacity import Backlog, Bools, Capacity, Floats, Objective
from moa.planning.dual import Dual
from moa.planning.level_method import Planes, Region, minimise
from moa.planning.search import FEW_ROWS, OVERUSE, WIDEST, Search, overuse, search_prices
from moa.planning.valuation import Terms, open_rows

INVOLVED = 1e-3
"""Of a proof's weights: capacities with less are not named."""


@dataclass(frozen=True, slots=True)
class Infeasible:
    """No plan keeps all limits; proven, not guessed."""

    names: tuple[str, ...]
    """Capacities that cannot be kept together."""
    least_usd: float | None
    """Cost of the cheapest plan that keeps all limits but those in USD; `None` if none does."""
    time_factor: float | None
    """With all capacities that grow with time multiplied by it, there is a plan; `None` if there
    is none however large it is."""

    def __str__(self) -> str:
        told = f"no plan keeps {' and '.join(self.names)}"
        if self.least_usd is not None:
            told += f"; the cheapest within the other limits costs ${self.least_usd:,.6g}"
        if self.time_factor is not None:
            told += f"; {self.time_factor:.4g} times the time would do"
        return told


def infeasible(
    backlog: Backlog, capacities: Sequence[Capacity], objective: Objective, seed: int
) -> Infeasible:
    """Say what excludes what, and what would be enough, of a problem without a plan."""
    is_open = open_rows(backlog)
    terms = Terms.of(backlog.shape, capacities, objective, is_open)
    return Infeasible(
        names=_excluding(backlog, terms, seed),
        least_usd=_least_usd(backlog, capacities, objective, is_open, seed),
        time_factor=_time_factor(backlog, capacities, terms, seed),
    )


def _excluding(backlog: Backlog, terms: Terms, seed: int) -> tuple[str, ...]:
    dual = Dual(terms, backlog)
    ranges = dual.ranges()
    alone = ranges.least > terms.limit + OVERUSE * np.abs(terms.limit)
    if alone.any():
        return tuple(name for name, one in zip(terms.names, alone, strict=True) if one)
    search = Search(dual, ranges, ranges.most > terms.limit)
    proof = overuse(search.sample(FEW_ROWS, seed))
    if proof is None:
        proof = overuse(search)
    if proof is None:  # by rounding only
        return terms.names
    return tuple(name for name, weight in zip(terms.names, proof, strict=True) if weight > INVOLVED)


def _least_usd(
    backlog: Backlog,
    capacities: Sequence[Capacity],
    objective: Objective,
    is_open: int,
    seed: int,
) -> float | None:
    others = [c for c in capacities if c.measure != "usd" or c.at_least]
    cheapest = Objective(0.0, 1.0, target_grade=objective.target_grade)
    found = search_prices(backlog, Terms.of(backlog.shape, others, cheapest, is_open), seed)
    return None if found is None else -found.bound


def _time_factor(
    backlog: Backlog, capacities: Sequence[Capacity], terms: Terms, seed: int
) -> float | None:
    """The least factor: prices of what grows with time sum up to its worth, 1 a unit of factor."""
    grows = np.zeros(terms.count, np.bool_)
    grows[: len(capacities)] = [c.per_time for c in capacities]
    grows &= terms.limit > 0  # a minimum does not get easier, nothing times nothing is nothing
    if not grows.any():
        return None
    bare = replace(terms, worth=0 * terms.worth, limit=np.where(grows, 0.0, terms.limit))
    # As one: a price for each capacity, the growing ones' spent on the factor.
    dual = Dual(bare, backlog)
    ranges = dual.ranges()
    fixed_fail = (ranges.least > terms.limit + OVERUSE * np.abs(terms.limit)) & ~grows
    if fixed_fail.any():
        return None
    return _least_factor(dual, terms, grows, seed, ranges.use)


def _least_factor(dual: Dual, terms: Terms, grows: Bools, seed: int, use: Floats) -> float | None:
    unit = np.where(grows, 1 / np.where(grows, terms.limit, 1.0), 1 / use)
    rows = dual.backlog.rows
    few = dual
    share = 1.0
    if rows > FEW_ROWS:
        share = FEW_ROWS / rows
        chosen = np.random.default_rng(seed).choice(rows, FEW_ROWS, replace=False)
        few = Dual.of_few(
            replace(dual.terms, limit=dual.terms.limit * share), dual.backlog.take(np.sort(chosen))
        )

    def function(point: Floats) -> tuple[float, Floats]:
        at = few.at(point * unit / share)
        return at.value, (few.terms.limit - at.use) * unit / share

    top = 4.0
    planes = Planes(terms.count)
    start = np.where(grows, 1 / grows.sum(), 0.0)
    while True:
        found = minimise(
            function,
            start,
            Region(top, grows),
            tolerance=1e-7,
            max_evaluations=100 + 20 * terms.count,
            planes=planes,
        )
        start = found.point
        if not (start[~grows] > 0.99 * top).any():
            break
        top *= 16
        if top > WIDEST:
            return None
    return -float(dual.at(start * unit).value)
