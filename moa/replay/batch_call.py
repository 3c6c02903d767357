"""A call about batches, files or stored objects, and what a vendor's side needs to answer it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple, Protocol

import orjson

from moa.replay.batch_life import Row
from moa.replay.wire import Reply, Target, Trouble


class Route(NamedTuple):
    """Calls of one kind."""

    method: str
    path: re.Pattern[str]
    """Of the path as it was sent, without the vendor's prefix; its groups are the call's names."""
    operation: str
    parameter: str = ""
    """Of the query: only with it."""
    keyless: bool = False
    """Nobody asks for a key."""
    faultless: bool = False
    """Nothing goes wrong with it."""


@dataclass(frozen=True, slots=True)
class Call:
    """One call."""

    operation: str
    names: Mapping[str, str]
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes
    origin: str
    """Of this server, with the vendor's prefix: `http://127.0.0.1:PORT/openai`."""
    key: str


class Desk(Protocol):
    """One vendor's batch side. It keeps what is the vendor's own, such as files."""

    @property
    def routes(self) -> Sequence[Route]:
        """Calls that it answers; the first that fits."""
        ...

    def target(self, names: Mapping[str, str]) -> Target:
        """What kind of URL it is, for the check of the key."""
        ...

    def answer(self, call: Call) -> Reply | Trouble:
        """What comes back."""
        ...


class Rows(Protocol):
    """Reads a request of a batch."""

    def __call__(
        self,
        number: int,
        custom_id: str,
        target: Target,
        document: dict[str, Any],
        line: bytes = b"",
    ) -> Row:
        """What becomes of it.

        Args:
            number: from 0, in order of submission.
            custom_id: by which it is known.
            target: what a live call would have had in its URL.
            document: a live call's body.
            line: as it was submitted, to be kept.
        """
        ...


def json_reply(document: object, status: int = 200) -> Reply:
    """An answer in JSON."""
    return Reply(status, {}, orjson.dumps(document))


def lines_reply(content: bytes) -> Reply:
    """An answer of lines of JSON."""
    return Reply(200, {"Content-Type": "application/jsonl"}, content)


def rfc_3339(unix_s: float | None) -> str | None:
    """A moment to the microsecond; `None` for none."""
    if unix_s is None:
        return None
    moment = datetime.fromtimestamp(unix_s, tz=UTC)
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")


def page_size(query: Mapping[str, str], name: str, default: int, most: int) -> int:
    """How many are wanted at once, within what the vendor allows."""
    text = query.get(name, "")
    return min(max(int(text), 1), most) if text.isdecimal() else default
