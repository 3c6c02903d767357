"""Gemini's batches on the Developer API, as its reference has them (state of November 2026).

- `POST models/MODEL:batchGenerateContent` with requests inline (known by `metadata.key`) or in a
  file of lines `{"key", "request"}`; the answer is an operation with the batch in `metadata`.
- Files are uploaded in two steps: the first answers with `x-goog-upload-url`, which needs no key;
  the second sends the bytes, in pieces of the client's size.
- `metadata.state`: `BATCH_STATE_PENDING`, `RUNNING`, `SUCCEEDED`, `FAILED`, `CANCELLED`, `EXPIRED`.
  Results are inline in the order of the requests, or a file of lines with `key` and `response` or
  `error`. Of an expired batch there are none, so none are billed.

Not known, and so a guess: a cancelled batch keeps what was answered.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from moa.catalog import Wire
from moa.replay.batch_call import Call, Route, Rows, json_reply, lines_reply, page_size, rfc_3339
from moa.replay.batch_life import Batch, Failure, Row, State
from moa.replay.batches import BatchBook
from moa.replay.gemini_wire import GeminiReplay
from moa.replay.wire import DAY_S, Reply, Target, Trouble, document_of, new_request_id

MOST_INLINE_BYTES = 20_000_000
_PROVIDER: Wire = "gemini"
_WIRE = GeminiReplay()
_FILES_LAST_S = 2 * DAY_S
_BATCH_TYPE = "type.googleapis.com/google.ai.generativelanguage.v1main.GenerateContentBatch"
_OUTPUT_TYPE = f"{_BATCH_TYPE}Output"
_STATES: dict[State, str] = {"waiting": "PENDING"}
_ENDS = {
    "completed": "SUCCEEDED",
    "failed": "FAILED",
    "expired": "EXPIRED",
    "cancelled": "CANCELLED",
}
_OVER = {
    "expired": {"code": 4, "message": "The batch expired before it was completed."},
    "cancelled": {"code": 1, "message": "The batch was cancelled."},
}
_QUEUE_FULL = "You exceeded your current quota: tokens enqueued in batches of this model."


@dataclass(slots=True)
class _File:
    """An uploaded file."""

    name: str
    """`files/…`."""
    display_name: str
    owner: str
    created_s: float
    mime_type: str
    data: bytearray = field(default_factory=bytearray, repr=False)
    is_whole: bool = False


@dataclass(frozen=True, slots=True)
class _Order:
    """What a batch was made with."""

    display_name: str
    model: str
    inline: bool
    metadata: Mapping[str, Any]
    """Of inline requests, by custom id."""


class GeminiBatches:
    """See `moa.replay.batch_call.Desk`."""

    routes = (
        Route("POST", re.compile("/upload/v1beta/files"), "upload", "upload_id", keyless=True),
        Route("POST", re.compile("/upload/v1beta/files"), "begin upload"),
        Route("GET", re.compile("(?:/download)?/v1beta/files/(?P<id>[^/:]+):download"), "results"),
        Route("GET", re.compile("/v1beta/files/(?P<id>[^/:]+)"), "file"),
        Route("DELETE", re.compile("/v1beta/files/(?P<id>[^/:]+)"), "delete file"),
        Route(
            "POST", re.compile("/v1beta/models/(?P<model>[^/:]+):batchGenerateContent"), "submit"
        ),
        Route("GET", re.compile("/v1beta/batches"), "list"),
        Route("GET", re.compile("/v1beta/batches/(?P<id>[^/:]+)"), "look"),
        Route("POST", re.compile("/v1beta/batches/(?P<id>[^/:]+):cancel"), "cancel"),
        Route("DELETE", re.compile("/v1beta/batches/(?P<id>[^/:]+)"), "delete"),
    )

    def __init__(self, book: BatchBook, rows: Rows) -> None:
        self._book, self._rows = book, rows
        self._files: dict[str, _File] = {}
        self._uploads: dict[str, _File] = {}
        self._orders: dict[str, _Order] = {}

    def target(self, names: Mapping[str, str]) -> Target:
        """See `Desk.target`."""
        return Target(model=names.get("model"))

    def answer(self, call: Call) -> Reply | Trouble:
        """See `Desk.answer`."""
        match call.operation:
            case "begin upload":
                return self._begin(call)
            case "upload":
                return self._upload(call)
            case "file" | "delete file" | "results":
                return self._of_file(call)
            case "submit":
                return self._submit(call)
            case "list":
                return self._list(call)
        batch = self._batch(call.names["id"], call.key)
        return batch if isinstance(batch, Trouble) else self._of(batch, call.operation)

    def _batch(self, batch_id: str, owner: str) -> Batch | Trouble:
        batch = self._book.get(batch_id, owner)
        return batch or Trouble(404, f"Requested entity was not found: batches/{batch_id}.")

    def _of(self, batch: Batch, operation: str) -> Reply | Trouble:
        match operation:
            case "cancel":
                if not self._book.cancel(batch):
                    return Trouble(400, "Batch has ended: it cannot be cancelled.")
                return json_reply({})
            case "delete":
                batch.deleted = True
                return json_reply({})
        batch.looks += 1
        ended = batch.state(self._book.now(_PROVIDER)) == "ended"
        if ended and self._orders[batch.id].inline:
            batch.fetches += 1
        return json_reply(self._operation(batch))

    def _begin(self, call: Call) -> Reply | Trouble:
        about = (document_of(call.body) or {}).get("file") or {}
        upload_id = new_request_id()
        name = str(about.get("name") or f"files/{upload_id[:12]}")
        if name in self._files:
            return Trouble(409, f"{name} is there already.")
        self._uploads[upload_id] = _File(
            name=name,
            display_name=str(about.get("displayName", "")),
            owner=call.key,
            created_s=self._book.now(_PROVIDER),
            mime_type=call.headers.get("X-Goog-Upload-Header-Content-Type", ""),
        )
        where = f"{call.origin}/upload/v1beta/files?upload_id={upload_id}"
        headers = {
            "X-Goog-Upload-URL": f"{where}&upload_protocol=resumable",
            "X-Goog-Upload-Status": "active",
        }
        return Reply(200, headers, b"")

    def _upload(self, call: Call) -> Reply | Trouble:
        file = self._uploads.get(call.query["upload_id"])
        if file is None:
            return Trouble(404, "No such upload.")
        if int(call.headers.get("X-Goog-Upload-Offset", "0")) != len(file.data):
            return Trouble(400, "The offset is not where the upload is.")
        file.data += call.body
        if "finalize" not in call.headers.get("X-Goog-Upload-Command", ""):
            return Reply(200, {"X-Goog-Upload-Status": "active"}, b"")
        del self._uploads[call.query["upload_id"]]
        self._files[file.name] = file
        reply = json_reply({"file": _file_document(file, call.origin)})
        return reply._replace(headers={"X-Goog-Upload-Status": "final"})

    def _file(self, name: str, owner: str) -> _File | None:
        file = self._files.get(name)
        if file is None or file.owner != owner:
            return None
        over = self._book.now(_PROVIDER) >= file.created_s + _FILES_LAST_S
        return None if over else file

    def _of_file(self, call: Call) -> Reply | Trouble:
        name = f"files/{call.names['id']}"
        if call.operation == "results":
            return self._results(call)
        file = self._file(name, call.key)
        if file is None:
            return Trouble(403, f"You do not have permission to access the File {name}.")
        if call.operation == "delete file":
            del self._files[name]
            return json_reply({})
        return json_reply(_file_document(file, call.origin))

    def _results(self, call: Call) -> Reply | Trouble:
        batch = self._batch(call.names["id"].removeprefix("batch-"), call.key)
        if isinstance(batch, Trouble):
            return batch
        if batch.state(self._book.now(_PROVIDER)) != "ended" or not _has_results(batch):
            return Trouble(404, f"There is no file {call.names['id']}.")
        batch.fetches += 1
        return lines_reply(b"".join(_lines(batch)))

    def _submit(self, call: Call) -> Reply | Trouble:
        asked = (document_of(call.body) or {}).get("batch") or {}
        source = asked.get("inputConfig") or {}
        inline = (source.get("requests") or {}).get("requests")
        if inline is None:
            file = self._file(str(source.get("fileName")), call.key)
            if file is None:
                return Trouble(404, f"There is no file {source.get('fileName')}.")
            rows = self._read(bytes(file.data), call.names["model"])
        elif len(call.body) > MOST_INLINE_BYTES:
            return Trouble(413, f"Inline requests have at most {MOST_INLINE_BYTES} bytes.")
        else:
            rows = self._read_inline(inline, call.names["model"])
        fate = self._book.next_fate(_PROVIDER)
        failure = rows if isinstance(rows, Failure) else None
        read = [] if isinstance(rows, Failure) else rows
        if fate == "invalid" and failure is None:
            failure = Failure("INVALID_ARGUMENT", "The input file has a line that is no request.")
        full = self._book.is_full(_PROVIDER, call.key, read) is not None
        if full or fate == "queue_full":
            return Trouble(429, _QUEUE_FULL, model=call.names["model"])
        batch = self._book.submit(
            _PROVIDER,
            call.key,
            call.key,
            read,
            batch_id=new_request_id(),
            fate=fate,
            failure=failure,
            keeps_when_expired=False,
        )
        self._orders[batch.id] = _Order(
            display_name=str(asked.get("displayName", "")),
            model=f"models/{call.names['model']}",
            inline=inline is not None,
            metadata={str(n): one.get("metadata") for n, one in enumerate(inline or ())},
        )
        return json_reply(self._operation(batch))

    def _read(self, content: bytes, model: str) -> list[Row] | Failure:
        rows = []
        for number, line in enumerate(content.removesuffix(b"\n").split(b"\n")):
            document = document_of(line) or {}
            request, key = document.get("request"), document.get("key")
            if not isinstance(request, dict) or not isinstance(key, str):
                return Failure("INVALID_ARGUMENT", f"Line {number + 1} is no request with a key.")
            rows.append(self._rows(number, key, Target(model=model), request))
        return rows

    def _read_inline(self, requests: list[dict[str, Any]], model: str) -> list[Row]:
        target = Target(model=model)
        return [
            self._rows(number, str(number), target, one.get("request") or {})
            for number, one in enumerate(requests)
        ]

    def _list(self, call: Call) -> Reply:
        batches = self._book.of(_PROVIDER, call.key)
        size = page_size(call.query, "pageSize", 50, 1000)
        token = call.query.get("pageToken", "")
        first = next((n + 1 for n, one in enumerate(batches) if one.id == token), 0)
        page = batches[first : first + size]
        document: dict[str, Any] = {"operations": [self._operation(batch) for batch in page]}
        if len(batches) > first + size:
            document["nextPageToken"] = page[-1].id
        return json_reply(document)

    def _operation(self, batch: Batch) -> dict[str, Any]:
        now_s = self._book.now(_PROVIDER)
        over = batch.state(now_s) == "ended"
        metadata = self._metadata(batch, now_s)
        document: dict[str, Any] = {"name": f"batches/{batch.id}", "metadata": metadata}
        if over:
            document["done"] = True
            if batch.failure is not None:
                document["error"] = {"code": 3, "message": batch.failure.message}
            elif batch.end in _OVER:
                document["error"] = _OVER[batch.end]
            else:
                document["response"] = {"@type": _OUTPUT_TYPE, **metadata["output"]}
        return document

    def _metadata(self, batch: Batch, now_s: float) -> dict[str, Any]:
        order, state = self._orders[batch.id], batch.state(now_s)
        over = state == "ended"
        answered, failed = batch.tally(now_s)
        counts = {
            "requestCount": len(batch.rows),
            "successfulRequestCount": answered,
            "failedRequestCount": failed,
            "pendingRequestCount": len(batch.rows) - answered - failed,
        }
        metadata = {
            "@type": _BATCH_TYPE,
            "model": order.model,
            "name": f"batches/{batch.id}",
            "displayName": order.display_name,
            "createTime": rfc_3339(batch.created_s),
            "updateTime": rfc_3339(min(now_s, batch.ends_s)),
            "batchStats": {name: str(count) for name, count in counts.items() if count},
            "state": "BATCH_STATE_" + (_ENDS[batch.end] if over else _STATES.get(state, "RUNNING")),
        }
        if over:
            metadata["endTime"] = rfc_3339(batch.ends_s)
            if _has_results(batch):
                metadata["output"] = _output(batch, order)
        return metadata


def _has_results(batch: Batch) -> bool:
    return batch.end in ("completed", "cancelled")


def _output(batch: Batch, order: _Order) -> dict[str, Any]:
    """Where the results are; inline, they are here."""
    if not order.inline:
        return {"responsesFile": f"files/batch-{batch.id}"}
    responses = []
    for row in sorted(batch.finished(), key=lambda row: row.number):
        response = _result(batch, row)
        if metadata := order.metadata.get(row.custom_id):
            response["metadata"] = metadata
        responses.append(response)
    return {"inlinedResponses": {"inlinedResponses": responses}}


def _result(batch: Batch, row: Row) -> dict[str, Any]:
    request_id = f"{batch.id[-12:]}{row.number:012x}"
    if isinstance(row.outcome, Trouble):
        error = orjson.loads(_WIRE.error(row.outcome, request_id).body)["error"]
        return {"error": {"code": error["code"], "message": error["message"]}}
    assert row.asked is not None
    return {"response": orjson.Fragment(_WIRE.whole(row.asked, row.outcome, request_id))}


def _lines(batch: Batch) -> Iterator[bytes]:
    for row in batch.finished():
        yield orjson.dumps({"key": row.custom_id, **_result(batch, row)}) + b"\n"


def _file_document(file: _File, origin: str) -> dict[str, Any]:
    return {
        "name": file.name,
        "displayName": file.display_name,
        "mimeType": file.mime_type,
        "sizeBytes": str(len(file.data)),
        "createTime": rfc_3339(file.created_s),
        "updateTime": rfc_3339(file.created_s),
        "expirationTime": rfc_3339(file.created_s + _FILES_LAST_S),
        "uri": f"{origin}/v1beta/{file.name}",
        "state": "ACTIVE",
        "source": "UPLOADED",
    }
