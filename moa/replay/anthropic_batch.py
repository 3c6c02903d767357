"""Anthropic's Message Batches, as its API reference has them (state of November 2026).

- A batch is made of its requests at once and refused at once when it is none: 400, 413 when it is
  too large, 429 when the queue is full. Requests are checked when their turn comes.
- `processing_status`: `in_progress`, `canceling`, `ended`. `request_counts` has all of them as
  `processing` until the batch has ended, and `results_url` comes with the end: lines of
  `{"custom_id", "result": {"type": succeeded, errored, canceled or expired, …}}`, in any order.
- Times are RFC 3339. A batch expires 24 hours after it was made.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import orjson

from moa.catalog import Wire
from moa.replay.anthropic_wire import AnthropicReplay
from moa.replay.batch_call import Call, Route, Rows, json_reply, lines_reply, page_size, rfc_3339
from moa.replay.batch_life import Batch, Row
from moa.replay.batches import BatchBook
from moa.replay.wire import Answer, Reply, Target, Trouble, document_of, new_request_id

MOST_REQUESTS = 100_000
MOST_BYTES = 256_000_000
_PROVIDER: Wire = "anthropic"
_WIRE = AnthropicReplay()
_MESSAGES = Target()
_CUSTOM_ID = re.compile("[a-zA-Z0-9_-]{1,64}")
_UNFINISHED = {"expired": "expired", "cancelled": "canceled"}
_KINDS = ("succeeded", "errored", "canceled", "expired")
_QUEUE_FULL = (
    "This request would exceed your organization's limit of batch requests in the processing queue."
)


class AnthropicBatches:
    """See `moa.replay.batch_call.Desk`."""

    routes = (
        Route("POST", re.compile("/v1/messages/batches"), "submit"),
        Route("GET", re.compile("/v1/messages/batches"), "list"),
        Route("GET", re.compile("/v1/messages/batches/(?P<id>[^/]+)"), "look"),
        Route("DELETE", re.compile("/v1/messages/batches/(?P<id>[^/]+)"), "delete"),
        Route("POST", re.compile("/v1/messages/batches/(?P<id>[^/]+)/cancel"), "cancel"),
        Route("GET", re.compile("/v1/messages/batches/(?P<id>[^/]+)/results"), "results"),
    )

    def __init__(self, book: BatchBook, rows: Rows) -> None:
        self._book, self._rows = book, rows

    def target(self, names: Mapping[str, str]) -> Target:
        """See `Desk.target`."""
        return _MESSAGES

    def answer(self, call: Call) -> Reply | Trouble:
        """See `Desk.answer`."""
        if not call.headers.get("anthropic-version"):
            return Trouble(400, "anthropic-version: header is required")
        if call.operation == "submit":
            return self._submit(call)
        if call.operation == "list":
            return self._list(call)
        batch = self._book.get(call.names["id"], call.key)
        if batch is None:
            return Trouble(404, f"Message batch {call.names['id']} not found.")
        return self._of(batch, call)

    def _of(self, batch: Batch, call: Call) -> Reply | Trouble:
        ended = batch.state(self._book.now(_PROVIDER)) == "ended"
        match call.operation:
            case "look":
                batch.looks += 1
            case "cancel":
                if not self._book.cancel(batch):
                    return Trouble(400, f"Batch {batch.id} cannot be canceled: it has ended.")
            case "results":
                if not ended:
                    return Trouble(404, f"Batch {batch.id} has no results: it has not ended.")
                batch.fetches += 1
                return lines_reply(b"".join(_results(batch)))
            case "delete":
                if not ended:
                    return Trouble(400, f"Batch {batch.id} cannot be deleted: it has not ended.")
                batch.deleted = True
                return json_reply({"id": batch.id, "type": "message_batch_deleted"})
        return json_reply(self._document(batch, call.origin))

    def _submit(self, call: Call) -> Reply | Trouble:
        if len(call.body) > MOST_BYTES:
            return Trouble(413, f"Request exceeds the maximum size of {MOST_BYTES} bytes")
        requests = (document_of(call.body) or {}).get("requests")
        if not isinstance(requests, list) or not requests:
            return Trouble(400, "requests: Field required")
        if len(requests) > MOST_REQUESTS:
            said = f"requests: List should have at most {MOST_REQUESTS} items, not {len(requests)}"
            return Trouble(400, said)
        rows = self._read(requests)
        if isinstance(rows, Trouble):
            return rows
        fate = self._book.next_fate(_PROVIDER)
        if fate == "invalid":
            return Trouble(400, "requests.0.params: the request is not valid")
        full = self._book.is_full(_PROVIDER, call.key, rows) is not None
        if full or fate == "queue_full":
            return Trouble(429, _QUEUE_FULL)
        batch = self._book.submit(
            _PROVIDER, call.key, call.key, rows, batch_id=f"msgbatch_{new_request_id()}", fate=fate
        )
        return json_reply(self._document(batch, call.origin))

    def _read(self, requests: list[Any]) -> list[Row] | Trouble:
        rows = []
        seen: set[str] = set()
        for number, request in enumerate(requests):
            where = f"requests.{number}"
            if not isinstance(request, dict) or not isinstance(request.get("params"), dict):
                return Trouble(400, f"{where}.params: Field required")
            custom_id = str(request.get("custom_id", ""))
            if not _CUSTOM_ID.fullmatch(custom_id):
                return Trouble(400, f"{where}.custom_id: should match '{_CUSTOM_ID.pattern}'")
            if custom_id in seen:
                return Trouble(400, f"{where}.custom_id: '{custom_id}' is not unique")
            seen.add(custom_id)
            rows.append(self._rows(number, custom_id, _MESSAGES, request["params"]))
        return rows

    def _list(self, call: Call) -> Reply | Trouble:
        batches = self._book.of(_PROVIDER, call.key)
        ids = [batch.id for batch in batches]
        size = page_size(call.query, "limit", 20, 1000)
        after, before = call.query.get("after_id"), call.query.get("before_id")
        for named in (after, before):
            if named and named not in ids:
                return Trouble(400, f"{named}: no such batch")
        first = ids.index(after) + 1 if after else 0
        last = ids.index(before) if before else len(ids)
        if before and not after:
            first = max(0, last - size)
        page = [self._document(batch, call.origin) for batch in batches[first:last][:size]]
        return json_reply(
            {
                "data": page,
                "has_more": first > 0 if before else last - first > size,
                "first_id": page[0]["id"] if page else None,
                "last_id": page[-1]["id"] if page else None,
            }
        )

    def _document(self, batch: Batch, origin: str) -> dict[str, Any]:
        state = batch.state(self._book.now(_PROVIDER))
        ended = state == "ended"
        counts = Counter(_kind(batch, row, ran) for row, ran in _outcomes(batch)) if ended else {}
        return {
            "id": batch.id,
            "type": "message_batch",
            "processing_status": {"ended": "ended", "cancelling": "canceling"}.get(
                state, "in_progress"
            ),
            "request_counts": {
                "processing": 0 if ended else len(batch.rows),
                **{kind: counts.get(kind, 0) for kind in _KINDS},
            },
            "created_at": rfc_3339(batch.created_s),
            "expires_at": rfc_3339(batch.expires_s),
            "ended_at": rfc_3339(batch.ends_s) if ended else None,
            "cancel_initiated_at": rfc_3339(batch.cancel_s),
            "archived_at": None,
            "results_url": f"{origin}/v1/messages/batches/{batch.id}/results" if ended else None,
        }


def _outcomes(batch: Batch) -> Iterator[tuple[Row, bool]]:
    """Rows, and whether they ran; once the batch has ended."""
    yield from ((row, True) for row in batch.finished())
    yield from ((row, False) for row in batch.unfinished())


def _kind(batch: Batch, row: Row, ran: bool) -> str:
    if not ran:
        return _UNFINISHED[batch.end]
    return "succeeded" if isinstance(row.outcome, Answer) else "errored"


def _results(batch: Batch) -> Iterator[bytes]:
    for row, ran in _outcomes(batch):
        kind = _kind(batch, row, ran)
        request_id = f"{batch.id[-12:]}{row.number:012x}"
        result: dict[str, Any] = {"type": kind}
        if ran and isinstance(row.outcome, Trouble):
            result["error"] = orjson.Fragment(_WIRE.error(row.outcome, request_id).body)
        elif ran and isinstance(row.outcome, Answer):
            assert row.asked is not None
            result["message"] = orjson.Fragment(_WIRE.whole(row.asked, row.outcome, request_id))
        yield orjson.dumps({"custom_id": row.custom_id, "result": result}) + b"\n"
