"""What all vendors' batches do alike on the wire: calls, classified errors, rows of results.

Nothing that a vendor says of a row is quoted: its request is not at hand, and the words may be its
prompt.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
from yarl import URL

from moa.errors import (
    AccountRefused,
    InvalidRequest,
    KeyRefused,
    ProviderError,
    QuotaSpent,
    RateLimited,
    TransientError,
)
from moa.providers.batch import BatchStatus
from moa.providers.bodies import JSON
from moa.providers.faults import Fault
from moa.providers.http import EventStream, Method, Reply
from moa.providers.provider import Completion, Request
from moa.providers.wire import WireProvider
from moa.request import ChatRequest, Message

CALL_TIMEOUT_S = 120.0
"""Vendors look at a whole file before they answer some of these calls."""
_SLOWEST_BYTES_PER_S = 250_000
"""An upload may be as slow as this."""
DOWNLOAD_TIMEOUT_S = 3600.0

CLOCKS_DIFFER = timedelta(minutes=2)
MOST_PAGES = 200
"""Of a list; a vendor that always has another one is not followed for ever."""

_NAMED = re.compile(r"\brequests\.(\d{1,6})\b")
_CUSTOM_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")

Json = dict[str, Any]


class BatchCalls:
    """Calls about one account's batches, over the connections of its provider."""

    def __init__(self, provider: WireProvider) -> None:
        self.name = provider.name
        self._provider = provider

    async def ask(
        self,
        method: Method,
        url: URL,
        document: Json | None = None,
        *,
        buys: bool = False,
    ) -> Json:
        """Make a call and read the object that comes back.

        Args:
            method: of the call.
            url: of the call.
            document: to be sent as JSON.
            buys: whether it begins a batch: then an error is `maybe_billed` when it may have.

        Raises:
            ProviderError: the call failed, or what came back is no JSON object.
        """
        pieces = () if document is None else (orjson.dumps(document),)
        reply = await self.send(method, url, pieces, buys=buys)
        return self.document(reply.body, buys=buys)

    async def send(
        self,
        method: Method,
        url: URL,
        pieces: Sequence[bytes] = (),
        *,
        content_type: str = JSON,
        headers: Mapping[str, str] | None = None,
        buys: bool = False,
        carries: Sequence[bytes] = (),
    ) -> Reply:
        """Make a call; its answer is a success.

        Args:
            method: of the call.
            url: of the call.
            pieces: of its body.
            content_type: of its body.
            headers: besides the account's own.
            buys: whether it begins a batch.
            carries: the requests that it carries: the vendor's words may quote one.

        Raises:
            ProviderError: the call failed.
        """
        timeout_s = CALL_TIMEOUT_S + sum(map(len, pieces)) / _SLOWEST_BYTES_PER_S
        try:
            reply = await self._provider.transport.send(
                method,
                url,
                pieces,
                content_type=content_type,
                timeout_s=timeout_s,
                headers={**await self._token(), **(headers or {})},
            )
        except ProviderError as error:
            error.maybe_billed = error.maybe_billed and buys
            raise
        if 200 <= reply.status < 300:
            return reply
        raise self._error(reply, carries, buys=buys)

    @contextlib.asynccontextmanager
    async def _download(self, url: URL) -> AsyncGenerator[EventStream, None]:
        headers = {"Accept": "*/*", **await self._token()}
        async with self._provider.transport.stream(
            url, None, timeout_s=DOWNLOAD_TIMEOUT_S, headers=headers
        ) as incoming:
            if incoming.status != 200:
                reply = Reply(incoming.status, incoming.headers, await incoming.read())
                raise self._error(reply)
            yield incoming

    async def rows(self, url: URL) -> AsyncGenerator[Json, None]:
        """The rows of a file of results, as they come in.

        Raises:
            ProviderError: there is no such file, or it could not be read to its end.
        """
        try:
            async with self._download(url) as incoming, aclosing(incoming.lines()) as lines:
                async for line in lines:
                    if line.strip():
                        yield self.document(line)
        except ProviderError as error:
            error.maybe_billed = False
            raise

    def document(self, body: bytes, *, buys: bool = False) -> Json:
        """The object that `body` is.

        Raises:
            TransientError: it is none.
        """
        with contextlib.suppress(orjson.JSONDecodeError):
            document = orjson.loads(body)
            if isinstance(document, dict):
                return document
        raise self.malformed("the answer is no JSON object", buys=buys)

    def malformed(self, what: str, *, buys: bool = False) -> TransientError:
        """What cannot be read may be read the next time."""
        return TransientError(f"{self.name}: {what}", code="malformed_batch", maybe_billed=buys)

    @contextlib.contextmanager
    def readable(self, *, buys: bool = False) -> Iterator[None]:
        """Make one error of all that reading what a vendor says of a batch can raise."""
        try:
            yield
        except ProviderError:
            raise
        except Exception as error:  # whatever a stranger's document makes of us
            what = f"a batch cannot be read ({type(error).__name__})"
            raise self.malformed(what, buys=buys) from None

    def answer(self, status: int, body: object) -> Completion | ProviderError:
        """What became of one request, by the answer that it would have had live.

        Args:
            status: HTTP status.
            body: of the answer, as parsed.
        """
        if status != 200:
            return self.failed(status, body)
        try:
            verdict = self._provider.read(orjson.dumps(body))
        except ProviderError as error:  # it was answered, so it is billed
            return error
        return verdict if isinstance(verdict, Completion) else _of_row(verdict)

    def failed(self, status: int, body: object) -> Completion | ProviderError:
        """What became of a request that has an error in place of an answer; some refusals are such.

        Args:
            status: HTTP status; 200 where only the body says what kind of error it is.
            body: of the error, as parsed.
        """
        verdict = self._provider.reject(Reply(status, {}, orjson.dumps(body)))
        return verdict if isinstance(verdict, Completion) else _of_row(verdict)

    def _error(
        self, reply: Reply, carries: Sequence[bytes] = (), *, buys: bool = False
    ) -> ProviderError:
        verdict = self._provider.reject(reply)
        if isinstance(verdict, Completion):  # a refusal of a model's: none was asked
            detail = f"HTTP {reply.status}: the vendor's filter refused the batch"
            return InvalidRequest(detail, status=reply.status, code="content_filter")
        chat = _quotable(verdict.message, carries)
        if carries and chat is None:
            verdict = replace(verdict, message="")
        error = verdict.error(chat, self._provider.wire.key)
        if buys and type(error) is RateLimited and error.retry_after_s is None:
            # A minute's limit comes with its wait; this one is of what may be queued.
            return QuotaSpent(error.detail, status=error.status, code=error.code)
        unsure = reply.status >= 500 or error.maybe_billed
        error.maybe_billed = buys and unsure and isinstance(error, TransientError)
        return error

    async def _token(self) -> Mapping[str, str]:
        token = self._provider.wire.token
        if token is None:
            return {}
        try:
            async with asyncio.timeout(CALL_TIMEOUT_S):
                return await token.headers()
        except TimeoutError:
            detail = f"{self.name}: no access token within {CALL_TIMEOUT_S:g} s"
            raise TransientError(detail, code="token") from None

    async def cancel(
        self, url: URL, batch_id: str, look: Callable[[str], Awaitable[BatchStatus]]
    ) -> None:
        """Ask for the end of a batch; a vendor's no to one that ends or has ended is none.

        Raises:
            ProviderError: the vendor cannot be asked now, or has no such batch.
        """
        try:
            await self.send("POST", url, (b"{}",))
        except ProviderError as error:
            if error.status not in (400, 409):
                raise
            if (await look(batch_id)).state not in ("cancelling", "ended"):
                raise

    async def delete(self, url: URL) -> None:
        """Delete what may be gone already, or be the vendor's to delete.

        Raises:
            TransientError: the vendor cannot be asked now.
        """
        with contextlib.suppress(InvalidRequest, KeyRefused):  # Google: 403 for what is not there
            await self.send("DELETE", url)

    async def close(self) -> None:
        """Close the connections."""
        await self._provider.close()


def _quotable(words: str, carries: Sequence[bytes]) -> ChatRequest | None:
    """The request that the vendor speaks of, as far as it says so, in a form to be searched."""
    named = _NAMED.search(words)
    if named is None or int(named[1]) >= len(carries):
        return None
    line = carries[int(named[1])].decode("utf-8", "replace")
    return ChatRequest(messages=[Message(role="user", content=line)])


def _of_row(fault: Fault) -> ProviderError:
    """A row's error: rows that failed are not billed, and none of them speaks for the account."""
    error = replace(fault, message="").error(None, "")
    error.maybe_billed = False
    if isinstance(error, AccountRefused):
        return TransientError(error.detail, status=error.status, code=error.code)
    return error


def unfinished(code: str, what: str) -> TransientError:
    """A row that was not asked, which costs nothing."""
    return TransientError(f"the batch ended without this request: {what}", code=code)


def checked(custom_id: str) -> str:
    """`custom_id`, which all vendors take.

    Raises:
        ValueError: it is longer than 64 characters, or has others than letters, digits, - and _.
    """
    if not _CUSTOM_ID.fullmatch(custom_id):
        raise ValueError(f"custom_id {custom_id!r}: use 1 to 64 letters, digits, '-' or '_'")
    return custom_id


def live(request: Request) -> Request:
    """The request as it would be sent live: the batch says by itself that it is one."""
    return request if request.lane == "live" else replace(request, lane="live")


def moment(value: object) -> datetime | None:
    """A time in seconds since 1970, or as RFC 3339; `None` where none is said."""
    if value is None:
        return None
    if isinstance(value, int | float):
        return datetime.fromtimestamp(value, UTC)
    found = value if isinstance(value, datetime) else datetime.fromisoformat(str(value))
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def sound(status: BatchStatus) -> BatchStatus:
    """`status`, whose fields have their types: vendors' own types are not strict.

    Raises:
        TypeError: one has another.
    """
    counts = (status.requests, status.answered, status.failed)
    if not isinstance(status.id, str) or not all(type(count) is int for count in counts):
        raise TypeError("an id or a count has another type")
    return status
