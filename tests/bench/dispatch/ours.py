"""Our side: the dispatcher alone, with what it always has: a journal on disk, prices, outcomes."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from moa.catalog import Limits, load_catalog
from moa.dispatch.dispatcher import Dispatcher
from moa.dispatch.heap import calm_collector
from moa.dispatch.journal import History, Journal
from moa.dispatch.outcome import DEAD_LETTER, Assignment, Choice
from moa.dispatch.retry import RetryPolicy
from moa.dispatch.settings import DispatchSettings
from moa.prices import PriceTable
from moa.providers.accounts import open_provider
from moa.replay.server import provider_path
from moa.request import ChatRequest, Message
from moa.storage.journal_files import FileSink
from tests.bench.dispatch.vendors import VENDORS
from tests.bench.dispatch.work import Tally, Work, key_of

CATALOG = "jobs/configs/demo_catalog.toml"
EXPECTED_TOKENS = (50.0, 100.0)
"""Of prompt and output, as a router may have said."""


def open_dispatcher(work: Work) -> tuple[Dispatcher, list[Choice]]:
    """A dispatcher for all accounts of the work, and a model of each account."""
    catalog = load_catalog(CATALOG)
    like = catalog.models[VENDORS[work.wire].model]
    account = catalog.accounts[like.provider]
    providers, models = {}, []
    for n, api_name in enumerate(work.api_names(like.api_name)):
        name = account.name if work.accounts == 1 else f"{account.name}-{n}"
        providers[name] = open_provider(
            replace(account, name=name),
            environ={account.api_key_env or "": key_of(n)},
            base_url=work.server_url + provider_path(work.wire),
        )
        models.append(
            replace(
                like,
                id=f"{name}/{like.id.partition('/')[2]}",
                provider=name,
                api_name=api_name,
                limits=Limits(rpm=work.rpm),
            )
        )
    settings = DispatchSettings(
        max_in_flight=work.in_flight,
        total_timeout_s=work.timeout_s,
        retry=RetryPolicy(max_attempts=6, give_up_after_s=1800),
        fallback=True,
        seed=0,
    )
    dispatcher = Dispatcher(providers, models, PriceTable.build(models), settings)
    calm_collector()  # as a replica does
    return dispatcher, [Choice(model, *EXPECTED_TOKENS) for model in models]


def assignments_of(prompts: Sequence[str], choices: Sequence[Choice]) -> list[Assignment]:
    """A query a prompt, the choices in turn."""
    return [
        Assignment(
            query_id=f"q{row}",
            partition=0,
            row=row,
            request=ChatRequest(messages=[Message(role="user", content=prompt)]).canonical(),
            choices=(choices[row % len(choices)],),
            lane="live",
            allowed_models=None,
            tags=[],
            followers=[],
        )
        for row, prompt in enumerate(prompts)
    ]


class Ours:
    """The dispatcher."""

    def __init__(self, work: Work) -> None:
        self._dispatcher, self._choices = open_dispatcher(work)
        self._assignments: list[Assignment] = []

    def prepare(self, prompts: Sequence[str]) -> None:
        """See `Side.prepare`: in a run, the pieces are read from Parquet."""
        self._assignments = assignments_of(prompts, self._choices)

    async def run(self) -> Tally:
        """See `Side.run`."""
        tally = Tally()
        with tempfile.TemporaryDirectory() as folder:
            journal = Journal(FileSink(Path(folder) / "001.jsonl"))
            settled = await self._dispatcher.answer(self._assignments, journal, History())
            await journal.close()
        for outcome, letter in settled:
            if outcome.status == DEAD_LETTER:
                tally.failed[letter.reason if letter else ""] += 1
            else:
                tally.answered += 1
        return tally

    async def close(self) -> None:
        """See `Side.close`."""
        await self._dispatcher.close()
