"""When a plan ends: what each account takes for its calls, and how long batches may be out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from moa.catalog import Limits, Model
from moa.plan_config import PlanConfig
from moa.planning.capacities import HOUR_S, Learnt, Situation
from moa.planning.pace import answer_s, live_s

RATES_OFF = (0.95, 1.25)
"""Least and greatest time at an account's limits, to the expected: tokens come out otherwise, 429s
and repeats take their part."""
ANSWERS_OFF = (0.5, 2.0)
"""Likewise where calls at once are the limit and how long answers take is a guess."""
BATCH_HOURS = (0.1, 2.0)
"""By when a batch has ended at the least, and is expected to. A guess: vendors promise a day and
say that most end within an hour or few."""
FLEX_SHARE = (0.0, 0.5)
"""Likewise of what a flex call may take."""


@dataclass(frozen=True, slots=True)
class Interval:
    """What is expected, and the bounds that hold what comes in nine of ten cases."""

    low: float
    expected: float
    high: float


class Work(NamedTuple):
    """What a plan gives to one model."""

    calls: float
    """Live and flex."""
    input_tokens: float
    """Of these calls, as `output_tokens`."""
    output_tokens: float
    flex_calls: float
    """Of the calls."""
    batch_queries: float
    batch_tokens: float
    """Of input."""


def ends_in_s(
    models: Sequence[Model], work: Sequence[Work], now: Situation, config: PlanConfig
) -> Interval:
    """When the last answer is there, from now.

    All models work at the same time, those of one account share its calls at once, and batches
    are out while calls are made.
    """
    spans = [live_span(model, one, now) for model, one in zip(models, work, strict=True)]
    spans += [_account_span(name, models, work, now) for name in {m.provider for m in models}]
    spans += [_flex_span(config) for one in work if one.flex_calls]
    spans += [
        _batch_span(model, one, config)
        for model, one in zip(models, work, strict=True)
        if one.batch_queries
    ]
    return Interval(
        max((span.low for span in spans), default=0.0),
        max((span.expected for span in spans), default=0.0),
        max((span.high for span in spans), default=0.0),
    )


def live_span(model: Model, work: Work, now: Situation) -> Interval:
    """What one model takes for its live and flex calls."""
    if not work.calls:
        return Interval(0.0, 0.0, 0.0)
    limits = replace(model.limits, max_in_flight=None)
    at_rates_s = _live_s(replace(model, limits=limits), work, in_flight=round(work.calls) + 1)
    at_once = Limits(max_in_flight=model.limits.max_in_flight)
    busy_s = _live_s(replace(model, limits=at_once), work, in_flight=now.in_flight)
    busy = _off(busy_s, ANSWERS_OFF)
    rate_per_s = now.learnt.get(model.id, Learnt()).rate_per_s
    if rate_per_s:
        busy = _off(work.calls / rate_per_s, RATES_OFF)
    return _later(_off(at_rates_s, RATES_OFF), busy)


def _live_s(model: Model, work: Work, *, in_flight: int) -> float:
    return live_s(
        model,
        calls=work.calls,
        input_tokens=work.input_tokens,
        output_tokens=work.output_tokens,
        in_flight=in_flight,
    )


def _account_span(
    account: str, models: Sequence[Model], work: Sequence[Work], now: Situation
) -> Interval:
    """What an account's models take together, of whose calls only so many are out at once."""
    mine = [
        one
        for model, one in zip(models, work, strict=True)
        if model.provider == account
        and one.calls
        and not now.learnt.get(model.id, Learnt()).rate_per_s
    ]
    busy_s = sum(one.calls * answer_s(one.output_tokens / one.calls) for one in mine)
    return _off(busy_s / now.in_flight, ANSWERS_OFF)


def _flex_span(config: PlanConfig) -> Interval:
    most_s = config.flex_minutes * 60
    return Interval(FLEX_SHARE[0] * most_s, FLEX_SHARE[1] * most_s, most_s)


def _batch_span(model: Model, work: Work, config: PlanConfig) -> Interval:
    """Batches wait for their turn where the account's queue does not take all of them."""
    queue = model.limits.batch_queue_tokens
    turns = max(1.0, work.batch_tokens / queue) if queue else 1.0
    low, expected = (min(hours, config.batch_hours) * turns * HOUR_S for hours in BATCH_HOURS)
    return Interval(low, expected, config.batch_hours * turns * HOUR_S)


def _off(seconds: float, by: tuple[float, float]) -> Interval:
    return Interval(seconds * by[0], seconds, seconds * by[1])


def _later(one: Interval, other: Interval) -> Interval:
    return Interval(
        max(one.low, other.low), max(one.expected, other.expected), max(one.high, other.high)
    )
