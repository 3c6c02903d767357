"""Plans of two models at made-up prices, as documents."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import numpy as np

from moa.catalog import AgreedPrice, Lane, Model, Rates
from moa.plan_config import PlanConfig
from moa.planning.capacities import Learnt, Situation, capacities
from moa.planning.capacity import Backlog, Objective, with_limits
from moa.planning.prices import Prices, find_prices
from moa.prices import PriceTable
from moa.reports.plan_document import plan_document
from tests.planning.test_forecast import USD_PER_TOKEN, backlog, model

NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)
LANES: tuple[Lane, ...] = ("live", "batch")
BY_WORTH = Objective(0.05)
BY_GRADE = Objective(1.0, usd_weight=0.0)


def table(models: Sequence[Model]) -> PriceTable:
    """A third of a token's price for input, so that it adds up with `backlog`."""

    def rates(usd: float) -> tuple[Rates, ...]:
        into, out = Decimal(f"{0.3 * usd * 1e6:.6f}"), Decimal(f"{usd * 1e6:.6f}")
        return (Rates(into, out, into, into),)

    agreed = {
        one.id: [
            AgreedPrice(lane, rates(float(USD_PER_TOKEN[row, column])), "a contract")
            for column, lane in enumerate(LANES)
        ]
        for row, one in enumerate(models)
    }
    return PriceTable.build(models, overrides=agreed)


def document(
    *,
    queries: Backlog | None = None,
    share: float = 1.0,
    objective: Objective = BY_WORTH,
    config: PlanConfig | None = None,
    usd: float | None = None,
    seconds: float | None = None,
    limits: dict[str, float] | None = None,
    learnt: dict[str, Learnt] | None = None,
    again: bool = False,
) -> dict[str, Any]:
    """The plan of 300 queries, or of those given."""
    sample = backlog(300) if queries is None else queries
    models = [model("dear", **(limits or {})), model("cheap")]
    config = config or PlanConfig(lanes=["live", "batch"])
    assert sample.output_tokens is not None
    situation = Situation(
        queries=round(sample.rows / share),
        usd=usd,
        seconds=seconds,
        output_tokens=tuple(sample.output_tokens.mean(axis=0).tolist()) if sample.rows else (),
        learnt=learnt or {},
    )
    found = capacities(models, LANES, config, situation)
    prices = find_prices(sample, with_limits(found, share), objective)
    assert isinstance(prices, Prices)
    return plan_document(
        job_models=models,
        lanes=LANES,
        config=config,
        situation=situation,
        sample=sample,
        share=share,
        most_output_tokens=1.5 * sample.output_tokens,
        capacities=found,
        objective=objective,
        prices=prices,
        table=table(models),
        finish_by=None if seconds is None else NOON + timedelta(seconds=seconds),
        router_usd=Decimal("0.002"),
        again=again,
        now=NOON,
    )


def live_only(queries: Backlog) -> Backlog:
    """Without batches."""
    cost = queries.cost_usd.copy()
    cost[:, :, 1] = np.inf
    return replace(queries, cost_usd=cost)
