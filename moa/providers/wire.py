"""A provider: a transport and one vendor's wire format put together."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from contextlib import aclosing
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple, Protocol

import orjson
from yarl import URL

from moa.errors import ProviderError, TransientError
from moa.providers import faults
from moa.providers.faults import Fault
from moa.providers.google_token import GoogleToken
from moa.providers.http import EventStream, Reply, Transport
from moa.providers.provider import (
    Answer,
    CallPiece,
    Completion,
    CompletionDelta,
    Request,
    Usage,
    VendorLevel,
    VendorLimits,
)

MOST_TOKENS = 2**31 - 1
"""No call has more: a greater count is a mistake, and would not fit the tables."""

_SHORTEST_S = 0.001
"""A time-out of 0 would be none."""


class Call(NamedTuple):
    """What goes out."""

    url: URL
    document: dict[str, Any]
    headers: Mapping[str, str] | None = None
    """Besides the account's own, which they overrule."""


class Assembly(Protocol):
    """A streamed answer on its way to be whole."""

    ended: bool
    """Whether the vendor said that nothing follows."""

    @property
    def finished(self) -> bool:
        """Whether all of the answer is here."""
        ...

    def add(self, event: bytes) -> CompletionDelta | Fault:
        """Take in one event; return the piece that it brings, or the error that it is."""
        ...

    def body(self) -> bytes:
        """The answer as it would have come unstreamed."""
        ...


class Wire(Protocol):
    """One vendor's format: requests to documents, answers to completions. It does no I/O of its
    own but for credentials. What it reads is a stranger's: where that makes it stumble, with any
    exception, `WireProvider` calls the answer malformed.
    """

    key: str
    """The credential, kept out of errors; `""` when there is none."""

    @property
    def token(self) -> GoogleToken | None:
        """What has to be fresh before a call; `None` where there is a key, or nothing."""
        ...

    def call(self, request: Request, *, stream: bool) -> Call:
        """The request as the vendor wants it.

        Raises:
            InvalidRequest: it holds what the vendor cannot do.
        """
        ...

    def read(self, body: bytes) -> Completion | Fault:
        """The completion of a successful answer, or the error that some servers put there.

        Raises:
            ProviderError: it is cut, malformed, empty or cannot be billed.
        """
        ...

    def reject(self, reply: Reply) -> Completion | Fault:
        """What an answer other than success means; some refusals come that way."""
        ...

    def limits(self, headers: Mapping[str, str]) -> VendorLimits:
        """Where the account's limits stand, if the vendor says."""
        ...

    def assembly(self) -> Assembly:
        """A fresh one."""
        ...


class WireProvider:
    """A `Provider` over HTTP."""

    def __init__(self, name: str, wire: Wire, transport: Transport) -> None:
        self.name = name
        self.wire = wire
        self.transport = transport

    async def complete(self, request: Request, *, timeout_s: float) -> Answer:
        """See `Provider.complete`."""
        (url, document, headers), left_s = await self._call(request, timeout_s, stream=False)
        reply = await self.transport.post(
            url, orjson.dumps(document), timeout_s=left_s, headers=headers
        )
        verdict = self.read(reply.body) if reply.status == 200 else self.reject(reply)
        completion = self._settled(verdict, request)
        return Answer(completion, partial(self.wire.limits, reply.headers))

    async def stream(
        self, request: Request, *, timeout_s: float
    ) -> AsyncGenerator[CompletionDelta, None]:
        """See `Provider.stream`."""
        (url, document, headers), left_s = await self._call(request, timeout_s, stream=True)
        async with self.transport.stream(
            url, orjson.dumps(document), timeout_s=left_s, headers=headers
        ) as incoming:
            if incoming.status != 200:
                reply = Reply(incoming.status, incoming.headers, await incoming.read())
                yield CompletionDelta("", self._settled(self.reject(reply), request))
                return
            assembly, calls = self.wire.assembly(), _Calls()
            async with aclosing(self._pieces(incoming, assembly, request)) as pieces:
                async for piece in pieces:
                    calls.add(piece)
                    yield piece
            with _readable(self.name):
                body = assembly.body()
            yield calls.last_piece(self._settled(self.read(body), request))
            await incoming.drain()

    async def close(self) -> None:
        """Close the connections; calls from now on fail."""
        await self.transport.close()

    def read(self, body: bytes) -> Completion | Fault:
        """The completion of any bytes that came with a 200; its fields have their types.

        Raises:
            ProviderError: they are no completion.
        """
        with _readable(self.name):
            verdict = self.wire.read(body)
        if isinstance(verdict, Completion) and not _is_sound(verdict):
            raise faults.malformed(self.name, "a field of the answer has another type")
        return verdict

    def reject(self, reply: Reply) -> Completion | Fault:
        """What any other answer means: where its body makes no sense, its status says enough."""
        try:
            return self.wire.reject(reply)
        except Exception:  # a body of whatever kind must not hide that a vendor said 429
            return Fault(faults.kind_of(reply.status), reply.status, "")

    async def _call(
        self, request: Request, timeout_s: float, *, stream: bool
    ) -> tuple[Call, float]:
        """What goes out, and the seconds that are left for it.

        Raises:
            KeyRefused: there is no token to be had.
            TransientError: there is none now.
        """
        call = self.wire.call(request, stream=stream)
        if self.wire.token is None:
            return call, timeout_s
        clock = asyncio.get_running_loop().time
        until = clock() + timeout_s
        try:
            async with asyncio.timeout_at(until):
                headers = await self.wire.token.headers()
        except TimeoutError:
            detail = f"{self.name}: no access token within {timeout_s:g} s"
            raise TransientError(detail, code="token") from None
        return call._replace(headers=headers), max(until - clock(), _SHORTEST_S)

    async def _pieces(
        self, incoming: EventStream, assembly: Assembly, request: Request
    ) -> AsyncGenerator[CompletionDelta, None]:
        begun = False  # thoughts count too, though they are passed on to nobody
        async with aclosing(incoming.events()) as events:
            async for event in events:
                with _readable(self.name):
                    piece = assembly.add(event)
                if isinstance(piece, Fault):
                    raise _in_stream(self._error(piece, request), begun)
                if not (isinstance(piece.text, str) and isinstance(piece.refusal, str)):
                    raise faults.malformed(self.name, "a piece of the answer is no text")
                begun = True
                if any(piece):
                    yield piece
                if assembly.ended:
                    break
        if not assembly.finished:
            raise TransientError(
                f"{self.name}: the stream ended early", code="cut_stream", maybe_billed=True
            )

    def _settled(self, verdict: Completion | Fault, request: Request) -> Completion:
        if isinstance(verdict, Fault):
            raise self._error(verdict, request)
        return verdict

    def _error(self, fault: Fault, request: Request) -> ProviderError:
        return fault.error(request.chat, self.wire.key, request.lane)


class _Calls:
    """The arguments of a stream's tool calls, as far as they have come."""

    def __init__(self) -> None:
        self._said: dict[int, str] = {}

    def add(self, piece: CompletionDelta) -> None:
        """Take in a piece."""
        for call in piece.calls:
            self._said[call.number] = self._said.get(call.number, "") + call.arguments

    def last_piece(self, completion: Completion) -> CompletionDelta:
        """The whole with its arguments spelled as they came, and what of its calls did not come:
        Anthropic says nothing of arguments that are none.
        """
        if completion.tool_calls is None:
            return CompletionDelta(completion=completion)
        calls, missing = orjson.loads(completion.tool_calls), []
        for number, call in enumerate(calls):
            function = call["function"]
            if number not in self._said:
                missing.append(CallPiece(number, call["id"], **function))
            elif said := self._said[number]:
                function["arguments"] = said
            elif function["arguments"]:
                missing.append(CallPiece(number, arguments=function["arguments"]))
        spelled = replace(completion, tool_calls=orjson.dumps(calls).decode())
        return CompletionDelta(completion=spelled, calls=tuple(missing))


def vendor_limits(
    headers: Mapping[str, str], name: str, seconds: Callable[[str], float | None]
) -> VendorLimits:
    """Where an account's limits stand, by the headers of an answer.

    Args:
        headers: of the answer; case-insensitive.
        name: of a header, with `{part}` (limit, remaining or reset) and `{measure}` (requests,
            input-tokens, output-tokens or tokens) in it.
        seconds: reads the text of a reset.
    """

    def said(part: str, measure: str) -> str | None:
        return headers.get(name.format(part=part, measure=measure))

    def level(measure: str) -> VendorLevel | None:
        reset = said("reset", measure)
        found = VendorLevel(
            limit=faults.number(said("limit", measure)),
            remaining=faults.number(said("remaining", measure)),
            reset_s=seconds(reset) if reset else None,
        )
        return None if found == (None, None, None) else found

    return VendorLimits(
        requests=level("requests"),
        input_tokens=level("input-tokens"),
        output_tokens=level("output-tokens"),
        tokens=level("tokens"),
    )


@contextlib.contextmanager
def _readable(name: str) -> Iterator[None]:
    """Make one error of all that reading a vendor's bytes can raise."""
    try:
        yield
    except ProviderError:
        raise
    except Exception as error:  # they may be anything at all, and never end the run
        what = f"the answer cannot be read ({type(error).__name__})"
        raise faults.malformed(name, what) from None


def _is_sound(completion: Completion) -> bool:
    texts = (
        completion.text,
        completion.finish_reason,
        completion.response_id,
        completion.served_model,
    )
    optional = (completion.tool_calls, completion.logprobs, completion.service_tier)
    return (
        all(isinstance(value, str) for value in texts)
        and all(value is None or isinstance(value, str) for value in optional)
        and isinstance(completion.refused, bool)
        and _is_countable(completion.usage)
    )


def _is_countable(usage: Usage) -> bool:
    counts = (
        usage.input_tokens,
        usage.output_tokens,
        usage.cached_input_tokens,
        usage.cache_write_tokens,
        usage.reasoning_tokens,
    )
    return all(type(count) is int and 0 <= count <= MOST_TOKENS for count in counts)


def _in_stream(error: ProviderError, begun: bool) -> ProviderError:
    """In the middle of an answer any error means: part of it was made, and may be billed."""
    if not begun:
        return error
    return TransientError(
        error.detail,
        status=error.status,
        code=error.code,
        maybe_billed=True,
        retry_after_s=error.retry_after_s if isinstance(error, TransientError) else None,
    )
