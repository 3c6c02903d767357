from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moa.config import PolicyConfig
from moa.evaluation.frontier import sweep
from moa.evaluation.metrics import arena, curves, metrics
from tests.evaluation.made import POLICY, QUALITY, by_chance, judged, measure

FOUR = [[1, 1], [0, 1], [1, 0], [0, 0]]
"""Both right, the dear one right, the cheap one right, nobody right."""
CHEAP, DEAR = 0.001, 0.01


def test_a_router_that_knows_all_captures_the_whole_gap() -> None:
    found = measure(judged(FOUR, [CHEAP, DEAR]))

    assert found.oracle.grade.value == 0.75
    assert found.quality_alone.grade.value == 0.75
    assert found.against_best_constant.gap_captured.value == pytest.approx(1)


def test_a_router_that_sends_all_to_the_best_constant_captures_nothing() -> None:
    found = measure(judged(FOUR, [CHEAP, DEAR], [[0, 1]] * 4))

    assert found.quality_alone.grade == found.of_best_constant.grade
    assert found.against_best_constant.gap_captured.value == 0
    assert found.against_best_constant.cost_saving.value == 0
    assert found.against_best_constant.grade_difference.value == 0


def test_the_aiq_of_a_constant_is_what_its_point_and_the_origin_span() -> None:
    # Every query to the dear one, at 10 of [1, 10]: the line from the origin, 0.05 to 0.5 high.
    data = judged(FOUR, [CHEAP, DEAR])
    swept = sweep(data, POLICY)
    always = replace(swept, routed=np.ones_like(swept.routed))
    dear = metrics(data, always, POLICY, regret_at=(0.05,), replicates=100)
    # Every query to the cheap one: level from the left end on.
    cheap = measure(judged(FOUR, [CHEAP, DEAR], [[1, 0]] * 4))

    assert dear.aiq.value == pytest.approx((0.05 + 0.5) / 2)
    assert cheap.aiq.value == pytest.approx(0.5)


def test_the_aiq_of_a_mix_is_the_area_under_the_single_models() -> None:
    data = judged([[1, 1], [0, 1]], [CHEAP, DEAR])

    found = measure(data)

    assert found.aiq_random_mix.value == pytest.approx(0.75)
    assert found.aiq.value > found.aiq_random_mix.value


def test_a_saving_is_that_of_the_cheapest_point_that_reaches_the_grade() -> None:
    found = measure(judged([[1, 1], [0, 1], [1, 1], [1, 1]], [CHEAP, DEAR]))

    saving = found.against_best_constant.saving

    # One query of four needs the dear one.
    assert saving.value.value == pytest.approx(1 - (3 * CHEAP + DEAR) / (4 * DEAR))
    assert saving.reached
    assert saving.willingness_to_pay is not None
    assert saving.willingness_to_pay >= DEAR - CHEAP


def test_nothing_is_saved_where_the_grade_is_not_reached() -> None:
    # The router believes in the cheap one, which is always wrong.
    found = measure(judged([[0, 1]] * 4, [CHEAP, DEAR], [[1, 0]] * 4))

    saving = found.against_best_constant.saving

    assert not saving.reached
    assert saving.willingness_to_pay is None
    assert saving.value.value == saving.value.high == 0


def test_caution_is_counted_by_what_cheaper_and_dearer_models_answered() -> None:
    # Sent: dear, dear, cheap, dear.
    expected = [[0, 1], [0, 1], [1, 0], [0, 1]]
    grade = [[1, 1], [0, 1], [0, 1], [0, 0]]

    caution = measure(judged(grade, [CHEAP, DEAR], expected), QUALITY).caution

    assert caution.over.value == 0.5
    assert caution.over_usd.value == pytest.approx((DEAR - CHEAP) * 2 / 4 * 1000)
    assert caution.over_hopeless.value == 0.25
    assert caution.under.value == 0.25
    assert caution.under_grade.value == 0.25


def test_regret_is_what_the_best_choices_would_be_worth_more() -> None:
    found = measure(judged([[1, 1], [0, 1]], [CHEAP, DEAR], [[0, 1], [0, 1]]))

    (regret,) = found.regret

    # The first query went to the dear one for nothing.
    assert regret.router.value == pytest.approx((DEAR - CHEAP) / 2 * 1000)
    assert regret.best_constant.value == pytest.approx((DEAR - CHEAP) / 2 * 1000)


def test_worth_is_grades_at_their_price_and_money_saved() -> None:
    found = measure(judged([[1, 1], [0, 1]], [CHEAP, DEAR], [[1, 1], [1, 1]]))

    worth = found.against_best_constant.worth_usd

    assert worth is not None
    assert worth.value == pytest.approx((-0.5 * 0.05 + DEAR - CHEAP) * 1000)


def test_a_floor_has_no_worth_in_money() -> None:
    floor = PolicyConfig.model_validate({"quality_floor": 0.5})

    assert measure(judged(FOUR, [CHEAP, DEAR]), floor).against_best_constant.worth_usd is None


def test_the_arena_score_is_that_of_the_paper() -> None:
    # Half way between its two ends of cost, as logarithms go.
    middle = math.sqrt(0.0044 * 200) / 1000

    found = arena(np.array([middle, 0.2, 1.0, 1e-9]), np.array([0.8, 0.8, 0.8, 0.8]))

    assert found[0] == pytest.approx(1.1 * 0.8 * 0.5 / (0.1 * 0.8 + 0.5))
    assert found[1] == found[2] == 0
    assert found[3] == pytest.approx(1.1 * 0.8 / (0.08 + 1))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 5), st.floats(0, 1))
def test_nobody_beats_the_oracle(seed: int, models: int, insight: float) -> None:
    data = by_chance(seed, queries=40, models=models, insight=insight)

    found = measure(data)

    assert found.quality_alone.grade.value <= found.oracle.grade.value
    assert found.configured.grade.value <= found.oracle.grade.value
    assert all(point.grade.value <= found.oracle.grade.value for point in found.models)
    assert found.aiq.value <= found.aiq_oracle.value + 0.02
    assert all(one.router.value >= -1e-9 for one in found.regret)
    captured = found.against_best_constant.gap_captured.value
    assert math.isnan(captured) or captured <= 1
    assert 0 <= found.against_best_constant.saving.value.value <= 1
    assert sum(found.share) == pytest.approx(1)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000))
def test_a_hull_never_falls_and_holds_all_points(seed: int) -> None:
    data = by_chance(seed, queries=40)

    found = curves(data, sweep(data, POLICY, points=30), replicates=20)

    heights = [one.value for one in found.hull]
    assert heights == sorted(heights)
    assert max(heights) == pytest.approx(max(found.grade))
    costs = [found.cost_usd[n] for n in found.corners]
    assert costs == sorted(costs)


def test_more_insight_is_a_higher_frontier() -> None:
    blind, wise = (measure(by_chance(3, queries=2000, insight=one)) for one in (0.0, 1.0))

    assert wise.aiq.value > blind.aiq.value + 0.02
    assert wise.aiq_gain.low > 0
    assert wise.against_best_constant.gap_captured.low > 0


def test_intervals_hold_their_figures_and_equal_seeds_give_equal_ones() -> None:
    data = by_chance(4)

    one, other = measure(data), measure(data)

    assert one == other
    for figure in (one.aiq, one.aiq_gain, one.against_best_constant.gap_captured, one.caution.over):
        assert figure.low <= figure.value <= figure.high


def test_one_query_is_enough() -> None:
    found = measure(judged([[1, 0]], [CHEAP, DEAR]))

    assert found.queries == 1
    assert found.configured.grade.value == 1


def test_models_that_cost_nothing_are_no_trouble() -> None:
    data = judged(FOUR, [0.0, 0.0])

    found = metrics(data, sweep(data, POLICY), POLICY, replicates=50)

    assert math.isnan(found.aiq.value)
    assert math.isnan(found.against_best_constant.cost_saving.value)
