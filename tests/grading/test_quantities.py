from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moa.grading.maths_text import plain_maths
from moa.grading.quantities import number_texts, read_quantity, same_quantity

NUMBERS = st.fractions(min_value=-(10**9), max_value=10**9, max_denominator=10**4)


def value(text: str) -> Fraction | None:
    quantity = read_quantity(plain_maths(text))
    return None if quantity is None else quantity.value


def same(one: str, other: str) -> bool:
    left, right = read_quantity(plain_maths(one)), read_quantity(plain_maths(other))
    assert left is not None
    assert right is not None
    return same_quantity(left, right, relative_tolerance=1e-6)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("42", "42"),
        ("-42", "-42"),
        ("\u221242", "-42"),
        ("+4.50", "9/2"),
        (".5", "1/2"),
        ("1,450,000", "1450000"),
        ("1{,}234", "1234"),
        ("1\\,234", "1234"),
        ("1 234 567", "1234567"),
        ("$1,200.50", "2401/2"),
        ("-$5", "-5"),
        ("\\$12", "12"),
        ("3/4", "3/4"),
        ("\\frac34", "3/4"),
        ("\\dfrac{3}{4}", "3/4"),
        ("-\\frac{3}{4}", "-3/4"),
        ("\\frac{-3}{4}", "-3/4"),
        ("3 1/2", "7/2"),
        ("3\\frac{1}{2}", "7/2"),
        ("3\u00bd", "7/2"),
        ("-3 1/2", "-7/2"),
        ("0.\\overline{3}", "1/3"),
        ("0.1\\overline{6}", "1/6"),
        ("6 \\times 10^5", "600000"),
        ("6e5", "600000"),
        ("1.5 \\cdot 10^{-3}", "3/2000"),
        ("10\\%", "10"),
        ("10 percent", "10"),
        ("30^\\circ", "30"),
        ("30\u00b0", "30"),
        ("5 apples", "5"),
        ("5 square feet", "5"),
        ("5 miles per hour", "5"),
        ("12\\text{ cm}^2", "12"),
        ("2:30 pm", "5/2"),
        ("1021_3", "1021"),
    ],
)
def test_a_number_is_read_however_it_is_written(text: str, number: str) -> None:
    assert value(text) == Fraction(number)


@pytest.mark.parametrize(
    "text",
    ["", "x", "5x", "5ab", "2\\pi", "3 + 4", "1/0", "\\frac{1}{0}", "1 2", "3, 4", "5 or 6",
     "5 sin x", "1e99999", "2^3", "4:3", "12,34", "1" * 200, "x = 5", "(1, 2)"],
)  # fmt: skip
def test_what_is_more_or_less_than_a_number_is_none(text: str) -> None:
    assert value(text) is None


@pytest.mark.parametrize(
    ("one", "other", "are_same"),
    [
        ("10%", "0.1", True),
        ("10%", "10", True),
        ("10%", "1", False),
        ("10%", "1000%", False),
        ("1.5 km", "1500 m", True),
        ("2 hours", "120 minutes", True),
        ("2 hours", "2 minutes", False),
        ("2 hours", "2 metres", False),
        ("2 hours", "2", True),
        ("50 cents", "$0.50", True),
        ("10 \\text{ cm}^2", "0.001 \\text{ m}^2", True),
        ("180 degrees", "3.14159265 radians", True),
        ("0.3333333", "1/3", True),
        ("0.333", "1/3", False),
        ("1/3", "0.33", True),
        ("6.666667", "6.67", True),
        ("6.66", "6.67", False),
        ("9.111", "9.11", False),
        ("1000001", "1000000", False),
        ("100.0", "100", True),
        ("1021_3", "1021_4", False),
        ("1021_3", "1021", True),
    ],
)
def test_quantities_are_the_same_as_far_as_both_say(one: str, other: str, are_same: bool) -> None:
    assert same(one, other) is are_same


@given(st.integers(-(10**12), 10**12))
def test_an_integer_is_the_same_in_all_ways_of_writing(number: int) -> None:
    ways = [f"{number}", f"{number:,}", f"{number}.0", f"{number} apples", f"${number}$"]

    assert all(same(one, other) for one in ways for other in ways)
    assert not same(str(number), str(number + 1))


@given(NUMBERS)
def test_a_fraction_is_the_same_in_all_ways_of_writing(number: Fraction) -> None:
    top, bottom = number.numerator, number.denominator
    sign, whole = "-" if top < 0 else "", abs(top) // bottom
    ways = [
        f"{top}/{bottom}",
        f"\\frac{{{top}}}{{{bottom}}}",
        f"{sign}\\dfrac{{{abs(top)}}}{{{bottom}}}",
        f"{sign}{whole} {abs(top) % bottom}/{bottom}",
    ]

    assert {value(way) for way in ways} == {number}


@given(NUMBERS, NUMBERS)
def test_of_two_exact_numbers_neither_is_taken_for_the_other(
    one: Fraction, other: Fraction
) -> None:
    assert same(str(one), str(other)) is (one == other)


def test_the_numbers_of_a_text_come_in_order() -> None:
    text = plain_maths("From $1,200 and 3/4, -5; \\frac{1}{2}, not x2")

    assert number_texts(text) == ["$1,200", "3/4", "-5", "\\frac{1}{2}"]
