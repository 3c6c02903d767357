"""Whether a query waits for its model or goes to its next best: by what either of them costs."""

from __future__ import annotations

import math
from typing import NamedTuple

from moa.dispatch.call import Call
from moa.dispatch.line import Line
from moa.dispatch.settings import DispatchSettings
from moa.errors import ProviderError, TransientError


class Outage(NamedTuple):
    """A line can send nothing for long."""

    why: ProviderError
    for_s: float
    """So long already, or so long yet, whichever is known."""


def outage_of(line: Line, model: str) -> Outage | None:
    """Why a line is out, if it is."""
    if line.account.refused is not None:
        return Outage(line.account.refused, math.inf)
    if line.spent is not None and (pause_s := line.pause_s()) > 0:
        return Outage(line.spent, pause_s)
    if line.breaker.wait_s() > 0:
        return Outage(TransientError(f"{model} does not answer"), line.breaker.open_s())
    return None


def has_fallback(call: Call, settings: DispatchSettings) -> bool:
    """Whether another model may be asked."""
    return settings.fallback and call.next_place is not None


def waits(call: Call, out_s: float, settings: DispatchSettings) -> bool:
    """Whether a query had better wait for a model that is out for so long.

    Nobody knows how long an outage lasts. Who waits until waiting has cost as much as the detour,
    and then takes it, never pays more than twice of what was best (the rent-or-buy rule).
    """
    if out_s > settings.retry.give_up_after_s:
        return False
    place = call.next_place
    if place is None or not settings.fallback:
        return True
    if settings.waiting_usd_per_hour is None:
        return False
    loss_usd = call.choice.worth_usd - call.assignment.choices[place].worth_usd
    return float(settings.waiting_usd_per_hour) * out_s / 3600 < loss_usd
