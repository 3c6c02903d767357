"""Batches that are out: how each stands, when it is late, and how long to wait for what."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import structlog

from moa.dispatch.batch_file import BatchFile
from moa.dispatch.settings import BatchSettings
from moa.errors import InvalidRequest, ProviderError, QuotaSpent, TransientError
from moa.planning.pace import live_s
from moa.providers.batch import BatchProvider, BatchStatus

LOOK_AGAIN_AFTER = 0.1
"""Of a batch's age: one that takes hours is not looked at every second."""
MOST_CANCEL_S = 600.0
CANCEL_SHARE = 0.1
"""Of the time from the lane's begin to its deadline: what a vendor has for ending a batch that is
late, before its queries are bought live whatever becomes of it."""
SPARE = 1.25
"""The live lane is reckoned to take so many times as long as its limits say."""
MOST_TRIES = 12
"""Submissions of one batch that fail, without those for which there was no room."""
MOST_WAIT_S = 86_400.0
"""For room in a vendor's queue, where no deadline ends it."""

log = structlog.get_logger()


@dataclass(slots=True)
class _Out:
    """A batch that is out."""

    file: BatchFile
    since_s: float
    answered: int = 0


class BatchWatch:
    """Looks at batches until they end.

    Args:
        settings: how often, and when they are late.
        draining: set when nothing shall be waited for any more.
        live_waiting: catalog id → calls that wait for the live lane already.
        now: seconds since 1970.
    """

    def __init__(
        self,
        settings: BatchSettings,
        draining: asyncio.Event,
        live_waiting: Callable[[str], int],
        now: Callable[[], float] = time.time,
    ) -> None:
        self._settings = settings
        self._draining = draining
        self._live_waiting = live_waiting
        self._now = now
        self._begun_s = now()
        self._out: dict[str, _Out] = {}
        self._seen: set[str] = set()

    @property
    def rows_out(self) -> int:
        """Queries in batches that are out."""
        return sum(len(one.file.rows) for one in self._out.values())

    def knows(self, batch_id: str) -> bool:
        """Whether it has been looked at: then it is another one's."""
        return batch_id in self._seen

    async def until_ended(
        self, batch_id: str, file: BatchFile, provider: BatchProvider, *, surely: bool
    ) -> BatchStatus | None:
        """Its last status: the vendor's, or what stands for it when the vendor does not know the
        batch or has not ended it in time. `None` when the lane drains.

        Args:
            batch_id: the vendor's.
            file: what is in it.
            provider: its.
            surely: it is this run's; what may be another's is never cancelled.
        """
        self._seen.add(batch_id)
        out = self._out[batch_id] = _Out(file, self._now())
        cancelled, failures = False, 0
        try:
            while True:
                status = await self._look(batch_id, out, provider)
                if isinstance(status, BatchStatus) and status.state == "ended":
                    return status
                if isinstance(status, InvalidRequest) or self._now() >= self._lost_at(file):
                    return self._given_up(batch_id, file, status)
                if surely and self.is_late(file) and not cancelled:
                    cancelled = await self._cancel(batch_id, file, provider)
                failures = failures + 1 if isinstance(status, ProviderError) else 0
                if not await self._sleep(self._look_in_s(out, cancelled, failures)):
                    return None
        finally:
            del self._out[batch_id]

    def is_late(self, file: BatchFile) -> bool:
        """Whether its queries have to be bought live, if they shall be answered in time."""
        return self._now() >= self._lost_at(file) - self._cancel_s

    async def try_again(self, file: BatchFile, error: ProviderError, attempt: int) -> bool:
        """After a submission that has failed: wait, and whether there is any sense in another."""
        if not isinstance(error, TransientError) or self.is_late(file):
            return False
        full = isinstance(error, QuotaSpent)
        most = MOST_WAIT_S / self._settings.longest_look_s if full else MOST_TRIES
        if attempt >= most:
            return False
        return await self.pause(10 if full else attempt, error.retry_after_s)

    async def pause(self, attempt: int, retry_after_s: float | None) -> bool:
        """Wait as told, or longer each time; false when the lane drains."""
        backoff_s = self._settings.first_look_s * 2 ** min(attempt - 1, 20)
        longest_s = self._settings.longest_look_s
        return await self._sleep(retry_after_s or min(backoff_s, longest_s))

    @property
    def _cancel_s(self) -> float:
        if self._settings.deadline_s is None:
            return 0.0
        return min(MOST_CANCEL_S, CANCEL_SHARE * (self._settings.deadline_s - self._begun_s))

    def _lost_at(self, file: BatchFile) -> float:
        """When the live lane needs all the time that is left for what is out of this model."""
        if self._settings.deadline_s is None:
            return float("inf")
        same = [one.file for one in self._out.values() if one.file.model.id == file.model.id]
        files = same or [file]
        calls = sum(len(one.rows) for one in files)
        with_waiting = 1 + self._live_waiting(file.model.id) / calls
        needed_s = live_s(
            file.model,
            calls=calls * with_waiting,
            input_tokens=sum(one.input_tokens for one in files) * with_waiting,
            output_tokens=sum(one.output_tokens for one in files) * with_waiting,
            in_flight=self._settings.max_in_flight,
        )
        return self._settings.deadline_s - SPARE * needed_s

    async def _look(
        self, batch_id: str, out: _Out, provider: BatchProvider
    ) -> BatchStatus | ProviderError:
        try:
            status = await provider.look(batch_id)
        except ProviderError as error:
            return error
        out.answered = status.answered
        return status

    def _given_up(
        self, batch_id: str, file: BatchFile, last: BatchStatus | ProviderError
    ) -> BatchStatus:
        why = last if isinstance(last, ProviderError) else None
        log.warning(
            "batch.given_up", batch=batch_id, model=file.model.id, queries=len(file.rows),
            error=str(why or "its vendor has not ended it in time"),
        )  # fmt: skip
        detail = f"batch {batch_id}: {why or 'not ended in time'}"
        lost = TransientError(detail, code="batch_lost", maybe_billed=True)
        return BatchStatus(batch_id, "ended", "failed", error=lost)

    async def _cancel(self, batch_id: str, file: BatchFile, provider: BatchProvider) -> bool:
        log.warning("batch.late", batch=batch_id, model=file.model.id, queries=len(file.rows))
        with suppress(ProviderError):  # it is tried again after the next look
            await provider.cancel(batch_id)
            return True
        return False

    def _look_in_s(self, out: _Out, cancelled: bool, failures: int) -> float:
        settings = self._settings
        wait_s = (self._now() - out.since_s) * LOOK_AGAIN_AFTER + settings.first_look_s * failures
        wait_s = min(max(wait_s, settings.first_look_s), settings.longest_look_s)
        if cancelled:
            return settings.first_look_s
        late_in_s = self._lost_at(out.file) - self._cancel_s - self._now()
        return min(wait_s, max(settings.first_look_s, late_in_s))

    async def _sleep(self, seconds: float) -> bool:
        """False when the lane drains meanwhile."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._draining.wait()
        return not self._draining.is_set()
