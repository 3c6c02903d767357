"""Batches are looked at until they end, and are late when the live lane needs what time is left."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from decimal import Decimal

import pytest

from moa.catalog import Limits
from moa.dispatch.batch_file import BatchFile
from moa.dispatch.batch_watch import SURELY_GONE, BatchWatch
from moa.dispatch.settings import BatchSettings
from moa.errors import KeyRefused
from moa.providers.accounts import open_batches
from moa.providers.batch import BatchProvider
from moa.providers.provider import Request
from moa.replay.process import ReplayServer
from moa.request import ChatRequest
from tests.conftest import FakeClock
from tests.dispatch.batch_night import CATALOG, MODELS, OTHER, SETTINGS, until

MINI = MODELS["openai"]


def file(rows: int = 2, rpm: float | None = 60, output_tokens: float = 0) -> BatchFile:
    model = replace(MINI, limits=Limits(rpm=rpm))
    return BatchFile(model, tuple(range(rows)), Decimal(1), 0, output_tokens)


@dataclass
class Watched:
    """A watch, and what a test changes around it."""

    settings: BatchSettings = SETTINGS
    draining: asyncio.Event = field(default_factory=asyncio.Event)
    waiting: int = 0
    clock: FakeClock | None = None

    def watch(self) -> BatchWatch:
        now = self.clock or time.time
        return BatchWatch(self.settings, self.draining, lambda _: self.waiting, now)


@pytest.fixture
async def batches(provider_server: ReplayServer) -> AsyncIterator[BatchProvider]:
    provider_server.set_script({"synthetic": True, "batch": {"waits_s": 0, "takes_s": 0}})
    base_url = provider_server.base_url("openai")
    made = open_batches(
        CATALOG.accounts["openai"], environ={"OPENAI_API_KEY": "k"}, base_url=base_url
    )
    yield made
    await made.close()


async def submitted(batches: BatchProvider) -> str:
    words = {"messages": [{"role": "user", "content": "What is 1?"}], "max_output_tokens": 9}
    chat = ChatRequest.model_validate(words)
    lines = [batches.line(f"row-{row}", Request("q", chat, MINI)) for row in range(2)]
    return await batches.submit(MINI, lines, reference="ours")


def timed(deadline_in_s: float, clock: FakeClock) -> Watched:
    return Watched(BatchSettings(deadline_s=clock() + deadline_in_s), clock=clock)


def test_without_a_deadline_nothing_is_late() -> None:
    watch = Watched().watch()

    assert not watch.is_late(file())
    assert watch.time_left_s(file()) == float("inf")


def test_lower_limits_of_the_live_lane_make_a_batch_late_earlier(clock: FakeClock) -> None:
    watch = timed(1000, clock).watch()

    left_s = [watch.time_left_s(file(60, rpm)) for rpm in (None, 600, 60, 6)]

    assert left_s == sorted(left_s, reverse=True)
    assert left_s[1] - left_s[2] == pytest.approx(1.25 * 54, abs=1)


def test_all_that_is_unanswered_of_a_model_counts(clock: FakeClock) -> None:
    watch = timed(1000, clock).watch()
    mine, same, other = file(60), file(60), replace(file(600), model=OTHER)
    alone_s = watch.time_left_s(mine)

    with watch.unanswered(mine), watch.unanswered(other):
        assert watch.time_left_s(mine) == alone_s
        with watch.unanswered(same):
            assert watch.time_left_s(mine) == pytest.approx(alone_s - 1.25 * 60, abs=1)
            assert watch.time_left_s(mine) == watch.time_left_s(same)
    assert watch.time_left_s(mine) == alone_s


def test_what_waits_for_the_live_lane_counts(clock: FakeClock) -> None:
    watched = timed(1000, clock)
    watch = watched.watch()
    free_s = watch.time_left_s(file(60))

    watched.waiting = 60

    assert watch.time_left_s(file(60)) == pytest.approx(free_s - 1.25 * 60, abs=1)


def test_other_replicas_would_need_the_live_lane_too(clock: FakeClock) -> None:
    alone, three = timed(1000, clock), timed(1000, clock)
    three.settings = replace(three.settings, replicas=3)

    left_s = [watched.watch().time_left_s(file(60)) for watched in (alone, three)]

    assert left_s[0] - left_s[1] == pytest.approx(1.25 * 2 * 60, abs=1)


def test_first_it_is_late_and_then_lost(clock: FakeClock) -> None:
    watch = timed(100, clock).watch()
    clock.advance(watch.time_left_s(file()))
    assert watch.is_late(file())
    assert not watch.is_lost(file())

    clock.advance(10)  # a tenth of all the time is the vendor's, to end it

    assert watch.is_lost(file())


def test_after_its_deadline_everything_is_lost(clock: FakeClock) -> None:
    watch = timed(-50, clock).watch()

    assert watch.is_late(file())
    assert watch.is_lost(file())


def test_rows_out_are_counted_while_they_are_out() -> None:
    watch = Watched().watch()

    with watch.out(file(3)), watch.out(file(3)):
        assert watch.rows_out == 6

    assert watch.rows_out == 0


async def test_its_end_is_told(batches: BatchProvider) -> None:
    watch = Watched().watch()
    batch_id = await submitted(batches)

    status = await watch.until_ended(batch_id, file(), batches, surely=True)

    assert status is not None
    assert (status.state, status.end, status.answered) == ("ended", "completed", 2)


async def test_a_drain_ends_the_wait_at_once(
    batches: BatchProvider, provider_server: ReplayServer
) -> None:
    provider_server.set_script({"synthetic": True, "batch": {"fates": ["stuck"]}})
    watched = Watched(replace(SETTINGS, first_look_s=60, longest_look_s=60))
    waiting = asyncio.create_task(
        watched.watch().until_ended(await submitted(batches), file(), batches, surely=True)
    )
    await until(lambda: provider_server.batches()[0]["looks"] > 0)

    watched.draining.set()

    async with asyncio.timeout(1):
        assert await waiting is None
    assert provider_server.batches_summary()["cancels"] == 0


async def test_a_drain_breaks_off_a_look_that_hangs(
    batches: BatchProvider, provider_server: ReplayServer
) -> None:
    batch_id = await submitted(batches)
    provider_server.set_script({"sequences": {"openai": ["hang"] * 9}})
    watched = Watched()
    waiting = asyncio.create_task(
        watched.watch().until_ended(batch_id, file(), batches, surely=True)
    )
    await asyncio.sleep(0.2)
    assert not waiting.done()

    watched.draining.set()

    async with asyncio.timeout(1):
        assert await waiting is None


async def test_a_vendor_that_is_down_for_a_while_is_asked_again(
    batches: BatchProvider, provider_server: ReplayServer
) -> None:
    batch_id = await submitted(batches)
    faults = [{"status": 503}, {"status": 500}, "reset", "cut_json", {"status": 429}]
    provider_server.set_script({"sequences": {"openai": faults}})

    status = await Watched().watch().until_ended(batch_id, file(), batches, surely=True)

    assert status is not None
    assert status.answered == 2


async def test_a_batch_that_its_vendor_does_not_know_is_lost_and_perhaps_billed(
    batches: BatchProvider, provider_server: ReplayServer
) -> None:
    status = await Watched().watch().until_ended("batch_none", file(), batches, surely=True)

    assert status is not None
    assert status.error is not None
    assert status.error.maybe_billed
    assert provider_server.batches_summary()["calls"] == {"openai look": SURELY_GONE}


async def test_a_batch_that_is_not_found_at_first_is_not_given_up(
    batches: BatchProvider, provider_server: ReplayServer
) -> None:
    batch_id = await submitted(batches)
    absent = [{"status": 404}] * (SURELY_GONE - 1)
    provider_server.set_script({"sequences": {"openai": absent}})

    status = await Watched().watch().until_ended(batch_id, file(), batches, surely=True)

    assert status is not None
    assert status.answered == 2


async def test_a_wrong_key_says_nothing_of_a_batch(
    batches: BatchProvider, provider_server: ReplayServer
) -> None:
    batch_id = await submitted(batches)
    provider_server.set_script({"refused_keys": ["k"]})

    with pytest.raises(KeyRefused):
        await Watched().watch().until_ended(batch_id, file(), batches, surely=True)


async def test_a_key_that_was_good_may_be_good_again(
    batches: BatchProvider, provider_server: ReplayServer
) -> None:
    watch = Watched().watch()
    await watch.until_ended(await submitted(batches), file(), batches, surely=True)
    batch_id = await submitted(batches)
    provider_server.set_script({"sequences": {"openai": [{"status": 401}] * 3}})

    status = await watch.until_ended(batch_id, file(), batches, surely=True)

    assert status is not None
    assert status.answered == 2


@pytest.mark.parametrize("surely", [True, False])
async def test_a_late_batch_is_cancelled_once_and_only_if_it_is_ours(
    batches: BatchProvider, provider_server: ReplayServer, surely: bool
) -> None:
    provider_server.set_script({"synthetic": True, "batch": {"fates": ["stuck"]}})
    settings = replace(SETTINGS, deadline_s=time.time() + 7)
    watch = Watched(settings).watch()
    batch_id = await submitted(batches)
    spare = file(2, None)

    status = await watch.until_ended(batch_id, spare, batches, surely=surely)

    assert status is not None
    assert provider_server.batches_summary()["cancels"] == surely
    assert status.end == ("cancelled" if surely else "failed")
    assert (status.error is None) == surely
    assert time.time() < settings.deadline_s  # type: ignore[operator] # it was just set


async def test_a_cancel_that_fails_is_tried_again(
    batches: BatchProvider, provider_server: ReplayServer
) -> None:
    stuck = {"synthetic": True, "batch": {"fates": ["stuck"]}}
    provider_server.set_script(stuck)
    batch_id = await submitted(batches)
    watch = Watched(replace(SETTINGS, deadline_s=time.time() + 7)).watch()
    down = [{"status": 503}, {"status": 503}]

    waiting = asyncio.create_task(watch.until_ended(batch_id, file(), batches, surely=True))
    await until(lambda: watch.time_left_s(file()) < 0.1)
    provider_server.set_script({"sequences": {"openai": down}})
    status = await waiting

    assert status is not None
    assert status.end == "cancelled"


async def test_who_may_be_another_s_is_left_when_it_is_claimed(
    batches: BatchProvider, provider_server: ReplayServer
) -> None:
    provider_server.set_script({"synthetic": True, "batch": {"fates": ["stuck"]}})
    watch = Watched().watch()
    batch_id = await submitted(batches)
    waiting = asyncio.create_task(watch.until_ended(batch_id, file(), batches, surely=False))
    await until(lambda: provider_server.batches()[0]["looks"] > 0)

    watch.claim(batch_id)

    async with asyncio.timeout(2):
        assert await waiting is None


async def test_a_pause_does_not_outlast_the_time_that_is_left() -> None:
    watch = Watched(replace(SETTINGS, deadline_s=time.time() + 7)).watch()
    begun_s = time.monotonic()

    assert await watch.pause(1, file(), retry_after_s=3600)

    assert time.monotonic() - begun_s < 3
    assert watch.is_late(file())


async def test_pauses_grow_up_to_the_longest() -> None:
    watch = Watched(replace(SETTINGS, first_look_s=0.01, longest_look_s=0.04)).watch()
    paused_s = []
    for attempt in (1, 3, 30):
        begun_s = time.monotonic()
        await watch.pause(attempt, file())
        paused_s.append(time.monotonic() - begun_s)

    assert paused_s[0] < 0.035 < paused_s[1]
    assert 0.035 < paused_s[2] < 1


async def test_work_is_broken_off_when_the_lane_drains() -> None:
    watched, ended = Watched(), asyncio.Event()

    async def work() -> int:
        try:
            await asyncio.sleep(60)
        finally:
            ended.set()
        return 1

    working = asyncio.create_task(watched.watch().unless_drained(work()))
    await asyncio.sleep(0.01)
    watched.draining.set()

    assert await working is None
    assert ended.is_set()
    assert await watched.watch().unless_drained(work()) is None


async def test_what_work_gives_or_raises_comes_through() -> None:
    watch = Watched().watch()

    async def fails() -> int:
        raise ValueError("so")

    assert await watch.unless_drained(asyncio.sleep(0, "done")) == "done"
    with pytest.raises(ValueError, match="so"):
        await watch.unless_drained(fails())
