"""The batch lane against the vendors on localhost: what it buys, what it leaves, and by when."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pytest

from moa.catalog import Limits
from moa.errors import KeyRefused
from moa.providers.accounts import open_batches
from moa.providers.provider import Request
from moa.replay.process import ReplayServer
from moa.replay.recordings import prompt_key
from moa.request import ChatRequest
from tests.dispatch.batch_night import (
    KINDS,
    MODELS,
    NEVER,
    OTHER,
    QUICK,
    SETTINGS,
    Gone,
    Night,
    assert_whole,
    by_lane,
    costs_usd,
    in_s,
    rows_of,
    until,
    with_limits,
)

pytestmark = pytest.mark.alone


async def test_every_query_is_answered_and_billed_once_at_the_price_of_batches(
    any_night: Night,
) -> None:
    async with any_night.start() as start:
        settled = await start.answer(any_night.rows(8))

        assert_whole(any_night, start, settled, 8)
    by_row = {outcome.row: outcome for outcome, _ in settled}
    assert any_night.lanes() == by_lane(settled) == {"batch": 8}
    assert all(outcome.attempts == 1 for outcome in by_row.values())
    texts = {outcome.completion for outcome in by_row.values()}
    assert len(texts) == 8, "answers were matched to other queries"
    assert start.lane.rows_out == 0


async def test_answers_are_those_that_live_calls_would_have_got(any_night: Night) -> None:
    queries = any_night.rows(6)
    async with any_night.start() as start:
        bought = await start.answer(queries)
    other = [replace(one, row=one.row + 100, lane="live") for one in queries]

    async with any_night.start() as start:
        live = await start.dispatcher.answer(other, start.journal, start.history)

    texts = {outcome.row: outcome.completion for outcome, _ in bought}
    assert texts == {outcome.row - 100: outcome.completion for outcome, _ in live}


async def test_a_file_is_cut_where_its_vendor_says_so(any_night: Night) -> None:
    async with any_night.start(wrap=with_limits(3)) as start:
        settled = await start.answer(any_night.rows(8))

        assert_whole(any_night, start, settled, 8)
    assert Counter(batch["requests"] for batch in any_night.server.batches()) == {3: 2, 2: 1}


async def test_files_are_forgotten_at_the_vendor_when_they_are_fetched(night: Night) -> None:
    async with night.start() as start:
        await start.answer(night.rows(3))

    calls = night.server.batches_summary()["calls"]
    assert calls["openai delete"] == 2  # what went in, and what came out


async def test_rows_that_failed_by_the_vendors_fault_go_live(any_night: Night) -> None:
    any_night.script(fails_retryably=0.5)
    async with any_night.start() as start:
        settled = await start.answer(any_night.rows(12))

        assert_whole(any_night, start, settled, 12)
    lanes = by_lane(settled)
    assert lanes["batch"] + lanes["live"] == 12
    assert lanes["batch"] > 0 < lanes["live"]
    for outcome, _ in settled:
        assert outcome.attempts == (2 if outcome.lane == "live" else 1)


async def test_rows_that_would_fail_again_are_told_so_by_the_live_lane(night: Night) -> None:
    """What a batch says of a request is the vendor's word; the live lane has the last one."""
    night.script(fails_fatally=1)
    async with night.start() as start:
        settled = await start.answer(night.rows(4))

        assert_whole(night, start, settled, 4)
    assert by_lane(settled) == {"live": 4}


async def test_rows_that_fail_live_too_go_to_their_next_model(night: Night) -> None:
    night.server.set_script(
        {
            "synthetic": True,
            "batch": {**QUICK, "fails_fatally": 1},
            "sequences": {"openai": ["ok"] * 6},
        }
    )
    async with night.start(fallback=[OTHER]) as start:
        answering = asyncio.ensure_future(start.answer(night.rows(2, 0, OTHER)))
        await until(lambda: night.server.batches_summary()["fetches"] > 0)
        settled = await answering

    assert rows_of(settled) == [0, 1]
    assert costs_usd(settled) == night.bill_usd() == start.money.charged_usd


@pytest.mark.parametrize("kind", ["openai", "anthropic"])
async def test_what_an_expired_batch_has_answered_is_used_and_the_rest_goes_live(
    provider_server: ReplayServer, tmp_path: Path, kind: str
) -> None:
    night = Night(provider_server, tmp_path, kind)
    night.script(fates=["expires"], expires_after_s=0.3, unfinished_when_expired=0.5)
    async with night.start() as start:
        settled = await start.answer(night.rows(8))

        assert_whole(night, start, settled, 8)
    assert by_lane(settled) == {"batch": 4, "live": 4}


async def test_where_an_expired_batch_keeps_nothing_all_of_it_goes_live(
    provider_server: ReplayServer, tmp_path: Path
) -> None:
    night = Night(provider_server, tmp_path, "gemini")
    night.script(fates=["expires"], expires_after_s=0.3)
    async with night.start() as start:
        settled = await start.answer(night.rows(4))

        assert_whole(night, start, settled, 4)
    assert by_lane(settled) == {"live": 4}


async def test_a_batch_that_someone_cancels_by_hand_is_used_as_far_as_it_went(
    night: Night,
) -> None:
    night.script(fates=["stuck"], finished_when_stuck=0.5)
    async with night.start() as start:
        answering = asyncio.ensure_future(start.answer(night.rows(8)))
        await until(lambda: night.lanes()["batch"] == 4)
        batch_id = night.server.batches()[0]["id"]
        await start.batches.cancel(batch_id)
        settled = await answering

        assert_whole(night, start, settled, 8)
    assert by_lane(settled) == {"batch": 4, "live": 4}


@pytest.mark.parametrize("kind", ["openai", "anthropic", "vertex"])
async def test_a_stuck_batch_is_cancelled_in_time_and_all_is_done_before_the_deadline(
    provider_server: ReplayServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", provider_server.url)
    night = Night(provider_server, tmp_path, kind)
    night.script(fates=["stuck"], finished_when_stuck=0.5)
    settings = in_s(9.5)
    async with night.start(settings) as start:
        settled = await start.answer(night.rows(8))

        assert_whole(night, start, settled, 8)
    assert settings.deadline_s is not None
    assert time.time() < settings.deadline_s
    kept = 4 if kind != "vertex" else by_lane(settled).get("batch", 0)
    assert by_lane(settled).get("batch", 0) == kept
    assert provider_server.batches_summary()["cancels"] == 1


async def test_the_fewer_calls_a_minute_allows_the_earlier_a_stuck_batch_is_left(
    night: Night,
) -> None:
    left_s = []
    for number, rpm in enumerate((None, 200)):
        night.script(**NEVER)
        night.name = f"piece-{number}"
        begun_s = time.time()
        async with night.start(in_s(10), limits=Limits(rpm=rpm)) as start:
            answering = asyncio.ensure_future(start.answer(night.rows(12, 100 * number)))
            await until(lambda: night.server.batches_summary()["cancels"] == number + 1)  # noqa: B023 - awaited here
            left_s.append(time.time() - begun_s)
            answering.cancel()
            await asyncio.gather(answering, return_exceptions=True)

    assert left_s[1] < left_s[0] - 0.4


async def test_with_no_time_for_a_batch_everything_goes_live_at_once(night: Night) -> None:
    async with night.start(in_s(1)) as start:
        settled = await start.answer(night.rows(4))

        assert_whole(night, start, settled, 4)
    assert by_lane(settled) == {"live": 4}
    assert night.server.batches() == []


async def test_a_batch_that_is_found_to_be_invalid_goes_live(night: Night) -> None:
    night.script(fates=["invalid"])
    async with night.start() as start:
        settled = await start.answer(night.rows(4))

        assert_whole(night, start, settled, 4)
    assert by_lane(settled) == {"live": 4}


async def test_the_queue_that_is_full_for_now_is_waited_for(any_night: Night) -> None:
    any_night.script(fates=["queue_full"] * 3)
    async with any_night.start() as start:
        settled = await start.answer(any_night.rows(2))

        assert_whole(any_night, start, settled, 2)
    assert by_lane(settled) == {"batch": 2}


async def test_a_batch_that_never_fits_its_vendors_queue_is_halved(any_night: Night) -> None:
    async with any_night.start() as start:
        await start.answer(any_night.rows(1, 99))
    tokens = any_night.server.ledger()[0]["input_tokens"]
    any_night.server.reset()
    any_night.name = "other"
    any_night.script(queue_tokens={any_night.model.api_name: 3 * tokens + 1})

    async with any_night.start() as start:
        settled = await start.answer(any_night.rows(8))

        assert_whole(any_night, start, settled, 8)
    assert by_lane(settled) == {"batch": 8}
    sizes = [one["requests"] for one in any_night.server.batches() if one["answered"]]
    assert sum(sizes) == 8
    assert max(sizes) <= 3


async def test_what_never_fits_goes_live_in_time(night: Night) -> None:
    night.script(queue_tokens={night.model.api_name: 1})
    settings = in_s(8)
    async with night.start(settings) as start:
        settled = await start.answer(night.rows(2))

        assert_whole(night, start, settled, 2)
    assert by_lane(settled) == {"live": 2}
    assert settings.deadline_s is not None
    assert time.time() < settings.deadline_s


async def test_no_more_than_our_part_of_a_queue_is_in_batches_at_once(night: Night) -> None:
    settings = replace(SETTINGS, queue_tokens={night.model.id: 20})
    async with night.start(settings) as start:
        settled = await start.answer(night.rows(8))

        assert_whole(night, start, settled, 8)
    summary = night.server.batches_summary()
    assert (summary["batches"], summary["open_max"]) == (4, 1)
    assert by_lane(settled) == {"batch": 8}


async def test_who_waits_for_our_part_of_a_queue_goes_live_in_time(night: Night) -> None:
    night.script(**NEVER)
    settings = replace(in_s(9.5), queue_tokens={night.model.id: 40})
    async with night.start(settings) as start:
        settled = await start.answer(night.rows(8))

        assert_whole(night, start, settled, 8)
    assert settings.deadline_s is not None
    assert time.time() < settings.deadline_s
    assert by_lane(settled) == {"live": 8}
    assert night.server.batches_summary()["batches"] == 1


async def test_a_query_that_no_batch_can_hold_goes_live(night: Night) -> None:
    settings = replace(SETTINGS, queue_tokens={night.model.id: 5})
    async with night.start(settings) as start:
        settled = await start.answer(night.rows(2))

        assert_whole(night, start, settled, 2)
    assert by_lane(settled) == {"live": 2}


async def test_an_upload_that_was_lost_is_made_again(any_night: Night) -> None:
    any_night.script(lost_uploads=1)
    async with any_night.start() as start:
        settled = await start.answer(any_night.rows(3))

        assert_whole(any_night, start, settled, 3)
    assert any_night.server.batches_summary()["batches"] == 1


async def test_a_submission_that_was_lost_is_found_again(any_night: Night) -> None:
    any_night.script(lost_submissions=1)
    async with any_night.start() as start:
        settled = await start.answer(any_night.rows(3))

        assert_whole(any_night, start, settled, 3)
    assert any_night.server.batches_summary()["batches"] == 1
    assert by_lane(settled) == {"batch": 3}


async def strangers(night: Night, rows: int) -> str:
    """A batch of somebody else who has the same key."""
    environ = {name: night.key for name in (night.account.api_key_env,) if name}
    base_url = night.server.base_url(night.account.wire)
    batches = open_batches(night.account, environ=environ, base_url=base_url)
    lines = []
    for row in range(rows):
        words = [{"role": "user", "content": f"Who is number {row}?"}]
        chat = ChatRequest.model_validate({"messages": words, "max_output_tokens": 9})
        lines.append(batches.line(f"request-{row}", Request("q", chat, night.model)))
    batch_id = await batches.submit(night.model, lines, reference="another")
    await batches.close()
    return batch_id


async def test_a_strangers_batch_is_never_taken_for_ours_nor_touched(anthropic: Night) -> None:
    anthropic.script()
    stranger = await strangers(anthropic, 3)
    anthropic.script(lost_submissions=1)
    async with anthropic.start() as start:
        settled = await start.answer(anthropic.rows(3))

    assert rows_of(settled) == [0, 1, 2]
    assert by_lane(settled) == {"batch": 3}
    theirs, ours = anthropic.server.batches()
    assert theirs["id"] == stranger
    assert (theirs["cancels"], theirs["deleted"]) == (0, False)
    assert (ours["answered"], ours["deleted"]) == (3, True)


async def test_a_strangers_batch_that_never_ends_does_not_keep_ours_waiting(
    anthropic: Night,
) -> None:
    anthropic.script(fates=["stuck"])
    await strangers(anthropic, 3)
    anthropic.script(lost_submissions=1)
    async with anthropic.start() as start, asyncio.timeout(5):
        settled = await start.answer(anthropic.rows(3))

    assert by_lane(settled) == {"batch": 3}
    assert anthropic.server.batches()[0]["cancels"] == 0


async def test_what_may_be_a_strangers_is_not_cancelled_when_it_is_late(
    anthropic: Night,
) -> None:
    anthropic.script(fates=["stuck"])
    await strangers(anthropic, 3)
    anthropic.server.set_script({"synthetic": True, "sequences": {"anthropic": ["reset"]}})
    settings = in_s(9.5)
    async with anthropic.start(settings) as start:
        settled = await start.answer(anthropic.rows(3))

    assert settings.deadline_s is not None
    assert time.time() < settings.deadline_s
    assert by_lane(settled) == {"live": 3}
    assert all(outcome.lost_answers == 1 for outcome, _ in settled)
    (theirs,) = anthropic.server.batches()
    assert (theirs["cancels"], theirs["deleted"], theirs["state"]) == (0, False, "running")


async def test_batches_of_equal_size_that_were_both_lost_are_told_apart(anthropic: Night) -> None:
    anthropic.script(lost_submissions=3)
    async with anthropic.start(wrap=with_limits(4)) as start:
        settled = await start.answer(anthropic.rows(12))

        assert_whole(anthropic, start, settled, 12)
    assert by_lane(settled) == {"batch": 12}
    assert anthropic.server.batches_summary()["batches"] == 3
    assert anthropic.server.batches_summary()["cancels"] == 0


async def test_a_batch_that_a_stranger_s_only_looks_like_is_submitted_again(
    anthropic: Night,
) -> None:
    await strangers(anthropic, 2)
    anthropic.server.set_script(
        {
            "synthetic": True,
            "batch": QUICK,
            "sequences": {"anthropic": ["reset", {"status": 503}, "ok"]},
        }
    )
    async with anthropic.start() as start:
        settled = await start.answer(anthropic.rows(2))

    assert by_lane(settled) == {"batch": 2}
    assert [one["requests"] for one in anthropic.server.batches()] == [2, 2]
    assert anthropic.server.batches()[0]["deleted"] is False
    assert start.money.charged_usd == costs_usd(settled)


async def test_results_that_are_gone_are_perhaps_billed_and_go_live(night: Night) -> None:
    async with night.start(wrap=Gone) as start:
        settled = await start.answer(night.rows(4))

    history = night.history()
    risked_usd = sum(history.risked_usd.values())
    assert rows_of(settled) == [0, 1, 2, 3]
    assert by_lane(settled) == {"live": 4}
    assert all(outcome.lost_answers == 1 for outcome, _ in settled)
    assert risked_usd > 0
    assert start.money.charged_usd == costs_usd(settled) + risked_usd == history.spent_usd
    assert night.server.batches_summary()["calls"].get("openai delete", 0) == 0


async def test_a_download_that_breaks_off_goes_on_where_it_was(night: Night) -> None:
    async with night.start() as start:
        answering = asyncio.ensure_future(start.answer(night.rows(6)))
        await until(lambda: night.server.batches_summary()["batches"] > 0)
        night.server.set_script(
            {"sequences": {"openai": ["ok", {"kind": "cut_json"}, {"kind": "cut_json"}]}}
        )
        settled = await answering

        assert_whole(night, start, settled, 6)


async def test_a_drain_returns_at_once_and_the_next_start_goes_on(any_night: Night) -> None:
    any_night.script(takes_s=1.5)
    queries = any_night.rows(4)
    async with any_night.start() as start:
        answering = asyncio.ensure_future(start.answer(queries))
        await until(lambda: start.lane.rows_out == 4)
        begun_s = time.monotonic()
        await start.lane.drain()
        left = await answering
        drained_s = time.monotonic() - begun_s
    async with any_night.start() as start:
        settled = await start.answer(queries)

    assert left == []
    assert drained_s < 0.5
    assert rows_of(settled) == [0, 1, 2, 3]
    assert costs_usd(settled) == any_night.bill_usd()
    assert any_night.server.batches_summary()["batches"] == 1
    assert any_night.server.batches_summary()["cancels"] == 0


async def test_a_budget_for_half_of_them_buys_half_of_them(night: Night) -> None:
    queries = night.rows(8)
    async with night.start() as start:
        whole = await start.answer(queries)
        each_usd = start.history.spent_usd
    each_usd = night.history().spent_usd / 8
    night.server.reset()
    night.script()
    night.name = "poor"
    expected = 10 * Decimal("0.075") / 10**6 + 50 * Decimal("0.3") / 10**6

    async with night.start(limit_usd=expected * Decimal("4.5")) as start:
        settled = await start.answer(queries)

    reasons = Counter(outcome.reason for outcome, _ in settled)
    assert len(whole) == 8
    assert each_usd <= expected
    assert rows_of(settled) == list(range(8))
    assert reasons == {None: 4, "budget_spent": 4}
    assert by_lane(settled)["batch"] == 4
    assert start.money.charged_usd == costs_usd(settled) == night.bill_usd()


async def test_a_journal_that_cannot_be_written_stops_the_lane_and_leaves_what_is_out(
    night: Night,
) -> None:
    night.script(takes_s=30)
    async with night.start(wrap=with_limits(2)) as start:
        answering = asyncio.ensure_future(start.answer(night.rows(6)))
        await until(lambda: start.lane.rows_out == 6)

        def full(data: bytes) -> None:
            raise OSError("no space left")

        start.sink.append = full  # type: ignore[method-assign] # the disk is full from now on
        await start.batches.cancel(night.server.batches()[0]["id"])

        with pytest.raises(OSError, match="no space"):
            async with asyncio.timeout(5):
                await answering

    assert len(night.history().batches) == 3
    async with night.start(wrap=with_limits(2)) as start:
        answering = asyncio.ensure_future(start.answer(night.rows(6)))
        await until(lambda: start.lane.rows_out == 4)
        answering.cancel()
        await asyncio.gather(answering, return_exceptions=True)
    assert night.server.batches_summary()["batches"] == 3


async def test_a_refused_key_ends_the_piece_at_once_and_leaves_what_is_out(night: Night) -> None:
    long = night.rows(1, 4)[0]
    long = replace(long, choices=(long.choices[0]._replace(input_tokens=1000),))
    prompt = ChatRequest.model_validate_json(long.request).messages[0].content
    night.server.set_script(
        {
            "synthetic": True,
            "batch": {"takes_s": 30},
            "queries": {prompt_key(str(prompt)): {"status": 401, "latency_s": 0.5}},
        }
    )
    settings = replace(SETTINGS, queue_tokens={night.model.id: 100}, first_look_s=60)
    async with night.start(settings) as start:
        with pytest.raises(KeyRefused):
            async with asyncio.timeout(5):
                await start.answer([*night.rows(4), long])

    assert night.server.batches_summary()["cancels"] == 0
    assert len(night.history().batches) == 1


async def test_a_start_with_a_wrong_key_drops_no_batch(night: Night) -> None:
    night.script(takes_s=30)
    async with night.start() as start:
        answering = asyncio.ensure_future(start.answer(night.rows(4)))
        await until(lambda: start.lane.rows_out == 4)
        await start.lane.drain()
        await answering
    night.server.set_script({"refused_keys": [night.key]})

    async with night.start() as start:
        with pytest.raises(KeyRefused):
            await start.answer(night.rows(4))

    assert len(night.history().batches) == 1


async def test_a_cancelled_answer_leaves_nothing_running(night: Night) -> None:
    night.script(takes_s=30)
    async with night.start(wrap=with_limits(1)) as start:
        before = asyncio.all_tasks()
        answering = asyncio.ensure_future(start.answer(night.rows(4)))
        await until(lambda: start.lane.rows_out == 4)
        answering.cancel()
        await asyncio.gather(answering, return_exceptions=True)

        assert start.lane.rows_out == 0
        left = {task.get_coro().__qualname__ for task in asyncio.all_tasks() - before}  # type: ignore[union-attr] # of coroutines
        assert left <= {"FileSink._sync"}


async def test_while_a_batch_is_out_its_queries_are_not_read(night: Night) -> None:
    night.script(takes_s=0.5)
    async with night.start() as start:
        answering = asyncio.ensure_future(start.answer(night.rows(4)))
        await until(lambda: start.lane.rows_out == 4)
        reads = list(start.loads)
        await asyncio.sleep(0.2)

        assert start.loads == reads == [None, (0, 1, 2, 3)]
        await answering


def test_a_key_is_held_by_every_kind() -> None:
    assert MODELS.keys() == set(KINDS)


async def test_three_expired_batches_and_a_stuck_one_end_before_the_deadline(
    night: Night,
) -> None:
    """Killed in between: what is out by then is not submitted again."""
    fates = ["expires", "expires", "expires", "stuck"]
    night.script(fates=fates, expires_after_s=0.3, finished_when_stuck=0.5)
    settings = in_s(9.5)
    queries = night.rows(8)
    async with night.start(settings, wrap=with_limits(2)) as start:
        answering = asyncio.ensure_future(start.answer(queries))
        await until(lambda: start.lane.rows_out == 8)
        start.sink.dead.set()
        assert await start.dies_before(answering)

    async with night.start(settings, wrap=with_limits(2)) as start:
        settled = await start.answer(queries)

    assert settings.deadline_s is not None
    assert time.time() < settings.deadline_s
    assert rows_of(settled) == list(range(8))
    assert costs_usd(settled) == night.bill_usd()
    assert by_lane(settled) == {"batch": 4, "live": 4}
    assert night.server.batches_summary()["batches"] == 4
    assert night.server.batches_summary()["same_queries_max"] == 1
    assert night.server.summary()["queries_billed_twice"] == 0


async def test_whoever_closes_the_lane_waits_for_a_submission_on_the_wire(night: Night) -> None:
    night.server.set_script(
        {
            "synthetic": True,
            "batch": {"takes_s": 30},
            "sequences": {"openai": ["ok", {"kind": "ok", "latency_s": 0.5}]},
        }
    )
    async with night.start() as start:
        answering = asyncio.ensure_future(start.answer(night.rows(2)))
        await until(lambda: night.server.batches_summary()["calls"].get("openai submit", 0) == 1)
        await start.lane.close()
        left = await answering

    (out,) = night.history().batches.values()
    assert left == []
    assert out.ids == (night.server.batches()[0]["id"],)


async def test_a_submission_of_which_nobody_can_say_whether_it_began_may_be_billed(
    anthropic: Night,
) -> None:
    steps = ["reset", {"status": 403}]
    anthropic.server.set_script(
        {"synthetic": True, "batch": QUICK, "sequences": {"anthropic": steps}}
    )
    async with anthropic.start() as start:
        settled = await start.answer(anthropic.rows(3))

    history = anthropic.history()
    risked_usd = sum(history.risked_usd.values())
    assert by_lane(settled) == {"live": 3}
    assert all(outcome.lost_answers == 1 for outcome, _ in settled)
    assert risked_usd > 0
    assert start.money.charged_usd == costs_usd(settled) + risked_usd == history.spent_usd
    assert history.batches == {}


async def test_a_vendor_that_is_down_when_batches_are_submitted_is_asked_again(
    any_night: Night,
) -> None:
    wire = any_night.account.wire
    down = [{"status": 503}, {"status": 500}, {"status": 429, "retry_after_s": 0.1}]
    any_night.server.set_script({"synthetic": True, "batch": QUICK, "sequences": {wire: down}})
    async with any_night.start() as start:
        settled = await start.answer(any_night.rows(3))

        assert_whole(any_night, start, settled, 3)
    assert by_lane(settled) == {"batch": 3}
    assert any_night.server.batches_summary()["batches"] == 1
