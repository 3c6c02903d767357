from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from moa.planning.capacity import TARGET_GRADE, Capacity, Objective
from moa.planning.planner import Plan, plan
from moa.planning.remedies import Infeasible
from tests.planning.planner_problems import backlog, every, highs, lane, model, usual

FIVE_CENTS = Objective(0.05)
CHEAPEST = Objective(0.0)


def refused(found: Plan | Infeasible) -> Infeasible:
    assert isinstance(found, Infeasible)
    return found


@pytest.mark.parametrize("rows", [1, 30, 2_000])
def test_a_budget_below_the_cheapest_plan_is_refused_with_what_that_costs(rows: int) -> None:
    queries = backlog(rows)
    others = [Capacity("cheapest queries", "queries", model(0), 0.35 * rows)][: rows // 10]

    found = refused(plan(queries, [budget(1e-6), *others], FIVE_CENTS))

    least = highs(queries, others, CHEAPEST).worth
    assert least is not None
    assert "budget" in found.names
    assert found.least_usd == pytest.approx(-least, rel=1e-5)
    assert found.time_factor is None
    assert "the cheapest within the other limits" in str(found)


def test_the_least_budget_that_is_told_is_enough_and_a_little_less_is_not() -> None:
    queries = backlog(5_000)
    others = [Capacity("cheapest queries", "queries", model(0), 1_500)]
    least_usd = refused(plan(queries, [budget(1.0), *others], FIVE_CENTS)).least_usd
    assert least_usd is not None

    enough = plan(queries, [budget(least_usd * 1.001), *others], FIVE_CENTS)
    too_little = plan(queries, [budget(least_usd * 0.999), *others], FIVE_CENTS)

    assert isinstance(enough, Plan)
    assert not enough.over
    assert isinstance(too_little, Infeasible)


def budget(limit: float) -> Capacity:
    return Capacity("budget", "usd", every(), limit)


def per_hour(queries_an_hour: float, hours: float) -> list[Capacity]:
    """Each model's rate until the deadline, live; there is a lane that waits for nobody too."""
    return [
        Capacity(f"model {number}", "queries", model(number) & lane(0),
                 queries_an_hour * (number + 1) * hours, per_time=True)
        for number in range(4)
    ]  # fmt: skip


def test_a_deadline_that_is_too_early_is_refused_with_the_earliest() -> None:
    queries = backlog(3_000, lanes=1, barred=0.0)
    limits = [replace(one, options=one.options[:, :1]) for one in per_hour(100, hours=1)]

    found = refused(plan(queries, limits, FIVE_CENTS))

    assert set(found.names) == {one.name for one in limits}
    assert found.time_factor == pytest.approx(3, rel=1e-5)  # 100 + 200 + 300 + 400 an hour
    assert isinstance(plan(queries, scaled(limits, 3.001), FIVE_CENTS), Plan)


def scaled(limits: list[Capacity], factor: float) -> list[Capacity]:
    return [replace(one, limit=one.limit * factor) if one.per_time else one for one in limits]


def test_the_earliest_end_minds_the_limits_that_do_not_grow_with_time() -> None:
    queries = backlog(3_000)
    fixed = [Capacity("batch", "queries", lane(1), 500), budget(18.0)]
    limits = [*per_hour(50, hours=1), *fixed]

    factor = refused(plan(queries, limits, FIVE_CENTS)).time_factor

    assert factor is not None
    assert highs(queries, scaled(limits, factor * 1.0001), FIVE_CENTS).worth is not None
    assert highs(queries, scaled(limits, factor * 0.9999), FIVE_CENTS).worth is None


def test_no_time_is_enough_where_the_budget_is_too_small() -> None:
    queries = backlog(1_000)

    found = refused(plan(queries, [budget(0.5), *per_hour(1, hours=1)], FIVE_CENTS))

    assert found.time_factor is None


def test_a_target_grade_above_what_models_can_do_is_refused_by_its_name() -> None:
    queries = backlog(1_000)

    found = refused(plan(queries, [budget(1e6)], Objective(0.0, target_grade=0.999)))

    assert found.names == (TARGET_GRADE,)
    assert found.least_usd is None


def test_limits_that_exclude_each_other_are_named_and_others_are_not() -> None:
    queries = backlog(1_000)
    limits = [
        Capacity("at least", "queries", model(3), 600, at_least=True),
        Capacity("at most", "output_tokens", model(3), 1_000),
        Capacity("batch", "queries", lane(1), 400),
        budget(1e3),
    ]

    found = refused(plan(queries, limits, FIVE_CENTS))

    assert set(found.names) == {"at least", "at most"}


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(1, 200),
    seed=st.integers(0, 1_000),
    tightness=st.tuples(*[st.floats(0.1, 1.2)] * 5),
)
def test_what_is_refused_is_what_highs_refuses(
    rows: int, seed: int, tightness: tuple[float, ...]
) -> None:
    queries = backlog(rows, seed=seed)
    capacities = [
        replace(one, limit=one.limit * much)
        for one, much in zip(usual(rows), tightness, strict=True)
    ]
    best = highs(queries, capacities, FIVE_CENTS)
    nearly = [replace(one, limit=one.limit * (1 + 1e-6)) for one in capacities]
    assume((best.worth is None) == (highs(queries, nearly, FIVE_CENTS).worth is None))

    found = plan(queries, capacities, FIVE_CENTS)

    assert isinstance(found, Infeasible) == (best.worth is None)
    if isinstance(found, Infeasible) and found.least_usd is not None:
        least = highs(queries, capacities[1:], CHEAPEST).worth
        assert least is not None
        assert found.least_usd == pytest.approx(-least, rel=1e-4)


def test_a_large_backlog_is_refused_by_all_of_its_queries_not_by_a_sample() -> None:
    queries = backlog(60_000)
    least = float(queries.cost_usd.min(axis=(1, 2)).sum(dtype=np.float64))

    found = refused(plan(queries, [budget(least * 0.9999)], FIVE_CENTS))
    enough = plan(queries, [budget(least * 1.0001)], FIVE_CENTS)

    assert found.least_usd == pytest.approx(least, rel=1e-6)
    assert isinstance(enough, Plan)
    assert not enough.over
