"""The results of an ended batch → outcomes and failed attempts in the journal."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from decimal import Decimal
from itertools import count

import structlog

from moa.dispatch.batch_file import BatchFile, BatchNames
from moa.dispatch.batch_watch import SURELY_GONE, BatchWatch
from moa.dispatch.call import Call
from moa.dispatch.journal import History, Journal, SentBatch
from moa.dispatch.outcome import Assignment, DeadLetter, Outcome, Settled
from moa.errors import InvalidRequest, KeyRefused, ProviderError, QuotaSpent, TransientError
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
    is_ours: bool = False
    """Whether it is the batch that was submitted."""
    is_whole: bool = False
    """Whether everything was read that it has."""
    spent_usd: Decimal = Decimal(0)
    """Cost of its answers, and expected cost of what may be billed and cannot be read."""


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
        self, status: BatchStatus, sent: SentBatch, file: BatchFile, piece: BatchPiece
    ) -> Fetched | None:
        """What an ended batch has come to; `None` when the lane drains before that is read.

        Args:
            status: its last.
            sent: the batch that it is, or may be.
            file: rows of it that have no outcome yet, and their share of what is expected.
            piece: theirs.
        """
        calls = {one.row: call_of(one, piece) for one in await piece.load(file.rows)}
        fetched = Fetched(is_ours=sent.surely)
        reading = _Reading(status, sent, file, piece, calls, fetched)
        unread = await self._read_all(reading)
        if unread is False:
            return None
        why = status.error if unread is True else unread
        lost = why is not None and (why is unread or why.maybe_billed)
        fetched.is_whole = not lost
        if fetched.is_ours and not isinstance(status.error, QuotaSpent):
            for call in calls.values():
                reading.fail(call, _unanswered(status, why, lost=lost))
        return fetched

    async def _read_all(self, reading: _Reading) -> ProviderError | bool:
        """Whether it is read, or why it cannot be: its results are gone, nobody may read them, or
        no time is left. False when the lane drains.
        """
        begun_s, gone = time.time(), 0
        for attempt in count(1):
            try:
                return await self._watch.unless_drained(self._read(reading)) or False
            except ProviderError as error:
                gone += isinstance(error, InvalidRequest | KeyRefused)
                lost = self._watch.is_lost(reading.file) or self._watch.is_silent(begun_s)
                if gone == SURELY_GONE or lost:
                    log.warning("batch.not_fetched", batch=reading.status.id, error=str(error))
                    return error
            if not await self._watch.pause(attempt, reading.file):
                return False
        raise AssertionError("count never ends")

    async def _read(self, reading: _Reading) -> bool:
        """Take each result once, however often this begins anew; True."""
        status, fetched = reading.status, reading.fetched
        if status.results is None or not reading.calls:
            return True
        partition = next(iter(reading.calls.values())).assignment.partition
        results = reading.piece.provider.results(status)
        try:
            async for custom_id, answer in results:
                row = self._names.row(custom_id, partition)
                fetched.is_ours |= row in reading.sent.rows
                if not fetched.is_ours:
                    break
                call = None if row is None else reading.calls.pop(row, None)
                if call is not None:
                    self._take(call, answer, reading)
        finally:
            if isinstance(results, AsyncGenerator):
                await results.aclose()
        return True

    def _take(self, call: Call, answer: Completion | ProviderError, reading: _Reading) -> None:
        if isinstance(answer, ProviderError):
            reading.fail(call, answer)
            return
        usage = answer.usage
        cost_usd = self._prices.cost_usd(
            call.model.id,
            BATCH,
            input_tokens=usage.input_tokens,
            output_tokens=usage.output_tokens,
            cached_input_tokens=usage.cached_input_tokens,
            cache_write_tokens=usage.cache_write_tokens,
        )
        latency_s = (datetime.now(UTC) - reading.sent.submitted_at).total_seconds()
        outcome = call.outcome(answer, cost_usd, latency_s)
        call.journal.answered(outcome)
        self._settle(outcome, None)
        reading.fetched.settled.append((outcome, None))
        reading.fetched.spent_usd += cost_usd


def _unanswered(status: BatchStatus, why: ProviderError | None, *, lost: bool) -> TransientError:
    """Of a request that was not asked, or of which nobody can read what became."""
    ended = "is lost" if lost else f"ended without this request ({status.end})"
    return TransientError(
        f"batch {status.id} {ended}{'' if why is None else f': {why}'}",
        code="batch_lost" if lost else "batch_unanswered",
        maybe_billed=lost,
    )


def call_of(assignment: Assignment, piece: BatchPiece) -> Call:
    """A query of a batch, with what earlier batches and starts have tried; nobody waits for it."""
    row = assignment.row
    return Call(
        replace(assignment, lane=BATCH),
        piece.journal,
        asyncio.get_running_loop().create_future(),
        attempts=list(piece.history.attempts.get(row, ())),
        unknown_calls=piece.history.unknown[row],
    )


@dataclass(frozen=True, slots=True)
class _Reading:
    """One batch, while its results are read."""

    status: BatchStatus
    sent: SentBatch
    file: BatchFile
    piece: BatchPiece
    calls: dict[int, Call]
    """By row, those of which nothing has come yet."""
    fetched: Fetched

    def fail(self, call: Call, error: ProviderError) -> None:
        """A request has no answer here."""
        row, history = call.assignment.row, self.piece.history
        each_usd = self.file.expected_usd / len(self.file.rows)
        risked_usd = each_usd if error.maybe_billed else Decimal(0)
        call.journal.failed(row, call.failed(error), risked_usd, batch=self.sent.reference)
        history.attempts[row] = call.attempts
        history.risked_usd[row] += risked_usd
        self.fetched.spent_usd += risked_usd
