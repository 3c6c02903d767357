"""What a plan will cost, how good its answers will be, and when it will end; each with an interval.

An interval holds what is known to vary: single answers, what the router has wrong of a whole
backlog, what is asked twice, how fast vendors answer. It does not hold a kind of query that the
router was never taught: of sources that were left out of training, costs came out 58 % less to
196 % more, mean grades 0.40 less to 0.27 more, and hardly an interval held (`bench_forecast`). The
policy's `max_novelty` keeps such queries away; no interval can.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from decimal import Decimal
from math import exp, log1p, sqrt
from typing import Any

import numpy as np

from moa.catalog import Lane, Model
from moa.plan_config import PlanConfig
from moa.planning.capacities import Situation
from moa.planning.ending import Interval, Work, ends_in_s, live_span
from moa.planning.totals import Totals

SIGMAS = 1.645
"""Of a normal distribution 90 % lie within so many standard deviations."""
OUTPUT_ERROR = 0.03
"""Of a model's expected output tokens, in one direction for all of a backlog. Cross-validated they
were off by 0.03 by source and model (root of the mean square), chance included. With this and the
next two, intervals hold for nine in ten backlogs that are of one kind of query, and for nearly all
that are of many kinds, whose errors cancel (`bench_forecast`)."""
INPUT_ERROR = 0.4
"""Likewise of input tokens, for all models at once: what is counted beside the prompt's text
(templates, each vendor's tokenizer) was between 0.42 less and 0.67 more, by source."""
GRADE_ERROR = 0.015
"""Of a model's mean grade, in one direction; and as much again of all models at once, since they
err about the same kinds of queries. By source and model it was 0.018, chance included. It was 0.01
until one-source backlogs of the demo held in 84 % only: of these it is no independent proof."""
ASKED_TWICE = 0.01
"""Share of the cost that failed calls, repeats and detours may come to; none is expected."""
SPILL_ERROR = 0.02
"""Share of what is bought at half the price that may be bought live in the end, beyond what is
reckoned with (`moa.decisions.planned.SPILL`): at twice the price, so as large a part of the cost.
"""
_LIVE: tuple[Lane, ...] = ("live", "flex")


@dataclass(frozen=True, slots=True)
class OptionForecast:
    """What one model is given in one lane."""

    model: str
    lane: Lane
    queries: int
    calls: int
    """At once or as rows of a batch; repeats are not counted."""
    input_tokens: int
    output_tokens: int
    cost_usd: float
    live_s: float
    """What the model takes at its limits for all its live and flex calls; 0 for batches."""


@dataclass(frozen=True, slots=True)
class Forecast:
    """What to expect of a plan, from the moment it was made. Intervals are 90 %."""

    cost_usd: Interval
    """Of the calls; at most the budget, which the run keeps whatever happens."""
    grade: Interval
    """Mean of the answers."""
    ends_in_s: Interval
    rows: tuple[OptionForecast, ...]
    """Of options that are given anything: pool order, then the order of lanes."""
    router_usd: Decimal
    """Spent on the router's machines by then; not in `cost_usd`."""

    @property
    def queries(self) -> int:
        """That have an option."""
        return sum(row.queries for row in self.rows)

    def document(self) -> dict[str, Any]:
        """As JSON; the router's money as decimal text."""
        found = asdict(self)
        return {**found, "rows": list(found["rows"]), "router_usd": str(self.router_usd)}

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Forecast:
        """What `document` gave."""
        return cls(
            cost_usd=Interval(**document["cost_usd"]),
            grade=Interval(**document["grade"]),
            ends_in_s=Interval(**document["ends_in_s"]),
            rows=tuple(OptionForecast(**row) for row in document["rows"]),
            router_usd=Decimal(document["router_usd"]),
        )


def forecast(
    totals: Totals,
    models: Sequence[Model],
    lanes: Sequence[Lane],
    situation: Situation,
    config: PlanConfig,
    *,
    router_usd: Decimal | float,
) -> Forecast:
    """What a plan will come to.

    Args:
        totals: of all its queries.
        models: pool order.
        lanes: that may be bought, as the totals have them.
        situation: when it was made: money and time that are left, and what was learnt.
        config: what is reckoned of batches and of flex.
        router_usd: spent on the router's machines.
    """
    work = [work_of(totals, number, lanes) for number in range(len(models))]
    live = [live_span(model, one, situation) for model, one in zip(models, work, strict=True)]
    return Forecast(
        cost_usd=cost_interval(totals, lanes, most_usd=situation.usd),
        grade=grade_interval(totals),
        ends_in_s=ends_in_s(models, work, situation, config),
        rows=tuple(_rows(totals, models, lanes, [span.expected for span in live])),
        router_usd=Decimal(str(router_usd)),
    )


def cost_interval(
    totals: Totals, lanes: Sequence[Lane], *, most_usd: float | None = None
) -> Interval:
    """Of what the calls cost, as a log-normal sum.

    Args:
        totals: of the plan.
        lanes: as the totals have them.
        most_usd: what the run can spend at most.
    """
    usd = float(totals.usd.sum())
    if usd <= 0:
        return Interval(0.0, 0.0, 0.0)
    by_model = totals.output_usd.sum(axis=1)
    at_half = sum(
        float(totals.usd[:, column].sum()) for column, lane in enumerate(lanes) if lane != "live"
    )
    variance = (
        float(totals.usd_variance.sum())
        + OUTPUT_ERROR**2 * float((by_model**2).sum())
        + (INPUT_ERROR * (usd - float(by_model.sum()))) ** 2
        + (ASKED_TWICE * usd) ** 2
        + (SPILL_ERROR * at_half) ** 2
    )
    deviation = sqrt(log1p(variance / usd**2))
    low, high = (usd * exp(sign * SIGMAS * deviation - deviation**2 / 2) for sign in (-1, 1))
    most = np.inf if most_usd is None else max(most_usd, usd)
    return Interval(low, usd, min(max(high, usd), most))


def grade_interval(totals: Totals) -> Interval:
    """Of the answers' mean grade; a single answer is taken for right or wrong."""
    queries = float(totals.queries.sum())
    if not queries:
        return Interval(0.0, 0.0, 0.0)
    mean = float(totals.grade.sum()) / queries
    shares = totals.queries.sum(axis=1) / queries
    common = GRADE_ERROR**2 * (1 + float((shares**2).sum()))
    off = SIGMAS * sqrt(float(totals.grade_variance.sum()) / queries**2 + common)
    return Interval(max(0.0, mean - off), mean, min(1.0, mean + off))


def work_of(totals: Totals, number: int, lanes: Sequence[Lane]) -> Work:
    """What a plan gives to one model, by its number in the pool."""
    live = [column for column, lane in enumerate(lanes) if lane in _LIVE]
    flex = [column for column, lane in enumerate(lanes) if lane == "flex"]
    batch = [column for column, lane in enumerate(lanes) if lane == "batch"]
    return Work(
        calls=float(totals.queries[number, live].sum()),
        input_tokens=float(totals.input_tokens[number, live].sum()),
        output_tokens=float(totals.output_tokens[number, live].sum()),
        flex_calls=float(totals.queries[number, flex].sum()),
        batch_queries=float(totals.queries[number, batch].sum()),
        batch_tokens=float(totals.input_tokens[number, batch].sum()),
    )


def _rows(
    totals: Totals, models: Sequence[Model], lanes: Sequence[Lane], live_s: Sequence[float]
) -> Iterator[OptionForecast]:
    for number, model in enumerate(models):
        for column, lane in enumerate(lanes):
            queries = round(float(totals.queries[number, column]))
            if queries:
                yield OptionForecast(
                    model=model.id,
                    lane=lane,
                    queries=queries,
                    calls=queries,
                    input_tokens=round(float(totals.input_tokens[number, column])),
                    output_tokens=round(float(totals.output_tokens[number, column])),
                    cost_usd=float(totals.usd[number, column]),
                    live_s=live_s[number] if lane in _LIVE else 0.0,
                )
