from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moa.router.calibration import MOST_POINTS, fit_curve

SEEDS = st.integers(0, 2**32 - 1)


@given(SEEDS, st.integers(1, 3000))
def test_a_curve_never_falls_and_stays_between_nothing_and_one(seed: int, queries: int) -> None:
    random = np.random.default_rng(seed)
    log_odds = random.normal(size=queries)
    grade = random.random(queries).round()

    curve = fit_curve(log_odds, grade, np.ones(queries))

    grades = curve(np.linspace(-9, 9, 500))
    assert (np.diff(grades) >= 0).all()
    assert grades.min() >= 0
    assert grades.max() <= 1
    assert len(curve.grade) <= MOST_POINTS


def test_a_curve_finds_the_probabilities_behind_the_grades() -> None:
    random = np.random.default_rng(7)
    log_odds = random.uniform(-3, 3, 20_000)
    truth = 1 / (1 + np.exp(-2 * log_odds))
    grade = (random.random(20_000) < truth).astype(float)

    curve = fit_curve(log_odds, grade, np.ones(20_000))

    asked = np.array([-2.0, -1, 0, 1, 2])
    assert curve(asked) == pytest.approx(1 / (1 + np.exp(-2 * asked)), abs=0.05)


def test_a_query_without_weight_moves_nothing() -> None:
    log_odds, grade = np.arange(100.0), np.ones(100)
    grade[:50] = 0
    weight = np.where(np.arange(100) < 50, 1e-12, 1.0)

    curve = fit_curve(log_odds, grade, weight)

    assert curve(np.array([99.0])) == pytest.approx([1.0])
