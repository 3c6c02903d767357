"""Batches that are out: how each stands, when it is late, and how long to wait for what."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import structlog

from moa.dispatch.batch_file import BatchFile
from moa.dispatch.settings import BatchSettings
from moa.errors import InvalidRequest, KeyRefused, ProviderError, TransientError
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
SURELY_GONE = 3
"""Looks in a row to which a vendor says that it has no such batch; it may be younger than the
vendor's own index."""
MOST_SILENCE_S = 86_400.0
"""For a vendor that cannot be asked, where no deadline ends it."""

log = structlog.get_logger()
_T = TypeVar("_T")


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
        self._unanswered: list[BatchFile] = []
        self._out: list[BatchFile] = []
        self._claimed: set[str] = set()
        self._proven: set[str] = set()

    @property
    def draining(self) -> bool:
        """Nothing shall be waited for any more."""
        return self._draining.is_set()

    @property
    def rows_out(self) -> int:
        """Queries in batches that are out."""
        return sum(len(file.rows) for file in self._out)

    @contextmanager
    def unanswered(self, file: BatchFile) -> Iterator[None]:
        """While its queries would have to be bought live if it came to that, out or not."""
        with _kept(self._unanswered, file):
            yield

    @contextmanager
    def out(self, file: BatchFile) -> Iterator[None]:
        """While it is with its vendor."""
        with _kept(self._out, file):
            yield

    def claim(self, batch_id: str) -> None:
        """It is known whose it is: nobody else need look whether it is theirs."""
        self._claimed.add(batch_id)

    def is_claimed(self, batch_id: str) -> bool:
        """Whether it is surely one of this lane's."""
        return batch_id in self._claimed

    async def until_ended(
        self, batch_id: str, file: BatchFile, provider: BatchProvider, *, surely: bool
    ) -> BatchStatus | None:
        """Its last status: the vendor's, or what stands for it when the vendor does not know the
        batch or has not ended it in time. `None` when the lane drains, or when a batch that was
        perhaps this one turns out to be another's.

        Args:
            batch_id: the vendor's.
            file: what is in it.
            provider: its.
            surely: it is this run's; what may be another's is never cancelled.

        Raises:
            KeyRefused: nothing of this account was read so far, and its key is refused.
        """
        begun_s = heard_s = self._now()
        cancelled, gone, failures = False, 0, 0
        while surely or not self.is_claimed(batch_id):
            status = await self.unless_drained(self._look(batch_id, provider))
            if isinstance(status, BatchStatus):
                heard_s, failures = self._now(), 0
                if status.state == "ended":
                    return status
            elif status is not None:
                failures += 1
            gone = gone + 1 if isinstance(status, InvalidRequest) else 0
            asks = surely and not cancelled and status is not None and self.is_late(file)
            if asks:  # and it is looked at once more, however late it is
                cancelled = await self._cancel(batch_id, file, provider)
            lost = self.is_lost(file) or gone == SURELY_GONE or self.is_silent(heard_s)
            if status is not None and lost and not (asks and cancelled):
                return self._given_up(batch_id, file, status)
            wait_s = self._look_in_s(self._now() - begun_s, failures)
            if not await self._sleep(self._settings.first_look_s if cancelled else wait_s, file):
                return None
        return None

    def is_late(self, file: BatchFile) -> bool:
        """Whether its queries have to be bought live, if they shall be answered in time."""
        return self.time_left_s(file) <= 0

    def is_lost(self, file: BatchFile) -> bool:
        """Whether its queries have to be bought live even if its vendor may still answer them."""
        return self.time_left_s(file) + self._cancel_s <= 0

    def is_silent(self, heard_s: float) -> bool:
        """Whether a vendor that was last heard at that moment is waited for no longer."""
        return self._now() - heard_s > MOST_SILENCE_S

    def time_left_s(self, file: BatchFile) -> float:
        """Until it is late. It changes with what else is to be answered by the same model."""
        deadline_s = self._settings.deadline_s
        if deadline_s is None:
            return float("inf")
        return deadline_s - SPARE * self._live_s(file) - self._cancel_s - self._now()

    async def pause(
        self, attempt: int, file: BatchFile, retry_after_s: float | None = None
    ) -> bool:
        """Wait as told, or longer each time, but not longer than until it is late; false when the
        lane drains.
        """
        backoff_s = self._settings.first_look_s * 2 ** min(attempt - 1, 20)
        return await self._sleep(
            retry_after_s or min(backoff_s, self._settings.longest_look_s), file
        )

    async def unless_drained(self, work: Coroutine[Any, Any, _T]) -> _T | None:
        """What it gives; `None` when the lane drains before, and then it is broken off."""
        if self._draining.is_set():
            work.close()
            return None
        doing = asyncio.ensure_future(work)
        draining = asyncio.ensure_future(self._draining.wait())
        try:
            await asyncio.wait((doing, draining), return_when=asyncio.FIRST_COMPLETED)
            return doing.result() if doing.done() else None
        finally:
            doing.cancel()
            draining.cancel()
            await asyncio.gather(doing, draining, return_exceptions=True)

    @property
    def _cancel_s(self) -> float:
        if self._settings.deadline_s is None:
            return 0.0
        return min(MOST_CANCEL_S, CANCEL_SHARE * max(0, self._settings.deadline_s - self._begun_s))

    def _live_s(self, file: BatchFile) -> float:
        """What the live lane would need for all of its model that is not answered, here and with
        the other replicas.
        """
        files = [one for one in self._unanswered if one.model.id == file.model.id]
        if not any(one is file for one in files):
            files.append(file)
        calls = sum(len(one.rows) for one in files)
        with_waiting = self._settings.replicas * (1 + self._live_waiting(file.model.id) / calls)
        return live_s(
            file.model,
            calls=calls * with_waiting,
            input_tokens=sum(one.input_tokens for one in files) * with_waiting,
            output_tokens=sum(one.output_tokens for one in files) * with_waiting,
            in_flight=self._settings.max_in_flight,
        )

    async def _look(self, batch_id: str, provider: BatchProvider) -> BatchStatus | ProviderError:
        try:
            status = await provider.look(batch_id)
        except ProviderError as error:
            if isinstance(error, KeyRefused) and provider.name not in self._proven:
                raise  # a wrong key is no reason to buy again what is out
            return error
        self._proven.add(provider.name)
        return status

    def _given_up(
        self, batch_id: str, file: BatchFile, last: BatchStatus | ProviderError
    ) -> BatchStatus:
        why = last if isinstance(last, ProviderError) else "its vendor has not ended it in time"
        log.warning(
            "batch.given_up", batch=batch_id, model=file.model.id, queries=len(file.rows),
            error=str(why),
        )  # fmt: skip
        lost = TransientError(f"batch {batch_id}: {why}", code="batch_lost", maybe_billed=True)
        return BatchStatus(batch_id, "ended", "failed", error=lost)

    async def _cancel(self, batch_id: str, file: BatchFile, provider: BatchProvider) -> bool:
        log.warning("batch.late", batch=batch_id, model=file.model.id, queries=len(file.rows))
        try:
            await self.unless_drained(provider.cancel(batch_id))
        except ProviderError:  # it is tried again after the next look
            return False
        return True

    def _look_in_s(self, age_s: float, failures: int) -> float:
        settings = self._settings
        wait_s = age_s * LOOK_AGAIN_AFTER + settings.first_look_s * failures
        return min(max(wait_s, settings.first_look_s), settings.longest_look_s)

    async def _sleep(self, seconds: float, file: BatchFile) -> bool:
        """Not much longer than until it is late; false when the lane drains meanwhile."""
        most_s = max(self._settings.first_look_s, self.time_left_s(file))
        try:
            async with asyncio.timeout(min(seconds, most_s)):
                await self._draining.wait()
        except TimeoutError:
            return True
        return False


@contextmanager
def _kept(files: list[BatchFile], file: BatchFile) -> Iterator[None]:
    files.append(file)
    try:
        yield
    finally:
        del files[next(place for place, one in enumerate(files) if one is file)]
