from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal

import numpy as np
import pytest

from moa.evaluation.gate import NOT_MEASURED, Check
from moa.evaluation.judged import Ints, at
from moa.evaluation.traffic import (
    EVERY_MODEL,
    LEAST_CALIBRATED,
    Choices,
    TrafficEvaluation,
    evaluate_traffic,
)
from moa.evaluation.traffic_gate import NOTHING_IN_USE, TrafficGate
from moa.intervals import Interval
from tests.evaluation.logs import night
from tests.evaluation.made import POLICY, by_chance

TRUTH = by_chance(3, queries=4000, insight=1.0)
CHEAP = TRUTH.decide(at(POLICY, Decimal("0.001"))).chosen
GOOD = TRUTH.decide(POLICY).chosen
BAD = TRUTH.grade.argmin(axis=1)
HALF = Interval(0.5, 0.4, 0.6)


def evaluated(
    chosen: Ints,
    *,
    share: float = 0.5,
    current: Ints | None = CHEAP,
    nothing_in_use: bool = False,
    asked: Mapping[str, float] | None = None,
    **more: float,
) -> TrafficEvaluation:
    log, rows = night(TRUTH, CHEAP, share=share, queries=3000, seed=0)
    choices = Choices(
        chosen[rows], 2, None if current is None else current[rows], nothing_in_use=nothing_in_use
    )
    return evaluate_traffic(
        "P", log, choices, TRUTH.expected_grade[rows], POLICY,
        asked=TrafficGate.model_validate({**(asked or {}), **more}), replicates=200,
    )  # fmt: skip


def check(found: TrafficEvaluation) -> Check:
    (one,) = found.gate.checks
    return one


def test_nothing_asked_is_passed() -> None:
    assert evaluated(BAD).gate.passed


def test_a_better_router_is_proven_better_and_a_worse_one_is_not() -> None:
    assert check(evaluated(GOOD, worth_usd=0)).passed
    assert not check(evaluated(BAD, worth_usd=0)).passed
    assert "is proven better than v/m2 for every query" in evaluated(GOOD).verdict
    assert "is proven worse than v/m2 for every query" in evaluated(BAD).verdict


def test_a_router_must_not_be_worse_than_the_one_in_use() -> None:
    assert check(evaluated(GOOD, loss_usd=0)).passed
    assert check(evaluated(CHEAP, loss_usd=0)).measured == "0.000 (0.000 to 0.000)"
    assert check(evaluated(CHEAP, loss_usd=0)).passed
    assert not check(evaluated(BAD, loss_usd=5)).passed
    assert not check(evaluated(BAD, grade_loss=0.1)).passed


def test_a_first_router_has_none_to_be_worse_than_but_an_unknown_one_is_not_passed() -> None:
    first = check(evaluated(GOOD, current=None, nothing_in_use=True, loss_usd=0))
    unknown = check(evaluated(GOOD, current=None, loss_usd=0))

    assert (first.measured, first.passed) == (NOTHING_IN_USE, True)
    assert (unknown.measured, unknown.passed) == (NOT_MEASURED, False)


@pytest.mark.parametrize("name", ["worth_usd", "grade_difference", "saving_usd", "loss_usd"])
def test_a_log_without_exploration_measures_nothing(name: str) -> None:
    found = evaluated(GOOD, share=0.0, asked={name: 0.0})

    assert (check(found).measured, check(found).passed) == (NOT_MEASURED, False)
    assert "does not tell" in found.verdict
    assert found.candidate.out_of_reach > 0.1


def test_a_fall_in_one_domain_is_found_and_named() -> None:
    domain = np.array(TRUTH.domains)
    mixed = np.where(domain == "t", BAD, GOOD)

    fallen = check(evaluated(mixed, current=GOOD, domain_fall=0.05))
    same = check(evaluated(GOOD, current=GOOD, domain_fall=0.05))

    assert (fallen.what, fallen.passed) == ("change of grade in t, the lowest", False)
    assert same.passed
    assert not check(evaluated(GOOD, share=0.0, domain_fall=0.05)).passed


def test_calibration_is_of_all_answers_and_of_models_with_enough() -> None:
    found = evaluated(GOOD, share=0.05, ece=0.05)

    assert found.calibration[0].model == EVERY_MODEL
    assert found.calibration[0].queries == found.answers == 3000
    assert {one.model for one in found.calibration[1:]} == {
        model for model, one in found.constants.items() if one.known >= LEAST_CALIBRATED
    }
    assert 1 < len(found.calibration) < 4
    assert check(found).what.startswith("calibration error of")


@pytest.mark.parametrize(("flips", "passed"), [(HALF, True), (None, False)])
def test_flips_are_held_against_their_bound(flips: Interval | None, passed: bool) -> None:
    log, rows = night(TRUTH, CHEAP, share=0.5, queries=300, seed=0)
    found = evaluate_traffic(
        "P", log, Choices(GOOD[rows], 2, None), TRUTH.expected_grade[rows], POLICY,
        asked=TrafficGate(flip_rate=0.5), flip_rate=flips, replicates=100,
    )  # fmt: skip

    assert check(found).passed is passed


def test_what_each_constant_would_have_earned_is_told() -> None:
    found = evaluated(GOOD)

    assert list(found.constants) == list(TRUTH.pool)
    for place, one in enumerate(found.constants.values()):
        off = abs(one.grade.value - TRUTH.grade[:, place].mean())
        assert off < one.grade.high - one.grade.low
