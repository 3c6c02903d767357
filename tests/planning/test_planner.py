from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moa.catalog import Limits, Model
from moa.config import PolicyConfig
from moa.planning.capacity import NO_OPTION, TARGET_GRADE, Backlog, Capacity, Objective
from moa.planning.planner import Plan, plan
from moa.planning.policy import Candidates, decide
from moa.planning.remedies import Infeasible
from tests.planning.planner_problems import (
    backlog,
    every,
    highs,
    lane,
    model,
    single,
    use_of,
    usual,
)

FIVE_CENTS = Objective(0.05)


def planned(queries: Backlog, capacities: list[Capacity], objective: Objective) -> Plan:
    found = plan(queries, capacities, objective)
    assert isinstance(found, Plan), str(found)
    return found


@pytest.mark.parametrize("rows", [200, 1_000, 5_000])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_bound_is_the_optimum_of_highs_and_the_plan_is_close_to_it(
    rows: int, seed: int
) -> None:
    queries, capacities = backlog(rows, seed=seed), usual(rows)

    found = planned(queries, capacities, FIVE_CENTS)

    best = highs(queries, capacities, FIVE_CENTS).worth
    assert best is not None
    assert found.bound == pytest.approx(best, rel=1e-5)
    assert sum(price > 0 for price in found.prices.usd) >= 2
    a_query = best / rows
    assert best - found.worth <= 0.001 * best + len(capacities) * a_query
    assert found.worth <= best * (1 + 1e-9) or found.over


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_plan_is_close_to_the_best_that_leaves_queries_whole(seed: int) -> None:
    queries, capacities = backlog(300, seed=seed), usual(300)

    found = planned(queries, capacities, FIVE_CENTS)

    best = highs(queries, capacities, FIVE_CENTS, whole=True).worth
    assert best is not None
    assert best - found.worth <= 5 * best / 300
    assert found.bound >= best * (1 - 1e-6)


@pytest.mark.parametrize("target", [0.5, 0.56])
def test_a_target_grade_is_met_at_least_cost(target: float) -> None:
    queries = backlog(3_000)
    capacities = [Capacity("dear", "queries", model(3), 600)]
    objective = Objective(0.0, target_grade=target)

    found = planned(queries, capacities, objective)

    best = highs(queries, capacities, objective).worth
    assert best is not None
    assert found.bound == pytest.approx(best, rel=1e-5)
    assert found.grade >= target * 3_000 * (1 - 1e-9)
    assert found.cost_usd == pytest.approx(-best, rel=5e-3)
    assert found.marginal(TARGET_GRADE) > 0


def test_a_minimum_share_is_reached_and_costs_no_more_than_it_must() -> None:
    queries = backlog(2_000)
    capacities = [Capacity("least", "queries", model(3), 900, at_least=True)]

    found = planned(queries, capacities, FIVE_CENTS)

    free = planned(queries, [], FIVE_CENTS)
    assert free.worth > found.worth
    assert 900 <= found.used[0] <= 904
    assert found.worth == pytest.approx(highs(queries, capacities, FIVE_CENTS).worth, rel=1e-4)


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 300),
    seed=st.integers(0, 10_000),
    tightness=st.tuples(*[st.floats(0.05, 1.5)] * 4),
    floor=st.sampled_from([None, 0.5]),
)
def test_no_limit_is_ever_exceeded_but_by_queries_that_are_counted(
    rows: int, seed: int, tightness: tuple[float, ...], floor: float | None
) -> None:
    queries = backlog(rows, seed=seed)
    capacities = [
        replace(one, limit=one.limit * much)
        for one, much in zip(usual(rows), tightness, strict=False)
        if not one.at_least
    ]
    objective = FIVE_CENTS if floor is None else Objective(0.0, floor=floor)

    found = plan(queries, capacities, objective)

    if isinstance(found, Infeasible):
        assert highs(queries, capacities, objective).worth is None
        return
    assert (found.choice != NO_OPTION).all()
    cost = queries.cost_usd.reshape(rows, -1)[np.arange(rows), found.choice]
    assert np.isfinite(cost).all()
    for used, capacity in zip(found.used, capacities, strict=False):
        assert used == pytest.approx(use_of(queries, found.choice, capacity), rel=1e-9, abs=1e-9)
        if not found.over:
            assert used <= capacity.limit * (1 + 1e-9)
    if not found.over:
        assert found.worth <= found.bound + 1e-6 * abs(found.bound)


@pytest.mark.parametrize("rows", [1_000, 30_000])
@pytest.mark.parametrize("kinds", [1, 2, 3, 7])
def test_queries_that_are_all_alike_are_divided_so_that_limits_are_used_up(
    rows: int, kinds: int
) -> None:
    few = backlog(kinds, seed=3, barred=0.0)
    queries = few.take(np.arange(rows) % kinds)
    cheapest = float(queries.cost_usd.min(axis=(1, 2)).sum())
    capacities = [
        Capacity("budget", "usd", every(), 2.2 * cheapest),
        Capacity("best", "queries", model(3), 0.2 * rows),
        Capacity("next best", "queries", model(2), 0.1 * rows),
    ]

    found = planned(queries, capacities, FIVE_CENTS)

    assert not found.over
    assert (found.used <= [one.limit for one in capacities]).all()
    assert found.gap < 0.001 + 3 / rows


def test_two_models_that_are_alike_share_what_neither_can_take_alone() -> None:
    rows = 1_000
    queries = Backlog(
        single(np.tile([0.8, 0.8, 0.1], (rows, 1))), single(np.full((rows, 3, 1), 0.001))
    )
    capacities = [
        Capacity("first", "queries", model(0, 3, 1), 500),
        Capacity("second", "queries", model(1, 3, 1), 500),
    ]

    found = planned(queries, capacities, FIVE_CENTS)

    assert np.bincount(found.choice, minlength=3)[:2].min() >= 498


@pytest.mark.parametrize("policy", [{"willingness_to_pay": 0.02}, {"quality_floor": 0.6}])
@pytest.mark.parametrize("seed", [0, 1])
def test_where_nothing_binds_each_query_gets_what_the_policy_decides(
    policy: dict[str, float], seed: int
) -> None:
    queries = backlog(5_000, lanes=1, seed=seed)
    # Few distinct values, so that there are many ties.
    queries = replace(
        queries,
        grade=np.round(queries.grade, 1),
        cost_usd=single(np.ceil(queries.cost_usd * 500) / 500),
    )
    roomy = [Capacity("budget", "usd", every(lanes=1), 1e9)]

    found = planned(queries, roomy, objective_of(policy))

    assert found.prices.usd.tolist() == [0.0]
    assert found.choice.tolist() == decided(queries, policy)


def objective_of(policy: dict[str, float]) -> Objective:
    floor = policy.get("quality_floor")
    return Objective(policy.get("willingness_to_pay", 0.0), floor=floor)


def decided(queries: Backlog, policy: dict[str, float]) -> list[int]:
    can = np.isfinite(queries.cost_usd[:, :, 0])
    models = tuple(
        Model(
            id=f"test/{number}",
            provider="test",
            api_name=f"{number}",
            context_window=1_000,
            max_output_tokens=100,
            abilities=frozenset(),
            limits=Limits(),
            price_provider="",
            price_ref="",
        )
        for number in range(can.shape[1])
    )
    yes = np.ones_like(can)
    decisions = decide(
        Candidates(
            models, ("live",), fits=can, able=yes, allowed=yes, buyable=yes[:, :, None], good=yes
        ),
        queries.grade.astype(np.float64),
        np.where(can, queries.cost_usd[:, :, 0].astype(np.float64), 0.0),
        np.zeros(len(can)),
        PolicyConfig(**policy),  # type: ignore[arg-type]
        "test/0",
    )
    return [int(number) for number in decisions.chosen]


def test_a_price_says_what_one_more_unit_would_buy() -> None:
    queries, capacities = backlog(4_000), usual(4_000)
    found = planned(queries, capacities, FIVE_CENTS)

    more = [replace(one, limit=one.limit + 0.05) for one in capacities[:1]] + capacities[1:]
    after = planned(queries, more, FIVE_CENTS)

    assert found.marginal("budget") > 0
    assert (after.bound - found.bound) / 0.05 == pytest.approx(found.marginal("budget"), rel=0.05)


def test_a_query_without_an_option_gets_none_and_counts_nowhere() -> None:
    queries = backlog(500)
    cost = queries.cost_usd.copy()
    cost[::5] = np.inf
    queries = replace(queries, cost_usd=cost)

    found = planned(queries, usual(500), Objective(0.0, target_grade=0.5))

    assert (found.choice[::5] == NO_OPTION).all()
    assert (np.delete(found.choice, np.s_[::5]) != NO_OPTION).all()
    assert found.grade >= 0.5 * 400 * (1 - 1e-9)


@pytest.mark.parametrize("rows", [0, 1, 2])
def test_a_backlog_of_hardly_a_query_with_one_option_is_planned(rows: int) -> None:
    queries = backlog(rows, models=1, lanes=1, barred=0.0)

    found = planned(queries, [Capacity("all", "queries", every(1, 1), rows)], FIVE_CENTS)

    assert found.choice.tolist() == [0] * rows
    assert found.gap == pytest.approx(0, abs=1e-9)


def test_a_capacity_of_nothing_keeps_everyone_out() -> None:
    queries = backlog(1_000, barred=0.0)

    found = planned(queries, [Capacity("closed", "queries", model(3), 0)], FIVE_CENTS)

    assert found.used[0] == 0
    assert (found.choice // 2 != 3).all()
    assert found.gap < 1e-6


def test_a_lane_that_is_full_sends_the_rest_elsewhere() -> None:
    queries = backlog(3_000, barred=0.0)
    capacities = [Capacity("batch", "tokens", lane(1), 5e5)]

    found = planned(queries, capacities, FIVE_CENTS)

    assert 0.99 * 5e5 <= found.used[0] <= 5e5
    assert found.worth == pytest.approx(highs(queries, capacities, FIVE_CENTS).worth, rel=1e-4)


def test_a_capacity_that_counts_tokens_needs_tokens() -> None:
    queries = replace(backlog(10), output_tokens=None)

    with pytest.raises(ValueError, match="tokens that the backlog does not tell"):
        plan(queries, usual(10), FIVE_CENTS)
