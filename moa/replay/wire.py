"""What the server needs of one vendor's wire format: requests read, answers and errors written."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

import orjson

from moa.catalog import Wire

Finish = Literal["stop", "length", "refusal"]
Quota = Literal["minute", "day", "spend", "flex"]
"""What a 429 is about: a rate, a daily quota, money, or spare capacity that there is none of."""
Measure = Literal["requests", "input_tokens", "output_tokens", "tokens"]
DAY_S = 86_400.0


class Target(NamedTuple):
    """What a URL asks for."""

    model: str | None = None
    """The API name, where the URL has it."""
    stream: bool = False
    sse: bool = True
    """Gemini streams a JSON array unless `alt=sse`."""
    vertex: bool = False


@dataclass(frozen=True, slots=True)
class Asked:
    """A request, as far as it matters here."""

    model: str
    """The vendor's name of it."""
    prompt: str
    """Text of the last user message that has any; parts joined by newlines."""
    stream: bool
    target: Target
    stream_usage: bool = True
    """OpenAI tells the usage of a stream only when asked to."""
    service_tier: str | None = None
    most_output_tokens: int | None = None
    """An answer that was longer when it was recorded is cut there."""
    tool: str | None = None
    """The function that has to be called; nothing recorded says with which arguments."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A completion before it is put into a vendor's words."""

    text: str
    served_model: str
    input_tokens: int
    output_tokens: int
    finish: Finish = "stop"


@dataclass(frozen=True, slots=True)
class Level:
    """Where one limit stands."""

    limit: float
    remaining: float
    reset_s: float
    """Until it is full again."""
    per: Literal["minute", "day"] = "minute"


Lane = Literal["live", "flex", "batch"]
"""How a request is bought."""
Levels = Mapping[Measure, Level]
"""Of requests per minute and per day, the one of which less is left."""


@dataclass(frozen=True, slots=True)
class Shortage:
    """Which limit a request would have broken."""

    measure: Measure
    level: Level
    requested: int


@dataclass(frozen=True, slots=True)
class Trouble:
    """An answer other than success, before it is put into a vendor's words."""

    status: int
    message: str = ""
    """`""`: what the vendor says with this status."""
    code: str | None = None
    """In place of the vendor's own code, type or reason."""
    retry_after_s: float | None = None
    quota: Quota = "minute"
    shortage: Shortage | None = None
    model: str = ""


class Reply(NamedTuple):
    """What goes back, headers of limits left out."""

    status: int
    headers: dict[str, str]
    body: bytes


class Part(NamedTuple):
    """Of a multipart body."""

    name: str
    """Of the field; `""` where there is none."""
    filename: str
    content: bytes


class ReplayWire(Protocol):
    """One vendor's format. Stateless."""

    provider: Wire

    def target(self, path: str, query: Mapping[str, str]) -> Target | None:
        """What a URL (without `/openai`, `/anthropic` or `/gemini`) asks for; `None` is a 404."""
        ...

    def key(
        self, target: Target, headers: Mapping[str, str], query: Mapping[str, str]
    ) -> str | Trouble:
        """The key that came along."""
        ...

    def refused_key(self, target: Target) -> Trouble:
        """What a key that is not valid gets."""
        ...

    def read(self, target: Target, headers: Mapping[str, str], body: bytes) -> Asked | Trouble:
        """What is asked."""
        ...

    def asked(self, target: Target, document: dict[str, Any]) -> Asked | Trouble:
        """What is asked by the JSON of a request, which may be one of a batch."""
        ...

    def unknown_model(self, model: str) -> Trouble:
        """What a model that the vendor does not have gets."""
        ...

    def whole(self, asked: Asked, answer: Answer, request_id: str) -> bytes:
        """The body of an answer."""
        ...

    def events(self, asked: Asked, answer: Answer, request_id: str) -> list[bytes]:
        """The same answer in pieces, which together are the body of a streamed one."""
        ...

    def error(self, trouble: Trouble, request_id: str) -> Reply:
        """An error."""
        ...

    def error_event(self, trouble: Trouble, request_id: str) -> bytes:
        """The same error in the middle of a stream."""
        ...

    def stream_type(self, asked: Asked) -> str:
        """Content type of a streamed answer."""
        ...

    def headers(self, levels: Levels, request_id: str) -> dict[str, str]:
        """What comes with every answer, errors too."""
        ...


PIECE_CHARS = 48
"""Length of a piece of a streamed answer; vendors send a few tokens at a time."""

_BOUNDARY = re.compile(r"boundary=(?:\"([^\"]+)\"|([^\s;]+))")
_PARAMETER = re.compile(r"\b(name|filename)=\"([^\"]*)\"")
REFUSAL = "I'm sorry, but I can't help with that."
REQUEST_ID_BYTES = 12


def new_request_id() -> str:
    """24 hex digits."""
    return os.urandom(REQUEST_ID_BYTES).hex()


def pieces(text: str) -> list[str]:
    """A text as it is streamed."""
    return [text[at : at + PIECE_CHARS] for at in range(0, len(text), PIECE_CHARS)]


def sse(document: object, name: str | None = None) -> bytes:
    """A server-sent event."""
    event = b"" if name is None else b"event: " + name.encode() + b"\n"
    return event + b"data: " + orjson.dumps(document) + b"\n\n"


def document_of(body: bytes) -> dict[str, Any] | None:
    """A body's JSON object; `None` when it is none."""
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    return document if isinstance(document, dict) else None


def whole_number(value: object) -> int | None:
    """A count of at least 1; `None` when it is none."""
    return value if type(value) is int and value >= 1 else None


def last_user_text(turns: object, content: str) -> str | None:
    """Text of the last user turn that has any; `None` when no turn has.

    Args:
        turns: list of `{"role": …, content: text or a list of parts with "text"}`.
        content: the name of that field.
    """
    for turn in reversed(turns) if isinstance(turns, list) else ():
        if not isinstance(turn, dict) or turn.get("role", "user") != "user":
            continue
        said = turn.get(content)
        if isinstance(said, list):
            texts = [p["text"] for p in said if isinstance(p, dict) and _is_text(p)]
            said = "\n".join(texts)
        if isinstance(said, str) and said:
            return said
    return None


def _is_text(part: dict[str, Any]) -> bool:
    return isinstance(part.get("text"), str) and not part.get("thought")


def text_at(document: object, *path: str | int) -> str | None:
    """The text that stands at a place of some JSON; `None` where there is none."""
    found: Any = document
    for step in path:
        try:
            found = found[step]
        except (KeyError, IndexError, TypeError):
            return None
    return found if isinstance(found, str) else None


def called(asked: Asked, answer: Answer) -> str | None:
    """The function that is called, with no arguments, in place of the text."""
    return asked.tool if answer.finish == "stop" and answer.text else None


def multipart(content_type: str, body: bytes) -> list[Part]:
    """The parts of a multipart body; none when it is none."""
    found = _BOUNDARY.search(content_type)
    if found is None:
        return []
    between = b"\r\n--" + (found[1] or found[2]).encode()
    parts = []
    for piece in (b"\r\n" + body).split(between)[1:-1]:
        head, _, content = piece.partition(b"\r\n\r\n")
        names = dict(_PARAMETER.findall(head.decode("utf-8", "replace")))
        parts.append(Part(names.get("name", ""), names.get("filename", ""), content))
    return parts


def bearer(headers: Mapping[str, str]) -> str:
    """The token of `Authorization: Bearer …`; `""` when there is none."""
    scheme, _, token = headers.get("Authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""
