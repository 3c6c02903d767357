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
    KINDS,
    Deaths,
    Night,
    Start,
    by_lane,
    costs_usd,
    rows_of,
    until,
)

ROWS = 6


@pytest.fixture(params=KINDS)
def night(
    request: pytest.FixtureRequest,
    provider_server: ReplayServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Night:
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", provider_server.url)
    night = Night(provider_server, tmp_path, request.param)
    night.script()
    return night


@pytest.fixture
def openai(provider_server: ReplayServer, tmp_path: Path) -> Night:
    night = Night(provider_server, tmp_path, "openai")
    night.script()
    return night


def assert_nothing_twice(night: Night, start: Start, settled: Sequence[Settled]) -> None:
    before_usd = start.history.spent_usd
    assert rows_of(settled) == list(range(ROWS))
    assert night.server.summary()["queries_billed_twice"] == 0
    assert costs_usd(settled) == night.bill_usd()
    # What the budget was charged in this start is what was not known to be spent before it.
    assert start.money.charged_usd == costs_usd(settled) - before_usd
    assert night.history().spent_usd == costs_usd(settled)
    assert night.history().batches == {}


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
    night: Night, deaths: Deaths, batches: int
) -> None:
    queries = night.rows(ROWS)
    await night.killed(queries, deaths)

    async with night.start() as start:
        settled = await start.answer(queries)

        assert_nothing_twice(night, start, settled)
    assert by_lane(settled) == {"batch": ROWS}
    assert night.server.batches_summary()["batches"] == batches


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
    openai: Night, deaths: Deaths
) -> None:
    openai.script(fates=["expires"], expires_after_s=0.2)
    queries = openai.rows(ROWS)
    await openai.killed(queries, deaths)

    async with openai.start() as start:
        settled = await start.answer(queries)

        assert_nothing_twice(openai, start, settled)
    assert by_lane(settled) == {"batch": 3, "live": 3}
    assert openai.server.batches_summary()["batches"] == 1
    for outcome, _ in settled:
        assert outcome.attempts == (2 if outcome.lane == "live" else 1)


async def test_two_deaths_in_a_row_at_every_step(openai: Night) -> None:
    queries = openai.rows(ROWS)
    for event in ("submitting", "submitted", "answered"):
        await openai.killed(queries, Deaths(event, after=event != "submitting"))

    async with openai.start() as start:
        settled = await start.answer(queries)

        assert_nothing_twice(openai, start, settled)
    assert openai.server.batches_summary()["batches"] == 1


async def test_a_submission_that_was_lost_before_the_lane_died_is_found(night: Night) -> None:
    night.script(lost_submissions=1)
    queries = night.rows(ROWS)
    await night.killed(queries, lambda: night.server.batches() != [])

    async with night.start() as start:
        settled = await start.answer(queries)

        assert_nothing_twice(night, start, settled)
    assert night.server.batches_summary()["batches"] == 1


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


def assert_nothing_twice_of_both(night: Night, answers: Sequence[Sequence[Settled]]) -> None:
    paid_usd = sum((costs_usd(one) for one in answers), Decimal(0))
    assert paid_usd == night.bill_usd()
    assert night.server.summary()["queries_billed_twice"] == 0


async def test_a_drain_while_results_are_read_keeps_those_that_were_read(openai: Night) -> None:
    queries = openai.rows(ROWS)
    await openai.killed(queries, Deaths("answered", skip=2))
    kept = set(openai.history().outcomes)

    async with openai.start() as start:
        await start.lane.drain()
        left = await start.answer(queries)

    assert len(kept) == 3
    assert set(rows_of(left)) == kept


async def test_what_was_fetched_in_the_middle_is_not_fetched_to_other_rows(
    openai: Night,
) -> None:
    queries = openai.rows(ROWS)
    await openai.killed(queries, Deaths("answered", skip=2))
    first = {row: outcome.completion for row, outcome in openai.history().outcomes.items()}

    async with openai.start() as start:
        settled = await start.answer(queries)

    after = {outcome.row: outcome.completion for outcome, _ in settled}
    assert first.items() <= after.items()
    assert len(set(after.values())) == ROWS


async def test_a_restart_counts_what_is_out_as_spent(openai: Night) -> None:
    openai.script(takes_s=30)
    queries = openai.rows(ROWS)
    await openai.killed(queries, lambda: bool(openai.history().batches))

    spent_usd = openai.history().spent_usd
    expected_usd = next(iter(openai.history().batches.values())).expected_usd
    async with openai.start(limit_usd=expected_usd) as start:
        waiting = asyncio.ensure_future(start.answer([*queries, *openai.rows(2, 50)]))
        await until(lambda: len(openai.history().outcomes) == 2)
        await start.lane.drain()
        await waiting

    reasons = {outcome.reason for outcome in openai.history().outcomes.values()}
    assert spent_usd == expected_usd
    assert reasons == {"budget_spent"}
    assert start.money.charged_usd == 0


async def test_a_batch_that_never_began_gives_its_money_back(openai: Night) -> None:
    queries = openai.rows(ROWS)
    await openai.killed(queries, Deaths("submitting"))
    expected_usd = openai.history().spent_usd

    async with openai.start(limit_usd=expected_usd) as start:
        settled = await start.answer(queries)

        assert_nothing_twice(openai, start, settled)
    assert expected_usd > 0
    assert by_lane(settled) == {"batch": ROWS}


@pytest.mark.parametrize("lanes", [None, ["batch"]])
async def test_deaths_at_every_line_of_the_journal_leave_one_outcome_each(
    openai: Night, lanes: list[str] | None
) -> None:
    """Each start gets one line further than the one before."""
    openai.script(fates=["expires"], expires_after_s=0.1, fails_retryably=0.3)
    queries = openai.rows(4, lanes=lanes)
    for _ in range(40):
        async with openai.start(deaths=Deaths(skip=3)) as start:
            answering = asyncio.ensure_future(start.answer(queries))
            if not await start.dies_before(answering):
                settled = await answering
                break
    else:
        pytest.fail("it never came to its end")

    assert rows_of(settled) == [0, 1, 2, 3]
    in_batches = [one for one in openai.server.ledger() if one["lane"] == "batch"]
    assert len({one["prompt"] for one in in_batches}) == len(in_batches)
