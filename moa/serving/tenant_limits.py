"""What a tenant has used: counted by one owner, from which each process of the endpoint leases.

A lease is counted as used when it is granted, and what was not needed is told: so no minute and
no day goes above its limit, however many processes there are. Whoever does not fit is told at once
when it will.
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

from moa.errors import Refusal
from moa.serving.tenants import Tenant

MINUTE_S = 60.0
SLOT_S = 1.0
BLOCK = 600
"""A lease is one part in so many of a minute's limit, a tenth of a second's worth, at least."""
CREDIT_S = 1.0
"""How long a lease is good for."""
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

    def covers(self, other: Need) -> bool:
        """Whether the other fits into it."""
        return (
            self.requests >= other.requests
            and self.tokens >= other.tokens - 1e-6
            and self.usd >= other.usd
        )


NOTHING = Need(0, 0.0, Decimal(0))


class Verdict(NamedTuple):
    """What a lease comes to."""

    granted: Need | None
    """At least what was needed; `None`: nothing."""
    limit: str = ""
    """Which one stands in the way: rpm, tpm or usd_per_day."""
    wait_s: float = 0.0
    """Until it does not."""


class LimitOwner(Protocol):
    """The owner of all tenants' limits, here or elsewhere."""

    async def lease(self, tenant: Tenant, needed: Need, unused: Need) -> Verdict:
        """Take what is needed, and perhaps a little more.

        Args:
            tenant: with its limits; the latest that is heard of counts.
            needed: by the request that waits.
            unused: of earlier leases; below zero what was used beyond them.
        """
        ...


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
        """Granted, or (below zero) told to be unused."""
        slot = now - now % SLOT_S + SLOT_S  # as late as it can have been
        self.requests += requests
        self.tokens += tokens
        if self.slots and self.slots[-1][0] == slot:
            _, had_requests, had_tokens = self.slots.pop()
            requests, tokens = requests + had_requests, tokens + had_tokens
        self.slots.append((slot, requests, tokens))

    def free_at(self, requests: float, tokens: float) -> float:
        """When so many requests and tokens less are counted."""
        for slot, had_requests, had_tokens in self.slots:
            requests -= had_requests
            tokens -= had_tokens
            if requests <= 0 and tokens <= 1e-6:
                return slot + MINUTE_S
        return math.inf


class TenantLimits:
    """Counts all tenants. One event loop, no threads."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._used: dict[str, _Used] = {}

    async def lease(self, tenant: Tenant, needed: Need, unused: Need) -> Verdict:
        """See `LimitOwner.lease`."""
        now = self._clock()
        used = self._used.setdefault(tenant.name, _Used())
        used.forget(now)
        today = datetime.fromtimestamp(now, UTC)
        if used.day != self._today():
            used.day, used.usd = self._today(), Decimal(0)
        if unused != NOTHING:
            used.add(now, -unused.requests, -unused.tokens)
            used.usd -= unused.usd
        if needed == NOTHING:
            return Verdict(NOTHING)
        if (refused := _refused(tenant, used, needed, now, today)) is not None:
            return refused
        granted = _granted(tenant, used, needed)
        used.add(now, granted.requests, granted.tokens)
        used.usd += granted.usd
        return Verdict(granted)

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
        return Verdict(None, "usd_per_day", (midnight - today).total_seconds())
    over_requests = used.requests + needed.requests - (tenant.rpm or math.inf)
    over_tokens = used.tokens + needed.tokens - (tenant.tpm or math.inf)
    if over_requests <= 0 and over_tokens <= 1e-6:
        return None
    limit = "rpm" if over_requests > 0 else "tpm"
    wait_s = used.free_at(max(0.0, over_requests), max(0.0, over_tokens)) - now
    return Verdict(None, limit, max(0.1, wait_s))


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


class TenantLease:
    """One process's side: what it has in hand of each tenant's limits."""

    def __init__(self, owner: LimitOwner, clock: Callable[[], float] = time.monotonic) -> None:
        self._owner = owner
        self._clock = clock
        self._hands: dict[str, _Hand] = {}

    async def take(self, tenant: Tenant, needed: Need) -> None:
        """Count a request, before anything is sent for it.

        Raises:
            Refusal: 429: it does not fit; or 503: the owner does not answer.
        """
        if not tenant.is_limited:
            return
        hand = self._hands.setdefault(tenant.name, _Hand())
        fresh = self._clock() - hand.at <= CREDIT_S
        if fresh and hand.credit.covers(needed):
            hand.credit = hand.credit.plus(needed, -1)
            return
        unused, hand.credit = hand.credit, NOTHING
        if tenant.tpm is not None and needed.tokens > tenant.tpm:
            needed = needed._replace(tokens=float(tenant.tpm))
        verdict = await self._owner.lease(tenant, needed, unused)
        if verdict.granted is None:
            raise _too_much(tenant, verdict)
        hand.at = self._clock()
        hand.credit = hand.credit.plus(verdict.granted).plus(needed, -1)

    def settle(self, tenant: Tenant, taken: Need, used: Need) -> None:
        """A request has used other amounts than were taken for it; told with the next lease."""
        if tenant.is_limited:
            hand = self._hands.setdefault(tenant.name, _Hand())
            hand.credit = hand.credit.plus(taken).plus(used, -1)


@dataclass(slots=True)
class _Hand:
    credit: Need = NOTHING
    at: float = -math.inf


def _too_much(tenant: Tenant, verdict: Verdict) -> Refusal:
    limits = {
        "rpm": f"{tenant.rpm} requests a minute",
        "tpm": f"{tenant.tpm} tokens a minute",
        "usd_per_day": f"${tenant.usd_per_day} a day",
    }
    day = verdict.limit == "usd_per_day"
    return Refusal(
        f"this key's limit of {limits[verdict.limit]} is reached; come back in "
        f"{math.ceil(verdict.wait_s)} s",
        status=429,
        kind="insufficient_quota" if day else "rate_limit_error",
        code="insufficient_quota" if day else "rate_limit_exceeded",
        retry_after_s=verdict.wait_s,
    )
