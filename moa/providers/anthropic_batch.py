"""Anthropic's message batches: one call takes them all, one file gives them back, 24 hours.

The vendor keeps no name of ours: a batch whose submission was not answered is one of those that
were made since then with as many requests.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import aclosing
from datetime import datetime
from typing import TYPE_CHECKING

import orjson
from yarl import URL

from moa.catalog import Account, Model
from moa.errors import ProviderError
from moa.providers.anthropic import VERSION_WITH_SAMPLING, api_root, open_anthropic
from moa.providers.anthropic_request import request_document
from moa.providers.batch import BatchEnd, BatchLimits, BatchResult, BatchState, BatchStatus
from moa.providers.batch_calls import (
    CLOCKS_DIFFER,
    MOST_PAGES,
    BatchCalls,
    Json,
    checked,
    live,
    moment,
    sound,
    unfinished,
)
from moa.providers.provider import Completion, Request

if TYPE_CHECKING:
    from anthropic.types.messages import MessageBatch

LIMITS = BatchLimits(requests=100_000, bytes=255_000_000)
"""The vendor takes 256 MB, with what stands between the requests."""

_PAGE = 100
_STATES: dict[str, BatchState] = {"canceling": "cancelling", "ended": "ended"}
_SAMPLING = (b'"temperature":', b'"top_p":')
"""Inside of texts their quotes are escaped, so these are names of fields."""
_UNFINISHED = {"expired": "its time was up", "canceled": "it was cancelled"}


def open_batches(
    account: Account, *, environ: Mapping[str, str], base_url: str | None
) -> AnthropicBatches:
    """The batches of an account of wire `anthropic`."""
    provider = open_anthropic(account, environ=environ, base_url=base_url)
    return AnthropicBatches(BatchCalls(provider), api_root(account, environ, base_url))


class AnthropicBatches:
    """See `moa.providers.batch.BatchProvider`."""

    limits = LIMITS
    keeps_references = False

    def __init__(self, calls: BatchCalls, root: URL) -> None:
        from anthropic.types.messages import MessageBatch  # seconds to import

        self.name = calls.name
        self._calls = calls
        self._root = root
        self._batches = root / "v1/messages/batches"
        self._type = MessageBatch

    def line(self, custom_id: str, request: Request) -> bytes:
        """See `BatchProvider.line`."""
        params = request_document(live(request), self.name)
        document = {"custom_id": checked(custom_id), "params": params}
        return orjson.dumps(document, option=orjson.OPT_APPEND_NEWLINE)

    async def submit(self, model: Model, lines: Sequence[bytes], *, reference: str) -> str:
        """See `BatchProvider.submit`. One line with a temperature makes all of them use the version
        that follows temperatures.
        """
        sampled = any(name in line for line in lines for name in _SAMPLING)
        reply = await self._calls.send(
            "POST",
            self._batches,
            tuple(_document(lines)),
            headers=VERSION_WITH_SAMPLING if sampled else None,
            buys=True,
            carries=lines,
        )
        with self._calls.readable(buys=True):
            return str(self._calls.document(reply.body, buys=True)["id"])

    async def find(self, reference: str, *, since: datetime, requests: int) -> list[BatchStatus]:
        """See `BatchProvider.find`: nothing of `reference` is known here."""
        found: list[BatchStatus] = []
        query: dict[str, str | int] = {"limit": _PAGE}
        for _ in range(MOST_PAGES):
            page = await self._calls.ask("GET", self._batches.with_query(query))
            with self._calls.readable():
                statuses = [self._status(self._type.construct(**one)) for one in page["data"]]
                young = [s for s in statuses if _is_since(s, since)]
                found += [status for status in young if status.requests == requests]
                if len(young) < len(statuses) or not (statuses and page.get("has_more")):
                    break
                query["after_id"] = statuses[-1].id
        return found

    async def look(self, batch_id: str) -> BatchStatus:
        """See `BatchProvider.look`."""
        document = await self._calls.ask("GET", self._batches / batch_id)
        with self._calls.readable():
            return self._status(self._type.construct(**document))

    def _status(self, batch: MessageBatch) -> BatchStatus:
        counts = batch.request_counts
        has_ended = batch.processing_status == "ended"
        has_results = has_ended and batch.results_url and not batch.archived_at
        total = (
            counts.processing + counts.succeeded + counts.errored + counts.canceled + counts.expired
        )
        status = BatchStatus(
            id=batch.id,
            state=_STATES.get(batch.processing_status, "running"),
            end=_end(batch) if has_ended else None,
            requests=total,
            answered=counts.succeeded,
            failed=counts.errored,
            created_at=moment(batch.created_at),
            ended_at=moment(batch.ended_at),
            expires_at=moment(batch.expires_at),
            results=str(batch.results_url) if has_results else None,
        )
        return sound(status)

    async def results(self, status: BatchStatus) -> AsyncGenerator[BatchResult, None]:
        """See `BatchProvider.results`. The key goes to the account's own address, whatever host
        the vendor names.
        """
        if status.results is None:
            return
        tail = URL(status.results).path.partition("/v1/")[2]
        async with aclosing(self._calls.rows(self._root / "v1" / tail)) as rows:
            async for row in rows:
                with self._calls.readable():
                    result = BatchResult(str(row["custom_id"]), self._answer(row["result"]))
                yield result

    def _answer(self, result: Json) -> Completion | ProviderError:
        kind = str(result["type"])
        if kind == "succeeded":
            return self._calls.answer(200, result["message"])
        if kind in _UNFINISHED:
            return unfinished(kind, _UNFINISHED[kind])
        return self._calls.failed(200, result.get("error") or {})  # its type stands for the status

    async def cancel(self, batch_id: str) -> None:
        """See `BatchProvider.cancel`."""
        await self._calls.cancel(self._batches / batch_id / "cancel", batch_id, self.look)

    async def forget(self, status: BatchStatus) -> None:
        """See `BatchProvider.forget`: requests and results go with the batch."""
        await self._calls.delete(self._batches / status.id)

    async def close(self) -> None:
        """Close the connections."""
        await self._calls.close()


def _document(lines: Sequence[bytes]) -> Iterator[bytes]:
    """The body around the lines; a line break before a comma is nothing to JSON."""
    separator = b'{"requests":['
    for line in lines:
        yield separator
        yield line
        separator = b","
    yield b"]}"


def _is_since(status: BatchStatus, since: datetime) -> bool:
    return status.created_at is None or status.created_at >= since - CLOCKS_DIFFER


def _end(batch: MessageBatch) -> BatchEnd:
    """A batch that was cancelled too late has nothing to show for it."""
    if batch.request_counts.canceled:
        return "cancelled"
    return "expired" if batch.request_counts.expired else "completed"
