"""What the rest of the project knows of a vendor: a request goes out, a completion comes back."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from moa.catalog import Model
from moa.request import ChatRequest


@dataclass(frozen=True, slots=True)
class Request:
    """One call to be made: a conversation, and the model that shall answer it."""

    query_id: str
    chat: ChatRequest
    model: Model
    lane: str = "live"
    """live, or flex where the vendor has that tier; batch requests go through the batch lane."""


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens as billed. `input_tokens` includes cached ones, `output_tokens` includes reasoning."""

    input_tokens: int
    output_tokens: int
    cached_input_tokens: int = 0
    cache_write_tokens: int = 0
    reasoning_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Completion:
    """What a model answered. A refusal is a completion with `refused` set, never an error."""

    text: str
    finish_reason: str
    """stop, length, tool_calls or content_filter."""
    usage: Usage
    response_id: str
    served_model: str
    tool_calls: str | None = None
    """JSON, a list in OpenAI's form; `None` when there are none."""
    refused: bool = False
    logprobs: str | None = None
    """JSON, an object in OpenAI's form; `None` when none were asked for."""
    service_tier: str | None = None
    """What the vendor says the call was bought as (`default`, `flex`, `priority`, ...), in its own
    words and lower case; `None` when it does not say."""


class CallPiece(NamedTuple):
    """A piece of one of an answer's tool calls."""

    number: int
    """Which call, from 0."""
    id: str = ""
    """In the call's first piece."""
    name: str = ""
    arguments: str = ""


class CompletionDelta(NamedTuple):
    """A piece of a streamed answer. The last one carries `completion`: the whole, with usage.

    All pieces joined are the whole; but a call that was cut with the output is none of its calls.
    """

    text: str = ""
    completion: Completion | None = None
    refusal: str = ""
    """Words by which the model refuses, where the vendor tells them from other words."""
    calls: tuple[CallPiece, ...] = ()
    logprobs: str | None = None
    """Of this piece's tokens, in the form of the completion's."""

    @property
    def chars(self) -> int:
        """Characters that the model has written."""
        of_calls = sum(len(call.name) + len(call.arguments) for call in self.calls)
        return len(self.text) + len(self.refusal) + of_calls


class VendorLevel(NamedTuple):
    """Where one of an account's limits stands; `None` where the vendor does not say.

    A vendor shows one limit a measure: of requests per minute and per day, OpenAI and Groq may show
    the day's, and do not say which. Of requests `limit * reset_s / (limit - remaining)` tells: the
    seconds from empty to whole, 60 or 86,400. Tokens are rounded too much for it.
    """

    limit: float | None
    remaining: float | None
    reset_s: float | None
    """Until the limit is whole again."""


class VendorLimits(NamedTuple):
    """What an answer's headers say of the account's limits; `None`: nothing of that measure."""

    requests: VendorLevel | None = None
    input_tokens: VendorLevel | None = None
    output_tokens: VendorLevel | None = None
    tokens: VendorLevel | None = None
    """Input and output together, where a vendor counts them so."""


class Answer(NamedTuple):
    """A completion and what came with it on the wire."""

    completion: Completion
    limits: Callable[[], VendorLimits]
    """Reads the answer's headers, which nobody pays for who does not ask. Ask soon: they age."""


class Provider(Protocol):
    """One account at one vendor. Open once per event loop, close in `finally`."""

    name: str

    async def complete(self, request: Request, *, timeout_s: float) -> Answer:
        """Make one call and read its answer. Never retries.

        Raises:
            ProviderError: of the kind that says what to do; see `moa.errors`.
        """
        ...

    def stream(self, request: Request, *, timeout_s: float) -> AsyncIterator[CompletionDelta]:
        """Make one call and pass its answer on as it comes. Closing it ends the call.

        Raises:
            ProviderError: before the first piece, or in the middle.
        """
        ...

    async def close(self) -> None:
        """Close the connections."""
        ...
