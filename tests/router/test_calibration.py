from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moa.router.calibration import KINDS, MOST_POINTS, Floats, calibrate, isotonic, log_loss
from moa.router.calibration import Curve as Fitted

SEEDS = st.integers(0, 2**32 - 1)
ASKED = np.array([-2.0, -1, 0, 1, 2])


def probability(log_odds: Floats) -> Floats:
    return np.asarray(1 / (1 + np.exp(-log_odds)))


def drawn(truth: Floats, seed: int = 70) -> Floats:
    random = np.random.default_rng(seed)
    return (random.random(len(truth)) < truth).astype(float)


@given(SEEDS, st.integers(1, 800), st.sampled_from(sorted(KINDS)))
def test_a_curve_never_falls_and_stays_between_nothing_and_one(
    seed: int, queries: int, kind: str
) -> None:
    random = np.random.default_rng(seed)
    log_odds = random.normal(size=queries) * random.choice([0.1, 1, 10])
    grade = random.random(queries).round()

    curve = KINDS[kind](log_odds, grade, np.ones(queries))

    grades = curve(np.linspace(-30, 30, 500))
    assert (np.diff(grades) >= 0).all()
    assert grades.min() >= 0
    assert grades.max() <= 1
    assert (np.diff(curve.log_odds) > 0).all()


@pytest.mark.parametrize("kind", ["temperature", "platt", "beta", "isotonic"])
def test_a_curve_finds_the_probabilities_behind_the_grades(kind: str) -> None:
    log_odds = np.random.default_rng(7).uniform(-3, 3, 20_000)
    grade = drawn(probability(2 * log_odds))

    curve = KINDS[kind](log_odds, grade, np.ones(20_000))

    assert curve(ASKED) == pytest.approx(probability(2 * ASKED), abs=0.05)


@pytest.mark.parametrize("kind", ["platt", "beta"])
def test_a_head_that_is_wrong_by_a_shift_is_set_right(kind: str) -> None:
    log_odds = np.random.default_rng(8).uniform(-3, 3, 20_000)
    grade = drawn(probability(log_odds - 1))

    curve = KINDS[kind](log_odds, grade, np.ones(20_000))

    assert curve(ASKED) == pytest.approx(probability(ASKED - 1), abs=0.03)


@pytest.mark.parametrize("kind", ["platt", "isotonic"])
def test_a_query_without_weight_moves_nothing(kind: str) -> None:
    log_odds, grade = np.arange(-50.0, 50) / 10, np.ones(100)
    grade[:50] = 0
    weight = np.where(np.arange(100) < 50, 1e-12, 1.0)

    curve = KINDS[kind](log_odds, grade, weight)

    alone = KINDS[kind](log_odds[50:], grade[50:], weight[50:])
    assert curve(ASKED[-1:]) == pytest.approx(alone(ASKED[-1:]), abs=1e-6)


def test_few_queries_leave_a_curve_where_it_was() -> None:
    for kind in ("temperature", "platt", "beta"):
        curve = KINDS[kind](np.array([0.5]), np.array([1.0]), np.ones(1))

        assert curve(ASKED) == pytest.approx(probability(ASKED), abs=0.15), kind


@given(SEEDS, st.integers(1, 4000))
def test_an_isotonic_curve_has_few_points_and_the_right_mean(seed: int, queries: int) -> None:
    random = np.random.default_rng(seed)
    log_odds, grade = random.normal(size=queries), random.random(queries)

    curve = isotonic(log_odds, grade, np.ones(queries))

    assert len(curve.grade) <= MOST_POINTS
    assert curve.grade.min() <= grade.mean() + 1e-9
    assert curve.grade.max() >= grade.mean() - 1e-9


def folds(queries: int) -> np.ndarray[tuple[int], np.dtype[np.intp]]:
    return np.arange(queries) % 5


def calibrated(log_odds: Floats, grade: Floats) -> tuple[str, Fitted]:
    return calibrate(log_odds, grade, np.ones(len(grade)), folds(len(grade)))


def test_a_head_that_is_right_is_left_as_it_is() -> None:
    log_odds = np.random.default_rng(3).normal(size=10_000)

    kind, curve = calibrated(log_odds, drawn(probability(log_odds)))

    assert kind == "as_it_is"
    assert curve(ASKED) == pytest.approx(probability(ASKED), abs=5e-4)


def test_the_simplest_kind_that_mends_a_head_is_taken() -> None:
    log_odds = np.random.default_rng(3).normal(size=30_000)

    sure, _ = calibrated(3 * log_odds, drawn(probability(log_odds)))
    shifted, _ = calibrated(3 * log_odds + 2, drawn(probability(log_odds)))

    assert sure == "temperature"
    assert shifted == "platt"


def test_a_head_that_no_smooth_curve_mends_gets_steps() -> None:
    log_odds = np.random.default_rng(3).uniform(-3, 3, 8000)
    truth = np.where(log_odds < 1, 0.3, np.where(log_odds < 2, 0.5, 0.95))

    kind, curve = calibrated(log_odds, drawn(truth))

    assert kind == "isotonic"
    assert curve(np.array([-2.0, 1.5, 2.7])) == pytest.approx([0.3, 0.5, 0.95], abs=0.05)


@pytest.mark.parametrize("queries", [1, 2, 6])
def test_a_handful_of_queries_is_calibrated_all_the_same(queries: int) -> None:
    kind, curve = calibrated(np.zeros(queries), np.ones(queries))

    assert kind in KINDS
    assert np.isfinite(curve(ASKED)).all()


def test_queries_of_one_fold_are_calibrated_all_the_same() -> None:
    log_odds = np.random.default_rng(3).normal(size=300)
    grade = drawn(probability(log_odds))

    kind, curve = calibrate(log_odds, grade, np.ones(300), np.zeros(300, np.intp))

    assert kind in KINDS
    assert np.isfinite(curve(ASKED)).all()


def test_a_log_loss_is_that_of_a_success_a_failure_and_a_part_of_either() -> None:
    found = log_loss(np.array([0.8, 0.8, 0.5, 1.0]), np.array([1.0, 0, 0.5, 0]))

    assert found == pytest.approx([-np.log(0.8), -np.log(0.2), np.log(2), -np.log(1e-3)])
