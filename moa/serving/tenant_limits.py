"""What a tenant has used: counted by one owner, from which each process of the endpoint leases.

A lease is counted as used when it is granted, until the end of the time that it is good for, and
what was not needed is told: so no minute and no day goes above its limit, however many processes
there are. What comes back late is worth nothing: the minute that it was taken from is over, and
another must not become the longer for it; likewise yesterday's money. Whoever does not fit is told
at once when it will.

What a request uses is expected when it is let in, and known when it has ended. What it has used
beyond that counts from then on. One that is expected to use more tokens than a minute has is let
in when a whole minute's are free.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import NamedTuple, Protocol

from moa.serving.tenants import Tenant

MINUTE_S = 60.0
SLOT_S = 1.0
BLOCK = 600
"""A lease is one part in so many of a minute's limit, a tenth of a second's worth, at least."""
CREDIT_S = 1.0
"""How long a lease is good for, from when it was asked for."""
DAY_BLOCK = 200
"""The same of a day's money."""


class Need(NamedTuple):
    """Of one or several requests."""

    requests: int
    tokens: float
    usd: Decimal

    def plus(self, other: Need, sign: int = 1) -> Need:
        """Both; or what is left of one."""
        return Need(
            self.requests + sign * other.requests,
            self.tokens + sign * other.tokens,
            self.usd + sign * other.usd,
        )

    def above(self, other: Need) -> Need:
        """What is more than in the other."""
        return Need(
            max(0, self.requests - other.requests),
            max(0.0, self.tokens - other.tokens),
            max(Decimal(0), self.usd - other.usd),
        )

    def covers(self, other: Need) -> bool:
        """Whether the other fits into it."""
        return (
            self.requests >= other.requests
            and self.tokens >= other.tokens - 1e-6
            and self.usd >= other.usd
        )


NOTHING = Need(0, 0.0, Decimal(0))


class Taken(NamedTuple):
    """What was leased, or what a request was counted with when it was let in."""

    need: Need
    asked_at: float = -math.inf
    """By the clock of its process."""
    granted_at: float = math.inf
    """By the owner's."""
    day: str = ""
    """That its money is of, by the owner's clock, UTC."""


class Returned(NamedTuple):
    """What a process tells of its earlier leases."""

    unused: Need = NOTHING
    granted_at: float = math.inf
    """The oldest of them, by the owner's clock."""
    beyond: Need = NOTHING
    """Used, and never leased."""
    day: str = ""
    """That the money is of."""


class Verdict(NamedTuple):
    """What a lease comes to."""

    granted: Need | None
    """At least what was needed; `None`: nothing."""
    at: float
    """By the owner's clock."""
    day: str
    limit: str = ""
    """Which one stands in the way: rpm, tpm or usd_per_day."""
    wait_s: float = 0.0
    """Until it does not."""


class LimitOwner(Protocol):
    """The owner of all tenants' limits, here or elsewhere."""

    async def lease(self, tenant: Tenant, needed: Need, returned: Returned) -> Verdict:
        """Take what is needed, and perhaps a little more.

        Args:
            tenant: with its limits; the latest that is heard of counts.
            needed: by the request that waits.
            returned: of earlier leases.
        """
        ...


def _slot(at: float) -> float:
    """The end of the slot that a time is in."""
    return at - at % SLOT_S + SLOT_S


@dataclass(slots=True)
class _Used:
    """By one tenant."""

    slots: deque[tuple[float, int, float]] = field(default_factory=deque)
    """Second, requests, tokens."""
    requests: int = 0
    tokens: float = 0.0
    day: str = ""
    usd: Decimal = Decimal(0)

    def forget(self, now: float) -> None:
        """What is older than a minute."""
        while self.slots and self.slots[0][0] <= now - MINUTE_S:
            _, requests, tokens = self.slots.popleft()
            self.requests -= requests
            self.tokens -= tokens

    def add(self, now: float, requests: int, tokens: float) -> None:
        """Granted, or used beyond what was."""
        slot = _slot(now + CREDIT_S)  # as late as it can be used
        self.requests += requests
        self.tokens += tokens
        if self.slots and self.slots[-1][0] == slot:
            _, had_requests, had_tokens = self.slots.pop()
            requests, tokens = requests + had_requests, tokens + had_tokens
        self.slots.append((slot, requests, tokens))

    def give_back(self, granted_at: float, requests: int, tokens: float) -> None:
        """Told to be unused. It is taken from the slot that it was counted in, or from older ones,
        which are forgotten earlier; never from younger ones.
        """
        for index in range(len(self.slots) - 1, -1, -1):
            slot, had_requests, had_tokens = self.slots[index]
            if slot > _slot(granted_at + CREDIT_S):
                continue
            less_requests, less_tokens = min(requests, had_requests), min(tokens, had_tokens)
            self.slots[index] = (slot, had_requests - less_requests, had_tokens - less_tokens)
            self.requests -= less_requests
            self.tokens -= less_tokens
            requests, tokens = requests - less_requests, tokens - less_tokens

    def free_at(self, requests: float, tokens: float) -> float:
        """When so many requests and tokens less are counted."""
        for slot, had_requests, had_tokens in self.slots:
            requests -= had_requests
            tokens -= had_tokens
            if requests <= 0 and tokens <= 1e-6:
                return slot + MINUTE_S
        return self.slots[-1][0] + MINUTE_S if self.slots else -math.inf  # sums are rounded


class TenantLimits:
    """Counts all tenants. One event loop, no threads."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._used: dict[str, _Used] = {}

    async def lease(self, tenant: Tenant, needed: Need, returned: Returned) -> Verdict:
        """See `LimitOwner.lease`."""
        now = self._clock()
        used = self._used.setdefault(tenant.name, _Used())
        used.forget(now)
        today = datetime.fromtimestamp(now, UTC)
        day = self._today()
        if used.day != day:
            used.day, used.usd = day, Decimal(0)
        self._heed(used, returned, now)
        if needed == NOTHING:
            return Verdict(NOTHING, now, day)
        if (refused := _refused(tenant, used, needed, now, today)) is not None:
            return refused
        granted = _granted(tenant, used, needed)
        used.add(now, granted.requests, granted.tokens)
        used.usd += granted.usd
        return Verdict(granted, now, day)

    def _heed(self, used: _Used, returned: Returned, now: float) -> None:
        unused, beyond = returned.unused, returned.beyond
        if now - returned.granted_at < MINUTE_S and returned.granted_at <= now:
            used.give_back(returned.granted_at, unused.requests, unused.tokens)
        if beyond.requests or beyond.tokens:
            used.add(now, beyond.requests, beyond.tokens)
        if returned.day == used.day:
            used.usd = max(Decimal(0), used.usd + beyond.usd - unused.usd)

    def begin(self, name: str, usd: Decimal) -> None:
        """A tenant has spent so much of today before this owner was started."""
        used = self._used.setdefault(name, _Used())
        used.day, used.usd = self._today(), used.usd + usd

    def spent(self) -> dict[str, Decimal]:
        """By name, of today, leases that are out included."""
        today = self._today()
        return {name: used.usd for name, used in self._used.items() if used.day == today}

    def _today(self) -> str:
        return datetime.fromtimestamp(self._clock(), UTC).date().isoformat()


def _refused(
    tenant: Tenant, used: _Used, needed: Need, now: float, today: datetime
) -> Verdict | None:
    if tenant.usd_per_day is not None and used.usd + needed.usd > tenant.usd_per_day:
        midnight = (today + timedelta(days=1)).replace(hour=0, minute=0, second=0, microsecond=0)
        return Verdict(None, now, used.day, "usd_per_day", (midnight - today).total_seconds())
    over_requests = used.requests + needed.requests - (tenant.rpm or math.inf)
    over_tokens = used.tokens + needed.tokens - (tenant.tpm or math.inf)
    if over_requests <= 0 and over_tokens <= 1e-6:
        return None
    limit = "rpm" if over_requests > 0 else "tpm"
    wait_s = used.free_at(max(0.0, over_requests), max(0.0, over_tokens)) - now
    return Verdict(None, now, used.day, limit, max(0.1, wait_s))


def _granted(tenant: Tenant, used: _Used, needed: Need) -> Need:
    """What is needed, or a block where there is plenty."""
    requests, tokens, usd = needed
    requests = max(requests, _block(tenant.rpm, used.requests))
    tokens = max(tokens, float(_block(tenant.tpm, used.tokens)))
    if tenant.usd_per_day is not None:
        left = tenant.usd_per_day - used.usd
        usd = max(usd, min(left / 10, tenant.usd_per_day / DAY_BLOCK))
    return Need(requests, tokens, usd)


def _block(limit: int | None, used: float) -> int:
    if limit is None:
        return 1_000_000
    return int(max(0.0, min(limit / BLOCK, (limit - used) / 10)))
