"""What becomes of a batch that is out, or that may be: waited for, told from others', fetched."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from moa.dispatch.batch_fetch import BatchFetch, BatchPiece, Fetched
from moa.dispatch.batch_file import BatchFile
from moa.dispatch.batch_submit import Lost
from moa.dispatch.batch_watch import BatchWatch
from moa.dispatch.journal import SentBatch
from moa.errors import TransientError
from moa.providers.batch import BatchStatus


class BatchEnd:
    """Waits for batches and fetches them.

    Args:
        watch: waits.
        fetch: reads results.
    """

    def __init__(self, watch: BatchWatch, fetch: BatchFetch) -> None:
        self._watch = watch
        self._fetch = fetch

    async def __call__(
        self, submitted: SentBatch | Lost, file: BatchFile, piece: BatchPiece
    ) -> tuple[BatchStatus, Fetched] | None:
        """How a batch has ended and what has come of it; `None` when the lane drains.

        Args:
            submitted: what is known of it.
            file: rows of it that have no outcome yet, and their share of what is expected.
            piece: theirs.

        Raises:
            KeyRefused: see `BatchWatch.until_ended`.
        """
        if isinstance(submitted, Lost):
            return await self._lose(submitted.sent, str(submitted.error), file, piece)
        if not submitted.ids:
            return None
        if submitted.surely:
            return await self._one(submitted.ids[0], submitted, file, piece)
        return await self._whichever(submitted, file, piece)

    async def _one(
        self, batch_id: str, sent: SentBatch, file: BatchFile, piece: BatchPiece
    ) -> tuple[BatchStatus, Fetched] | None:
        status = await self._watch.until_ended(batch_id, file, piece.provider, surely=sent.surely)
        fetched = None if status is None else await self._fetch(status, sent, file, piece)
        return None if status is None or fetched is None else (status, fetched)

    async def _whichever(
        self, sent: SentBatch, file: BatchFile, piece: BatchPiece
    ) -> tuple[BatchStatus, Fetched] | None:
        """As the whole, where its vendor keeps no name of ours and there may be several that it
        could be: only their results tell.
        """
        tasks = [asyncio.ensure_future(self._one(one, sent, file, piece)) for one in sent.ids]
        unclear = ""
        try:
            for task in asyncio.as_completed(tasks):
                status, fetched = await task or (None, None)
                if status is None or fetched is None:
                    continue
                if fetched.is_ours:
                    self._watch.claim(status.id)
                    return status, fetched
                if not fetched.is_whole and not self._watch.is_claimed(status.id):
                    unclear = str(status.error)
        finally:
            for one in tasks:
                one.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        if self._watch.draining:
            return None
        if unclear:
            return await self._lose(sent, unclear, file, piece)
        return BatchStatus(sent.reference, "ended"), Fetched()

    async def _lose(
        self, sent: SentBatch, why: str, file: BatchFile, piece: BatchPiece
    ) -> tuple[BatchStatus, Fetched] | None:
        """Nobody can say whether it began."""
        error = TransientError(why, code="batch_lost", maybe_billed=True)
        status = BatchStatus(sent.reference, "ended", "failed", error=error)
        fetched = await self._fetch(status, replace(sent, surely=True), file, piece)
        return None if fetched is None else (status, fetched)
