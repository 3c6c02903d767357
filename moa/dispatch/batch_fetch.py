"""The results of an ended batch → outcomes in the journal."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from decimal import Decimal
from itertools import count

import structlog

from moa.dispatch.batch_file import BatchNames
from moa.dispatch.batch_watch import BatchWatch
from moa.dispatch.call import Call
from moa.dispatch.journal import History, Journal, SentBatch
from moa.dispatch.outcome import Assignment, DeadLetter, Outcome, Settled
from moa.errors import ProviderError, TransientError
from moa.prices import PriceTable
from moa.providers.batch import BatchProvider, BatchStatus
from moa.providers.provider import Completion
from moa.storage.run_folder import BATCH

Load = Callable[[Sequence[int] | None], Awaitable[list[Assignment]]]
"""Reads assignments of a piece from the run folder: of these rows, or of all."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class BatchPiece:
    """What the batches of a piece have in common."""

    provider: BatchProvider
    load: Load
    journal: Journal
    history: History


@dataclass(slots=True)
class Fetched:
    """What an ended batch has come to."""

    settled: list[Settled] = field(default_factory=list)
    of_this_run: bool = False
    """Whether any of its results is."""
    risked_usd: Decimal = Decimal(0)
    """Expected cost of what may be billed and cannot be read."""


class BatchFetch:
    """Reads results.

    Args:
        prices: with the batch lane's.
        names: of the run.
        settle: told of each outcome.
        watch: waits.
    """

    def __init__(
        self,
        prices: PriceTable,
        names: BatchNames,
        settle: Callable[[Outcome, DeadLetter | None], None],
        watch: BatchWatch,
    ) -> None:
        self._prices = prices
        self._names = names
        self._settle = settle
        self._watch = watch

    async def __call__(
        self, status: BatchStatus, sent: SentBatch, piece: BatchPiece
    ) -> Fetched | None:
        """What an ended batch has come to; `None` when the lane drains before that is read."""
        calls = {one.row: _call(one, piece) for one in await piece.load(sent.rows)}
        fetched = Fetched()
        error = status.error
        for attempt in count(1):
            try:
                await self._read(status, sent, piece, calls, fetched)
                break
            except TransientError as passing:
                if not await self._watch.pause(attempt, passing.retry_after_s):
                    return None
            except ProviderError as lasting:  # its results are gone, or nobody may read them
                log.warning("batch.not_fetched", batch=status.id, error=str(lasting))
                error = TransientError(
                    f"batch {status.id}: {lasting}", code="batch_lost", maybe_billed=True
                )
                break
        if error is not None and error.maybe_billed:
            share_usd = sent.expected_usd / len(sent.rows)
            for call in calls.values():
                _failed(call, error, share_usd, piece)
            fetched.risked_usd = share_usd * len(calls)
        return fetched

    async def _read(
        self,
        status: BatchStatus,
        sent: SentBatch,
        piece: BatchPiece,
        calls: dict[int, Call],
        fetched: Fetched,
    ) -> None:
        """Take each result once, however often this begins anew."""
        if status.results is None or not calls:
            return
        partition = next(iter(calls.values())).assignment.partition
        async for custom_id, answer in piece.provider.results(status):
            row = self._names.row(custom_id, partition)
            call = None if row is None else calls.pop(row, None)
            if call is None:
                continue
            fetched.of_this_run = True
            if isinstance(answer, ProviderError):
                _failed(call, answer, Decimal(0), piece)
            else:
                fetched.settled.append((self._answered(call, answer, sent), None))

    def _answered(self, call: Call, completion: Completion, sent: SentBatch) -> Outcome:
        usage = completion.usage
        cost_usd = self._prices.cost_usd(
            call.model.id,
            BATCH,
            input_tokens=usage.input_tokens,
            output_tokens=usage.output_tokens,
            cached_input_tokens=usage.cached_input_tokens,
            cache_write_tokens=usage.cache_write_tokens,
        )
        latency_s = (datetime.now(UTC) - sent.submitted_at).total_seconds()
        outcome = call.outcome(completion, cost_usd, latency_s)
        call.journal.answered(outcome)
        self._settle(outcome, None)
        return outcome


def _call(assignment: Assignment, piece: BatchPiece) -> Call:
    """With what earlier batches and starts have tried; nobody waits for its end."""
    return Call(
        replace(assignment, lane=BATCH),
        piece.journal,
        asyncio.get_running_loop().create_future(),
        attempts=list(piece.history.attempts.get(assignment.row, ())),
        unknown_calls=piece.history.unknown[assignment.row],
    )


def _failed(call: Call, error: ProviderError, risked_usd: Decimal, piece: BatchPiece) -> None:
    row = call.assignment.row
    call.journal.failed(row, call.failed(error), risked_usd, in_batch=True)
    piece.history.attempts[row] = call.attempts
