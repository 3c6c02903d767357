"""OpenAI's batches: a file of requests, a file of answers, a file of errors, 24 hours.

An upload that was lost leaves a file behind, which costs nothing and which the vendor deletes after
30 days.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from datetime import datetime
from typing import TYPE_CHECKING

import orjson
from yarl import URL

from moa.catalog import Account, Model
from moa.errors import InvalidRequest, ProviderError, QuotaSpent, TransientError
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
from moa.providers.openai import api_root, open_openai
from moa.providers.openai_request import request_document
from moa.providers.provider import Completion, Request

if TYPE_CHECKING:
    from openai.types import Batch

LIMITS = BatchLimits(requests=50_000, bytes=200_000_000)

_ENDPOINT = "/v1/chat/completions"
_PAGE = 100
_STATES: dict[str, BatchState] = {
    "validating": "waiting",
    "in_progress": "running",
    "finalizing": "running",
    "cancelling": "cancelling",
}
_ENDS: dict[str, BatchEnd] = {
    "completed": "completed",
    "failed": "failed",
    "expired": "expired",
    "cancelled": "cancelled",
}
_QUEUE_IS_FULL = ("token_limit_exceeded", "request_limit_exceeded", "batch_limit_exceeded")
"""Too much is waiting for this model already."""
_UNFINISHED = {
    "batch_expired": "its time was up",
    "batch_cancelled": "it was cancelled",
}


def open_batches(
    account: Account, *, environ: Mapping[str, str], base_url: str | None
) -> OpenAIBatches:
    """The batches of an account of wire `openai`."""
    provider = open_openai(account, environ=environ, base_url=base_url)
    return OpenAIBatches(BatchCalls(provider), api_root(account, environ, base_url))


class OpenAIBatches:
    """See `moa.providers.batch.BatchProvider`."""

    limits = LIMITS
    keeps_references = True

    def __init__(self, calls: BatchCalls, root: URL) -> None:
        from openai.types import Batch  # seconds to import

        self.name = calls.name
        self._calls = calls
        self._batches = root / "batches"
        self._files = root / "files"
        self._type = Batch

    def line(self, custom_id: str, request: Request) -> bytes:
        """See `BatchProvider.line`."""
        document = {
            "custom_id": checked(custom_id),
            "method": "POST",
            "url": _ENDPOINT,
            "body": request_document(live(request), self.name),
        }
        return orjson.dumps(document, option=orjson.OPT_APPEND_NEWLINE)

    async def submit(self, model: Model, lines: Sequence[bytes], *, reference: str) -> str:
        """See `BatchProvider.submit`."""
        file_id = await self._upload(lines, reference)
        document = {
            "input_file_id": file_id,
            "endpoint": _ENDPOINT,
            "completion_window": "24h",
            "metadata": {"moa": reference},
        }
        try:
            batch = await self._calls.ask("POST", self._batches, document, buys=True)
        except ProviderError as error:
            if not error.maybe_billed:
                with contextlib.suppress(ProviderError):  # the first error is the one that counts
                    await self._calls.delete(self._files / file_id)
            raise _of_queue(error) from None
        with self._calls.readable(buys=True):
            return str(batch["id"])

    async def _upload(self, lines: Sequence[bytes], reference: str) -> str:
        boundary = secrets.token_hex(16)
        head = (
            f"--{boundary}\r\n"
            'Content-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
            f"--{boundary}\r\n"
            f'Content-Disposition: form-data; name="file"; filename="{reference}.jsonl"\r\n'
            "Content-Type: application/jsonl\r\n\r\n"
        )
        pieces = (head.encode(), *lines, f"\r\n--{boundary}--\r\n".encode())
        content_type = f"multipart/form-data; boundary={boundary}"
        reply = await self._calls.send(
            "POST", self._files, pieces, content_type=content_type, carries=lines
        )
        with self._calls.readable():
            return str(self._calls.document(reply.body)["id"])

    async def find(self, reference: str, *, since: datetime, requests: int) -> list[BatchStatus]:
        """See `BatchProvider.find`; lists begin with the newest."""
        query: dict[str, str | int] = {"limit": _PAGE}
        for _ in range(MOST_PAGES):
            page = await self._calls.ask("GET", self._batches.with_query(query))
            with self._calls.readable():
                batches = [self._type.construct(**one) for one in page["data"]]
                for batch in batches:
                    if (batch.metadata or {}).get("moa") == reference:
                        return [self._status(batch)]
                oldest = moment(batches[-1].created_at) if batches else None
                if oldest is None or oldest < since - CLOCKS_DIFFER or not page.get("has_more"):
                    break
                query["after"] = batches[-1].id
        return []

    async def look(self, batch_id: str) -> BatchStatus:
        """See `BatchProvider.look`."""
        document = await self._calls.ask("GET", self._batches / batch_id)
        with self._calls.readable():
            return self._status(self._type.construct(**document))

    def _status(self, batch: Batch) -> BatchStatus:
        end = _ENDS.get(batch.status)
        ended_at = batch.completed_at or batch.failed_at or batch.expired_at or batch.cancelled_at
        files = [str(name) for name in (batch.output_file_id, batch.error_file_id) if name]
        counts = batch.request_counts
        status = BatchStatus(
            id=batch.id,
            state="ended" if end else _STATES.get(batch.status, "running"),
            end=end,
            requests=counts.total if counts else 0,
            answered=counts.completed if counts else 0,
            failed=counts.failed if counts else 0,
            created_at=moment(batch.created_at),
            ended_at=moment(ended_at),
            expires_at=moment(batch.expires_at),
            results=" ".join(files) if end and files else None,
            error=_failure(batch) if end == "failed" else None,
        )
        return sound(status)

    async def results(self, status: BatchStatus) -> AsyncGenerator[BatchResult, None]:
        """See `BatchProvider.results`: of the files of answers and of errors."""
        for file_id in (status.results or "").split():
            async with aclosing(self._calls.rows(self._files / file_id / "content")) as rows:
                async for row in rows:
                    with self._calls.readable():
                        result = BatchResult(str(row["custom_id"]), self._answer(row))
                    yield result

    def _answer(self, row: Json) -> Completion | ProviderError:
        if row.get("response"):
            response = row["response"]
            return self._calls.answer(response["status_code"], response["body"])
        error = row.get("error") or {}
        code = str(error.get("code"))
        if code in _UNFINISHED:
            return unfinished(code, _UNFINISHED[code])
        return self._calls.failed(500, {"error": error})

    async def cancel(self, batch_id: str) -> None:
        """See `BatchProvider.cancel`."""
        await self._calls.cancel(self._batches / batch_id / "cancel", batch_id, self.look)

    async def forget(self, status: BatchStatus) -> None:
        """See `BatchProvider.forget`: its three files. The batch itself stays in the list."""
        batch = await self._calls.ask("GET", self._batches / status.id)
        for name in ("output_file_id", "error_file_id", "input_file_id"):
            if batch.get(name):
                await self._calls.delete(self._files / str(batch[name]))

    async def close(self) -> None:
        """Close the connections."""
        await self._calls.close()


def _of_queue(error: ProviderError) -> ProviderError:
    if error.code not in _QUEUE_IS_FULL:
        return error
    return QuotaSpent(error.detail, status=error.status, code=error.code)


def _failure(batch: Batch) -> ProviderError:
    """Why all of a batch failed; words about a line of it may quote the line."""
    first = next(iter((batch.errors and batch.errors.data) or ()), None)
    code = str((first and first.code) or "")
    if first is None:
        return TransientError("the batch failed, and its vendor does not say why", code="failed")
    if code in (*_QUEUE_IS_FULL, "rate_limit_exceeded"):
        return QuotaSpent(f"the batch failed: {code}: {first.message}"[:300], code=code)
    if code in ("server_error", "internal_error"):
        return TransientError(f"the batch failed: {code}", code=code)
    where = f", line {first.line}" if first.line is not None else ""
    where += f", {first.param}" if first.param else ""
    return InvalidRequest(f"the batch failed: {code}{where}", code=code)
