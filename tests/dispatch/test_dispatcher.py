"""The dispatcher against the three vendors on localhost, over HTTP."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Protocol

import pytest

from moa.catalog import AgreedPrice, Lane, Limits, Model, Rates, load_catalog
from moa.dispatch.budget import Budget, Purse
from moa.dispatch.dispatcher import Dispatcher
from moa.dispatch.journal import History, Journal, recover
from moa.dispatch.outcome import Assignment, Choice, Settled
from moa.dispatch.proof import PROOF_S
from moa.dispatch.quota import Owner, QuotaOwner
from moa.dispatch.retry import RetryPolicy
from moa.dispatch.settings import DispatchSettings
from moa.errors import KeyRefused
from moa.prices import PriceTable
from moa.providers.accounts import open_provider
from moa.replay.process import ReplayServer
from moa.request import ChatRequest
from moa.storage.journal_files import FileSink, read_when_closed

CATALOG = load_catalog("jobs/configs/demo_catalog.toml")
MINI, HAIKU, FLASH = (
    CATALOG.models[name]
    for name in ("openai/gpt-4o-mini", "anthropic/claude-3-haiku", "google/gemini-1.5-flash")
)
SETTINGS = DispatchSettings(
    max_in_flight=16,
    total_timeout_s=5,
    retry=RetryPolicy(6, 60),
    fallback=True,
    seed=1,
)
SYNTHETIC = {"synthetic": True}


def budget_of(limit_usd: Decimal) -> Budget:
    purse = Purse(limit_usd, holders=1)

    async def lease(least_usd: Decimal) -> Decimal:
        return purse.lease(least_usd)

    return Budget(lease)


async def calls_reach(server: ReplayServer, number: int, provider: str = "") -> None:
    """Another process counts the calls, so it has to be asked."""
    while True:
        calls = await asyncio.to_thread(server.ledger)
        if sum(provider in ("", call["provider"]) for call in calls) >= number:
            return
        await asyncio.sleep(0.02)


def assignment(n: int, *models: Model) -> Assignment:
    chat = ChatRequest.model_validate(
        {"messages": [{"role": "user", "content": f"What is {n} + {n}?"}]}
    )
    choices = tuple(Choice(model, 10.0, 50.0) for model in models)
    return Assignment(f"q{n}", 0, n, chat.canonical(), choices, "live", None, ["t"], [])


class Night:
    """A dispatcher and its journal."""

    def __init__(self, dispatcher: Dispatcher, journal_path: Path) -> None:
        self.dispatcher = dispatcher
        self.path = journal_path
        self.journal = Journal(FileSink(journal_path))

    async def answer(
        self, assignments: Sequence[Assignment], history: History | None = None
    ) -> list[Settled]:
        return await self.dispatcher.answer(assignments, self.journal, history or History())


class Open(Protocol):
    def __call__(
        self,
        *models: Model,
        settings: DispatchSettings = SETTINGS,
        budget: Budget | None = None,
        owners: Mapping[str, Owner] | None = None,
        lanes: Sequence[Lane] | None = ("live",),
        clock: Callable[[], float] = time.monotonic,
    ) -> AbstractAsyncContextManager[Night]: ...


@pytest.fixture
def open_night(provider_server: ReplayServer, tmp_path: Path) -> Open:
    tries = iter(range(100))

    @asynccontextmanager
    async def open_night(
        *models: Model,
        settings: DispatchSettings = SETTINGS,
        budget: Budget | None = None,
        owners: Mapping[str, Owner] | None = None,
        lanes: Sequence[Lane] | None = ("live",),
        clock: Callable[[], float] = time.monotonic,
    ) -> AsyncIterator[Night]:
        providers = {}
        for name in {model.provider for model in models}:
            account = CATALOG.accounts[name]
            providers[name] = open_provider(
                account,
                environ={account.api_key_env or "": "key"},
                base_url=provider_server.base_url(account.wire),
            )
        prices = PriceTable.build(models, lanes=lanes)
        dispatcher = Dispatcher(
            providers, models, prices, settings, budget=budget, owners=owners, clock=clock
        )
        night = Night(dispatcher, tmp_path / f"piece.{next(tries):03d}.jsonl")
        try:
            yield night
        finally:
            await dispatcher.close()
            await night.journal.close()

    return open_night


async def test_every_query_has_one_outcome_whatever_goes_wrong(
    provider_server: ReplayServer, open_night: Open
) -> None:
    faults = {
        "status_500": 0.1, "reset": 0.05, "cut_json": 0.05, "empty": 0.05, "refusal": 0.1,
        "rate_limited": 0.03, "retry_after_s": 0.2,
    }  # fmt: skip
    provider_server.set_script({**SYNTHETIC, "seed": 5, "faults": faults})
    models = [MINI, HAIKU, FLASH]
    asked = [assignment(n, models[n % 3], models[(n + 1) % 3]) for n in range(150)]

    async with open_night(*models) as night:
        settled = await night.answer(asked)

    entries = provider_server.ledger()
    billed = sum(
        (
            PriceTable.build(models).cost_usd(
                e["model"],
                "live",
                input_tokens=e["input_tokens"],
                output_tokens=e["output_tokens"],
            )
            for e in entries
            if e["fate"] in ("ok", "refusal")
        ),
        Decimal(0),
    )
    outcomes = [outcome for outcome, _ in settled]
    assert [o.query_id for o in outcomes] == [a.query_id for a in asked]
    assert {o.status for o in outcomes} == {"answered", "refused"}
    assert sum(o.attempts for o in outcomes) == len(entries)
    assert sum(o.cost_usd for o in outcomes) == billed
    assert provider_server.summary()["in_flight_max"] <= 3 * 16


async def test_a_vendor_that_asks_for_a_pause_gets_it(
    provider_server: ReplayServer, open_night: Open
) -> None:
    later = {"status": 429, "retry_after_s": 1}
    provider_server.set_script({**SYNTHETIC, "sequences": {"anthropic": [later]}})

    async with open_night(HAIKU) as night:
        ((outcome, _),) = await night.answer([assignment(1, HAIKU)])

    first, second = provider_server.ledger()
    assert outcome.status == "answered"
    assert outcome.attempts == 2
    assert second["arrived_s"] - first["ended_s"] >= 1.0


async def test_a_dead_vendor_holds_up_nobody_and_its_queries_go_elsewhere(
    provider_server: ReplayServer, open_night: Open
) -> None:
    outage = {"provider": "openai", "to_s": 600, "step": {"status": 503}}
    provider_server.set_script({**SYNTHETIC, "outages": [outage]})
    asked = [assignment(n, *((MINI, HAIKU) if n % 2 else (FLASH, MINI))) for n in range(60)]

    async with open_night(MINI, HAIKU, FLASH) as night:
        settled = await asyncio.wait_for(night.answer(asked), timeout=30)

    by_model = Counter((o.first_model, o.model) for o, _ in settled)
    calls = Counter(e["provider"] for e in provider_server.ledger())
    assert by_model == {(MINI.id, HAIKU.id): 30, (FLASH.id, FLASH.id): 30}
    assert calls["openai"] <= 3 * 16  # the breaker opened: not six tries for each of thirty


async def test_without_fallback_a_query_that_fails_for_good_is_a_dead_letter(
    provider_server: ReplayServer, open_night: Open
) -> None:
    provider_server.set_script(
        {**SYNTHETIC, "sequences": {"openai": [{"status": 400, "message": "Not like this."}]}}
    )

    async with open_night(MINI, settings=replace(SETTINGS, fallback=False)) as night:
        settled = await night.answer([assignment(1, MINI, HAIKU), assignment(2, MINI)])

    letters = [letter for _, letter in settled if letter is not None]
    (letter,) = letters
    assert sorted(o.status for o, _ in settled) == ["answered", "dead_letter"]
    assert letter.reason == "invalid_request"
    assert letter.detail.endswith("Not like this.")
    assert letter.attempts[0].status == 400
    assert sum(o.cost_usd > 0 for o, _ in settled) == 1


async def test_a_journal_answers_for_what_was_asked_before(
    provider_server: ReplayServer, open_night: Open
) -> None:
    provider_server.set_script(SYNTHETIC)
    asked = [assignment(n, MINI) for n in range(20)]
    async with open_night(MINI) as night:
        first = await night.answer(asked[:12])
    history = recover([read_when_closed(night.path)])

    async with open_night(MINI) as night:
        second = await night.answer(asked, history)

    assert [o for o, _ in second[:12]] == [o for o, _ in first]
    assert len(provider_server.ledger()) == 20
    assert provider_server.summary()["calls_per_query_max"] == 1


async def test_draining_keeps_what_was_out_and_leaves_the_rest(
    provider_server: ReplayServer, open_night: Open
) -> None:
    provider_server.set_script({**SYNTHETIC, "latency": {"median_s": 0.3}})
    asked = [assignment(n, MINI) for n in range(200)]

    async with open_night(MINI) as night:
        answering = asyncio.create_task(night.answer(asked))
        await calls_reach(provider_server, 20)
        await night.dispatcher.drain()
        settled = await answering

    history = recover([read_when_closed(night.path)])
    assert len(settled) == len(provider_server.ledger()) == len(history.outcomes) < 200
    assert not +history.unknown


@pytest.mark.parametrize("model", [MINI, HAIKU, FLASH], ids=lambda model: model.provider)
async def test_a_key_that_was_never_good_costs_one_call(
    provider_server: ReplayServer, open_night: Open, model: Model
) -> None:
    provider_server.set_script({**SYNTHETIC, "refused_keys": ["key"]})

    async with open_night(model) as night:
        with pytest.raises(KeyRefused, match=f"account '{model.provider}' refused its first call"):
            await night.answer([assignment(n, model) for n in range(50)])

    assert len(provider_server.ledger()) == 1


async def test_no_call_is_begun_that_would_go_over_the_budget(
    provider_server: ReplayServer, open_night: Open
) -> None:
    provider_server.set_script(SYNTHETIC)
    asked = [assignment(n, MINI) for n in range(100)]
    budget_usd = Decimal("0.001")

    async with open_night(MINI, budget=budget_of(budget_usd)) as night:
        settled = await night.answer(asked)

    spent = sum(o.cost_usd for o, _ in settled)
    reasons = Counter(o.reason for o, _ in settled)
    assert reasons["budget_spent"] > 10
    assert reasons[None] == len(provider_server.ledger())
    assert budget_usd / 2 < spent < budget_usd * 2


async def test_no_window_holds_more_calls_than_the_limit(
    provider_server: ReplayServer, open_night: Open
) -> None:
    limited = replace(MINI, limits=Limits(rpm=600))
    # The server sees calls in bunches when the machine is busy: its bucket is three seconds deep.
    provider_server.set_script({**SYNTHETIC, "limits": {MINI.id: {"rpm": 600, "burst_s": 3}}})

    async with open_night(limited) as night:
        settled = await night.answer([assignment(n, limited) for n in range(40)])

    peak = provider_server.summary(window_s=1.0)["peaks"][MINI.id]["requests"]
    statuses = Counter(e["status"] for e in provider_server.ledger())
    assert len(settled) == 40
    assert statuses == {200: 40}
    assert peak <= 20


async def test_a_model_has_no_more_calls_under_way_than_its_server_can_take(
    provider_server: ReplayServer, open_night: Open
) -> None:
    small = replace(MINI, limits=Limits(max_in_flight=3))
    provider_server.set_script({**SYNTHETIC, "latency": {"median_s": 0.05}})

    async with open_night(small) as night:
        settled = await night.answer([assignment(n, small) for n in range(30)])

    assert len(settled) == 30
    assert provider_server.summary()["in_flight_max"] == 3


async def test_a_bad_key_is_told_though_the_first_call_met_another_failure(
    provider_server: ReplayServer, open_night: Open
) -> None:
    provider_server.set_script(
        {**SYNTHETIC, "refused_keys": ["key"], "sequences": {"openai": [{"kind": "reset"}]}}
    )

    async with open_night(MINI, HAIKU) as night:
        with pytest.raises(KeyRefused):
            await night.answer([assignment(n, MINI, HAIKU) for n in range(50)])

    assert len(provider_server.ledger()) <= 3  # one at a time, at either account


async def test_a_vendor_that_comes_back_is_asked_again(
    provider_server: ReplayServer, open_night: Open
) -> None:
    skipped_s = [0.0]
    outage = {"provider": "openai", "to_s": 600, "step": {"status": 503}}
    provider_server.set_script({**SYNTHETIC, "outages": [outage]})

    async with open_night(MINI, HAIKU, clock=lambda: time.monotonic() + skipped_s[0]) as night:
        during = await night.answer([assignment(n, MINI, HAIKU) for n in range(40)])
        provider_server.set_script(SYNTHETIC)
        skipped_s[0] += 61  # the longest pause of a breaker
        probe = await night.answer([assignment(100, MINI, HAIKU)])
        after = await night.answer([assignment(n, MINI, HAIKU) for n in range(101, 121)])

    assert {outcome.model for outcome, _ in during} == {HAIKU.id}
    assert {outcome.model for outcome, _ in probe + after} == {MINI.id}


async def test_one_that_has_to_wait_holds_up_nobody_who_can_go_elsewhere(
    provider_server: ReplayServer, open_night: Open
) -> None:
    skipped_s = [0.0]
    outage = {"provider": "openai", "to_s": 600, "step": {"status": 503}}
    provider_server.set_script({**SYNTHETIC, "outages": [outage]})

    async with open_night(
        MINI,
        HAIKU,
        settings=replace(SETTINGS, retry=RetryPolicy(6, 600)),
        clock=lambda: time.monotonic() + skipped_s[0],
    ) as night:
        patient = asyncio.create_task(night.answer([assignment(n, MINI) for n in range(10)]))
        await calls_reach(provider_server, 5)
        both = [assignment(n, MINI, HAIKU) for n in range(10, 40)]
        moved = await asyncio.wait_for(night.answer(both), timeout=15)
        waited = not patient.done()
        provider_server.set_script(SYNTHETIC)
        skipped_s[0] += 61
        answered = await asyncio.wait_for(patient, timeout=30)

    assert waited
    assert {outcome.model for outcome, _ in moved} == {HAIKU.id}
    assert {outcome.model for outcome, _ in answered} == {MINI.id}


async def test_behind_a_failing_probe_nobody_waits_who_can_go_elsewhere(
    provider_server: ReplayServer, open_night: Open
) -> None:
    skipped_s = [0.0]
    outage = {"provider": "openai", "to_s": 600, "step": {"status": 503}}
    provider_server.set_script({**SYNTHETIC, "outages": [outage]})
    settings = replace(SETTINGS, retry=RetryPolicy(6, 600))

    async with open_night(
        MINI, HAIKU, settings=settings, clock=lambda: time.monotonic() + skipped_s[0]
    ) as night:
        await night.answer([assignment(n, MINI, HAIKU) for n in range(10)])
        skipped_s[0] += 61  # a probe is due: the line takes calls again
        mixed = [assignment(100, MINI, HAIKU), *[assignment(n, MINI) for n in range(101, 104)]]
        asyncio.create_task(night.answer(mixed)).add_done_callback(lambda _: None)
        both = [assignment(n, MINI, HAIKU) for n in range(104, 140)]
        moved = await asyncio.wait_for(night.answer(both), timeout=15)

    assert {outcome.model for outcome, _ in moved} == {HAIKU.id}


async def test_a_spent_quota_holds_up_nobody_who_can_go_elsewhere(
    provider_server: ReplayServer, open_night: Open
) -> None:
    tomorrow = {"status": 429, "retry_after_s": 4000}
    provider_server.set_script({**SYNTHETIC, "sequences": {"openai": [tomorrow]}})

    async with open_night(MINI, HAIKU) as night:
        both = [assignment(n, MINI, HAIKU) for n in range(20)]
        settled = await asyncio.wait_for(night.answer(both), timeout=20)
        ((stuck, _),) = await asyncio.wait_for(night.answer([assignment(30, MINI)]), timeout=5)

    calls = Counter(e["provider"] for e in provider_server.ledger())
    assert {outcome.model for outcome, _ in settled} == {HAIKU.id}
    assert calls == {"openai": 1, "anthropic": 20}
    assert stuck.reason == "rate_limited"  # nobody waits an hour without a word


async def test_a_journal_that_cannot_be_written_stops_the_dispatcher_and_loses_no_answer(
    provider_server: ReplayServer, open_night: Open, tmp_path: Path
) -> None:
    provider_server.set_script({**SYNTHETIC, "latency": {"median_s": 0.3}})
    broken = Journal(FileSink(tmp_path / "broken.001.jsonl"))
    await broken.close()

    async with open_night(MINI, HAIKU) as night:
        sound = asyncio.create_task(night.answer([assignment(n, MINI) for n in range(100)]))
        await calls_reach(provider_server, 10)
        with pytest.raises(OSError, match="Bad file"):
            await night.dispatcher.answer([assignment(200, HAIKU)], broken, History())
        settled = await asyncio.wait_for(sound, timeout=10)

    history = recover([read_when_closed(night.path)])
    assert 10 <= len(settled) == len(history.outcomes) < 100
    assert not +history.unknown


async def test_an_answer_that_was_lost_is_listed_and_taken_off_the_budget(
    provider_server: ReplayServer, open_night: Open
) -> None:
    lost = [{"kind": "cut_json"}, {"kind": "reset", "after": 0.5}, {"status": 503}]
    provider_server.set_script({**SYNTHETIC, "sequences": {"openai": lost}})
    one_usd = PriceTable.build([MINI]).cost_usd(MINI.id, "live", input_tokens=10, output_tokens=50)

    async with open_night(MINI, budget=budget_of(one_usd * 100)) as night:
        ((outcome, _),) = await night.answer([assignment(1, MINI)])
        settled = await night.answer([assignment(n, MINI) for n in range(2, 400)])

    answered = sum(o.status == "answered" for o, _ in settled)
    assert outcome.status == "answered"
    assert outcome.attempts == 4
    assert outcome.lost_answers == 2
    assert answered < 398


async def test_a_restart_knows_what_was_tried_before(
    provider_server: ReplayServer, open_night: Open
) -> None:
    provider_server.set_script({**SYNTHETIC, "sequences": {"openai": [{"kind": "cut_json"}]}})
    asked = [assignment(1, MINI)]
    async with open_night(MINI) as night:
        await night.answer(asked)
    lines = night.path.read_bytes().splitlines(keepends=True)
    cut = b"".join(line for line in lines if b'"e":"answered"' not in line)

    async with open_night(MINI) as night:
        ((outcome, _),) = await night.answer(asked, recover([cut]))

    assert outcome.lost_answers == 1
    assert outcome.unknown_calls == 1  # the one whose answer was cut out of the journal
    assert outcome.attempts == 3


async def test_who_can_go_elsewhere_leaves_the_queue_as_the_breaker_opens(
    provider_server: ReplayServer, open_night: Open
) -> None:
    outage = {"provider": "openai", "to_s": 600, "step": {"status": 503}}
    latency = {"openai": {"latency": {"median_s": 0.5}}}
    provider_server.set_script({**SYNTHETIC, "outages": [outage], "providers": latency})
    settings = replace(SETTINGS, retry=RetryPolicy(6, 600, first_backoff_s=60))

    # The clock stands still: no probe is ever due, and whoever waits for one waits for ever.
    async with open_night(MINI, HAIKU, settings=settings, clock=lambda: 0.0) as night:
        stuck = asyncio.create_task(night.answer([assignment(n, MINI) for n in range(40)]))
        both = [assignment(n, MINI, HAIKU) for n in range(40, 80)]
        moved = await asyncio.wait_for(night.answer(both), timeout=20)
        waits = not stuck.done()

    assert waits
    assert {outcome.model for outcome, _ in moved} == {HAIKU.id}


async def test_what_failed_on_a_vendor_that_is_out_does_not_wait_to_try_it_again(
    provider_server: ReplayServer, open_night: Open
) -> None:
    outage = {"provider": "openai", "to_s": 600, "step": {"status": 503, "retry_after_s": 40}}
    provider_server.set_script({**SYNTHETIC, "outages": [outage]})

    async with open_night(MINI, HAIKU) as night:
        answering = asyncio.create_task(
            night.answer([assignment(n, MINI, HAIKU) for n in range(16)])
        )
        # The four whose failures came before it was known wait as they were told to.
        async with asyncio.timeout(20):
            await calls_reach(provider_server, 12, "anthropic")
        await night.dispatcher.drain()
        settled = await answering

    assert {outcome.model for outcome, _ in settled} == {HAIKU.id}


async def test_one_call_alone_goes_to_a_model_that_takes_few_at_once(
    provider_server: ReplayServer, open_night: Open
) -> None:
    provider_server.set_script(SYNTHETIC)
    model = replace(MINI, limits=Limits(max_in_flight=2))

    async with open_night(model) as night:
        async with asyncio.timeout(20):
            ((first, _),) = await night.answer([assignment(1, model)])
            settled = await night.answer([assignment(n, model) for n in range(2, 40)])

    assert {outcome.status for outcome, _ in [(first, None), *settled]} == {"answered"}
    assert provider_server.summary()["in_flight_max"] <= 2


async def test_a_limit_that_another_catalog_names_stops_nobody(
    provider_server: ReplayServer, open_night: Open
) -> None:
    provider_server.set_script({**SYNTHETIC, "latency": {"median_s": 0.05}})
    limited = replace(MINI, limits=Limits(max_in_flight=2))
    owners = {"openai": QuotaOwner()}

    async with (
        open_night(MINI, owners=owners) as one,
        open_night(limited, owners=owners) as other,
        asyncio.timeout(40),
    ):
        settled = await asyncio.gather(
            one.answer([assignment(n, MINI) for n in range(60)]),
            other.answer([assignment(n, limited) for n in range(60, 120)]),
        )

    assert [len(part) for part in settled] == [60, 60]


async def test_what_was_out_when_a_days_quota_was_spent_waits_like_what_is_behind_it(
    provider_server: ReplayServer, open_night: Open
) -> None:
    spent = {"status": 429, "quota": "day", "retry_after_s": 400}
    steps = ["ok", *[{**spent, "latency_s": 0.3}] * 4]
    patient = replace(SETTINGS, max_in_flight=4, retry=RetryPolicy(6, 1800))
    provider_server.set_script({**SYNTHETIC, "sequences": {"openai": steps}})

    async with open_night(MINI, settings=patient) as night:
        answering = asyncio.create_task(night.answer([assignment(n, MINI) for n in range(30)]))
        await calls_reach(provider_server, 5)
        await asyncio.sleep(1)  # what was out has come back: it waits now, as nobody can see
        await night.dispatcher.drain()
        settled = await answering

    assert [outcome.status for outcome, _ in settled] == ["answered"]


async def test_a_call_that_was_out_at_a_crash_can_be_held(
    provider_server: ReplayServer, open_night: Open
) -> None:
    provider_server.set_script(SYNTHETIC)
    history = History(unknown=Counter({1: 1}))

    async with open_night(MINI, settings=replace(SETTINGS, hold_unknown=True)) as night:
        settled = await night.answer([assignment(1, MINI), assignment(2, MINI)], history)

    (held, letter), (other, _) = settled
    assert (held.reason, held.unknown_calls) == ("fate_unknown", 1)
    assert letter is not None
    assert other.status == "answered"
    assert len(provider_server.ledger()) == 1


async def test_no_query_costs_more_than_one_may(
    provider_server: ReplayServer, open_night: Open
) -> None:
    provider_server.set_script(SYNTHETIC)
    dear, cheap = CATALOG.models["openai/gpt-4o"], MINI
    cap = replace(SETTINGS, max_usd_per_query=Decimal("0.0001"))

    async with open_night(dear, cheap, settings=cap) as night:
        settled = await night.answer([assignment(1, dear, cheap), assignment(2, dear)])

    (first, _), (second, _) = settled
    assert (first.status, first.model) == ("answered", cheap.id)
    assert (second.status, second.reason) == ("dead_letter", "query_budget_spent")
    assert [call["model"] for call in provider_server.ledger()] == [cheap.id]


async def test_without_capacity_in_flex_the_live_lane_is_used(
    provider_server: ReplayServer, open_night: Open
) -> None:
    provider_server.set_script({**SYNTHETIC, "flex_unavailable": 1.0})
    half = Rates(Decimal("0.075"), Decimal("0.3"), Decimal("0.075"), Decimal("0.075"))
    model = replace(MINI, prices=(AgreedPrice("flex", (half,), "the vendor's page"),))

    async with open_night(model, lanes=("live", "flex")) as night:
        ((outcome, _),) = await night.answer([replace(assignment(1, model), lane="flex")])

    assert (outcome.status, outcome.lane, outcome.attempts) == ("answered", "live", 2)
    assert [call["status"] for call in provider_server.ledger()] == [429, 200]


def sold_in_flex(model: Model) -> Model:
    half = Rates(Decimal("0.075"), Decimal("0.3"), Decimal("0.075"), Decimal("0.075"))
    agreed = (AgreedPrice("flex", (half,), "the vendor's page"),)
    return replace(model, lanes=("live", "flex"), prices=agreed)


async def test_a_flex_query_goes_on_live_to_a_model_that_is_not_sold_in_flex(
    provider_server: ReplayServer, open_night: Open
) -> None:
    outage = {"provider": "openai", "to_s": 60, "step": {"status": 503}}
    provider_server.set_script({**SYNTHETIC, "outages": [outage]})
    mini = sold_in_flex(MINI)
    only_flex = replace(
        assignment(2, mini, HAIKU), lane="flex", allowed_lanes=["flex"]
    )  # which no other model is sold in
    asked = [replace(assignment(1, mini, HAIKU), lane="flex"), only_flex]
    hasty = replace(SETTINGS, retry=RetryPolicy(2, 5))

    async with open_night(mini, HAIKU, lanes=None, settings=hasty) as night:
        (one, _), (other, _) = await night.answer(asked)

    assert (one.status, one.model, one.lane) == ("answered", HAIKU.id, "live")
    assert (other.status, other.reason) == ("dead_letter", "vendor_failed")


async def test_a_query_that_may_only_be_bought_in_flex_never_goes_live(
    provider_server: ReplayServer, open_night: Open
) -> None:
    provider_server.set_script({**SYNTHETIC, "flex_unavailable": 1.0})
    model = sold_in_flex(MINI)
    asked = replace(assignment(1, model), lane="flex", allowed_lanes=["flex"])
    hasty = replace(SETTINGS, retry=RetryPolicy(2, 5))

    async with open_night(model, lanes=None, settings=hasty) as night:
        ((outcome, _),) = await night.answer([asked])

    assert (outcome.status, outcome.reason) == ("dead_letter", "rate_limited")
    assert {call["status"] for call in provider_server.ledger()} == {429}


async def test_flex_calls_are_not_cut_for_taking_longer_than_live_ones(
    provider_server: ReplayServer, open_night: Open
) -> None:
    provider_server.set_script(
        {**SYNTHETIC, "sequences": {"openai": [*["ok"] * 150, {"latency_s": 4}]}}
    )
    model = sold_in_flex(MINI)

    async with open_night(model, lanes=None) as night:
        await night.answer([assignment(n, model) for n in range(150)])
        ((slow, _),) = await night.answer([replace(assignment(150, model), lane="flex")])

    assert (slow.status, slow.lane, slow.attempts) == ("answered", "flex", 1)


async def test_a_call_that_hangs_is_cut_when_it_is_known_how_long_answers_take(
    provider_server: ReplayServer, open_night: Open
) -> None:
    steps = [*["ok"] * 5, "hang", *["ok"] * 300]
    provider_server.set_script({**SYNTHETIC, "sequences": {"openai": steps}})

    async with open_night(MINI, settings=replace(SETTINGS, total_timeout_s=600)) as night:
        async with asyncio.timeout(60):
            settled = await night.answer([assignment(n, MINI) for n in range(200)])

    assert {outcome.status for outcome, _ in settled} == {"answered"}
    assert sum(outcome.lost_answers for outcome, _ in settled) == 1
    assert len(provider_server.ledger()) == 201


async def test_a_query_waits_for_its_model_while_that_is_cheaper_than_its_next_best(
    provider_server: ReplayServer, open_night: Open
) -> None:
    outage = {"provider": "openai", "to_s": 2, "step": {"status": 503}}
    provider_server.set_script({**SYNTHETIC, "outages": [outage]})
    patient = replace(
        SETTINGS, waiting_usd_per_hour=Decimal("0.05"), retry=RetryPolicy(1, 60)
    )  # one try each: what fails before the breaker opens goes elsewhere, the rest waits

    def worth(n: int, here_usd: float) -> Assignment:
        one = assignment(n, MINI, HAIKU)
        first, second = one.choices
        return replace(one, choices=(first._replace(worth_usd=here_usd), second))

    asked = [worth(n, 0.01 if n % 2 else 0.0) for n in range(40)]
    async with open_night(MINI, HAIKU, settings=patient) as night:
        async with asyncio.timeout(40):
            settled = await night.answer(asked)

    models = Counter((n % 2, outcome.model) for n, (outcome, _) in enumerate(settled))
    assert models[1, MINI.id] >= 20 - 8
    assert models[0, MINI.id] == 0


async def test_two_dispatchers_of_one_account_find_out_together_that_its_key_is_bad(
    provider_server: ReplayServer, open_night: Open
) -> None:
    provider_server.set_script({**SYNTHETIC, "refused_keys": ["key"]})
    owners = {"openai": QuotaOwner()}

    async def refused() -> None:
        async with open_night(MINI, owners=owners) as night:
            with pytest.raises(KeyRefused):
                await night.answer([assignment(n, MINI) for n in range(20)])

    await asyncio.gather(refused(), refused())

    assert len(provider_server.ledger()) == 1


async def test_a_dispatcher_without_money_for_its_first_call_holds_up_no_other(
    provider_server: ReplayServer, open_night: Open
) -> None:
    provider_server.set_script(SYNTHETIC)
    owners = {"openai": QuotaOwner()}

    async def nothing(_: Decimal) -> Decimal:
        return Decimal(0)

    asked = [assignment(n, MINI) for n in range(5)]
    async with open_night(MINI, owners=owners, budget=Budget(nothing)) as poor:
        unpaid = await poor.answer(asked)
        async with open_night(MINI, owners=owners) as rich, asyncio.timeout(PROOF_S / 4):
            paid = await rich.answer(asked)

    assert {outcome.reason for outcome, _ in unpaid} == {"budget_spent"}
    assert {outcome.status for outcome, _ in paid} == {"answered"}


async def test_a_call_that_still_waits_for_its_money_is_not_sent_by_a_run_that_stops(
    provider_server: ReplayServer, open_night: Open
) -> None:
    provider_server.set_script(SYNTHETIC)
    asked, granted = asyncio.Event(), asyncio.Event()

    async def lease(least_usd: Decimal) -> Decimal:
        asked.set()
        await granted.wait()
        return least_usd * 100

    async with open_night(MINI, budget=Budget(lease)) as night:
        answering = asyncio.create_task(night.answer([assignment(n, MINI) for n in range(5)]))
        await asked.wait()
        draining = asyncio.create_task(night.dispatcher.drain())
        await asyncio.sleep(0.05)
        granted.set()
        await draining
        settled = await answering

    assert settled == []
    assert provider_server.ledger() == []
