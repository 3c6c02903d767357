"""Batches of Gemini's Developer API: a file of requests, a file of answers, 24 to 48 hours.

What is not known: when a batch will expire, and in which order a list comes. Files are deleted by
the vendor after 48 hours, uploads that were lost included.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from datetime import datetime

import orjson
from yarl import URL

from moa.catalog import Account, Model
from moa.errors import InvalidRequest, ProviderError
from moa.providers.batch import BatchLimits, BatchResult, BatchStatus
from moa.providers.batch_calls import MOST_PAGES, BatchCalls, Json, checked, live, moment
from moa.providers.gemini import developer_path, models_root, open_gemini
from moa.providers.gemini_request import request_document
from moa.providers.google_jobs import count, failure, http_status, state_of
from moa.providers.provider import Completion, Request

LIMITS = BatchLimits(requests=100_000, bytes=1_000_000_000)
"""The vendor takes a file of 2 GB, and says nothing of a number."""

_JSONL = "application/jsonl"
_PAGE = 100
_INLINE = "inline"
"""Where results are that stand in the answer about the batch itself."""


def open_batches(
    account: Account, *, environ: Mapping[str, str], base_url: str | None
) -> GeminiBatches:
    """The batches of an account of wire `gemini` that has a key and no project."""
    provider = open_gemini(account, environ=environ, base_url=base_url)
    return GeminiBatches(BatchCalls(provider), models_root(account, environ, base_url))


class GeminiBatches:
    """See `moa.providers.batch.BatchProvider`."""

    limits = LIMITS
    keeps_references = True

    def __init__(self, calls: BatchCalls, root: URL) -> None:
        self.name = calls.name
        self._calls = calls
        self._root = root

    def line(self, custom_id: str, request: Request) -> bytes:
        """See `BatchProvider.line`."""
        document = {
            "key": checked(custom_id),
            "request": request_document(live(request), self.name),
        }
        return orjson.dumps(document, option=orjson.OPT_APPEND_NEWLINE)

    async def submit(self, model: Model, lines: Sequence[bytes], *, reference: str) -> str:
        """See `BatchProvider.submit`."""
        file_name = await self._upload(lines, reference)
        batch = {"displayName": reference, "inputConfig": {"fileName": file_name}}
        url = self._root / f"{developer_path(model.api_name)}:batchGenerateContent"
        try:
            operation = await self._calls.ask("POST", url, {"batch": batch}, buys=True)
        except ProviderError as error:
            if not error.maybe_billed:
                with contextlib.suppress(ProviderError):  # the first error is the one that counts
                    await self._calls.delete(self._root / file_name)
            raise
        with self._calls.readable(buys=True):
            return str(operation["name"])

    async def _upload(self, lines: Sequence[bytes], reference: str) -> str:
        """The file's name, after the two calls of a resumable upload, in one piece."""
        size_bytes = sum(map(len, lines))
        file = {"displayName": reference, "mimeType": _JSONL, "sizeBytes": size_bytes}
        start = await self._calls.send(
            "POST",
            self._root.parent / "upload" / self._root.name / "files",
            (orjson.dumps({"file": file}),),
            headers={
                "X-Goog-Upload-Protocol": "resumable",
                "X-Goog-Upload-Command": "start",
                "X-Goog-Upload-Header-Content-Length": str(size_bytes),
                "X-Goog-Upload-Header-Content-Type": _JSONL,
            },
        )
        with self._calls.readable():
            url = self._at_home(URL(start.headers["x-goog-upload-url"]))
        done = await self._calls.send(
            "POST",
            url,
            lines,
            content_type=_JSONL,
            headers={"X-Goog-Upload-Command": "upload, finalize", "X-Goog-Upload-Offset": "0"},
            carries=lines,
        )
        with self._calls.readable():
            return str(self._calls.document(done.body)["file"]["name"])

    def _at_home(self, url: URL) -> URL:
        """An address that the vendor named, on the account's own host: it is told the key."""
        return self._root.origin().join(url.relative() if url.is_absolute() else url)

    async def find(self, reference: str, *, since: datetime, requests: int) -> list[BatchStatus]:
        """See `BatchProvider.find`."""
        query: dict[str, str | int] = {"pageSize": _PAGE}
        for _ in range(MOST_PAGES):
            page = await self._calls.ask("GET", (self._root / "batches").with_query(query))
            with self._calls.readable():
                for operation in page.get("operations") or ():
                    if (operation.get("metadata") or {}).get("displayName") == reference:
                        return [_status(operation)]
                if not page.get("nextPageToken"):
                    break
                query["pageToken"] = str(page["nextPageToken"])
        return []

    async def look(self, batch_id: str) -> BatchStatus:
        """See `BatchProvider.look`."""
        operation = await self._calls.ask("GET", self._root / batch_id)
        with self._calls.readable():
            return _status(operation)

    async def results(self, status: BatchStatus) -> AsyncGenerator[BatchResult, None]:
        """See `BatchProvider.results`."""
        if status.results is None:
            return
        if status.results == _INLINE:
            for result in await self._inline(status.id):
                yield result
            return
        url = self._root / f"{status.results}:download"
        async with aclosing(self._calls.rows(url.with_query(alt="media"))) as rows:
            async for row in rows:
                with self._calls.readable():
                    result = BatchResult(str(row["key"]), self._answer(row))
                yield result

    async def _inline(self, batch_id: str) -> list[BatchResult]:
        operation = await self._calls.ask("GET", self._root / batch_id)
        with self._calls.readable():
            rows = _output(operation)["inlinedResponses"]["inlinedResponses"]
            return [BatchResult(str(row["metadata"]["key"]), self._answer(row)) for row in rows]

    def _answer(self, row: Json) -> Completion | ProviderError:
        error = row.get("error") or {}
        if row.get("response") and not error:
            return self._calls.answer(200, row["response"])
        return self._calls.failed(http_status(error.get("code")), {"error": error})

    async def cancel(self, batch_id: str) -> None:
        """See `BatchProvider.cancel`."""
        await self._calls.cancel(self._root / f"{batch_id}:cancel", batch_id, self.look)

    async def forget(self, status: BatchStatus) -> None:
        """See `BatchProvider.forget`: the batch and its files, as far as the vendor names them."""
        try:
            operation = await self._calls.ask("GET", self._root / status.id)
        except InvalidRequest:
            return  # it is gone
        with self._calls.readable():
            source = (operation.get("metadata") or {}).get("inputConfig") or {}
            names = (source.get("fileName"), _output(operation).get("responsesFile"), status.id)
        for name in names:
            if name:
                await self._calls.delete(self._root / str(name))

    async def close(self) -> None:
        """Close the connections."""
        await self._calls.close()


def _output(operation: Json) -> Json:
    """Where the answers are; the vendor says it in two places, not always in both."""
    metadata = operation.get("metadata") or {}
    output: Json = metadata.get("output") or operation.get("response") or {}
    return output


def _status(operation: Json) -> BatchStatus:
    metadata = operation.get("metadata") or {}
    state, end = state_of(str(metadata["state"]))
    stats = metadata.get("batchStats") or {}
    output = _output(operation)
    results = output.get("responsesFile") or (_INLINE if output.get("inlinedResponses") else None)
    error = operation.get("error") or metadata.get("error") or {}
    return BatchStatus(
        id=str(operation["name"]),
        state=state,
        end=end,
        requests=count(stats.get("requestCount")),
        answered=count(stats.get("successfulRequestCount")),
        failed=count(stats.get("failedRequestCount")),
        created_at=moment(metadata.get("createTime")),
        ended_at=moment(metadata.get("endTime")) if end else None,
        results=str(results) if end and results else None,
        error=failure(error) if end == "failed" else None,
    )
