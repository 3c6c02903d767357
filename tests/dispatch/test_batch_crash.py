"""A lane that dies at any of its steps buys nothing twice, and loses nothing that was paid."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path

import pytest

from moa.dispatch.outcome import Settled
from moa.replay.process import ReplayServer
from tests.dispatch.batch_night import (
    Deaths,
    Night,
    Start,
    by_lane,
    costs_usd,
    rows_of,
    until,
)

ROWS = 6


def assert_nothing_twice(any_night: Night, start: Start, settled: Sequence[Settled]) -> None:
    before_usd = start.history.spent_usd
    assert rows_of(settled) == list(range(ROWS))
    assert any_night.server.summary()["queries_billed_twice"] == 0
    assert costs_usd(settled) == any_night.bill_usd()
    # What the budget was charged in this start is what was not known to be spent before it.
    assert start.money.charged_usd == costs_usd(settled) - before_usd
    assert any_night.history().spent_usd == costs_usd(settled)
    assert any_night.history().batches == {}


@pytest.mark.parametrize(
    ("deaths", "batches"),
    [
        pytest.param(Deaths("submitting", after=False), 1, id="before it says so"),
        pytest.param(Deaths("submitting"), 1, id="before the submission"),
        pytest.param(Deaths("submitted", after=False), 1, id="between submission and journal"),
        pytest.param(Deaths("submitted"), 1, id="while it is out"),
        pytest.param(Deaths("answered", after=False), 1, id="before the first answer"),
        pytest.param(Deaths("answered", skip=2), 1, id="in the middle of fetching"),
        pytest.param(Deaths("fetched", after=False), 1, id="before it says that it is fetched"),
        pytest.param(Deaths("fetched"), 1, id="after fetching"),
    ],
)
async def test_a_lane_that_died_submits_nothing_twice(
    any_night: Night, deaths: Deaths, batches: int
) -> None:
    queries = any_night.rows(ROWS)
    await any_night.killed(queries, deaths)

    async with any_night.start() as start:
        settled = await start.answer(queries)

        assert_nothing_twice(any_night, start, settled)
    assert by_lane(settled) == {"batch": ROWS}
    assert any_night.server.batches_summary()["batches"] == batches


@pytest.mark.parametrize(
    "deaths",
    [
        pytest.param(Deaths("answered", skip=1), id="in the middle of fetching"),
        pytest.param(Deaths("failed", after=False), id="before the first failure"),
        pytest.param(Deaths("failed", skip=1), id="between failures"),
        pytest.param(Deaths("fetched", after=False), id="before it says that it is fetched"),
        pytest.param(Deaths("fetched"), id="before the live part"),
        pytest.param(Deaths("sent", after=False), id="before the first live call"),
    ],
)
async def test_what_an_expired_batch_left_is_asked_once_however_often_the_lane_dies(
    night: Night, deaths: Deaths
) -> None:
    night.script(fates=["expires"], expires_after_s=0.2)
    queries = night.rows(ROWS)
    await night.killed(queries, deaths)

    async with night.start() as start:
        settled = await start.answer(queries)

        assert_nothing_twice(night, start, settled)
    assert by_lane(settled) == {"batch": 3, "live": 3}
    assert night.server.batches_summary()["batches"] == 1
    for outcome, _ in settled:
        assert outcome.attempts == (2 if outcome.lane == "live" else 1)


async def test_two_deaths_in_a_row_at_every_step(night: Night) -> None:
    queries = night.rows(ROWS)
    for event in ("submitting", "submitted", "answered"):
        await night.killed(queries, Deaths(event, after=event != "submitting"))

    async with night.start() as start:
        settled = await start.answer(queries)

        assert_nothing_twice(night, start, settled)
    assert night.server.batches_summary()["batches"] == 1


async def test_a_submission_that_was_lost_before_the_lane_died_is_found(any_night: Night) -> None:
    any_night.script(lost_submissions=1)
    queries = any_night.rows(ROWS)
    await any_night.killed(queries, lambda: any_night.server.batches() != [])

    async with any_night.start() as start:
        settled = await start.answer(queries)

        assert_nothing_twice(any_night, start, settled)
    assert any_night.server.batches_summary()["batches"] == 1


async def test_a_batch_of_another_piece_is_not_taken_after_a_death(
    provider_server: ReplayServer, tmp_path: Path
) -> None:
    """Where the vendor keeps no names of ours, and both pieces' batches are of one size."""
    first, other = (Night(provider_server, tmp_path, "anthropic") for _ in range(2))
    other.name = "other"
    first.script(takes_s=0.6)
    await first.killed(first.rows(ROWS), Deaths("submitted", after=False))
    others = other.rows(ROWS, 100)

    async with first.start() as start, other.start() as beside:
        answers = await asyncio.gather(start.answer(first.rows(ROWS)), beside.answer(others))

        assert_nothing_twice_of_both(first, answers)
    assert rows_of(answers[0]) == list(range(ROWS))
    assert rows_of(answers[1]) == list(range(100, 100 + ROWS))
    summary = provider_server.batches_summary()
    assert (summary["batches"], summary["cancels"]) == (2, 0)


def assert_nothing_twice_of_both(any_night: Night, answers: Sequence[Sequence[Settled]]) -> None:
    paid_usd = sum((costs_usd(one) for one in answers), Decimal(0))
    assert paid_usd == any_night.bill_usd()
    assert any_night.server.summary()["queries_billed_twice"] == 0


async def test_a_drain_while_results_are_read_keeps_those_that_were_read(night: Night) -> None:
    queries = night.rows(ROWS)
    await night.killed(queries, Deaths("answered", skip=2))
    kept = set(night.history().outcomes)

    async with night.start() as start:
        await start.lane.drain()
        left = await start.answer(queries)

    assert len(kept) == 3
    assert set(rows_of(left)) == kept


async def test_what_was_fetched_in_the_middle_is_not_fetched_to_other_rows(
    night: Night,
) -> None:
    queries = night.rows(ROWS)
    await night.killed(queries, Deaths("answered", skip=2))
    first = {row: outcome.completion for row, outcome in night.history().outcomes.items()}

    async with night.start() as start:
        settled = await start.answer(queries)

    after = {outcome.row: outcome.completion for outcome, _ in settled}
    assert first.items() <= after.items()
    assert len(set(after.values())) == ROWS


async def test_a_restart_counts_what_is_out_as_spent(night: Night) -> None:
    night.script(takes_s=30)
    queries = night.rows(ROWS)
    await night.killed(queries, lambda: bool(night.history().batches))

    spent_usd = night.history().spent_usd
    expected_usd = next(iter(night.history().batches.values())).expected_usd
    async with night.start(limit_usd=expected_usd) as start:
        waiting = asyncio.ensure_future(start.answer([*queries, *night.rows(2, 50)]))
        await until(lambda: len(night.history().outcomes) == 2)
        await start.lane.drain()
        await waiting

    reasons = {outcome.reason for outcome in night.history().outcomes.values()}
    assert spent_usd == expected_usd
    assert reasons == {"budget_spent"}
    assert start.money.charged_usd == 0


async def test_a_batch_that_never_began_gives_its_money_back(night: Night) -> None:
    queries = night.rows(ROWS)
    await night.killed(queries, Deaths("submitting"))
    expected_usd = night.history().spent_usd

    async with night.start(limit_usd=expected_usd) as start:
        settled = await start.answer(queries)

        assert_nothing_twice(night, start, settled)
    assert expected_usd > 0
    assert by_lane(settled) == {"batch": ROWS}


@pytest.mark.parametrize("lanes", [None, ["batch"]])
async def test_deaths_at_every_line_of_the_journal_leave_one_outcome_each(
    night: Night, lanes: list[str] | None
) -> None:
    """Each start gets one line further than the one before."""
    night.script(fates=["expires"], expires_after_s=0.1, fails_retryably=0.3)
    queries = night.rows(4, lanes=lanes)
    for _ in range(40):
        async with night.start(deaths=Deaths(skip=3)) as start:
            answering = asyncio.ensure_future(start.answer(queries))
            if not await start.dies_before(answering):
                settled = await answering
                break
    else:
        pytest.fail("it never came to its end")

    assert rows_of(settled) == [0, 1, 2, 3]
    in_batches = [one for one in night.server.ledger() if one["lane"] == "batch"]
    assert len({one["prompt"] for one in in_batches}) == len(in_batches)
