"""What a vendor's answer other than success means, as far as all vendors agree."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Any

import orjson

from moa.errors import (
    AccountRefused,
    ContextExceeded,
    InvalidRequest,
    KeyRefused,
    ProviderError,
    QuotaSpent,
    RateLimited,
    TransientError,
)
from moa.request import ChatRequest

LONGEST_DETAIL = 300

QUOTED_RUN = 16
"""A run of this many characters that also stands in the prompt is taken for a quotation of it."""

LONG_WAIT_S = 300.0
"""No limit per minute asks for a longer wait: a quota per day or month is used up."""

_MAYBE_BILLED = (*range(201, 300), 408, 499, 504, 524)
"""Somebody gave up waiting, or answered something else than the answer: the model may have finished
all the same."""

_BY_STATUS: dict[int, type[ProviderError]] = {
    401: KeyRefused,
    402: AccountRefused,
    403: KeyRefused,
    407: KeyRefused,
    408: TransientError,
    409: TransientError,
    413: ContextExceeded,
    425: TransientError,
    429: RateLimited,
    499: TransientError,
}


@dataclass(frozen=True, slots=True)
class Fault:
    """A vendor's answer other than success, classified."""

    kind: type[ProviderError]
    status: int
    message: str
    """The vendor's words: for people, never to decide by."""
    code: str = ""
    retry_after_s: float | None = None

    def error(self, chat: ChatRequest, key: str) -> ProviderError:
        """The error to raise, without what the vendor's words quote of the prompt or the key."""
        words = self.message.replace(key, "[key]") if key else self.message
        detail = without_quotations(words[:LONGEST_DETAIL], chat.text())
        detail = f"{' '.join(['HTTP', str(self.status), *self.code.split()])}: {detail}"
        if issubclass(self.kind, RateLimited):
            kind = self.kind
            if (self.retry_after_s or 0) > LONG_WAIT_S:
                kind = QuotaSpent
            return kind(
                detail, retry_after_s=self.retry_after_s, status=self.status, code=self.code
            )
        if issubclass(self.kind, TransientError):
            return self.kind(
                detail,
                status=self.status,
                code=self.code,
                maybe_billed=self.status in _MAYBE_BILLED,
                retry_after_s=self.retry_after_s,
            )
        return self.kind(detail, status=self.status, code=self.code)


def kind_of(status: int) -> type[ProviderError]:
    """What a status means where no code of the vendor's says better.

    A redirect means a wrong base URL, so nothing more goes to the account. A success without an
    answer (202, 204) comes from something between us and the vendor.
    """
    if 300 <= status < 400:
        return KeyRefused
    if status < 300 or status >= 500:
        return TransientError
    return _BY_STATUS.get(status, InvalidRequest)


def error_document(body: bytes) -> dict[str, Any]:
    """The error object of a body; `{}` when there is none.

    Besides `{"error": {...}}` it knows the list that Google wraps it in, a bare string, the object
    without a wrapper, and the `detail` of FastAPI servers.
    """
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        return {}
    if isinstance(document, list) and document:
        document = document[0]
    if not isinstance(document, dict):
        return {}
    error = document.get("error", document)
    if isinstance(error, str):
        error = {"message": error}
    if not isinstance(error, dict):
        return {}
    if "message" not in error and "detail" in error:
        error = {**error, "message": _first_message(error["detail"])}
    return error


def _first_message(detail: object) -> str:
    if isinstance(detail, list) and detail and isinstance(detail[0], dict):
        return str(detail[0].get("msg", ""))
    return detail if isinstance(detail, str) else ""


def retry_after_s(headers: Mapping[str, str], now_s: float) -> float | None:
    """The wait that `retry-after-ms` or `retry-after` (seconds or an HTTP date) asks for.

    Args:
        headers: of the answer; case-insensitive.
        now_s: seconds since 1970, for dates.
    """
    milliseconds = _number(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return milliseconds / 1000
    text = headers.get("retry-after")
    seconds = _number(text)
    if seconds is not None or not text:
        return seconds
    try:
        moment = parsedate_to_datetime(text)
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return max(0.0, moment.timestamp() - now_s)


def _number(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return max(0.0, value) if math.isfinite(value) else None


def whole_number(text: str | None) -> int | None:
    """A header's count; `None` when it is missing or no number."""
    value = _number(text)
    return None if value is None else int(value)


def without_quotations(detail: str, prompt: str) -> str:
    """`detail` with every longer quotation of `prompt` replaced by an ellipsis."""
    kept: list[str] = []
    at = 0
    while at < len(detail):
        end = at + min(QUOTED_RUN, len(prompt) or QUOTED_RUN)
        if end > len(detail) or detail[at:end] not in prompt:
            kept.append(detail[at])
            at += 1
            continue
        while end < len(detail) and detail[at : end + 1] in prompt:
            end += 1
        kept.append("[...]")
        at = end
    return "".join(kept)


def malformed(vendor: str, what: str) -> TransientError:
    """An answer was paid for and cannot be read. It is never quoted: it is a completion."""
    return TransientError(
        f"{vendor}: {what}", status=200, code="malformed_answer", maybe_billed=True
    )


def empty(vendor: str, finish: str) -> TransientError:
    """A success without text, tool call or refusal."""
    detail = f"{vendor}: an empty completion, finish reason {finish!r}"
    return TransientError(detail, status=200, code="empty_completion", maybe_billed=True)


def unbilled(vendor: str) -> InvalidRequest:
    """An answer without usage: its cost would be a guess, and a retry would pay again."""
    detail = f"{vendor}: the answer reports no usage, so it cannot be billed"
    return InvalidRequest(detail, status=200, code="usage_missing")
