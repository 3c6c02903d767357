"""A batch lane of one account against the replay server, killed and started as often as a test
likes."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from decimal import Decimal
from pathlib import Path
from typing import Any

from moa.catalog import Account, AgreedPrice, Limits, Model, load_catalog
from moa.dispatch.batch_file import BatchNames
from moa.dispatch.batch_lane import BatchLane
from moa.dispatch.budget import Budget, Purse
from moa.dispatch.dispatcher import Dispatcher
from moa.dispatch.journal import History, Journal, recover
from moa.dispatch.outcome import Assignment, Choice, Settled
from moa.dispatch.retry import RetryPolicy
from moa.dispatch.settings import BatchSettings, DispatchSettings
from moa.prices import PriceTable
from moa.providers.accounts import open_batches, open_provider
from moa.providers.batch import BatchLimits, BatchProvider
from moa.replay.process import ReplayServer
from moa.request import ChatRequest
from moa.storage.journal_files import FileSink

CATALOG = load_catalog("jobs/configs/demo_catalog.toml")
VERTEX = Account(
    "vertex", "gemini", api_key_env="VERTEX_KEY", project_env="PROJECT", location="europe-west4",
    batch_folder="gs://ours/batches",
)  # fmt: skip
KINDS = ("openai", "anthropic", "gemini", "vertex")
QUICK = {"waits_s": 0.02, "takes_s": 0.05}
NEVER = {"fates": ["stuck"] * 9}
SETTINGS = BatchSettings(first_look_s=0.05, longest_look_s=0.2)


def _model(name: str, provider: str = "") -> Model:
    """At half its live price in batches, which the price list does not know of all."""
    model = CATALOG.models[name]
    rates = PriceTable.build([model]).price(model.id, "live").rates
    half = tuple(
        replace(
            one,
            input=one.input / 2,
            output=one.output / 2,
            cached_input=one.cached_input / 2,
            cache_write=one.cache_write / 2,
        )
        for one in rates
    )
    return replace(
        model,
        id=model.id.replace("google/", f"{provider}/") if provider else model.id,
        provider=provider or model.provider,
        lanes=("live", "batch"),
        prices=(AgreedPrice("batch", half, "a test"),),
    )


MODELS = {
    "openai": _model("openai/gpt-4o-mini"),
    "anthropic": _model("anthropic/claude-3-haiku"),
    "gemini": _model("google/gemini-1.5-flash"),
    "vertex": _model("google/gemini-1.5-flash", "vertex"),
}
OTHER = _model("openai/gpt-4o")


def asked(
    row: int, model: Model, *others: Model, lanes: list[str] | None = None, partition: int = 0
) -> Assignment:
    """A query that every row asks in other words."""
    words = [{"role": "user", "content": f"What is {row} + {row}, in part {partition}?"}]
    chat = ChatRequest.model_validate({"messages": words, "max_output_tokens": 50})
    choices = tuple(Choice(one, 10.0, 50.0) for one in (model, *others))
    return Assignment(
        f"q{row}", partition, row, chat.canonical(), choices, "batch", None, ["t"], [], lanes
    )


class Killed(Exception):
    """The process dies here."""


@dataclass
class Deaths:
    """Where a sink's process dies: before or after a line that tells of this event, of any where
    none is named.
    """

    event: str = ""
    after: bool = True
    skip: int = 0

    def come(self, data: bytes) -> bool:
        """Whether this is the line."""
        self.skip -= not self.event or f'"e":"{self.event}"'.encode() in data
        return self.skip < 0


class MortalSink:
    """A journal file whose process dies at a line; nothing is written from then on."""

    def __init__(self, path: Path, deaths: Deaths | None) -> None:
        self._sink = FileSink(path)
        self._deaths = deaths
        self.dead = asyncio.Event()
        self.buried = asyncio.Event()

    def append(self, data: bytes) -> None:
        if self.dead.is_set():
            return
        if self._deaths is not None and self._deaths.come(data):
            self.dead.set()
            if not self._deaths.after:
                return
        self._sink.append(data)

    async def commit(self) -> None:
        if self.dead.is_set():  # nobody of a dead process goes on
            await self.buried.wait()
            raise OSError("this process is dead")

    async def close(self) -> None:
        await self._sink.close()


@dataclass
class Counted:
    """A budget, and all that was leased for it."""

    budget: Budget
    leased_usd: Decimal = Decimal(0)

    @property
    def charged_usd(self) -> Decimal:
        return self.leased_usd - self.budget.in_hand_usd


def counted(limit_usd: Decimal) -> Counted:
    purse = Purse(limit_usd, holders=1)

    async def lease(least_usd: Decimal) -> Decimal:
        granted_usd = purse.lease(least_usd)
        money.leased_usd += granted_usd
        return granted_usd

    money = Counted(Budget(lease))
    return money


@dataclass
class Start:
    """One process: a lane, its dispatcher and its journals."""

    lane: BatchLane
    dispatcher: Dispatcher
    batches: BatchProvider
    money: Counted
    journal: Journal
    history: History
    account: str
    sink: MortalSink
    loads: list[Sequence[int] | None] = field(default_factory=list)

    async def answer(self, assignments: Sequence[Assignment]) -> list[Settled]:
        async def load(rows: Sequence[int] | None) -> list[Assignment]:
            self.loads.append(rows)
            await asyncio.sleep(0)
            return [one for one in assignments if rows is None or one.row in rows]

        return await self.lane.answer(self.account, load, self.journal, self.history)

    async def dies_before(self, answering: asyncio.Future[list[Settled]]) -> bool:
        """Whether the process dies before the answers are there; nothing of it is left then."""
        dying = asyncio.ensure_future(self.sink.dead.wait())
        await asyncio.wait((dying, answering), return_when=asyncio.FIRST_COMPLETED)
        dying.cancel()
        if self.sink.dead.is_set():
            answering.cancel()
            self.sink.buried.set()
        await asyncio.gather(answering, dying, return_exceptions=True)
        return self.sink.dead.is_set()


class Night:
    """One piece of a run on one account, over any number of starts."""

    def __init__(self, server: ReplayServer, folder: Path, kind: str) -> None:
        self.server = server
        self.folder = folder
        self.kind = kind
        self.model = MODELS[kind]
        self.account = VERTEX if kind == "vertex" else CATALOG.accounts[self.model.provider]
        self.starts = 0
        self.name = "piece"
        self.key = "key"

    def script(self, **batch: object) -> None:
        self.server.set_script({"synthetic": True, "batch": {**QUICK, **batch}})

    def rows(
        self, count: int, first: int = 0, *others: Model, lanes: list[str] | None = None
    ) -> list[Assignment]:
        rows = range(first, first + count)
        return [asked(row, self.model, *others, lanes=lanes) for row in rows]

    def history(self) -> History:
        """What all starts so far have left."""
        paths = sorted(self.folder.glob(f"{self.name}.*.jsonl"))
        return recover(path.read_bytes() for path in paths)

    @asynccontextmanager
    async def start(
        self,
        settings: BatchSettings = SETTINGS,
        *,
        limit_usd: Decimal = Decimal(1000),
        limits: Limits | None = None,
        deaths: Deaths | None = None,
        wrap: Callable[[BatchProvider], Any] | None = None,
        fallback: Collection[Model] = (),
    ) -> AsyncIterator[Start]:
        history = self.history()
        self.starts += 1
        sink = MortalSink(self.folder / f"{self.name}.{self.starts:03}.jsonl", deaths)
        environ = {
            name: self.key for name in (self.account.api_key_env, self.account.project_env) if name
        }
        base_url = self.server.base_url(self.account.wire)
        self.model = replace(self.model, limits=limits or Limits())
        models = [self.model, *fallback]
        prices = PriceTable.build(models, lanes=("live", "batch"))
        provider = open_provider(self.account, environ=environ, base_url=base_url)
        batches: Any = open_batches(self.account, environ=environ, base_url=base_url)
        batches = wrap(batches) if wrap else batches
        money = counted(limit_usd - history.spent_usd)
        dispatcher = Dispatcher(
            {self.account.name: provider},
            models,
            prices,
            DispatchSettings(16, 5, RetryPolicy(6, 60), True, 1),
            budget=money.budget,
        )
        lane = BatchLane(
            {self.account.name: batches},
            prices,
            settings,
            BatchNames("file:///runs/mine"),
            dispatcher,
            money.budget,
        )
        start = Start(
            lane,
            dispatcher,
            batches,
            money,
            Journal(sink),
            history,
            self.account.name,
            sink,
        )
        try:
            yield start
        finally:
            await lane.close()
            await dispatcher.close()
            await sink.close()

    async def killed(
        self,
        assignments: Sequence[Assignment],
        at: Deaths | Callable[[], bool],
        settings: BatchSettings = SETTINGS,
    ) -> None:
        """A start that dies at a line of its journal, or as soon as something is so."""
        deaths = at if isinstance(at, Deaths) else None
        async with self.start(settings, deaths=deaths) as start:
            answering = asyncio.ensure_future(start.answer(assignments))
            if not isinstance(at, Deaths):
                await until(at)
                start.sink.dead.set()
            assert await start.dies_before(answering), "it ended before it could die"

    def bill_usd(self) -> Decimal:
        """What the server has billed, at the prices of each lane."""
        prices = PriceTable.build([self.model, OTHER], lanes=("live", "batch"))
        ids = {"google/gemini-1.5-flash": MODELS[self.kind].id}
        return sum(
            (
                prices.cost_usd(
                    ids.get(one["model"], one["model"]),
                    one["lane"],
                    input_tokens=one["input_tokens"],
                    output_tokens=one["output_tokens"],
                )
                for one in self.server.ledger()
            ),
            Decimal(0),
        )

    def lanes(self) -> Counter[str]:
        """How many answers the server has billed in each lane."""
        billed = (one for one in self.server.ledger() if one["input_tokens"])
        return Counter(one["lane"] for one in billed)


async def until(so: Callable[[], bool], within_s: float = 10) -> None:
    """Another process, or another task, gets there by itself."""
    async with asyncio.timeout(within_s):
        while not await asyncio.to_thread(so):  # noqa: ASYNC110 - a server
            await asyncio.sleep(0.02)


def in_s(seconds: float) -> BatchSettings:
    """With a deadline."""
    return replace(SETTINGS, deadline_s=time.time() + seconds)


def costs_usd(settled: Sequence[Settled]) -> Decimal:
    return sum((outcome.cost_usd for outcome, _ in settled), Decimal(0))


def rows_of(settled: Sequence[Settled]) -> list[int]:
    return sorted(outcome.row for outcome, _ in settled)


def by_lane(settled: Sequence[Settled]) -> Mapping[str | None, int]:
    return Counter(outcome.lane for outcome, _ in settled)


def with_limits(requests: int, size_bytes: int = 10**6) -> type:
    class Tight:
        """A vendor that takes less in one batch."""

        limits = BatchLimits(requests, size_bytes)

        def __init__(self, batches: BatchProvider) -> None:
            self._batches = batches

        def __getattr__(self, name: str) -> object:
            return getattr(self._batches, name)

    return Tight


class Gone:
    """Somebody deletes the results before they are fetched."""

    def __init__(self, batches: BatchProvider) -> None:
        self._batches = batches

    def __getattr__(self, name: str) -> object:
        return getattr(self._batches, name)

    async def look(self, batch_id: str) -> object:
        status = await self._batches.look(batch_id)
        return replace(status, results="file-none") if status.results else status


def assert_whole(night: Night, start: Start, settled: Sequence[Settled], rows: int) -> None:
    """Every query has one outcome, and every answer was billed and paid once."""
    assert rows_of(settled) == list(range(rows))
    assert costs_usd(settled) == night.bill_usd() == start.money.charged_usd
    summary = night.server.summary()
    assert summary["queries_billed_twice"] == 0
    assert night.history().batches == {}
