from __future__ import annotations

from datetime import date
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moa.grading.dates import Day, read_dates, same_date


@given(st.dates(min_value=date(1000, 1, 1)))
def test_a_day_is_the_same_in_all_ways_of_writing(day: date) -> None:
    ways = [
        day.isoformat(),
        f"{day.day} {day:%B} {day.year}",
        f"{day:%B} {day.day}, {day.year}",
        f"{day:%b}. {day.day} {day.year}",
        f"the {day.day}th of {day:%B}, {day.year}",
        f"on {day:%A}, {day.day} {day:%b} {day.year}",
        f"{day.day}/{day.month}/{day.year}",
        f"{day.month}/{day.day}/{day.year}",
    ]

    assert all(same_date(one, other) for one, other in product(ways, ways))


@pytest.mark.parametrize(
    ("given", "reference", "is_same"),
    [
        ("5 March 2021", "March 2021", True),
        ("March 2021", "5 March 2021", False),
        ("5 March 2021", "6 March 2021", False),
        ("3/5/2021", "5 March 2021", True),
        ("3/5/2021", "3 May 2021", True),
        ("soon", "5 March 2021", False),
        ("5 March 2021", "soon", None),
        ("5 March 2021", "30 February 2021", None),
        ("2021", "2021", None),  # a number, to us
    ],
)
def test_more_than_was_asked_for_is_right_and_less_is_not(
    given: str, reference: str, is_same: bool | None
) -> None:
    assert same_date(given, reference) is is_same


def test_a_date_may_have_two_meanings() -> None:
    assert read_dates("3/5/2021") == {Day(2021, 3, 5), Day(2021, 5, 3)}
    assert read_dates("13/5/2021") == {Day(2021, 5, 13)}
