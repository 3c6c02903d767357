"""Holders that lease from an owner in virtual time, and a vendor that counts what they send."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from random import Random
from typing import Any, NamedTuple

from moa.catalog import Limits
from moa.dispatch.lease import Lease
from moa.dispatch.quota import LIMIT_OF, Amount, Ask, Grant, Measure, Owner, QuotaOwner
from tests.dispatch.virtual_time import now_s

Sizes = Callable[[Random], Amount]
COMING = 64


class Sent(NamedTuple):
    """One call."""

    at_s: float
    holder: str
    expected: Amount
    used: Amount


def limits_of(limits: Limits) -> dict[Measure, float]:
    """Those that hold in any minute."""
    said: dict[Measure, float | None] = {m: getattr(limits, name) for m, name in LIMIT_OF.items()}
    return {measure: limit for measure, limit in said.items() if limit is not None}


@dataclass
class Night:
    """What all of them share."""

    limits: Limits
    random: Random
    noise: float = 0.0
    """Calls use up to so much more or less than expected, as a share."""
    latency_s: float = 10.0
    owner: Owner = field(default_factory=lambda: proven_owner())
    sent: list[Sent] = field(default_factory=list)

    def lease(self, holder: str, *, interactive: bool = False, reserve: float = 0.0) -> Lease:
        return Lease(
            self.owner, "model", self.limits, f"{holder}/line", now_s,
            interactive=interactive, reserve=reserve,
        )  # fmt: skip

    async def hold(self, holder: str, sizes: Sizes, *, thinks_s: float = 0.0) -> None:
        """Call without end, each call after up to so many seconds in which nothing is wanted."""
        lease = self.lease(holder)
        coming = [sizes(self.random) for _ in range(COMING)]
        while True:
            await asyncio.sleep(self.random.uniform(0, thinks_s))
            coming.append(sizes(self.random))
            expected = coming.pop(0)
            await lease.take(expected, coming, 0)
            self.send(holder, lease, expected)

    def send(self, holder: str, lease: Lease, expected: Amount) -> None:
        """A call leaves, and its usage is told when it is answered."""
        factor = 1 + self.random.uniform(-self.noise, self.noise)
        used = Amount(1.0, expected.input_tokens * factor, expected.output_tokens * factor)
        at_s = now_s()
        self.sent.append(Sent(at_s, holder, expected, used))
        after_s = self.latency_s * self.random.uniform(0.5, 1.5)
        asyncio.get_running_loop().call_later(after_s, lease.used, at_s, expected, used)

    def share_used(self, since_s: float) -> float:
        """Of the limit that was used the most, from then until now."""
        minutes = (now_s() - since_s) / 60
        calls = [one.used for one in self.sent if one.at_s >= since_s]
        return max(
            sum(used.of(measure) for used in calls) / (limit * minutes)
            for measure, limit in limits_of(self.limits).items()
        )

    def most_in_a_minute(self) -> float:
        """Of all limits, in any 60 s, as a share. A call that is larger than a limit by itself
        counts as all of it while nothing else is in its minute.
        """
        return max(
            _most_in_a_minute([(one.at_s, one.used.of(m)) for one in self.sent], limit)
            for m, limit in limits_of(self.limits).items()
        )


def _most_in_a_minute(used: list[tuple[float, float]], limit: float) -> float:
    most = total = 0.0
    first = 0
    for place, (at_s, amount) in enumerate(used):
        total += amount
        while used[first][0] <= at_s - 60:
            total -= used[first][1]
            first += 1
        alone = first == place
        most = max(most, 1.0 if alone and amount > limit else total / limit)
    return most


@asynccontextmanager
async def at_work(*work: Coroutine[Any, Any, Any]) -> AsyncIterator[None]:
    """While these go on, which never end by themselves."""
    tasks = [asyncio.create_task(one) for one in work]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        ends = await asyncio.gather(*tasks, return_exceptions=True)
    for end in ends:
        if isinstance(end, Exception):
            raise end


def proven_owner() -> QuotaOwner:
    """Of an account whose key is known to be good."""
    owner = QuotaOwner(now_s)
    owner.prove()
    return owner


class FarOwner:
    """An owner in another process: asks and grants take their time, and their order may change."""

    def __init__(self, owner: Owner, random: Random, delay_s: float) -> None:
        self._owner = owner
        self._random = random
        self._delay_s = delay_s

    async def lease(self, ask: Ask) -> Grant:
        await asyncio.sleep(self._random.uniform(0, self._delay_s))
        # Who gives up waiting does not tell the other process.
        grant = await asyncio.shield(asyncio.ensure_future(self._owner.lease(ask)))
        await asyncio.sleep(self._random.uniform(0, self._delay_s))
        return grant

    def prove(self) -> None:
        self._owner.prove()

    def refuse(self, detail: str) -> None:
        self._owner.refuse(detail)

    def hand_over(self, process: str) -> None:
        self._owner.hand_over(process)

    def pause(self, model: str, seconds: float) -> None:
        self._owner.pause(model, seconds)
