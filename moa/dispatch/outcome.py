"""What became of a query, as a row of the tables and as a line of the journal."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, NamedTuple

import pyarrow as pa

from moa.catalog import Model
from moa.planning.policy import NOBODY_CAN
from moa.request import request_hash
from moa.schema import DEAD_LETTERS, OUTCOMES
from moa.storage.prepare import DEFECTS

ANSWERED = "answered"
REFUSED = "refused"
DEAD_LETTER = "dead_letter"
REASONS = (
    *DEFECTS, NOBODY_CAN, "context_exceeded", "invalid_request", "account_refused", "rate_limited",
    "vendor_failed", "budget_spent", "query_budget_spent", "fate_unknown",
    "lane_failed",
)  # fmt: skip
"""Of dead letters, all that there are; see ARCHITECTURE.md."""


class Choice(NamedTuple):
    """A model that may answer a query, and what the router expects of it."""

    model: Model
    input_tokens: float
    output_tokens: float
    worth_usd: float = 0.0
    """What its answer is expected to be worth, less what it costs: only differences matter."""


@dataclass(frozen=True, slots=True)
class Assignment:
    """A query, and the models that may answer it."""

    query_id: str
    partition: int
    row: int
    request: str
    """Canonical JSON of a `ChatRequest`."""
    choices: tuple[Choice, ...]
    """The chosen model, then its fallbacks."""
    lane: str
    allowed_models: list[str] | None
    tags: list[str]
    followers: list[dict[str, Any]]
    """As `moa.schema.FOLLOWERS` has them."""
    allowed_lanes: list[str] | None = None
    """In which it may be bought; `None`: in all."""

    @property
    def may_live(self) -> bool:
        """Whether it may be bought live."""
        return self.allowed_lanes is None or "live" in self.allowed_lanes


@dataclass(frozen=True, slots=True)
class Attempt:
    """One call that did not end in a completion."""

    model: str
    at: datetime
    error: str
    status: int | None
    maybe_billed: bool
    """Whether the vendor may have done the work all the same."""
    detail: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """A row of `OUTCOMES`; for a dead letter, its row of `DEAD_LETTERS` as well."""

    query_id: str
    partition: int
    row: int
    status: str
    tags: list[str]
    model: str | None = None
    provider: str | None = None
    lane: str | None = None
    first_model: str | None = None
    completion: str | None = None
    tool_calls: str | None = None
    finish_reason: str | None = None
    response_id: str | None = None
    served_model: str | None = None
    input_tokens: int = 0
    cached_input_tokens: int = 0
    cache_write_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0
    cost_usd: Decimal = Decimal(0)
    attempts: int = 0
    unknown_calls: int = 0
    lost_answers: int = 0
    latency_s: float | None = None
    finished_at: datetime | None = None
    same_as: str | None = None
    reason: str | None = None

    @classmethod
    def from_journal(cls, document: dict[str, Any]) -> Outcome:
        """The outcome of which a journal's line holds the fields as JSON."""
        moment = document["finished_at"]
        return cls(
            **{
                **document,
                "cost_usd": Decimal(document["cost_usd"]),
                "finished_at": None if moment is None else datetime.fromisoformat(moment),
            }
        )

    def for_follower(self, query_id: str, tags: list[str]) -> Outcome:
        """The outcome of an equal query: the same answer, which nothing was paid for."""
        return replace(
            self,
            query_id=query_id,
            tags=tags,
            same_as=self.query_id,
            cost_usd=Decimal(0),
            attempts=0,
            unknown_calls=0,
            lost_answers=0,
            input_tokens=0,
            cached_input_tokens=0,
            cache_write_tokens=0,
            output_tokens=0,
            reasoning_tokens=0,
        )


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A query that has no answer, and all that is needed to send it again."""

    query_id: str
    partition: int
    row: int
    reason: str
    detail: str
    attempts: tuple[Attempt, ...]
    request: str
    allowed_models: list[str] | None
    tags: list[str]

    def outcome(
        self,
        *,
        first_model: str | None = None,
        attempts: int = 0,
        unknown_calls: int = 0,
        lost_answers: int = 0,
    ) -> Outcome:
        """Its row of `OUTCOMES`; by default of a query that nobody was asked."""
        return Outcome(
            query_id=self.query_id,
            partition=self.partition,
            row=self.row,
            status=DEAD_LETTER,
            tags=self.tags,
            first_model=first_model,
            attempts=attempts,
            unknown_calls=unknown_calls,
            lost_answers=lost_answers,
            finished_at=datetime.now(UTC),
            reason=self.reason,
        )


Settled = tuple[Outcome, DeadLetter | None]
"""What became of a query, and its dead letter where that is what became of it."""


def with_followers(
    settled: Iterable[Settled], followers: Mapping[int, Sequence[Mapping[str, Any]]]
) -> Iterator[Settled]:
    """Each outcome, and one more for every query that shares its answer.

    Args:
        settled: of one partition.
        followers: row → the queries whose request is equal to that row's, as
            `moa.schema.FOLLOWERS` has them.
    """
    for outcome, letter in settled:
        yield outcome, letter
        for one in followers.get(outcome.row, ()):
            own = {"query_id": one["query_id"], "tags": one["tags"]}
            yield outcome.for_follower(**own), letter and replace(letter, **own)


def outcomes_table(outcomes: Iterable[Outcome]) -> pa.Table:
    """Rows of `OUTCOMES`, ordered by their place in the backlog."""
    ordered = sorted(outcomes, key=lambda o: (o.partition, o.row, o.query_id))
    return pa.Table.from_pylist([asdict(o) for o in ordered], schema=OUTCOMES)


def dead_letters_table(letters: Sequence[DeadLetter]) -> pa.Table:
    """Rows of `DEAD_LETTERS`, ordered by their place in the backlog."""
    ordered = sorted(letters, key=lambda d: (d.partition, d.row, d.query_id))
    rows = [{**asdict(d), "request_hash": request_hash(d.request)} for d in ordered]
    return pa.Table.from_pylist(rows, schema=DEAD_LETTERS)
