"""A request that was let in, and what has come of it so far."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from opentelemetry.context import Context

from moa.catalog import Model
from moa.providers.provider import Completion, CompletionDelta, Usage
from moa.serving.calls import tokens_of
from moa.serving.chat_wire import Asked
from moa.serving.course import Course
from moa.serving.routing import Route
from moa.serving.tenant_limits import Taken
from moa.serving.tenants import Tenant


class Piece(NamedTuple):
    """Of one of the answers that were asked for."""

    number: int
    """Which one, from 0."""
    delta: CompletionDelta


@dataclass(slots=True)
class Inquiry:
    """A request that was let in, and what has come of it so far."""

    tenant: Tenant
    asked: Asked
    route: Route
    query_id: str
    taken: Taken
    """Tokens and money."""
    courses: list[Course]
    started_at: float
    trace: Context | None = None
    """The client's."""
    completions: dict[int, Completion] = field(default_factory=dict)
    first_piece_s: float | None = None
    settled: bool = False

    @property
    def model(self) -> str:
        """Catalog id of who answers, as far as it is known; of several answers, the first."""
        return self.model_of(0).id

    @property
    def models(self) -> list[str]:
        """Of each answer."""
        return [self.model_of(index).id for index in range(self.asked.n)]

    def model_of(self, index: int) -> Model:
        """Who answers there, as far as it is known."""
        return self.courses[index].model or self.route.model

    @property
    def lost(self) -> list[tuple[str, int]]:
        """Models of calls that may be billed and have no answer, each with the output tokens that
        had come: of failed calls, and of those that the client has cut.
        """
        lost = [one for course in self.courses for one in course.lost]
        if self.settled:
            lost += [
                (self.model_of(index).id, tokens_of(course.output_chars))
                for index, course in enumerate(self.courses)
                if course.open and index not in self.completions
            ]
        return lost

    @property
    def usage(self) -> Usage:
        """Of all answers."""
        each = [one.usage for one in self.completions.values()]
        return Usage(
            sum(one.input_tokens for one in each),
            sum(one.output_tokens for one in each),
            sum(one.cached_input_tokens for one in each),
            sum(one.cache_write_tokens for one in each),
            sum(one.reasoning_tokens for one in each),
        )
