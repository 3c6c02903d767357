"""What was sent and what came back, so that a restart asks nothing twice.

A piece under way has one journal a try. A line is written before the next thing happens: `sent`
before a call goes out, `answered` or `failed` when it came back, `dead` when the query was given
up; `submitting` before a batch goes out, `submitted` with its vendor's id before it is looked at,
`fetched` when its answers stand here. The journal is removed once the piece's outcomes are written.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime
from decimal import Decimal
from typing import Any

import orjson

from moa.dispatch.outcome import Attempt, DeadLetter, Outcome
from moa.storage.journal_files import Sink
from moa.storage.run_folder import BATCH


@dataclass(frozen=True, slots=True)
class SentBatch:
    """A batch that was, or may have been, submitted, and of which not everything is known yet."""

    reference: str
    """Our name of it; see `BatchProvider.submit`."""
    model: str
    rows: tuple[int, ...]
    expected_usd: Decimal
    input_tokens: float
    """Expected, of all its requests."""
    output_tokens: float
    submitted_at: datetime
    ids: tuple[str, ...] = ()
    """The vendor's, of which one is this batch's; none while it is not known whether it began."""
    surely: bool = True
    """It is one of them; else they only look like it, and may be another's."""


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
    risked_usd: defaultdict[int, Decimal] = field(default_factory=lambda: defaultdict(Decimal))
    """Expected cost of calls without an answer that may be billed all the same."""
    batches: dict[str, SentBatch] = field(default_factory=dict)
    """By their reference, those that have not been fetched."""

    @property
    def spent_usd(self) -> Decimal:
        """What the answers have cost, and what other calls may have, or will."""
        answered = sum((outcome.cost_usd for outcome in self.outcomes.values()), Decimal(0))
        coming = sum((self._coming_usd(batch) for batch in self.batches.values()), Decimal(0))
        return answered + sum(self.risked_usd.values(), Decimal(0)) + coming

    def _coming_usd(self, batch: SentBatch) -> Decimal:
        """Of a batch that was not fetched to its end, what it will cost beside its answers here."""
        left = sum(row not in self.outcomes for row in batch.rows)
        return batch.expected_usd * left / len(batch.rows)


class Journal:
    """One try at one piece. Close it in `finally`."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink

    async def sent(self, row: int, model: str, expected_usd: Decimal) -> None:
        """A call is about to go out; it may once this returns."""
        self._sink.append(_line({"e": "sent", "row": row, "model": model, "usd": expected_usd}))
        await self._sink.commit()

    def failed(
        self, row: int, attempt: Attempt, risked_usd: Decimal, *, batch: str | None = None
    ) -> None:
        """The call came back without a completion; it may have cost so much. Of a batch's request,
        with the batch's reference: it counts once the batch is fetched, as until then a restart
        reads all of it again.
        """
        line = {"e": "failed", "row": row, "attempt": attempt, "usd": risked_usd}
        self._sink.append(_line(line if batch is None else {**line, "batch": batch}))

    async def submitting(self, batch: SentBatch) -> None:
        """A batch is about to be submitted; it may once this returns."""
        self._sink.append(_line({"e": "submitting", "batch": batch}))
        await self._sink.commit()

    async def submitted(self, batch: SentBatch) -> None:
        """Its vendor's ids are known. Only when this returns is it looked at."""
        line = {"reference": batch.reference, "ids": batch.ids, "surely": batch.surely}
        self._sink.append(_line({"e": "submitted", **line}))
        await self._sink.commit()

    async def fetched(self, reference: str) -> None:
        """Nothing more comes of a batch: its answers stand above, or it never began."""
        self._sink.append(_line({"e": "fetched", "reference": reference}))
        await self._sink.commit()

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
        replay = _Replay(history)
        for line in journal.split(b"\n")[:-1]:
            try:
                document = orjson.loads(line)
            except orjson.JSONDecodeError:
                continue
            replay.take(document)
        replay.end()
    return history


class _Replay:
    """One journal's lines, and what of them says nothing before another line comes."""

    def __init__(self, history: History) -> None:
        self._history = history
        self._out: dict[int, Decimal] = {}  # a query has one call out at a time
        self._of_batches: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)

    def take(self, line: dict[str, Any]) -> None:
        history = self._history
        match line["e"]:
            case "sent":
                history.unknown[line["row"]] += 1
                self._out[line["row"]] = Decimal(line["usd"])
            case "failed" if "batch" in line:
                self._of_batches[line["batch"]].append(line)
            case "failed":
                history.unknown[line["row"]] -= 1
                self._out.pop(line["row"], None)
                self._failed(line)
            case "answered":
                outcome = Outcome.from_journal(line["outcome"])
                history.outcomes[outcome.row] = outcome
                if outcome.lane != BATCH:
                    history.unknown[outcome.row] -= 1
                    self._out.pop(outcome.row, None)
            case "dead":
                outcome = Outcome.from_journal(line["outcome"])
                history.outcomes[outcome.row] = outcome
                history.letters[outcome.row] = _letter(line["letter"])
            case _:
                self._take_of_batch(line)

    def _take_of_batch(self, line: dict[str, Any]) -> None:
        batches = self._history.batches
        match line["e"]:
            case "submitting":
                batch = _batch(line["batch"])
                batches[batch.reference] = batch
            case "submitted":
                known = batches[line["reference"]]
                ids = tuple(line["ids"])
                batches[known.reference] = replace(known, ids=ids, surely=line["surely"])
            case "fetched":
                batches.pop(line["reference"], None)
                for failed in self._of_batches.pop(line["reference"], ()):
                    self._failed(failed)

    def _failed(self, line: dict[str, Any]) -> None:
        self._history.attempts[line["row"]].append(_attempt(line["attempt"]))
        self._history.risked_usd[line["row"]] += Decimal(line["usd"])

    def end(self) -> None:
        """What was out when the journal broke off may be billed."""
        for row, usd in self._out.items():
            self._history.risked_usd[row] += usd


def _batch(document: dict[str, Any]) -> SentBatch:
    return SentBatch(
        **{
            **document,
            "rows": tuple(document["rows"]),
            "expected_usd": Decimal(document["expected_usd"]),
            "submitted_at": datetime.fromisoformat(document["submitted_at"]),
            "ids": tuple(document["ids"]),
        }
    )


def _attempt(document: dict[str, Any]) -> Attempt:
    return Attempt(**{**document, "at": datetime.fromisoformat(document["at"])})


def _letter(document: dict[str, Any]) -> DeadLetter:
    return DeadLetter(**{**document, "attempts": tuple(map(_attempt, document["attempts"]))})
