from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moa.evaluation.hull import area, corners, height

POINTS = st.lists(st.tuples(st.integers(0, 50), st.integers(0, 20)), min_size=1, max_size=12).map(
    lambda points: (
        np.array([[c / 10 for c, _ in points]]),
        np.array([[g / 20 for _, g in points]]),
    )
)


def one(*values: float) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    return np.array([values])


def test_the_area_is_that_of_the_line_between_two_points() -> None:
    found = area(one(1, 3), one(0.4, 0.8), np.array([1.0]), np.array([3.0]))

    assert found == pytest.approx([0.6])


def test_a_point_below_the_line_counts_nothing_and_one_above_does() -> None:
    below = area(one(1, 2, 3), one(0.4, 0.5, 0.8), np.array([1.0]), np.array([3.0]))
    above = area(one(1, 2, 3), one(0.4, 0.8, 0.8), np.array([1.0]), np.array([3.0]))

    assert below == pytest.approx([0.6])
    assert above == pytest.approx([0.7])


def test_right_of_the_last_point_the_hull_is_level_and_never_falls() -> None:
    found = height(one(1, 2, 3), one(0.4, 0.8, 0.5), np.array([2.0, 3.0, 9.0]))

    assert found == pytest.approx(np.full((1, 3), 0.8))


def test_left_of_the_first_point_some_queries_go_unanswered() -> None:
    assert height(one(2.0), one(0.8), np.array([0.0, 1.0, 2.0])) == pytest.approx(
        np.array([[0.0, 0.4, 0.8]])
    )
    assert area(one(2.0), one(0.8), np.array([1.0]), np.array([3.0])) == pytest.approx([0.7])


def test_every_row_has_its_own_hull() -> None:
    cost = np.array([[1.0, 2.0, 3.0], [1.0, 2.0, 3.0]])
    grade = np.array([[0.4, 0.8, 0.8], [0.5, 0.5, 0.5]])

    found = area(cost, grade, np.array([1.0, 1.0]), np.array([3.0, 2.0]))

    assert found == pytest.approx([0.7, 0.5])


def test_no_range_of_costs_has_no_mean_height() -> None:
    assert np.isnan(area(one(1, 2), one(0.4, 0.8), np.array([2.0]), np.array([2.0]))).all()


def test_corners_are_told_cheapest_first() -> None:
    cost = np.array([3.0, 1.0, 2.0, 2.0, 4.0])
    grade = np.array([0.9, 0.3, 0.5, 0.8, 0.7])

    assert corners(cost, grade) == [1, 3, 0]


@given(POINTS)
def test_no_point_is_above_the_hull_and_it_rises_ever_more_slowly(
    points: tuple[np.ndarray[tuple[int, ...], np.dtype[np.float64]], ...],
) -> None:
    cost, grade = points
    places = np.linspace(cost.min(), cost.max() + 1, 41)

    heights = height(cost, grade, places)[0]

    rises = np.diff(heights)
    assert (height(cost, grade, cost[0])[0] >= grade[0] - 1e-9).all()
    assert (rises >= -1e-9).all()
    assert (np.diff(rises) <= 1e-9).all()
    assert heights.max() == pytest.approx(grade.max())


@given(POINTS)
def test_the_area_is_the_integral_of_the_height(
    points: tuple[np.ndarray[tuple[int, ...], np.dtype[np.float64]], ...],
) -> None:
    cost, grade = points
    low, high = cost.min() / 2, cost.max() + 0.5
    places = np.linspace(low, high, 4001)
    middles = (places[1:] + places[:-1]) / 2

    found = area(cost, grade, np.array([low]), np.array([high]))

    assert found == pytest.approx(height(cost, grade, middles)[0].mean(), abs=2e-3)


@given(POINTS)
def test_corners_lie_on_the_hull(
    points: tuple[np.ndarray[tuple[int, ...], np.dtype[np.float64]], ...],
) -> None:
    cost, grade = points

    found = corners(cost[0], grade[0])

    on = height(cost, grade, cost[0, found])[0]
    assert on == pytest.approx(grade[0, found])
    assert list(cost[0, found]) == sorted(cost[0, found])
