"""Whether two answers are the same: by our own reading where it reads both, else by a library."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from operator import ne
from typing import TypeVar

from moa.grading.choice import read_choices
from moa.grading.maths_text import elements, is_set, named_parts, tuple_parts, without_name
from moa.grading.quantities import read_quantity, same_quantity
from moa.grading.ranges import Range, read_ranges
from moa.grading.units import read_unit

T = TypeVar("T")
_MOST_ELEMENTS = 50
_WORDS = re.compile(r"[A-Za-z][A-Za-z' ,-]*[A-Za-z]")
_YES_NO = re.compile(r"^(yes|no|true|false)\b", re.IGNORECASE)
_LETTER = re.compile(r"\(?([A-J])\)?")
_POWER = re.compile(r"(?<=\S)\s+([A-Za-z]{2,})\s*\^\s*(?:[23]|\{[23]\})$")
_TIME = re.compile(r"0?(\d{1,2}:[0-5]\d)")
_LABEL = re.compile(r"\([A-J]\)\s+(?=\S)")

Symbolic = Callable[[str, str], bool]
"""Given answer and reference, both LaTeX or plain expressions → whether they are equal; may raise
`Undecided`."""


class Undecided(Exception):
    """Two answers could not be compared; the message says why, in a few words."""


class Comparison:
    """Compares texts in the way of writing of `maths_text.plain_maths`."""

    def __init__(self, symbolic: Symbolic, relative_tolerance: float) -> None:
        self._symbolic = symbolic
        self._tolerance = relative_tolerance

    def same(self, given: str, reference: str) -> bool:
        """Whether a given answer is the reference's.

        Raises:
            Undecided: nothing said so within its time, or the reference cannot be read.
        """
        if squeezed(given) == squeezed(reference):
            return True
        if _LETTER.fullmatch(reference):
            if (picked := read_choices(given)) is not None:
                return picked == {reference.strip("()")}
        elif not _LABEL.match(reference):
            given = _LABEL.sub("", given, count=1)
        by_value = self._same_value(without_name(given), without_name(reference))
        if by_value is not None:
            return by_value
        if ("=" in given) != ("=" in reference):
            given, reference = without_name(given), without_name(reference)
        return self._symbolic(*_without_power(given, reference))

    def _same_value(self, given: str, reference: str) -> bool | None:
        """As far as we can read it ourselves; `None`: we cannot."""
        if squeezed(given) == squeezed(reference):
            return True
        if (time := _TIME.fullmatch(given)) and (wanted := _TIME.fullmatch(reference)):
            return time[1] == wanted[1]  # 1:15 and 2:30 are one ratio, but two times
        left, right = read_quantity(given), read_quantity(reference)
        if left is not None and right is not None:
            return same_quantity(left, right, relative_tolerance=self._tolerance)
        if is_words(reference):
            return _same_words(given, reference)
        if is_words(given):
            return False
        return self._same_parts(given, reference)

    def _same_parts(self, given: str, reference: str) -> bool | None:
        """Of ranges, tuples and lists."""
        left_ranges, right_ranges = read_ranges(given), read_ranges(reference)
        if left_ranges and right_ranges:
            return self._same_ranges(left_ranges, right_ranges)
        if (is_set(reference) and _has_order(given)) or (is_set(given) and _has_order(reference)):
            return False
        left_tuple, right_tuple = tuple_parts(given), tuple_parts(reference)
        left_named, right_named = named_parts(given), named_parts(reference)
        if left_named and right_named and left_named.keys() == right_named.keys():
            left_tuple, right_tuple = list(left_named.values()), list(right_named.values())
        elif left_named and right_tuple:
            left_tuple = list(left_named.values())
        elif left_tuple and right_named:
            right_tuple = list(right_named.values())
        if left_tuple and right_tuple:
            return self._in_order(left_tuple, right_tuple)
        left = left_tuple or elements(given)
        right = right_tuple or elements(reference)
        if 1 in (len(left), len(right)) and not self._is_plain(left, right):
            return None
        return self._in_any_order(left, right)

    @staticmethod
    def _is_plain(left: Sequence[str], right: Sequence[str]) -> bool:
        """Whether one of two lists is a single number, which no list of several can be."""
        return len(left) != len(right) and any(
            len(parts) == 1 and read_quantity(parts[0]) is not None for parts in (left, right)
        )

    def _same_ranges(self, given: Sequence[Range], reference: Sequence[Range]) -> bool:
        """Whether the unions have the same ranges, in whatever order."""
        return len(given) == len(reference) and _pair_up(given, reference, self._same_range)

    def _same_range(self, given: Range, reference: Range) -> bool:
        if given[1::2] != reference[1::2]:
            return False
        return self.same(given.low, reference.low) and self.same(given.high, reference.high)

    def _in_order(self, given: Sequence[str], reference: Sequence[str]) -> bool:
        return len(given) == len(reference) and all(map(self.same, given, reference))

    def _in_any_order(self, given: Sequence[str], reference: Sequence[str]) -> bool:
        """Whether each wanted part is given once, and nothing else is."""
        if len(given) != len(reference) or len(given) > _MOST_ELEMENTS:
            return False
        return _pair_up(given, reference, self.same)


def _without_power(*texts: str) -> list[str]:
    """Without `cm^2` at the end, where only one has such a unit: the library knows but `cm`."""
    bare = [
        text[: found.start()] if (found := _POWER.search(text)) and read_unit(found[1]) else text
        for text in texts
    ]
    return list(texts) if all(map(ne, bare, texts)) else bare


def squeezed(text: str) -> str:
    """Without spaces but between digits; and without case where it is words, as `X` and `x` are two
    variables.
    """
    bare = re.sub(r"(?<!\d)\s+|\s+(?!\d)", "", text)
    return bare.casefold() if is_words(text) else bare


def is_words(text: str) -> bool:
    """Whether it is words rather than mathematics: `no solution`, but neither `x-y` nor `\\pi`."""
    return _WORDS.fullmatch(text) is not None and re.search("[A-Za-z]{2}", text) is not None


def _has_order(text: str) -> bool:
    """Whether it is a point or a range, which no set of its parts is."""
    return bool(tuple_parts(text) or read_ranges(text))


def _same_words(given: str, reference: str) -> bool:
    """Equal but for case, signs and plurals; yes and no count at the start of a sentence."""
    if _YES_NO.fullmatch(reference):
        said = _YES_NO.match(given)
        return said is not None and said[0].casefold() == reference.casefold()
    return _letters(given) == _letters(reference)


def _letters(text: str) -> str:
    words = re.findall(r"[a-z0-9]+", text.casefold())
    return " ".join(word.removesuffix("s") for word in words)


def _pair_up(given: Sequence[T], reference: Sequence[T], same: Callable[[T, T], bool]) -> bool:
    """Whether each wanted one is found among those given, each of which counts for one only."""
    left = list(given)
    for wanted in reference:
        found = next((one for one in left if same(one, wanted)), None)
        if found is None:
            return False
        left.remove(found)
    return True
