from __future__ import annotations

import numpy as np
import pytest

from moa.training.linear import fit_log_odds


def test_the_fit_finds_what_made_the_data() -> None:
    random = np.random.default_rng(1)
    features = random.normal(size=(20_000, 3))
    truth = np.array([1.0, -2.0, 0.5])
    odds = features @ truth - 0.7
    grade = (random.random(20_000) < 1 / (1 + np.exp(-odds))).astype(float)

    found = fit_log_odds(features, grade, np.ones(20_000), l2=1e-3)

    assert found == pytest.approx([*truth, -0.7], abs=0.12)


def test_a_weight_counts_as_so_many_queries() -> None:
    random = np.random.default_rng(1)
    features, grade = random.normal(size=(300, 2)), random.random(300)
    times = random.integers(0, 4, 300)

    weighted = fit_log_odds(features, grade, times.astype(float), l2=1.0)
    repeated = fit_log_odds(features.repeat(times, 0), grade.repeat(times), np.ones(times.sum()),
                            l2=1.0)  # fmt: skip

    assert weighted == pytest.approx(repeated, abs=1e-8)


@pytest.mark.parametrize("scale", [0.1, 1.0, 30.0])
def test_queries_that_a_line_tells_apart_have_a_finite_fit(scale: float) -> None:
    features = scale * np.linspace(-1, 1, 100)[:, None]
    grade = (features[:, 0] > 0.2 * scale).astype(float)

    found = fit_log_odds(features, grade, np.ones(100), l2=1.0)

    expected = 1 / (1 + np.exp(-np.clip(features @ found[:1] + found[1], -50, 50)))
    assert np.isfinite(found).all()
    residual = features[:, 0] @ (expected - grade) + found[0]
    assert residual == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_grades_that_are_all_alike_have_a_finite_fit(value: float) -> None:
    features = np.random.default_rng(1).normal(size=(50, 3))

    found = fit_log_odds(features, np.full(50, value), np.ones(50), l2=1.0)

    assert np.isfinite(found).all()
    assert (found[-1] > 3) == (value == 1)
