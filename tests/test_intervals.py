from __future__ import annotations

import numpy as np
import pytest

from moa.intervals import Interval, Resamples, resampled_means


def mean(sample: np.ndarray, *, seed: int, replicates: int = 2000) -> Interval:
    drawn = Resamples({"x": sample}, seed=seed, replicates=replicates)
    return drawn.interval(lambda means: means["x"])


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
    drawn = Resamples({"ours": hard + 1, "theirs": hard}, seed=1)
    paired = drawn.interval(lambda means: means["ours"] - means["theirs"])

    assert apart.high - apart.low > 1
    assert paired.value == pytest.approx(1)
    assert paired.high - paired.low < 1e-9


def test_a_saving_is_one_less_the_ratio_of_sums() -> None:
    drawn = Resamples({"ours": [1.0, 1, 2], "theirs": [2.0, 4, 2]}, seed=1)

    result = drawn.interval(lambda means: 1 - means["ours"] / means["theirs"])

    assert result.value == pytest.approx(0.5)
    assert result.low <= 0.5 <= result.high


def test_a_mask_gives_the_mean_of_some_of_the_queries() -> None:
    random = np.random.default_rng(3)
    grade, known = random.random(4000), np.arange(4000) % 2 == 0
    drawn = Resamples({"grade": grade * known, "known": known}, seed=1)

    some = drawn.interval(lambda means: means["grade"] / means["known"])
    alone = mean(grade[known], seed=1)

    assert some.value == pytest.approx(grade[known].mean())
    assert some.high - some.low == pytest.approx(alone.high - alone.low, rel=0.1)


def test_a_figure_over_nothing_has_no_bounds_beyond_itself() -> None:
    drawn = Resamples({"ours": [1.0, 2.0], "theirs": [0.0, 0.0]}, seed=1)

    result = drawn.interval(lambda means: means["ours"] / means["theirs"])

    assert result == Interval(np.inf, np.inf, np.inf)


def test_equal_seeds_draw_equal_queries() -> None:
    data = np.random.default_rng(2).normal(size=(50, 3))

    one, two = resampled_means(data, seed=9), resampled_means(data[:, :1], seed=9)

    assert np.allclose(one[:, 0], two[:, 0], rtol=0, atol=1e-12)


def test_nothing_to_draw_from_is_an_error() -> None:
    with pytest.raises(ValueError, match="shape"):
        resampled_means(np.empty((0, 2)), seed=1)
