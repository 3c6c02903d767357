"""A line's side of a quota, against an owner that grants what the test says."""

from __future__ import annotations

import asyncio
from random import Random

import pytest

from moa.catalog import Limits
from moa.dispatch.lease import CREDIT_S, MOST_CALLS, Lease
from moa.dispatch.quota import NOTHING, Amount, Ask, Grant
from moa.errors import KeyRefused, QuotaSpent
from moa.providers.provider import VendorLimits
from tests.conftest import FakeClock
from tests.dispatch.night import FarOwner, proven_owner
from tests.dispatch.virtual_time import Passing, now_s, virtually

CALL = Amount(1.0, 100, 20)
HUNDREDS = [CALL] * 1000


class Owner:
    """Keeps what it is asked and told."""

    def __init__(self, *grants: Grant) -> None:
        self.asks: list[Ask] = []
        self.paused: list[tuple[str, float]] = []
        self._grants = list(grants)

    async def lease(self, ask: Ask) -> Grant:
        self.asks.append(ask)
        return self._grants.pop(0) if self._grants else Grant(None)

    def prove(self) -> None: ...

    def refuse(self, detail: str) -> None: ...

    def hand_over(self, process: str) -> None: ...

    def pause(self, model: str, seconds: float) -> None:
        self.paused.append((model, seconds))


def lease_of(owner: Owner, clock: FakeClock, limits: Limits | None = None) -> Lease:
    return Lease(owner, "model", limits or Limits(), "process/line", clock)


def test_a_call_larger_than_a_minute_takes_a_minute_and_never_fits(clock: FakeClock) -> None:
    lease = lease_of(Owner(), clock, Limits(tpm=30_000, output_tpm=20_000))
    small, large = Amount(1.0, 10_000, 19_000), Amount(1.0, 50_000, 10_000)

    assert lease.capped(small) == small
    assert not lease.never_fits(small)
    assert lease.capped(large) == Amount(1.0, 25_000, 5_000)
    assert lease.never_fits(lease.capped(large))


async def test_what_another_finds_out_of_the_account_is_known_here(clock: FakeClock) -> None:
    lease = lease_of(Owner(Grant(None, proven=True)), clock)

    await lease.take(CALL, (), 0)

    assert lease.proven


async def test_one_call_is_asked_for_at_first(clock: FakeClock) -> None:
    owner = Owner()

    await lease_of(owner, clock).take(CALL, HUNDREDS, 0)

    assert [one.amount for one in owner.asks] == [CALL]


async def test_blocks_grow_while_calls_are_sent_quickly_and_shrink_when_they_are_not(
    clock: FakeClock,
) -> None:
    owner = Owner()
    lease = lease_of(owner, clock)

    for _ in range(1000):
        await lease.take(CALL, HUNDREDS, 0)
    grown = [one.amount.requests for one in owner.asks]
    for _ in range(300):
        clock.advance(0.5)
        await lease.take(CALL, HUNDREDS, 0)
    sizes = [one.amount.requests for one in owner.asks]

    assert grown == [1, 2, 4, 8, 16, 32, 64, 128, 256, 256, 256]
    assert sizes[len(grown) :][:3] == [128, 64, 32]
    assert sizes[-1] == 1
    assert max(sizes) == MOST_CALLS


async def test_a_block_is_no_larger_than_the_owner_wants_it(clock: FakeClock) -> None:
    block = Amount(5.5, 350, 1e9)
    owner = Owner(*[Grant(None, block)] * 100)
    lease = lease_of(owner, clock)

    for _ in range(30):
        await lease.take(CALL, HUNDREDS, 0)

    assert max(one.amount.requests for one in owner.asks) == 3


async def test_a_call_larger_than_a_block_is_asked_for_whole(clock: FakeClock) -> None:
    owner = Owner(*[Grant(None, Amount(0.1, 10, 10))] * 100)
    lease = lease_of(owner, clock)

    for _ in range(5):
        await lease.take(CALL, HUNDREDS, 0)

    assert [one.amount for one in owner.asks] == [CALL] * 5


async def test_what_is_in_hand_is_not_asked_for_again(clock: FakeClock) -> None:
    owner = Owner()
    lease = lease_of(owner, clock)
    await lease.take(CALL, (), 0)

    lease.give_back(CALL)
    await lease.take(CALL, (), 0)
    lease.give_back(CALL)
    await lease.take(Amount(1.0, 150, 10), (), 0)

    assert [one.amount for one in owner.asks] == [CALL, Amount(0.0, 50.0, 0.0)]


async def test_credit_that_is_not_used_in_time_is_given_back(clock: FakeClock) -> None:
    owner = Owner()
    lease = lease_of(owner, clock)
    await lease.take(CALL, (), 0)
    lease.give_back(CALL)

    clock.advance(CREDIT_S + 0.5)
    await lease.take(CALL, (), 0)

    ((age_s, amount),) = owner.asks[1].corrections
    assert owner.asks[1].amount == CALL
    assert amount == Amount(-1.0, -100, -20)
    assert age_s == pytest.approx(CREDIT_S + 0.5)


async def test_usage_is_told_once_with_the_age_of_its_calls(clock: FakeClock) -> None:
    owner = Owner()
    lease = lease_of(owner, clock)
    clock.advance(0.37)

    lease.used(clock.now, CALL, Amount(1.0, 90, 200))
    lease.used(clock.now, CALL, Amount(1.0, 110, 20))
    lease.used(clock.now + 7, CALL, NOTHING)
    clock.advance(20)
    await lease.take(CALL, (), 0)
    await lease.take(CALL, (), 0)

    first, second = owner.asks
    (more_s, more), (less_s, less) = first.corrections
    assert (more, less) == (Amount(0.0, 0.0, 180), Amount(-1.0, -100, -20))
    assert (more_s, less_s) == pytest.approx((20, 13))
    assert second.corrections == ()


async def test_corrections_are_as_many_as_moments_and_not_as_calls(clock: FakeClock) -> None:
    owner = Owner()
    lease = lease_of(owner, clock)

    for n in range(10_000):
        lease.used(clock.now + n / 10_000, CALL, NOTHING)
    await lease.take(CALL, (), 0)

    assert len(owner.asks[0].corrections) <= 11
    assert sum(amount.requests for _, amount in owner.asks[0].corrections) == -10_000


async def test_refusals_and_headers_are_told_with_the_next_ask(clock: FakeClock) -> None:
    owner, heard = Owner(), VendorLimits()
    lease = lease_of(owner, clock)

    lease.refused(2.5)
    lease.refused(0.0)
    lease.hear(lambda: heard)
    await lease.renew(3, at_work=True)
    await lease.renew(0, at_work=False)

    first, second = owner.asks
    assert owner.paused == [("model", 2.5), ("model", 0.0)]
    assert (first.refusals, first.heard, first.amount, first.in_flight) == (2, heard, NOTHING, 3)
    assert (second.refusals, second.heard, second.at_work) == (0, None, False)


async def test_a_share_that_was_not_used_yet_counts_as_calls_that_are_out(clock: FakeClock) -> None:
    owner = Owner(Grant(8), Grant(2), Grant(2))
    lease = lease_of(owner, clock, Limits(max_in_flight=9))

    for out in (0, 3, 5):
        await lease.renew(out, at_work=True)

    assert [one.in_flight for one in owner.asks] == [0, 8, 5]
    assert lease.most_in_flight == 2


async def test_the_days_last_requests_are_used_one_by_one(clock: FakeClock) -> None:
    spent = Grant(None, spent_s=3600)
    owner = Owner(*[Grant(None)] * 3, spent, Grant(None), spent, spent)
    lease = lease_of(owner, clock)

    for _ in range(1 + 2 + 4 + 1):
        await lease.take(CALL, HUNDREDS, 0)
    with pytest.raises(QuotaSpent) as told:
        await lease.take(CALL, HUNDREDS, 0)

    assert [one.amount.requests for one in owner.asks] == [1, 2, 4, 8, 1, 4, 1]
    assert told.value.retry_after_s == 3600


async def test_a_refused_account_is_told(clock: FakeClock) -> None:
    owner = Owner(Grant(None, refused="no such key"))

    with pytest.raises(KeyRefused, match="no such key"):
        await lease_of(owner, clock).take(CALL, (), 0)


@virtually
async def test_calls_that_were_not_expected_are_not_free() -> None:
    limits, random = Limits(rpm=60_000, tpm=60_000), Random(1)
    lease = Lease(FarOwner(proven_owner(), random, 0.001), "model", limits, "p/l", now_s)
    tiny, large = Amount(1.0, 1.0), Amount(1.0, 1000.0)
    passed, used = Passing(), 0.0

    while passed.s < 30:
        for call in (tiny, large, large):
            await lease.take(call, [tiny] * 100, 0)
            used += call.input_tokens

    assert used <= 30 * 1000 + 4000


@virtually
async def test_who_stops_while_waiting_has_taken_nothing() -> None:
    lease = Lease(proven_owner(), "model", Limits(rpm=6), "p/l", now_s)
    await lease.take(Amount(1.0), (), 0)

    waiting = asyncio.create_task(lease.take(Amount(1.0), (), 0))
    await asyncio.sleep(5)
    waiting.cancel()
    passed = Passing()
    await lease.take(Amount(1.0), (), 0)

    assert passed.s == pytest.approx(5, abs=0.2)
