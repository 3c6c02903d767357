"""Submits a batch once, and finds out whether it began where nobody was told."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Coroutine
from dataclasses import replace
from datetime import UTC, datetime
from itertools import count
from typing import Any, NamedTuple

import structlog

from moa.dispatch.batch_fetch import BatchPiece
from moa.dispatch.batch_file import BatchFile, BatchNames, request_of
from moa.dispatch.batch_watch import BatchWatch
from moa.dispatch.journal import SentBatch
from moa.errors import InvalidRequest, KeyRefused, ProviderError, QuotaSpent, TransientError

MOST_TRIES = 12
"""Submissions of one batch that fail, without those for which there was no room."""
FIND_TIMES = 3
"""A batch that began a moment ago may not be in its vendor's list yet."""

log = structlog.get_logger()


class Lost(NamedTuple):
    """A batch of which nobody can say whether it began."""

    sent: SentBatch
    error: ProviderError


Submitted = SentBatch | Lost | ProviderError | None
"""A batch that began, or without ids one that may have when the lane drained; or why it did not
begin; `None` when the lane drained before."""


class BatchSubmit:
    """Submits batches.

    Args:
        names: of the run.
        watch: waits.
    """

    def __init__(self, names: BatchNames, watch: BatchWatch) -> None:
        self._names = names
        self._watch = watch
        self._buying: set[asyncio.Task[str]] = set()

    async def wait(self) -> None:
        """Until no submission is on the wire."""
        if self._buying:
            await asyncio.wait(self._buying)

    async def __call__(self, file: BatchFile, piece: BatchPiece) -> Submitted:
        """Submit a batch, and again while that has sense. For room in its vendor's queue it does
        not wait.
        """
        for attempt in count(1):
            if self._watch.draining:
                return None
            submitted = await self._once(file, piece)
            if not isinstance(submitted, TransientError) or isinstance(submitted, QuotaSpent):
                return submitted
            if attempt == MOST_TRIES or self._watch.is_late(file):
                return submitted
            if not await self._watch.pause(attempt, file, submitted.retry_after_s):
                return None
        raise AssertionError("count never ends")

    async def _once(self, file: BatchFile, piece: BatchPiece) -> Submitted:
        sent = SentBatch(
            self._names.reference(secrets.token_hex(6)),
            file.model.id,
            file.rows,
            file.expected_usd,
            file.input_tokens,
            file.output_tokens,
            datetime.now(UTC),
        )
        lines = [
            piece.provider.line(self._names.custom_id(one.partition, one.row), request_of(one))
            for one in await piece.load(file.rows)
        ]
        await piece.journal.submitting(sent)
        try:
            begun = await self._buy(
                piece.provider.submit(file.model, lines, reference=sent.reference)
            )
        except ProviderError as error:
            return await self._failed(sent, file, piece, error)
        self._watch.claim(begun)
        return await self._began(replace(sent, ids=(begun,)), piece)

    async def _buy(self, submission: Coroutine[Any, Any, str]) -> str:
        buying = asyncio.ensure_future(submission)
        self._buying.add(buying)
        buying.add_done_callback(self._buying.discard)
        return await buying

    async def _failed(
        self, sent: SentBatch, file: BatchFile, piece: BatchPiece, error: ProviderError
    ) -> Submitted:
        found = await self.find(sent, file, piece) if error.maybe_billed else None
        if found is not None:
            return found
        error.maybe_billed = False  # its vendor does not have it
        await piece.journal.fetched(sent.reference)
        return error

    async def find(
        self, sent: SentBatch, file: BatchFile, piece: BatchPiece
    ) -> SentBatch | Lost | None:
        """The batch with the ids that it may have; without any when the lane drains before its
        vendor has said. `None`: it did not begin.
        """
        begun_s, absent, failures = time.time(), 0, 0
        while absent < FIND_TIMES:
            try:
                found = await self._watch.unless_drained(self._ids(sent, piece))
            except ProviderError as error:
                lasting = isinstance(error, InvalidRequest | KeyRefused)
                silent = self._watch.is_lost(file) or self._watch.is_silent(begun_s)
                failures += 1
                if lasting or silent:
                    return Lost(sent, error)
            else:
                if found is None:
                    return sent
                if found:
                    surely = piece.provider.keeps_references
                    return await self._began(replace(sent, ids=found, surely=surely), piece)
                absent += 1
            if absent < FIND_TIMES and not await self._watch.pause(absent + failures, file):
                return sent
        return None

    async def _ids(self, sent: SentBatch, piece: BatchPiece) -> tuple[str, ...]:
        found = await piece.provider.find(
            sent.reference, since=sent.submitted_at, requests=len(sent.rows)
        )
        return tuple(one.id for one in found if not self._watch.is_claimed(one.id))

    async def _began(self, sent: SentBatch, piece: BatchPiece) -> SentBatch:
        await piece.journal.submitted(sent)
        log.info("batch.submitted", batch=sent.ids[0], model=sent.model, queries=len(sent.rows))
        return sent
