"""What may be bought for each query, and a plan's choices as decisions."""

from __future__ import annotations

from decimal import Decimal

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moa.catalog import Lane
from moa.config import PolicyConfig
from moa.decisions.deciding import Deciding, letters
from moa.decisions.planned import SPILL, decisions_of, objective, options
from moa.plan_config import PlanConfig
from moa.planning.capacities import Learnt
from moa.planning.capacity import NO_OPTION, Backlog, Choice, Objective
from moa.planning.planner import Plan, plan
from moa.planning.policy import (
    BELOW_FLOOR_USD,
    NOBODY,
    NOBODY_CAN,
    NOVEL,
    ONLY_ONE_CAN,
    PLANNED,
)
from tests.decisions.scored import (
    FLASH,
    HAIKU,
    LANES,
    LARGE,
    MODELS,
    POOL,
    PRICES,
    deciding,
    random_scores,
    scored,
)

SOLD = np.array([[True, True, True], [True, False, True], [True, False, False]])
"""Which models are sold in which of `LANES`."""


def options_of(
    table: pa.Table,
    by: Deciding | None = None,
    lanes: tuple[Lane, ...] = LANES,
    learnt: dict[str, Learnt] | None = None,
) -> Backlog:
    by = by or deciding()
    return options(by.expect(table, lanes), by, learnt)


def for_sale(backlog: Backlog, row: int = 0) -> dict[str, list[Lane]]:
    """Catalog id → the lanes in which a query may be bought of it."""
    finite = np.isfinite(backlog.cost_usd[row])
    return {
        name: [lane for lane, may in zip(LANES, finite[number], strict=True) if may]
        for number, name in enumerate(POOL)
    }


def best_of(table: pa.Table, by: Deciding, lanes: tuple[Lane, ...], config: PlanConfig) -> Choice:
    """What the planner chooses where nothing is scarce."""
    found = plan(options_of(table, by, lanes), [], objective(by.policy, config))
    assert isinstance(found, Plan)
    return found.choice


def test_without_wishes_every_model_may_be_bought_in_all_its_lanes() -> None:
    assert (np.isfinite(options_of(scored(3)).cost_usd) == SOLD).all()


@pytest.mark.parametrize(
    ("wish", "barred"),
    [
        ({"max_output_tokens": [4096], "expected_input_tokens": [[100.0, 1e6, 100.0]]}, {HAIKU}),
        ({"abilities": [["json_schema"]]}, {HAIKU}),
        ({"allowed_models": [[LARGE]]}, {HAIKU, FLASH}),
        ({"min_grade": [0.55]}, {HAIKU}),
        ({"min_grade": [1.0]}, {*POOL}),
    ],
)
def test_a_model_that_does_not_fit_is_for_sale_in_no_lane_and_the_others_in_theirs(
    wish: dict[str, list[object]], barred: set[str]
) -> None:
    plain = options_of(scored(1))

    found = options_of(scored(1, **wish))

    assert for_sale(found) == {
        name: [] if name in barred else lanes for name, lanes in for_sale(plain).items()
    }
    if "max_output_tokens" not in wish:
        finite = np.isfinite(found.cost_usd)
        assert np.array_equal(found.cost_usd[finite], plain.cost_usd[finite])


@pytest.mark.parametrize(
    ("allowed", "for_sale_then"),
    [
        (["live"], {LARGE: ["live"], HAIKU: ["live"], FLASH: ["live"]}),
        (["batch"], {LARGE: ["batch"], HAIKU: ["batch"], FLASH: []}),
        (["batch", "flex"], {LARGE: ["flex", "batch"], HAIKU: ["batch"], FLASH: []}),
        ([], {LARGE: [], HAIKU: [], FLASH: []}),
    ],
)
def test_a_lane_that_a_query_forbids_is_closed_to_it_alone(
    allowed: list[str], for_sale_then: dict[str, list[Lane]]
) -> None:
    found = options_of(scored(2, allowed_lanes=[allowed, None]))

    assert for_sale(found, 0) == for_sale_then
    assert (np.isfinite(found.cost_usd[1]) == SOLD).all()


def test_a_novel_query_has_the_default_model_only_in_all_its_lanes() -> None:
    by = deciding(PolicyConfig(willingness_to_pay=Decimal(1), max_novelty=0.5), default=HAIKU)
    wishes = [None, None, [LARGE, FLASH]]

    found = options_of(scored(3, novelty=[0.6, 0.5, 0.6], allowed_models=wishes), by)

    assert for_sale(found, 0) == {LARGE: [], HAIKU: ["live", "batch"], FLASH: []}
    assert (np.isfinite(found.cost_usd[1]) == SOLD).all()  # as novel as may be
    # The default model cannot take the last one: better somebody than nobody.
    assert for_sale(found, 2) == {LARGE: list(LANES), HAIKU: [], FLASH: ["live"]}


def test_a_batch_costs_half_and_what_it_leaves_is_bought_live() -> None:
    cost = options_of(scored(1)).cost_usd[0]

    for number in (0, 1):
        live, batch = cost[number, 0], cost[number, 2]
        assert batch == pytest.approx(live * ((1 - SPILL) / 2 + SPILL))


def test_costs_are_the_price_lists_in_each_lane() -> None:
    found = options_of(scored(1)).cost_usd[0]

    for number, model in enumerate(MODELS):
        tokens = np.array([[100.0 + 10 * number]]), np.array([[200.0 + 10 * number]])
        for column, lane in enumerate(LANES[:2]):
            if SOLD[number, column]:
                told = PRICES.expected_cost_usd([model.id], lane, *tokens)[0, 0]
                assert found[number, column] == np.float32(told)


def test_lanes_are_in_the_runs_order() -> None:
    forth = options_of(scored(2), lanes=LANES)
    back = options_of(scored(2), lanes=LANES[::-1])

    assert np.array_equal(forth.cost_usd, back.cost_usd[:, :, ::-1])


def test_what_a_run_has_learnt_moves_tokens_and_costs_of_that_model_alone() -> None:
    table = scored(4)
    learnt = {LARGE: Learnt(input_tokens=2.0, output_tokens=3.0)}

    plain, found = options_of(table), options_of(table, learnt=learnt)

    assert plain.input_tokens is not None
    assert plain.output_tokens is not None
    assert found.input_tokens == pytest.approx(plain.input_tokens * np.array([2, 1, 1]))
    assert found.output_tokens == pytest.approx(plain.output_tokens * np.array([3, 1, 1]))
    assert np.array_equal(found.cost_usd[:, 1:], plain.cost_usd[:, 1:])
    tokens = np.array([[200.0]]), np.array([[600.0]])
    told = PRICES.expected_cost_usd([LARGE], "live", *tokens)[0, 0]
    assert found.cost_usd[0, 0, 0] == np.float32(told)
    assert np.array_equal(found.grade, plain.grade)


def test_a_policy_says_what_answers_are_worth_unless_the_plan_does() -> None:
    pays = PolicyConfig(willingness_to_pay=Decimal("0.25"))
    floor = PolicyConfig(quality_floor=0.7)
    grade = PlanConfig(maximise="grade")
    target = PlanConfig(target_grade=0.8, maximise="grade")

    assert objective(pays, PlanConfig()) == Objective(0.25)
    assert objective(floor, PlanConfig()) == Objective(0.0, floor=0.7)
    for policy in (pays, floor):
        assert objective(policy, grade) == Objective(1.0, usd_weight=0.0)
        assert objective(policy, target) == Objective(0.0, target_grade=0.8)


policies = st.one_of(
    st.integers(0, 200).map(lambda n: PolicyConfig(willingness_to_pay=Decimal(n) / 100)),
    st.integers(0, 1000).map(lambda n: PolicyConfig(quality_floor=n / 1000)),
)


@settings(max_examples=60)
@given(st.integers(0, 2**32), policies, st.sampled_from([0.0, 0.7, 1.0]), st.sampled_from(POOL))
def test_with_nothing_scarce_a_plan_decides_as_the_policy_does(
    seed: int, policy: PolicyConfig, max_novelty: float, default: str
) -> None:
    policy = policy.model_copy(update={"max_novelty": max_novelty})
    by, table = deciding(policy, default=default), random_scores(80, seed)
    expected = by.expect(table, ("live",))

    choice = best_of(table, by, ("live",), PlanConfig())
    found, lanes, _ = decisions_of(choice, expected, by)

    alone = by.by_policy(expected)
    assert np.array_equal(found.chosen, alone.chosen)
    assert np.array_equal(found.fallbacks, alone.fallbacks)
    forced = np.isin(alone.rule, (NOBODY_CAN, ONLY_ONE_CAN, NOVEL))
    assert np.array_equal(found.rule, np.where(forced, alone.rule, PLANNED))
    assert lanes == [None if one == NOBODY else "live" for one in alone.chosen.tolist()]


def test_by_a_policy_a_lacking_grade_outweighs_any_cost_between_grades() -> None:
    """Grades of `random_scores` are thousandths: else a plan might save on the last bit."""
    cost = options_of(random_scores(500, 0)).cost_usd

    assert cost[np.isfinite(cost)].max() < BELOW_FLOOR_USD / 1000


@settings(max_examples=40)
@given(st.integers(0, 2**32), st.permutations(LANES))
def test_whatever_is_chosen_fallbacks_are_in_the_order_of_the_policy_without_it(
    seed: int, lanes: list[Lane]
) -> None:
    random, by, table = np.random.default_rng(seed), deciding(), random_scores(40, seed)
    expected = by.expect(table, lanes)
    may = np.isfinite(options(expected, by).cost_usd).reshape(-1, len(POOL) * len(lanes))
    choice = np.array(
        [random.choice(np.flatnonzero(row)) if row.any() else NO_OPTION for row in may], np.int16
    )

    found, bought, _ = decisions_of(choice, expected, by)

    alone = by.by_policy(expected)
    order = np.column_stack([alone.chosen, alone.fallbacks]).tolist()
    for row, one in enumerate(choice.tolist()):
        if one == NO_OPTION:
            assert (found.chosen[row], bought[row]) == (NOBODY, None)
            assert set(found.fallbacks[row].tolist()) == {NOBODY}
            continue
        model, lane = divmod(one, len(lanes))
        assert (found.chosen[row], bought[row]) == (model, lanes[lane])
        others = [number for number in order[row] if number != model]
        assert found.fallbacks[row].tolist() == others


def test_a_query_that_nobody_can_take_goes_to_nobody_and_is_buried_with_the_reason() -> None:
    by = deciding()
    table = scored(3, min_grade=[1.0, None, None], allowed_lanes=[None, ["batch"], ["flex"]])
    expected = by.expect(table, ("live", "batch"))

    choice = best_of(table, by, ("live", "batch"), PlanConfig())
    decisions, lanes, _ = decisions_of(choice, expected, by)
    buried = letters(table, expected, decisions)

    assert choice.tolist()[0] == choice.tolist()[2] == NO_OPTION
    assert lanes == [None, "batch", None]
    assert decisions.rule.tolist() == [NOBODY_CAN, PLANNED, NOBODY_CAN]
    assert decisions.fallback_ids(by.pool)[0] == []
    assert [one.query_id for one in buried] == ["q0", "q2"]
    assert buried[0].detail.startswith("min_grade")
    assert buried[1].detail.startswith("allowed_lanes")
    assert buried[1].detail.endswith("the run buys live, batch")
