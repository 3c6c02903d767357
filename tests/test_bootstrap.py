from __future__ import annotations

import numpy as np
import pytest

from moa.bootstrap import difference, mean, resampled_means, saving


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    random = np.random.default_rng(5)
    held = 0

    for trial in range(200):
        sample = random.normal(1.0, 2.0, 150)
        interval = mean(sample, seed=trial, replicates=400)
        held += interval.low <= 1.0 <= interval.high

    assert 180 <= held <= 199


def test_what_two_columns_share_does_not_widen_their_difference() -> None:
    random = np.random.default_rng(5)
    hard = random.normal(0, 10, 500)

    apart = mean(hard, seed=1)
    paired = difference(hard + 1, hard, seed=1)

    assert apart.high - apart.low > 1
    assert paired.value == pytest.approx(1)
    assert paired.high - paired.low < 1e-9


def test_a_saving_is_one_less_the_ratio_of_sums() -> None:
    result = saving([1.0, 1, 2], [2.0, 4, 2], seed=1)

    assert result.value == pytest.approx(0.5)
    assert result.low <= 0.5 <= result.high


def test_equal_seeds_draw_equal_queries() -> None:
    data = np.random.default_rng(2).normal(size=(50, 3))

    one, two = resampled_means(data, seed=9), resampled_means(data[:, :1], seed=9)

    assert np.allclose(one[:, 0], two[:, 0], rtol=0, atol=1e-12)


def test_nothing_to_draw_from_is_an_error() -> None:
    with pytest.raises(ValueError, match="shape"):
        resampled_means(np.empty((0, 2)), seed=1)
