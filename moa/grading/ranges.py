"""Intervals and inequalities: `(1, 2]`, `1 < x \\le 2` and `x > 1 \\text{ and } x \\le 2` are one.

A library that reads both as sets does not take one for the other; here both become ends.
"""

from __future__ import annotations

import re
from typing import NamedTuple

_INTERVAL = re.compile(r"([(\[])([^,()\[\]]+(?:\([^()]*\)[^,()\[\]]*)*),([^,\[\]]+)([)\]])$")
_RELATION = re.compile(r"\\le|\\ge|<|>")
_UNION = re.compile(r"\\cup|\bU\b|\bor\b|,(?=[^,]*[<>]|[^,]*\\[lg]e)")
_VARIABLE = re.compile(r"^[A-Za-z](?:\([a-z]\))?$")
_MIRRORED = {"<": ">", ">": "<", "\\le": "\\ge", "\\ge": "\\le"}
LOWEST, HIGHEST = "-\\infty", "\\infty"


class Range(NamedTuple):
    """All numbers between two ends, as they were written."""

    low: str
    includes_low: bool
    high: str
    includes_high: bool


def read_ranges(text: str) -> list[Range] | None:
    """The ranges of which a text is the union, in its order; `None`: it is none.

    Args:
        text: in the way of writing of `maths_text.plain_maths`.

    `(1, 2)` is read as a range, though it may be a point: whoever compares two of them gets the
    same answer either way.
    """
    text = re.sub(r"^[A-Za-z]\s*\\in\b", "", text).strip()
    ranges: list[Range] = []
    for part in _UNION.split(text):
        one = _interval(part.strip()) or _inequality(part.strip())
        if one is None:
            return None
        ranges.append(one)
    return ranges


def _interval(text: str) -> Range | None:
    found = _INTERVAL.match(text)
    if found is None:
        return None
    opening, low, high, closing = found.groups()
    return _range(low.strip(), opening == "[", high.strip(), closing == "]")


def _inequality(text: str) -> Range | None:
    """`a < x \\le b`, `x > a`, `a < x and x < b`: one variable, one or two relations."""
    both = re.split(r"\band\b|\\land\b|&", text)
    if len(both) == 2:
        return _overlap(_inequality(both[0].strip()), _inequality(both[1].strip()))
    relations = _RELATION.findall(text)
    sides = [side.strip() for side in _RELATION.split(text)]
    if len(relations) == 1:
        return _half(sides[0], relations[0], sides[1])
    if len(relations) == 2 and _VARIABLE.match(sides[1]):
        first = _half(sides[1], _MIRRORED[relations[0]], sides[0])
        return _overlap(first, _half(sides[1], relations[1], sides[2]))
    return None


def _half(left: str, relation: str, right: str) -> Range | None:
    if not left or not right:
        return None
    if not _VARIABLE.match(left):
        if not _VARIABLE.match(right):
            return None
        left, relation, right = right, _MIRRORED[relation], left
    includes = relation in ("\\le", "\\ge")
    if relation in ("<", "\\le"):
        return _range(LOWEST, False, right, includes)
    return _range(right, includes, HIGHEST, False)


def _overlap(one: Range | None, other: Range | None) -> Range | None:
    """Of a half that ends below and one that ends above; others are not of one variable."""
    if one is None or other is None:
        return None
    if one.low == LOWEST:
        one, other = other, one
    if one.high != HIGHEST or other.low != LOWEST:
        return None
    return Range(one.low, one.includes_low, other.high, other.includes_high)


def _range(low: str, includes_low: bool, high: str, includes_high: bool) -> Range:
    """Ends at infinity are written in one way, and are never included."""
    low, high = _infinity(low), _infinity(high)
    return Range(low, includes_low and low != LOWEST, high, includes_high and high != HIGHEST)


def _infinity(end: str) -> str:
    bare = re.sub(r"\s", "", end).lstrip("+")
    if bare in ("-\\infty", "-inf", "-oo", "-infinity"):
        return LOWEST
    return HIGHEST if bare in ("\\infty", "inf", "oo", "infinity") else end
