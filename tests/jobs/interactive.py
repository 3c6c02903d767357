"""Calls that somebody waits for, a few a second, until this process is told to end.

    python -m tests.jobs.interactive CONFIG

On SIGTERM it prints how many were answered, and the longest time that one waited to be sent.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import tempfile
import time
from pathlib import Path

import ray

from moa.catalog import Model, load_catalog
from moa.cluster.quotas import owners_of
from moa.config import load_config
from moa.dispatch.dispatcher import Dispatcher
from moa.dispatch.journal import History, Journal
from moa.dispatch.outcome import Assignment, Choice
from moa.dispatch.retry import RetryPolicy
from moa.dispatch.settings import DispatchSettings
from moa.prices import PriceTable
from moa.providers.accounts import fingerprint, open_provider
from moa.request import ChatRequest
from moa.storage.journal_files import FileSink

MODEL = "openai/gpt-4o-mini"
EVERY_S = 0.25


async def main(config: str) -> None:
    """Ask until told to stop."""
    catalog = load_catalog(load_config(config).catalog)
    model = catalog.models[MODEL]
    account = catalog.accounts[model.provider]
    settings = DispatchSettings(
        max_in_flight=16,
        total_timeout_s=20,
        retry=RetryPolicy(6, 60),
        fallback=False,
        seed=0,
        interactive=True,
        reserve=0.05,
    )
    dispatcher = Dispatcher(
        {account.name: open_provider(account, environ=os.environ)},
        [model],
        PriceTable.build([model]),
        settings,
        owners=owners_of({account.name: fingerprint(account, os.environ)}),
    )
    told = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, told.set)
    with tempfile.TemporaryDirectory() as folder:
        journal = Journal(FileSink(Path(folder) / "interactive.jsonl"))
        waits: list[float] = []
        asking: set[asyncio.Task[None]] = set()
        while not told.is_set():
            one = ask(dispatcher, journal, len(asking), waits, model)
            asking.add(asyncio.create_task(one))
            await asyncio.sleep(EVERY_S)
        await asyncio.gather(*asking)
        await dispatcher.close()
        await journal.close()
    sys.stdout.write(f"{len(waits)} {max(waits)}\n")


async def ask(
    dispatcher: Dispatcher, journal: Journal, number: int, waits: list[float], model: Model
) -> None:
    """One call; how long it took beside the vendor's own time."""
    chat = {"messages": [{"role": "user", "content": f"interactive {number}"}]}
    request = ChatRequest.model_validate(chat).canonical()
    choices = (Choice(model, 10.0, 50.0),)
    one = Assignment(f"i{number}", 0, number, request, choices, "live", None, [], [])
    started = time.monotonic()
    ((outcome, _),) = await dispatcher.answer([one], journal, History())
    waits.append(time.monotonic() - started - (outcome.latency_s or 0.0))


if __name__ == "__main__":
    ray.init(address=os.environ["RAY_ADDRESS"], logging_level=logging.ERROR)
    asyncio.run(main(sys.argv[1]))
    ray.shutdown()
