"""A query on its way: which model it is at, what was tried, and what became of it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal

from moa.catalog import Model
from moa.dispatch.journal import Journal
from moa.dispatch.outcome import (
    ANSWERED,
    REFUSED,
    Assignment,
    Attempt,
    Choice,
    DeadLetter,
    Outcome,
    Settled,
)
from moa.dispatch.quota import NOTHING, Amount
from moa.errors import ProviderError
from moa.providers.provider import Completion

LIVE = "live"


@dataclass(slots=True, eq=False)
class Call:
    """A query on its way to an outcome."""

    assignment: Assignment
    journal: Journal
    done: asyncio.Future[Settled | None]
    """`None` when the run drains: the query is left to the next start."""
    attempts: list[Attempt] = field(default_factory=list)
    """Calls that failed, those of earlier starts too."""
    unknown_calls: int = 0
    place: int = 0
    """Which of the assignment's choices it is at."""
    tries: int = 0
    """Of this model."""
    refused: int = 0
    """Of these, how many ended in a 429."""
    timeouts: int = 0
    """Of these, how many were cut because no answer came in time."""
    first_sent_at: float | None = None
    """When its first call went out, to whichever model."""
    lane: str = ""
    """How it is bought; the assignment's, unless that lane has no capacity."""
    taken: Amount = NOTHING
    """Of the line's quota, for the call that is out."""
    risked_usd: Decimal = Decimal(0)
    """Expected cost of the calls that failed and may be billed all the same."""

    def __post_init__(self) -> None:
        self.lane = self.lane or self.assignment.lane

    @property
    def choice(self) -> Choice:
        """What it is at."""
        return self.assignment.choices[self.place]

    @property
    def model(self) -> Model:
        """The model it is at."""
        return self.choice.model

    @property
    def lost_answers(self) -> int:
        """Calls that failed and may be billed all the same."""
        return sum(attempt.maybe_billed for attempt in self.attempts)

    @property
    def next_place(self) -> int | None:
        """Of the next choice that may be bought; `None` when there is none."""
        places = range(self.place + 1, len(self.assignment.choices))
        return next((place for place in places if self._lane_at(place) is not None), None)

    def next_model(self) -> None:
        """Go on to its next choice, which there is."""
        place = self.next_place
        assert place is not None
        self.place = place
        self.tries = self.refused = self.timeouts = 0
        self.lane = self._lane_at(place) or LIVE

    def _lane_at(self, place: int) -> str | None:
        """How a choice is bought: in the assignment's lane where its model is sold so, else live;
        `None` where that is forbidden.
        """
        lane = self.assignment.lane
        if lane in self.assignment.choices[place].model.lanes:
            return lane
        return LIVE if self.assignment.may_live else None

    def failed(self, error: ProviderError) -> Attempt:
        """Keep what one call ended with."""
        attempt = Attempt(
            self.model.id,
            datetime.now(UTC),
            type(error).__name__,
            error.status,
            error.maybe_billed,
            error.detail,
        )
        self.attempts.append(attempt)
        return attempt

    def outcome(self, completion: Completion, cost_usd: Decimal, latency_s: float) -> Outcome:
        """What an answer makes of it."""
        assignment, model, usage = self.assignment, self.model, completion.usage
        return Outcome(
            query_id=assignment.query_id,
            partition=assignment.partition,
            row=assignment.row,
            status=REFUSED if completion.refused else ANSWERED,
            tags=assignment.tags,
            model=model.id,
            provider=model.provider,
            lane=self.lane,
            first_model=assignment.choices[0].model.id,
            completion=completion.text,
            tool_calls=completion.tool_calls,
            finish_reason=completion.finish_reason,
            response_id=completion.response_id,
            served_model=completion.served_model,
            input_tokens=usage.input_tokens,
            cached_input_tokens=usage.cached_input_tokens,
            cache_write_tokens=usage.cache_write_tokens,
            output_tokens=usage.output_tokens,
            reasoning_tokens=usage.reasoning_tokens,
            cost_usd=cost_usd,
            attempts=len(self.attempts) + self.unknown_calls + 1,
            unknown_calls=self.unknown_calls,
            lost_answers=self.lost_answers,
            latency_s=latency_s,
            finished_at=datetime.now(UTC),
        )

    def letter(self, reason: str, detail: str) -> tuple[Outcome, DeadLetter]:
        """What is left of it when it is given up."""
        assignment = self.assignment
        letter = DeadLetter(
            query_id=assignment.query_id,
            partition=assignment.partition,
            row=assignment.row,
            reason=reason,
            detail=detail,
            attempts=tuple(self.attempts),
            request=assignment.request,
            allowed_models=assignment.allowed_models,
            tags=assignment.tags,
        )
        outcome = letter.outcome(
            first_model=assignment.choices[0].model.id,
            attempts=len(self.attempts) + self.unknown_calls,
            unknown_calls=self.unknown_calls,
            lost_answers=self.lost_answers,
        )
        return outcome, letter

    def resolve(self, settled: Settled | None) -> None:
        """Give it its end, if it has none yet."""
        if not self.done.done():
            self.done.set_result(settled)
