"""What a report is made from: the run's tables as streams, and facts about the run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any, Literal, NamedTuple

import pyarrow as pa

from moa.reports.detours import Expected

Tables = Callable[[], Iterator[pa.Table]]
"""Opens a stream of tables; called again, it starts anew."""
PriceOf = Callable[[str, str, int, int], Decimal]
"""`cost_usd(model_id, lane, input_tokens, output_tokens)` at the run's prices; of a lane that the
model is not sold in, what a live call costs."""
Replay = Literal["recorded", "made_up"]
"""`made_up`: prompts that were never recorded got invented answers."""


@dataclass(frozen=True, slots=True)
class RouterFacts:
    """What decided, what that cost, and what it is measured against."""

    version: str
    held_s: float
    """Seconds that its machines were held, summed over replicas."""
    worked_s: float
    """Of these, at work on queries."""
    usd_per_hour: Decimal
    """Of one replica's machine."""
    best_constant: str | None
    """Catalog id: the one model that did best on the training data; `None` when unknown."""
    best_constant_why: str
    """Where that choice comes from, as a phrase: `highest mean grade on 2,533 queries`."""

    @property
    def cost_usd(self) -> Decimal:
        """What its machines cost while they were held."""
        return self.usd_per_hour * Decimal(str(self.held_s)) / 3600


@dataclass(frozen=True, slots=True)
class PolicyFacts:
    """By what models were chosen; one of the first two is given."""

    willingness_to_pay: Decimal | None
    """USD per unit of grade."""
    quality_floor: float | None
    """Least expected grade."""
    max_novelty: float


@dataclass(frozen=True, slots=True)
class RunFacts:
    """When and with what the run was made."""

    started_at: datetime
    finished_at: datetime
    wall_s: float
    """Seconds at work; less than the time between the two when the run was stopped in between."""
    config_hash: str
    git_commit: str
    versions: tuple[tuple[str, str], ...]
    """Package and version, in the order to be shown."""
    redrives: int = 0
    """That have sent dead letters of the run again, to their end."""
    redrive_open: bool = False
    """Another one has begun and not ended: some of its answers are perhaps in no outcome."""
    starts: tuple[tuple[datetime, datetime], ...] = ()
    """From when to when starts of the run and its redrives were at work, oldest first; one that was
    killed was so for a little longer."""


@dataclass(frozen=True, slots=True)
class PriceFacts:
    """Which price table the bill and the comparisons use."""

    version: str
    dated: str
    """The day the prices are valid for, ISO 8601."""
    sources: tuple[str, ...]
    """Names or addresses; shown as text, never fetched."""


@dataclass(frozen=True, slots=True)
class ForecastFacts:
    """What was expected before the first call."""

    cost_usd: Decimal
    """Sum of the expected costs of the queries that have ended, dead ones too."""


class Shadowed(NamedTuple):
    """A part that both routers have decided on."""

    decisions: pa.Table
    """`expected_grade` and `expected_cost_usd` of its `ROUTING_DECISIONS`."""
    shadow: pa.Table
    """`SHADOW_DECISIONS`, in the same row order."""


@dataclass(frozen=True, slots=True)
class ShadowFacts:
    """Which router was the shadow, and how it fared."""

    artifact: str
    version: str | None
    """`None` when it could not be read."""
    seconds: float
    """That it took; in no bill."""
    failure: str | None
    """Why it has not decided on everything; `None` when it has."""
    parts: Callable[[], Iterator[Shadowed]]


@dataclass(frozen=True, slots=True)
class ReportInputs:
    """Everything that `moa.reports.cost_report.build` reads."""

    run_id: str
    pool: tuple[str, ...]
    """Catalog ids, in the order of the decisions' lists."""
    backlog: int
    """Queries to be asked or buried, the equal twins of others not counted."""
    replay: Replay | None
    """What answered in the vendors' place; `None` when they were called."""
    decisions: Tables
    """`ROUTING_DECISIONS` of the queries that have ended, the latest on each."""
    outcomes: Tables
    """`OUTCOMES`."""
    expected: Expected
    """What was expected before the first call of some outcomes of one part."""
    dead_letters: Tables
    """`DEAD_LETTERS`."""
    graded: pa.Table | None
    """`GRADED_OUTCOMES` of this run's queries, held whole; `None` when nothing is graded."""
    cost_usd: PriceOf
    prices: PriceFacts
    policy: PolicyFacts
    router: RouterFacts
    run: RunFacts
    forecast: ForecastFacts
    domains: Mapping[str, int] = field(default_factory=dict)
    """The router's domain → queries of this run that are likeliest of it."""
    taught: Mapping[str, int] = field(default_factory=dict)
    """Domain → training queries; empty when the router does not say."""
    shadow: ShadowFacts | None = None
    """`None` of a run without another router beside its own."""
    plans: tuple[Mapping[str, Any], ...] = ()
    """As `plan_document` gives them, the first one first; none of a run that was not planned."""
