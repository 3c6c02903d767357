"""A run's batches that are out with their vendors: listed, and cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime

from moa.catalog import load_catalog
from moa.config import RouteBatchConfig
from moa.dispatch.journal import SentBatch, recover
from moa.errors import ConfigError, ProviderError, RunError
from moa.pipeline.job import run_folder_of
from moa.providers.accounts import open_batches
from moa.providers.batch import BatchProvider, BatchStatus
from moa.storage.run_folder import RunFolder


@dataclass(frozen=True, slots=True)
class OpenBatch:
    """A batch that a run has not fetched yet."""

    id: str
    provider: str
    sent: SentBatch
    status: BatchStatus | None
    """`None` where its vendor cannot be asked."""
    problem: str = ""
    """Why it cannot."""

    @property
    def age_s(self) -> float:
        """Since it was submitted."""
        return (datetime.now(UTC) - self.sent.submitted_at).total_seconds()

    @property
    def left_s(self) -> float | None:
        """Until it ends, if it goes on as it did; `None` where nothing of it is done."""
        if self.status is None or not self.status.answered:
            return None
        done = self.status.answered + self.status.failed
        return self.age_s * (len(self.sent.rows) - done) / done


def open_batches_of(
    config: RouteBatchConfig, environ: Mapping[str, str], cancel: Sequence[str] = ()
) -> list[OpenBatch]:
    """The batches that a run's journals know and that were not fetched, oldest first.

    Args:
        config: the run's.
        environ: with the keys.
        cancel: ids of batches whose end is asked for first; `all` for each. What they have answered
            by then is kept; a run that is at work, or is started again, buys the rest live.

    Raises:
        ConfigError: the run has no folder, or a batch that shall be cancelled is not one of its.
        RunError: the vendors are simulated, and gone with the process that simulated them.
    """
    run = RunFolder(run_folder_of(config))
    if run.first_start() is None:
        raise ConfigError(f"{run.url}: there is no such run: correct run.id or run.folder")
    if config.replay is not None:
        raise RunError("the run's vendors are a server that lives as long as the job does")
    known = {
        batch_id: (piece.provider, sent)
        for piece in run.open_pieces()
        if piece.in_batches
        for sent in recover(run.peek_journals(piece)).batches.values()
        for batch_id in sent.ids
    }
    strangers = sorted(set(cancel) - {"all"} - set(known))
    if strangers:
        raise ConfigError(
            f"--cancel {', '.join(strangers)}: no batch of this run that is out; it has "
            f"{', '.join(sorted(known)) or 'none'}"
        )
    wanted = set(known) if "all" in cancel else set(cancel)
    return asyncio.run(_looked_at(config, environ, known, wanted))


async def _looked_at(
    config: RouteBatchConfig,
    environ: Mapping[str, str],
    known: Mapping[str, tuple[str, SentBatch]],
    cancel: set[str],
) -> list[OpenBatch]:
    accounts = load_catalog(config.catalog).accounts
    async with AsyncExitStack() as stack:
        providers: dict[str, BatchProvider] = {}
        for name in {provider for provider, _ in known.values()}:
            providers[name] = open_batches(accounts[name], environ=environ)
            stack.push_async_callback(providers[name].close)
        looks = (
            _look(batch_id, providers[provider], sent, cancel=batch_id in cancel)
            for batch_id, (provider, sent) in known.items()
        )
        found = await asyncio.gather(*looks)
    return sorted(found, key=lambda one: one.sent.submitted_at)


async def _look(
    batch_id: str, provider: BatchProvider, sent: SentBatch, *, cancel: bool
) -> OpenBatch:
    try:
        if cancel and sent.surely:
            await provider.cancel(batch_id)
        return OpenBatch(batch_id, provider.name, sent, await provider.look(batch_id))
    except ProviderError as error:
        return OpenBatch(batch_id, provider.name, sent, None, str(error))


def table(batches: Sequence[OpenBatch]) -> list[str]:
    """As lines for a terminal."""
    rows = [("batch", "model", "queries", "answered", "state", "age", "left")]
    for one in batches:
        status = one.status
        rows.append(
            (
                one.id if one.sent.surely else f"{one.id} (perhaps)",
                one.sent.model,
                f"{len(one.sent.rows):,}",
                f"{status.answered:,}" if status else "?",
                (status.end or status.state) if status else one.problem,
                _duration(one.age_s),
                "?" if one.left_s is None else f"about {_duration(one.left_s)}",
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def _duration(seconds: float) -> str:
    hours, rest = divmod(round(seconds), 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}"
