from __future__ import annotations

import numpy as np
import pytest

from moa.evaluation.bootstrap import drawn_means, interval, ratio


def test_the_first_row_is_the_sample_and_all_columns_are_drawn_together() -> None:
    values = np.arange(10.0)

    rows = drawn_means(
        {"one": values, "two": np.stack([values, -values], 1)}, seed=1, replicates=50
    )

    assert rows["one"].shape == (51,)
    assert rows["two"].shape == (51, 2)
    assert rows["one"][0] == 4.5
    assert (rows["one"] == rows["two"][:, 0]).all()
    assert (rows["one"] == -rows["two"][:, 1]).all()


def test_what_is_not_defined_in_a_draw_is_left_out() -> None:
    found = interval(np.array([1.0, np.nan, 2.0, 2.0]))

    assert (found.value, found.low, found.high) == (1.0, 2.0, 2.0)


def test_a_quotient_over_nothing_is_not_a_number() -> None:
    assert np.isnan(ratio(np.array([1.0]), np.array([0.0]))).all()
    assert ratio(np.array([1.0]), np.array([4.0])) == pytest.approx([0.25])


def test_intervals_hold_the_truth_about_as_often_as_they_say() -> None:
    random = np.random.default_rng(5)
    held = 0
    for trial in range(300):
        both = random.random((150, 2)) < [0.8, 0.7]
        rows = drawn_means({"both": both}, seed=trial, replicates=300)
        found = interval(rows["both"][:, 0] - rows["both"][:, 1])
        held += found.low <= 0.1 <= found.high

    assert 0.90 <= held / 300 <= 0.99
