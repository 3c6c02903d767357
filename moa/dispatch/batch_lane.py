"""Queries bought in vendors' batches: cut, submitted, looked at, fetched; what is left goes live.

A piece's batches are its own. The journal has a batch's rows before it is submitted, and its
vendor's id before it is looked at, so that a start that goes on finds it again and buys nothing
twice. While a batch is out none of its queries is in memory.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

import structlog

from moa.dispatch.batch_end import BatchEnd
from moa.dispatch.batch_fetch import BatchFetch, BatchPiece, Load, call_of
from moa.dispatch.batch_file import BatchFile, BatchNames, cut, halves, share
from moa.dispatch.batch_queue import BatchQueue
from moa.dispatch.batch_submit import BatchSubmit, Lost, Submitted
from moa.dispatch.batch_watch import BatchWatch
from moa.dispatch.budget import Budget, Dearness
from moa.dispatch.dispatcher import LIVE, Dispatcher
from moa.dispatch.journal import History, Journal, SentBatch
from moa.dispatch.outcome import Assignment, Settled
from moa.dispatch.retry import reason_of
from moa.dispatch.settings import BatchSettings
from moa.errors import AccountRefused, ProviderError, QuotaSpent
from moa.prices import PriceTable
from moa.providers.batch import BatchProvider, BatchStatus

LANE_FAILED = "lane_failed"
MOST_BATCHES = 3
"""Of a query that may not go live: it is given up when so many have not answered it."""
MOST_REFUSALS = 1440
"""Of a batch for which its vendor has no room: with the longest waits, a day."""
_FATAL = {"ContextExceeded": "context_exceeded", "InvalidRequest": "invalid_request"}
"""Of a request in a batch: it would fail again in the next."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class _End:
    """What one batch came to."""

    spent_usd: Decimal
    left: tuple[int, ...] = ()
    """Rows without an outcome, unless the lane drains."""
    settled: Sequence[Settled] = ()
    again: bool = False
    """They go into another batch: there was no room for this one, or it did not begin."""
    too_large: bool = False
    """For what was there, be it room or money."""
    wait: bool = False
    """Until there is room."""
    retry_after_s: float | None = None
    reason: str | None = None
    """Why those which may not go live are given up at once."""
    detail: str = ""


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
        self._names = names
        self._dispatcher = dispatcher
        self._budget = budget
        self._most_usd = settings.max_usd_per_query
        self._dearness = Dearness()
        self._queue = BatchQueue(settings.queue_tokens)
        self._draining = asyncio.Event()
        self._watch = BatchWatch(settings, self._draining, dispatcher.waiting)
        self._submit = BatchSubmit(names, self._watch)
        fetch = BatchFetch(prices, names, dispatcher.count, self._watch)
        self._end = BatchEnd(self._watch, fetch)

    @property
    def rows_out(self) -> int:
        """Queries in batches that have not been fetched."""
        return self._watch.rows_out

    async def answer(
        self, provider: str, load: Load, journal: Journal, history: History
    ) -> list[Settled]:
        """See every query of a piece through to its outcome; in no particular order.

        What `history` settles is not asked again, and batches that it knows are not submitted
        again. Fewer come back when the lane drains. Whatever is raised, the lane and the dispatcher
        have drained before.

        Raises:
            KeyRefused, OSError: as `Dispatcher.answer`.
        """
        piece = BatchPiece(self._providers[provider], load, journal, history)
        known = [(o, history.letters.get(row)) for row, o in history.outcomes.items()]
        for settled in known:
            self._dispatcher.count(*settled, earlier=True)
        batches = list(history.batches.values())
        for batch in batches:
            if batch.surely and batch.ids:
                self._watch.claim(batch.ids[0])
        taken = {row for batch in batches for row in batch.rows}.union(history.outcomes)
        new: list[Assignment] = []
        tried: list[Assignment] = []
        for one in await load(None):
            if one.row not in taken:
                # What was tried already, in a batch or live, is not put into another batch.
                begun = history.attempts.get(one.row) or history.unknown[one.row]
                (tried if begun else new).append(one)
        work = [self._go_on(batch, piece) for batch in batches]
        work += self._in_batches(new, piece)
        work.append(self._elsewhere(tried, piece))
        del new, tried
        return [*known, *await self._all(work)]

    async def drain(self) -> None:
        """Submit nothing new, and leave to the next start what is out with the vendors."""
        self._draining.set()
        self._queue.close()

    async def close(self) -> None:
        """Drain, and close the connections."""
        await self.drain()
        await self._submit.wait()
        for provider in self._providers.values():
            await provider.close()

    async def _all(self, work: Iterable[Coroutine[Any, Any, list[Settled]]]) -> list[Settled]:
        """Of a piece; when one of it fails, the others leave what is out to the next start. None of
        it goes on when this returns: the journal will be closed.
        """
        tasks = [asyncio.ensure_future(one) for one in work]
        if not tasks:
            return []
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
            if any(_has_failed(task) for task in tasks):
                await self.drain()
                await self._dispatcher.drain()
            await asyncio.wait(tasks)
        finally:
            for task in tasks:
                task.cancel()
            ends = await asyncio.gather(*tasks, return_exceptions=True)
        settled: list[Settled] = []
        for end in ends:
            if isinstance(end, BaseException):
                raise end
            settled += end
        return settled

    def _in_batches(
        self, assignments: Sequence[Assignment], piece: BatchPiece
    ) -> list[Coroutine[Any, Any, list[Settled]]]:
        """Queries, each in a batch; those that no batch can hold, elsewhere."""
        files, unfit = cut(
            assignments,
            piece.provider,
            self._prices,
            self._names,
            most_tokens=self._queue.most_tokens,
            most_usd=self._most_usd,
        )
        work = [self._see_through(file, piece) for file in files]
        if unfit:
            work.append(self._elsewhere(unfit, piece, LANE_FAILED, "no batch can, or may, hold it"))
        return work

    async def _see_through(
        self, file: BatchFile, piece: BatchPiece, refusals: int = 0
    ) -> list[Settled]:
        """Of one batch, and of what it leaves."""
        with self._watch.unanswered(file):
            end = await self._buy(file, piece)
        return [*end.settled, *await self._rest(end, file, piece, refusals)]

    async def _go_on(self, sent: SentBatch, piece: BatchPiece) -> list[Settled]:
        """With a batch of an earlier start, which has its share of the money already."""
        rows = tuple(row for row in sent.rows if row not in piece.history.outcomes)
        if not rows:  # all that is missing is that it was said
            await piece.journal.fetched(sent.reference)
            return []
        model = (await piece.load(rows[:1]))[0].choices[0].model
        whole = BatchFile(
            model, sent.rows, sent.expected_usd, sent.input_tokens, sent.output_tokens
        )
        file = share(whole, rows)
        with self._watch.unanswered(file):
            end = await self._resume(sent, whole, file, piece)
        return [*end.settled, *await self._rest(end, file, piece, 0)]

    async def _buy(self, file: BatchFile, piece: BatchPiece) -> _End:
        if self._watch.is_late(file):
            return _late(file)
        reserved_usd = file.expected_usd * self._dearness.factor
        if not await self._budget.reserve(reserved_usd):
            detail = "the run's budget does not cover this call"
            several = len(file.rows) > 1
            return _End(
                Decimal(0), file.rows, again=several, too_large=several, reason="budget_spent",
                detail=detail,
            )  # fmt: skip
        spent_usd = reserved_usd  # should it end in a way that does not say
        try:
            if not await self._queue.take(file, lambda: self._watch.time_left_s(file)):
                end = _late(file)
            else:
                try:
                    end = await self._follow(await self._submit(file, piece), file, piece)
                finally:
                    self._queue.release(file)
            spent_usd = end.spent_usd
            return end
        finally:
            self._budget.settle(reserved_usd, spent_usd)

    async def _resume(
        self, sent: SentBatch, whole: BatchFile, file: BatchFile, piece: BatchPiece
    ) -> _End:
        self._queue.hold(whole)
        spent_usd = file.expected_usd
        try:
            found: Submitted = sent
            if not sent.ids:
                found = await self._submit.find(sent, whole, piece)
            if found is None:
                await piece.journal.fetched(sent.reference)
                end = _End(Decimal(0), file.rows, again=True)
            else:
                end = await self._follow(found, file, piece)
            spent_usd = end.spent_usd
            return end
        finally:
            self._queue.release(whole)
            self._budget.settle(file.expected_usd, spent_usd)

    async def _follow(self, submitted: Submitted, file: BatchFile, piece: BatchPiece) -> _End:
        """Until it has been fetched."""
        if submitted is None:
            return _End(Decimal(0))
        if isinstance(submitted, ProviderError):
            log.warning(
                "batch.not_submitted", model=file.model.id, queries=len(file.rows),
                error=str(submitted),
            )  # fmt: skip
            return self._refused(submitted, file)
        with self._watch.out(file):
            ended = await self._end(submitted, file, piece)
        if ended is None:  # the lane drains: the next start goes on
            return _End(file.expected_usd)
        status, fetched = ended
        sent = submitted.sent if isinstance(submitted, Lost) else submitted
        await piece.journal.fetched(sent.reference)
        if not fetched.is_ours:
            return _End(Decimal(0), file.rows, again=True)
        if fetched.is_whole:
            await self._forget(status, piece.provider)
        done = {outcome.row for outcome, _ in fetched.settled}
        left = tuple(row for row in file.rows if row not in done)
        log.info(
            "batch.fetched", batch=status.id, model=sent.model, end=status.end, answered=len(done),
            left=len(left),
        )  # fmt: skip
        if isinstance(status.error, QuotaSpent) and not done:
            return self._refused(status.error, file)
        expected_usd = file.expected_usd * len(done) / len(file.rows)
        self._dearness.learn(len(done), expected_usd, fetched.spent_usd)
        return _End(fetched.spent_usd, left, fetched.settled)

    def _refused(self, error: ProviderError, file: BatchFile) -> _End:
        """None of it was asked."""
        nothing_usd, detail = Decimal(0), str(error)
        if isinstance(error, QuotaSpent):
            alone = self._queue.is_alone(file)
            return _End(
                nothing_usd, file.rows, again=True, too_large=alone, wait=not alone,
                retry_after_s=error.retry_after_s, reason=LANE_FAILED, detail=detail,
            )  # fmt: skip
        reason = reason_of(error) if isinstance(error, AccountRefused) else LANE_FAILED
        return _End(nothing_usd, file.rows, reason=reason, detail=detail)

    async def _rest(
        self, end: _End, file: BatchFile, piece: BatchPiece, refusals: int
    ) -> list[Settled]:
        """Of what a batch has left: in other batches where it was not asked, else elsewhere."""
        if not end.left or self._draining.is_set():
            return []
        rest = share(file, end.left)
        if not end.again or refusals == MOST_REFUSALS or self._watch.is_late(rest):
            return await self._elsewhere(await piece.load(rest.rows), piece, end.reason, end.detail)
        files = halves(rest) if end.too_large and len(rest.rows) > 1 else (rest,)
        if end.wait or (end.too_large and len(files) == 1):
            with self._watch.unanswered(rest):
                if not await self._watch.pause(refusals + 1, rest, end.retry_after_s):
                    return []
        return await self._all([self._see_through(one, piece, refusals + 1) for one in files])

    async def _elsewhere(
        self,
        assignments: Sequence[Assignment],
        piece: BatchPiece,
        reason: str | None = None,
        detail: str = "",
    ) -> list[Settled]:
        """Queries that no batch has answered: live, or where they may not, in another batch.

        Args:
            assignments: without an outcome.
            piece: theirs.
            reason: why a query that may not go live is given up at once; `None`: it need not be.
            detail: the same in words.
        """
        if self._draining.is_set():
            return []
        settled: list[Settled] = []
        live: list[Assignment] = []
        again: list[Assignment] = []
        for one in assignments:
            if one.may_live:
                live.append(one)
            elif why := _why_given_up(one, piece, reason, detail):
                settled.append(self._give_up(one, piece, *why))
            else:
                again.append(one)
        work = self._in_batches(again, piece)
        if live:
            work.append(self._live(live, piece))
        return [*settled, *await self._all(work)]

    def _give_up(
        self, assignment: Assignment, piece: BatchPiece, reason: str, detail: str
    ) -> Settled:
        outcome, letter = call_of(assignment, piece).letter(reason, detail)
        piece.journal.dead(outcome, letter)
        self._dispatcher.count(outcome, letter)
        return outcome, letter

    async def _live(self, assignments: Sequence[Assignment], piece: BatchPiece) -> list[Settled]:
        """By the dispatcher, as if they had never been meant for a batch."""
        known, history = piece.history, History()
        for row in (one.row for one in assignments):
            history.attempts[row] = known.attempts.get(row, [])
            history.unknown[row] = known.unknown[row]
            history.risked_usd[row] = known.risked_usd.get(row, Decimal(0))
        live = [replace(one, lane=LIVE) for one in assignments]
        return await self._dispatcher.answer(live, piece.journal, history)

    async def _forget(self, status: BatchStatus, provider: BatchProvider) -> None:
        try:
            await provider.forget(status)
        except ProviderError as error:  # a file that stays there costs nothing to speak of
            log.info("batch.files_left", batch=status.id, error=str(error))


def _has_failed(task: asyncio.Task[Any]) -> bool:
    return task.done() and not task.cancelled() and task.exception() is not None


def _late(file: BatchFile) -> _End:
    return _End(
        Decimal(0), file.rows, reason=LANE_FAILED, detail="no time is left to wait for a batch"
    )


def _why_given_up(
    assignment: Assignment, piece: BatchPiece, reason: str | None, detail: str
) -> tuple[str, str] | None:
    """Why a query that may not go live goes into no other batch."""
    attempts = piece.history.attempts.get(assignment.row, [])
    if reason is not None:
        return reason, detail
    if attempts and attempts[-1].error in _FATAL:
        return _FATAL[attempts[-1].error], attempts[-1].detail
    if len(attempts) >= MOST_BATCHES:
        return LANE_FAILED, f"{len(attempts)} batches have not answered it: {attempts[-1].detail}"
    return None
