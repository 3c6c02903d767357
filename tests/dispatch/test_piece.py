"""A piece is dispatched from the run folder and back, and may die at any of its steps."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pytest

from moa.catalog import load_catalog
from moa.config import PolicyConfig
from moa.dispatch.batch_file import BatchNames
from moa.dispatch.batch_lane import BatchLane
from moa.dispatch.budget import Budget
from moa.dispatch.dispatcher import Dispatcher
from moa.dispatch.journal import History, Journal
from moa.dispatch.piece import assignments_of, dispatch_piece
from moa.dispatch.retry import RetryPolicy
from moa.dispatch.settings import BatchSettings, DispatchSettings
from moa.prices import PriceTable
from moa.providers.accounts import open_batches, open_provider
from moa.replay.process import ReplayServer
from moa.request import ChatRequest
from moa.schema import OUTCOMES, ROUTING_DECISIONS, SCORED_QUERIES
from moa.storage.run_folder import PartName, PieceName, RunFolder

MODEL = load_catalog("jobs/configs/demo_catalog.toml").models["openai/gpt-4o-mini"]
ACCOUNT = load_catalog("jobs/configs/demo_catalog.toml").accounts["openai"]
PART = PartName(2, 10, 20)
PIECE = PieceName(PART, "openai")
MODELS = {MODEL.id: MODEL}
POLICY = PolicyConfig(willingness_to_pay=Decimal("0.02"))
TWINS = [{"query_id": f"twin{n}", "tags": [f"t{n}"], "reference": None} for n in (1, 2)]


def write_part(run: RunFolder, *, in_batches: Collection[int] = ()) -> None:
    """Ten queries; the odd ones are another provider's, and query 14 has two followers. Those that
    are bought in batches may not go live.
    """
    queries, decisions = [], []
    for row in range(10, 20):
        chat = {"messages": [{"role": "user", "content": f"What is {row}?"}]}
        place = {"query_id": f"q{row}", "partition": 2, "row": row}
        expected = {"expected_grade": [0.5], "novelty": 0.5}
        queries.append(
            {
                **place, **expected, "request": ChatRequest.model_validate(chat).canonical(),
                "abilities": [], "tags": ["t"], "expected_input_tokens": [9.0],
                "expected_output_tokens": [9.0],
                "followers": TWINS if row == 14 else [],
                "allowed_lanes": ["batch"] if row in in_batches else None,
            }
        )  # fmt: skip
        decisions.append(
            {
                **place, **expected, "model": MODEL.id,
                "lane": "batch" if row in in_batches else "live", "rule": "best_value",
                "provider": "google" if row % 2 else "openai", "fallbacks": [],
                "expected_cost_usd": [0.1], "expected_input_tokens": 9.0,
                "expected_output_tokens": 9.0, "propensity": 1.0, "router_s": 0.0,
                "router_version": "r", "price_version": "p",
            }
        )  # fmt: skip
    run.write_queries(PART, pa.Table.from_pylist(queries, schema=SCORED_QUERIES))
    run.write_decisions(PART, pa.Table.from_pylist(decisions, schema=ROUTING_DECISIONS))


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    run = RunFolder(str(tmp_path))
    write_part(run)
    return run


@pytest.fixture
async def dispatcher(provider_server: ReplayServer) -> AsyncIterator[Dispatcher]:
    provider_server.set_script({"synthetic": True})
    environ = {"OPENAI_API_KEY": "k"}
    url = provider_server.base_url("openai")
    provider = open_provider(ACCOUNT, environ=environ, base_url=url)
    settings = DispatchSettings(4, 5, RetryPolicy(3, 30), True, 0)
    dispatcher = Dispatcher({"openai": provider}, [MODEL], PriceTable.build([MODEL]), settings)
    yield dispatcher
    await dispatcher.close()


def test_a_piece_is_what_its_provider_was_given(run: RunFolder) -> None:
    assignments = assignments_of(PIECE, run, MODELS, POLICY)

    assert [a.row for a in assignments] == [10, 12, 14, 16, 18]
    assert [a.query_id for a in assignments] == ["q10", "q12", "q14", "q16", "q18"]


async def test_a_piece_ends_as_its_outcomes_and_leaves_no_journal(
    run: RunFolder, dispatcher: Dispatcher, provider_server: ReplayServer
) -> None:
    result = await dispatch_piece(PIECE, run, MODELS, POLICY, dispatcher, rows=5)

    outcomes = run.read_outcomes(PIECE)
    rows = {row["query_id"]: row for row in outcomes.to_pylist()}
    assert result.finished
    assert outcomes.schema.equals(OUTCOMES)
    assert rows.keys() == {"q10", "q12", "q14", "q16", "q18", "twin1", "twin2"}
    assert rows["twin1"]["completion"] == rows["q14"]["completion"]
    assert rows["twin1"]["same_as"] == "q14"
    assert (rows["q14"]["tags"], rows["twin2"]["tags"]) == (["t"], ["t2"])
    assert rows["twin1"]["cost_usd"] == 0 < rows["q14"]["cost_usd"]
    assert list(run.read_journals(PIECE)) == []
    assert len(provider_server.ledger()) == 5


@pytest.mark.parametrize("answered", [0, 2, 5])
async def test_what_a_journal_holds_is_not_asked_again(
    run: RunFolder, dispatcher: Dispatcher, provider_server: ReplayServer, answered: int
) -> None:
    journal = Journal(run.open_journal(PIECE))
    assignments = assignments_of(PIECE, run, MODELS, POLICY)[:answered]
    first = await dispatcher.answer(assignments, journal, History())
    await journal.close()  # and here the process dies, before it has written an outcome

    await dispatch_piece(PIECE, run, MODELS, POLICY, dispatcher, rows=5)

    outcomes = run.read_outcomes(PIECE)
    completions = dict(zip(*outcomes.select(["query_id", "completion"]).columns, strict=True))
    assert outcomes.num_rows == 7
    assert len(provider_server.ledger()) == 5
    assert provider_server.summary()["calls_per_query_max"] == 1
    for outcome, _ in first:
        assert completions[pa.scalar(outcome.query_id)].as_py() == outcome.completion


async def test_a_piece_whose_actor_died_before_it_could_say_so_is_not_asked_again(
    run: RunFolder, dispatcher: Dispatcher, provider_server: ReplayServer
) -> None:
    said = await dispatch_piece(PIECE, run, MODELS, POLICY, dispatcher, rows=5)

    again = await dispatch_piece(PIECE, run, MODELS, POLICY, dispatcher, rows=5)

    assert again == said
    assert again.finished
    assert (again.queries, again.dead) == (5, 0)
    assert len(provider_server.ledger()) == 5


async def test_a_finished_piece_is_counted_by_somebody_else(
    run: RunFolder, dispatcher: Dispatcher
) -> None:
    result = await dispatch_piece(PIECE, run, MODELS, POLICY, dispatcher, rows=5)

    progress = dispatcher.progress()
    assert result.cost_usd > 0
    assert progress.done == progress.dead == 0
    assert progress.spent_usd == 0
    assert progress.unsettled == {"openai": 0}


async def test_a_piece_counts_while_it_is_read(run: RunFolder, dispatcher: Dispatcher) -> None:
    begun = asyncio.create_task(dispatch_piece(PIECE, run, MODELS, POLICY, dispatcher, rows=5))
    await asyncio.sleep(0)

    reading = dispatcher.progress()
    await begun

    assert reading.unsettled == {"openai": 5}
    assert dispatcher.progress().unsettled == {"openai": 0}


async def test_a_piece_that_was_drained_is_not_finished(
    run: RunFolder, dispatcher: Dispatcher
) -> None:
    await dispatcher.drain()

    result = await dispatch_piece(PIECE, run, MODELS, POLICY, dispatcher, rows=5)

    assert not result.finished
    assert run.finished_pieces() == []


Buy = Callable[[], AbstractAsyncContextManager[tuple[Dispatcher, BatchLane]]]
BOUGHT = PieceName(PART, "openai", in_batches=True)
SOLD = replace(MODEL, lanes=("live", "batch"))


@pytest.fixture
def buy(provider_server: ReplayServer) -> Buy:
    """A process that buys in batches."""
    provider_server.set_script({"synthetic": True, "batch": {"waits_s": 0, "takes_s": 0.1}})

    @asynccontextmanager
    async def buy() -> AsyncIterator[tuple[Dispatcher, BatchLane]]:
        environ, url = {"OPENAI_API_KEY": "k"}, provider_server.base_url("openai")
        live = open_provider(ACCOUNT, environ=environ, base_url=url)
        settings = DispatchSettings(4, 5, RetryPolicy(3, 30), True, 0)
        prices = PriceTable.build([SOLD])
        dispatcher = Dispatcher({"openai": live}, [SOLD], prices, settings)
        batches = open_batches(ACCOUNT, environ=environ, base_url=url)
        lane = BatchLane(
            {"openai": batches}, prices, BatchSettings(first_look_s=0.05), BatchNames("run"),
            dispatcher, Budget(),
        )  # fmt: skip
        try:
            yield dispatcher, lane
        finally:
            await lane.close()
            await dispatcher.close()

    return buy


async def test_what_is_bought_in_batches_is_a_piece_of_its_own(
    run: RunFolder, buy: Buy, provider_server: ReplayServer
) -> None:
    write_part(run, in_batches=(12, 14, 18))

    async with buy() as (dispatcher, lane):
        live = await dispatch_piece(PIECE, run, MODELS, POLICY, dispatcher, lane, rows=2)
        bought = await dispatch_piece(BOUGHT, run, MODELS, POLICY, dispatcher, lane, rows=3)

    rows = {row["query_id"]: row for row in run.read_outcomes(BOUGHT).to_pylist()}
    assert live.finished
    assert bought.finished
    assert (live.queries, bought.queries, bought.dead) == (2, 3, 0)
    assert rows.keys() == {"q12", "q14", "q18", "twin1", "twin2"}
    assert {row["lane"] for row in rows.values()} == {"batch"}
    assert rows["twin1"]["completion"] == rows["q14"]["completion"]
    assert (
        bought.cost_usd
        == rows["q12"]["cost_usd"] + rows["q14"]["cost_usd"] + (rows["q18"]["cost_usd"])
    )
    assert list(run.read_journals(BOUGHT)) == []
    assert provider_server.batches_summary()["requests"] == 3


async def test_a_drained_piece_in_batches_goes_on_with_what_is_out(
    run: RunFolder, buy: Buy, provider_server: ReplayServer
) -> None:
    write_part(run, in_batches=(12, 14, 18))
    provider_server.set_script({"synthetic": True, "batch": {"waits_s": 0, "takes_s": 1}})
    async with buy() as (dispatcher, lane):
        begun = asyncio.create_task(
            dispatch_piece(BOUGHT, run, MODELS, POLICY, dispatcher, lane, rows=3)
        )
        async with asyncio.timeout(5):
            while not lane.rows_out:  # noqa: ASYNC110 - a server
                await asyncio.sleep(0.02)
        await lane.drain()
        drained = await begun

    async with buy() as (dispatcher, lane):
        result = await dispatch_piece(BOUGHT, run, MODELS, POLICY, dispatcher, lane, rows=3)

    assert not drained.finished
    assert result.finished
    assert provider_server.batches_summary()["batches"] == 1
    assert provider_server.summary()["queries_billed_twice"] == 0


async def test_the_lanes_that_a_query_allows_go_with_it(run: RunFolder) -> None:
    write_part(run, in_batches=(12,))

    (bought,) = assignments_of(BOUGHT, run, MODELS, POLICY)
    (live,) = assignments_of(PIECE, run, MODELS, POLICY, rows=[14])

    assert (bought.row, bought.lane, bought.may_live) == (12, "batch", False)
    assert (live.row, live.lane, live.may_live) == (14, "live", True)


async def test_what_may_not_go_live_is_a_dead_letter_when_its_lane_fails(
    run: RunFolder, buy: Buy, provider_server: ReplayServer
) -> None:
    write_part(run, in_batches=(12, 14))
    script = {"synthetic": True, "batch": {"waits_s": 0, "takes_s": 0, "fails_retryably": 1}}
    provider_server.set_script(script)

    async with buy() as (dispatcher, lane):
        result = await dispatch_piece(BOUGHT, run, MODELS, POLICY, dispatcher, lane, rows=2)

    letters = run.read_dead_letters(BOUGHT)
    assert set(letters.column("reason").to_pylist()) == {"lane_failed"}
    assert result.dead == 2
    assert result.cost_usd == 0
    assert provider_server.ledger() == []


async def test_a_refused_key_stops_a_piece_in_batches_and_says_why(
    run: RunFolder, buy: Buy, provider_server: ReplayServer
) -> None:
    write_part(run, in_batches=(12, 14))
    provider_server.set_script({"synthetic": True, "batch": {"takes_s": 60}})
    async with buy() as (dispatcher, lane):
        begun = asyncio.create_task(
            dispatch_piece(BOUGHT, run, MODELS, POLICY, dispatcher, lane, rows=2)
        )
        async with asyncio.timeout(5):
            while not lane.rows_out:  # noqa: ASYNC110 - a server
                await asyncio.sleep(0.02)
        await lane.drain()
        await begun
    provider_server.set_script({"refused_keys": ["k"]})

    async with buy() as (dispatcher, lane):
        result = await dispatch_piece(BOUGHT, run, MODELS, POLICY, dispatcher, lane, rows=2)

    assert result.refused is not None
    assert not result.finished
