"""OpenAI's files and batches, as its API reference has them (state of November 2026).

- A file of requests is uploaded (`purpose=batch`), a batch of it is made, and its results are two
  files: `output_file_id` of what was answered, `error_file_id` of what failed, expired or was
  cancelled. Lines: `{"id", "custom_id", "response": {"status_code", "request_id", "body"},
  "error"}`; a request that never ran has an `error` with code `batch_expired` or
  `batch_cancelled` and no response.
- A batch is `validating`, `in_progress`, `finalizing`, `completed`; or `failed` with `errors` when
  its file is none or the queue is full (`token_limit_exceeded`); or `expired`; or `cancelling`,
  `cancelled`. Times are whole seconds since 1970.

The reference has no list of the codes of a file that is none: these are as others report them, but
for `file_too_large`, a guess.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from moa.catalog import Wire
from moa.replay.batch_call import Call, Route, Rows, json_reply, page_size
from moa.replay.batch_life import Batch, Failure, Row, State
from moa.replay.batches import BatchBook
from moa.replay.openai_files import OpenAIFiles
from moa.replay.openai_wire import OpenAIReplay
from moa.replay.wire import (
    Answer,
    Reply,
    Target,
    Trouble,
    document_of,
    new_request_id,
)

MOST_REQUESTS = 50_000
MOST_BYTES = 200_000_000
_PROVIDER: Wire = "openai"
_ENDPOINT = "/v1/chat/completions"
_WIRE = OpenAIReplay()
_CHAT = Target()
_STATUS: dict[State, str] = {
    "waiting": "validating",
    "running": "in_progress",
    "finalizing": "finalizing",
    "cancelling": "cancelling",
}
_NEVER_RAN = {
    "expired": ("batch_expired", "This request could not be executed before it expired."),
    "cancelled": ("batch_cancelled", "This request was not executed: its batch was cancelled."),
}
_INVALID = Failure("invalid_json_line", "This line is not parseable as valid JSON.", 1)


@dataclass(frozen=True, slots=True)
class _Order:
    """What a batch was made with."""

    input_file: str
    metadata: Mapping[str, str] | None
    api_model: str | None


class OpenAIBatches:
    """See `moa.replay.batch_call.Desk`."""

    routes = (
        Route("POST", re.compile("/v1/files"), "upload"),
        Route("GET", re.compile("/v1/files/(?P<id>[^/]+)"), "file"),
        Route("GET", re.compile("/v1/files/(?P<id>[^/]+)/content"), "results"),
        Route("DELETE", re.compile("/v1/files/(?P<id>[^/]+)"), "delete"),
        Route("POST", re.compile("/v1/batches"), "submit"),
        Route("GET", re.compile("/v1/batches"), "list"),
        Route("GET", re.compile("/v1/batches/(?P<id>[^/]+)"), "look"),
        Route("POST", re.compile("/v1/batches/(?P<id>[^/]+)/cancel"), "cancel"),
    )

    def __init__(self, book: BatchBook, rows: Rows) -> None:
        self._book, self._rows = book, rows
        self._files = OpenAIFiles(book)
        self._orders: dict[str, _Order] = {}

    def target(self, names: Mapping[str, str]) -> Target:
        """See `Desk.target`."""
        return _CHAT

    def answer(self, call: Call) -> Reply | Trouble:
        """See `Desk.answer`."""
        match call.operation:
            case "upload":
                return self._files.upload(call)
            case "file" | "results" | "delete":
                return self._files.of(call)
            case "submit":
                return self._submit(call)
            case "list":
                return self._list(call)
        batch = self._book.get(call.names["id"], call.key)
        if batch is None:
            return Trouble(404, f"No batch found with id '{call.names['id']}'.")
        if call.operation == "look":
            batch.looks += 1
        elif not self._book.cancel(batch):
            status = self._document(batch)["status"]
            return Trouble(409, f"Cannot cancel a batch with status '{status}'.")
        return json_reply(self._document(batch))

    def _submit(self, call: Call) -> Reply | Trouble:
        order = document_of(call.body) or {}
        file = self._files.get(str(order.get("input_file_id")), call.key)
        if file is None:
            return Trouble(400, f"No such File object: {order.get('input_file_id')}")
        if file.purpose != "batch":
            return Trouble(400, f"Invalid file purpose '{file.purpose}': expected 'batch'.")
        if order.get("endpoint") != _ENDPOINT or order.get("completion_window") != "24h":
            return Trouble(400, f"Here: endpoint {_ENDPOINT} and completion_window 24h only.")
        fate = self._book.next_fate(_PROVIDER)
        rows, failure = self._read(file.content)
        if failure is None and fate == "invalid":
            failure = _INVALID
        limit = self._book.is_full(_PROVIDER, call.key, rows)
        if failure is None and (fate == "queue_full" or limit is not None):
            failure = _queue_full(rows, limit or 0)
        batch = self._book.submit(
            _PROVIDER,
            call.key,
            call.key,
            rows,
            batch_id=f"batch_{new_request_id()}",
            fate=fate,
            failure=failure,
        )
        asked = rows[0].asked if rows else None
        api_model = asked.model if asked else None
        self._orders[batch.id] = _Order(file.id, order.get("metadata"), api_model)
        return json_reply(self._document(batch))

    def _read(self, content: bytes) -> tuple[list[Row], Failure | None]:
        """The rows of a file, as far as it is one; and why it is none."""
        lines = content.removesuffix(b"\n").split(b"\n")
        if not content.strip():
            return [], Failure("empty_file", "The batch input file is empty.")
        if len(lines) > MOST_REQUESTS:
            said = f"The file has {len(lines)} requests: at most {MOST_REQUESTS}."
            return [], Failure("too_many_tasks", said)
        if len(content) > MOST_BYTES:
            said = f"The file has {len(content)} bytes: at most {MOST_BYTES}."
            return [], Failure("file_too_large", said)
        rows: list[Row] = []
        seen: set[str] = set()
        for number, line in enumerate(lines):
            row = self._line(number, line)
            failure = row if isinstance(row, Failure) else _unlike(row, rows, seen)
            if failure is not None:
                return rows, failure
            assert isinstance(row, Row)
            seen.add(row.custom_id)
            rows.append(row)
        return rows, None

    def _line(self, number: int, line: bytes) -> Row | Failure:
        document = document_of(line)
        if document is None:
            return _INVALID._replace(line=number + 1)
        missing = [n for n in ("custom_id", "method", "url", "body") if not document.get(n)]
        if missing:
            said = f"Missing required parameter: '{missing[0]}'."
            return Failure("missing_required_parameter", said, number + 1)
        if document["url"] != _ENDPOINT or document["method"] != "POST":
            said = f"The URL provided for this request does not match the batch's ({_ENDPOINT})."
            return Failure("url_mismatch", said, number + 1)
        return self._rows(number, str(document["custom_id"]), _CHAT, document["body"])

    def _list(self, call: Call) -> Reply | Trouble:
        batches = self._book.of(_PROVIDER, call.key)
        after = call.query.get("after")
        if after:
            ids = [batch.id for batch in batches]
            if after not in ids:
                return Trouble(404, f"No batch found with id '{after}'.")
            batches = batches[ids.index(after) + 1 :]
        size = page_size(call.query, "limit", 20, 100)
        page = [self._document(batch) for batch in batches[:size]]
        return json_reply(
            {
                "object": "list",
                "data": page,
                "first_id": page[0]["id"] if page else None,
                "last_id": page[-1]["id"] if page else None,
                "has_more": len(batches) > size,
            }
        )

    def _document(self, batch: Batch) -> dict[str, Any]:
        now_s = self._book.now(_PROVIDER)
        order, state = self._orders[batch.id], batch.state(now_s)
        answered, failed = batch.tally(now_s)
        over = state == "ended"
        has_run = now_s >= batch.runs_s and batch.failure is None
        document: dict[str, Any] = {
            "id": batch.id,
            "object": "batch",
            "endpoint": _ENDPOINT,
            "model": order.api_model,
            "errors": _errors(batch.failure) if over else None,
            "input_file_id": order.input_file,
            "completion_window": "24h",
            "status": batch.end if over else _STATUS[state],
            "output_file_id": self._results(batch, "output") if over else None,
            "error_file_id": self._results(batch, "error") if over else None,
            "created_at": int(batch.created_s),
            "in_progress_at": int(batch.runs_s) if has_run else None,
            "expires_at": int(batch.expires_s),
            "finalizing_at": None,
            "completed_at": None,
            "failed_at": None,
            "expired_at": None,
            "cancelling_at": None if batch.cancel_s is None else int(batch.cancel_s),
            "cancelled_at": None,
            "request_counts": {
                "total": len(batch.rows) if has_run else 0,
                "completed": answered,
                "failed": failed,
            },
            "metadata": order.metadata,
        }
        if state == "finalizing" or (over and batch.end == "completed"):
            document["finalizing_at"] = int(batch.finalizes_s)
        if over:
            document[f"{batch.end}_at"] = int(batch.ends_s)
            document["usage"] = _usage(batch)
        return document

    def _results(self, batch: Batch, kind: str) -> str | None:
        """The id of a file of results; `None` when it would be empty."""
        rows = batch.finished()
        answered = sum(isinstance(row.outcome, Answer) for row in rows)
        lines = answered if kind == "output" else len(batch.rows) - answered
        if batch.end == "failed" or not lines:
            return None
        write = _output if kind == "output" else _error_lines
        return self._files.keep_results(batch, kind, write)


def _unlike(row: Row, others: list[Row], seen: set[str]) -> Failure | None:
    """Why a row cannot be in a file with others."""
    line = row.number + 1
    if row.custom_id in seen:
        said = f"The custom_id '{row.custom_id}' is a duplicate of another request's."
        return Failure("duplicate_custom_id", said, line)
    if isinstance(row.outcome, Trouble) and row.outcome.code == "model_not_found":
        return Failure("model_not_found", row.outcome.message, line)
    first = others[0].asked if others else None
    if first and row.asked and first.model != row.asked.model:
        said = f"The provided model '{row.asked.model}' does not match '{first.model}' of line 1."
        return Failure("model_mismatch", said, line)
    return None


def _queue_full(rows: list[Row], limit: int) -> Failure:
    asked = rows[0].asked if rows else None
    said = (
        f"Enqueued token limit reached for {asked.model if asked else 'the model'} in organization "
        f"org-replay. Limit: {limit:,} enqueued tokens. Please try again once some in_progress "
        "batches have been completed."
    )
    return Failure("token_limit_exceeded", said)


def _errors(failure: Failure | None) -> dict[str, Any] | None:
    if failure is None:
        return None
    error = {"code": failure.code, "message": failure.message, "param": None, "line": failure.line}
    return {"object": "list", "data": [error]}


def _usage(batch: Batch) -> dict[str, Any]:
    answers = [row.outcome for row in batch.finished() if isinstance(row.outcome, Answer)]
    spent_in = sum(answer.input_tokens for answer in answers)
    spent_out = sum(answer.output_tokens for answer in answers)
    return {
        "input_tokens": spent_in,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": spent_out,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": spent_in + spent_out,
    }


def _request_id(batch: Batch, row: Row) -> str:
    return f"{batch.id[-12:]}{row.number:012x}"


def _line(
    batch: Batch, row: Row, response: dict[str, Any] | None, error: dict[str, str] | None
) -> bytes:
    line = {
        "id": f"batch_req_{_request_id(batch, row)}",
        "custom_id": row.custom_id,
        "response": response,
        "error": error,
    }
    return orjson.dumps(line) + b"\n"


def _response(batch: Batch, row: Row) -> dict[str, Any]:
    request_id = _request_id(batch, row)
    if isinstance(row.outcome, Trouble):
        status, _, body = _WIRE.error(row.outcome, request_id)
    else:
        assert row.asked is not None
        status, body = 200, _WIRE.whole(row.asked, row.outcome, request_id)
    return {"status_code": status, "request_id": request_id, "body": orjson.Fragment(body)}


def _output(batch: Batch) -> bytes:
    rows = (row for row in batch.finished() if isinstance(row.outcome, Answer))
    return b"".join(_line(batch, row, _response(batch, row), None) for row in rows)


def _error_lines(batch: Batch) -> bytes:
    failed = (row for row in batch.finished() if isinstance(row.outcome, Trouble))
    lines = [_line(batch, row, _response(batch, row), None) for row in failed]
    code, message = _NEVER_RAN.get(batch.end, ("", ""))
    error = {"code": code, "message": message}
    lines += [_line(batch, row, None, error) for row in batch.unfinished()]
    return b"".join(lines)
