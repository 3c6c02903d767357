from __future__ import annotations

import numpy as np
import pytest

from moa.evaluation.calibration import calibration, equal_bins


def test_a_router_that_expects_too_much_is_off_by_that_much() -> None:
    expected = np.full(1000, 0.8)
    grade = (np.arange(1000) % 2).astype(float)

    found = calibration("v/m", expected, grade, replicates=100)

    # Bins of 100 of equal expectation are half right each.
    assert found.ece.value == pytest.approx(0.3)
    assert found.brier.value == pytest.approx((0.2**2 + 0.8**2) / 2)
    assert found.brier_of_mean == pytest.approx(0.25)
    assert found.log_loss.value == pytest.approx(-(np.log(0.8) + np.log(0.2)) / 2)
    assert found.ece.low < 0.3 < found.ece.high
    assert found.ece.low > found.ece_of_perfect_high


def test_exact_probabilities_show_what_chance_makes_of_them() -> None:
    random = np.random.default_rng(1)
    shown, foretold, held = [], [], 0
    for trial in range(60):
        expected = random.uniform(0, 1, 300)
        grade = (random.random(300) < expected).astype(float)
        found = calibration("v/m", expected, grade, seed=trial, replicates=200)
        shown.append(found.ece.value)
        foretold.append(found.ece_of_perfect)
        held += found.ece.value <= found.ece_of_perfect_high

    assert np.mean(shown) > 0.02
    assert np.mean(shown) == pytest.approx(np.mean(foretold), abs=0.005)
    assert held >= 0.85 * 60


def test_bins_are_of_equal_size_and_fewer_for_few_queries() -> None:
    random = np.random.default_rng(1)

    many, few, one = (equal_bins(random.random(n)) for n in (1000, 35, 4))

    assert np.bincount(many).tolist() == [100] * 10
    assert len(np.unique(few)) == 3
    assert one.tolist() == [0] * 4


def test_points_of_the_diagram_carry_intervals() -> None:
    random = np.random.default_rng(1)
    expected = random.uniform(0, 1, 500)
    grade = (random.random(500) < expected).astype(float)

    found = calibration("v/m", expected, grade, replicates=200)

    assert sum(one.queries for one in found.bins) == 500
    assert [one.expected for one in found.bins] == sorted(one.expected for one in found.bins)
    assert all(one.measured.low <= one.measured.value <= one.measured.high for one in found.bins)
    assert all(one.measured.low >= 0 and one.measured.high <= 1 for one in found.bins)
