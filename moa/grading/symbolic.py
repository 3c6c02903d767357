"""Whether two expressions are equal, by `math-verify`; runs in a process of its own.

The library ends what takes too long by `signal.alarm`, which works in main threads only, and
returns "different" for what it could not compare. Here that is an error: there is no grade then.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from math_verify import parse, verify
from math_verify.errors import TimeoutException
from math_verify.parser import ExprExtractionConfig, LatexExtractionConfig

_ALARM_S = 4
"""Of one parse, and of one comparison."""

logging.getLogger("math_verify").setLevel(logging.CRITICAL)

UNREADABLE = "unreadable reference"


def compare(pair: Sequence[str]) -> str:
    """Compare what was given with the reference: "equal", "different" or `UNREADABLE`.

    Raises:
        TimeoutError: one of the steps took longer than its alarm.
        Exception: whatever the library raises for what it cannot compare.
    """
    given, reference = pair
    try:
        right = _parsed(reference)
        if not right:
            return UNREADABLE
        left = _parsed(given)
        same = bool(left) and verify(
            right, left, timeout_seconds=_ALARM_S, raise_on_error=True, allow_set_relation_comp=True
        )
    except TimeoutException:
        raise TimeoutError(f"math-verify took longer than {_ALARM_S} s") from None
    return "equal" if same else "different"


def _parsed(text: str) -> list[Any]:
    """As LaTeX, and as a plain expression where it is no LaTeX; [] where it is neither."""
    for written, config in (
        (f"${text}$", LatexExtractionConfig()),
        (text, ExprExtractionConfig()),
    ):
        try:
            found = parse(
                written,
                [config],
                fallback_mode="no_fallback",
                parsing_timeout=_ALARM_S,
                raise_on_error=True,
            )
        except Exception:  # of whatever kind: it is not written as the library reads it
            continue
        if found:
            return list(found)
    return []
