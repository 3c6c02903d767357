"""Numbers with what stands around them: signs, separators, fractions, percent, money, units."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

from moa.grading.units import Unit, read_unit

_LONGEST = 120
"""Characters of a number with its unit; a longer text is none."""
_LARGEST_EXPONENT = 400
_PLAIN = r"\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d{1,3}(?:[ ]\d{3})+(?:\.\d+)?|\d+\.?\d*|\.\d+"
_WHOLE = r"\d+(?:,\d{3})*"
_NUMBER = re.compile(
    rf"""(?P<sign>[-+]?)\s*(?P<money>[$€£¥]?)\s*(?P<inner_sign>-?)\s*(?:
      (?:(?P<mixed>\d+)\s*(?:and\s+)?)?
      \\frac\s*\{{\s*(?P<top>-?{_WHOLE})\s*\}}\s*\{{\s*(?P<bottom>{_WHOLE})\s*\}}
    | (?:(?P<whole>\d+)\s+(?:and\s+)?)?(?P<over>\d+)\s*/\s*(?P<under>\d+)
    | (?P<plain>{_PLAIN})
      (?:\s*(?:[eE]|(?:\\times|\\cdot|\*|x)\s*10\s*(?:\^|\*\*))\s*
         (?P<brace>[{{(]?)\s*(?P<exponent>[-+]?\d{{1,4}})\s*[)}}]?)?
    )""",
    re.VERBOSE,
)
_CLOCK = re.compile(r"(\d{1,2}):(\d{2})\s*([ap]\.?m\b\.?|o'?clock)", re.IGNORECASE)
_BASE = re.compile(r"^_\{?(\d{1,2})\}?$")

_CONVERTED = Fraction(1, 10**6)
"""Relative tolerance between two units: who converts rounds."""
_NOISE = Fraction(1, 1000)
"""How far from a whole number may be what was computed as a float."""
_SCALES = {
    "dozen": 12, "hundred": 100, "thousand": 10**3, "million": 10**6, "billion": 10**9,
    "trillion": 10**12,
}  # fmt: skip
_SCALE = re.compile(rf"({'|'.join(_SCALES)})s?\b", re.IGNORECASE)
_SORTS = (
    ("am", re.compile(r"a\.?m\b", re.IGNORECASE)),
    ("pm", re.compile(r"p\.?m\b", re.IGNORECASE)),
    ("bc", re.compile(r"B\.?C\.?(?:E\b)?")),
    ("ad", re.compile(r"A\.?D\b|C\.?E\b")),
    ("celsius", re.compile(r"degrees\s+c(?:elsius)?\b", re.IGNORECASE)),
    ("fahrenheit", re.compile(r"degrees\s+f(?:ahrenheit)?\b", re.IGNORECASE)),
)


def _rounding(given: Quantity, reference: Quantity) -> Fraction:
    """How far from a reference that was rounded may be what was not."""
    if reference.decimals is None or reference.decimals < 2:
        return Fraction(0)
    if given.decimals is not None and given.decimals < reference.decimals + 3:
        return Fraction(0)
    return Fraction(1, 2 * 10**reference.decimals)


def _step(given: Quantity, reference: Quantity) -> Fraction:
    """How far apart two numbers may be at most, by the digits in which they are written."""
    if reference.decimals is None:
        return Fraction(1, 10 ** (given.decimals or 0))
    return Fraction(1, 2 * 10**reference.decimals) if reference.decimals else _NOISE


def _near(one: Fraction, other: Fraction, relative: Fraction) -> bool:
    return abs(one - other) <= relative * max(abs(one), abs(other))


def number_texts(text: str) -> list[str]:
    """The numbers of a text as they are written, in order, without what stands around them."""
    numbers, end = [], 0
    for start in _STARTS.finditer(text):
        if start.start() < end:
            continue  # the lower part of a fraction
        found = _NUMBER.match(text, start.start())
        if found is not None:
            numbers.append(found[0].strip())
            end = found.end()
    return numbers


def _value(found: re.Match[str]) -> Fraction | None:
    sign = -1 if (found["sign"] == "-") != (found["inner_sign"] == "-") else 1
    if found["plain"]:
        exponent = int(found["exponent"] or 0)
        if abs(exponent) > _LARGEST_EXPONENT:
            return None
        return sign * Fraction(re.sub("[, ]", "", found["plain"])) * Fraction(10) ** exponent
    top, bottom = found["top"] or found["over"], found["bottom"] or found["under"]
    bottom = bottom.replace(",", "")
    if not int(bottom):
        return None
    whole = int(found["mixed"] or found["whole"] or 0)
    return sign * (whole + Fraction(int(top.replace(",", "")), int(bottom)))


def _decimals(found: re.Match[str]) -> int | None:
    plain = found["plain"]
    if not plain or found["exponent"]:
        return None
    return len(plain.partition(".")[2])


def _are_words(text: str, *, is_attached: bool) -> bool:
    """Whether a text says of what there is a number: a known unit, or words, but no mathematics.

    `5m` and `5ab` are products, as the letters are attached, and so is `5 xy`; `5 m` and `5cm` are
    lengths.
    """
    if not text:
        return True
    bare = re.sub(r"\s*\^\s*(?:[23]|\{[23]\})", "", text)
    if re.search(r"\d|[=+*<>\\^_{}|]", bare):
        return False
    if read_unit(text) is not None:
        return not (is_attached and len(text) == 1)
    text = bare
    first = re.match(r"[A-Za-z]*", text)
    assert first is not None  # it may be empty
    if is_attached or first[0].lower() in _NO_UNIT or _PRODUCT.fullmatch(text):
        return False
    return (
        re.fullmatch(r"[(\[]?[A-Za-z][A-Za-z.'-]+[)\]]?(?:[ /(,-][A-Za-z.'()/, -]*)?", text)
        is not None
    )


_NO_UNIT = frozenset(
    ["sin", "cos", "tan", "cot", "sec", "csc", "log", "ln", "exp", "mod", "or", "and", "to", "if",
     "times", "plus", "minus", "over", "divided", "multiplied", "squared", "cubed", "factorial",
     "choose", "half", "halves", "third", "thirds", "fourths", "fifths", "sixths", "sevenths",
     "eighths", "ninths", "tenths", "hundredths", "thousandths"]
)  # fmt: skip
_PRODUCT = re.compile(r"[(\[]?(?!pt|qt|yr|kb|tb)(?:[abcknpqrstuvwxyz]{2}|[xyz]{3})[)\]]?")
"""Variables, rather than a word or a unit."""

_STARTS = re.compile(r"(?<![\w.,/\\^{])-?[$€£¥]?(?:\d|\\frac|\.\d)")


@dataclass(frozen=True, slots=True)
class Quantity:
    """A number as it was written."""

    value: Fraction
    unit: Unit | None
    """`None`: none, or one that is not known, as apples."""
    is_percent: bool = False
    decimals: int | None = None
    """Digits after its point; `None`: it is exact, as a fraction is."""
    base: str = ""
    """Of its digits, as in `1021_3`; "" where none is given."""
    sort: str = ""
    """One of those that exclude each other, as `am` and `pm`; "" where none is given."""
    scale: int = 1
    """Of the word after it, as `million`."""


def read_quantity(text: str) -> Quantity | None:
    """Read a text that is one number, with words that say of what; `None`: it is not.

    Args:
        text: in the way of writing of `maths_text.plain_maths`.
    """
    if len(text) > _LONGEST:
        return None
    if clock := _CLOCK.fullmatch(text):
        hours = Fraction(int(clock[1])) + Fraction(int(clock[2]), 60)
        return Quantity(hours, None, sort=_sort(clock[3]))
    found = _NUMBER.match(text)
    if found is None:
        return None
    value = _value(found)
    rest = text[found.end() :].strip()
    if value is None or (rest and text[found.end() - 1].isdigit() and rest[0].isdigit()):
        return None
    if base := _BASE.match(rest):
        return Quantity(value, None, base=base[1])
    is_percent = bool(re.match(r"%|percent\b|per cent\b|percentage", rest))
    words = re.sub(r"^(?:%|percent(?:age)?\b|per cent\b)", "", rest).strip()
    is_attached = rest == words and not text[found.end() : found.end() + 1].isspace()
    scale = 1
    if scaled := _SCALE.match(words):
        scale, words = _SCALES[scaled[1].lower()], words[scaled.end() :].strip()
    if not _are_words(words, is_attached=is_attached):
        return None
    unit = read_unit(words, money=found["money"])
    return Quantity(value, unit, is_percent, _decimals(found), sort=_sort(words), scale=scale)


def _sort(words: str) -> str:
    return next((name for name, pattern in _SORTS if pattern.match(words)), "")


def same_quantity(given: Quantity, reference: Quantity, *, relative_tolerance: float) -> bool:
    """Whether two quantities are the same, as far as both say.

    A unit that only one of them has counts for nothing, and so do `million` and a percent sign:
    10 % is as well 0.1 as, where percent was asked for, 10. Whole numbers and fractions are
    compared exactly, others within the tolerance, and no further apart than their digits allow. A
    reference with two decimals or more is taken for rounded where what is given is a fraction or
    has three decimals more: 6.67 is then known to half of its last digit, but 9.11 is not 9.111.
    """
    if _excluded(given.base, reference.base) or _excluded(given.sort, reference.sort):
        return False
    has_point = bool(given.decimals or reference.decimals)
    tolerance = Fraction(relative_tolerance if has_point else 0)
    first, second = given.value, reference.value
    if given.unit and reference.unit and given.unit.differs(reference.unit):
        return given.unit.kind == reference.unit.kind and _near(
            first * given.scale * given.unit.size,
            second * reference.scale * reference.unit.size,
            _CONVERTED,
        )
    if given.scale != reference.scale:
        if _near(first * given.scale, second * reference.scale, tolerance):
            return True
        if 1 not in (given.scale, reference.scale):
            return False
    apart = abs(first - second)
    if _near(first, second, tolerance) and apart <= _step(given, reference):
        return True
    if apart <= _rounding(given, reference):
        return True
    if given.is_percent != reference.is_percent:
        first, second = (
            first * (1 if given.is_percent else 100),
            second * (1 if reference.is_percent else 100),
        )
        return _near(first, second, tolerance)
    return False


def _excluded(one: str, other: str) -> bool:
    return bool(one and other and one != other)
