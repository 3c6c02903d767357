"""Units that are worth converting; all others are words that say of what there is a number."""

from __future__ import annotations

import math
import re
from fractions import Fraction
from typing import NamedTuple


class Unit(NamedTuple):
    """One of several that measure the same."""

    kind: str
    size: Fraction
    """In the smallest or most usual unit of its kind."""

    def differs(self, other: Unit) -> bool:
        """Whether they are two units that both count: a rate's time is often left out."""
        return self != other and ("/" in self.kind) == ("/" in other.kind)


def _kind(kind: str, **sizes: str) -> dict[str, Unit]:
    """Names (several for one unit are separated by `_`) → unit, of sizes written as fractions."""
    return {
        name: Unit(kind, Fraction(size))
        for names, size in sizes.items()
        for name in names.split("_")
    }


_LENGTHS = _kind(
    "length",
    mm_millimeter_millimetre="1/1000", cm_centimeter_centimetre="1/100", m_meter_metre="1",
    km_kilometer_kilometre="1000", in_inch_inche="254/10000", ft_foot_feet="3048/10000",
    yd_yard="9144/10000", mi_mile="1609344/1000",
)  # fmt: skip
_UNITS = {
    **_LENGTHS,
    **_kind("mass", mg_milligram="1/1000", g_gram="1", kg_kilogram="1000", t_tonne="1000000",
            oz_ounce="28349523125/1000000000", lb_lbs_pound="45359237/100000"),
    **_kind("time", s_sec_second="1", min_minute="60", hr_hour="3600", day="86400",
            week="604800"),
    **_kind("volume", ml_milliliter_millilitre="1/1000", l_liter_litre="1"),
    **_kind("dollars", dollar_usd="1", cent_penny_pennie="1/100"),
    **_kind("euros", euro_eur="1"),
    **_kind("angle", degree_deg="1"),
    **_kind("length/time", mph="1609344/3600000", kph_kmh="1000/3600"),
    **_kind("angle", radian_rad=f"{180 / math.pi:.17g}"),
}  # fmt: skip
_MONEY = {"$": _UNITS["dollar"], "€": _UNITS["euro"]}
_WITH_POWERS = ("length", "time")
_RATE = re.compile(r"\s*/\s*|\s+(?:per|an?)\s+")
_POWERS = {"square": 2, "sq": 2, "cubic": 3, "cu": 3}
_WORD = re.compile(
    r"(?:(square|sq\.?|cubic|cu\.?)\s+)?([A-Za-z]+)\.?(?:\s*\^\s*\{?([23])\}?)?", re.IGNORECASE
)


def read_unit(text: str, *, money: str = "") -> Unit | None:
    """The unit that a text is; `None`: it is none that is known.

    Args:
        text: as `cm`, `square feet`, `cm^2`, `miles per hour`, `m/s^2`, `hours of sleep`.
        money: the currency sign before the number.
    """
    if money:
        return _MONEY.get(money)
    above, rate, below = _RATE.sub("\n", text.strip(), count=1).partition("\n")
    if rate:
        return _ratio(read_unit(above), read_unit("hour" if below == "h" else below))
    word = _WORD.match(above)
    if word is None:
        return None
    rest = above[word.end() :].strip()
    unit = _UNITS.get(word[2]) or _UNITS.get(word[2].lower().removesuffix("s"))
    if unit is None or (rest and len(word[2]) < 3):  # "5 m n" is a product
        return None
    power = int(word[3] or _POWERS.get((word[1] or "").lower().rstrip("."), 1))
    if power == 1:
        return unit
    return Unit(f"{unit.kind}^{power}", unit.size**power) if unit.kind in _WITH_POWERS else None


def _ratio(above: Unit | None, below: Unit | None) -> Unit | None:
    """Of a rate of two known units; others are compared by their numbers."""
    if above is None or below is None:
        return None
    return Unit(f"{above.kind}/{below.kind}", above.size / below.size)
