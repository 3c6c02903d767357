"""How fast, and how much in any minute: what a limit comes down to."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable

from aiolimiter import AsyncLimiter

from moa.providers.faults import LONG_WAIT_S
from moa.providers.provider import VendorLevel

BURST_S = 0.1
"""A limiter starts full; a tenth of a second's quota is what it may let through at once."""
MINUTE_S = 60.6
"""A minute as it is counted here. Calls that leave evenly do not arrive so: those of one minute may
reach the vendor in a little less."""
SLOT_S = 0.1
SAVED_CALLS = 2.0
SAVED_S = 3.0
"""Where calls are large and several limits bind in turn, each would else idle while another is
waited for: calls of a second each, below three limits, used 57 % of the tightest.
"""
WORRIED_BELOW = 0.25
"""Share of the vendor's bucket below which others are using it too: the rate falls with it."""
LEAST_FACTOR = 0.05
FACTOR_STEPS = 32
RISE_PER_S = 1 / 60
"""Of the factor: what was lowered is whole again after a minute."""
REFUSALS_APART_S = 5.0
MOST_LOST = 0.5

Clock = Callable[[], float]


class Pace:
    """So many units a minute, without a burst at the start, for amounts of any size.

    What flows while another limit is waited for is not lost: the limiter holds a tenth of a
    second's quota, or `SAVED_CALLS` of the largest calls so far, but no more than `SAVED_S`.
    """

    def __init__(self, per_minute: float) -> None:
        self._per_minute = per_minute
        self._limiter = _limiter(per_minute)
        self._owed = 0.0
        self._full_at = _loop_time()
        """Since then it flows for nobody; `inf` while somebody takes."""

    async def set(self, per_minute: float) -> None:
        """Flow at another rate from now on, without another burst."""
        if per_minute != self._per_minute:
            self._pay_idly()
            self._per_minute = per_minute
            self._limiter = _limiter(per_minute)
            await self._limiter.acquire(self._limiter.max_rate)

    async def take(self, amount: float, *, of: float) -> None:
        """Wait until so many units have flowed, a part `of` what somebody asks for.

        aiolimiter raises where an amount exceeds its bucket, so a large amount goes in slices.
        There is one taker at a time, so none is overtaken.
        """
        await self._deepen(SAVED_CALLS * of)
        self._pay_idly()
        self._owed += amount
        self._full_at = math.inf
        while self._owed > 0:
            part = min(self._owed, self._limiter.max_rate)
            await self._limiter.acquire(part)
            self._owed -= part
        self._full_at = _loop_time() + self._limiter.max_rate * 60 / self._per_minute

    def owe(self, amount: float) -> None:
        """So much more than was taken has been used, or less where it is negative; the next takers
        wait as much longer or shorter. What is saved up is at most a second's worth, or as much as
        the limiter holds.
        """
        self._pay_idly()
        self._owed = max(self._owed + amount, -max(self._per_minute / 60, self._limiter.max_rate))

    async def _deepen(self, depth: float) -> None:
        """Hold more, which has still to flow."""
        more = min(depth, self._per_minute / 60 * SAVED_S) - self._limiter.max_rate
        if more > 0:
            self._limiter.max_rate += more
            await self._limiter.acquire(more)

    def _pay_idly(self) -> None:
        """What flows for nobody pays what is owed: after an idle hour nobody waits for a debt."""
        if (idle_s := _loop_time() - self._full_at) > 0:
            if self._owed > 0:
                self._owed = max(0.0, self._owed - idle_s * self._per_minute / 60)
            self._full_at += idle_s


def _limiter(per_minute: float) -> AsyncLimiter:
    most = max(1.0, per_minute / 60 * BURST_S)
    return AsyncLimiter(most, most * 60 / per_minute)


def _loop_time() -> float:
    """The limiter's clock."""
    return asyncio.get_running_loop().time()


class Window:
    """What was used in the last so many seconds, whenever one looks."""

    def __init__(self, length_s: float, slot_s: float) -> None:
        self._length_s = length_s
        self._slot_s = slot_s
        self._used: dict[int, float] = {}
        """By slot, in order of time."""
        self._total = 0.0

    def add(self, amount: float, at_s: float) -> None:
        """So much was used then, or, negative, was not used after all."""
        slot = int(at_s / self._slot_s)
        if slot not in self._used:
            newest = next(reversed(self._used), slot)
            if slot < newest:  # a call leaves a little later than it is counted
                slot = next((used for used in reversed(self._used) if used <= slot), -1)
                if slot < 0:  # so long ago that it counts no more
                    return
            else:
                self._forget(at_s)
        self._used[slot] = self._used.get(slot, 0.0) + amount
        self._total += amount

    def wait_s(self, amount: float, limit: float, now_s: float) -> float:
        """Seconds until so much more fits below a limit; more than the limit needs all of it."""
        self._forget(now_s)
        excess = self._total + min(amount, limit) - limit
        if excess <= 1e-6:
            return 0.0
        for slot, used in self._used.items():
            excess -= used
            if excess <= 1e-6:
                return (slot + 1) * self._slot_s - (now_s - self._length_s)
        return self._length_s

    def _forget(self, now_s: float) -> None:
        """Drop the slots that are over as a whole."""
        last_gone = (now_s - self._length_s) / self._slot_s - 1
        while self._used and (first := next(iter(self._used))) <= last_gone:
            self._total -= self._used.pop(first)
        if not self._used:
            self._total = 0.0


class Refusals:
    """429s beside what was granted: judged every few seconds, since those that come close together
    were on their way when the first came back.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._judged_at = clock()
        self._granted = self._refused = 0.0

    def grant(self, requests: float) -> None:
        """So many requests may go out."""
        self._granted += requests

    def count(self, refused: int) -> float:
        """So many more were refused; the share that rates should lose for it."""
        self._refused += refused
        now = self._clock()
        if not refused or now - self._judged_at < REFUSALS_APART_S:
            return 0.0
        share = min(MOST_LOST, self._refused / max(1.0, self._granted, self._refused))
        self._judged_at, self._granted, self._refused = now, 0.0, 0.0
        return share


class Rate:
    """One measure of one model: what the catalog allows a minute, what the vendor says of it, and
    what has been used.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._window = Window(MINUTE_S, SLOT_S)
        self._configured: float | None = None
        self._vendors: float | None = None
        self._factor = 1.0
        self._factor_at = clock()
        self._pace: Pace | None = None
        self._rest: Pace | None = None
        """What calls may use that are not interactive, while some share is reserved."""

    @property
    def per_minute(self) -> float | None:
        """What may be used now; `None` where nobody knows a limit."""
        limit = self._limit
        return None if limit is None else limit * _in_steps(self._factor_now())

    @property
    def _limit(self) -> float | None:
        known = [x for x in (self._configured, self._vendors) if x is not None]
        return min(known, default=None)

    def configure(self, per_minute: float | None) -> None:
        """What the catalog says; the least of it where holders' catalogs differ."""
        self._configured = per_minute

    def hear(self, level: VendorLevel) -> None:
        """What the vendor says of its own bucket.

        It drains only when others use the key, since nobody here takes more than flows in. Its
        fullness is the greater of two figures: what remains of the limit, and, for buckets that
        are shallower than a minute, how little of a minute it takes to fill it.
        """
        if level.limit is not None and level.limit > 0:
            self._vendors = level.limit
        limit = self._limit
        if level.remaining is None or limit is None:
            return
        fullness = level.remaining / (self._vendors or limit)
        if level.reset_s is not None:
            fullness = max(fullness, 1 - level.reset_s / 60)
        self._lower_to(fullness / WORRIED_BELOW)

    def lower(self, share: float) -> None:
        """A share of what was granted came back as 429s, although no known limit was exceeded."""
        self._lower_to(self._factor_now() * (1 - share))

    def wait_s(self, amount: float) -> float:
        """Seconds until so much fits into the last minute; 0 when it does now."""
        limit = self._limit
        return 0.0 if limit is None else self._window.wait_s(amount, limit, self._clock())

    def use(self, amount: float) -> None:
        """It is used now."""
        self._window.add(amount, self._clock())

    def correct(self, amount: float, age_s: float, *, interactive: bool) -> None:
        """What was used so long ago was so much more, or less, than was said."""
        self._window.add(amount, self._clock() - age_s)
        self.owe(amount, interactive=interactive)

    def owe(self, amount: float, *, interactive: bool) -> None:
        """So much more, or less, has yet to flow."""
        for pace in (self._pace, None if interactive else self._rest):
            if pace is not None:
                pace.owe(amount)

    async def flow(self, amount: float, *, of: float, reserved: float) -> None:
        """Wait until so much has flowed, a part `of` what is asked for; a share of all may be
        reserved for others.
        """
        if (per_minute := self.per_minute) is None:
            return
        if reserved:
            self._rest = await _paced(self._rest, per_minute * (1 - reserved))
            await self._rest.take(amount, of=of)
        self._pace = await _paced(self._pace, per_minute)
        await self._pace.take(amount, of=of)

    def _factor_now(self) -> float:
        risen = (self._clock() - self._factor_at) * RISE_PER_S
        return min(1.0, self._factor + risen)

    def _lower_to(self, factor: float) -> None:
        self._factor = max(LEAST_FACTOR, min(factor, self._factor_now()))
        self._factor_at = self._clock()


def is_of_a_day(level: VendorLevel) -> bool:
    """Whether a level of requests is a day's: some vendors show that one, and say so nowhere. What
    is missing comes back evenly, so it tells how long all of it takes.
    """
    limit, remaining, reset_s = level
    if limit is None or remaining is None or reset_s is None or remaining >= limit:
        return False
    return limit * reset_s / (limit - remaining) > LONG_WAIT_S


def _in_steps(factor: float) -> float:
    """Rounded down: a pace that changes begins with an empty bucket, so it should change seldom."""
    return max(LEAST_FACTOR, math.floor(factor * FACTOR_STEPS) / FACTOR_STEPS)


async def _paced(pace: Pace | None, per_minute: float) -> Pace:
    if pace is None:
        return Pace(per_minute)
    await pace.set(per_minute)
    return pace
