"""A line's side of its quota: blocks are leased, and what was really used is told."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import islice

from moa.catalog import Limits
from moa.dispatch.pace import SLOT_S
from moa.dispatch.quota import BLOCK_S, NOTHING, Amount, Ask, Correction, Grant, Owner
from moa.errors import KeyRefused, QuotaSpent
from moa.providers.provider import VendorLimits

CREDIT_S = 1.0
"""How long a block is good for: credits that are saved up would be a burst."""
MOST_CALLS = 256
"""Of a block."""
ROUNDING = 1e-6
RENEW_S = 1.0
"""How often a share of the calls at once is asked for while it matters."""


class Lease:
    """What one line has been granted.

    Args:
        owner: of the account.
        model: the vendor's name of it.
        limits: of the catalog.
        holder: who asks, as `PROCESS/LINE`; no other line has this name.
        clock: seconds.
        interactive: see `Ask`.
        reserve: see `Ask`.
    """

    def __init__(
        self,
        owner: Owner,
        model: str,
        limits: Limits,
        holder: str,
        clock: Callable[[], float],
        *,
        interactive: bool = False,
        reserve: float = 0.0,
    ) -> None:
        self._owner = owner
        self._clock = clock
        self._template = Ask(holder, model, limits=limits, interactive=interactive, reserve=reserve)
        self._credit = NOTHING
        self._credit_at = 0.0
        self._block: Amount | None = None
        self._calls = 1
        """Of the next block: as many as were sent in the time of one."""
        self._corrections: dict[int, tuple[float, Amount]] = {}
        """By the slot in which the calls were sent, with the time of the first."""
        self._heard: Callable[[], VendorLimits] | None = None
        self._refusals = 0
        self.proven = False
        """Whether the account has let a call through, of this process or another."""
        self.most_in_flight: int | None = None if limits.max_in_flight is None else 0
        """The line's share of the calls at once; `None` is without a limit."""

    async def take(self, needed: Amount, coming: Iterable[Amount], in_flight: int) -> None:
        """Wait until a call may be sent, as far as limits go; then send it at once.

        Args:
            needed: by the call.
            coming: what the calls behind it will need.
            in_flight: calls that are out.

        Raises:
            QuotaSpent: the day's quota is used up.
            KeyRefused: the account has refused somebody else's first call.
        """
        self._drop_old_credit()
        while not _covers(self._credit, needed):
            amount = self._next_block(needed, coming)
            grant = await self._ask(amount, in_flight)
            if grant.spent_s > 0 and amount.requests > needed.requests:
                coming, self._calls = (), 1  # the day's quota may still cover one call
                continue
            if grant.spent_s > 0:
                raise QuotaSpent("the day's requests are used up", retry_after_s=grant.spent_s)
            self._credit = self._credit.plus(amount)
            self._credit_at = self._clock()
        self._credit = self._credit.plus(needed, -1)

    def capped(self, amount: Amount) -> Amount:
        """No more than a minute has: what is larger can only be tried when all of it has flowed."""
        share = min(1.0, self._minutes_share(amount))
        return amount._replace(
            input_tokens=share * amount.input_tokens, output_tokens=share * amount.output_tokens
        )

    def never_fits(self, amount: Amount) -> bool:
        """It takes all the tokens that a minute has: a vendor may refuse it whenever it comes."""
        return self._minutes_share(amount) <= 1 + ROUNDING

    def _minutes_share(self, amount: Amount) -> float:
        """How often the tokens fit into a minute's limits, as far as these are known."""
        limits = self._template.limits
        tokens = amount.input_tokens + amount.output_tokens
        known = [
            (limits.tpm, tokens),
            (limits.input_tpm, amount.input_tokens),
            (limits.output_tpm, amount.output_tokens),
        ]
        if self._block is not None:
            a_minute = 60 / BLOCK_S
            known.append((self._block.input_tokens * a_minute, amount.input_tokens))
            known.append((self._block.output_tokens * a_minute, amount.output_tokens))
        shares = (limit / used for limit, used in known if limit is not None and used > 0)
        return min(shares, default=math.inf)

    def give_back(self, amount: Amount) -> None:
        """What was taken is not needed: the next call may have it."""
        self._credit = self._credit.plus(amount)

    def used(self, sent_at: float, taken: Amount, used: Amount) -> None:
        """A call that was sent then has used other amounts than were taken for it."""
        slot = int(sent_at / SLOT_S)
        first_at, so_far = self._corrections.get(slot, (sent_at, NOTHING))
        self._corrections[slot] = first_at, so_far.plus(used).plus(taken, -1)

    def hear(self, limits: Callable[[], VendorLimits]) -> None:
        """What the latest answer says is left; read when it is told to the owner."""
        self._heard = limits

    def refused(self, pause_s: float) -> None:
        """A 429: nothing goes out for so long, from any holder."""
        self._refusals += 1
        self._owner.pause(self._template.model, pause_s)

    async def renew(self, in_flight: int, *, at_work: bool) -> None:
        """Be told the share of the calls at once."""
        await self._ask(NOTHING, in_flight, at_work=at_work)

    async def _ask(self, amount: Amount, in_flight: int, *, at_work: bool = True) -> Grant:
        now = self._clock()
        corrections = tuple(Correction(now - at, x) for at, x in self._corrections.values())
        self._corrections.clear()
        ask = replace(
            self._template,
            amount=amount,
            corrections=corrections,
            heard=None if self._heard is None else self._heard(),
            refusals=self._refusals,
            proven=self.proven,
            in_flight=max(in_flight, self.most_in_flight or 0),
            at_work=at_work,
        )
        self._heard, self._refusals = None, 0
        grant = await self._owner.lease(ask)
        if grant.refused:
            raise KeyRefused(grant.refused)
        self._block, self.most_in_flight = grant.block, grant.most_in_flight
        self.proven = grant.proven
        return grant

    def _next_block(self, needed: Amount, coming: Iterable[Amount]) -> Amount:
        """What the next calls need, the first one at least, without what is in hand."""
        in_a_block_s = self._clock() - self._credit_at
        if in_a_block_s < BLOCK_S:
            self._calls = min(MOST_CALLS, 2 * self._calls)
        elif in_a_block_s > 2 * BLOCK_S:
            self._calls = max(1, self._calls // 2)
        block = needed
        for amount in islice(coming, self._calls - 1):
            longer = block.plus(amount)
            if self._block is not None and not _covers(self._block, longer):
                break
            block = longer
        return Amount(*(max(0.0, b - c) for b, c in zip(block, self._credit, strict=True)))

    def _drop_old_credit(self) -> None:
        """Not used, so the owner counts it no more."""
        if self._credit != NOTHING and self._clock() - self._credit_at > CREDIT_S:
            self.used(self._credit_at, self._credit, NOTHING)
            self._credit = NOTHING


def _covers(credit: Amount, needed: Amount) -> bool:
    return (
        credit.requests >= needed.requests - ROUNDING
        and credit.input_tokens >= needed.input_tokens - ROUNDING
        and credit.output_tokens >= needed.output_tokens - ROUNDING
    )
