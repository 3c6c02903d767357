"""A provider: a transport and one vendor's wire format put together."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any, NamedTuple, Protocol

import orjson
from yarl import URL

from moa.errors import ProviderError, TransientError
from moa.providers.faults import Fault
from moa.providers.http import EventStream, Reply, Transport
from moa.providers.provider import Answer, Completion, CompletionDelta, Request, VendorLimits


class Call(NamedTuple):
    """What goes out."""

    url: URL
    document: dict[str, Any]
    headers: Mapping[str, str] | None = None
    """Besides the account's own, which they overrule."""


class Assembly(Protocol):
    """A streamed answer on its way to be whole."""

    finished: bool
    """Whether all of the answer is here."""
    ended: bool
    """Whether the vendor said that nothing follows."""

    def add(self, event: bytes) -> str | Fault:
        """Take in one event; return its text, or the error that it is.

        Raises:
            TransientError: the event cannot be read.
        """
        ...

    def body(self) -> bytes:
        """The answer as it would have come unstreamed."""
        ...


class Wire(Protocol):
    """One vendor's format: requests to documents, answers to completions. It does no I/O of its
    own but for credentials.
    """

    key: str
    """The credential, kept out of errors; `""` when there is none."""

    async def call(self, request: Request, *, stream: bool) -> Call:
        """The request as the vendor wants it; waits only for a token that has expired.

        Raises:
            InvalidRequest: it holds what the vendor cannot do.
            AccountRefused: there is no token to be had.
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
        """What is left, if the vendor says."""
        ...

    def assembly(self) -> Assembly:
        """A fresh one."""
        ...


class WireProvider:
    """A `Provider` over HTTP."""

    def __init__(self, name: str, wire: Wire, transport: Transport) -> None:
        self.name = name
        self._wire = wire
        self._transport = transport

    async def complete(self, request: Request, *, timeout_s: float) -> Answer:
        """See `Provider.complete`."""
        wire = self._wire
        url, document, headers = await wire.call(request, stream=False)
        reply = await self._transport.post(
            url, orjson.dumps(document), timeout_s=timeout_s, headers=headers
        )
        verdict = wire.read(reply.body) if reply.status == 200 else wire.reject(reply)
        return Answer(self._settled(verdict, request), wire.limits(reply.headers))

    async def stream(
        self, request: Request, *, timeout_s: float
    ) -> AsyncGenerator[CompletionDelta, None]:
        """See `Provider.stream`."""
        wire = self._wire
        url, document, headers = await wire.call(request, stream=True)
        async with self._transport.stream(
            url, orjson.dumps(document), timeout_s=timeout_s, headers=headers
        ) as incoming:
            if incoming.status != 200:
                reply = Reply(incoming.status, incoming.headers, await incoming.read())
                yield CompletionDelta("", self._settled(wire.reject(reply), request))
                return
            assembly = wire.assembly()
            async with aclosing(self._texts(incoming, assembly, request)) as texts:
                async for text in texts:
                    yield CompletionDelta(text)
            yield CompletionDelta("", self._settled(wire.read(assembly.body()), request))
            await incoming.drain()

    async def _texts(
        self, incoming: EventStream, assembly: Assembly, request: Request
    ) -> AsyncGenerator[str, None]:
        begun = False
        async with aclosing(incoming.events()) as events:
            async for event in events:
                text = assembly.add(event)
                if isinstance(text, Fault):
                    raise _in_stream(text.error(request.chat, self._wire.key), begun)
                if text:
                    begun = True
                    yield text
                if assembly.ended:
                    break
        if not assembly.finished:
            raise TransientError(
                f"{self.name}: the stream ended early", code="cut_stream", maybe_billed=True
            )

    async def close(self) -> None:
        """Close the connections."""
        await self._transport.close()

    def _settled(self, verdict: Completion | Fault, request: Request) -> Completion:
        if isinstance(verdict, Fault):
            raise verdict.error(request.chat, self._wire.key)
        return verdict


def _in_stream(error: ProviderError, begun: bool) -> ProviderError:
    """In the middle of an answer any error means: part of it was made, and may be billed."""
    if not begun:
        return error
    return TransientError(error.detail, status=error.status, code=error.code, maybe_billed=True)
