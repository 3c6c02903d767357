"""Figures as people read them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal

from moa.intervals import Interval

MINUS = "\N{MINUS SIGN}"


def money(usd: Decimal | float) -> str:
    """`$1,234.56`; below ten dollars four decimals, below a cent four digits that matter."""
    amount = Decimal(str(usd))
    sign, size = (MINUS if amount < 0 else ""), abs(amount)
    if size == 0:
        return "$0"
    if size < Decimal("0.01"):
        return f"{sign}${size:.{3 - size.adjusted()}f}"
    return f"{sign}${size:,.2f}" if size >= 10 else f"{sign}${size:,.4f}"


def amounts(column: Sequence[Decimal], *, signed: bool = False) -> list[str]:
    """Sums of money that stand below each other, all with equally many decimals.

    As many as the least of them needs for two digits that matter, from two to six. `signed` gives
    those above zero a plus.
    """
    sizes = [abs(usd) for usd in column if usd]
    decimals = min(6, max(2, 1 - min(sizes).adjusted())) if sizes else 2
    plus = "+" if signed else ""
    return [
        f"{MINUS if usd < 0 else plus if usd else ''}${abs(usd):,.{decimals}f}" for usd in column
    ]


def gain(usd: float) -> str:
    """`+$0.26`; with a minus sign when it is a loss."""
    sign = MINUS if usd < 0 else "+"
    return f"{sign}{money(abs(usd))}" if 0 < abs(usd) < 0.01 else f"{sign}${abs(usd):,.2f}"


def extra(usd: Decimal) -> str:
    """A difference of money: `$0.26 more`, `$1.20 less`."""
    return f"{money(abs(usd))} {'less' if usd < 0 else 'more'}"


def right_answers(number: float) -> str:
    """A sum of expected grades, as a difference: `4.2 fewer right answers`."""
    return f"{abs(number):,.1f} {'fewer' if number < 0 else 'more'} right answers"


def answers(number: float) -> str:
    """The same as a figure: `+4.2`."""
    return f"{number:+,.1f}".replace("-", MINUS)


def price(usd: Decimal) -> str:
    """An amount that somebody wrote, as it was written: `$0.05`."""
    return f"${usd.normalize():f}"


def cents(usd: Decimal) -> str:
    """As `money`, for what may be next to nothing: `below $0.01`."""
    return "below $0.01" if 0 < usd < Decimal("0.01") else money(usd)


def count(number: int) -> str:
    """`1,234`."""
    return f"{number:,}"


def counted(number: int, noun: str) -> str:
    """`1 call`, `1,234 calls`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def queries(number: int) -> str:
    """`1 query`, `1,234 queries`."""
    return "1 query" if number == 1 else f"{number:,} queries"


def share(value: float) -> str:
    """`12.3 %`."""
    return f"{value * 100:.1f} %".replace("-", MINUS)


def points(value: float) -> str:
    """A difference of grades: `+0.012`."""
    return f"{value:+.3f}".replace("-", MINUS)


def cheaper(saving: float) -> str:
    """What a saving means: `35.4 % cheaper`, `12.0 % dearer`, `10.2 times as dear`."""
    if saving >= 0:
        return f"{saving * 100:.1f} % cheaper"
    return f"{-saving * 100:.1f} % dearer" if saving > -1 else f"{1 - saving:,.1f} times as dear"


def cheaper_bounds(saving: Interval) -> str:
    """`31.2 to 39.5 %`, `2.0 % dearer to 3.1 % cheaper`."""
    least, most = cheaper(saving.low), cheaper(saving.high)
    return _between(*((most, least) if saving.high < 0 else (least, most)))


def better(difference: float) -> str:
    """What a difference of grades means, in hundredths: `1.8 points worse`."""
    return f"{abs(difference) * 100:.1f} points {'better' if difference >= 0 else 'worse'}"


def better_bounds(difference: Interval) -> str:
    """`0.5 to 3.7 points`, `3.7 points worse to 0.1 points better`."""
    least, most = better(difference.low), better(difference.high)
    return _between(*((most, least) if difference.high < 0 else (least, most)))


def _between(one: str, other: str) -> str:
    """Two figures with their unit once, where it is the same."""
    (least, _, unit), (most, _, word) = one.partition(" "), other.partition(" ")
    return f"{least} to {most} {unit.split()[0]}" if unit == word else f"{one} to {other}"


def moment(at: datetime) -> str:
    """`2026-11-24 03:00 UTC`."""
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def duration(seconds: float) -> str:
    """`42 ms`, `12.3 s`, `2 min 5 s`, `3 h 20 min`."""
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 120:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 120:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60:,} h {minutes % 60} min"
