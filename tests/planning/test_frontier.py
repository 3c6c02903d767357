from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moa.planning.capacities import BUDGET
from moa.planning.capacity import Backlog, Capacity, Objective
from moa.planning.frontier import FrontierPoint, frontier
from moa.planning.planner import Plan, plan
from tests.planning.test_forecast import LANES, MODELS, backlog


def of(queries: Backlog, *limits: Capacity, **rest: int) -> list[FrontierPoint]:
    return frontier(queries, limits, MODELS, LANES, **rest)


def everything(usd: float) -> Capacity:
    return Capacity(BUDGET, "usd", np.ones((2, 2), np.bool_), usd)


@settings(max_examples=25)
@given(st.integers(1, 80), st.integers(0, 99), st.integers(2, 8))
def test_each_point_is_dearer_and_better_than_the_one_before(
    rows: int, seed: int, budgets: int
) -> None:
    points = of(backlog(rows, seed=seed), budgets=budgets)

    assert 1 <= len(points) <= budgets
    for one, after in pairwise(points):
        assert one.usd < after.usd
        assert one.grade < after.grade
        bought = (after.grade - one.grade) * rows
        assert one.right_answers_per_usd * (after.usd - one.usd) == pytest.approx(bought)
    assert points[-1].right_answers_per_usd == 0


def test_it_goes_from_the_cheapest_plan_to_the_best() -> None:
    queries = backlog(300)

    points = of(queries)

    assert len(points) == 12
    assert points[0].usd == pytest.approx(float(queries.cost_usd.min(axis=(1, 2)).sum()), rel=1e-5)
    assert points[-1].grade == pytest.approx(float(queries.grade.max(axis=1).mean()), rel=1e-5)


def test_its_points_are_what_a_plan_at_that_budget_gets() -> None:
    queries = backlog(400)

    for point in of(queries, budgets=5)[1:-1]:
        found = plan(queries, [everything(point.usd * 1.0001)], Objective(1.0, usd_weight=0.0))
        assert isinstance(found, Plan)
        assert found.grade / 400 == pytest.approx(point.grade, abs=0.004)


def test_the_plans_own_budget_does_not_bound_it_and_other_limits_do() -> None:
    queries = backlog(300)
    few = Capacity("v/cheap max share", "queries", np.array([[False] * 2, [True] * 2]), 30.0)
    none = Capacity("v/dear max share", "queries", np.array([[True] * 2, [False] * 2]), 30.0)

    free, budgeted, limited = of(queries), of(queries, everything(0.001)), of(queries, few)
    cheap = of(queries, none)

    assert budgeted == free
    assert limited[-1].grade < free[-1].grade
    assert limited[0].usd > free[0].usd
    assert cheap[0].usd == pytest.approx(free[0].usd)
    assert cheap[-1].grade < free[-1].grade


def test_a_sample_tells_the_money_of_the_whole() -> None:
    queries = backlog(6_000)

    sampled, whole = of(queries, max_rows=2_000, budgets=4), of(queries, budgets=4)

    assert [one.usd for one in sampled] == pytest.approx([one.usd for one in whole], rel=0.05)
    assert [one.grade for one in sampled] == pytest.approx([one.grade for one in whole], abs=0.02)


def test_where_no_plan_keeps_the_limits_there_is_no_frontier() -> None:
    impossible = Capacity("least", "queries", np.ones((2, 2), np.bool_), 11.0, at_least=True)

    assert of(backlog(10), impossible) == []


def test_queries_that_nobody_can_take_count_for_nothing() -> None:
    queries = backlog(40)
    queries.cost_usd[:20] = np.inf

    points = of(queries, budgets=3)

    assert points[-1].grade == pytest.approx(float(queries.grade[20:].max(axis=1).mean()), rel=1e-5)
    queries.cost_usd[:] = np.inf
    assert of(queries) == []


def test_another_shape_than_the_pools_is_refused() -> None:
    with pytest.raises(ValueError, match="other models or lanes"):
        frontier(backlog(3), [], MODELS[:1], LANES)
