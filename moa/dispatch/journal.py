"""What was sent and what came back, so that a restart asks nothing twice.

A piece under way has one journal a try. A line is written before the next thing happens: `sent`
before a call goes out, `answered` or `failed` when it came back, `dead` when the query was given
up. The journal is removed once the piece's outcomes are written.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any

import orjson

from moa.dispatch.outcome import Attempt, DeadLetter, Outcome
from moa.storage.journal_files import Sink


@dataclass(slots=True)
class History:
    """What earlier tries of a piece have left; everything by row."""

    outcomes: dict[int, Outcome] = field(default_factory=dict)
    """Answered, refused or given up."""
    letters: dict[int, DeadLetter] = field(default_factory=dict)
    """Those given up; each is in `outcomes` too."""
    unknown: Counter[int] = field(default_factory=Counter)
    """Calls that were sent and of which nothing more is known."""
    attempts: defaultdict[int, list[Attempt]] = field(default_factory=lambda: defaultdict(list))
    """Calls that failed, oldest first."""

    @property
    def spent_usd(self) -> Decimal:
        """What the answers have cost."""
        return sum((outcome.cost_usd for outcome in self.outcomes.values()), Decimal(0))


class Journal:
    """One try at one piece. Close it in `finally`."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink

    async def sent(self, row: int, model: str) -> None:
        """A call is about to go out; it may once this returns."""
        self._sink.append(_line({"e": "sent", "row": row, "model": model}))
        await self._sink.commit()

    def failed(self, row: int, attempt: Attempt) -> None:
        """The call came back without a completion."""
        self._sink.append(_line({"e": "failed", "row": row, "attempt": attempt}))

    def answered(self, outcome: Outcome) -> None:
        """The call came back with a completion or a refusal."""
        self._sink.append(_line({"e": "answered", "outcome": outcome}))

    def dead(self, outcome: Outcome, letter: DeadLetter) -> None:
        """The query was given up."""
        self._sink.append(_line({"e": "dead", "outcome": outcome, "letter": letter}))

    async def close(self) -> None:
        """Make all of it durable, and let readers in."""
        await self._sink.close()


def _line(document: dict[str, Any]) -> bytes:
    """orjson knows dataclasses and moments; amounts of money become text."""
    return orjson.dumps(document, default=str, option=orjson.OPT_APPEND_NEWLINE)


def recover(journals: Iterable[bytes]) -> History:
    """Read the journals of a piece's earlier tries, oldest first.

    A line that a crash or a loss of power has cut says nothing; its call counts as unknown.
    """
    history = History()
    for journal in journals:
        for line in journal.split(b"\n")[:-1]:
            try:
                document = orjson.loads(line)
            except orjson.JSONDecodeError:
                continue
            _replay(document, history)
    return history


def _replay(line: dict[str, Any], history: History) -> None:
    match line["e"]:
        case "sent":
            history.unknown[line["row"]] += 1
        case "failed":
            history.unknown[line["row"]] -= 1
            history.attempts[line["row"]].append(_attempt(line["attempt"]))
        case "answered":
            outcome = Outcome.from_journal(line["outcome"])
            history.unknown[outcome.row] -= 1
            history.outcomes[outcome.row] = outcome
        case "dead":
            outcome = Outcome.from_journal(line["outcome"])
            history.outcomes[outcome.row] = outcome
            history.letters[outcome.row] = _letter(line["letter"])


def _attempt(document: dict[str, Any]) -> Attempt:
    return Attempt(**{**document, "at": datetime.fromisoformat(document["at"])})


def _letter(document: dict[str, Any]) -> DeadLetter:
    return DeadLetter(**{**document, "attempts": tuple(map(_attempt, document["attempts"]))})
