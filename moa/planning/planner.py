"""The whole backlog at once: an option for each query, so that all together are worth most.

    maximise    the sum of worth over all queries
    such that   each query gets one option (model and lane), and every capacity is kept

Each capacity gets a price, and each query the option that is worth most after paying for what it
uses (`prices.py`); a pass over the queries then keeps the limits to the last one (`rounding.py`).
At any prices the sum of what queries are worth after paying, and of what the capacities are worth,
bounds every plan, so that a plan tells how far from the best it can be at most. Pure: arrays in,
arrays out.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from moa.planning.capacity import (
    Backlog,
    Capacity,
    Choice,
    Floats,
    Objective,
)
from moa.planning.prices import Prices, find_prices
from moa.planning.remedies import Infeasible
from moa.planning.rounding import Pass

HEADROOMS = (1.0, 4.0, 16.0)
"""Tried in turn while the last queries do not fit: with few queries, that costs some worth."""


@dataclass(frozen=True, slots=True)
class Plan:
    """An option for each query, and how good the plan is."""

    choice: Choice
    """Shape (n,): `model * lanes + lane`, or `NO_OPTION`."""
    prices: Prices
    used: Floats
    """Of each capacity, in the order of `prices.names`."""
    worth: float
    """USD."""
    grade: float
    """The sum of expected grades."""
    cost_usd: float
    over: int
    """Queries that exceed a maximum whatever they get."""
    seconds: float

    @property
    def bound(self) -> float:
        """No plan is worth more, in USD."""
        return self.prices.bound

    @property
    def gap(self) -> float:
        """What the plan is worth less than the bound, as a share of it."""
        return (self.bound - self.worth) / max(abs(self.bound), 1e-300)

    def marginal(self, name: str) -> float:
        """USD of worth that one more unit of a capacity would buy; one less, for minima."""
        return self.prices.marginal(name)


def plan(
    backlog: Backlog, capacities: Sequence[Capacity], objective: Objective, *, seed: int = 0
) -> Plan | Infeasible:
    """Give each query of a backlog an option.

    Args:
        backlog: all queries, with `inf` as the cost of options that may not be taken.
        capacities: what all together may use, or must.
        objective: what is wanted.
        seed: of the samples on which prices are sought first; the plan hardly depends on it.
    """
    began = time.perf_counter()
    prices = find_prices(backlog, capacities, objective, seed=seed)
    if isinstance(prices, Infeasible):
        return prices
    queries, choice = _passed(prices, backlog, capacities, objective)
    return Plan(
        choice=choice,
        prices=prices,
        used=queries.used,
        worth=queries.worth,
        grade=queries.grade,
        cost_usd=queries.cost_usd,
        over=queries.over,
        seconds=time.perf_counter() - began,
    )


def _passed(
    prices: Prices, backlog: Backlog, capacities: Sequence[Capacity], objective: Objective
) -> tuple[Pass, Choice]:
    """The first pass in which all queries fit, or that in which most do."""
    found: tuple[Pass, Choice] | None = None
    for headroom in HEADROOMS:
        queries = Pass(prices, capacities, objective, rows=backlog.rows, headroom=headroom)
        choice = queries.take(backlog)
        if found is None or queries.over < found[0].over:
            found = queries, choice
        if not queries.over:
            break
    assert found is not None
    return found
