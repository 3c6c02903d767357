"""What an account may be asked for: one owner, who leases it in blocks to all that call it.

A *holder* is a dispatcher's line: it asks for what its next calls need and gets it when it has
flowed, in the order of asking. Grants are used at once or lost, so a holder that dies takes nothing
with it but its last block. An owner lives where its only holder does, or in an actor of its own
between many (`moa.cluster.quotas`); it is the same code.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol

from moa.catalog import Limits
from moa.dispatch.pace import Clock, Rate, Refusals, Window, is_of_a_day
from moa.dispatch.proof import Proof
from moa.dispatch.slots import Slots
from moa.providers.faults import LONG_WAIT_S
from moa.providers.provider import VendorLimits

Measure = Literal["requests", "input_tokens", "output_tokens", "tokens"]
LIMIT_OF: dict[Measure, str] = {
    "requests": "rpm",
    "input_tokens": "input_tpm",
    "output_tokens": "output_tpm",
    "tokens": "tpm",
}
"""Each with its limit in the catalog."""
BLOCK_S = 0.1
"""Time in which a block flows: so long others wait behind it."""
DAY_S = 86_400.0 + 60
DAY_SLOT_S = 60.0
MOST_RESERVED = 0.9
HOLDER_LIVES_S = 30.0
"""Without an ask: then it is dead, or needs nothing."""
OVERTAKEN_S = 180.0
"""So long interactive asks go before one that has begun to flow. One of nearly a minute's tokens
waits for a minute in which nobody else calls, which would else never come.
"""
TURN_S = 60.0
"""How long a holder goes without calls at once where there are fewer than holders."""


class Amount(NamedTuple):
    """What calls need, or have used."""

    requests: float = 0.0
    input_tokens: float = 0.0
    output_tokens: float = 0.0

    def of(self, measure: Measure) -> float:
        """As one limit counts it."""
        if measure == "tokens":
            return self.input_tokens + self.output_tokens
        return float(getattr(self, measure))

    def plus(self, other: Amount, times: float = 1.0) -> Amount:
        """Both together."""
        return Amount(
            self.requests + times * other.requests,
            self.input_tokens + times * other.input_tokens,
            self.output_tokens + times * other.output_tokens,
        )


NOTHING = Amount()
UNLIMITED = Limits()


class Correction(NamedTuple):
    """Calls of a while ago have used so much more than was granted, or less."""

    age_s: float
    amount: Amount


@dataclass(frozen=True, slots=True)
class Ask:
    """What a holder wants, with what it has learnt since it last asked."""

    holder: str
    model: str
    """The vendor's name of it."""
    amount: Amount = NOTHING
    """Nothing: only to be told the share of the calls at once."""
    limits: Limits = UNLIMITED
    """By the holder's catalog."""
    interactive: bool = False
    """Somebody waits for the answer: goes before all others."""
    reserve: float = 0.0
    """Share that only interactive calls may use, as long as this holder lives."""
    corrections: tuple[Correction, ...] = ()
    heard: VendorLimits | None = None
    """From the latest answer's headers."""
    refusals: int = 0
    """429s since the last ask."""
    proven: bool = False
    """The account has let a call of this holder's process through."""
    in_flight: int = 0
    """Calls that it has out, or may begin before it hears of this ask's grant."""
    at_work: bool = True
    """Has calls out, or waiting."""


class Grant(NamedTuple):
    """What a holder gets."""

    most_in_flight: int | None
    """Its share of the calls at once; `None` is without a limit."""
    block: Amount | None = None
    """What to ask for next time at most, to keep all limits busy; `None` is any amount."""
    spent_s: float = 0.0
    """Above 0: nothing is granted, the day's quota is used up for so long."""
    refused: str = ""
    """Nothing is granted, ever: what the account said to somebody else's first call."""
    proven: bool = False
    """The account has let somebody's call through."""


class Owner(Protocol):
    """An account's owner, here or elsewhere."""

    async def lease(self, ask: Ask) -> Grant:
        """Wait until what is asked for may be used; then use it at once."""
        ...

    def prove(self) -> None:
        """The account has let a call through."""
        ...

    def refuse(self, detail: str) -> None:
        """The account has refused its first call."""
        ...

    def hand_over(self, process: str) -> None:
        """This process made no first call after all, or one that said nothing of the key."""
        ...

    def pause(self, model: str, seconds: float) -> None:
        """The vendor wants nothing for so long."""
        ...


@dataclass(slots=True, eq=False)
class _Waiting:
    ask: Ask
    granted: asyncio.Future[float] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )
    """With `Grant.spent_s`."""


class Quota:
    """One model's limits. One ask flows at a time, interactive ones first."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._rates: dict[Measure, Rate] = {measure: Rate(clock) for measure in LIMIT_OF}
        self._day = Window(DAY_S, DAY_SLOT_S)
        self._refusals = Refusals(clock)
        self._slots = Slots()
        self._asks: dict[str, tuple[Ask, float]] = {}
        """Each holder's latest, and when it came."""
        self._urgent: deque[_Waiting] = deque()
        self._others: deque[_Waiting] = deque()
        self._news = asyncio.Event()
        """Who waits for time to pass should look again."""
        self._pump: asyncio.Task[None] | None = None
        self._resume_at = 0.0

    async def lease(self, ask: Ask) -> Grant:
        """See `Owner.lease`."""
        self._note(ask)
        spent_s = 0.0
        if ask.amount != NOTHING:
            waiting = _Waiting(ask)
            (self._urgent if ask.interactive else self._others).append(waiting)
            if self._pump is None or self._pump.done():
                self._pump = asyncio.get_running_loop().create_task(self._serve())
            if ask.interactive:
                self._news.set()
            try:
                spent_s = await waiting.granted
            except asyncio.CancelledError:
                self._news.set()  # makes way
                raise
        return self._grant(ask)._replace(spent_s=spent_s)

    def pause(self, seconds: float) -> None:
        """Let nothing through for so long from now; never shortens an earlier pause."""
        self._resume_at = max(self._resume_at, self._clock() + min(seconds, DAY_S))
        self._news.set()

    def _note(self, ask: Ask) -> None:
        now = self._clock()
        self._asks[ask.holder] = ask, now
        alive = {name: x for name, x in self._asks.items() if now - x[1] < HOLDER_LIVES_S}
        self._asks = {name: x for name, x in alive.items() if x[0].at_work}
        for age_s, amount in ask.corrections:
            if amount.requests:
                self._day.add(amount.requests, now - age_s)
            for measure, rate in self._rates.items():
                if more := amount.of(measure):
                    rate.correct(more, age_s, interactive=ask.interactive)
        lost = self._refusals.count(ask.refusals)
        for measure, rate in self._rates.items():
            said = (getattr(one.limits, LIMIT_OF[measure]) for one, _ in alive.values())
            rate.configure(min((x for x in said if x is not None), default=None))
            level = None if ask.heard is None else getattr(ask.heard, measure)
            if level is not None and not (measure == "requests" and is_of_a_day(level)):
                rate.hear(level)
            if lost:
                rate.lower(lost)

    def _grant(self, ask: Ask) -> Grant:
        limits = (one.limits.max_in_flight for one in self._all_with(ask))
        most = min((x for x in limits if x is not None), default=None)
        if most is None:
            return Grant(None, self._block())
        share = self._slots.share(ask.holder, ask.in_flight, self._in_turn(), most)
        return Grant(share, self._block())

    def _all_with(self, ask: Ask) -> list[Ask]:
        """What is known of all holders, and of one that may have nothing left to do."""
        return [ask, *(one for one, _ in self._asks.values())]

    def _in_turn(self) -> list[str]:
        """Holders as calls at once go to them where there are too few: interactive ones first, the
        others by turns.
        """
        urgent = [name for name, (one, _) in self._asks.items() if one.interactive]
        others = [name for name, (one, _) in self._asks.items() if not one.interactive]
        turn = int(self._clock() / TURN_S) % max(1, len(others))
        return urgent + others[turn:] + others[:turn]

    def _block(self) -> Amount | None:
        """What flows in the time of one."""
        known = {m: rate.per_minute for m, rate in self._rates.items() if rate.per_minute}
        if not known:
            return None
        both = known.get("tokens", math.inf)
        return Amount(
            known.get("requests", math.inf) * BLOCK_S / 60,
            min(both, known.get("input_tokens", math.inf)) * BLOCK_S / 60,
            min(both, known.get("output_tokens", math.inf)) * BLOCK_S / 60,
        )

    def _spent_s(self, ask: Ask) -> float:
        """How long the day's quota stays used up for this; 0 when it is not."""
        now, requests = self._clock(), ask.amount.requests
        said = (one.limits.rpd for one in self._all_with(ask))
        rpd = min((x for x in said if x is not None), default=math.inf)
        counted_s = DAY_S if requests > max(1.0, rpd) else self._day.wait_s(requests, rpd, now)
        told_s = self._resume_at - now
        return max(counted_s, told_s if told_s > LONG_WAIT_S else 0.0)

    async def _serve(self) -> None:
        while self._urgent or self._others:
            await self._settle((self._urgent or self._others).popleft())

    async def _settle(self, waiting: _Waiting) -> None:
        """Answer one ask when it has flowed; interactive ones that come meanwhile go before."""
        try:
            spent_s = await self._flow(waiting)
        except Exception as error:  # a bug: whoever waits shall not wait for ever
            if not waiting.granted.done():
                waiting.granted.set_exception(error)
        else:
            if not waiting.granted.done():
                waiting.granted.set_result(spent_s)

    async def _flow(self, waiting: _Waiting) -> float:
        """Until what is asked for is used, or will not be: see `Grant.spent_s`."""
        ask, flowed, spent_s = waiting.ask, 0.0, 0.0
        overtaken_until = self._clock() + (0.0 if ask.interactive else OVERTAKEN_S)
        while not waiting.granted.done():  # else its holder has given up waiting
            if (spent_s := self._spent_s(ask)) > 0:
                break
            if flowed < 1:
                flowed += await self._flow_part(ask, 1 - flowed)
            elif (wait_s := self._wait_s(ask)) > 0:
                await self._pass_time(wait_s)
            else:
                self._use(ask)
                return 0.0
            while self._urgent and self._clock() < overtaken_until:
                await self._settle(self._urgent.popleft())
        for measure, rate in self._rates.items():
            rate.owe(-flowed * ask.amount.of(measure), interactive=ask.interactive)
        return spent_s

    async def _flow_part(self, ask: Ask, most: float) -> float:
        """A share of an ask, at most what flows in the time of a block: then others may pass."""
        reserved, part = self._reserved(ask), most
        amounts = [(rate, x) for m, rate in self._rates.items() if (x := ask.amount.of(m)) > 0]
        for rate, amount in amounts:
            if rate.per_minute is not None:
                part = min(part, rate.per_minute * (1 - reserved) * BLOCK_S / 60 / amount)
        for rate, amount in amounts:
            await rate.flow(part * amount, of=amount, reserved=reserved)
        return part

    def _use(self, ask: Ask) -> None:
        for measure, rate in self._rates.items():
            rate.use(ask.amount.of(measure))
        self._day.add(ask.amount.requests, self._clock())
        self._refusals.grant(ask.amount.requests)

    async def _pass_time(self, seconds: float) -> None:
        """Until then, or until there is news."""
        self._news.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._news.wait()

    def _wait_s(self, ask: Ask) -> float:
        """Of a pause, or until what is asked for fits into the last minute."""
        waits = (rate.wait_s(ask.amount.of(m)) for m, rate in self._rates.items())
        return max(self._resume_at - self._clock(), *waits)

    def _reserved(self, ask: Ask) -> float:
        if ask.interactive:
            return 0.0
        kept = (one.reserve for one, _ in self._asks.values() if one.interactive)
        return min(MOST_RESERVED, max(kept, default=0.0))


class QuotaOwner:
    """One account's limits, model by model."""

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._quotas: dict[str, Quota] = {}
        self._proof = Proof(clock)

    async def lease(self, ask: Ask) -> Grant:
        """See `Owner.lease`."""
        if ask.proven:  # an owner that was started again does not know
            self.prove()
        if ask.amount != NOTHING:
            process = ask.holder.partition("/")[0]
            if refused := await self._proof.wait(process):
                return Grant(None, refused=refused)
        grant = await self._quota(ask.model).lease(ask)
        return grant._replace(proven=self._proof.proven)

    def prove(self) -> None:
        """See `Owner.prove`."""
        self._proof.prove()

    def refuse(self, detail: str) -> None:
        """See `Owner.refuse`."""
        self._proof.refuse(detail)

    def hand_over(self, process: str) -> None:
        """See `Owner.hand_over`."""
        self._proof.hand_over(process)

    def pause(self, model: str, seconds: float) -> None:
        """See `Owner.pause`."""
        self._quota(model).pause(seconds)

    def _quota(self, model: str) -> Quota:
        if model not in self._quotas:
            self._quotas[model] = Quota(self._clock)
        return self._quotas[model]
