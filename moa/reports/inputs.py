"""What a report is made from: the run's tables as streams, and facts about the run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

import pyarrow as pa

Tables = Callable[[], Iterator[pa.Table]]
"""Opens a stream of tables; called again, it starts anew."""
PriceOf = Callable[[str, int, int], Decimal]
"""`cost_usd(model_id, input_tokens, output_tokens)` at the run's prices, live lane."""


@dataclass(frozen=True, slots=True)
class RouterFacts:
    """What decided, what that cost, and what it is measured against."""

    version: str
    worked_s: float
    """Seconds of router work, summed over replicas."""
    usd_per_hour: Decimal
    """Of one replica's machine."""
    best_constant: str | None
    """Catalog id: the one model that did best on the training data; `None` when unknown."""
    best_constant_why: str
    """Where that choice comes from, as a phrase: `highest mean grade on 2,533 queries`."""


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
    """Sum of the expected costs of the decisions."""
    duration_s: float | None
    """`None` when no duration was forecast."""


@dataclass(frozen=True, slots=True)
class ReportInputs:
    """Everything that `moa.reports.cost_report.build` reads."""

    run_id: str
    pool: tuple[str, ...]
    """Catalog ids, in the order of the decisions' lists."""
    decisions: Tables
    """`ROUTING_DECISIONS`."""
    outcomes: Tables
    """`OUTCOMES`."""
    dead_letters: Tables
    """`DEAD_LETTERS`."""
    graded: pa.Table | None
    """`GRADED_OUTCOMES` of this run's queries, held whole; `None` when nothing is graded."""
    cost_usd: PriceOf
    prices: PriceFacts
    router: RouterFacts
    run: RunFacts
    forecast: ForecastFacts
