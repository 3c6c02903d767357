"""A plan as a document: what it gives to whom, what it will come to, what binds it, what more of
each limit would buy. Kept in the run folder; everything that is said of a plan is made from it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moa.catalog import Lane, Model
from moa.plan_config import PlanConfig
from moa.planning.capacities import Situation
from moa.planning.capacity import (
    TARGET_GRADE,
    Backlog,
    Capacity,
    Floats,
    Objective,
    with_limits,
)
from moa.planning.forecast import forecast
from moa.planning.frontier import frontier
from moa.planning.prices import Prices
from moa.planning.rounding import Pass
from moa.planning.totals import Totals
from moa.prices import PriceTable

BLOCK_ROWS = 100_000
"""Queries that are counted at once."""
NOTHING = 1e-7
"""A limit whose price times its amount is a smaller share of the plan's worth does not bind."""


def plan_document(
    *,
    job_models: Sequence[Model],
    lanes: Sequence[Lane],
    config: PlanConfig,
    situation: Situation,
    sample: Backlog,
    share: float,
    most_output_tokens: NDArray[np.floating[Any]],
    capacities: Sequence[Capacity],
    objective: Objective,
    prices: Prices,
    table: PriceTable,
    finish_by: datetime | None,
    router_usd: Decimal,
    again: bool,
    now: datetime | None = None,
) -> dict[str, Any]:
    """All that is to be said of a plan, as JSON.

    Args:
        job_models: pool order.
        lanes: that may be bought.
        config: of the plan.
        situation: where the run stands.
        sample: of the queries, or all.
        share: that the sample is of all queries.
        most_output_tokens: of the sample, that nine in ten answers stay below, shape (n, m).
        capacities: limits of the whole backlog.
        objective: what is wanted.
        prices: found from the sample.
        table: prices of the models.
        finish_by: the deadline, if there is one.
        router_usd: what the router's machines have cost.
        again: in the middle of a run; then without a frontier, which takes seconds.
        now: when it is made; by default by the clock.
    """
    whole = 1 / share if share else 1.0
    limits = with_limits(capacities, share)
    chosen = Pass(prices, limits, objective, rows=sample.rows)
    per_token = usd_per_output_token(job_models, lanes, table)
    totals = _totals(sample, chosen, most_output_tokens, per_token)
    told = forecast(
        totals.scaled(whole), job_models, lanes, situation, config, router_usd=router_usd
    )
    return {
        "created_at": (now or datetime.now(UTC)).isoformat(),
        "finish_by": None if finish_by is None else finish_by.isoformat(),
        "sampled": sample.rows if share < 1 else None,
        "models": [model.id for model in job_models],
        "lanes": list(lanes),
        "objective": asdict(objective),
        **_known(situation),
        "forecast": told.document(),
        "capacities": _limits(prices, capacities, objective, chosen, whole),
        "frontier": [] if again else _frontier(sample, limits, job_models, lanes, whole),
        **_quality(prices, chosen, whole),
        "again": again,
    }


def _known(situation: Situation) -> dict[str, Any]:
    """By what the plan was made."""
    return {
        "seconds": situation.seconds,
        "queries": situation.queries,
        "usd": situation.usd,
        "in_flight": situation.in_flight,
        "learnt": {name: asdict(one) for name, one in situation.learnt.items()},
    }


def _totals(
    sample: Backlog, chosen: Pass, most_output_tokens: NDArray[np.floating[Any]], per_token: Floats
) -> Totals:
    """What the plan gives to each option, of the sample."""
    totals = Totals(*sample.shape)
    for start in range(0, sample.rows, BLOCK_ROWS):
        rows = slice(start, start + BLOCK_ROWS)
        block = sample.take(rows)
        totals.add(block, chosen.take(block), most_output_tokens[rows], per_token)
    return totals


def usd_per_output_token(
    models: Sequence[Model], lanes: Sequence[Lane], table: PriceTable
) -> Floats:
    """Shape (m, L); 0 where a model is not sold."""
    found = np.zeros((len(models), len(lanes)))
    for column, lane in enumerate(lanes):
        for row, model in enumerate(models):
            if lane in model.lanes:
                usd = table.expected_cost_usd([model.id], lane, np.zeros((1, 1)), np.ones((1, 1)))
                found[row, column] = usd[0, 0]
    return found


def _limits(
    prices: Prices,
    capacities: Sequence[Capacity],
    objective: Objective,
    chosen: Pass,
    whole: float,
) -> list[dict[str, Any]]:
    """Each limit with what is used of it, and its price: worth of one more unit, of one less of
    what is at least."""
    limits: list[tuple[str, float, bool, bool]] = [
        (one.measure, one.limit, one.at_least, one.per_time) for one in capacities
    ]
    if TARGET_GRADE in prices.names and objective.target_grade is not None:
        target = objective.target_grade * prices.open_share * chosen.rows * whole
        limits.append(("grade", target, True, False))
    worth = abs(prices.bound) * whole
    rows = zip(prices.names, limits, prices.usd.tolist(), chosen.used.tolist(), strict=True)
    return [
        {
            "name": name,
            "measure": measure,
            "limit": limit,
            "used": used * whole,
            "price": price,
            "binds": price * max(abs(limit), 1.0) > NOTHING * worth,
            "at_least": at_least,
            "per_time": per_time,
        }
        for name, (measure, limit, at_least, per_time), price, used in rows
    ]


def _frontier(
    sample: Backlog,
    limits: Sequence[Capacity],
    models: Sequence[Model],
    lanes: Sequence[Lane],
    whole: float,
) -> list[dict[str, float]]:
    points = frontier(sample, limits, models, lanes)
    return [{**asdict(point), "usd": point.usd * whole} for point in points]


def _quality(prices: Prices, chosen: Pass, whole: float) -> dict[str, float]:
    """What the plan is worth, and what none is worth more than, by its objective."""
    bound = prices.bound * chosen.rows / max(1, prices.rows)
    gap = max(0.0, bound - chosen.worth) / max(abs(bound), 1e-300)
    return {"worth": chosen.worth * whole, "bound": bound * whole, "gap": gap}
