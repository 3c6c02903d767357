"""Dispatch against a bare loop: what an outcome costs beside a call that nothing is done about.

    python -m tests.bench.bench_dispatch [--calls 5000]

Both send the same requests through the same provider to the same server on localhost, one process
each: the bare loop awaits `provider.complete`, the dispatcher journals, limits, prices and keeps an
outcome. The figure to look at is the ratio of CPU per call.
"""

from __future__ import annotations

import argparse
import asyncio
import resource
import tempfile
import time
from collections.abc import Awaitable, Callable
from decimal import Decimal
from pathlib import Path

from moa.catalog import Model, load_catalog
from moa.dispatch.budget import Budget, Purse
from moa.dispatch.dispatcher import Dispatcher, DispatchSettings
from moa.dispatch.journal import History, Journal
from moa.dispatch.outcome import Assignment, Choice
from moa.dispatch.retry import RetryPolicy
from moa.prices import PriceTable
from moa.providers.accounts import open_provider
from moa.providers.provider import Provider, Request
from moa.replay.process import replay_server
from moa.request import ChatRequest
from moa.storage.journal_files import FileSink
from tests.bench.results import record

IN_FLIGHT = 64
TIMEOUT_S = 60.0


def main() -> None:
    """Measure each vendor's adapter both ways, in turn, three times; report the medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=5000)
    calls = parser.parse_args().calls
    catalog = load_catalog("jobs/configs/demo_catalog.toml")
    figures = {}
    with replay_server(synthetic=True) as server:
        for name in ("openai/gpt-4o-mini", "anthropic/claude-3-haiku", "google/gemini-1.5-flash"):
            model = catalog.models[name]
            account = catalog.accounts[model.provider]
            url = server.base_url(account.wire)
            environ = {account.api_key_env or "": "replay"}
            rounds = []
            for _ in range(3):
                both = []
                for way in (bare, dispatched):
                    provider = open_provider(account, environ=environ, base_url=url)
                    both.append(asyncio.run(measured(way, provider, model, calls)))
                rounds.append(both)
            figures[name] = {
                "bare": middle([a for a, _ in rounds]),
                "dispatched": middle([b for _, b in rounds]),
            }
    print(f"{'model':28} {'bare ms CPU':>12} {'dispatched':>11} {'ratio':>6} {'calls/s':>8}")
    for name, one in figures.items():
        print(
            f"{name:28} {one['bare']['cpu_ms']:>12.3f} {one['dispatched']['cpu_ms']:>11.3f} "
            f"{one['dispatched']['cpu_ms'] / one['bare']['cpu_ms']:>6.2f} "
            f"{one['dispatched']['per_s']:>8.0f}"
        )
    record("dispatch", {"calls": calls, "in_flight": IN_FLIGHT, "models": figures})


Way = Callable[[Provider, Model, list[str]], Awaitable[None]]


async def measured(way: Way, provider: Provider, model: Model, calls: int) -> dict[str, float]:
    """CPU of this process per call in ms, and calls a second; a tenth goes first, unmeasured."""
    await way(provider, model, requests(calls // 10, "warm"))
    cpu, started = cpu_s(), time.perf_counter()
    await way(provider, model, requests(calls, "query"))
    spent, wall = cpu_s() - cpu, time.perf_counter() - started
    await provider.close()
    return {"cpu_ms": spent / calls * 1e3, "per_s": calls / wall}


async def bare(provider: Provider, model: Model, bodies: list[str]) -> None:
    """As many loops as calls in flight, each awaiting one call after the other."""
    left = iter(enumerate(bodies))

    async def loop() -> None:
        for number, body in left:
            chat = ChatRequest.model_validate_json(body)
            request = Request(f"q{number}", chat, model, "live")
            await provider.complete(request, timeout_s=TIMEOUT_S)

    await asyncio.gather(*[loop() for _ in range(IN_FLIGHT)])


async def dispatched(provider: Provider, model: Model, bodies: list[str]) -> None:
    """The dispatcher, with a journal on disk."""
    settings = DispatchSettings(
        max_in_flight=IN_FLIGHT,
        total_timeout_s=TIMEOUT_S,
        retry=RetryPolicy(6, 600),
        fallback=True,
        replicas=1,
        seed=0,
    )
    prices = PriceTable.build([model])
    dispatcher = Dispatcher(
        {model.provider: provider}, [model], prices, settings, budget=budget_of(Decimal(1000))
    )
    assignments = [
        Assignment(f"q{n}", 0, n, body, (Choice(model, 50.0, 100.0),), "live", None, [], [])
        for n, body in enumerate(bodies)
    ]
    with tempfile.TemporaryDirectory() as folder:
        journal = Journal(FileSink(Path(folder) / "bench.001.jsonl"))
        settled = await dispatcher.answer(assignments, journal, History())
        await journal.close()
    await dispatcher.drain()
    assert len(settled) == len(bodies)


def budget_of(limit_usd: Decimal) -> Budget:
    """Of the only dispatcher that there is."""
    purse = Purse(limit_usd, holders=1)

    async def lease(least_usd: Decimal) -> Decimal:
        return purse.lease(least_usd)

    return Budget(lease)


def requests(count: int, word: str) -> list[str]:
    """Canonical requests of one short message each."""
    return [
        f'{{"messages":[{{"role":"user","content":"{word} {n}: how many primes below {n}?"}}]}}'
        for n in range(count)
    ]


def middle(rounds: list[dict[str, float]]) -> dict[str, float]:
    """The round with the median CPU."""
    return sorted(rounds, key=lambda r: r["cpu_ms"])[len(rounds) // 2]


def cpu_s() -> float:
    """CPU seconds of this process, all threads."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    main()
