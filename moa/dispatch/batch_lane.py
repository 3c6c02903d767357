"""Queries bought in vendors' batches: cut, submitted, looked at, fetched; what is left goes live.

A piece's batches are its own. The journal has a batch's rows before it is submitted, and its
vendor's id before it is looked at, so that a start that goes on finds it again and buys nothing
twice. While a batch is out none of its queries is in memory.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal
from itertools import count
from typing import Any

import structlog

from moa.dispatch.batch_fetch import BatchFetch, BatchPiece, Fetched, Load
from moa.dispatch.batch_file import BatchFile, BatchNames, cut, halves, request_of, share
from moa.dispatch.batch_queue import BatchQueue
from moa.dispatch.batch_watch import BatchWatch
from moa.dispatch.budget import Budget
from moa.dispatch.dispatcher import Dispatcher
from moa.dispatch.journal import History, Journal, SentBatch
from moa.dispatch.outcome import Assignment, Settled
from moa.dispatch.settings import BatchSettings
from moa.errors import ProviderError, QuotaSpent, TransientError
from moa.prices import PriceTable
from moa.providers.batch import BatchProvider, BatchStatus

log = structlog.get_logger()


class BatchLane:
    """Buys pieces in batches, through all accounts that have them. Close it in `finally`.

    Args:
        providers: by account.
        prices: with the batch lane's.
        settings: what it is told.
        names: of the run.
        dispatcher: to which goes what no batch has answered.
        budget: as the dispatcher's.
    """

    def __init__(
        self,
        providers: Mapping[str, BatchProvider],
        prices: PriceTable,
        settings: BatchSettings,
        names: BatchNames,
        dispatcher: Dispatcher,
        budget: Budget,
    ) -> None:
        self._providers = providers
        self._prices = prices
        self._settings = settings
        self._names = names
        self._dispatcher = dispatcher
        self._budget = budget
        self._queue = BatchQueue(settings.queue_tokens)
        self._draining = asyncio.Event()
        self._watch = BatchWatch(settings, self._draining, dispatcher.waiting)
        self._fetch = BatchFetch(prices, names, dispatcher.count, self._watch)

    @property
    def rows_out(self) -> int:
        """Queries in batches that have not been fetched."""
        return self._watch.rows_out

    async def answer(
        self, provider: str, load: Load, journal: Journal, history: History
    ) -> list[Settled]:
        """See every query of a piece through to its outcome; in no particular order.

        What `history` settles is not asked again, and batches that it knows are not submitted
        again. Fewer come back when the lane drains.

        Raises:
            KeyRefused, OSError: as `Dispatcher.answer`.
        """
        piece = BatchPiece(self._providers[provider], load, journal, history)
        known = [(o, history.letters.get(row)) for row, o in history.outcomes.items()]
        for outcome, letter in known:
            self._dispatcher.count(outcome, letter)
        taken = {row for batch in history.batches.values() for row in batch.rows}
        taken.update(history.outcomes)
        left = [one for one in await load(None) if one.row not in taken]
        # What was tried already, in a batch or live, is not put into another batch.
        tried = [one for one in left if history.attempts[one.row] or history.unknown[one.row]]
        new = {one.row for one in left}.difference(one.row for one in tried)
        files, unfit = cut(
            (one for one in left if one.row in new),
            piece.provider,
            self._prices,
            self._names,
            most_tokens=self._queue.most_tokens,
        )
        del left
        work = [
            *(self._go_on(batch, piece) for batch in history.batches.values()),
            *(self._see_through(file, piece) for file in files),
            self._live([*tried, *unfit], piece),
        ]
        return [*known, *(one for end in await self._all(work) for one in end)]

    async def _all(self, work: Sequence[Coroutine[Any, Any, list[Settled]]]) -> list[list[Settled]]:
        """Of a piece; when one of it fails, the others leave what is out to the next start."""
        tasks = [asyncio.ensure_future(one) for one in work]
        await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        if any(task.done() and task.exception() for task in tasks):
            await self.drain()
        return list(await asyncio.gather(*tasks))

    async def drain(self) -> None:
        """Submit nothing new, and leave to the next start what is out with the vendors."""
        self._draining.set()
        await self._queue.close()

    async def close(self) -> None:
        """Drain, and close the connections."""
        await self.drain()
        for provider in self._providers.values():
            await provider.close()

    async def _go_on(self, sent: SentBatch, piece: BatchPiece) -> list[Settled]:
        """With a batch of an earlier start, which has its share of the money already."""
        model = (await piece.load(sent.rows[:1]))[0].choices[0].model
        whole = BatchFile(
            model, sent.rows, sent.expected_usd, sent.input_tokens, sent.output_tokens
        )
        rows = tuple(row for row in sent.rows if row not in piece.history.outcomes)
        file = share(whole, rows)
        if not sent.ids:
            found = await self._find(sent, piece)
            if found is None:
                return []
            if not found.ids:
                await piece.journal.fetched(sent.reference)
                self._budget.settle(file.expected_usd, Decimal(0))
                return await self._see_through(file, piece)
            sent = found
            await piece.journal.submitted(sent)
        sent = replace(sent, rows=rows, expected_usd=file.expected_usd)
        self._queue.hold(whole)
        try:
            settled, left = await self._follow(sent, file, piece)
        finally:
            await self._queue.release(whole)
        return [*settled, *await self._rest(left, file, piece)]

    async def _see_through(self, file: BatchFile, piece: BatchPiece) -> list[Settled]:
        """Of one batch."""
        if self._watch.is_late(file):
            return await self._live(await piece.load(file.rows), piece)
        if not await self._budget.reserve(file.expected_usd):
            if len(file.rows) == 1:
                return await self._live(await piece.load(file.rows), piece)
            parts = [await self._see_through(half, piece) for half in halves(file)]
            return [one for part in parts for one in part]
        sent = None
        settled: list[Settled] = []
        left = _NOTHING
        if await self._queue.take(file):
            try:
                sent = await self._submit(file, piece)
                if sent is not None:
                    settled, left = await self._follow(sent, file, piece)
            finally:
                await self._queue.release(file)
        if sent is None:
            self._budget.settle(file.expected_usd, Decimal(0))
            left = _Left(file.rows, live=True)
        return [*settled, *await self._rest(left, file, piece)]

    async def _rest(self, left: _Left, file: BatchFile, piece: BatchPiece) -> list[Settled]:
        """Of a batch that has ended: live, or in other batches where there was no room for it."""
        if not left.rows or self._draining.is_set():
            return []
        if left.live:
            return await self._live(await piece.load(left.rows), piece)
        file = share(file, left.rows)
        files = halves(file) if left.too_large and len(file.rows) > 1 else (file,)
        parts = await asyncio.gather(*(self._see_through(one, piece) for one in files))
        return [one for part in parts for one in part]

    async def _submit(self, file: BatchFile, piece: BatchPiece) -> SentBatch | None:
        """`None`: it was not to be, and its queries go live; or the lane drains."""
        for attempt in count(1):
            if self._draining.is_set():
                return None
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
                begun = await piece.provider.submit(file.model, lines, reference=sent.reference)
                sent = replace(sent, ids=(begun,))
            except ProviderError as error:
                found = await self._find(sent, piece) if error.maybe_billed else sent
                if found is None:
                    return None
                if not found.ids:
                    await piece.journal.fetched(sent.reference)
                    if await self._watch.try_again(file, error, attempt):
                        continue
                    log.warning(
                        "batch.not_submitted", model=file.model.id, queries=len(file.rows),
                        error=str(error),
                    )  # fmt: skip
                    return None
                sent = found
            await piece.journal.submitted(sent)
            log.info("batch.submitted", batch=sent.ids[0], model=sent.model, queries=len(sent.rows))
            return sent
        raise AssertionError("count never ends")

    async def _find(self, sent: SentBatch, piece: BatchPiece) -> SentBatch | None:
        """With the ids that it may have, where it is not known whether it began; `None` when the
        lane drains before its vendor has said.
        """
        for attempt in count(1):
            try:
                found = await piece.provider.find(
                    sent.reference, since=sent.submitted_at, requests=len(sent.rows)
                )
            except TransientError as error:
                if not await self._watch.pause(attempt, error.retry_after_s):
                    return None
            else:
                ids = (status.id for status in found if not self._watch.knows(status.id))
                return replace(sent, ids=tuple(ids), surely=piece.provider.keeps_references)
        raise AssertionError("count never ends")

    async def _follow(
        self, sent: SentBatch, file: BatchFile, piece: BatchPiece
    ) -> tuple[list[Settled], _Left]:
        """Until it has been fetched: what it has settled, and what it has left."""
        status, fetched = await self._first_of_this_run(sent, file, piece)
        if status is None or fetched is None:  # the lane drains: the next start goes on
            return [], _NOTHING
        settled = fetched.settled
        spent_usd = sum((outcome.cost_usd for outcome, _ in settled), Decimal(0))
        self._budget.settle(sent.expected_usd, spent_usd + fetched.risked_usd)
        await piece.journal.fetched(sent.reference)
        if fetched.of_this_run:
            await self._forget(status, piece.provider)
        done = {outcome.row for outcome, _ in settled}
        rows = tuple(row for row in sent.rows if row not in done)
        log.info(
            "batch.fetched", batch=status.id, model=sent.model, end=status.end, answered=len(done),
            left=len(rows),
        )  # fmt: skip
        if not isinstance(status.error, QuotaSpent) or self._watch.is_late(file):
            return settled, _Left(rows, live=True)
        too_large = self._queue.is_alone(file)
        await self._watch.pause(1 if too_large else _FULL, status.error.retry_after_s)
        return settled, _Left(rows, live=False, too_large=too_large)

    async def _first_of_this_run(
        self, sent: SentBatch, file: BatchFile, piece: BatchPiece
    ) -> tuple[BatchStatus | None, Fetched | None]:
        """How a batch has ended and what of it was fetched. Where its vendor keeps no name of ours
        there may be several that it could be, and only their results tell.
        """
        status, fetched = None, None
        for batch_id in sent.ids:
            status = await self._watch.until_ended(
                batch_id, file, piece.provider, surely=sent.surely
            )
            if status is None:
                return None, None
            fetched = await self._fetch(status, sent, piece)
            if fetched is None or fetched.of_this_run:
                break
        return status, fetched

    async def _live(self, assignments: Sequence[Assignment], piece: BatchPiece) -> list[Settled]:
        """By the dispatcher, as if they had never been meant for a batch."""
        if not assignments or self._draining.is_set():
            return []
        history = History()
        for row in (one.row for one in assignments):
            history.attempts[row] = piece.history.attempts[row]
            history.unknown[row] = piece.history.unknown[row]
            history.risked_usd[row] = piece.history.risked_usd[row]
        live = [replace(one, lane="live") for one in assignments]
        return await self._dispatcher.answer(live, piece.journal, history)

    async def _forget(self, status: BatchStatus, provider: BatchProvider) -> None:
        try:
            await provider.forget(status)
        except ProviderError as error:  # a file that stays there costs nothing to speak of
            log.info("batch.files_left", batch=status.id, error=str(error))


@dataclass(frozen=True, slots=True)
class _Left:
    """What a batch has not answered."""

    rows: tuple[int, ...]
    live: bool
    """Or in another batch: there was no room for this one."""
    too_large: bool = False
    """For its vendor's queue, though nothing else was in it."""


_NOTHING = _Left((), live=True)
_FULL = 10
"""As the number of a try: the longest wait."""
