"""Figures as people read them."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal

from moa.bootstrap import Interval

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


def cents(usd: Decimal) -> str:
    """As `money`, for what may be next to nothing: `below $0.01`."""
    return "below $0.01" if 0 < usd < Decimal("0.01") else money(usd)


def count(number: int) -> str:
    """`1,234`."""
    return f"{number:,}"


def share(value: float | Interval) -> str:
    """`12.3 %`."""
    number = value.value if isinstance(value, Interval) else value
    return f"{number * 100:.1f} %".replace("-", MINUS)


def points(value: float) -> str:
    """A difference of grades: `+0.012`."""
    return f"{value:+.3f}".replace("-", MINUS)


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
