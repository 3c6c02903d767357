"""A planned run: what its first plan expected, what came of it, and when it was planned again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from moa.planning.ending import Interval
from moa.planning.forecast import Forecast
from moa.reports.plan_words import aim
from moa.reports.tally import Sums

BATCH = "batch"
USUAL = 0.02
"""What a run learns of a model's tokens is no news within so much of what was expected."""
Key = tuple[str | None, str | None]
"""Model and lane."""


@dataclass(frozen=True, slots=True)
class Against:
    """A figure's forecast, and the fact."""

    expected: float
    low: float
    high: float
    fact: float
    within: bool
    """Whether the fact lies within the interval."""


@dataclass(frozen=True, slots=True)
class OptionFact:
    """What one model was to do in one lane, and has done."""

    model: str
    lane: str
    planned: int
    done: int
    """Answered or refused; equal queries that got the same answer are not counted."""
    planned_usd: Decimal
    usd: Decimal


@dataclass(frozen=True, slots=True)
class Replan:
    """The queries that were not sent yet, planned again by what the run had learnt."""

    made_at: datetime
    queries: int
    expected_usd: float
    """Of these."""
    learnt: tuple[tuple[str, float, float], ...]
    """Model, and its input and output tokens to those expected, where they were other."""


@dataclass(frozen=True, slots=True)
class Planned:
    """Forecast and fact."""

    aim: str
    made_at: datetime
    finish_by: datetime | None
    queries: int
    limit_usd: float | None
    """What the calls could cost at most."""
    cost_usd: Against
    grade: Against | None
    """`None` where no grade is known."""
    seconds: Against
    """From the plan to the last answer."""
    ended_at: datetime
    in_time: bool | None
    """Ended before its deadline; `None` without one."""
    rows: tuple[OptionFact, ...]
    to_batches: int
    """Queries that were decided to be bought in batches."""
    by_batches: int
    """Of these, answered so."""
    left_for_live: int
    """Of these, not answered by a batch: bought live, or dead."""
    replans: tuple[Replan, ...]


def planned(
    plans: Sequence[Mapping[str, Any]],
    spend: Mapping[Key, Sums],
    lanes: Mapping[Key, int],
    *,
    ended_at: datetime | None,
    grade: float | None,
) -> Planned | None:
    """Compare a run's first plan with what came of it; `None` of a run without a plan.

    Args:
        plans: as `plan_document` gives them, the first one first.
        spend: model and lane → what was counted of outcomes.
        lanes: model and lane → queries that were decided so, by the last decision on each.
        ended_at: when the last query had its outcome, if any has.
        grade: mean of the answers whose grade is known.
    """
    if not plans:
        return None
    number = first_plan(plans)
    first = plans[number]
    told = Forecast.from_document(first["forecast"])
    made_at = datetime.fromisoformat(first["created_at"])
    finish_by = None if first["finish_by"] is None else datetime.fromisoformat(first["finish_by"])
    ended_at = max(made_at, ended_at or made_at)
    to_batches = sum(number for (_, lane), number in lanes.items() if lane == BATCH)
    by_batches = sum(asked(one) for (_, lane), one in spend.items() if lane == BATCH)
    return Planned(
        aim=aim(first),
        made_at=made_at,
        finish_by=finish_by,
        queries=first["queries"],
        limit_usd=first["usd"],
        cost_usd=_against(told.cost_usd, float(sum(one.cost_usd for one in spend.values()))),
        grade=None if grade is None else _against(told.grade, grade),
        seconds=_against(told.ends_in_s, (ended_at - made_at).total_seconds()),
        ended_at=ended_at,
        in_time=None if finish_by is None else ended_at <= finish_by,
        rows=tuple(_rows(told, spend, first["models"])),
        to_batches=to_batches,
        by_batches=by_batches,
        left_for_live=max(0, to_batches - by_batches),
        replans=tuple(_replan(plan) for plan in plans[number + 1 :]),
    )


def first_plan(plans: Sequence[Mapping[str, Any]]) -> int:
    """Number of the plan that the run began by: the last one of the whole backlog. Plans that were
    only looked at come before it; a start that went on with fewer queries made those after.
    """
    whole = [(plan["queries"], n) for n, plan in enumerate(plans) if not plan["again"]]
    return max(whole, default=(0, 0))[1]


def asked(one: Sums) -> int:
    """Queries with an answer of their own."""
    return one.answered + one.refused - one.shared


def _against(interval: Interval, fact: float) -> Against:
    within = interval.low <= fact <= interval.high
    return Against(interval.expected, interval.low, interval.high, fact, within)


def _rows(told: Forecast, spend: Mapping[Key, Sums], pool: Sequence[str]) -> Iterable[OptionFact]:
    """Planned or done: pool order, what a redrive has asked outside of it last."""
    plan = {(row.model, str(row.lane)): row for row in told.rows}
    done = {
        (model, lane): one
        for (model, lane), one in spend.items()
        if model is not None and lane is not None
    }
    places = {model: number for number, model in enumerate(pool)}
    keys = sorted(plan.keys() | done.keys(), key=lambda k: (places.get(k[0], len(pool)), *k))
    for key in keys:
        row, sums = plan.get(key), done.get(key, Sums())
        yield OptionFact(
            *key,
            planned=0 if row is None else row.queries,
            done=asked(sums),
            planned_usd=Decimal(0) if row is None else Decimal(f"{row.cost_usd:.9f}"),
            usd=sums.cost_usd,
        )


def _replan(plan: Mapping[str, Any]) -> Replan:
    learnt = sorted(
        (name, float(one["input_tokens"]), float(one["output_tokens"]))
        for name, one in plan["learnt"].items()
    )
    return Replan(
        made_at=datetime.fromisoformat(plan["created_at"]),
        queries=plan["queries"],
        expected_usd=plan["forecast"]["cost_usd"]["expected"],
        learnt=tuple(
            (name, into, out)
            for name, into, out in learnt
            if abs(into - 1) > USUAL or abs(out - 1) > USUAL
        ),
    )
