"""What Google's two batch APIs have in common: states of jobs, and codes of google.rpc."""

from __future__ import annotations

from typing import Any

from moa.errors import InvalidRequest, ProviderError, QuotaSpent, TransientError
from moa.providers.batch import BatchEnd, BatchState

_STATES: dict[str, BatchState] = {
    "QUEUED": "waiting",
    "PENDING": "waiting",
    "PAUSED": "waiting",
    "CANCELLING": "cancelling",
}
_ENDS: dict[str, BatchEnd] = {
    "SUCCEEDED": "completed",
    "PARTIALLY_SUCCEEDED": "completed",
    "FAILED": "failed",
    "EXPIRED": "expired",
    "CANCELLED": "cancelled",
}

_STATUS_OF_CODE = {
    1: 499, 2: 500, 3: 400, 4: 504, 5: 404, 6: 409, 7: 403, 8: 429, 9: 400, 10: 409, 11: 400,
    12: 501, 13: 500, 14: 503, 15: 500, 16: 401,
}  # fmt: skip
"""Codes of google.rpc → statuses of HTTP, as google/rpc/code.proto maps them."""

_NAMES = {
    3: "INVALID_ARGUMENT", 5: "NOT_FOUND", 7: "PERMISSION_DENIED", 8: "RESOURCE_EXHAUSTED",
    9: "FAILED_PRECONDITION", 13: "INTERNAL", 14: "UNAVAILABLE",
}  # fmt: skip
_FAILS_AGAIN = (400, 401, 403, 404)
"""Of a job: its file is wrong, or the vendor may not read it."""


def state_of(name: str) -> tuple[BatchState, BatchEnd | None]:
    """Where a job stands, by `JOB_STATE_…` or `BATCH_STATE_…`, and how it ended."""
    short = name.rpartition("_STATE_")[2]
    end = _ENDS.get(short)
    return ("ended", end) if end else (_STATES.get(short, "running"), None)


def http_status(code: object) -> int:
    """The status of a code, which is one of google.rpc or a status already."""
    number = code if isinstance(code, int) else 0
    return number if 400 <= number < 600 else _STATUS_OF_CODE.get(number, 500)


def code_named(words: str) -> int:
    """The code that words name, `RESOURCE_EXHAUSTED` for one; 0 where they name none."""
    return next((code for code, name in _NAMES.items() if name in words), 0)


def failure(error: dict[str, Any]) -> ProviderError:
    """Why all of a job failed. Its words may quote a line of the file, so they are left out."""
    code = error.get("code")
    status = http_status(code)
    name = _NAMES.get(code, f"code {code}") if isinstance(code, int) else "no reason given"
    detail = f"the batch failed: {name}"
    if status == 429:
        return QuotaSpent(detail, code=name)
    if status in _FAILS_AGAIN:
        return InvalidRequest(detail, code=name)
    return TransientError(detail, code=name)


def count(value: object) -> int:
    """A number, which Google writes as text where it may be large; 0 where there is none."""
    return max(0, int(value)) if isinstance(value, int | str) else 0
