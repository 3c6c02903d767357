"""Queries that may not go live: other batches answer them, or they are given up for a reason."""

from __future__ import annotations

import time
from decimal import Decimal

from moa.dispatch.batch_lane import MOST_BATCHES
from moa.dispatch.outcome import REASONS
from moa.reports.page import REMEDIES
from tests.dispatch.batch_night import NEVER, Deaths, Night, assert_whole, by_lane, in_s

BATCH_ONLY = ["batch"]


async def test_what_may_not_go_live_is_bought_in_another_batch(night: Night) -> None:
    night.script(fates=["expires"], expires_after_s=0.3, unfinished_when_expired=0.5)
    async with night.start() as start:
        settled = await start.answer(night.rows(8, lanes=BATCH_ONLY))

        assert_whole(night, start, settled, 8)
    assert night.lanes() == by_lane(settled) == {"batch": 8}
    assert [one["requests"] for one in night.server.batches()] == [8, 4]


async def test_only_those_that_may_go_live_do(night: Night) -> None:
    night.script(fates=["expires"], expires_after_s=0.3, unfinished_when_expired=1)
    queries = [*night.rows(3, lanes=BATCH_ONLY), *night.rows(3, 3, lanes=["live", "batch"])]
    async with night.start() as start:
        settled = await start.answer(queries)

        assert_whole(night, start, settled, 6)
    lanes = {outcome.row: outcome.lane for outcome, _ in settled}
    assert lanes == dict.fromkeys(range(3), "batch") | dict.fromkeys(range(3, 6), "live")


async def test_what_may_not_go_live_is_given_up_after_so_many_batches(any_night: Night) -> None:
    any_night.script(fails_retryably=1)
    async with any_night.start() as start:
        settled = await start.answer(any_night.rows(3, lanes=BATCH_ONLY))

    assert {outcome.reason for outcome, _ in settled} == {"lane_failed"}
    assert {outcome.attempts for outcome, _ in settled} == {MOST_BATCHES}
    assert any_night.server.batches_summary()["batches"] == MOST_BATCHES
    assert any_night.lanes() == {}
    assert start.money.charged_usd == 0
    assert "lane_failed" in REASONS
    assert "lane_failed" in REMEDIES


async def test_what_would_fail_again_and_may_not_go_live_is_given_up_as_such(
    any_night: Night,
) -> None:
    any_night.script(fails_fatally=1)
    async with any_night.start() as start:
        settled = await start.answer(any_night.rows(3, lanes=BATCH_ONLY))

    assert {outcome.reason for outcome, _ in settled} == {"invalid_request"}
    assert all(letter is not None and letter.attempts for _, letter in settled)
    assert any_night.server.batches_summary()["batches"] == 1


async def test_what_may_not_go_live_is_given_up_when_time_is_up(night: Night) -> None:
    night.script(**NEVER)
    settings = in_s(7.5)
    async with night.start(settings) as start:
        settled = await start.answer(night.rows(2, lanes=BATCH_ONLY))

    assert settings.deadline_s is not None
    assert time.time() < settings.deadline_s
    assert {outcome.reason for outcome, _ in settled} == {"lane_failed"}
    assert night.lanes() == {}


async def test_what_may_not_go_live_and_is_not_covered_says_so(night: Night) -> None:
    async with night.start(limit_usd=Decimal("0.000001")) as start:
        settled = await start.answer(night.rows(3, lanes=BATCH_ONLY))

    assert {outcome.reason for outcome, _ in settled} == {"budget_spent"}
    assert start.money.charged_usd == 0


async def test_tries_in_batches_are_counted_over_starts(night: Night) -> None:
    night.script(fails_retryably=1)
    queries = night.rows(2, lanes=BATCH_ONLY)
    await night.killed(queries, Deaths("fetched"))

    async with night.start() as start:
        settled = await start.answer(queries)

    assert {outcome.reason for outcome, _ in settled} == {"lane_failed"}
    assert night.server.batches_summary()["batches"] == MOST_BATCHES


async def test_a_query_that_may_not_go_live_says_so_when_its_account_refuses(
    night: Night,
) -> None:
    night.server.set_script({"synthetic": True, "refused_keys": [night.key]})
    async with night.start() as start:
        settled = await start.answer(night.rows(2, lanes=BATCH_ONLY))

    assert {outcome.reason for outcome, _ in settled} == {"account_refused"}
