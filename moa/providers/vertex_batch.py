"""Batches of Gemini on Vertex: files in Google Cloud Storage in and out, up to 96 hours.

Each line has our `custom_id` beside its request, and the vendor writes the line back with the
answer. Where it should leave out what it does not know, the request itself tells whose it is.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections import defaultdict
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing, suppress
from datetime import datetime
from functools import partial
from typing import TypeVar

import orjson
from yarl import URL

from moa.catalog import Account, Model
from moa.errors import ConfigError, ProviderError, TransientError
from moa.providers.batch import BatchLimits, BatchResult, BatchStatus
from moa.providers.batch_calls import MOST_PAGES, BatchCalls, Json, checked, live, moment
from moa.providers.gemini import models_root, open_gemini, vertex_path
from moa.providers.gemini_request import request_document
from moa.providers.google_jobs import code_named, count, failure, http_status, state_of
from moa.providers.provider import Completion, Request
from moa.storage.object_store import Folder

LIMITS = BatchLimits(requests=200_000, bytes=1_000_000_000)

_PAGE = 100
_PART_BYTES = 64 << 20
_NUMBER = re.compile(r"\b\d{1,3}\b")
_T = TypeVar("_T")


def open_batches(
    account: Account, *, environ: Mapping[str, str], base_url: str | None
) -> VertexBatches:
    """The batches of an account of wire `gemini` on Vertex."""
    root, folder = _places(account, environ, base_url)
    provider = open_gemini(account, environ=environ, base_url=base_url)
    return VertexBatches(BatchCalls(provider), root, folder)


def check(account: Account, environ: Mapping[str, str]) -> None:
    """See `moa.providers.accounts.check_batches`."""
    _places(account, environ, None)


def _places(account: Account, environ: Mapping[str, str], override: str | None) -> tuple[URL, str]:
    """Where an account's jobs are, and its files.

    Raises:
        ConfigError: the account says too little.
    """
    root = models_root(account, environ, override)
    where = f"account {account.name!r}: batches on Vertex"
    if account.batch_folder is None:
        raise ConfigError(f'{where} need batch_folder = "gs://BUCKET/FOLDER", where their files go')
    if "projects" not in root.parts:
        raise ConfigError(f"{where} belong to a project: set project_env, or use no batches")
    return root, account.batch_folder.rstrip("/")


class VertexBatches:
    """See `moa.providers.batch.BatchProvider`."""

    limits = LIMITS
    keeps_references = True

    def __init__(self, calls: BatchCalls, root: URL, folder: str) -> None:
        self.name = calls.name
        self._calls = calls
        self._root = root
        self._jobs = root / "batchPredictionJobs"
        self._folder = folder

    def line(self, custom_id: str, request: Request) -> bytes:
        """See `BatchProvider.line`."""
        document = {
            "custom_id": checked(custom_id),
            "request": request_document(live(request), self.name),
        }
        return orjson.dumps(document, option=orjson.OPT_APPEND_NEWLINE)

    async def submit(self, model: Model, lines: Sequence[bytes], *, reference: str) -> str:
        """See `BatchProvider.submit`. An upload under the same reference takes the place of the
        one that was lost.
        """
        names = await self._store(partial(_write, self._folder, reference, lines))
        job = {
            "displayName": reference,
            "model": vertex_path(model.api_name),
            "inputConfig": {
                "instancesFormat": "jsonl",
                "gcsSource": {"uris": names},
            },
            "outputConfig": {
                "predictionsFormat": "jsonl",
                "gcsDestination": {"outputUriPrefix": f"{self._folder}/{reference}/answers"},
            },
            "labels": {"moa": reference.lower()[:63]},
        }
        made = await self._calls.ask("POST", self._jobs, job, buys=True)
        with self._calls.readable(buys=True):
            return str(made["name"])

    async def _store(self, act: Callable[[], _T]) -> _T:
        """What `act` gives, in a thread: storage is called synchronously.

        Raises:
            TransientError: storage failed.
        """
        try:
            return await asyncio.to_thread(act)
        except ConfigError:
            raise
        except Exception as error:  # google-cloud-storage, google.auth and pyarrow have their own
            detail = f"{self.name}: {self._folder}: {type(error).__name__}"
            raise TransientError(detail, code="storage") from None

    async def find(self, reference: str, *, since: datetime, requests: int) -> list[BatchStatus]:
        """See `BatchProvider.find`."""
        query: dict[str, str | int] = {
            "filter": f'display_name="{reference}"',
            "pageSize": _PAGE,
        }
        for _ in range(MOST_PAGES):
            page = await self._calls.ask("GET", self._jobs.with_query(query))
            with self._calls.readable():
                for job in page.get("batchPredictionJobs") or ():
                    if job.get("displayName") == reference:
                        return [_status(job)]
                if not page.get("nextPageToken"):
                    break
                query["pageToken"] = str(page["nextPageToken"])
        return []

    async def look(self, batch_id: str) -> BatchStatus:
        """See `BatchProvider.look`."""
        job = await self._calls.ask("GET", self._job(batch_id))
        with self._calls.readable():
            return _status(job)

    def _job(self, batch_id: str) -> URL:
        return self._jobs / batch_id.rpartition("/")[2]

    async def results(self, status: BatchStatus) -> AsyncGenerator[BatchResult, None]:
        """See `BatchProvider.results`: of all the files that the job has written. Rows that are
        nobody's are passed over.
        """
        if status.results is None:
            return
        senders: Senders | None = None
        async with aclosing(self._rows(status.results)) as rows:
            async for row in rows:
                if "custom_id" not in row and senders is None:
                    senders = await self._senders(status.id)
                with self._calls.readable():
                    custom_id = row.get("custom_id") or (senders and senders.of(row))
                    result = BatchResult(str(custom_id), self._answer(row))
                if custom_id:
                    yield result

    async def _rows(self, where: str, only: str = "") -> AsyncGenerator[Json, None]:
        """Rows of the files below a folder, or of the `only` one."""
        folder = await self._store(partial(Folder, where))
        for name in [only] if only else await self._store(partial(folder.names, "")):
            blocks = folder.line_blocks(name)
            while name.endswith(".jsonl") and (
                lines := await self._store(partial(next, blocks, None))
            ):
                for line in lines:
                    if line.strip():
                        yield self._calls.document(line)

    async def _senders(self, batch_id: str) -> Senders:
        job = await self._calls.ask("GET", self._job(batch_id))
        with self._calls.readable():
            sources = [str(uri) for uri in job["inputConfig"]["gcsSource"]["uris"]]
        senders = Senders()
        for source in sources:
            folder, _, name = source.rpartition("/")
            async with aclosing(self._rows(folder, name)) as rows:
                async for row in rows:
                    senders.add(row)
        return senders

    def _answer(self, row: Json) -> Completion | ProviderError:
        if row.get("status") or not row.get("response"):
            return self._calls.failed(*_error(row.get("status")))
        return self._calls.answer(200, row["response"])

    async def cancel(self, batch_id: str) -> None:
        """See `BatchProvider.cancel`."""
        url = self._jobs / f"{batch_id.rpartition('/')[2]}:cancel"
        await self._calls.cancel(url, batch_id, self.look)

    async def forget(self, status: BatchStatus) -> None:
        """See `BatchProvider.forget`: its files. The job itself stays in the list."""
        job = await self._calls.ask("GET", self._job(status.id))
        with self._calls.readable():
            reference = str(job["displayName"])
        folder = await self._store(partial(Folder, self._folder))
        await self._store(partial(folder.remove_all, reference))

    async def close(self) -> None:
        """Close the connections."""
        await self._calls.close()


def _write(folder: str, reference: str, lines: Sequence[bytes]) -> list[str]:
    """Write the requests, a part at a time: all of it is not held twice. The addresses of the
    parts.
    """
    store = Folder(folder)
    names: list[str] = []
    for part in _parts(lines):
        name = f"{reference}/requests-{len(names):03}.jsonl"
        store.put(name, part)
        names.append(f"{folder}/{name}")
    return names


def _parts(lines: Sequence[bytes]) -> Iterator[bytes]:
    part: list[bytes] = []
    part_bytes = 0
    for line in lines:
        part.append(line)
        part_bytes += len(line)
        if part_bytes >= _PART_BYTES:
            yield b"".join(part)
            part, part_bytes = [], 0
    if part:
        yield b"".join(part)


class Senders:
    """Whose a request is, by what it says. Of equal ones, whichever: so are their answers."""

    def __init__(self) -> None:
        self._by_request: defaultdict[bytes, list[str]] = defaultdict(list)

    def add(self, row: Json) -> None:
        """Note a line that was sent."""
        self._by_request[_digest(row["request"])].append(str(row["custom_id"]))

    def of(self, row: Json) -> str | None:
        """The `custom_id` of a line that came back, once."""
        waiting = self._by_request.get(_digest(row.get("request")))
        return waiting.pop() if waiting else None


def _digest(request: object) -> bytes:
    return hashlib.sha256(orjson.dumps(_plain(request), option=orjson.OPT_SORT_KEYS)).digest()


def _plain(value: object) -> object:
    """`value` with all numbers alike: google.protobuf's Struct makes floats of them."""
    if isinstance(value, dict):
        return {name: _plain(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_plain(one) for one in value]
    return float(value) if type(value) is int else value


def _error(status: object) -> tuple[int, Json]:
    """A row's status as HTTP would have it, and the error in it. It comes as an object of
    google.rpc, as its code, or as words with an object in them: `Bad Request: {"error": {...}}`.
    """
    if isinstance(status, str):
        status = _parsed(status)
    if isinstance(status, dict):
        error = status.get("error", status)
        if isinstance(error, dict):
            return http_status(error.get("code")), {"error": error}
    return http_status(status), {}


def _parsed(words: str) -> object:
    brace = words.find("{")
    if brace >= 0:
        with suppress(orjson.JSONDecodeError):
            return orjson.loads(words[brace:])
    number = _NUMBER.search(words)
    return int(number[0]) if number else code_named(words)


def _status(job: Json) -> BatchStatus:
    state, end = state_of(str(job["state"]))
    stats = job.get("completionStats") or {}
    answered, failed = count(stats.get("successfulCount")), count(stats.get("failedCount"))
    where = (job.get("outputInfo") or {}).get("gcsOutputDirectory")
    return BatchStatus(
        id=str(job["name"]),
        state=state,
        end=end,
        requests=answered + failed + count(stats.get("incompleteCount")),
        answered=answered,
        failed=failed,
        created_at=moment(job.get("createTime")),
        ended_at=moment(job.get("endTime")) if end else None,
        results=str(where) if end and where else None,
        error=failure(job.get("error") or {}) if end == "failed" else None,
    )
