from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from moa.evaluation.calibration import calibration
from moa.evaluation.gate import NOT_MEASURED, GateConfig, gate, worth_it
from moa.evaluation.left_out import Stranger, left_out
from moa.evaluation.metrics import Metrics
from moa.intervals import Interval
from tests.evaluation.made import POLICY, by_chance, judged, measure


@pytest.fixture(scope="module")
def found() -> Metrics:
    return measure(by_chance(3, queries=1000, insight=1.0))


def asked(found: Metrics, **thresholds: float | bool) -> list[tuple[str, bool]]:
    config = GateConfig.model_validate(thresholds)
    return [(check.measured, check.passed) for check in gate(config, found, [], None, []).checks]


def test_nothing_asked_is_passed(found: Metrics) -> None:
    assert gate(GateConfig(), found, [], None, []).passed


def test_a_least_value_is_held_against_the_figure(found: Metrics) -> None:
    reached = found.aiq.value

    assert asked(found, aiq=reached - 0.01)[0][1]
    assert not asked(found, aiq=reached + 0.01)[0][1]


def test_what_must_be_proven_is_held_against_the_lower_bound(found: Metrics) -> None:
    low = found.aiq_gain.low

    assert asked(found, aiq_gain=low - 0.001)[0][1]
    assert not asked(found, aiq_gain=(low + found.aiq_gain.value) / 2)[0][1]


def test_all_that_is_asked_must_be_reached(found: Metrics) -> None:
    config = GateConfig(aiq=0.1, gap_captured=0.999)

    verdict = gate(config, found, [], None, [])

    assert [check.passed for check in verdict.checks] == [True, False]
    assert not verdict.passed


@pytest.mark.parametrize("name", ["ece", "left_out", "flip_rate"])
def test_what_was_asked_and_not_measured_is_not_passed(found: Metrics, name: str) -> None:
    ((measured, passed),) = asked(found, **{name: 0.5 if name != "left_out" else -0.5})

    assert measured == NOT_MEASURED
    assert not passed


def test_the_worst_model_and_the_worst_source_count(found: Metrics) -> None:
    right = np.repeat([0.0, 1.0], 10)
    good = calibration("v/good", right, right, replicates=100)
    bad = calibration("v/bad", 1 - right, right, replicates=100)
    costs = [0.001, 0.01]
    fine = Stranger(judged([[1, 1]], costs), np.empty(0))
    lost = Stranger(judged([[0, 1]], costs, [[1, 0]]), np.empty(0))
    strangers = left_out({"fine": fine, "lost": lost}, POLICY, replicates=100)

    verdict = gate(GateConfig(ece=0.4, left_out=-0.01), found, [good, bad], None, strangers)

    assert ["v/bad" in verdict.checks[0].what, "lost" in verdict.checks[1].what] == [True, True]
    assert not any(check.passed for check in verdict.checks)


def test_a_router_as_good_as_the_best_constant_is_not_proven_better() -> None:
    same = measure(judged([[1, 1], [0, 1]], [0.001, 0.01], [[0, 1], [0, 1]]))

    assert asked(same, worth_usd=0.0) == [("0.000 (0.000 to 0.000)", False)]
    assert asked(same, grade_difference=0.0)[0][1]


@pytest.mark.parametrize(
    ("worth", "said"),
    [
        (Interval(2.0, 1.0, 3.0), "Routing is worth it here: "),
        (Interval(2.0, -1.0, 3.0), "It is not proven that routing is worth it here: "),
        (Interval(-2.0, -3.0, -1.0), "Routing is not worth it here: "),
    ],
)
def test_no_more_is_said_than_is_proven(found: Metrics, worth: Interval, said: str) -> None:
    against = tuple(
        replace(one, worth_usd=worth) if one.model == found.best_constant else one
        for one in found.against
    )

    sentence = worth_it(replace(found, against=against), 0.05)

    assert sentence.startswith(said)
    assert sentence.count(". ") == 0
    assert "$0.05" in sentence
    assert found.best_constant in sentence


def test_with_a_floor_it_depends_on_what_a_right_answer_is_worth(found: Metrics) -> None:
    against = tuple(replace(one, worth_usd=None) for one in found.against)

    assert "depends on what a right answer is worth" in worth_it(
        replace(found, against=against), None
    )
