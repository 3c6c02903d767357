from __future__ import annotations

from itertools import product

import pytest

from moa.grading.maths_text import plain_maths
from moa.grading.ranges import Range, read_ranges


def read(text: str) -> list[Range] | None:
    return read_ranges(plain_maths(text))


@pytest.mark.parametrize(
    "ways",
    [
        ("(1,2]", "1<x\\le 2", "1 < x <= 2", "x > 1 \\text{ and } x \\leq 2", "x \\in (1, 2]",
         "2 \\geq x > 1", "\\left(1, 2\\right]", "1 < x \u2264 2"),
        ("[3, \\infty)", "x \\ge 3", "3 <= x", "[3, +\\infty)", "[3, \u221e)", "y \\geqslant 3"),
        ("(-\\infty, 3)", "x < 3", "3 > x", "(-inf, 3)"),
        ("(-\\infty,-1)\\cup(3,\\infty)", "x < -1 \\text{ or } x > 3", "x<-1, x>3",
         "(-\\infty,-1) U (3,\\infty)"),
        ("\\left[\\frac{1}{2}, \\sqrt{2}\\right)", "\\frac12 \\le x < \\sqrt2"),
    ],
)  # fmt: skip
def test_ways_to_write_a_range_are_one(ways: tuple[str, ...]) -> None:
    assert read(ways[0])
    for one, other in product(ways, ways):
        assert read(one) == read(other)


def test_ends_count_or_do_not() -> None:
    assert len({tuple(read(text) or ()) for text in ("(1,2)", "(1,2]", "[1,2)", "[1,2]")}) == 4


@pytest.mark.parametrize(
    "text", ["", "5", "x", "x = 3", "1 < 2", "x < y < z < 1", "(1,2,3)", "<", "x <"]
)
def test_what_is_no_range_is_none(text: str) -> None:
    assert read(text) is None
