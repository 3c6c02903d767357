"""A process's side of its tenants' limits: credit is leased, and what was really used is told."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal
from functools import partial

import structlog

from moa.errors import Refusal
from moa.serving.tenant_limits import (
    CREDIT_S,
    MINUTE_S,
    NOTHING,
    LimitOwner,
    Need,
    Returned,
    Taken,
    Verdict,
)
from moa.serving.tenants import Tenant

MOST_ASKS = 3
"""Leases that come too late to be used, before a request is refused."""

log = structlog.get_logger()


class TenantLease:
    """One process's side: what it has in hand of each tenant's limits."""

    def __init__(self, owner: LimitOwner, clock: Callable[[], float] = time.monotonic) -> None:
        self._owner = owner
        self._clock = clock
        self._hands: dict[str, _Hand] = {}

    async def take(self, tenant: Tenant, needed: Need) -> Taken:
        """Count a request, before anything is sent for it.

        Raises:
            Refusal: 429: it does not fit; or 503: the owner does not answer, or too late.
        """
        needed = _counted(tenant, needed)
        if needed == NOTHING:
            return Taken(needed)
        hand = self._hand(tenant)
        late = self._clock() - hand.credit.asked_at > CREDIT_S
        if not late and hand.credit.need.covers(needed):
            return hand.pay(needed)
        # Whoever leaves meanwhile takes nothing along: neither what is told nor what is granted.
        asking = asyncio.ensure_future(self._refill(needed, hand))
        try:
            return await asyncio.shield(asking)
        except asyncio.CancelledError:
            asking.add_done_callback(partial(_returned, hand))
            raise

    async def close(self) -> None:
        """Tell what is untold: the day's money would else not be the money that was spent."""
        for hand in list(self._hands.values()):
            try:
                await self._lease(NOTHING, hand)
            except Exception as error:  # whatever it is: nobody is left who could tell it later
                log.error("limits.not_told", tenant=hand.tenant.name, error=type(error).__name__)

    def _hand(self, tenant: Tenant) -> _Hand:
        hand = self._hands.setdefault(tenant.name, _Hand(tenant))
        hand.tenant = tenant
        return hand

    async def _lease(self, needed: Need, hand: _Hand) -> tuple[Verdict, float]:
        """Ask the owner; what it was told and has not answered is told again."""
        asked_at = self._clock()
        told = hand.told(asked_at)
        try:
            return await self._owner.lease(hand.tenant, needed, told), asked_at
        except BaseException:
            hand.give_back(Taken(told.unused, asked_at, told.granted_at, told.day), told.beyond)
            raise

    async def _refill(self, needed: Need, hand: _Hand) -> Taken:
        """Ask until a lease comes in time."""
        for _ in range(MOST_ASKS):
            verdict, asked_at = await self._lease(needed, hand)
            if verdict.granted is None:
                raise _too_much(hand.tenant, verdict)
            leased = Taken(verdict.granted, asked_at, verdict.at, verdict.day)
            if self._clock() - asked_at <= CREDIT_S:
                hand.take(leased)
                return hand.pay(needed)
            hand.give_back(leased)
        raise Refusal(
            f"the owner of this key's limits takes more than {CREDIT_S:g} s to answer",
            status=503,
            kind="api_error",
            code="limits_slow",
            retry_after_s=5.0,
        )

    def settle(self, tenant: Tenant, taken: Taken, used: Need) -> None:
        """A request has used other amounts than were taken for it; told with the next lease."""
        if not tenant.is_limited:
            return
        hand = self._hand(tenant)
        unused, beyond = taken.need.above(used), used.above(taken.need)
        hand.give_back(taken._replace(need=unused), beyond)


_NO_LEASE = Taken(NOTHING)


@dataclass(slots=True)
class _Hand:
    """What a process has of one tenant's limits."""

    tenant: Tenant
    credit: Taken = _NO_LEASE
    left: list[tuple[Taken, Need]] = field(default_factory=list)
    """Unused of leases and requests that are over, and what those have used beyond."""

    def take(self, leased: Taken) -> None:
        """A new credit; what is left of one that another request has asked for goes back."""
        self.give_back(self.credit)
        self.credit = leased

    def pay(self, needed: Need) -> Taken:
        """Out of the credit, which covers it."""
        self.credit = self.credit._replace(need=self.credit.need.plus(needed, -1))
        return self.credit._replace(need=needed)

    def give_back(self, unused: Taken, beyond: Need = NOTHING) -> None:
        """To be told."""
        if (unused.need, beyond) != (NOTHING, NOTHING):
            self.left.append((unused, beyond))

    def told(self, now: float) -> Returned:
        """All that is to be told, as one: of minutes and days that are over it is nothing."""
        self.take(_NO_LEASE)
        left, self.left = self.left, []
        day = max((unused.day for unused, _ in left), default="")
        told = Returned(day=day)
        for unused, beyond in left:
            need, granted_at = unused.need, unused.granted_at
            if now - unused.asked_at >= MINUTE_S or not (need.requests or need.tokens):
                need, granted_at = need._replace(requests=0, tokens=0.0), math.inf
            if unused.day != day:
                need, beyond = need._replace(usd=Decimal(0)), beyond._replace(usd=Decimal(0))
            told = told._replace(
                unused=told.unused.plus(need),
                granted_at=min(told.granted_at, granted_at),
                beyond=told.beyond.plus(beyond),
            )
        return told


def _returned(hand: _Hand, asking: asyncio.Future[Taken]) -> None:
    """What was granted to somebody who has left."""
    if not asking.cancelled() and asking.exception() is None:
        hand.give_back(asking.result())


def _counted(tenant: Tenant, needed: Need) -> Need:
    """What is counted of a need. More than a minute has waits for a whole minute's."""
    requests = 0 if tenant.rpm is None else min(needed.requests, tenant.rpm)
    tokens = 0.0 if tenant.tpm is None else min(needed.tokens, float(tenant.tpm))
    usd = Decimal(0) if tenant.usd_per_day is None else needed.usd
    return Need(requests, tokens, usd)


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
