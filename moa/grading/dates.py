"""Dates as people write them, down to the precision that they give."""

from __future__ import annotations

import re
from datetime import date
from typing import NamedTuple

_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_MONTH = (
    r"(jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?"
    r"|sept?(?:ember)?|oct(?:ober)?|nov(?:ember)?|dec(?:ember)?)\.?"
)
_DAY = r"(\d{1,2})(?:[snrt][tdh])?"
_YEAR = r"(\d{4})"
_ISO = re.compile(r"(\d{4})-(\d{1,2})(?:-(\d{1,2}))?(?:T[\d:.]+Z?)?")
_SLASHED = re.compile(r"(\d{1,2})[/.](\d{1,2})[/.](\d{4})")
_DAY_FIRST = re.compile(rf"(?:the\s+)?{_DAY}\s+(?:of\s+)?{_MONTH},?\s+{_YEAR}", re.IGNORECASE)
_MONTH_FIRST = re.compile(rf"{_MONTH}\s+{_DAY},?\s+{_YEAR}", re.IGNORECASE)
_NO_DAY = re.compile(rf"{_MONTH},?\s+(?:of\s+)?{_YEAR}", re.IGNORECASE)
_NOT_PART = r"(?:(?:on|in)\s+)?(?:(?:mon|tues|wednes|thurs|fri|satur|sun)day,?\s+)?"
_LEADING = re.compile(_NOT_PART, re.IGNORECASE)


class Day(NamedTuple):
    """A date; 0 where it does not say the day or the month."""

    year: int
    month: int = 0
    day: int = 0


def read_dates(text: str) -> frozenset[Day]:
    """What a text that is one date may mean: none where it is none, two for `3/5/2021`."""
    text = text.strip().rstrip(".")[:60]
    text = text[_LEADING.match(text).end() :]  # type: ignore[union-attr]  # it may match nothing
    if found := _ISO.fullmatch(text):
        return _real(Day(int(found[1]), int(found[2]), int(found[3] or 0)))
    if found := _SLASHED.fullmatch(text):
        first, second, year = map(int, found.groups())
        return _real(Day(year, first, second), Day(year, second, first))
    if found := _DAY_FIRST.fullmatch(text):
        return _real(Day(int(found[3]), _month(found[2]), int(found[1])))
    if found := _MONTH_FIRST.fullmatch(text):
        return _real(Day(int(found[3]), _month(found[1]), int(found[2])))
    if found := _NO_DAY.fullmatch(text):
        return _real(Day(int(found[2]), _month(found[1])))
    return frozenset()


def same_date(given: str, reference: str) -> bool | None:
    """Whether a text gives a reference's date; `None`: the reference is no date.

    More than was asked for is right where it agrees: `5 March 2021` for `March 2021`. Less is not.
    """
    wanted = read_dates(reference)
    if not wanted:
        return None
    return any(
        all(asked in (0, said) for said, asked in zip(one, other, strict=True))
        for one in read_dates(given)
        for other in wanted
    )


def _month(name: str) -> int:
    return _MONTHS.index(name[:3].lower()) + 1


def _real(*days: Day) -> frozenset[Day]:
    return frozenset(one for one in days if _is_real(one))


def _is_real(one: Day) -> bool:
    try:
        date(one.year, one.month or 1, one.day or 1)
    except ValueError:
        return False
    return True
