from __future__ import annotations

import asyncio
import time

from moa.catalog import Limits
from moa.dispatch.quota import Pace, Quota, share
from tests.conftest import FakeClock


async def test_requests_flow_at_the_permitted_rate_without_a_burst_at_the_start() -> None:
    quota = Quota(Limits(rpm=6000), clock=time.monotonic)
    started = time.monotonic()

    sent_at = []
    for _ in range(40):
        await quota.take(10, 10)
        sent_at.append(time.monotonic() - started)

    # 100 a second, of which a tenth of a second's worth may go at once.
    assert all(n <= 10 + 100 * at + 1 for n, at in enumerate(sent_at, start=1))
    assert sent_at[-1] >= 0.28


async def test_an_amount_larger_than_the_bucket_goes_through_in_slices() -> None:
    pace = Pace(per_minute=60_000)  # 1,000 a second, 100 in the bucket
    started = time.monotonic()

    await pace.take(350)

    assert time.monotonic() - started >= 0.24


async def test_tokens_hold_back_what_requests_would_allow() -> None:
    quota = Quota(Limits(rpm=600_000, output_tpm=60_000), clock=time.monotonic)
    started = time.monotonic()

    for _ in range(4):
        await quota.take(1, 100)

    assert time.monotonic() - started >= 0.28


def test_a_pause_never_shrinks(clock: FakeClock) -> None:
    quota = Quota(Limits(), clock=clock)

    quota.pause(5)
    quota.pause(2)
    clock.advance(1)

    assert quota.pause_s() == 4
    clock.advance(10)
    assert quota.pause_s() == 0


async def test_no_limits_means_no_waiting() -> None:
    quota = Quota(Limits(), clock=time.monotonic)

    await asyncio.wait_for(quota.take(1e9, 1e9), timeout=1)


def test_replicas_share_the_accounts_limits_equally() -> None:
    mine = share(Limits(rpm=100, tpm=1000, max_in_flight=3), 4)

    assert mine == Limits(rpm=25, tpm=250, max_in_flight=1)
