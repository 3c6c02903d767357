"""What a vendor's answer other than success means, as far as all vendors agree."""

from __future__ import annotations

import math
import re
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
    LaneUnavailable,
    ProviderError,
    QuotaSpent,
    RateLimited,
    TransientError,
)
from moa.request import ChatRequest

LONGEST_DETAIL = 300

QUOTED_RUN = 16
"""A run of this many characters that also stands in the prompt is taken for a quotation of it."""

_BLOCK = QUOTED_RUN // 2
"""Any run holds one whole block of those that begin at multiples of this."""

SEARCHED_CHARS = 64_000
"""Above this a request is not searched for what an error quotes of it, when the error may pass: 300
searches in 200,000 characters took 20 ms, in the loop, for each of many 429s. Its words are left
out, its code says enough."""

_REDIRECTED = "a redirect: the account's base URL is not the API's own address"

_CODE = re.compile(r"[A-Za-z0-9_.-]{1,64}")
"""What a machine-readable code looks like; anything else may be words, and quote the prompt."""
_ESCAPE = re.compile(r"\\+(u[0-9a-fA-F]{4}|x[0-9a-fA-F]{2}|.)", re.DOTALL)
_ESCAPED = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f"}
_SURROGATES = re.compile("[\ud800-\udfff]")
_UNBROKEN = re.compile(r"[A-Za-z0-9+/=_-]{80,}")
"""An image or a file in base64, which no vendor's own words are."""

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
    no_capacity: bool = False
    """The vendor has none now: of a cheaper lane, it says so of that lane."""

    def error(self, chat: ChatRequest | None, key: str, lane: str = "live") -> ProviderError:
        """The error to raise, without what the vendor's words quote of the request or the key.

        Args:
            chat: the request; `None`: the call had nothing of one in it.
            key: the credential.
            lane: that the call was made in.
        """
        code = self.code if _CODE.fullmatch(self.code) and self.code != key else ""
        named = " ".join(["HTTP", str(self.status), code]).rstrip()
        detail = f"{named}: {self._words(chat, key)}"
        if self.no_capacity and lane != "live":
            return LaneUnavailable(
                detail, retry_after_s=self.retry_after_s, status=self.status, code=code
            )
        if issubclass(self.kind, RateLimited):
            is_long = (self.retry_after_s or 0) > LONG_WAIT_S
            kind = QuotaSpent if is_long else self.kind
            wait_s = None if kind is QuotaSpent and not is_long else self.retry_after_s
            return kind(detail, retry_after_s=wait_s, status=self.status, code=code)
        if issubclass(self.kind, TransientError):
            return self.kind(
                detail,
                status=self.status,
                code=code,
                maybe_billed=self.status in _MAYBE_BILLED,
                retry_after_s=self.retry_after_s,
            )
        return self.kind(detail, status=self.status, code=code)

    def _words(self, chat: ChatRequest | None, key: str) -> str:
        words = self.message.replace(key, "[key]") if key else self.message
        words = _UNBROKEN.sub("[...]", words[:LONGEST_DETAIL])
        if not words:
            return _REDIRECTED if 300 <= self.status < 400 else ""
        if chat is None:
            return _printable(words)
        sent = chat.canonical()
        if len(sent) > SEARCHED_CHARS and issubclass(self.kind, TransientError):
            return "[its words are left out: the request is too long to be searched for them]"
        words = without_quotations(words, chat.text())
        words = without_quotations(unescaped(words), unescaped(sent))
        return _printable(words)


def _printable(words: str) -> str:
    return "".join(c if c.isprintable() else " " for c in words)


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
    if error is None:
        error = document
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
    milliseconds = number(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return milliseconds / 1000
    text = headers.get("retry-after")
    seconds = number(text)
    if seconds is not None or not text:
        return seconds
    try:
        moment = parsedate_to_datetime(text)
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return max(0.0, moment.timestamp() - now_s)


def number(text: str | None) -> float | None:
    """What a header counts, at least 0; `None` when it is missing or no number."""
    try:
        value = float(text or "")
    except ValueError:
        return None
    return max(0.0, value) if math.isfinite(value) else None


def unescaped(text: str) -> str:
    """`text` with what JSON and Python write with backslashes put as itself, however often it was
    escaped: a request and what is quoted of it then read alike.
    """
    if "\\" not in text:
        return text
    plain = _ESCAPE.sub(_character, text)
    if _SURROGATES.search(plain):  # pairs become what they stand for
        plain = plain.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return plain


def _character(escape: re.Match[str]) -> str:
    said = escape[1]
    if len(said) > 1:
        return chr(int(said[1:], 16))
    return _ESCAPED.get(said, said)


def without_quotations(detail: str, prompt: str) -> str:
    """`detail` with every longer quotation of `prompt` replaced by an ellipsis."""
    kept: list[str] = []
    blocks = {
        at: detail[at : at + _BLOCK] in prompt for at in range(0, len(detail) + _BLOCK, _BLOCK)
    }
    shortest = min(QUOTED_RUN, len(prompt) or QUOTED_RUN)
    at = 0
    while at < len(detail):
        end = at + shortest
        block = blocks[-(-at // _BLOCK) * _BLOCK]
        if shortest < QUOTED_RUN:
            block = True
        if end > len(detail) or not block or detail[at:end] not in prompt:
            kept.append(detail[at])
            at += 1
            continue
        ahead = prompt.find(detail[at:end]) + shortest
        while end < len(detail) and detail[end : end + 1] == prompt[ahead : ahead + 1]:
            end, ahead = end + 1, ahead + 1
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
    return InvalidRequest(detail, status=200, code="usage_missing", maybe_billed=True)
