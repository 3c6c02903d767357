"""Gemini's batches on Vertex, as its reference has them (state of November 2026).

- A job reads lines `{"request": …}` of objects in Cloud Storage and writes, when it ends,
  `predictions.jsonl` into a folder of its own under `outputUriPrefix`: each line that it got to, as
  it was, with `response`, `status` (empty, or why not) and `processed_time`.
- `state`: `JOB_STATE_PENDING`, `RUNNING`, `SUCCEEDED`, `FAILED`, `CANCELLING`, `CANCELLED`,
  `EXPIRED`; `completionStats` and `outputInfo.gcsOutputDirectory` come with the end. A job that
  expired or was cancelled keeps what was answered.
- Jobs belong to the project and location of the URL, whoever's token it is.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from moa.catalog import Wire
from moa.replay.batch_call import Call, Route, Rows, json_reply, page_size, rfc_3339
from moa.replay.batch_life import Batch, Failure, Row, State
from moa.replay.batches import BatchBook
from moa.replay.gemini_wire import GeminiReplay
from moa.replay.google_storage import Objects
from moa.replay.wire import Reply, Target, Trouble, document_of

MOST_REQUESTS = 200_000
MOST_BYTES = 1_000_000_000
_PROVIDER: Wire = "gemini"
_WIRE = GeminiReplay()
_JOBS = r"/(?:v1|v1beta1)/(?P<parent>projects/[^/]+/locations/[^/]+)/batchPredictionJobs"
_JOB = rf"{_JOBS}/(?P<id>\d+)"
_STATES: dict[State, str] = {"waiting": "PENDING", "cancelling": "CANCELLING"}
_ENDS = {
    "completed": "SUCCEEDED",
    "failed": "FAILED",
    "expired": "EXPIRED",
    "cancelled": "CANCELLED",
}
_TERM = re.compile(r"(display_?[nN]ame|state|labels\.[\w-]+)\s*=\s*\"?([^\"]*)\"?")
_QUEUE_FULL = "The following quotas are exceeded: tokens enqueued in batches of this model."


@dataclass(slots=True)
class _Job:
    """A job, and what it was made with."""

    batch: Batch
    parent: str
    asked: dict[str, Any]
    bucket: str
    folder: str
    is_written: bool = False

    @property
    def name(self) -> str:
        return f"{self.parent}/batchPredictionJobs/{self.batch.id}"


class VertexBatches:
    """See `moa.replay.batch_call.Desk`.

    Args:
        book: all vendors' batches.
        rows: reads a request.
        objects: where jobs read and write.
    """

    routes = (
        Route("POST", re.compile(_JOBS), "submit"),
        Route("GET", re.compile(_JOBS), "list"),
        Route("GET", re.compile(_JOB), "look"),
        Route("POST", re.compile(f"{_JOB}:cancel"), "cancel"),
        Route("DELETE", re.compile(_JOB), "delete"),
    )

    def __init__(self, book: BatchBook, rows: Rows, objects: Objects) -> None:
        self._book, self._rows, self._objects = book, rows, objects
        self._jobs: dict[str, _Job] = {}

    def target(self, names: Mapping[str, str]) -> Target:
        """See `Desk.target`."""
        return Target(vertex=True)

    def answer(self, call: Call) -> Reply | Trouble:
        """See `Desk.answer`."""
        self.write()
        if call.operation == "submit":
            return self._submit(call)
        if call.operation == "list":
            return self._list(call)
        batch = self._book.get(call.names["id"], call.names["parent"])
        if batch is None:
            return Trouble(404, f"The BatchPredictionJob {call.names['id']} does not exist.")
        return self._of(self._jobs[batch.id], call.operation)

    def write(self) -> None:
        """Write the predictions of jobs that have ended by now."""
        now_s = self._book.now(_PROVIDER)
        for job in self._jobs.values():
            if job.is_written or job.batch.state(now_s) != "ended":
                continue
            job.is_written = True
            if job.batch.end != "failed":
                data = b"".join(_predictions(job.batch))
                name = f"{job.folder}/predictions.jsonl"
                self._objects.put(job.bucket, name, data, "application/jsonl")

    def _of(self, job: _Job, operation: str) -> Reply | Trouble:
        batch = job.batch
        match operation:
            case "cancel":
                if not self._book.cancel(batch):
                    return Trouble(400, f"{job.name} has ended: it cannot be cancelled.")
                return json_reply({})
            case "delete":
                if batch.state(self._book.now(_PROVIDER)) != "ended":
                    return Trouble(400, f"{job.name} is not in a final state: cancel it first.")
                batch.deleted = True
                name = f"{job.parent}/operations/{batch.id}"
                return json_reply({"name": name, "done": True, "response": {}})
        batch.looks += 1
        return json_reply(self._document(job))

    def _submit(self, call: Call) -> Reply | Trouble:
        asked = document_of(call.body) or {}
        source, target = asked.get("inputConfig") or {}, asked.get("outputConfig") or {}
        uris = (source.get("gcsSource") or {}).get("uris")
        prefix = (target.get("gcsDestination") or {}).get("outputUriPrefix", "")
        formats = source.get("instancesFormat"), target.get("predictionsFormat")
        if not uris or not prefix.startswith("gs://") or formats != ("jsonl", "jsonl"):
            return Trouble(400, "Here: gcsSource and gcsDestination, both jsonl, only.")
        if not asked.get("displayName"):
            return Trouble(400, "display_name is required.")
        model = str(asked.get("model", "")).rpartition("/")[2]
        rows = self._read([uris] if isinstance(uris, str) else uris, model)
        fate = self._book.next_fate(_PROVIDER)
        failure = rows if isinstance(rows, Failure) else None
        read = [] if isinstance(rows, Failure) else rows
        if fate == "invalid" and failure is None:
            failure = Failure("INVALID_ARGUMENT", "The input has a line that is no request.")
        parent = call.names["parent"]
        full = self._book.is_full(_PROVIDER, parent, read) is not None
        if full or fate == "queue_full":
            return Trouble(429, _QUEUE_FULL, model=model)
        batch = self._book.submit(
            _PROVIDER,
            parent,
            call.key,
            read,
            batch_id=str(10**18 + secrets.randbelow(8 * 10**18)),
            fate=fate,
            failure=failure,
        )
        bucket, _, folder = prefix.removeprefix("gs://").partition("/")
        folder = f"{folder.rstrip('/')}/prediction-model-{rfc_3339(batch.created_s)}".lstrip("/")
        job = self._jobs[batch.id] = _Job(batch, parent, asked, bucket, folder)
        return json_reply(self._document(job))

    def _read(self, uris: list[str], model: str) -> list[Row] | Failure:
        """The rows of all objects, as far as they are ones; or why they are none."""
        rows: list[Row] = []
        size = 0
        for uri in uris:
            bucket, _, name = uri.removeprefix("gs://").partition("/")
            stored = self._objects.get(bucket, name)
            if stored is None:
                return Failure("NOT_FOUND", f"There is no object {uri}.")
            size += len(stored.data)
            for line in stored.data.removesuffix(b"\n").split(b"\n"):
                request = (document_of(line) or {}).get("request")
                if not isinstance(request, dict):
                    return Failure("INVALID_ARGUMENT", f"{uri} has a line without a request.")
                target = Target(model=model, vertex=True)
                rows.append(self._rows(len(rows), str(len(rows)), target, request, line))
        if len(rows) > MOST_REQUESTS or size > MOST_BYTES:
            said = f"{len(rows)} requests, {size} bytes: at most {MOST_REQUESTS}, {MOST_BYTES}."
            return Failure("INVALID_ARGUMENT", said)
        return rows

    def _list(self, call: Call) -> Reply | Trouble:
        jobs = [self._jobs[one.id] for one in self._book.of(_PROVIDER, call.names["parent"])]
        for term in filter(None, call.query.get("filter", "").split(" AND ")):
            said = _TERM.fullmatch(term.strip())
            if said is None:
                return Trouble(400, f"Here is no such filter: {term}")
            jobs = [job for job in jobs if self._field(job, said[1]) == said[2]]
        size = page_size(call.query, "pageSize", 100, 100)
        token = call.query.get("pageToken", "")
        first = next((n + 1 for n, job in enumerate(jobs) if job.batch.id == token), 0)
        page = jobs[first : first + size]
        document: dict[str, Any] = {"batchPredictionJobs": [self._document(job) for job in page]}
        if len(jobs) > first + size:
            document["nextPageToken"] = page[-1].batch.id
        return json_reply(document)

    def _field(self, job: _Job, name: str) -> str | None:
        if name.startswith("labels."):
            labels: dict[str, str] = job.asked.get("labels") or {}
            return labels.get(name.removeprefix("labels."))
        if name != "state":
            return str(job.asked["displayName"])
        return self._state(job.batch, self._book.now(_PROVIDER))

    def _state(self, batch: Batch, now_s: float) -> str:
        state = batch.state(now_s)
        over = state == "ended"
        return "JOB_STATE_" + (_ENDS[batch.end] if over else _STATES.get(state, "RUNNING"))

    def _document(self, job: _Job) -> dict[str, Any]:
        batch, now_s = job.batch, self._book.now(_PROVIDER)
        document: dict[str, Any] = {
            "name": job.name,
            **{
                name: job.asked[name]
                for name in ("displayName", "model", "inputConfig", "outputConfig", "labels")
                if name in job.asked
            },
            "state": self._state(batch, now_s),
            "createTime": rfc_3339(batch.created_s),
            "updateTime": rfc_3339(min(now_s, batch.ends_s)),
        }
        if now_s >= batch.runs_s and batch.failure is None:
            document["startTime"] = rfc_3339(batch.runs_s)
        if batch.state(now_s) != "ended":
            return document
        document["endTime"] = rfc_3339(batch.ends_s)
        if batch.failure is not None:
            return {**document, "error": {"code": 3, "message": batch.failure.message}}
        answered, failed = batch.tally(now_s)
        left = len(batch.rows) - answered - failed
        stats = {"successfulCount": answered, "failedCount": failed, "incompleteCount": left}
        document["completionStats"] = {name: str(n) for name, n in stats.items() if n}
        directory = f"gs://{job.bucket}/{job.folder}"
        return {**document, "outputInfo": {"gcsOutputDirectory": directory}}


def _predictions(batch: Batch) -> Iterator[bytes]:
    for row, end_s in zip(batch.finished(), batch.ends, strict=False):
        request_id = f"{batch.id[-12:]}{row.number:012x}"
        line: dict[str, Any] = {**orjson.loads(row.line), "status": "", "response": {}}
        line["processed_time"] = rfc_3339(end_s)
        if isinstance(row.outcome, Trouble):
            error = _WIRE.error(row.outcome, request_id).body.decode()
            line["status"] = f"{_WORDS.get(row.outcome.status, 'Error')}: {error}"
        else:
            assert row.asked is not None
            line["response"] = orjson.Fragment(_WIRE.whole(row.asked, row.outcome, request_id))
        yield orjson.dumps(line) + b"\n"


_WORDS = {400: "Bad Request", 404: "Not Found", 429: "Too Many Requests", 500: "Internal Error"}
